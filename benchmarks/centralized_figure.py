"""The figure of `centralized_cost`, drawn from its JSON file: at once, or again later."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memoa_jax.figure_style import COLOURS

BLUE, ORANGE, GREEN, PURPLE, BLACK = (COLOURS[i] for i in (0, 1, 2, 3, 6))
JOINT = {
    "nash_joint": (ORANGE, "o", "Nash, joint state,\nmemoa_jax"),
    "nash_joint_numpy": (PURPLE, "s", "Nash, joint state,\nNumPy"),
    "planner_joint_numpy": (GREEN, "^", "one planner,\njoint state, NumPy"),
}
"""Colour, marker and name of every solver of the joint state."""
LARGEST = 1e8
FAR = 1e4
"""Up to how many agents the joint solvers are extrapolated in the picture."""


def column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Return one column of the measured rows."""
    return [row[key] for row in rows]


def label(axes: Axes, text: str, place: tuple[float, float], colour: str, **how: Any) -> None:
    """Write a curve's name beside it, in its colour."""
    axes.annotate(text, place, color=colour, fontsize=9, linespacing=1.15, **how)


def spread_out(heights: Sequence[float], least: float) -> list[float]:
    """Move heights of labels apart, each at least a factor below the one before, in that order."""
    moved: list[float] = []
    for height in heights:
        moved.append(min(height, moved[-1] / least) if moved else height)
    return moved


def seconds(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw the seconds of one solve; dotted lines extend the measured power laws."""
    ends = []
    for name, (colour, marker, _) in JOINT.items():
        solver = result["joint"][name]
        agents, took = (column(solver["rows"], key) for key in ("agents", "seconds"))
        axes.plot(agents, took, color=colour, marker=marker, markersize=4, linewidth=1.6)
        ends.append(took[-1] * (FAR / agents[-1]) ** solver["exponents"]["seconds"])
        axes.plot([agents[-1], FAR], [took[-1], ends[-1]], color=colour, linestyle=":")
    # Labels stand in the order of the curves' ends, which need not be that of `JOINT`.
    order = sorted(range(len(ends)), key=lambda place: -ends[place])
    limit = result["reduced"][-1]["seconds"]
    bottom, top = limit / 8, 8 * max(ends)
    heights = spread_out([ends[place] for place in order], (top / bottom) ** 0.16)
    for place, height in zip(order, heights, strict=True):
        name, (colour, _, text) = list(JOINT.items())[place]
        power = result["joint"][name]["exponents"]["seconds"]
        label(axes, f"{text}: $N^{{{power:.1f}}}$", (1.4 * FAR, height), colour, va="center")
    rows = [row for row in result["reduced"] if row["agents"]]
    axes.plot(column(rows, "agents"), column(rows, "seconds"), color=BLUE, marker="D", markersize=4)
    last = rows[-1]["seconds"]
    label(axes, "reduced by symmetry: exact for every N", (2e3, 2.2 * last), BLUE)
    axes.axhline(limit, color=BLACK, linestyle="--", linewidth=1.2, zorder=1)
    label(axes, "mean-field limit (decentralized)", (2e3, limit / 1.7), BLACK, va="top")
    label(axes, "dotted: extrapolated", (2, max(ends)), "0.45", va="center")
    for height, text in ((60, "1 minute"), (3600, "1 hour"), (86400, "1 day")):
        axes.axhline(height, color="0.88", linewidth=0.8, zorder=0)
        axes.annotate(text, (1.7, height), color="0.45", fontsize=8, va="bottom")
    axes.set(
        title=f"Computing one equilibrium, {result['settings']['horizon']} steps",
        ylabel="seconds, one core" if result["settings"]["clock"] == "processor" else "seconds",
        ylim=(bottom, top),
    )


def distances(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw the distance to the limit, and that of the joint solvers to the reduction."""
    rows = [row for row in result["reduced"] if row["agents"]]
    axes.plot(
        column(rows, "agents"),
        column(rows, "distance_to_limit"),
        color=BLUE,
        marker="D",
        markersize=4,
    )
    label(axes, "Nash of N agents to the limit\n(hollow: on the joint state)", (1e3, 6e-3), BLUE)
    label(axes, f"slope {result['distance_slope']:.2f}", (3e5, 1e-5), BLUE)
    for name, (colour, marker, _) in JOINT.items():
        measured = result["joint"][name]["rows"]
        agents = column(measured, "agents")
        axes.plot(agents, column(measured, "difference"), color=colour, marker=marker, markersize=4)
        if name != "planner_joint_numpy":
            axes.plot(
                agents,
                column(measured, "distance_to_limit"),
                color=colour,
                marker=marker,
                markersize=7,
                linestyle="none",
                fillstyle="none",
            )
    label(axes, "joint state to the exact reduction:\nrounding only", (5e3, 3e-14), BLACK)
    axes.set(
        title="They agree, and differ from the limit by 1/N",
        ylabel="largest relative difference of a gain",
        ylim=(1e-16, 9),
    )


def messages(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw how many numbers an agent must be sent in every step."""
    outputs, ends = result["settings"]["outputs"], [2, LARGEST]
    axes.plot(ends, [outputs * n for n in ends], color=ORANGE, linewidth=1.6)
    label(axes, "joint state:\nall states, N d", (2e6, 2e7), ORANGE, ha="right")
    axes.plot(ends, [outputs] * 2, color=BLACK, linestyle="--", linewidth=1.6)
    below = {"ha": "right", "va": "top"}
    label(axes, "decentralized: mean field, d", (LARGEST, 4 * outputs), BLACK, **below)
    label(axes, "offline: nothing", (LARGEST, 0.8 * outputs), BLACK, **below)
    axes.set(
        title="What each agent is sent",
        ylabel="numbers per agent and step",
        ylim=(outputs * 0.2, outputs * LARGEST * 5),
    )


def draw(source: Path) -> list[Path]:
    """Draw the figure beside its data, as PNG and SVG, and return both paths."""
    result = json.loads(source.read_text())
    figure = Figure(figsize=(14.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1.35, 1.15, 0.85))
    for axes, panel in zip(panels, (seconds, distances, messages), strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        panel(axes, result)
        axes.set(xlabel="number of agents N", xlim=(1.5, 1.6 * LARGEST))
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(11)
    paths = [source.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        # A date would make every drawing of the same numbers a new file.
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def main() -> None:
    """Draw a measurement again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="centralized_cost.json")
    for path in draw(parser.parse_args().source):
        print(path)


if __name__ == "__main__":
    main()
