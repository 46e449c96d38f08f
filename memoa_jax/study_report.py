"""What a study leaves behind: its summary over seeds, a tidy table, and one for a README.

The summary is plain data (strict JSON) and holds nothing that the runs' own summaries do not;
the tables show nothing that it does not hold.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memoa_jax.choices import METRICS
from memoa_jax.config import Cell, Study, label
from memoa_jax.report import aligned

MEASURED = (
    "server_rmse",
    "mean_field_rmse",
    "mean_agent_rmse",
    "worst_agent_rmse",
    "worst_agent_cost",
    "under_performer_regret",
)
"""What the summary gives over seeds."""

_COLUMNS = {
    "server_rmse": "server",
    "mean_agent_rmse": "mean agent",
    "worst_agent_rmse": "worst agent",
}
BASELINES = {"persistence": "persistence", "running_mean": "running mean"}
_LABELS = ("series", "encoder", "policy")


@dataclass(frozen=True)
class Done:
    """A run of a study that has finished, or was cut short: its `report.summarise`."""

    cell: Cell
    summary: Mapping[str, Any]
    seconds: float


def summarise(
    study: Study, planned: Sequence[str], done: Sequence[Done], seconds: float
) -> dict[str, Any]:
    """Return the summary: what summary.json holds.

    Over seeds: mean, min, max, standard deviation (n - 1 degrees of freedom, null for one
    seed), and `per_seed`, in the order of the policy's `seeds`. The others are null where a value
    is; `non_finite` lists the metrics where one was not finite.

    Args:
      study: the config.
      planned: labels of every policy of a cell.
      done: the cells so far, in any order.
      seconds: the wall clock so far.
    """
    run = {(one.cell.series, one.cell.encoder, one.cell.config.seed): one.summary for one in done}
    not_run = []
    for cell in study.cells():
        found = run.get((cell.series, cell.encoder, cell.config.seed), {"policies": {}})
        missing = [name for name in planned if name not in found["policies"]]
        if missing:
            place = {"series": cell.series, "encoder": cell.encoder, "seed": cell.config.seed}
            not_run.append({**place, "policies": missing})
    series = {}
    for table in study.series:
        own = [one for one in done if one.cell.series == label(table)]
        if own:
            series[label(table)] = _series(study, table.published, planned, own)
    return {
        "name": study.name,
        "interrupted": bool(not_run),
        "not_run": not_run,
        "agents": study.agents,
        "seeds": study.all_seeds,
        "dtype": study.dtype,
        "series": series,
        "seconds": seconds,
    }


def _series(
    study: Study, published: Any, planned: Sequence[str], done: Sequence[Done]
) -> dict[str, Any]:
    """Return a series' part of the summary; `done` are its own cells."""
    encoders = {}
    for name in map(label, study.encoder):
        own = sorted(
            (one for one in done if one.cell.encoder == name),
            key=lambda one: study.all_seeds.index(one.cell.config.seed),
        )
        policies = {}
        for policy in planned:
            runs = {
                one.cell.config.seed: one.summary["policies"][policy]
                for one in own
                if policy in one.summary["policies"]
            }
            if runs:
                policies[policy] = _policy(runs)
        if policies:
            encoders[name] = {"policies": policies}
    first = done[0].summary
    return {
        **{key: first[key] for key in ("steps", "outputs", "scored_steps")},
        "published": published,
        "baselines": first["baselines"],
        "encoders": encoders,
    }


def _policy(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a policy's figures over its seeds."""
    found = list(runs.values())
    return {
        "kind": found[0]["kind"],
        "game": found[0]["game"],
        "seeds": list(runs),
        **{name: spread([one[name] for one in found]) for name in MEASURED},
        "non_finite": [
            name for name in MEASURED if any(name in one["non_finite"] for one in found)
        ],
        "diverged_seeds": sum(one["diverged_agents"] > 0 for one in found),
        "diverged_agents": [one["diverged_agents"] for one in found],
        "status": [one["status"] for one in found],
        "notes": list(dict.fromkeys(note for one in found for note in one["notes"])),
        "seconds": sum(one["seconds"] for one in found),
        "compile_seconds": sum(one["compile_seconds"] for one in found),
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, extremes and standard deviation of one figure over seeds, and the values.

    Example:
      >>> spread([1.0, 3.0])["mean"], spread([1.0, None])["mean"], spread([1.0, 3.0])["max"]
      (2.0, None, 3.0)
    """
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    return {
        "mean": statistics.fmean(known) if whole else None,
        "min": min(known) if whole else None,
        "max": max(known) if whole else None,
        "standard_deviation": statistics.stdev(known) if whole and len(known) > 1 else None,
        "per_seed": list(values),
    }


def left(summary: Mapping[str, Any]) -> list[str]:
    """Return what an interruption cut off: the runs that are not complete, the first by name."""
    places = [
        f"{one['series']}, {one['encoder']}, seed {one['seed']}" for one in summary["not_run"]
    ]
    return places if len(places) < 3 else [*places[:1], f"and {len(places) - 1} more"]


def lost(summary: Mapping[str, Any]) -> bool:
    """Tell whether no policy anywhere kept a finite server output."""
    return all(
        value is None
        for series in summary["series"].values()
        for encoder in series["encoders"].values()
        for policy in encoder["policies"].values()
        for value in policy["server_rmse"]["per_seed"]
    )


def to_csv(done: Sequence[Done], summary: Mapping[str, Any]) -> str:
    """Return a tidy table: a row per series, encoder, policy and seed, numbers in full.

    A number that was not finite is nan; one that does not exist is empty.

    Args:
      done: the cells so far, in the order of the rows.
      summary: `summarise` of them.
    """
    keys = [*METRICS, "under_performer_regret", "under_performer_regret_best_readout"]
    counts = ["worst_agent", "diverged_agents", "status", "seconds", "compile_seconds"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_LABELS, "kind", "game", "seed", *keys, *counts, *BASELINES, "published"])
    for one in done:
        own = summary["series"][one.cell.series]
        for policy, numbers in one.summary["policies"].items():
            places = [one.cell.series, one.cell.encoder, policy, numbers["kind"], numbers["game"]]
            writer.writerow(
                [*places, one.cell.config.seed]
                + [_plain(numbers, key) for key in (*keys, *counts)]
                + [_plain(own["baselines"], key) for key in BASELINES]
                + [_published(own["published"])]
            )
    return stream.getvalue()


def _plain(numbers: Mapping[str, Any], key: str) -> Any:
    value = numbers[key]
    return ("nan" if key in numbers["non_finite"] else "") if value is None else value


def to_markdown(summary: Mapping[str, Any]) -> str:
    """Return the table for a README, the best server of each series in bold."""
    header = _header(summary)
    lines = [_line(header), _line(["---"] * 3 + ["---:"] * (len(header) - 3))]
    for row in _rows(summary, "±"):
        cells = [cell.replace("|", "\\|") for cell in row.cells]
        if row.best:
            cells[3] = f"**{cells[3]}**"
        cells[2] += f" ({row.remark})" if row.remark else ""
        lines.append(_line(cells))
    return "\n".join([_title(summary), "", *lines, "", *_footnotes(summary, "bold")]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(summary: Mapping[str, Any]) -> str:
    """Return the same table as plain text, the best server of each series with a star."""
    rows = [_header(summary)]
    remarks = [""]
    for row in _rows(summary, "+-"):
        cells = list(row.cells)
        cells[3] += " *" if row.best else "  "
        rows.append(cells)
        remarks.append(row.remark)
    rows[0][3] += "  "
    lines = aligned(rows, remarks, left=len(_LABELS))
    return "\n".join([_title(summary), "", *lines, "", *_footnotes(summary, "*")])


@dataclass(frozen=True)
class Row:
    """A row of the tables: its cells, whether its server is the best of the series, remarks."""

    cells: Sequence[str]
    best: bool
    remark: str


def _rows(summary: Mapping[str, Any], sign: str) -> Iterator[Row]:
    """Yield a row per series, encoder and policy."""
    published = _has_published(summary)
    for name, series in summary["series"].items():
        means = [
            policy["server_rmse"]["mean"]
            for encoder in series["encoders"].values()
            for policy in encoder["policies"].values()
        ]
        best = min((mean for mean in means if mean is not None), default=None)
        plain = [series["baselines"][key] for key in BASELINES]
        beside = ["not finite" if value is None else _number(value) for value in plain]
        beside += [_published(series["published"]) or "-"] if published else []
        for encoder, own in series["encoders"].items():
            for own_label, policy in own["policies"].items():
                figures = [_figure(policy, key, sign) for key in _COLUMNS]
                mean = policy["server_rmse"]["mean"]
                yield Row(
                    cells=[name, encoder, own_label, *figures, *beside],
                    best=mean is not None and mean == best,
                    remark=_remark(policy, len(summary["seeds"])),
                )


def _remark(policy: Mapping[str, Any], seeds: int) -> str:
    found, remarks = len(policy["seeds"]), []
    if policy["diverged_seeds"]:
        agents = max(policy["diverged_agents"])
        remarks.append(
            f"diverged: {policy['diverged_seeds']} of {found} seeds, up to {agents:,} agents"
        )
    if found < seeds:
        remarks.append(f"{found} of {seeds} seeds")
    return "; ".join(remarks)


def _figure(policy: Mapping[str, Any], key: str, sign: str) -> str:
    """Write mean and standard deviation over seeds."""
    mean, deviation = policy[key]["mean"], policy[key]["standard_deviation"]
    if mean is None:
        return "not finite"
    return _number(mean) + ("" if deviation is None else f" {sign} {deviation:.2g}")


def _number(value: float) -> str:
    """Write four figures.

    Example:
      >>> _number(0.0254), _number(1234.5)
      ('0.02540', '1234')
    """
    return f"{value:#.4g}".rstrip(".")


def _published(figures: Any) -> str:
    """Write published figures: a number, or several by label."""
    if figures is None:
        return ""
    if isinstance(figures, dict):
        return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    return f"{figures:.4g}"


def _has_published(summary: Mapping[str, Any]) -> bool:
    return any(series["published"] is not None for series in summary["series"].values())


def _header(summary: Mapping[str, Any]) -> list[str]:
    beside = ["published"] if _has_published(summary) else []
    return [*_LABELS, *_COLUMNS.values(), *BASELINES.values(), *beside]


def _title(summary: Mapping[str, Any]) -> str:
    seeds = summary["seeds"]
    shown = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return f"{summary['name']}: {summary['agents']:,} agents, {shown}, {summary['dtype']}"


def _footnotes(summary: Mapping[str, Any], best: str) -> list[str]:
    several = len(summary["seeds"]) > 1
    lines = [
        "RMSE of predictions made before the target was seen"
        + (", mean and standard deviation over seeds" if several else "")
        + f"; {best}: the best server of the series."
    ]
    for name, series in summary["series"].items():
        for encoder, own in series["encoders"].items():
            for policy, found in own["policies"].items():
                lines += [f"{name}, {encoder}, {policy}: {note}" for note in found["notes"]]
    if summary["interrupted"]:
        lines.append(f"INTERRUPTED: not run: {'; '.join(left(summary))}")
    return lines
