"""The figures of studies, sweeps and tunings; persistence beside every one of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from memoa_jax.config_sweep import Axis
from memoa_jax.figure_style import Picture, legend, look, picture, plain, styled
from memoa_jax.report_dots import beside, dots, listed
from memoa_jax.report_folder import Folder
from memoa_jax.robustness_figure import figure_of
from memoa_jax.sweep_figures import draw_axis
from memoa_jax.tune_report import draw_descent, draw_numbers

_SHOWN = {
    "server_rmse": "server",
    "mean_agent_rmse": "mean agent",
    "worst_agent_rmse": "worst agent",
}
_BEYOND = "An arrow at the right end stands for a figure that is not finite."


def study(folder: Folder) -> Iterator[Picture]:
    """Draw a study: for each series and encoder every policy, over seeds.

    Raises:
      FigureError: if matplotlib is not installed.
    """
    seeds, number = len(folder.summary["seeds"]), 0
    for name, series in folder.summary["series"].items():
        for encoder, own in series["encoders"].items():
            number += 1
            place = f"{name}, {encoder}"
            png = _cell(place, own["policies"], series["baselines"])
            gone = [k for k, one in own["policies"].items() if one["diverged_seeds"]]
            fewer = [k for k, one in own["policies"].items() if len(one["seeds"]) < seeds]
            yield Picture(
                name=f"study-{number}",
                title=place,
                alt=f"Root mean square errors of server, mean and worst agent on {place}, beside "
                f"the baselines, on a logarithmic axis, for {listed(own['policies'])}; the numbers "
                "are in the table.",
                caption="Means over seeds, exact over each population; a bar reaches one standard "
                "deviation over seeds to either side. Left is better; the dashed line is "
                f"persistence. {_BEYOND}"
                + (f" Agents diverged in: {listed(gone)}." if gone else "")
                + (f" Not all seeds were run of: {listed(fewer)}." if fewer else ""),
                png=png,
            )


def _cell(place: str, policies: Mapping[str, Any], baselines: Mapping[str, Any]) -> bytes:
    """Draw the policies of one series and encoder."""
    rows = {label: [one[key]["mean"] for key in _SHOWN] for label, one in policies.items()}
    with styled(1.7 + 0.38 * len(rows)) as figure:
        axes = figure.add_subplot()
        handles = dots(axes, rows, list(_SHOWN.values()))
        _deviations(axes, policies)
        handles += beside(axes, baselines)
        axes.set(title=plain(place), xlabel="RMSE [units of the series]")
        legend(figure, handles)
        return picture(figure)


def _deviations(axes: Any, found: Mapping[str, Any]) -> None:
    """Draw a bar of one standard deviation over seeds to each side of the server's mean."""
    for row, one in enumerate(found.values()):
        for place, key in enumerate(_SHOWN):
            mean, deviation = one[key]["mean"], one[key]["standard_deviation"]
            if mean is None or not deviation:
                continue
            height = -row + 0.09 * ((len(_SHOWN) - 1) / 2 - place)
            low = max(mean - deviation, mean / 100)  # the axis has no zero
            axes.plot([low, mean + deviation], [height] * 2, color=look(place)["color"])


def sweep(folder: Folder) -> Iterator[Picture]:
    """Draw a sweep: the best points of each policy, and the metric against each axis.

    Raises:
      FigureError: if matplotlib is not installed.
    """
    summary, metric = folder.summary, folder.summary["metric"]
    best = {label: one["top"][0] for label, one in summary["policies"].items() if one["top"]}
    if best:
        yield _best(summary, metric, best)
    if not np.isfinite(folder.arrays[metric]).any():
        return
    for number, table in enumerate(summary["axes"], 1):
        axis = Axis.model_validate(table)
        with styled(4.4) as figure:
            axes = figure.add_subplot()
            draw_axis(axes, metric, summary["method"], axis, dict(folder.arrays))
            axes.set(xlabel=plain(axis.key), ylabel=_unit(metric))
            handles, _ = axes.get_legend_handles_labels()
            legend(figure, handles, 2)
            png = picture(figure)
        yield Picture(
            name=f"sweep-axis-{number}",
            title=f"Along {axis.key}",
            alt=f"{metric} of every run against {axis.key}, with the median of each policy.",
            caption="A dot is one run (all values of the other axes); the line goes through the "
            "medians. Smaller is better. Runs that are not finite are counted in the legend, and "
            "have no dot.",
            png=png,
        )


def _best(summary: Mapping[str, Any], metric: str, best: Mapping[str, Any]) -> Picture:
    """Draw the best point of each policy, persistence beside it."""
    with styled(1.7 + 0.3 * len(best)) as figure:
        axes = figure.add_subplot()
        handles = dots(axes, {label: [one["mean"]] for label, one in best.items()}, [metric])
        if metric.endswith("_rmse"):
            handles += beside(
                axes, {name: one["min"] for name, one in summary["baselines"].items()}
            )
        axes.set(title="Best point of each policy", xlabel=_unit(metric))
        legend(figure, handles)
        png = picture(figure)
    left_out = {k: v["points_not_ranked"] for k, v in summary["policies"].items()}
    gone = ", ".join(f"{label} {count:,}" for label, count in left_out.items() if count)
    compared = metric.endswith("_rmse")
    return Picture(
        name="sweep-best",
        title="Best points",
        alt=f"{metric} at the best point of {listed(best)}; the numbers are in the table.",
        caption="Means over seeds at each policy's best point; left is better. "
        + ("The dashed line is persistence. " if compared else "Persistence has an RMSE only. ")
        + (f"Not ranked, not finite or with diverged agents, points of: {gone}." if gone else ""),
        png=png,
    )


def _unit(metric: str) -> str:
    of = "units of the series"
    return f"{metric} [{of if metric.endswith('_rmse') else f'({of})²'}]"


def tuning(folder: Folder) -> Iterator[Picture]:
    """Draw a tuning: the held-out errors beside persistence, the last descent, the numbers.

    Raises:
      FigureError: if matplotlib is not installed.
    """
    summary = folder.summary
    held = summary["held_out"]
    rows = {k: [one[key] for key in _SHOWN] for k, one in held.items() if k != "persistence"}
    with styled(1.9 + 0.42 * len(rows)) as figure:
        axes = figure.add_subplot()
        handles = dots(axes, rows, list(_SHOWN.values()))
        handles += beside(axes, {"persistence": held["persistence"]["server_rmse"]})
        axes.set(title="Held-out rows", xlabel="RMSE [units of the series]")
        legend(figure, handles)
        png = picture(figure)
    yield Picture(
        name="tune-held-out",
        title="Held-out rows",
        alt=f"Root mean square errors on the held-out rows of {listed(rows)} beside persistence, "
        "on a logarithmic axis; the numbers are in the table.",
        caption="What was tuned, and the numbers it started from, on rows that the descent never "
        f"saw; left is better, the dashed line is persistence. {_BEYOND}",
        png=png,
    )
    yield from _descents(folder)


def _descents(folder: Folder) -> Iterator[Picture]:
    summary, history = folder.summary, list(csv.DictReader(io.StringIO(folder.history)))
    last = [one for one in history if one["origin"] == history[-1]["origin"]]
    best = summary["origins"][-1]["best_step"]
    shown = {name: _column(last, name) for name in ("objective", "validation")}
    with styled(4.2) as figure:
        draw_descent(figure.add_subplot(), shown, best, summary["measure"])
        png = picture(figure)
    yield Picture(
        name="tune-descent",
        title="Descent",
        alt=f"{summary['measure']} by step of the descent, on the rows descended on and on the "
        f"validation rows; the best step is {best} of {len(last) - 1}.",
        caption="The last origin's descent. The validation rows choose the best step (dotted "
        "line). A line breaks off where the run was not finite.",
        png=png,
    )
    names = list(summary["start"])
    with styled(4.4) as figure:
        draw_numbers(figure.add_subplot(), {name: _column(last, name) for name in names}, best)
        png = picture(figure)
    moved = [name for name in names if last[0][name] != last[-1][name]]
    yield Picture(
        name="tune-numbers",
        title="Tuned numbers",
        alt=f"The value of each tuned number by step: {listed(names)}.",
        caption=f"{len(moved)} of {len(names)} numbers moved; entries of one list share a colour. "
        "Their units are those of their keys.",
        png=png,
    )


def _column(history: list[dict[str, str]], name: str) -> list[float]:
    values = (float(one[name]) for one in history)
    return [value if math.isfinite(value) else math.nan for value in values]


def robustness(folder: Folder) -> Iterator[Picture]:
    """Draw a study of agents that differ.

    Raises:
      FigureError: if matplotlib is not installed, or no kind of difference is whole.
    """
    report = folder.summary
    kinds = list(dict.fromkeys(cell["kind"] for cell in report["cells"]))
    yield Picture(
        name="robustness",
        title="Costs and errors as agents differ more",
        alt="Mean and worst agent's cost over that of the Nash equilibrium, and their RMSE online, "
        f"against the level of difference in {listed(kinds)}; the numbers are in the tables.",
        caption="Lines are means over seeds; in the upper half bands reach from the least to the "
        "largest seed. Below the dashed line is cheaper than the Nash equilibrium; the dotted line "
        "is persistence.",
        png=figure_of(report),
    )
