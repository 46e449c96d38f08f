"""Nothing that is scored, weighed or scaled may depend on what comes later: the whole chain."""

import jax
import numpy as np
import pytest

from memoa_jax.encoders import echo_state
from memoa_jax.experts import (
    bernstein_aggregation,
    exponential_weights,
    fixed_share,
    polynomial_potentials,
)
from memoa_jax.mixture import ridge_mixture, uniform_mixture
from memoa_jax.participation import markov
from memoa_jax.policies import decentralized, heterogeneous
from memoa_jax.recording import Record
from memoa_jax.scaling import standardise
from memoa_jax.series import Series, seasonal
from memoa_jax.simulate import simulate

MIXTURES = {
    "ridge": ridge_mixture(),
    "forgetting ridge": ridge_mixture(discount=0.9),
    "uniform": uniform_mixture(),
    "ewa": exponential_weights(rate=0.5),
    "adahedge": exponential_weights(),
    "boa": bernstein_aggregation(),
    "mlpoly": polynomial_potentials(),
    "fixed share": fixed_share(rate=0.5, share=0.05),
}
POLICIES = {"moments": heterogeneous(horizon=2, features="moments", memory=0.9)}
"""By themselves, beside the forecast game with every mixture."""
CUT = 12  # rows after this one are altered, inputs and targets


def run(data, name):
    result = simulate(
        standardise(data, "both"),
        echo_state(3),
        POLICIES.get(name, decentralized(game="forecast", staleness=1)),
        MIXTURES.get(name, ridge_mixture()),
        num_agents=7,
        key=jax.random.key(4),
        dtype="float64",
        participation=markov(0.2, 0.5),
        record=Record(agents=tuple(range(7)), fields=("prediction", "control", "weights")),
    )
    return {"server": result.server, "mean field": result.mean_field, **result.recorded}


IN_SHORT = ("forgetting ridge", "adahedge", "fixed share", "moments")


@pytest.mark.parametrize(
    "name",
    [
        name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.slow)
        for name in (*MIXTURES, *POLICIES)
    ],
)
def test_an_altered_future_changes_no_prediction_weight_or_scale(name):
    data = seasonal(24, noise=0.3)
    later = np.arange(25) > CUT
    targets = np.where(later[:, None], 50.0 - data.targets, data.targets)
    inputs = np.where(later[:, None], 1e4 + 7 * data.inputs, data.inputs)
    kept = run(data, name)
    altered = run(Series(inputs, targets, "altered"), name)
    for field, values in kept.items():
        # Row t of predictions is for y_t, of controls and weights of step t, which has seen y_t.
        known = CUT + 1 if field in ("control", "weights") else CUT + 2
        np.testing.assert_array_equal(altered[field][:known], values[:known])
    assert np.abs(altered["server"][CUT + 2] - kept["server"][CUT + 2]).max() > 1e-6
