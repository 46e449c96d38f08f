"""The affine policy: against a plain loop, against the closed form, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import (
    FeatureMoments,
    FeedbackGains,
    GameCost,
    affine,
    affine_nash,
    expected_costs,
    given_features,
    random_features,
    ridge_mixture,
    series,
    simulate,
    solve_nash,
    solve_team,
    uniform_mixture,
)
from memoa_jax.participation import given_participation
from memoa_jax.recording import Record
from memoa_jax.tuning import check_gradient, objective_of, tune, value_and_gradient
from memoa_jax.types import Dimensions, Observation, Population

KEY = jax.random.key(0)
POINTS, AGENTS, FEATURES = 12, 5, 3


def drawn_gains(outputs, features=FEATURES, size=0.2, seed=1):
    """Return own, mean, target and offset, drawn."""
    draw = np.random.default_rng(seed)
    shapes = [(features, outputs)] * 3 + [(features,)]
    return [size * draw.normal(size=shape) for shape in shapes]


def made(outputs, agents=AGENTS, points=POINTS):
    """Return a series with a missing target, and features [n, N, d, p]."""
    draw = np.random.default_rng(0)
    targets = np.cumsum(draw.normal(size=(points, outputs)), axis=0)
    targets[4] = np.nan
    features = draw.normal(size=(points, agents, outputs, FEATURES))
    return series.make_series(draw.normal(size=(points, 2)), targets), features


def plain_loop(targets, Z, gains, present):
    """Return predictions [n, N, d], controls [n, N, p] and mean fields [n, d], agent by agent."""
    own, mean, target, offset = gains
    points, agents, d, p = Z.shape
    Y = np.tile(targets[0], (agents, 1))
    last = targets[0]
    predictions, controls = np.zeros((points, agents, d)), np.zeros((points, agents, p))
    fields = np.zeros((points, d))
    fields[0] = targets[0]
    for t in range(points):
        predictions[t] = Y
        if np.isfinite(targets[t]).all():
            last = targets[t]
        here = [i for i in range(agents) if present[t, i]]
        average = sum(Y[i] for i in here) / len(here)
        for i in here:
            controls[t, i] = -(own @ Y[i] + mean @ average + target @ last + offset)
        Y = np.stack([Y[i] + Z[t, i] @ controls[t, i] for i in range(agents)])
        if t + 1 < points:
            fields[t + 1] = sum(Y[i] for i in here) / len(here)
    return predictions, controls, fields


def lived(policy, lived_series, Z, present=None, **how):
    agents = Z.shape[1]
    return simulate(
        lived_series,
        given_features(Z),
        policy,
        uniform_mixture(),
        num_agents=agents,
        key=KEY,
        dtype="float64",
        participation=None if present is None else given_participation(present),
        record=Record(agents=tuple(range(agents)), fields=("prediction", "control")),
        **how,
    )


@pytest.mark.parametrize("some", [False, True], ids=["everybody", "some"])
@pytest.mark.parametrize(("outputs", "agents"), [(1, AGENTS), (2, AGENTS), (2, 1)])
def test_a_run_is_the_plain_loop(outputs, agents, some):
    lived_series, Z = made(outputs, agents)
    present = np.ones(Z.shape[:2], bool)
    if some and agents > 1:
        present = np.random.default_rng(5).random(Z.shape[:2]) < 0.6
        present[:, 0] = True
    gains = drawn_gains(outputs)
    result = lived(affine(*gains), lived_series, Z, present if some else None)
    found = (result.recorded["prediction"], result.recorded["control"], result.mean_field)
    for mine, plain in zip(found, plain_loop(lived_series.targets, Z, gains, present), strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-12, atol=1e-12)
    assert int(result.status) == 0


def test_one_agent_is_its_own_mean_field():
    lived_series, Z = made(2, agents=1)
    own, mean, target, offset = drawn_gains(2)
    apart = lived(affine(own, mean, target, offset), lived_series, Z)
    as_one = lived(affine(own + mean, None, target, offset), lived_series, Z)
    np.testing.assert_allclose(
        apart.recorded["prediction"], as_one.recorded["prediction"], rtol=1e-12
    )


def test_gains_left_out_are_zeros_and_lists_are_arrays():
    lived_series, Z = made(2)
    own, mean, target, offset = drawn_gains(2)
    some = lived(affine(own=own, offset=offset), lived_series, Z)
    whole = lived(affine(own, 0 * mean, 0 * target, offset), lived_series, Z)
    lists = lived(affine(own=own.tolist(), offset=offset.tolist()), lived_series, Z)
    for other in (whole, lists):
        np.testing.assert_array_equal(some.recorded["prediction"], other.recorded["prediction"])
    nothing = lived(affine(), lived_series, Z)
    assert (np.asarray(nothing.recorded["prediction"]) == lived_series.targets[0]).all()
    assert len(jax.tree.leaves(affine(own=own.tolist()))) == own.size


def test_a_run_maps_over_gains():
    lived_series, Z = made(2)
    batch = [np.stack(pair) for pair in zip(*[drawn_gains(2, seed=s) for s in range(3)])]  # noqa: B905

    def costs(own, mean, target, offset):
        return lived(affine(own, mean, target, offset), lived_series, Z).agent_costs

    mapped = jax.jit(jax.vmap(costs))(*batch)
    for index in range(3):
        alone = costs(*[gain[index] for gain in batch])
        np.testing.assert_allclose(mapped[index], alone, rtol=1e-12)


def named(gains):
    """Return gains as a dictionary of numbers, and what makes lists of it again."""
    names = ("own", "mean", "target", "offset")
    flat = {
        ".".join(map(str, (name, *place))): float(value)
        for name, gain in zip(names, gains, strict=True)
        for place, value in np.ndenumerate(gain)
    }

    def listed(numbers):
        p, d = np.shape(gains[0])
        rows = [
            [[numbers[f"{name}.{k}.{a}"] for a in range(d)] for k in range(p)] for name in names[:3]
        ]
        return [*rows, [numbers[f"offset.{k}"] for k in range(p)]]

    return flat, listed


@pytest.mark.parametrize(
    ("measure", "temperature", "mode"),
    [
        ("server_rmse", 0.0, "forward"),
        pytest.param("server_rmse", 0.0, "reverse", marks=pytest.mark.slow),
        pytest.param("mean_agent_cost", 0.0, "reverse", marks=pytest.mark.slow),
        ("worst_agent_cost", 0.3, "reverse"),
    ],
)
def test_gradients_in_all_gains_agree_with_central_differences(measure, temperature, mode):
    draw = np.random.default_rng(2)
    targets = np.cumsum(draw.normal(size=(10, 2)), axis=0)
    whole = series.part(series.make_series(draw.normal(size=(10, 2)), targets), scored_from=3)
    start, listed = named(drawn_gains(2, features=2, size=0.1))

    def objective(numbers):
        result = simulate(
            whole,
            random_features(2, 0.1),
            affine(*listed(numbers)),
            ridge_mixture(),
            num_agents=4,
            key=KEY,
            dtype="float64",
            chunk=4,
        )
        return objective_of(result, measure, temperature)

    found = check_gradient(objective, start, mode)
    assert max(found.difference.values()) < 1e-6, found
    assert all(slope != 0 for slope in found.gradient.values())


def moments_of(outputs, features=2, seed=4):
    """Return features [N, d, p] and their moments, of one step."""
    draw = np.random.default_rng(seed)
    samples = draw.normal(size=(1, 200, outputs, features)) + 0.5
    return samples[0], FeatureMoments.from_samples(jnp.asarray(samples))


@pytest.mark.parametrize("population", [None, 7])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_closed_form_is_the_equilibrium_of_one_step(outputs, population):
    _, moments = moments_of(outputs)
    cost = GameCost(consensus=1.5, ensemble=0.4, effort=0.3)
    policy = affine_nash(cost, moments, population)
    draw = np.random.default_rng(3)
    states, target = draw.normal(size=(outputs, 7)), draw.normal(size=outputs)
    size = Population(jnp.asarray(7.0))
    observation = Observation(
        step=jnp.int32(3),
        target=jnp.asarray(target),
        known=jnp.asarray(True),
        prediction=jnp.asarray(states),
        features=jnp.ones((outputs, 2, 7)),
        population=size,
        voters=size,
    )
    state = policy.init(Dimensions(points=9, inputs=1, outputs=outputs, features=2), 7, "float64")
    _, action = policy.act(state, observation)
    gains = solve_nash(cost, moments, jnp.asarray(target)[None], population).gains
    for i in range(7):
        control = -(gains.own[0] @ states[:, i] + gains.mean[0] @ states.mean(1) + gains.offset[0])
        np.testing.assert_allclose(action.control[:, i], control, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(action.base, states)


def gains_towards(gains, target):
    """Return what an affine policy plays in a game of one step towards a target."""
    own, mean, towards, offset = (jnp.asarray(gain) for gain in gains)
    return FeedbackGains(own[None], mean[None], (towards @ target + offset)[None])


def test_a_step_of_a_run_costs_what_the_game_expects():
    """Agents that are the whole law of the features: their average is its expectation."""
    cost = GameCost(consensus=0.7, effort=0.3)
    samples, moments = moments_of(2)
    gains = drawn_gains(2, features=2)
    targets = np.array([[0.4, -1.0], [1.1, 0.3]])
    Z = np.stack([samples, samples])
    result = lived(affine(*gains), series.make_series(np.zeros((2, 1)), targets), Z)
    after = np.asarray(result.recorded["prediction"])[1]
    beta = np.asarray(result.recorded["control"])[0]
    paid = np.mean(
        cost.tracking * ((after - targets[1]) ** 2).sum(1)
        + cost.consensus * ((after - after.mean(0)) ** 2).sum(1)
        + cost.effort * (beta**2).sum(1)
    )
    playing = gains_towards(gains, targets[0])
    expected = expected_costs(cost, moments, targets[1:], None, playing, targets[:1])
    np.testing.assert_allclose(paid, expected[0], rtol=1e-12)


@pytest.mark.parametrize("outputs", [1, 2])
def test_descent_on_the_expected_cost_ends_at_the_closed_form_and_never_below(outputs):
    """The stationary game of one step: constant targets, several of them, given states."""
    cost = GameCost(consensus=1.5, effort=0.4)
    _, moments = moments_of(outputs)
    draw = np.random.default_rng(8)
    targets = jnp.asarray(draw.normal(size=(8, outputs)))
    states = jnp.asarray(draw.normal(size=(8, 1, outputs)) + draw.normal(size=(8, 6, outputs)))

    def average(gains):
        def one(target, crowd):
            playing = gains_towards(gains, target)
            return jnp.mean(expected_costs(cost, moments, target[None], None, playing, crowd))

        return jnp.mean(jax.vmap(one)(targets, states))

    closed = affine_nash(cost, moments)
    closed = [closed.own, closed.mean, closed.target, closed.offset]
    least = float(average(closed))
    # In the limit of many agents and without ensemble cost the equilibrium is the team's optimum.
    team = solve_team(cost, moments, targets[:1], None).gains
    np.testing.assert_allclose(gains_towards(closed, targets[0]).offset, team.offset, rtol=1e-9)

    start, listed = named([np.zeros(np.shape(gain)) for gain in closed])
    found = tune(
        value_and_gradient(lambda numbers: average(listed(numbers)), len(start)),
        start,
        dict.fromkeys(start, "free"),
        optimiser="sgd",
        learning_rate=0.04,
        steps=300,
    )
    assert found.history[0].objective > 1.1 * least
    assert min(step.objective for step in found.history) >= least - 1e-9
    assert found.final.objective <= least + 1e-6
    ends, _ = named(closed)
    assert found.final.parameters == pytest.approx(ends, abs=1e-4)


def test_what_does_not_fit_is_refused_in_one_line():
    lived_series, Z = made(2)
    with pytest.raises(ValueError, match=r"affine: own has shape \(2, 2\): allowed is .* \(3, 2\)"):
        lived(affine(own=np.zeros((2, 2))), lived_series, Z)
    with pytest.raises(
        ValueError, match=r"affine: offset has shape \(3, 1\): allowed is .* \(3,\)"
    ):
        lived(affine(offset=np.zeros((3, 1))), lived_series, Z)
    with pytest.raises(ValueError, match=r"affine: mean is no array: allowed is .* \(3, 2\)"):
        lived(affine(mean=[[1.0], [1.0, 2.0], [0.0]]), lived_series, Z)
    with pytest.raises(ValueError, match=r"moments.mean has shape \(3, 1, 1\): allowed is \[1, d"):
        affine_nash(GameCost(), FeatureMoments.from_samples(jnp.ones((3, 5, 1, 1))))
    with pytest.raises(ValueError, match=r"policy Affine names no surveys .* allowed is schedule"):
        lived(affine(), lived_series, Z, schedule="stream")
