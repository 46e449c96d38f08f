"""Agents over the devices of a mesh: the numbers stay, and their bits where that is asked."""

import textwrap

import jax
import numpy as np
import pytest
from helpers import said_by
from jax.sharding import Mesh

from memoa_jax.encoders import random_features
from memoa_jax.mesh import spread
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import greedy
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate

SCRIPT = textwrap.dedent(
    """
    import sys
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    from memoa_jax import experts
    from memoa_jax.cost_spread import CostSpread
    from memoa_jax.encoders import echo_state, random_features
    from memoa_jax.game import GameCost
    from memoa_jax.mixture import ridge_mixture, uniform_mixture
    from memoa_jax.participation import bernoulli
    from memoa_jax.policies import affine, centralized, decentralized, greedy, heterogeneous
    from memoa_jax.recording import Record
    from memoa_jax.series import make_series
    from memoa_jax.simulate import simulate

    AGENTS = int(sys.argv[2])
    rng = np.random.default_rng(0)
    targets = np.cumsum(0.3 * rng.normal(size=(20, 2)), axis=0)
    targets[7] = np.nan
    series = make_series(rng.normal(size=(20, 2)), targets, "toy")
    ridge, some = ridge_mixture(0.7, 0.9, 0.5), bernoulli(0.7)
    loose = greedy(GameCost(effort=100.0), 5)
    CASES = {
        "greedy": (random_features(8), loose, ridge, None),
        "forecast": (echo_state(3), decentralized(game="forecast"), uniform_mixture(), some),
        "feedback": (echo_state(3), centralized(horizon=4), ridge, None),
        "offline": (
            echo_state(3),
            centralized(horizon=4, information="offline"),
            experts.polynomial_potentials(),
            some,
        ),
        "affine": (
            echo_state(3),
            affine(0.1 * rng.normal(size=(3, 2)), np.full((3, 2), 0.1), [[-0.2, 0.0]] * 3),
            uniform_mixture(),
            some,
        ),
        "own": (
            echo_state(3),
            heterogeneous(horizon=3, window=2, spread=CostSpread(0.3, 0.3, 0.3)),
            ridge,
            some,
        ),
        "moments": (
            echo_state(3),
            heterogeneous(horizon=3, window=2, features="moments", memory=0.9),
            ridge,
            some,
        ),
        "bernstein": (echo_state(3), loose, experts.bernstein_aggregation(), some),
        "share": (echo_state(3), loose, experts.fixed_share(0.5, 0.1), some),
        "hedge": (echo_state(3), loose, experts.exponential_weights(0.5), some),
    }
    TUNED = (echo_state(3), decentralized(game="forecast"), experts.exponential_weights(), some)


    def run(case, mesh=None, reproducible=False, dtype="float32", **changes):
        encoder, policy, mixture, participation = {**CASES, "tuned": TUNED}[case]
        return simulate(
            series, encoder, changes.get("policy", policy), mixture, num_agents=AGENTS,
            key=jax.random.key(1), dtype=dtype, mesh=mesh, reproducible=reproducible,
            participation=participation,
            record=Record(agents=(0, 77, 5002), fields=("prediction", "control", "weights")),
        )


    def mesh_of(count):
        return Mesh(np.array(jax.devices()[:count]), ("agents",))


    def arrays(result):
        whole = {name: getattr(result, name) for name in
                 ("server", "mean_field", "forecast", "agent_costs", "status")}
        return {name: np.asarray(one) for name, one in {**whole, **result.recorded}.items()}


    def same_bits(cases, counts, dtypes):
        for case in cases:
            for dtype in dtypes:
                found = [arrays(run(case, mesh_of(n) if n else None, True, dtype)) for n in counts]
                for name, values in found[0].items():
                    if name in ("server", "forecast", "weights"):
                        continue  # what the server makes of sums: up to rounding
                    assert values.any() or name == "status", (case, name)
                    bits = {one[name].tobytes() for one in found}
                    assert len(bits) == 1, (case, dtype, name, len(bits))


    def close(case, dtype, tolerance):
        alone = run(case, dtype=dtype)
        # Made as users make it: its axes are explicit.
        shards = run(case, jax.make_mesh((4,), ("agents",)), dtype=dtype)
        exact, found = arrays(alone), arrays(shards)
        for name, values in exact.items():
            scale = np.max(np.abs(values)) if values.any() else 1.0
            np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * scale)
        for name in alone.summary.__dataclass_fields__:
            a, b = getattr(shards.summary, name), getattr(alone.summary, name)
            np.testing.assert_allclose(a, b, rtol=100 * tolerance, err_msg=name)


    def transformed():
        grid = Mesh(np.array(jax.devices()).reshape(2, 4), ("runs", "agents"))

        def worst(effort, mesh=None):
            cost = GameCost(effort=effort)
            policy = decentralized(cost, horizon=3, window=1)
            result = run("greedy", mesh, policy=policy, dtype="float64")
            return jnp.sum(result.agent_costs) + jnp.sum(result.server)

        efforts = jnp.array([10.0, 30.0])
        both = lambda mesh: jax.vmap(jax.value_and_grad(lambda e: worst(e, mesh)))(efforts)
        for a, b in zip(both(grid), both(None), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8)
        forward = jax.jacfwd(lambda e: worst(e, grid))(10.0)
        np.testing.assert_allclose(forward, both(None)[1][0], rtol=1e-8)


    assert jax.device_count() == 8
    exec(sys.argv[1])
    print("done")
    """
)


def in_eight_devices(command, agents=5003, quick=False):  # a multiple of nothing
    assert said_by(SCRIPT, command, str(agents), devices=8, quick=quick) == "done"


@pytest.mark.parametrize(
    "command",
    [
        'same_bits(["forecast"], [2, 8], ["float32"])',
        pytest.param('same_bits(["greedy"], [1, 8], ["float32"])', marks=pytest.mark.slow),
        pytest.param('same_bits(["affine"], [None, 1, 4], ["float32"])', marks=pytest.mark.slow),
        pytest.param('same_bits(CASES, [None, 1, 2, 4, 8], ["float32"])', marks=pytest.mark.slow),
        pytest.param('same_bits(CASES, [1, 2, 4, 8], ["float64"])', marks=pytest.mark.slow),
    ],
)
def test_a_reproducible_run_is_the_same_bits_on_any_number_of_devices(command):
    in_eight_devices(command)  # as users compile: which sums are fused decides the last bit


@pytest.mark.parametrize(
    ("command", "quick"),
    [
        ('close("feedback", "float64", 1e-10)', True),
        *(
            pytest.param(command, False, marks=pytest.mark.slow)
            for command in (
                'close("feedback", "float64", 1e-10)',
                'close("own", "float64", 1e-10)',
                'close("moments", "float64", 1e-10)',
                'close("greedy", "float32", 1e-4)',
                'close("tuned", "float64", 1e-10)',
            )
        ),
    ],
)
def test_several_devices_give_what_one_gives(command, quick):
    in_eight_devices(command, quick=quick)


@pytest.mark.slow
def test_so_is_one_so_large_that_systems_are_solved_some_at_a_time():
    in_eight_devices('same_bits(["greedy", "forecast"], [1, 8], ["float32"])', agents=70_001)


@pytest.mark.slow
def test_gradients_and_maps_pass_through_a_mesh_of_two_axes():
    in_eight_devices("transformed()")


def test_a_mesh_without_agents_is_refused():
    mesh = Mesh(np.array(jax.devices()[:1]), ("runs",))
    series = make_series(np.zeros((4, 1)), np.zeros((4, 1)), "flat")
    with pytest.raises(ValueError, match=r"axes 'runs': allowed is .* an axis 'agents'"):
        simulate(
            series,
            random_features(2),
            greedy(),
            ridge_mixture(),
            num_agents=2,
            key=jax.random.key(0),
            mesh=mesh,
        )


def test_places_cover_the_population_and_groups_depend_on_nothing_else():
    mesh = jax.make_mesh((1,), ("agents",))
    for agents in (1, 63, 64, 5003, 10**6, 10**8):
        shards = spread(mesh, agents, reproducible=True)
        assert shards.places >= agents
        assert shards.size % shards.grain == 0
        assert shards.places - agents < shards.grain
        assert spread(mesh, agents, reproducible=False).places == agents
