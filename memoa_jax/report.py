"""What a run leaves behind: the summary, its table, and the files, each written whole.

The summary is plain data (strict JSON); the table shows nothing that it does not hold.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from memoa_jax.choices import METRICS
from memoa_jax.files import replace_together

_COLUMNS = {
    "server_rmse": "server",
    "mean_field_rmse": "mean field",
    "mean_agent_rmse": "mean agent",
    "worst_agent_rmse": "worst agent",
    "worst_agent_cost": "worst cost",
    "under_performer_regret": "regret",
    "seconds": "seconds",
    "compile_seconds": "compile",
    "agent_steps_per_second": "agent-steps/s",
}


GROUP_FIGURES = {
    "agents": "agents",
    "mean_agent_rmse": "mean agent",
    "worst_agent_rmse": "worst agent",
    "mean_agent_cost": "mean cost",
    "worst_agent_cost": "worst cost",
    "worst_agent": "worst is",
    "diverged_agents": "diverged",
}
"""What is told of every group of agents, and how a table calls it; those that are counts last."""
_COUNTS = ("agents", "worst_agent", "diverged_agents")


@dataclass(frozen=True)
class Finished:
    """One policy's run, on the host.

    `metrics` holds `METRICS` and "best_readout_worst_cost" (NaN where not run), `seconds` the
    wall clock of the run, `compile_seconds` of it the compiler's. `trajectories` maps array
    names to arrays.
    """

    label: str
    kind: str
    game: str
    metrics: Mapping[str, float]
    worst_agent: int
    diverged_agents: int
    status: int
    notes: Sequence[str]
    seconds: float
    compile_seconds: float
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """`GROUP_FIGURES` of every group of agents, by its name."""
    gaps: Mapping[str, float] = field(default_factory=dict)
    """How far apart the groups are: `mean_gap` and `worst_gap` of `metrics.GroupSummary`."""
    trajectories: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All that a run found: its setting, its policies in order, and what they compare with."""

    name: str
    agents: int
    seed: int
    dtype: str
    series: str
    steps: int
    outputs: int
    scored_steps: int
    persistence: float
    running_mean: float
    policies: Sequence[Finished]
    not_run: Sequence[str] = ()
    """Labels of policies that an interruption cut off before they began."""
    partial: Mapping[str, int] = field(default_factory=dict)
    """Steps of those that it cut off on their way."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Numbers of agents by group."""


def without_partial(found: Comparison) -> Comparison:
    """Return what finished; policies that were cut off on their way count as not run."""
    whole = [one for one in found.policies if one.label not in found.partial]
    not_run = [*found.partial, *found.not_run]
    return dataclasses.replace(found, policies=whole, not_run=not_run, partial={})


def summarise(found: Comparison) -> dict[str, Any]:
    """Return the summary: what summary.json holds, non-finite numbers as null and flagged.

    Regret is against the first centralized policy of the run, and null where none finished;
    against the best fixed read-out in hindsight it stands under its own key.
    """
    whole = [p for p in found.policies if p.label not in found.partial]
    reference = next((p for p in whole if p.kind == "centralized"), None)
    return {
        "name": found.name,
        "interrupted": bool(found.not_run or found.partial),
        "not_run": list(found.not_run),
        "partial": dict(found.partial),
        "agents": found.agents,
        **({"groups": dict(found.groups)} if found.groups else {}),
        "seed": found.seed,
        "dtype": found.dtype,
        "series": found.series,
        "steps": found.steps,
        "outputs": found.outputs,
        "scored_steps": found.scored_steps,
        "regret_reference": None if reference is None else reference.label,
        "policies": {p.label: _policy(found, p, reference) for p in found.policies},
        "baselines": _numbers(
            {"persistence": found.persistence, "running_mean": found.running_mean}
        ),
    }


def _policy(found: Comparison, one: Finished, reference: Finished | None) -> dict[str, Any]:
    if one.label in found.partial:
        reference = None  # its costs are of other steps
    numbers: dict[str, float | None] = {name: one.metrics[name] for name in METRICS}
    worst, readout = one.metrics["worst_agent_cost"], one.metrics["best_readout_worst_cost"]
    numbers["under_performer_regret"] = (
        None if reference is None else worst - reference.metrics["worst_agent_cost"]
    )
    # NaN says "not run" here: a ridge fit of finite features is finite.
    numbers["under_performer_regret_best_readout"] = (
        None if math.isnan(readout) else worst - readout
    )
    numbers["seconds"] = one.seconds
    numbers["compile_seconds"] = one.compile_seconds
    running = max(one.seconds - one.compile_seconds, 1e-9)
    numbers["agent_steps_per_second"] = found.agents * found.steps / running
    return {
        "kind": one.kind,
        "game": one.game,
        **_numbers(numbers),
        "worst_agent": one.worst_agent,
        "diverged_agents": one.diverged_agents,
        **_by_group(one),
        "status": one.status,
        "notes": list(one.notes),
    }


def _by_group(one: Finished) -> dict[str, Any]:
    """Return what a policy's summary holds of groups: nothing where there are none."""
    if not one.groups:
        return {}
    return {
        "groups": {
            name: {
                **_numbers({key: value for key, value in found.items() if key not in _COUNTS}),
                **{key: int(found[key]) for key in _COUNTS},
            }
            for name, found in one.groups.items()
        },
        "group_gaps": _numbers(one.gaps),
    }


def _numbers(values: Mapping[str, float | None]) -> dict[str, Any]:
    """Make numbers fit for strict JSON; `non_finite` lists those that were not finite."""
    plain = {k: None if v is None or not math.isfinite(v) else float(v) for k, v in values.items()}
    odd = [k for k, v in values.items() if v is not None and not math.isfinite(v)]
    return {**plain, "non_finite": odd}


def table(summary: Mapping[str, Any]) -> str:
    """Return a summary as an aligned table with its notes below.

    A baseline is one prediction for everybody, so its RMSE stands in all four RMSE columns.
    """
    rows = [["policy", *_COLUMNS.values()]]
    remarks = [""]
    for label, policy in summary["policies"].items():
        rows.append([label, *(_cell(policy, key) for key in _COLUMNS)])
        gone = policy["diverged_agents"]
        remarks.append(f"diverged: {gone:,} of {summary['agents']:,} agents" if gone else "")
    for label in ("persistence", "running_mean"):
        value = _cell(summary["baselines"], label)
        rows.append([label, *[value] * 4, *["-"] * (len(_COLUMNS) - 4)])
        remarks.append("")
    lines = aligned(rows, remarks)
    title = (
        f"{summary['name']}: {summary['agents']:,} agents, {summary['steps']:,} steps of "
        f"{summary['series']}, seed {summary['seed']}, {summary['dtype']}"
    )
    return "\n".join([title, "", *lines, *_group_table(summary), "", *_footnotes(summary)])


def _group_table(summary: Mapping[str, Any]) -> list[str]:
    """Return a second table: a row for every group of a policy, and one for their distance."""
    if "groups" not in summary:
        return []
    figures = [key for key in GROUP_FIGURES if key != "diverged_agents"]
    rows, remarks = [["policy", "group", *(GROUP_FIGURES[key] for key in figures)]], [""]
    for label, policy in summary["policies"].items():
        for name, found in policy["groups"].items():
            cells = [f"{found[k]:,}" if k in _COUNTS else _cell(found, k) for k in figures]
            rows.append([label, name, *cells])
            gone = found["diverged_agents"]
            remarks.append(f"diverged: {gone:,} of {summary['groups'][name]:,}" if gone else "")
        gap = {"mean_agent_rmse": "mean_gap", "worst_agent_rmse": "worst_gap"}
        apart = [_cell(policy["group_gaps"], gap[k]) if k in gap else "-" for k in figures]
        rows.append([label, "(gap)", *apart])
        remarks.append("")
    return ["", *aligned(rows, remarks, left=2)]


def aligned(rows: Sequence[Sequence[str]], remarks: Sequence[str], left: int = 1) -> list[str]:
    """Return the lines of a plain table: the first `left` columns flush left, the rest right.

    Example:
      >>> aligned([["policy", "rmse"], ["a", "0.25"]], ["", "diverged"])
      ['policy  rmse', 'a       0.25  diverged']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [cell.ljust(width) for cell, width in zip(row[:left], widths, strict=False)]
            + [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
            + [remark]
        ).rstrip()
        for row, remark in zip(rows, remarks, strict=True)
    ]


def _cell(numbers: Mapping[str, Any], key: str) -> str:
    value = numbers[key]
    if value is None:
        return "not finite" if key in numbers["non_finite"] else "-"
    if key == "agent_steps_per_second":
        return f"{value:,.0f}"
    if key.endswith("seconds"):
        return f"{value:.2f}"
    return f"{value:.5g}"


def _footnotes(summary: Mapping[str, Any]) -> list[str]:
    reference = summary["regret_reference"]
    lines = [
        "server .. worst agent: RMSE of predictions made before the target was seen; "
        "worst cost: the worst agent's summed squared error.",
        f"regret: worst cost minus that of {reference}."
        if reference
        else "regret: -, no centralized policy was run.",
        "seconds include compile; agent-steps/s do not.",
    ]
    if "groups" in summary:
        lines.append(
            "by group: the same of its agents alone; (gap): the RMSE of the group that fares worst "
            "minus that of the one that fares best."
        )
    for label, steps in summary["partial"].items():
        lines.append(f"INTERRUPTED: {label}: {steps:,} of {summary['steps'] + 1:,} rows only")
    if summary["not_run"]:
        lines.append(f"INTERRUPTED: not run: {', '.join(summary['not_run'])}")
    for label, policy in summary["policies"].items():
        lines += [f"{label}: {note}" for note in policy["notes"]]
    return lines


def left(summary: Mapping[str, Any]) -> list[str]:
    """Return what an interruption cut off: labels of policies."""
    return [*summary["partial"], *summary["not_run"]]


def lost(summary: Mapping[str, Any]) -> bool:
    """Tell whether no policy kept a finite server output."""
    return all(policy["server_rmse"] is None for policy in summary["policies"].values())


def to_json(content: Mapping[str, Any]) -> str:
    """Write strict JSON: a number that is not finite is an error, not a word of its own."""
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def write(
    folder: Path,
    summary: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    config_text: str,
    manifest: Mapping[str, Any],
) -> None:
    """Write a run's four files; the same run gives the same bytes, times in the summary apart."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    files = {
        "config.toml": config_text.encode(),
        "trajectories.npz": packed.getvalue(),
        "summary.json": to_json(summary).encode(),
    }
    write_files(folder, files, manifest)


def write_files(folder: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    """Write a run's files; the manifest comes last and holds the others' hashes.

    Where there is a manifest, the files beside it are its own (`memoa_jax.files`). Of several
    processes the first writes.

    Raises:
      OSError: if they cannot be written.
    """
    if jax.process_index() > 0:
        return
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    sealed = to_json({**manifest, "sha256": hashes}).encode()
    replace_together(folder, {**files, "manifest.json": sealed})


def platform_facts() -> dict[str, str]:
    """Return Python's version and the platform, without the machine's name or paths."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
