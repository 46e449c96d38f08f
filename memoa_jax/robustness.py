"""The study `memoa robustness`: what agents that differ lose where they plan as if they were alike.

Exact games of a small population (`robustness_games`) and online runs of a larger one
(`robustness_runs`), over kinds and levels of difference (`unlike`) and seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memoa_jax import canary, robustness_games, series
from memoa_jax._version import __version__
from memoa_jax.figure_style import FigureError
from memoa_jax.files import replace
from memoa_jax.game import GameCost
from memoa_jax.progress import SILENT, Watch
from memoa_jax.report import platform_facts, to_json
from memoa_jax.robustness_figure import figure_of
from memoa_jax.robustness_runs import Runs
from memoa_jax.robustness_table import markdown
from memoa_jax.scaling import standardise
from memoa_jax.unlike import LEVELS, unlike

COST = {"tracking": 1.0, "consensus": 1.0, "ensemble": 1.0, "effort": 0.5, "forgetting": 0.0}
"""What the median agent pays; `ensemble` is what makes a Nash equilibrium differ from the team."""
STEPS = 200
NAMES = {"json": "robustness.json", "table": "robustness.md", "figure": "robustness.png"}


def study(
    kinds: Sequence[str],
    folder: Path,
    say: Callable[[str], None],
    *,
    seeds: int = 5,
    agents: int = 12,
    crowd: int = 100,
    watch: Watch = SILENT,
) -> dict[str, Any]:
    """Run the study, write robustness.json, .md and .png, and return the report.

    Every seed draws a population, its features and the windows of the logistic map that its games
    are over. A keyboard interrupt ends the study early: kinds that are whole are written.

    Args:
      kinds: of `unlike.LEVELS`, in the order to run them.
      folder: an existing folder.
      say: receives one line of progress per kind.
      seeds: how many populations are drawn at each level.
      agents: N of the exact games, each with one agent per type: O(N^4) each.
      crowd: N of the online runs.
      watch: told which kind is run.

    Raises:
      RuntimeError: if the installed jax computes wrong numbers.
      OSError: if a file cannot be written.
      KeyboardInterrupt: if interrupted before the first kind was whole.
    """
    canary.check_build()
    begun, cells, done = time.perf_counter(), [], []
    compared = _Compared(GameCost(**COST), seeds, agents, crowd)
    try:
        for number, kind in enumerate(kinds, start=1):
            watch.event("progress", name=kind, part=number, parts=len(kinds))
            start = time.perf_counter()
            cells += [compared.at(kind, level) for level in LEVELS[kind]]
            done.append(kind)
            seconds = time.perf_counter() - start
            watch.event("part", name=kind, seconds=seconds, failed=[])
            say(f"{kind}: {seconds:.1f} s ({number} of {len(kinds)})")
    except KeyboardInterrupt:
        if not done:
            raise
    report = {
        "cells": cells,
        "interrupted": len(done) < len(kinds),
        "not_run": [kind for kind in kinds if kind not in done],
        "seeds": list(range(seeds)),
        "agents": agents,
        "crowd": crowd,
        "series": "logistic",
        "steps": STEPS,
        "horizon": robustness_games.HORIZON,
        "windows": robustness_games.WINDOWS,
        "cost": COST,
        "persistence": compared.runs.persistence(),
        "seconds": round(time.perf_counter() - begun, 2),
        "memoa_jax": __version__,
        **{package: version(package) for package in ("jax", "jaxlib", "numpy")},
        **platform_facts(),
        "device": jax.devices()[0].device_kind,
    }
    replace(folder / NAMES["json"], to_json(report).encode())
    replace(folder / NAMES["table"], markdown(report).encode())
    try:
        replace(folder / NAMES["figure"], figure_of(report))
    except FigureError as error:
        say(f"no figure: {error}")
    return report


class _Compared:
    """What the policies come to at each level; agents alike are the same in every kind."""

    def __init__(self, cost: GameCost, seeds: int, agents: int, crowd: int) -> None:
        self.cost, self.seeds, self.agents, self.crowd = cost, seeds, agents, crowd
        self.series = standardise(series.logistic(STEPS))
        self.runs = Runs(self.series, cost, robustness_games.HORIZON)
        self._alike: dict[str, Any] | None = None

    def at(self, kind: str, level: float) -> dict[str, Any]:
        """Return the figures of a kind and level: lists over seeds, by policy."""
        found = self._alike if level == 0 else None
        if found is None:
            found = self._judged(kind, level)
        if level == 0:
            self._alike = found
        return {"kind": kind, "level": level, **found}

    def _judged(self, kind: str, level: float) -> dict[str, Any]:
        games, runs = [], []
        inputs = self.series.inputs.shape[1]
        for seed in range(self.seeds):
            few, many = (
                unlike(kind, level, agents=count, inputs=inputs, seed=seed)
                for count in (self.agents, self.crowd)
            )
            begins = robustness_games.windows_of(self.series, seed)
            paid = robustness_games.play(few, self.series, self.cost, begins)
            games.append(
                {
                    name: {"mean": float(np.mean(each)), "worst": float(np.max(each))}
                    for name, each in paid.items()
                }
            )
            runs.append(self.runs.play(many, seed))
        return {"games": _over_seeds(games), "runs": _over_seeds(runs)}


def _over_seeds(
    found: Sequence[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, list[float | None]]]:
    """Return by policy and figure the values over seeds; one that is not finite is None."""
    return {
        policy: {
            key: [one[policy][key] if np.isfinite(one[policy][key]) else None for one in found]
            for key in figures
        }
        for policy, figures in found[0].items()
    }
