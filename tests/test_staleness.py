"""The hindsight game when the mean field is broadcast late: rolled forward by the gains since."""

import jax
import numpy as np
import pytest

from memoa_jax.encoders import given_features
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.nash import solve_nash
from memoa_jax.policies import decentralized
from memoa_jax.recording import Record
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate

COST, T, N, D, P, POINTS = GameCost(consensus=2.0, effort=0.7), 4, 4, 2, 2, 10
RNG = np.random.default_rng(0)
Y = np.cumsum(RNG.normal(size=(POINTS, D)), axis=0)
Z = RNG.normal(size=(POINTS, N, D, P)) + 0.5


def predictions(**options):
    result = simulate(
        make_series(Y, Y, "made"),
        given_features(Z),
        decentralized(COST, horizon=T, **options),
        ridge_mixture(),
        num_agents=N,
        key=jax.random.key(0),
        dtype="float64",
        record=Record(agents=tuple(range(N))),
    )
    return np.asarray(result.recorded["prediction"])


def plain(t, staleness):
    """Predictions for t + 1: the last T steps lived through again, in a plain loop."""
    steps = range(t - T, t)
    moments = FeatureMoments.from_samples(Z[list(steps)])
    gains = jax.tree.map(np.asarray, solve_nash(COST, moments, Y[t - T + 1 : t + 1], None).gains)
    states, path = np.tile(Y[t - T], (N, 1)), [Y[t - T]]
    for s in range(T):
        known = path[max(s - staleness, 0)]
        for r in range(max(s - staleness, 0), s):
            move = (gains.own[r] + gains.mean[r]) @ known + gains.offset[r]
            known = known - np.asarray(moments.mean)[r] @ move
        control = -(states @ gains.own[s].T + gains.mean[s] @ known + gains.offset[s])
        states = states + np.einsum("nap,np->na", Z[t - T + s], control)
        path.append(states.mean(0))
    return states + np.einsum("nap,np->na", Z[t], control)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_against_a_plain_loop(staleness):
    got = predictions(staleness=staleness)
    for t in range(T, POINTS - 1):
        np.testing.assert_allclose(got[t + 1], plain(t, staleness), rtol=1e-10)
    # From a common start the first step is foreseen exactly: the last two delays are one.
    if staleness < T - 2:
        assert np.abs(plain(6, staleness) - plain(6, staleness + 1)).max() > 1e-6


def test_later_than_the_horizon_is_offline():
    offline = predictions(information="offline")
    for staleness in (T, T + 4):
        np.testing.assert_allclose(predictions(staleness=staleness), offline, rtol=1e-12)
