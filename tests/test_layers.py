"""The house's rules: imports point one way, files stay small, jax.config stays at the door."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "memoa_jax"
# Lowest first: a module imports only from those before it.
ORDER = [
    "_version",
    "choices",
    "watching",
    "progress",
    "files",
    "plugins",
    "results",
    "export",
    "checkpoint",
    "arithmetic",
    "reflection",
    "types",
    "spread",
    "trouble",
    "arguments",
    "linalg",
    "draws",
    "canary",
    "game",
    "groups",
    "cost_spread",
    "nash_step",
    "types_step",
    "types_game",
    "nash",
    "nash_types",
    "nash_dense",
    "responses",
    "information",
    "analysis",
    "monte_carlo",
    "tuning_gains",
    "analysis_types",
    "table_files",
    "tables",
    "download",
    "timeseries",
    "series",
    "scaling",
    "contract_faults",
    "contracts",
    "encoders",
    "unlike",
    "encoder_groups",
    "mixture",
    "experts",
    "memory",
    "cached",
    "regression",
    "move_regression",
    "window_ridge",
    "affine_feedback",
    "participation",
    "forecast",
    "group_games",
    "hindsight",
    "own_moments",
    "heterogeneous_game",
    "heterogeneity",
    "policies",
    "totals",
    "metrics",
    "regret",
    "recording",
    "sample",
    "cost_counts",
    "stopping",
    "keeping",
    "disk_keeper",
    "loop",
    "footprint",
    "mesh",
    "resident",
    "placement",
    "sums",
    "meeting",
    "stream",
    "stream_run",
    "simulate",
    "descent",
    "tuning",
    "stream_objective",
    "stream_forward",
    "stream_reverse",
    "stream_gradient",
    "preflight",
    "debug",
    "config_values",
    "config_plugins",
    "config_series",
    "config_mixtures",
    "config_affine",
    "config_games",
    "config_groups",
    "config",
    "config_tune",
    "config_sweep",
    "config_kinds",
    "config_faults",
    "config_file",
    "sweep_plan",
    "build_plugins",
    "build",
    "report",
    "figure_style",
    "figures",
    "identity",
    "session",
    "policy_run",
    "run",
    "study_report",
    "study",
    "tune_report",
    "tune_run",
    "sweep_batch",
    "sweep_table",
    "sweep_report",
    "sweep_figures",
    "sweep",
    "statement",
    "verify_exact",
    "verify_heterogeneity",
    "verify_sampled",
    "verify_rivals",
    "verify",
    "robustness_games",
    "robustness_runs",
    "robustness_table",
    "robustness_figure",
    "robustness",
    "report_folder",
    "report_numbers",
    "report_dots",
    "report_costs",
    "report_run",
    "report_others",
    "report_beside",
    "report_page",
    "report_write",
    "doctor",
    "speaking",
    "console",
    "cli_report",
    "cli_robustness",
    "cli_run",
    "cli",
    "__main__",
]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports(module):
    """Return the package's own modules that a module imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memoa_jax"):
            rest = node.module.split(".")[1:]
            found |= set(rest) if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            found |= {part[1] for part in parts if part[0] == "memoa_jax" and len(part) > 1}
    return {name for name in found if (PACKAGE / f"{name}.py").exists()}


def test_the_order_names_every_module():
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert imports(module) <= set(ORDER[: ORDER.index(module)])


def test_the_scan_knows_no_encoder_policy_or_mixture():
    for module in ("loop", "stream", "simulate"):
        assert not imports(module) & {"encoders", "policies", "mixture"}


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_small_and_leave_jax_config_alone(module):
    text = (PACKAGE / f"{module}.py").read_text()
    assert len(text.splitlines()) <= 420
    assert "config.update(" not in text.replace(
        "jax.config.update('jax_enable_x64', True)", ""
    ) or (module in ("cli", "cli_run", "cli_robustness"))


@pytest.mark.parametrize("module", MODULES)
def test_the_library_never_sees_a_config(module):
    if ORDER.index(module) <= ORDER.index("simulate"):
        assert not imports(module) & {"config", "config_faults", "config_file", "build"}
