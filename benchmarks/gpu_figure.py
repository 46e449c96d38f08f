"""The figure of `gpu`, drawn from its JSON file: at once, or again later."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scaling_figure import decades, dress, saved

from memoa_jax.figure_style import COLOURS

BLUE, ORANGE, GREY = COLOURS[0], COLOURS[1], "0.45"
SCHEDULES = {
    "resident": (BLUE, "o", "resident: all agents together"),
    "stream": (ORANGE, "s", "stream: block by block"),
}
"""Colour, marker and name of every schedule."""


def curve(axes: Axes, rows: Sequence[Mapping[str, Any]], schedule: str) -> None:
    """Draw the measured times of one policy under one schedule."""
    colour, marker, name = SCHEDULES[schedule]
    points = sorted((row["agents"], row["ms_per_step"]) for row in rows)
    if points:
        agents, took = zip(*points, strict=True)
        axes.plot(agents, took, color=colour, marker=marker, markersize=5, label=name)


def bounds(axes: Axes, rows: Sequence[Mapping[str, Any]], ends: tuple[float, float]) -> None:
    """Draw what the memory's bandwidth allows, and what the launches of a resident step take."""
    known = [row for row in rows if row.get("memory_ms") is not None]
    if not known:
        return
    each = known[0]["memory_ms"] / known[0]["agents"]
    axes.plot(
        ends, [each * end for end in ends], color="black", linestyle="--", label="bandwidth bound"
    )
    launched = [row["launch_ms"] for row in known if row["schedule"] == "resident"]
    if launched and launched[0] is not None:
        axes.axhline(launched[0], color=GREY, linestyle=":", label="launches of a step (estimate)")


def panel(
    axes: Axes, policy: str, rows: Sequence[Mapping[str, Any]], target: Mapping[str, Any] | None
) -> None:
    """Draw one policy, and what it is to reach."""
    agents = [row["agents"] for row in rows]
    bounds(axes, rows, decades(agents, 1.5))
    for schedule in SCHEDULES:
        curve(axes, [row for row in rows if row["schedule"] == schedule], schedule)
    if target is not None:
        axes.plot(
            [target["agents"]],
            [target["target_ms"]],
            color=COLOURS[2],
            marker="*",
            markersize=13,
            linestyle="none",
            label=f"target: {target['target_ms']} ms at N = {target['agents']:,}",
        )
    axes.set_title(policy)
    dress(axes, agents)


def draw(source: Path) -> list[Path]:
    """Draw the figure beside its data, as PNG and SVG, and return the paths (none without rows)."""
    result = json.loads(source.read_text())
    policies = list(dict.fromkeys(row["policy"] for row in result["rows"]))
    if not policies:
        return []
    figure = Figure(figsize=(3.5 * max(len(policies), 2), 4.4), layout="constrained")
    panels = figure.subplots(1, len(policies), sharey=True, squeeze=False)[0]
    for axes, policy in zip(panels, policies, strict=True):
        rows = [row for row in result["rows"] if row["policy"] == policy]
        aims = [one for one in result["targets"] if one["policy"] == policy]
        panel(axes, policy, rows, aims[0] if aims else None)
    heights = [
        row[key] for row in result["rows"] for key in ("ms_per_step", "memory_ms") if key in row
    ]
    panels[0].set(
        ylabel="milliseconds per step", ylim=decades([one for one in heights if one and one > 0])
    )
    named: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named.update(dict(zip(labels, handles, strict=True)))
    # As many names in a line as its width holds.
    columns = round(figure.get_figwidth() / 2.8)
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False
    )
    kind = result["facts"].get("devices", {}).get("kind", "unknown device")
    figure.suptitle(f"One step of all agents on one device: {kind}", fontsize=12)
    return saved(figure, source)


def main() -> None:
    """Draw a measurement again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="gpu.json")
    for path in draw(parser.parse_args().source):
        print(path)


if __name__ == "__main__":
    main()
