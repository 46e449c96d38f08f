"""Tuning: objectives, gradients against central differences, bijections, descent."""

import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import (
    GameCost,
    centralized,
    decentralized,
    echo_state,
    given_features,
    greedy,
    random_features,
    ridge_mixture,
    series,
    simulate,
    uniform_mixture,
    views,
)
from memoa_jax.choices import Constraint, Optimiser
from memoa_jax.tuning import (
    check_gradient,
    chosen_mode,
    constrain,
    objective_of,
    tune,
    unconstrain,
    value_and_gradient,
)

KEY = jax.random.key(0)
START = {
    "tracking": 1.1,
    "consensus": 1.5,
    "ensemble": 0.2,
    "effort": 0.7,
    "forgetting": 0.05,
    "noise": 0.2,
    "kappa": 0.8,
    "eta": 0.9,
}
POLICIES = {
    "greedy": lambda cost, more: greedy(cost, window=2),
    "greedy forecast": lambda cost, more: greedy(cost, game="forecast", **more),
    "feedback": lambda cost, more: decentralized(cost, horizon=3, window=2),
    "offline": lambda cost, more: decentralized(cost, horizon=3, information="offline"),
    "late": lambda cost, more: decentralized(cost, horizon=3, staleness=1, sync_every=2),
    "centralized": lambda cost, more: centralized(cost, horizon=3),
    "forecast": lambda cost, more: decentralized(cost, game="forecast", **more),
    "centralized forecast": lambda cost, more: centralized(cost, game="forecast", **more),
}
ENCODERS = {
    "random features": lambda noise: random_features(3, noise),
    "echo state": lambda noise: echo_state(3, noise),
    "views": lambda noise: views(random_features(3, noise), max_delay=1, offset=noise, noise=0.1),
}
MEASURES = [("server_rmse", 0.0), ("mean_agent_cost", 0.0), ("worst_agent_cost", 0.3)]


def run_of(policy, encoder, *, steps=14, agents=6, chunk=None, measure="server_rmse", **how):
    """Return an objective of a run's parameters, and where to look at it."""
    lived = series.part(series.logistic(steps), scored_from=4)
    start = START | ({"ridge": 0.3, "discount": 0.9} if "forecast" in policy else {})

    def objective(parameters):
        cost = GameCost(**{name: parameters[name] for name in list(START)[:5]})
        more = {name: parameters[name] for name in ("ridge", "discount") if name in parameters}
        result = simulate(
            lived,
            ENCODERS[encoder](parameters["noise"]),
            POLICIES[policy](cost, more),
            ridge_mixture(parameters["kappa"], parameters["eta"]),
            num_agents=agents,
            key=KEY,
            dtype="float64",
            chunk=chunk,
        )
        return objective_of(result, measure, **how)

    return objective, start


def agrees(policy, encoder, **how):
    objective, start = run_of(policy, encoder, **how)
    found = check_gradient(objective, start)
    assert all(map(math.isfinite, found.gradient.values()))
    assert max(found.difference.values()) < 1e-6, found
    # Every parameter that the policy looks at matters.
    used = set(start) - ({"tracking", "consensus", "ensemble"} if policy == "greedy" else set())
    used -= {"consensus", "ensemble", "forgetting"} if policy == "greedy forecast" else set()
    used -= {"ensemble", "forgetting"} if policy.endswith("forecast") else set()
    used -= {"ensemble"} if policy in ("feedback", "offline", "late") else set()
    used -= set() if how["measure"] == "server_rmse" else {"kappa", "eta"}
    idle = {name for name in used if found.gradient[name] == 0}
    assert not idle, idle


@pytest.mark.parametrize("case", [("feedback", "echo state"), ("forecast", "random features")])
def test_gradients_of_a_run_agree_with_central_differences(case):
    agrees(*case, measure="worst_agent_cost", temperature=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_of_every_policy_and_encoder_agree_with_central_differences(policy, encoder):
    for measure, temperature in MEASURES:
        agrees(policy, encoder, measure=measure, temperature=temperature)


@pytest.mark.parametrize("policy", ["forecast", pytest.param("feedback", marks=pytest.mark.slow)])
def test_both_modes_and_recomputed_chunks_give_one_gradient(policy):
    objective, start = run_of(policy, "random features", measure="worst_agent_cost")
    in_chunks, _ = run_of(policy, "random features", measure="worst_agent_cost", chunk=4)
    value, gradient = value_and_gradient(objective, len(start), "forward")(start)
    again, backward = value_and_gradient(in_chunks, len(start), "reverse")(start)
    np.testing.assert_allclose(again, value, rtol=1e-12)
    for name in start:
        np.testing.assert_allclose(backward[name], gradient[name], rtol=1e-9, atol=1e-14)
    assert chosen_mode(8) == "forward"
    assert chosen_mode(9) == "reverse"
    assert chosen_mode(9, "forward") == "forward"


def test_a_validation_that_is_no_number_is_never_the_best():
    seen = iter([math.nan, 3.0, math.nan, 2.0, math.nan])
    gradient = value_and_gradient(lambda p: (p["a"] - 2.0) ** 2, count=1)
    found = tune(gradient, {"a": 1.0}, {"a": "free"}, validation=lambda _: next(seen), steps=4)
    assert found.best is found.history[3]


def everybody_equal(targets):
    """Agents that all have the same features: every one of them is the weakest."""
    lived = series.make_series(np.zeros((len(targets), 1)), targets)
    same = np.random.default_rng(0).normal(size=(len(targets), 1, 1, 3))
    features = given_features(np.repeat(same, 4, axis=1))

    def run(policy, measure, temperature=0.0):
        def objective(parameters):
            cost = GameCost(consensus=parameters["consensus"], effort=parameters["effort"])
            mixture = ridge_mixture(parameters["kappa"], parameters["eta"])
            result = simulate(
                lived, features, policy(cost), mixture, num_agents=4, key=KEY, dtype="float64"
            )
            return objective_of(result, measure, temperature)

        return objective

    return run


EXACT = ("worst_agent_cost", 0.0)


@pytest.mark.parametrize(
    ("measure", "mode"),
    [
        (EXACT, "reverse"),
        *(
            pytest.param(measure, mode, marks=pytest.mark.slow)
            for measure in [*MEASURES, EXACT]
            for mode in ("forward", "reverse")
        ),
    ],
)
def test_gradients_are_finite_at_degenerate_points(measure, mode):
    start = {"consensus": 1.0, "effort": 0.5, "kappa": 1.0, "eta": 1.0}
    draw = np.random.default_rng(1).normal(size=(9, 1))
    cases = [
        ("ties", draw, lambda cost: decentralized(cost, horizon=2)),
        ("no loss", np.zeros((9, 1)), lambda cost: decentralized(cost, horizon=2)),
        ("no loss", np.ones((9, 1)), lambda cost: greedy(cost, window=2)),
        ("no loss", np.ones((9, 1)), lambda cost: decentralized(cost, game="forecast")),
    ]
    for what, targets, policy in cases:
        objective = everybody_equal(targets)(policy, *measure)
        value, gradient = value_and_gradient(objective, 4, mode)(start)
        assert all(np.isfinite(leaf) for leaf in gradient.values()), (what, gradient)
        assert (value < 1e-12) == (what == "no loss" and measure[1] == 0.0), (what, value)


def test_the_smooth_maximum_bounds_the_exact_one_as_stated():
    result = simulate(
        series.logistic(20),
        random_features(3),
        greedy(),
        uniform_mixture(),
        num_agents=9,
        key=KEY,
        dtype="float64",
    )
    costs = np.asarray(result.agent_costs) / 20
    assert objective_of(result, "worst_agent_cost") == costs.max()
    assert objective_of(result, "mean_agent_cost") == pytest.approx(costs.mean(), rel=1e-14)
    assert objective_of(result, "server_rmse") == result.summary.server_rmse
    for temperature in (1e-4, 0.01, 1.0):
        smooth = objective_of(result, "worst_agent_cost", temperature)
        assert costs.max() <= smooth <= costs.max() + temperature * np.log(9)
        exact = temperature * np.log(np.sum(np.exp((costs - costs.max()) / temperature)))
        assert smooth == pytest.approx(costs.max() + exact, rel=1e-12)
    with pytest.raises(ValueError, match="measure = 'best': allowed is one of server_rmse"):
        objective_of(result, "best")
    with pytest.raises(ValueError, match=r"temperature = -1\.0: allowed is"):
        objective_of(result, "worst_agent_cost", -1.0)


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("positive", [1e-8, 0.3, 1e8]),
        ("non_negative", [1e-8, 0.3, 40.0, 1e4]),
        ("unit_interval", [1e-6, 0.5, 0.999]),
        ("free", [-3.0, 0.0, 7.0]),
    ],
)
def test_bijections_go_there_and_back(constraint, values):
    for value in values:
        unconstrained = unconstrain(value, constraint)
        assert jnp.isfinite(unconstrained)
        np.testing.assert_allclose(constrain(unconstrained, constraint), value, rtol=1e-9)
        assert jnp.isfinite(jax.grad(lambda u: constrain(u, constraint))(unconstrained))
    everywhere = constrain(jnp.linspace(-30, 30, 7), constraint)
    assert jnp.all(jnp.diff(everywhere) > 0)
    assert constraint == "free" or jnp.all(everywhere > 0)


@pytest.mark.parametrize("optimiser", get_args(Optimiser))
def test_every_optimiser_descends_within_the_constraints(optimiser):
    valley = lambda p: (p["a"] - 0.5) ** 2 + (p["b"] + 1) ** 2  # noqa: E731
    start, constraints = {"a": 2.0, "b": 1.0}, {"a": "positive", "b": "free"}
    seen = []
    found = tune(
        value_and_gradient(valley, 2),
        start,
        constraints,
        optimiser=optimiser,
        steps=300,
        on_step=lambda number, step: seen.append((number, step.objective)),
    )
    assert found.stopped == "steps"
    assert len(found.history) == len(seen) == 301
    assert found.history[0].parameters == pytest.approx(start)
    assert found.best.objective < 0.02 * found.history[0].objective
    assert all(step.parameters["a"] > 0 for step in found.history)
    assert found.best.objective == min(objective for _, objective in seen)


def test_descent_stops_when_validation_has_turned_and_keeps_the_best():
    found = tune(
        value_and_gradient(lambda p: p["a"] ** 2, 1),
        {"a": 2.0},
        {"a": "free"},
        validation=lambda p: (p["a"] - 1.0) ** 2,
        optimiser="sgd",
        steps=500,
        patience=5,
    )
    assert found.stopped == "patience"
    assert abs(found.best.parameters["a"] - 1.0) < 0.1
    assert found.final.parameters["a"] < found.best.parameters["a"]
    assert found.history[-1] is found.final
    assert found.history.index(found.best) == len(found.history) - 6


def test_descent_stops_where_nothing_is_finite_and_when_interrupted():
    found = tune(
        value_and_gradient(lambda p: jnp.log(p["a"]), 1),
        {"a": 0.1},
        {"a": "free"},
        optimiser="sgd",
    )
    assert found.stopped == "not finite"
    assert math.isfinite(found.best.objective)

    def stop(number, step):
        if number == 3:
            raise KeyboardInterrupt

    square = value_and_gradient(lambda p: p["a"] ** 2, 1)
    found = tune(square, {"a": 1.0}, {"a": "free"}, on_step=stop)
    assert found.stopped == "interrupted"
    assert len(found.history) == 4


def test_a_parameter_that_must_not_be_negative_may_start_at_zero():
    square = value_and_gradient(lambda p: (p["a"] - 0.5) ** 2, 1)
    found = tune(square, {"a": 0.0}, {"a": "non_negative"}, steps=300)
    assert found.best.parameters["a"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": {}}, "start = {}: allowed is one parameter or more"),
        ({"start": {"a": -1.0}}, r"start\['a'\] = -1.0: allowed is a finite number > 0"),
        ({"constraints": {}}, r"constraints\['a'\] = None: allowed is one of positive"),
        ({"optimiser": "newton"}, "optimiser = 'newton': allowed is one of adam"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: allowed is a finite number > 0"),
        ({"steps": 0}, "steps = 0: allowed is an integer >= 1"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(arguments, message):
    plain = {"start": {"a": 1.0}, "constraints": {"a": "positive"}}
    with pytest.raises(ValueError, match=message):
        tune(value_and_gradient(lambda p: p["a"], 1), **plain | arguments)


def test_a_mode_that_is_none_is_refused_in_one_line():
    with pytest.raises(ValueError, match="mode = 'sideways': allowed is one of auto"):
        value_and_gradient(lambda p: p["a"], 1, "sideways")


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_slopes_are_those_of_the_objective_through_the_bijections(mode):
    constraints = dict(zip("abcd", get_args(Constraint), strict=True))
    start = {"a": 0.7, "b": 1.3, "c": 0.2, "d": -0.4}
    swell = lambda p: jnp.sin(p["a"] * p["b"]) + p["c"] ** 3 * p["d"]  # noqa: E731

    def through(point):
        return swell({name: constrain(u, constraints[name]) for name, u in point.items()})

    found = tune(value_and_gradient(swell, 4, mode), start, constraints, steps=1).history[0]
    point = {name: unconstrain(value, constraints[name]) for name, value in start.items()}
    value, slopes = jax.value_and_grad(through)(point)
    assert found.objective == pytest.approx(float(value), rel=1e-14)
    assert found.gradient == pytest.approx({name: float(slopes[name]) for name in start}, rel=1e-13)


def test_parameters_that_move_compile_nothing():
    traced = []

    def square(p):
        traced.append(p)
        return (p["a"] - 0.5) ** 2

    found = tune(
        value_and_gradient(square, 1),
        {"a": 2.0},
        {"a": "positive"},
        validation=jax.jit(square),
        steps=5,
    )
    assert len(found.history) == 6
    assert len(traced) == 2


def test_a_gradient_may_give_plain_numbers():
    plain = lambda p: ((float(p["a"]) - 0.5) ** 2, {"a": 2 * (float(p["a"]) - 0.5)})  # noqa: E731
    followed = [
        tune(gradient, {"a": 2.0}, {"a": "positive"}, steps=20).final.parameters["a"]
        for gradient in (plain, value_and_gradient(lambda p: (p["a"] - 0.5) ** 2, 1))
    ]
    assert followed[0] == pytest.approx(followed[1], rel=1e-12)
