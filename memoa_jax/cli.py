"""The command line `memoa`. JAX is imported where it is needed, after x64 is decided.

Exit codes: 0 done; 1 the run failed for its numbers or its environment, or a statement of
`verify` does not hold; 2 wrong usage, config or file, one line per fault; 130 interrupted;
143 terminated (what there was by then is kept, as for 130).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from memoa_jax._version import __version__
from memoa_jax.cli_robustness import add_options, robustness
from memoa_jax.console import FAILED, OK, WRONG, fail, load_config, prepare, shown, tell
from memoa_jax.speaking import LEVELS, discard, speaking
from memoa_jax.stopping import Stop

VERIFY_PARTS = (
    "reduction",
    "convergence",
    "exploitability",
    "minimax",
    "anarchy",
    "heterogeneity",
    "monte-carlo",
    "regret",
    "games",
    "series",
)
"""What `memoa verify --only` takes: the names of `memoa_jax.verify.PROGRAMME`, without JAX."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
      arguments: words after the program's name; None takes them from the command line.
    """
    parsed = _parser().parse_args(arguments)
    machine = getattr(parsed, "format", None) == "json"
    with speaking(getattr(parsed, "log_level", None), machine=machine) as parsed.watch:
        code = _command(parsed)
        parsed.watch.event("done", code=code)
    return code


def _command(parsed: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace], int] = parsed.command
    parsed.stop = stop = Stop()
    try:
        with stop.listening():
            code = command(parsed)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return fail(stop.exit_code, stop.word)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; what a run found is in its files by now.
        discard(sys.stdout)
        return OK
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memoa",
        description="Simulate large populations of online prediction agents.",
        epilog="exit codes: 0 done, 1 run failed, 2 wrong usage, config or file, 130 interrupted, "
        "143 terminated",
    )
    parser.add_argument("--version", action="version", version=f"memoa {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    _add_runs(commands)
    verify = commands.add_parser("verify", help="check the theory: rates, optima, exact costs")
    _add_results(verify, "runs/verify")
    verify.add_argument(
        "--only",
        metavar="PART",
        action="append",
        choices=VERIFY_PARTS,
        help=f"run one part; may be repeated. Parts: {', '.join(VERIFY_PARTS)}",
    )
    verify.set_defaults(command=_verify)

    robust = commands.add_parser(
        "robustness", help="measure what agents that differ lose where they plan as if alike"
    )
    _add_results(robust, "runs/robustness")
    add_options(robust)
    robust.set_defaults(command=robustness)

    report = commands.add_parser(
        "report", help="draw a folder of results as one HTML page and PNGs"
    )
    report.add_argument("folder", metavar="DIR", type=Path, help="of a run, sweep, tune or verify")
    report.add_argument(
        "--out", metavar="DIR", type=Path, help="folder for page and figures (default: the same)"
    )
    report.add_argument(
        "--verification",
        metavar="FILE",
        type=Path,
        help="of memoa verify, or its folder (default: what DIR holds)",
    )
    report.add_argument(
        "--scaling",
        metavar="FILE",
        type=Path,
        help="of benchmarks/scaling.py, likewise: scaling.json",
    )
    report.set_defaults(command=_report)

    validate = commands.add_parser("validate", help="check a config and tell every fault")
    _add_config(validate)
    validate.set_defaults(command=_validate)

    export = commands.add_parser("export", help="write a folder's results as NetCDF")
    export.add_argument("folder", metavar="DIR", type=Path, help="of a run, study, sweep or tuning")
    export.add_argument(
        "--to", metavar="FILE", type=Path, help="the file to write (default: DIR/results.nc)"
    )
    export.set_defaults(command=_export)

    listing = commands.add_parser("list", help="list series, encoders, mixtures and policies")
    listing.set_defaults(command=_list)

    doctor = commands.add_parser("doctor", help="check the installation and the devices")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_runs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that run a config, one per kind."""
    run = commands.add_parser("run", help="run a config's policies, compare them, write results")
    _add_config(run, needed=False)
    _add_results(run, "runs/NAME")
    _add_cache(run)
    _add_kept(run)
    run.add_argument(
        "--debug",
        action="store_true",
        help="name the operation that first makes a number that is none; slow",
    )
    run.add_argument(
        "--distributed",
        metavar="HOST:PORT,COUNT,INDEX",
        help="run as one of COUNT processes, INDEX from 0, that meet at the first one's HOST:PORT; "
        "or auto, where the cluster tells",
    )
    run.add_argument(
        "--plot", action="store_true", help="draw the report, too (the extra plot; memoa report)"
    )
    run.set_defaults(command=_run, kind="run")

    sweep = commands.add_parser("sweep", help="run a config at many points and seeds, rank them")
    _add_config(sweep)
    _add_results(sweep, "runs/NAME; what it holds of the same sweep is not run again")
    sweep.add_argument("--fresh", action="store_true", help="start again in that folder")
    _add_cache(sweep)
    sweep.set_defaults(command=_run, kind="sweep", distributed=None)

    tune = commands.add_parser("tune", help="descend on a run's numbers, judge on held-out rows")
    _add_config(tune, needed=False)
    _add_results(tune, "runs/NAME")
    tune.add_argument(
        "--check-gradients",
        action="store_true",
        help="compare the first gradient with central differences, in float64",
    )
    _add_cache(tune)
    _add_kept(tune)
    tune.set_defaults(command=_run, kind="tune", distributed=None)


def _add_config(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", nargs=None if needed else "?", help="a TOML file"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one key, such as agents=50 or policy.greedy.window=5; tables of a list by "
        "name, kind or number; file names from the working directory; may be repeated",
    )


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help="keep compiled programs in this folder: the next run of the same shape starts at once",
    )


def _add_kept(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        metavar="DIR",
        type=Path,
        help="go on with the unfinished run in this folder; without CONFIG, with its own config",
    )
    parser.add_argument("--fresh", action="store_true", help="start again, whatever is unfinished")
    parser.add_argument(
        "--checkpoint-every",
        metavar="SECONDS",
        type=_seconds,
        default=60.0,
        help="seconds between two checkpoints (default: 60; 0: after every chunk; never: only "
        "when the run is asked to stop)",
    )


def _seconds(text: str) -> float | None:
    if text == "never":
        return None
    value = float(text) if text.replace(".", "", 1).isdigit() else -1.0
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a number >= 0, or never")
    return value


def _add_results(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help=f"folder for the results (default: {default})"
    )
    parser.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        help="what to print at the end; with json stderr gets events, a JSON object per line",
    )
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        help="the least of what is told on stderr (default: info on a terminal, else warning)",
    )


def _validate(parsed: argparse.Namespace) -> int:
    config = load_config(parsed)
    if config is None:
        return WRONG
    from memoa_jax.config import Study, label
    from memoa_jax.config_faults import ConfigError
    from memoa_jax.config_sweep import Sweep

    policies = ", ".join(policy.name for policy in config.policy)
    if isinstance(config, Study):
        what = (
            f"{' '.join(map(label, config.series))} x {' '.join(map(label, config.encoder))} x "
            f"seeds {' '.join(map(str, config.all_seeds))}"
        )
    else:
        what = config.series.kind
    if isinstance(config, Sweep):
        from memoa_jax.sweep_plan import plan

        try:
            what += f" x {len(plan(config)):,} runs"
        except ConfigError as error:
            return fail(WRONG, *(f"{parsed.config}: {line}" for line in error.faults))
    groups = f" in {len(config.group)} groups" if config.group else ""
    print(f"{parsed.config}: valid: {config.agents:,} agents{groups}, {what}, {policies}")
    return OK


def _list(_: argparse.Namespace) -> int:
    from memoa_jax.config import FAMILIES
    from memoa_jax.config_plugins import plugin_lines

    titles = {
        "series": "series",
        "encoder": "encoders",
        "mixture": "mixtures",
        "policy": "policies",
        "participation": "participations",
    }
    for family, title in titles.items():
        print(f"{title}:")
        for kind, table in FAMILIES[family].items():
            print(f"  {kind:16} {(table.__doc__ or '').splitlines()[0]}")
        for line in plugin_lines(family, FAMILIES[family]):
            print(f"  {line}")
    return OK


def _run(parsed: argparse.Namespace) -> int:
    from memoa_jax.cli_run import run_config

    return run_config(parsed)


def _verify(parsed: argparse.Namespace) -> int:
    folder = parsed.out or Path("runs") / "verify"
    fault = prepare(folder)
    if fault:
        return fail(WRONG, fault)

    import jax

    jax.config.update("jax_enable_x64", True)
    from memoa_jax.verify import table, verify

    # In the programme's order, each part once.
    parts = [part for part in VERIFY_PARTS if part in (parsed.only or VERIFY_PARTS)]
    try:
        report = verify(parts, folder, say=tell, watch=parsed.watch)
    except OSError as error:
        return fail(FAILED, f"{folder}: results cannot be written ({error.strerror})")
    except RuntimeError as error:
        return fail(FAILED, " ".join(str(error).split()))
    parsed.watch.event("saved", folder=str(folder))
    print(shown(parsed, report, table), end="")
    tell(f"results in {folder}")
    if report["interrupted"]:
        left = ", ".join(report["not_run"])
        return fail(parsed.stop.exit_code, f"{parsed.stop.word}; not run: {left}")
    failed = [one["name"] for one in report["statements"] if one["holds"] is False]
    if failed:
        return fail(FAILED, f"does not hold: {'; '.join(failed)}")
    return OK


def _report(parsed: argparse.Namespace) -> int:
    from memoa_jax.cli_report import report_folder

    return report_folder(parsed)


def _export(parsed: argparse.Namespace) -> int:
    from memoa_jax.export import to_netcdf

    path = parsed.to or parsed.folder / "results.nc"
    try:
        to_netcdf(parsed.folder, path)
    except (ValueError, ImportError) as error:
        return fail(WRONG, str(error))
    except OSError as error:
        return fail(WRONG, f"--to {path}: cannot be written ({error.strerror or error})")
    print(path)
    return OK


def _doctor(_: argparse.Namespace) -> int:
    """Print one line per check; the first word is ok or BAD."""
    failures = 0
    from memoa_jax.doctor import examine

    for good, line in examine():
        failures += not good
        print(f"{'ok ' if good else 'BAD'} {line}", flush=True)
    return FAILED if failures else OK
