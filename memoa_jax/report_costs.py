"""The figure of every agent's cost: the whole population as a histogram, nobody left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memoa_jax.figure_style import GREY, Picture, legend, look, picture, plain, styled
from memoa_jax.metrics import diverging
from memoa_jax.report_dots import BASELINE, listed
from memoa_jax.report_folder import Folder
from memoa_jax.report_numbers import bars, units


def costs(folder: Folder, labels: Sequence[str], name: str) -> Picture:
    """Draw how many agents had which cost, the worst agent marked, persistence beside it."""
    arrays, summary = folder.arrays, folder.summary
    outputs = summary["outputs"]
    unit, _ = units(folder.config)
    persistence = (summary["baselines"]["persistence"] or np.nan) ** 2 * outputs
    limit = diverging(arrays["targets"]) ** 2 * outputs
    with styled(1.3 + 1.25 * len(labels)) as figure:
        panels = figure.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]
        for place, (axes, label) in enumerate(zip(panels, labels, strict=True)):
            own = f"costs/{label}"
            edges, counts = bars(arrays[f"{own}/edges"], arrays[f"{own}/counts"])
            if len(counts):
                axes.stairs(counts, np.maximum(edges, 1e-38), fill=True, color=look(place)["color"])
            else:
                said = {"ha": "center", "va": "center", "transform": axes.transAxes, "fontsize": 8}
                axes.text(0.5, 0.5, "no agent has a finite cost", **said)
            handles = _worst(axes, summary["policies"][label], outputs)
            handles.append(axes.axvline(persistence, label="persistence", **BASELINE))
            heading = _heading(label, summary["policies"][label])
            axes.set_title(plain(heading), fontsize=9)
            axes.set(xscale="log", yscale="symlog", ylim=(0, None))
            axes.set_yticks(*_ticks(counts))
            low, high = axes.get_xlim()
            if high > limit:
                style = {"color": GREY, "linestyle": ":", "linewidth": 1.0}
                handles.append(axes.axvline(limit, label="diverged from here on", **style))
                axes.set_xlim(low, high)
        panels[-1].set_xlabel(f"squared error per row [({unit})²]")
        figure.supylabel("agents", fontsize=9)
        known = {handle.get_label(): handle for handle in handles}
        legend(figure, list(known.values()))
        png = picture(figure)
    return Picture(
        name=name,
        title="Cost of every agent",
        alt=f"A histogram of the agents' costs for each of {listed(labels)}, with the worst agent "
        "and persistence marked.",
        caption=f"Each of the {summary['agents']:,} agents (the whole population, exact) counts at "
        "its own cost: its squared error per scored row that it took part in; left is better. The "
        "number of agents is on an axis that shows a single one beside thousands. The triangle is "
        "the worst agent. Persistence would cost everybody what the dashed line says. "
        + _told_diverged(folder, labels),
        png=png,
    )


def _worst(axes: Any, policy: Mapping[str, Any], outputs: int) -> list[Any]:
    """Mark the worst agent; at the right end, where its cost is not finite."""
    rmse = policy["worst_agent_rmse"]
    style = {"color": "black", "marker": "v", "linestyle": "none", "label": "worst agent"}
    if rmse is None:
        at = axes.get_yaxis_transform()
        return list(axes.plot([1.0], [1.0], transform=at, clip_on=False, **style))
    return list(axes.plot([rmse**2 * outputs], [1.0], **style))


def _heading(label: str, policy: Mapping[str, Any]) -> str:
    """Say who is worst, and how many diverged."""
    rmse, gone = policy["worst_agent_rmse"], policy["diverged_agents"]
    words = "not finite" if rmse is None else f"RMSE {rmse:.4g}"
    heading = f"{label}: worst agent {policy['worst_agent']:,} ({words})"
    return heading + (f"; {gone:,} diverged" if gone else "")


def _told_diverged(folder: Folder, labels: Sequence[str]) -> str:
    gone = {label: folder.summary["policies"][label]["diverged_agents"] for label in labels}
    gone = {label: count for label, count in gone.items() if count}
    if not gone:
        return "No agent diverged."
    lost = {label: int(folder.arrays[f"costs/{label}/lost"]) for label in gone}
    told = ", ".join(
        f"{label} {count:,} (of them without a finite cost, and in no bar: {lost[label]:,})"
        for label, count in gone.items()
    )
    return (
        f"Diverged agents: {told}; an agent has diverged when its RMSE is not finite or ten times "
        "the range of the targets."
    )


def _ticks(counts: Any) -> tuple[list[int], list[str]]:
    """Return powers of ten up to a histogram's highest bar."""
    most = int(max(counts, default=1))
    ticks = [0, *(10**power for power in range(len(str(most))))]
    step = -(-len(ticks) // 5)
    ticks = ticks[:1] + ticks[1::step]
    return ticks, [f"{tick:,}" for tick in ticks]
