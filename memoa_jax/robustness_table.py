"""What `memoa robustness` prints and writes: two tables, and where telling agents apart pays."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from memoa_jax.report import aligned

GAMES = ("homogeneous", "heterogeneous")
RUNS = ("homogeneous", "heterogeneous", "uncoupled", "forecast")
FIGURES = {"mean_agent_rmse": "mean", "worst_agent_rmse": "worst"}
MEANINGS = {
    "moments": "standard deviation of the logarithm of the features' size",
    "noise": "the same of their noise",
    "encoders": "own part of the weights over the common one",
    "delays": "largest delay of the inputs [steps]",
    "costs": "standard deviation of the logarithms of tracking, consensus and effort",
    "everything": "all at once; delays up to 4 steps per unit",
}
"""What the levels of each kind are."""


def ratios(cell: Mapping[str, Any], policy: str, key: str, rival: str = "nash") -> list[float]:
    """Return over seeds what a policy costs over what a rival does, in the exact games.

    Args:
      cell: of the report.
      policy: of `robustness_games.POLICIES`.
      key: "mean" or "worst" agent; each is compared with the rival's own.
      rival: likewise.
    """
    pairs = zip(cell["games"][policy][key], cell["games"][rival][key], strict=True)
    return [_number(ours) / _number(theirs) for ours, theirs in pairs]


def wins(cell: Mapping[str, Any], part: str, key: str) -> str:
    """Return in how many seeds the heterogeneous policy is better than the homogeneous one.

    Where agents are alike both are the same up to what the mean field does by chance.
    """
    own, alike = (cell[part][name][key] for name in GAMES[::-1])
    better = sum(_number(a) < _number(b) for a, b in zip(own, alike, strict=True))
    return f"{better}/{len(own)}"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def game_rows(report: Mapping[str, Any], *, spread: bool) -> Iterator[list[str]]:
    """Yield the table of the exact games: the header, then a row per kind and level."""
    yield ["differing in", "by", *GAMES, *(f"price, {name}" for name in (*GAMES, "nash")), "better"]
    for cell in report["cells"]:
        costs = [
            _pair((ratios(cell, name, key) for key in ("mean", "worst")), spread=spread)
            for name in GAMES
        ]
        prices = [
            _told(ratios(cell, name, "mean", "team"), spread=spread) for name in (*GAMES, "nash")
        ]
        better = [wins(cell, "games", key) for key in ("mean", "worst")]
        yield [cell["kind"], f"{cell['level']:g}", *costs, *prices, " / ".join(better)]


def run_rows(report: Mapping[str, Any], *, spread: bool) -> Iterator[list[str]]:
    """Yield the table of the online runs: the header, then a row per kind and level."""
    yield ["differing in", "by", *RUNS, "better"]
    for cell in report["cells"]:
        errors = [
            _pair((cell["runs"][name][key] for key in FIGURES), spread=spread) for name in RUNS
        ]
        better = [wins(cell, "runs", key) for key in FIGURES]
        yield [cell["kind"], f"{cell['level']:g}", *errors, " / ".join(better)]


def _pair(figures: Iterable[Sequence[float | None]], *, spread: bool) -> str:
    return " / ".join(_told(values, spread=spread) for values in figures)


def _told(values: Sequence[float | None], *, spread: bool) -> str:
    """Return the mean over seeds, with the standard deviation if asked for."""
    numbers = [_number(value) for value in values]
    text = f"{statistics.fmean(numbers):.3f}"
    if spread and len(numbers) > 1 and all(map(math.isfinite, numbers)):
        text += f" ± {statistics.stdev(numbers):.2g}"
    return text


def _titles(report: Mapping[str, Any]) -> tuple[str, str]:
    seeds = len(report["seeds"])
    return (
        f"Exact games: {report['agents']} agents, {report['windows']} windows of "
        f"{report['horizon']} steps, means over {seeds} seeds. Expected cost over that of the Nash "
        "equilibrium on the joint state, mean agent / worst agent; price: the mean agent's cost "
        "over that of the team optimum.",
        f"Online runs: {report['crowd']} agents, {report['steps']} steps of {report['series']}, "
        f"means over {seeds} seeds. RMSE of predictions made before the target was seen, mean "
        "agent / worst agent; "
        f"persistence {report['persistence']:.4g}.",
    )


def _footnotes(report: Mapping[str, Any]) -> list[str]:
    found = [f"by ({kind}): {words}." for kind, words in MEANINGS.items()]
    kinds = {cell["kind"] for cell in report["cells"]}
    lines = [line for kind, line in zip(MEANINGS, found, strict=True) if kind in kinds]
    lines.append(
        "better: seeds in which heterogeneous is below homogeneous, mean agent / worst agent."
    )
    if report["interrupted"]:
        lines.append(f"INTERRUPTED: not run: {', '.join(report['not_run'])}.")
    return lines


def table(report: Mapping[str, Any]) -> str:
    """Return the report as plain tables."""
    lines: list[str] = []
    parts = (game_rows(report, spread=False), run_rows(report, spread=False))
    for title, part in zip(_titles(report), parts, strict=True):
        rows = list(part)
        lines += [title, "", *aligned(rows, [""] * len(rows)), ""]
    return "\n".join([*lines, *_footnotes(report)])


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as tables in Markdown, with standard deviations over seeds."""
    lines: list[str] = []
    parts = (game_rows(report, spread=True), run_rows(report, spread=True))
    for title, part in zip(_titles(report), parts, strict=True):
        header, *rows = part
        ruler = ["---"] + ["---:"] * (len(header) - 1)
        lines += [title, "", *(f"| {' | '.join(row)} |" for row in (header, ruler, *rows)), ""]
    return "\n".join([*lines, *(f"- {line}" for line in _footnotes(report))]) + "\n"
