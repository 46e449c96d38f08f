"""Mixtures over agents that live on several devices: placement only, the numbers stay."""

import textwrap

import pytest
from helpers import said_by

SCRIPT = textwrap.dedent(
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.config.update("jax_enable_x64", True)
    from memoa_jax.experts import (
        bernstein_aggregation, exponential_weights, fixed_share, polynomial_potentials
    )
    from memoa_jax.mixture import play, ridge_mixture, uniform_mixture

    assert jax.device_count() == 4
    rng = np.random.default_rng(0)
    predictions, targets = rng.normal(size=(12, 8, 2)), rng.normal(size=(12, 2))
    present = rng.random((12, 8)) < 0.8
    mesh = Mesh(np.array(jax.devices()), ("agents",))

    def placed(array, *axes):
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))

    spread = placed(predictions, None, "agents"), targets, placed(present, None, "agents")
    for mixture in (
        ridge_mixture(), ridge_mixture(discount=0.9), uniform_mixture(), exponential_weights(),
        exponential_weights(0.5), bernstein_aggregation(), polynomial_potentials(),
        fixed_share(0.5, 0.1),
    ):
        alone = play(mixture, predictions, targets, present)
        together = play(mixture, *spread)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    print("same numbers")
    """
)


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_four_devices_and_one_give_the_same_weights_and_outputs(quick):
    assert said_by(SCRIPT, devices=4, quick=quick) == "same numbers"
