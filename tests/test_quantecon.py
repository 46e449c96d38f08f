"""The exact equilibria of two agents against an independent library, QuantEcon's `nnash`.

`nnash` knows the stationary equilibrium of an infinite horizon, so the package's gains are read at
the start of a long one. How the two games correspond is told in reference/make_quantecon.py.
"""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.nash import solve_nash
from memoa_jax.nash_types import solve_nash_types
from memoa_jax.types import Status

REFERENCE = pathlib.Path(__file__).parent / "reference"
CASES = json.loads((REFERENCE / "quantecon_nnash.json").read_text())["cases"]
HORIZON = 300


def label(case):
    d, p = np.shape(case["features"])[1:]
    return f"{'alike' if case['alike'] else 'types'}-d{d}-p{p}-beta{case['beta']}"


def close(actual, expected, relative):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale)


def by_memoa(case, number):
    """F1 and F2, [2, p, 2d+1], with `number` agents in place of each player (None: the limit)."""
    m = np.array(case["features"])[:, None].repeat(HORIZON, axis=1)
    moments = FeatureMoments(m, np.einsum("itak,itbl->itabkl", m, m))
    targets = np.tile(case["target"], (HORIZON, 1))
    cost = {name: np.array(case[name]) for name in ("tracking", "consensus", "ensemble", "effort")}
    # delta_t = exp(-forgetting (T-1-t)) is proportional to beta^t.
    forgetting = np.log(case["beta"])
    if case["alike"]:
        cost = GameCost(**{name: both[0] for name, both in cost.items()}, forgetting=forgetting)
        moments = FeatureMoments(moments.mean[0], moments.second[0])
        result = solve_nash(cost, moments, targets, number and 2 * number)
        own, mean, offset = (
            np.stack(2 * [getattr(result.gains, name)[0]]) for name in ("own", "mean", "offset")
        )
        mean = np.concatenate([mean / 2, mean / 2], axis=2)  # Ybar = (Y^1 + Y^2) / 2
    else:
        cost = GameCost(**cost, forgetting=forgetting)
        result = solve_nash_types(cost, moments, targets, 2 * [number], case["weights"])
        own, mean, offset = (
            np.array(getattr(result.gains, name)[:, 0]) for name in ("own", "mean", "offset")
        )
    assert result.status == Status.OK
    d = own.shape[2]
    for i in range(2):
        mean[i, :, i * d : (i + 1) * d] += own[i]
    return np.concatenate([mean, offset[:, :, None]], axis=2)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_two_agents_play_as_quantecon_says(case):
    expected = np.array([case["F1"], case["F2"]])
    # nnash stops at 1e-13; measured 2e-13 at most.
    close(by_memoa(case, 1), expected, 2e-12)
    # The mean-field limit is another game, and the numbers tell.
    assert np.abs(by_memoa(case, None) - expected).max() > 1e-3


def test_the_stored_numbers_are_quantecons():
    pytest.importorskip("quantecon", reason="solves the stored games again: pip install quantecon")
    spec = importlib.util.spec_from_file_location("mq", REFERENCE / "make_quantecon.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    for case in CASES:
        close(np.stack(make.solve_by_quantecon(case)), [case["F1"], case["F2"]], 1e-12)
