"""Folders of results made of a few numbers, as the commands write them: no simulation."""

import json

import numpy as np

from memoa_jax.choices import METRICS
from memoa_jax.cost_counts import CostCounts
from memoa_jax.report import Comparison, Finished, summarise, to_json, write, write_files
from memoa_jax.sample import LEVELS, band

FACTS = {"memoa_jax": "0.1.0", "device": "cpu", "dtype": "float32", "seed": 0, "inputs": {}}
CONFIG = '[series]\nkind = "logistic"\nscored_from = 1\n'
POINTS, AGENTS = 90, 40


def lives(seed, *, spread=0.05, points=POINTS, outputs=1):
    """Return targets [n, d], with a gap, and 40 agents' predictions of them [n, 40, d]."""
    rng = np.random.default_rng(seed)
    targets = np.sin(np.arange(POINTS)[:, None] / 5 + np.arange(outputs))
    predictions = targets[:, None] + spread * rng.normal(size=(POINTS, AGENTS, outputs))
    targets[20:23] = np.nan
    return targets, predictions[:points].astype(np.float32)


def finished(label, targets, predictions, *, diverged=0, worst_rmse=None):
    """Return what a run keeps of a policy whose agents predicted so."""
    rows = len(predictions)
    errors = (predictions.astype(float) - targets[:rows, None]) ** 2
    costs = np.where(np.isnan(targets[:rows, None]), 0.0, errors)[1:].sum(axis=(0, 2))
    mean = predictions.mean(axis=1)
    counts = CostCounts.none().add(costs, rows - 1)
    edges, bars = counts.coarse()
    quantiles, lost = band(predictions)
    found = float(np.sqrt(costs.max() / (rows - 1))) if worst_rmse is None else worst_rmse
    return Finished(
        label=label,
        kind="greedy",
        game="hindsight",
        metrics=dict.fromkeys((*METRICS, "best_readout_worst_cost"), 0.2)
        | {"worst_agent_rmse": found},
        worst_agent=int(np.argmax(np.where(np.isfinite(costs), costs, np.inf))),
        diverged_agents=diverged,
        status=0,
        notes=[],
        seconds=1.0,
        compile_seconds=0.5,
        trajectories={
            f"server/{label}": mean,
            f"mean_field/{label}": mean,
            "band/agents": np.arange(AGENTS),
            "band/levels": np.array(LEVELS),
            f"band/{label}/quantiles": quantiles,
            f"band/{label}/lost": lost,
            f"costs/{label}/edges": edges,
            f"costs/{label}/counts": bars,
            f"costs/{label}/lost": counts.lost,
        },
    )  # fmt: skip


def write_run(folder, policies, targets, *, partial=None, not_run=(), name="made"):
    """Write the folder of a run; return it."""
    found = Comparison(
        name=name,
        agents=AGENTS,
        seed=0,
        dtype="float32",
        series="logistic",
        steps=POINTS - 1,
        outputs=targets.shape[1],
        scored_steps=POINTS - 4,
        persistence=0.25,
        running_mean=0.7,
        policies=policies,
        not_run=not_run,
        partial=partial or {},
    )
    arrays = {"targets": targets}
    for one in policies:
        arrays |= one.trajectories
    folder.mkdir(exist_ok=True)
    write(folder, summarise(found), arrays, CONFIG, FACTS)
    return folder


def plain_run(folder, **how):
    """Write a run of two policies."""
    targets, predictions = lives(0)
    _, wide = lives(1, spread=0.3)
    two = [finished("calm", targets, predictions), finished("wide", targets, wide)]
    return write_run(folder, two, targets, **how)


def wild_run(folder):
    """Write a run whose agents run away: some are no numbers, and so is the server."""
    targets, predictions = lives(2)
    predictions[30:, 3] = np.nan
    predictions[40:, 4] = np.inf
    predictions[10:, 5] = 3e7
    calm = finished("calm", *lives(0))
    wild = finished("wild", targets, predictions, diverged=3, worst_rmse=float("nan"))
    return write_run(folder, [calm, wild], targets)


def write_study(folder):
    """Write the folder of a study of two series, of which one seed is missing."""
    figure = {"mean": 0.3, "min": 0.2, "max": 0.4, "standard_deviation": 0.05, "per_seed": [0.2]}
    lost = dict.fromkeys(figure)
    names = ("server_rmse", "mean_agent_rmse", "worst_agent_rmse")
    plain = {"notes": [], "diverged_agents": [0], "diverged_seeds": 0, "seeds": [0, 1]}
    good = {**plain, **dict.fromkeys(names, figure), "non_finite": []}
    bad = {
        **plain,
        **dict.fromkeys(names, lost),
        "diverged_seeds": 1,
        "diverged_agents": [7],
        "seeds": [0],
        "non_finite": list(names),
    }
    series = {
        "published": None,
        "baselines": {"persistence": 0.31, "running_mean": 0.9, "non_finite": []},
        "encoders": {"echo_state": {"policies": {"calm": good, "wild": bad}}},
    }
    summary = {
        "name": "several",
        "interrupted": True,
        "not_run": [{"series": "b", "encoder": "echo_state", "seed": 1, "policies": ["wild"]}],
        "agents": 40,
        "seeds": [0, 1],
        "dtype": "float32",
        "series": {"a": series, "b": series},
        "seconds": 3.0,
    }
    return _written(folder, {"summary.json": to_json(summary), "config.toml": CONFIG})


def _written(folder, files):
    folder.mkdir(exist_ok=True)
    write_files(folder, {name: text.encode() for name, text in files.items()}, FACTS)
    return folder


VERIFICATION = {
    "holds": False,
    "interrupted": True,
    "not_run": ["regret"],
    "seconds": {"convergence": 1.0, "exploitability": 1.0},
    "statements": [
        {
            "part": part,
            "name": part,
            "claim": "falls like 1/N",
            "measured": f"slope {slope}",
            "allowed": "-1 +/- 0.1",
            "holds": holds,
            "data": {
                "populations": [10, 100, 1000],
                "errors": {"own": [0.1, 0.01, None]},
                "slopes": {"own": slope},
            },
        }
        for part, slope, holds in (("convergence", -1.0, True), ("exploitability", -0.5, False))
    ],
    "memoa_jax": "0.1.0",
    "jax": "0.10.1",
    "device": "cpu",
}
SCALING = {
    "facts": {"processor": "a <processor>", "devices": {"count": 2, "kind": "cpu"}},
    "rows": [
        {"policy": "greedy", "schedule": kind, "agents": n, "ns": 50.0 + n / 1e5, "peak_mb": n / 10}
        for kind in ("stream", "resident")
        for n in (100, 10_000)
    ],
}


def write_json(path, content):
    """Write a file of plain data; return its path."""
    path.write_text(json.dumps(content))
    return path
