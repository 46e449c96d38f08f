"""The figures of what stands beside a run: a verification, and a measurement of scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memoa_jax.figure_style import Picture, logarithmic, look, picture, plain, styled
from memoa_jax.figures import panels

_QUANTILES = (
    "Left of the dashed line the policy is better. Thin: 5 to 95 %, thick: 25 to 75 %, dot: "
    "median; what ends at 0.02 goes on further left."
)
_SAYS = {
    "convergence": "How far the gains of the exact equilibrium of N agents are from those of the "
    "mean-field limit; a slope of -1 is a difference that falls like 1/N.",
    "exploitability": "What a single agent could gain by leaving the policy, if all others keep to "
    "it; 0 is an equilibrium. Slope -2 is a gain that falls like 1/N^2.",
    "minimax": "How far the decentralized policy is from the best that the weakest agent can be "
    "given.",
    "anarchy": "What all agents together pay for deciding alone, as a multiple of what they would "
    "pay under a joint optimum; 1 is no loss.",
    "monte-carlo": "Costs found by playing the game out against those computed exactly, in "
    "standard errors of the mean; between the dashed lines they agree.",
    "regret": "What realised runs of the decentralized policy cost more than the centralized one.",
    "games": f"Expected costs against rivals over random games. {_QUANTILES}",
    "series": f"Realised errors against greedy agents over series and seeds. {_QUANTILES}",
}
_TITLES = {
    "convergence": "Convergence to the mean-field limit",
    "exploitability": "Exploitability",
    "minimax": "The weakest agent",
    "anarchy": "Price of anarchy",
    "monte-carlo": "Exact against realised costs",
    "regret": "Regret to the centralized policy",
    "games": "Random games",
    "series": "Series",
}


def verification(report: Mapping[str, Any]) -> Iterator[Picture]:
    """Draw what `memoa verify` measured, a figure for each part that was run and has one."""
    for part, draw in panels(report).items():
        with styled(4.2) as figure:
            draw(figure.add_subplot())
            png = picture(figure)
        measured = [one for one in report["statements"] if one["part"] == part]
        failed = [one["name"] for one in measured if one["holds"] is False]
        verdict = f"DOES NOT HOLD: {'; '.join(failed)}." if failed else "No statement of it fails."
        found = "; ".join(f"{one['name']}: {one['measured']}" for one in measured)
        title, says = _TITLES[part], f"{_SAYS[part]} {verdict}"
        yield Picture(f"verify-{part}", title, f"{title}. {found}", says, png)


def scaling(report: Mapping[str, Any]) -> Iterator[Picture]:
    """Draw time and memory against the number of agents, a curve per policy and schedule."""
    rows = report["rows"]
    facts = report.get("facts", {})
    kinds = {
        "ns": (
            "scaling-time",
            "Time per agent and step",
            "nanoseconds per agent-step",
            "Where the line is flat, an agent costs the same however many there are.",
        ),
        "peak_mb": (
            "scaling-memory",
            "Memory",
            "peak of the process [MB]",
            "A resident run holds all agents; a stream holds a block of them, whatever N.",
        ),
    }
    for key, (name, title, label, says) in kinds.items():
        with styled(4.4) as figure:
            axes = figure.add_subplot()
            curves = _curves(axes, rows, key)
            axes.set(title=title, xscale="log", xlabel="number of agents N", ylabel=label)
            logarithmic(axes.yaxis)
            figure.legend(loc="outside lower center", ncols=2)
            png = picture(figure)
        largest = max((row["agents"] for row in rows), default=0)
        yield Picture(
            name=name,
            title=title,
            alt=f"{title} against the number of agents, up to {largest:,.0f}, logarithmic axes; "
            f"{'; '.join(curves)}.",
            caption=f"{says} Filled markers and full lines: stream; hollow and dashed: resident. "
            f"Measured on: {_device(facts)}.",
            png=png,
        )


def _device(facts: Mapping[str, Any]) -> str:
    devices = facts.get("devices") or {}
    found = [str(facts[key]) for key in ("processor", "machine", "system") if facts.get(key)]
    if devices:
        found.append(f"{devices.get('count')} x {devices.get('kind')}")
    return ", ".join(found) or "a machine that the file does not name"


def _curves(axes: Any, rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Draw a curve for each policy and schedule; return what is on them, in words."""
    told = []
    for place, policy in enumerate(dict.fromkeys(row["policy"] for row in rows)):
        for schedule in ("stream", "resident"):
            points = sorted(
                (row["agents"], math.nan if row[key] is None else row[key])
                for row in rows
                if row["policy"] == policy and row["schedule"] == schedule
            )
            if not points:
                continue
            agents, values = zip(*points, strict=True)
            hollow = {"linestyle": "--", "fillstyle": "none"} if schedule == "resident" else {}
            name = f"{policy}, {schedule}"
            axes.plot(agents, values, label=plain(name), **{**look(place), **hollow})
            told.append(f"{name}: {values[0]:.4g} to {values[-1]:.4g}")
    return told
