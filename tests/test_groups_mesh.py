"""Groups over the devices of a mesh: the numbers stay, and their bits where that is asked."""

import textwrap

import pytest
from helpers import said_by

SCRIPT = textwrap.dedent(
    """
    import sys
    import jax
    import numpy as np
    from jax.sharding import Mesh

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    from memoa_jax import GameCost, decentralized, echo_state, greedy, grouped, random_features
    from memoa_jax import simulate, uniform_mixture
    from memoa_jax.participation import bernoulli
    from memoa_jax.series import brownian

    SIZES = (701, 1, 301)  # multiples of nothing; a shard holds one group, two or three
    COST = GameCost(effort=(0.3, 0.8, 0.5), consensus=(0.5, 2.0, 0.1))
    POLICIES = {
        "greedy": greedy(GameCost(effort=(50.0, 70.0, 90.0)), groups=3),
        "forecast": decentralized(COST, game="forecast", groups=3),
        "feedback": decentralized(COST, horizon=3, groups=3),
    }
    ENCODER = grouped([echo_state(2), random_features(1), echo_state(3, 0.5)])


    def run(name, count, **options):  # 0: no mesh is given
        mesh = Mesh(np.array(jax.devices()[:count]), ("agents",)) if count else None
        found = simulate(
            brownian(8), ENCODER, POLICIES[name], uniform_mixture(), num_agents=sum(SIZES),
            key=jax.random.key(1), mesh=mesh, groups=SIZES, keep_costs=True, **options,
        )
        return [np.asarray(x) for x in (
            found.agent_costs, found.mean_field, *jax.tree.leaves(found.groups))]


    for name in sys.argv[2:]:
        some = {"participation": bernoulli(0.7), "dtype": "float64"}
        alone = run(name, None, **some)
        for one, other in zip(alone, run(name, 4, **some), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)
        for how in ({"reproducible": True}, {"schedule": "stream", "block": 128}):
            first, *others = (run(name, count, **how) for count in map(int, sys.argv[1].split()))
            for found in others:
                # The costs of all agents and the mean field; of a stream its figures, too.
                same = 2 if "reproducible" in how else None
                for one, other in zip(first[:same], found[:same], strict=True):
                    assert one.tobytes() == other.tobytes(), (name, how)
                for one, other in zip(first, found, strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-5)
    print("done")
    """
)


@pytest.mark.parametrize(
    ("quick", "words"),
    [
        (True, ("0 1 2", "greedy")),
        pytest.param(False, ("0 1 2 4", "greedy", "forecast", "feedback"), marks=pytest.mark.slow),
    ],
    ids=["quick", "all"],
)
def test_groups_are_the_same_on_any_number_of_devices(quick, words):
    assert said_by(SCRIPT, *words, devices=4, quick=quick) == "done"
