"""The figure of `scaling`, drawn from its JSON file: at once, or again later."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from memoa_jax.figure_style import COLOURS, MARKERS

POLICIES = {
    "greedy": "greedy, window 20",
    "decentralized": "decentralized, feedback, 5 steps",
    "offline": "decentralized, offline, 5 steps",
    "forecast": "forecast game",
    "heterogeneous": "heterogeneous, 5 steps",
}
"""Names in the legend, in the order of the colours."""
STREAM: Mapping[str, Any] = {"linestyle": "-"}
RESIDENT: Mapping[str, Any] = {"linestyle": "--", "fillstyle": "none"}


def decades(values: Sequence[float], margin: float = 1.0) -> tuple[float, float]:
    """Return limits of an axis: the whole powers of ten around values, and a factor beyond."""
    logarithms = [math.log10(value) for value in values]
    low, high = math.floor(min(logarithms)), math.ceil(max(logarithms))
    return 10.0**low / margin, 10.0 ** max(high, low + 1) * margin


def dress(axes: Axes, agents: Sequence[float]) -> None:
    """Give a panel its logarithmic axes, of whole decades, and a quiet frame."""
    axes.set(xscale="log", yscale="log", xlabel="number of agents N", xlim=decades(agents, 1.5))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.title.set_fontsize(11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def saved(figure: Figure, source: Path) -> list[Path]:
    """Write the figure beside its data, as PNG and SVG, and return both paths."""
    paths = [source.with_suffix(suffix) for suffix in (".png", ".svg")]
    for path in paths:
        # A date would make every drawing of the same numbers a new file.
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def curves(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Draw one measured number against N, a curve for each policy and schedule."""
    for place, policy in enumerate(POLICIES):
        for schedule, style in (("stream", STREAM), ("resident", RESIDENT)):
            points = sorted(
                (row["agents"], row[key])
                for row in rows
                if row["policy"] == policy and row["schedule"] == schedule
            )
            if points:
                agents, values = zip(*points, strict=True)
                look = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 5}
                axes.plot(agents, values, **look, **style)


def handles(rows: Sequence[Mapping[str, Any]]) -> list[Line2D]:
    """Return the legend: what was measured, policies by colour and schedules by line."""
    policies = [name for name in POLICIES if any(row["policy"] == name for row in rows)]
    found = []
    for place, (name, text) in enumerate(POLICIES.items()):
        if name in policies:
            look = {"color": COLOURS[place], "marker": MARKERS[place]}
            found.append(Line2D([], [], label=text, linestyle="none", **look))
    named = {"stream": (STREAM, "stream"), "resident": (RESIDENT, "resident (hollow)")}
    for schedule, (style, text) in named.items():
        if any(row["schedule"] == schedule for row in rows):
            found.append(Line2D([], [], color="black", label=text, linestyle=style["linestyle"]))
    return found


def draw(source: Path) -> list[Path]:
    """Draw the figure and return the paths of its files."""
    result = json.loads(source.read_text())
    rows = result["rows"]
    figure = Figure(figsize=(11.5, 4.8), layout="constrained")
    time, memory = figure.subplots(1, 2)
    curves(time, rows, "ns")
    time.set(title="Time: flat where agents cost the same", ylabel="nanoseconds per agent-step")
    curves(memory, rows, "peak_mb")
    memory.set(title="Memory, the compiler's included", ylabel="peak of the process [MB]")
    for axes, key in ((time, "ns"), (memory, "peak_mb")):
        dress(axes, [row["agents"] for row in rows])
        axes.set_ylim(decades([row[key] for row in rows]))
    figure.legend(
        handles=handles(rows), loc="outside lower center", ncols=6, frameon=False, fontsize=9
    )
    return saved(figure, source)


def main() -> None:
    """Draw a measurement again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="scaling.json")
    for path in draw(parser.parse_args().source):
        print(path)


if __name__ == "__main__":
    main()
