"""What a sweep found: the best points of each policy, the best of all, and the table to print.

The summary is plain data (strict JSON); the printed table shows nothing that it does not hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memoa_jax.config_sweep import Sweep
from memoa_jax.report import aligned
from memoa_jax.study_report import spread
from memoa_jax.sweep_plan import Run
from memoa_jax.sweep_table import BASELINES, Columns


def summarise(sweep: Sweep, runs: Sequence[Run], table: Columns, missing: int) -> dict[str, Any]:
    """Return the summary: what summary.json holds, times and counts of compilations apart.

    Args:
      sweep: the config.
      runs: all of its runs.
      table: the rows that are there.
      missing: how many are not.
    """
    labels = list(dict.fromkeys(table["policy"].tolist()))
    ranked = {label: _ranked(sweep, runs, table, label) for label in labels}
    whole = [
        (point["mean"], place, label, point)
        for place, label in enumerate(labels)
        for point in ranked[label][:1]
        if len(point["per_seed"]) == len(sweep.all_seeds)
    ]
    best = min(whole, default=None, key=lambda one: one[:2])
    return {
        "name": sweep.name,
        "interrupted": missing > 0,
        "rows": len(table["run"]),
        "rows_not_run": missing,
        "method": sweep.sweep.method,
        "metric": sweep.sweep.metric,
        "axes": [axis.model_dump(exclude_none=True) for axis in sweep.sweep.axis],
        "points": len(runs) // len(sweep.all_seeds),
        "seeds": sweep.all_seeds,
        "runs": len(runs),
        "agents": sweep.agents,
        "dtype": sweep.dtype,
        "series": sweep.series.kind,
        "baselines": {name: _range(table[name].tolist()) for name in BASELINES},
        "policies": {
            label: {
                "rows_finite": int(
                    np.isfinite(table["server_rmse"][table["policy"] == label]).sum()
                ),
                "points_ranked": len(ranked[label]),
                "points_not_ranked": len(_points(table, label)) - len(ranked[label]),
                "top": ranked[label][: sweep.sweep.top],
            }
            for label in labels
        },
        "best": None if best is None else {"policy": best[2], **best[3]},
    }


def _points(table: Columns, label: str) -> dict[int, list[int]]:
    """Return a policy's rows by point."""
    rows: dict[int, list[int]] = {}
    for row in (table["policy"] == label).nonzero()[0].tolist():
        rows.setdefault(int(table["point"][row]), []).append(row)
    return rows


def _ranked(sweep: Sweep, runs: Sequence[Run], table: Columns, label: str) -> list[dict[str, Any]]:
    """Return a policy's points, the smallest mean over seeds first.

    A point at which the metric is not finite, or agents diverged, with any seed is left out.
    """
    found = []
    for point, rows in _points(table, label).items():
        values = table[sweep.sweep.metric][rows].tolist()
        if not all(map(math.isfinite, values)) or table["diverged_agents"][rows].any():
            continue
        first = runs[point * len(sweep.all_seeds)]
        baselines = {name: _finite(float(table[name][rows[0]])) for name in BASELINES}
        found.append({"point": point, "values": first.values, **spread(values), **baselines})
    return sorted(found, key=lambda one: (one["mean"], one["point"]))


def _range(values: Sequence[float]) -> dict[str, float | None]:
    """Return the smallest and the largest: they are one unless an axis changes the series."""
    known = [value for value in values if math.isfinite(value)]
    return {"min": min(known, default=None), "max": max(known, default=None)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def left(summary: Mapping[str, Any]) -> list[str]:
    """Return what an interruption cut off."""
    return [f"{summary['rows_not_run']:,} rows; the same command goes on"]


def lost(summary: Mapping[str, Any]) -> bool:
    """Tell whether no policy kept a finite server output anywhere."""
    return not any(policy["rows_finite"] for policy in summary["policies"].values())


def short_names(keys: Sequence[str]) -> list[str]:
    """Return the shortest ends of dotted keys that tell them apart.

    Example:
      >>> short_names(["policy.a.cost.effort", "policy.b.cost.effort", "encoder.noise"])
      ['a.cost.effort', 'b.cost.effort', 'noise']
    """

    def ending(key: str, parts: int) -> str:
        return ".".join(key.split(".")[-parts:])

    names = []
    for key in keys:
        parts = 1
        while sum(ending(other, parts) == ending(key, parts) for other in keys) > 1:
            parts += 1
        names.append(ending(key, parts))
    return names


def table(summary: Mapping[str, Any]) -> str:
    """Return the best points of every policy as an aligned table, persistence beside them.

    Persistence is one prediction for everybody: the figure stands beside RMSEs only.
    """
    metric, several = summary["metric"], len(summary["seeds"]) > 1
    compared = metric.endswith("_rmse")
    names = short_names([axis["key"] for axis in summary["axes"]])
    rows = [["policy", "", *names, metric, *(["+-"] if several else [])]]
    rows[0] += ["persistence"] * compared
    remarks = [""]
    for label, policy in summary["policies"].items():
        for rank, point in enumerate(policy["top"], start=1):
            row = [label, str(rank), *map(_show, point["values"].values()), _show(point["mean"])]
            deviation = point["standard_deviation"]
            row += ["-" if deviation is None else f"{deviation:.2g}"] if several else []
            row += [_show(point["persistence"])] if compared else []
            best = summary["best"]
            chosen = best and (best["policy"], best["point"]) == (label, point["point"])
            rows.append(row)
            remarks.append("best" if chosen else "")
    title = (
        f"{summary['name']}: {summary['method']} of {summary['points']:,} points, "
        f"{len(summary['seeds'])} seed{'s' * several}, {summary['agents']:,} agents, "
        f"{summary['dtype']}"
    )
    return "\n".join([title, "", *aligned(rows, remarks), "", *_footnotes(summary)])


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _footnotes(summary: Mapping[str, Any]) -> list[str]:
    programs = f"{summary['compilations']} program{'s' * (summary['compilations'] != 1)}"
    lines = [
        f"{summary['metric']}: mean over seeds, smaller is better"
        + ("; +-: standard deviation over them." if len(summary["seeds"]) > 1 else "."),
        f"{summary['runs']:,} runs in {summary['seconds']:.1f} s, "
        f"{summary['compile_seconds']:.1f} s of it to compile {programs}.",
    ]
    for label, policy in summary["policies"].items():
        gone, all_of = policy["points_not_ranked"], policy["points_ranked"]
        if gone:
            lines.append(
                f"{label}: not ranked, not finite or with diverged agents: {gone:,} of "
                f"{gone + all_of:,} points"
            )
    if summary["interrupted"]:
        total = summary["rows"] + summary["rows_not_run"]
        lines.append(
            f"INTERRUPTED: {summary['rows']:,} of {total:,} rows; the same command goes on"
        )
    return lines
