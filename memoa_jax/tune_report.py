"""What `memoa tune` tells: a summary, a table, the history of the descent, a figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memoa_jax.config_tune import TuneConfig, key_of
from memoa_jax.figure_style import GREY, curve, picture, styled
from memoa_jax.files import replace
from memoa_jax.report import aligned
from memoa_jax.tuning import Checked, Tuned

AGREE = 1e-4
"""Relative difference up to which a gradient is said to agree with central differences."""
_COLUMNS = {
    "server_rmse": "server",
    "mean_agent_rmse": "mean agent",
    "worst_agent_rmse": "worst agent",
    "mean_agent_cost": "mean cost",
    "worst_agent_cost": "worst cost",
}


class Split(NamedTuple):
    """Where the windows of one origin begin; the held-out one ends before `stop`."""

    scored: int
    validation: int
    held_out: int
    stop: int


class Origin(NamedTuple):
    """One origin: its split, what descent found before it, and how that did after it."""

    split: Split
    tuned: Tuned
    judged: Mapping[str, Mapping[str, float]]


def summarise(
    config: TuneConfig,
    origins: Sequence[Origin],
    *,
    planned: int,
    mode: str,
    checked: Checked | None,
    seconds: float,
) -> dict[str, Any]:
    """Return what summary.json holds.

    `held_out` pools the origins' windows: RMSE as the root of the mean square over all rows, costs
    as their mean.
    """
    tune = config.tune
    return {
        "name": config.name,
        "policy": config.tuned_policy.name,
        "agents": config.agents,
        "series": config.series.name or config.series.kind,
        "measure": tune.measure,
        "temperature": tune.temperature,
        "optimiser": tune.optimiser,
        "mode": mode,
        "seeds": config.all_seeds,
        "interrupted": origins[-1].tuned.stopped == "interrupted" or len(origins) < planned,
        "start": dict(origins[0].tuned.history[0].parameters),
        "best": dict(origins[-1].tuned.best.parameters),
        "final": dict(origins[-1].tuned.final.parameters),
        "held_out": {name: _pooled(origins, name) for name in origins[0].judged},
        "origins": [_origin(one) for one in origins],
        "gradient_check": None if checked is None else _check(checked),
        "seconds": seconds,
    }


def _origin(one: Origin) -> dict[str, Any]:
    best = one.tuned.history.index(one.tuned.best)
    return {
        "rows": one.split._asdict(),
        "steps": len(one.tuned.history) - 1,
        "stopped": one.tuned.stopped,
        "best_step": best,
        "objective": _finite([one.tuned.history[0].objective, one.tuned.best.objective]),
        "validation": _finite([one.tuned.history[0].validation, one.tuned.best.validation]),
        "best": dict(one.tuned.best.parameters),
        "held_out": {name: dict(figures) for name, figures in one.judged.items()},
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _pooled(origins: Sequence[Origin], name: str) -> dict[str, float | None]:
    rows = [one.judged[name]["rows"] for one in origins]
    found: dict[str, float | None] = {}
    for key in _COLUMNS:
        values = [one.judged[name][key] for one in origins]
        squares = [value**2 if key.endswith("rmse") else value for value in values]
        mean = sum(r * v for r, v in zip(rows, squares, strict=True)) / max(sum(rows), 1.0)
        value = math.sqrt(mean) if key.endswith("rmse") else mean
        found[key] = value if math.isfinite(value) else None
    return found


def _check(checked: Checked) -> dict[str, Any]:
    largest = max(checked.difference.values())
    return {
        "gradient": dict(checked.gradient),
        "central": dict(checked.central),
        "difference": dict(checked.difference),
        "agree": largest <= AGREE,
    }


def told_check(checked: Checked) -> str:
    """Return one line on a checked gradient."""
    worst = max(checked.difference, key=lambda name: checked.difference[name])
    verdict = "agrees" if checked.difference[worst] <= AGREE else "does NOT agree"
    return (
        f"gradient {verdict} with central differences: largest relative difference "
        f"{checked.difference[worst]:.1e} ({worst}: {checked.gradient[worst]:.9g} against "
        f"{checked.central[worst]:.9g})"
    )


def table(summary: Mapping[str, Any]) -> str:
    """Return a summary as text: the parameters, and the held-out rows beside persistence."""
    first = summary["origins"][0]["rows"]
    last = summary["origins"][-1]["rows"]
    count, lines = len(summary["origins"]), []
    lines.append(
        f"{summary['name']}: {summary['policy']}, {summary['agents']:,} agents, "
        f"{summary['series']}, {summary['measure']} by {summary['optimiser']}, "
        f"{summary['mode']} mode"
    )
    for one in summary["origins"]:
        rows = one["rows"]
        lines.append(
            f"rows {rows['scored']}..{rows['validation'] - 1} descended on, "
            f"..{rows['held_out'] - 1} validated on, ..{rows['stop'] - 1} held out: "
            f"best at step {one['best_step']} of {one['steps']} (ended by {one['stopped']})"
        )
    best = ["best"] if count == 1 else [f"best {number + 1}" for number in range(count)]
    names = ["parameter", "start", *best]
    cells = [
        [key, _number(value), *(_number(one["best"][key]) for one in summary["origins"])]
        for key, value in summary["start"].items()
    ]
    rows = [names, *cells]
    lines += ["", *aligned(rows, [""] * len(rows))]
    heading = [f"held out, rows {first['held_out']}..{last['stop'] - 1}", *_COLUMNS.values()]
    body = [
        [name, *(_number(figures[key]) for key in _COLUMNS)]
        for name, figures in summary["held_out"].items()
    ]
    rows = [heading, *body]
    lines += ["", *aligned(rows, [""] * len(rows))]
    lines += ["", "server .. worst agent: RMSE; costs: squared error per row. Means over seeds."]
    return "\n".join(lines)


def left(summary: Mapping[str, Any]) -> list[str]:
    """Return what an interruption cut off."""
    return ["the rest of the descent"]


def lost(summary: Mapping[str, Any]) -> bool:
    """Tell whether what was tuned has no finite figures on the held-out rows."""
    return summary["held_out"]["tuned"]["server_rmse"] is None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def to_csv(origins: Sequence[Origin]) -> str:
    """Return the history of every descent as CSV, one row per step."""
    text = io.StringIO()
    names = list(origins[0].tuned.history[0].parameters)
    writer = csv.writer(text, lineterminator="\n")
    slopes = [f"gradient {name}" for name in names]
    writer.writerow(["origin", "step", "objective", "validation", *names, *slopes])
    for number, one in enumerate(origins, 1):
        for index, step in enumerate(one.tuned.history):
            parameters = [repr(step.parameters[name]) for name in names]
            gradient = [repr(step.gradient[name]) for name in names]
            seen = [repr(step.objective), repr(step.validation)]
            writer.writerow([number, index, *seen, *parameters, *gradient])
    return text.getvalue()


def draw(origins: Sequence[Origin], measure: str, path: Path) -> None:
    """Draw the last descent: objective and validation, and the parameters relative to the start.

    Raises:
      FigureError: if matplotlib is not installed.
    """
    tuned = origins[-1].tuned
    best = tuned.history.index(tuned.best)
    with styled(4.5, 10.0) as figure:
        left, right = figure.subplots(1, 2)
        measured = {
            name: [getattr(one, name) for one in tuned.history]
            for name in ("objective", "validation")
        }
        draw_descent(left, measured, best, measure)
        names = list(tuned.history[0].parameters)
        draw_numbers(
            right, {name: [one.parameters[name] for one in tuned.history] for name in names}, best
        )
        replace(path, picture(figure))


def draw_descent(
    axes: Any, measured: Mapping[str, Sequence[float]], best: int, measure: str
) -> None:
    """Draw objective and validation by step, and mark the best step."""
    for place, (name, values) in enumerate(measured.items()):
        axes.plot(values, label=name, **curve(place))
    axes.set(title="descent", xlabel="step", ylabel=measure)
    _finish(axes, best)


def draw_numbers(axes: Any, values: Mapping[str, Sequence[float]], best: int) -> None:
    """Draw the tuned numbers by step; the entries of a list share a colour and a name."""
    places: dict[str, int] = {}
    for name, numbers in values.items():
        key = key_of(name)
        label = None if key in places else key
        place = places.setdefault(key, len(places))
        axes.plot(numbers, label=label, **curve(place))
    positive = all(number > 0 for numbers in values.values() for number in numbers)
    axes.set(title="parameters", xlabel="step", yscale="log" if positive else "symlog")
    _finish(axes, best)


def _finish(axes: Any, best: int) -> None:
    axes.axvline(best, color=GREY, linestyle=":", label="best")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
