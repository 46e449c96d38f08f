"""Gradients block by block against those of all agents together."""

import jax
import numpy as np
import pytest

from memoa_jax import (
    CostSpread,
    GameCost,
    decentralized,
    greedy,
    heterogeneous,
    random_features,
    ridge_mixture,
    series,
    simulate,
)
from memoa_jax.stream_gradient import stream_gradient
from memoa_jax.tuning import objective_of, value_and_gradient

KEY = jax.random.key(1)
START = {"effort": 0.6, "consensus": 1.4, "noise": 0.2, "kappa": 0.7, "eta": 0.9}
POLICIES = {
    "greedy": lambda cost: greedy(cost, window=2),
    "offline": lambda cost: decentralized(cost, horizon=3, information="offline"),
    "feedback": lambda cost: decentralized(cost, horizon=4),
    "forecast": lambda cost: decentralized(cost, game="forecast"),
    "own": lambda cost: heterogeneous(cost, horizon=3, spread=CostSpread(0.3, 0.3, 0.3)),
    "moments": lambda cost: heterogeneous(cost, horizon=3, features="moments", memory=0.9),
}
LIVED = series.part(series.logistic(12), scored_from=3)


def made_of(policy):
    def made(parameters):
        cost = GameCost(consensus=parameters["consensus"], effort=parameters["effort"])
        mixture = ridge_mixture(parameters["kappa"], parameters["eta"])
        return random_features(3, parameters["noise"]), POLICIES[policy](cost), mixture

    return made


def agree(policy, measure, temperature, *, block, mode="forward", start=START):
    """13 agents in blocks, the last of which is not full."""
    made = made_of(policy)
    how = {"num_agents": 13, "key": KEY, "dtype": "float64"}
    follow = stream_gradient(
        LIVED, made, start, measure, temperature, block=block, mode=mode, **how
    )

    def objective(parameters):
        return objective_of(simulate(LIVED, *made(parameters), **how), measure, temperature)

    together = value_and_gradient(objective, len(start), "forward")
    for factor in (1.0, 1.3):
        here = {name: factor * value for name, value in start.items()}
        value, gradient = follow(here)
        expected, slopes = together(here)
        np.testing.assert_allclose(value, expected, rtol=1e-9)
        for name in start:
            np.testing.assert_allclose(
                gradient[name], slopes[name], rtol=1e-7, atol=1e-10, err_msg=name
            )


@pytest.mark.parametrize(
    ("policy", "measure", "temperature", "block", "mode"),
    [
        ("forecast", "server_rmse", 0.0, 5, "forward"),
        ("greedy", "worst_agent_cost", 0.2, 8, "reverse"),
        *(
            pytest.param(policy, measure, temperature, 5, mode, marks=pytest.mark.slow)
            for policy in POLICIES
            for measure, temperature in (
                ("server_rmse", 0.0),
                ("mean_agent_cost", 0.0),
                ("worst_agent_cost", 0.0),
                ("worst_agent_cost", 0.2),
            )
            for mode in ("forward", "reverse")
        ),
    ],
)
def test_blocks_give_the_gradient_of_all_agents_together(policy, measure, temperature, block, mode):
    agree(policy, measure, temperature, block=block, mode=mode)


def test_a_second_point_compiles_nothing():
    made = made_of("greedy")
    follow = stream_gradient(
        LIVED, made, START, "mean_agent_cost", num_agents=9, key=KEY, dtype="float64", block=4
    )
    follow(START)
    compiled = []

    def listen(event, duration, **_):
        if event.endswith("/backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        follow({name: 1.1 * value for name, value in START.items()})
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


def test_what_cannot_be_streamed_is_refused():
    from memoa_jax import exponential_weights

    def made(parameters):
        return random_features(2, parameters["noise"]), greedy(), exponential_weights()

    with pytest.raises(ValueError, match="needs every agent's weight at every step"):
        stream_gradient(LIVED, made, {"noise": 0.1}, "server_rmse", num_agents=3, key=KEY)
