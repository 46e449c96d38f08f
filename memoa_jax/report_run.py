"""The figures of a run: agents, mean field, costs, and every policy beside persistence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from memoa_jax.figure_style import (
    GREY,
    Picture,
    curve,
    legend,
    logarithmic,
    look,
    picture,
    plain,
    styled,
)
from memoa_jax.metrics import baselines
from memoa_jax.report_costs import costs
from memoa_jax.report_dots import BASELINE, beside, dots, listed
from memoa_jax.report_folder import Folder
from memoa_jax.report_numbers import (
    scored,
    spread,
    squared,
    stretches,
    units,
    window,
)

RMSES = {
    "server_rmse": "server",
    "mean_field_rmse": "mean field",
    "mean_agent_rmse": "mean agent",
    "worst_agent_rmse": "worst agent",
}
MOST_PANELS, MOST_OUTPUTS = 6, 3
_TARGET: Any = {"color": "black", "marker": ".", "markersize": 3, "linewidth": 0.6}
_ROWS = "row of the series (time step)"


def pictures(folder: Folder) -> Iterator[Picture]:
    """Draw what a run's folder holds, one figure after the other.

    Raises:
      FigureError: if matplotlib is not installed.
    """
    yield comparison(folder)
    labels = list(folder.summary["policies"])
    outputs = folder.arrays["targets"].shape[1]
    for output in range(min(outputs, MOST_OUTPUTS)):
        for some, part in _parts(labels, "prediction" + (f"-{output + 1}" if outputs > 1 else "")):
            yield predictions(folder, some, part, output)
    yield errors(folder)
    yield mean_field(folder)
    known = [label for label in labels if f"costs/{label}/counts" in folder.arrays]
    for some, part in _parts(known, "costs"):
        yield costs(folder, some, part)


def _parts(labels: Sequence[str], name: str) -> Iterator[tuple[Sequence[str], str]]:
    """Cut many policies into figures that can be read, and name each."""
    for number, first in enumerate(range(0, len(labels), MOST_PANELS), 1):
        yield labels[first : first + MOST_PANELS], name if number == 1 else f"{name}-part-{number}"


def comparison(folder: Folder) -> Picture:
    """Draw the RMSEs of every policy beside the baselines, on one logarithmic axis."""
    policies = folder.summary["policies"]
    rows = {name: [one[key] for key in RMSES] for name, one in policies.items()}
    given = folder.summary["baselines"]
    plain_ones = {name: given[name] for name in ("persistence", "running_mean")}
    unit, _ = units(folder.config)
    with styled(1.9 + 0.42 * len(rows)) as figure:
        axes = figure.add_subplot()
        handles = dots(axes, rows, list(RMSES.values()))
        handles += beside(axes, plain_ones)
        axes.set(title="Error of every policy, and of the baselines", xlabel=f"RMSE [{unit}]")
        legend(figure, handles)
        png = picture(figure)
    return Picture(
        name="comparison",
        title="Policies and baselines",
        alt=f"Root mean square errors of {listed(rows)} beside persistence "
        f"({_number(plain_ones['persistence'])}), on a logarithmic axis; the numbers are those of "
        "the table.",
        caption="Root mean square error over the scored rows, of predictions made before the "
        "target was seen; left is better. All four are exact over the whole population. "
        "Persistence predicts the last value seen: what lies right of its line does worse than "
        "knowing nothing but that. An arrow at the right end stands for a figure that is not "
        "finite.",
        png=png,
    )


def predictions(folder: Folder, labels: Sequence[str], name: str, output: int) -> Picture:
    """Draw the target and, for some policies, server and band of agents over the last rows."""
    arrays, targets = folder.arrays, folder.arrays["targets"][:, output]
    own = _last(folder)
    outputs = arrays["targets"].shape[1]
    of = f", output {output + 1} of {outputs}" if outputs > 1 else ""
    lost = []
    with styled(2.2 + 1.3 * len(labels)) as figure:
        panels = figure.subplots(len(labels) + 1, 1)
        panels[0].plot(targets, color="black", linewidth=0.8)
        panels[0].axvspan(own[0], own[-1], color=GREY, alpha=0.3, linewidth=0)
        panels[0].set_title(f"target{of}: all rows; the grey ones are those below")
        for axes, label in zip(panels[1:], labels, strict=True):
            colour = look(list(folder.summary["policies"]).index(label))["color"]
            lost.append(_band(axes, arrays, label, output, own, colour))
            axes.plot(own, targets[own], **_TARGET)
            server = arrays[f"server/{label}"][own, output]
            axes.plot(own, server, color=colour)
            away = _fit(axes, targets[own], server)
            axes.set_title(plain(label) + away, fontsize=9)
            axes.sharex(panels[1])
            axes.tick_params(labelbottom=label == labels[-1])
        panels[-1].set_xlabel(_ROWS)
        figure.supylabel(f"target and predictions [{units(folder.config)[1]}]", fontsize=9)
        legend(figure, _prediction_handles())
        png = picture(figure)
    says = " ".join([_told_sample(folder), *filter(None, lost)])
    if outputs > MOST_OUTPUTS:
        says += f" Of {outputs} outputs the first {MOST_OUTPUTS} are drawn."
    return Picture(
        name=name,
        title=f"Prediction against target{of}",
        alt=f"The target over all {len(targets):,} rows, and rows {own[0]:,} to {own[-1]:,} of it "
        f"with the server's prediction and the band of agents, a panel each for {listed(labels)}.",
        caption="Each prediction of a row was made before its target was seen. The coloured line "
        "is the server's output (exact, of the whole population); the shades hold 50 and 90 % of "
        "the agents, between the dotted lines lie all of them. Where no shade is seen, the agents "
        f"agree to within the line's width. {says}",
        png=png,
    )


def _last(folder: Folder) -> Any:
    """Return the rows that are drawn one by one."""
    arrays = folder.arrays
    steps = {label: len(arrays[f"server/{label}"]) for label in folder.summary["policies"]}
    return np.arange(*window(steps, len(arrays["targets"])))


def _prediction_handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Line2D([], [], label="target", **_TARGET),
        Line2D([], [], color=GREY, label="server (in colour)"),
        Patch(color=GREY, alpha=0.55, linewidth=0, label="50 % of agents"),
        Patch(color=GREY, alpha=0.25, linewidth=0, label="90 % of agents"),
        Line2D([], [], color=GREY, linestyle=":", linewidth=0.9, label="all of them"),
    ]


def _band(
    axes: Any, arrays: Mapping[str, Any], label: str, output: int, rows: Any, colour: str
) -> str:
    """Draw a policy's band over some rows; return what is to be said of it."""
    if f"band/{label}/quantiles" not in arrays:
        return ""
    least, low, quarter, _, upper, high, most = arrays[f"band/{label}/quantiles"][rows, :, output].T
    axes.fill_between(rows, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.fill_between(rows, quarter, upper, color=colour, alpha=0.35, linewidth=0)
    for ends in (least, most):
        axes.plot(rows, ends, color=colour, linewidth=0.7, linestyle=":")
    lost = arrays[f"band/{label}/lost"]
    if not lost.any():
        return ""
    begin = int(np.argmax(lost > 0))
    return (
        f"Of {label}, up to {int(lost.max()):,} of them have no finite prediction from row "
        f"{begin:,} on, and are not in the shades."
    )


def _fit(axes: Any, targets: Any, server: Any) -> str:
    """Keep a panel to where the target is, and say so if something lies beyond."""
    known = targets[np.isfinite(targets)]
    low, high = float(known.min()), float(known.max())
    room = max(high - low, 1e-12)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - room), min(top, high + room))
    beyond = bottom < low - room or top > high + room or not np.isfinite(server).all()
    return "   (partly off the panel or not finite)" if beyond else ""


def _told_sample(folder: Folder) -> str:
    if "band/agents" not in folder.arrays:
        return "This run kept no band of agents (run.sample = 0, or an earlier version). "
    count, agents = len(folder.arrays["band/agents"]), folder.summary["agents"]
    if count == agents:
        return f"The band is of the whole population, {agents:,} agents. "
    return (
        f"The band is of a sample, {count:,} of the {agents:,} agents, evenly spread by index: the "
        "same in every policy. "
    )


def errors(folder: Folder) -> Picture:
    """Draw the server's error over the whole run, for every policy and persistence."""
    return _over_time(
        folder,
        "server",
        name="errors",
        title="Error over the run",
        says="Root mean square error of the server's predictions (exact, of the whole population)",
    )


def mean_field(folder: Folder) -> Picture:
    """Draw the mean field, its error over the run, and how far the agents are apart."""
    return _over_time(
        folder,
        "mean_field",
        name="mean-field",
        title="Mean field",
        says="Top: the mean field, the mean of all agents' predictions (exact), in the last "
        "rows. Middle: its root mean square error. Bottom: how wide the band of agents is, from "
        "the 5 to the 95 % quantile: agents that agree make a low line. The lower two are means",
    )


def _over_time(folder: Folder, kind: str, *, name: str, title: str, says: str) -> Picture:
    """Draw one output of all policies over all rows; of the mean field, more than its error."""
    arrays, labels = folder.arrays, list(folder.summary["policies"])
    targets, counted = arrays["targets"], scored(folder.config, arrays["targets"])
    unit, value = units(folder.config)
    whole = kind == "mean_field"
    with styled(6.8 if whole else 3.4) as figure:
        panels = figure.subplots(3 if whole else 1, 1, squeeze=False)[:, 0]
        middle = panels[1] if whole else panels[0]
        for place, label in enumerate(labels):
            rows, means = stretches(squared(arrays[f"{kind}/{label}"], targets), counted)
            middle.plot(rows, np.sqrt(means), label=plain(label), **curve(place))
        rows, means = stretches(squared(baselines(targets)["persistence"], targets), counted)
        middle.plot(rows, np.sqrt(means), label="persistence", **BASELINE)
        middle.set(ylabel=f"RMSE [{unit}]")
        middle.set_title("error of the mean field" if whole else "error of the server", fontsize=9)
        logarithmic(middle.yaxis)
        if whole:
            away = _paths(panels[0], folder)
            panels[0].set_title(f"mean field, target in black{away}", fontsize=9)
            panels[0].set_ylabel(f"[{value}]")
            _spreads(panels[2], arrays, labels, counted)
            panels[2].set(ylabel=f"width [{unit}]")
        panels[-1].set_xlabel(_ROWS)
        legend(figure, middle.get_lines())
        png = picture(figure)
    gaps = [one for one in labels if not np.isfinite(arrays[f"{kind}/{one}"]).all()]
    gone = f" The line of {listed(gaps)} breaks off where it is not finite." if gaps else ""
    return Picture(
        name=name,
        title=title,
        alt=f"{title} of {listed(labels)} and of persistence, against the rows of the series.",
        caption=f"{says} over equal stretches of rows, on a logarithmic axis; the dashed black "
        "line is persistence, which predicts the last value seen; lower is better."
        + (f" {_told_sample(folder)}" if whole else "")
        + gone,
        png=png,
    )


def _paths(axes: Any, folder: Folder) -> str:
    """Draw the mean fields over the last rows, with the target."""
    arrays, own = folder.arrays, _last(folder)
    targets = arrays["targets"][own, 0]
    axes.plot(own, targets, **_TARGET)
    paths = [arrays[f"mean_field/{label}"][own, 0] for label in folder.summary["policies"]]
    for place, path in enumerate(paths):
        axes.plot(own, path, **curve(place))
    return _fit(axes, targets, np.concatenate(paths))


def _spreads(axes: Any, arrays: Mapping[str, Any], labels: Sequence[str], counted: Any) -> None:
    """Draw how far the agents of each policy are apart."""
    most = 0.0
    for place, label in enumerate(labels):
        if f"band/{label}/quantiles" in arrays:
            wide = spread(arrays[f"band/{label}/quantiles"], arrays["band/levels"])
            rows, means = stretches(wide, counted)
            axes.plot(rows, means, **curve(place))
            most = max([most, *means[np.isfinite(means)]])
    axes.set_title("spread of the agents: width of the band from 5 to 95 %", fontsize=9)
    if most > 0:
        logarithmic(axes.yaxis)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
