"""Groups of agents in the online loop: against plain numpy, the whole population, and a stream."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_groups import online_loop_of_groups
from plain_loop import features_of

from memoa_jax.encoder_groups import grouped
from memoa_jax.encoders import echo_state, given_features, random_features
from memoa_jax.forecast import OneStep, mean_move, play, respond
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.participation import given_participation
from memoa_jax.policies import affine, centralized, decentralized, greedy
from memoa_jax.recording import Record
from memoa_jax.resident import _run_in_place
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate
from memoa_jax.stream_gradient import stream_gradient

KEY = jax.random.key(3)
SIZES = (3, 1, 2)  # one of one agent
ENCODERS = (random_features(3, 0.2), echo_state(2), random_features(1, 0.5))
COST = GameCost(
    tracking=(1.0, 0.7, 1.2),
    consensus=(0.5, 2.0, 0.1),
    ensemble=(0.0, 0.3, 0.1),
    effort=(0.3, 0.8, 0.5),
    forgetting=(0.0, 0.2, 0.1),
)
ROWS = list(zip(*(getattr(COST, f.name) for f in dataclasses.fields(COST)), strict=True))
FIELDS = ("prediction", "control", "features")


def toy(d=2, n=12):
    rng = np.random.default_rng(d)
    targets = np.cumsum(0.3 * rng.normal(size=(n, d)), axis=0)
    targets[5] = np.nan
    return make_series(rng.normal(size=(n, 2)), targets, "toy")


def run(policy, series=None, encoder=None, groups=SIZES, agents=None, **options):
    agents = sum(groups) if agents is None else agents
    options.setdefault("record", Record(agents=tuple(range(agents)), fields=FIELDS))
    return simulate(
        toy() if series is None else series,
        grouped(ENCODERS) if encoder is None else encoder,
        policy,
        ridge_mixture(),
        num_agents=agents,
        key=KEY,
        dtype="float64",
        groups=groups,
        **options,
    )


def cut(values, sizes=SIZES):
    """Cut [n, N, ...] into the groups' parts."""
    return np.split(np.asarray(values), np.cumsum(sizes)[:-1], axis=1)


def plain_features(series, count):
    kinds = ("relu", 3, 0.2), ("tanh", 2, 0.1), ("relu", 1, 0.5)
    each = [features_of(kind, series, KEY, count, p, noise) for kind, p, noise in kinds]
    starts = np.cumsum((0, *SIZES))
    return [Z[:, a:b] for Z, a, b in zip(each, starts, starts[1:], strict=False)]


WINDOWS = (2, 5, 1)
LOOPS = {
    "greedy": (
        greedy(COST, WINDOWS, groups=3),
        {"windows": WINDOWS},
    ),
    "decentralized": (
        decentralized(COST, horizon=3, window=2, groups=3),
        {"windows": (2, 2, 2), "horizon": 3},
    ),
    "centralized": (
        centralized(
            COST, horizon=2, window=WINDOWS, sync_every=2, greedy_effort=(3.0, 9.0, 5.0), groups=3
        ),
        {"windows": WINDOWS, "horizon": 2, "sync_every": 2, "greedy_efforts": (3.0, 9.0, 5.0)},
    ),
    "offline": (
        centralized(COST, horizon=3, window=2, information="offline", groups=3),
        {"windows": (2, 2, 2), "horizon": 3, "information": "offline"},
    ),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (c in ("centralized", "offline"))) for c in LOOPS],
)
def test_the_loop_equals_plain_numpy(case):
    """Own features, costs, windows and sizes; what a group has not is a zero, exactly."""
    policy, options = LOOPS[case]
    series = toy()
    name = "centralized" if case == "offline" else case
    found = run(policy, series)
    Z = plain_features(series, sum(SIZES))
    predictions, controlled, server = online_loop_of_groups(
        series.targets, Z, name, costs=ROWS, **options
    )
    np.testing.assert_allclose(found.server, server, rtol=1e-8, atol=1e-9)
    for k, values in enumerate(cut(found.recorded["prediction"])):
        np.testing.assert_allclose(values, predictions[k], rtol=1e-9, atol=1e-11)
    for k, values in enumerate(cut(found.recorded["control"])):
        width = controlled[k].shape[2]
        np.testing.assert_allclose(values[..., :width], controlled[k], rtol=1e-8, atol=1e-10)
        np.testing.assert_array_equal(values[..., width:], 0.0)
    for k, values in enumerate(cut(found.recorded["features"])):
        width = Z[k].shape[3]
        np.testing.assert_allclose(values[..., :width], Z[k], rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(values[..., width:], 0.0)


@pytest.mark.parametrize("d", [1, 2])
def test_the_forecast_game_of_groups_is_where_every_agent_s_best_response_meets(d):
    """The conditions of all agents' own costs, differentiated one by one and solved together."""
    rng, count, p = np.random.default_rng(d), 5, 3
    Z, s = rng.normal(size=(count, d, p)), rng.normal(size=(count, d))
    q, c, gamma = rng.uniform(0.3, 3.0, size=(3, count))

    def paid(control, i):
        moves = jnp.stack([Z[j] @ control[j] for j in range(count)])
        gap, spread = moves[i] - s[i], moves[i] - jnp.mean(moves, axis=0)
        return q[i] * gap @ gap + c[i] * spread @ spread + gamma[i] * control[i] @ control[i]

    def conditions(flat):
        control = flat.reshape(count, p)
        return jnp.concatenate([jax.grad(paid)(control, i)[i] for i in range(count)])

    nothing = jnp.zeros(count * p)
    expected = np.linalg.solve(jax.jacfwd(conditions)(nothing), -conditions(nothing))
    share = 1 - 1 / count
    game = OneStep(jnp.asarray(q), jnp.asarray(c) * share, jnp.asarray(gamma))
    features, forecast = jnp.moveaxis(jnp.asarray(Z), 0, -1), jnp.asarray(s).T
    responses, wishes, _ = respond(game, features, forecast)
    average = jnp.mean(game.pulled(responses), -1), jnp.mean(wishes, -1)
    move, _ = mean_move(game.common(), *average)
    found = play(game, features, forecast, move)[0].T
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [centralized, decentralized, greedy])
def test_the_forecast_policy_gives_every_group_its_own_cost(make):
    """Groups by costs alone, of a table of features; against the game agent by agent."""
    rng = np.random.default_rng(0)
    series, table = toy(), rng.normal(size=(12, 6, 2, 3))
    policy = make(COST, game="forecast", ridge=0.3, discount=0.9, groups=3)
    found = run(policy, series, given_features(table))
    owner = np.repeat(range(3), SIZES)
    q, c, gamma = (np.array([ROWS[k][x] for k in owner]) for x in (0, 1, 3))
    pull = {"centralized": 5 / 6, "decentralized": 1.0, "greedy": 0.0}[make.__name__] * c
    y = series.targets
    known = np.isfinite(y).all(axis=1)
    held = y[np.maximum.accumulate(np.where(known, np.arange(12), 0))]
    for t in range(11):
        L, a = np.zeros((6, 2, 2)), np.zeros((6, 2))
        for i in range(6):
            gram, right = 0.3 * np.eye(3), np.zeros(3)
            for s in range(t):
                if known[s] and known[s + 1]:
                    weight = 0.9 ** (t - 1 - s)
                    gram += weight * table[s, i].T @ table[s, i]
                    right += weight * table[s, i].T @ (y[s + 1] - y[s])
            z = table[t, i]
            inner = (q[i] + pull[i]) * z.T @ z + gamma[i] * np.eye(3)
            L[i] = z @ np.linalg.solve(inner, z.T)
            a[i] = q[i] * L[i] @ z @ np.linalg.solve(gram, right)
        v = np.linalg.solve(np.eye(2) - np.mean(pull[:, None, None] * L, axis=0), a.mean(axis=0))
        moves = a + pull[:, None] * np.einsum("iab,b->ia", L, v)
        expected = held[t] + moves
        np.testing.assert_allclose(found.recorded["prediction"][t + 1], expected, rtol=1e-9)


ALIKE = {
    "greedy, sliding": lambda **g: greedy(GameCost(effort=30.0, forgetting=0.1), 5, **g),
    "feedback, late": lambda **g: decentralized(horizon=4, staleness=1, **g),
    "centralized": lambda **g: centralized(GameCost(1.0, 2.0, 0.2, 0.3, 0.1), horizon=3, **g),
    "offline": lambda **g: decentralized(horizon=3, information="offline", **g),
    "forecast, late": lambda **g: centralized(game="forecast", staleness=2, **g),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=[pytest.mark.slow] * (c not in ("centralized", "greedy, sliding")))
        for c in ALIKE
    ],
)
def test_groups_that_are_alike_are_one_population(case):
    """Three groups of the same two agents, told apart, and the six agents together."""
    two = np.random.default_rng(1).normal(size=(12, 2, 2, 3))
    encoder = given_features(np.tile(two, (1, 3, 1, 1)))
    apart = run(ALIKE[case](groups=3), encoder=encoder, groups=(2, 2, 2))
    whole = run(ALIKE[case](), encoder=encoder, groups=None, agents=6)
    for name in ("server", "mean_field", "agent_costs"):
        np.testing.assert_allclose(getattr(apart, name), getattr(whole, name), rtol=1e-10)
    for name in FIELDS:
        expected = whole.recorded[name]
        np.testing.assert_allclose(apart.recorded[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "case", [pytest.param("centralized", marks=pytest.mark.slow), "forecast, late"]
)
def test_one_group_is_the_run_without_groups_bit_for_bit(case):
    plain = run(ALIKE[case](), encoder=echo_state(3), groups=None, agents=5)
    one = run(ALIKE[case](groups=1), encoder=echo_state(3), groups=(5,))
    for name in ("server", "mean_field", "agent_costs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(plain, name))
    np.testing.assert_array_equal(one.groups.worst_agent_rmse[0], plain.summary.worst_agent_rmse)


PAIR = grouped(ENCODERS[:2])
TWO = GameCost(effort=(0.3, 0.8), consensus=(0.5, 2.0), ensemble=(0.0, 0.3))
STREAMED = {
    "greedy": greedy(TWO, (2, 4), groups=2),
    "forecast, late": decentralized(TWO, game="forecast", staleness=1, groups=2),
    "offline": decentralized(TWO, horizon=3, information="offline", groups=2),
    "feedback": centralized(TWO, horizon=3, window=2, sync_every=2, staleness=1, groups=2),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (c in ("greedy", "offline"))) for c in STREAMED],
)
def test_a_stream_gives_what_all_agents_together_give(case):
    # Blocks of 4 that hold one group, or both; the last is not full.
    options = {"groups": (10, 1), "encoder": PAIR, "series": toy(1)}
    together = run(STREAMED[case], **options)
    stream = run(STREAMED[case], **options, schedule="stream", block=4, keep_costs=True)
    for name in ("server", "mean_field", "forecast", "agent_costs"):
        np.testing.assert_allclose(getattr(stream, name), getattr(together, name), rtol=1e-9)
    for name in FIELDS:
        expected = together.recorded[name]
        np.testing.assert_allclose(stream.recorded[name], expected, rtol=1e-9, atol=1e-12)
    for name in together.groups.__dataclass_fields__:
        found, expected = getattr(stream.groups, name), getattr(together.groups, name)
        np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("schedule", ["resident", "stream"])
def test_figures_of_groups_are_those_of_their_agents(schedule):
    sizes, series = (9, 1, 13), toy()
    options = {"schedule": "stream", "block": 4} if schedule == "stream" else {}
    encoder, policy = echo_state(2), greedy(COST, groups=3)
    found = run(policy, series, encoder, groups=sizes, keep_costs=True, **options)
    seen = np.isfinite(series.targets).all(axis=1)
    seen[0] = False
    error = np.asarray(found.recorded["prediction"])[seen] - series.targets[seen, None]
    cost = np.sum(error**2, axis=(0, 2))
    rmse = np.sqrt(cost / (2 * seen.sum()))
    effort = np.sum(np.asarray(found.recorded["control"])[:-1] ** 2, axis=(0, 2))
    figures, parts = found.groups, np.split(np.arange(23), np.cumsum(sizes)[:-1])
    assert [int(n) for n in figures.agents] == list(sizes)
    for name, values in (
        ("mean_agent_rmse", [rmse[part].mean() for part in parts]),
        ("worst_agent_rmse", [rmse[part].max() for part in parts]),
        ("best_agent_rmse", [rmse[part].min() for part in parts]),
        ("mean_agent_cost", [cost[part].mean() for part in parts]),
        ("worst_agent_cost", [cost[part].max() for part in parts]),
        ("best_agent_cost", [cost[part].min() for part in parts]),
        ("agent_cost_variance", [cost[part].var() for part in parts]),
        ("mean_agent_effort", [effort[part].mean() for part in parts]),
        ("worst_agent", [part[np.argmax(rmse[part])] for part in parts]),
        ("diverged_agents", [0, 0, 0]),
        ("mean_gap", np.ptp([rmse[part].mean() for part in parts])),
        ("worst_gap", np.ptp([rmse[part].max() for part in parts])),
    ):
        np.testing.assert_allclose(getattr(figures, name), values, rtol=1e-9, atol=1e-12)
    assert np.max(figures.worst_agent_rmse) == found.summary.worst_agent_rmse


def test_absent_agents_and_groups_that_run_away_are_told():
    """The first group is never there; the second runs away, its features changing their sign."""
    series = toy(1, 60)
    mask = np.ones((60, 6), bool)
    mask[:, :3] = False
    mask[::2, 5] = False
    table = np.full((60, 6, 1, 1), 0.1)
    table[:, 3, 0, 0] = 30.0 * (-1.0) ** np.arange(60)
    policy = greedy(GameCost(effort=0.5), window=1, groups=3)
    found = run(policy, series, given_features(table), participation=given_participation(mask))
    assert [int(n) for n in found.groups.agents] == [0, 1, 2]
    assert [int(n) for n in found.groups.diverged_agents] == [0, 1, 0]
    assert np.isnan(found.groups.mean_agent_rmse[0])
    assert np.isfinite(found.groups.worst_agent_rmse[2])
    assert int(found.groups.worst_agent[1]) == 3


@pytest.mark.parametrize(
    "policy",
    [centralized(COST, horizon=2, groups=3), decentralized(COST, game="forecast", groups=3)],
)
def test_a_group_that_is_away_changes_nobody_else(policy):
    """Its features, told or not, enter no sum: as if it had other ones."""
    table = np.random.default_rng(2).normal(size=(12, 6, 2, 3))
    other = table.copy()
    other[:, 3] *= 5.0
    mask = np.ones((12, 6), bool)
    mask[:, 3] = False
    here = {"participation": given_participation(mask)}
    one, two = (run(policy, encoder=given_features(z), **here) for z in (table, other))
    assert np.isfinite(one.agent_costs).all()
    np.testing.assert_array_equal(one.server, two.server)
    np.testing.assert_array_equal(one.agent_costs, two.agent_costs)


def slope(function, at, step=1e-5):
    return (function(at + step) - function(at - step)) / (2 * step)


@pytest.mark.parametrize("game", [pytest.param("hindsight", marks=pytest.mark.slow), "forecast"])
def test_gradients_pass_through_a_group_s_cost(game):
    def worst(effort):
        cost = GameCost(effort=(0.3, effort), consensus=(effort, 2.0))
        policy = decentralized(cost, horizon=2, game=game, groups=2)
        return jnp.sum(run(policy, toy(1, 8), PAIR, (3, 2), record=None).agent_costs)

    worst = jax.jit(worst)
    expected = slope(worst, 0.7)
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(jax.jit(jax.grad(worst))(0.7), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("game", ["hindsight", "forecast"])
def test_gradients_of_a_stream_are_those_of_the_whole(game, mode):
    def made(parameters):
        cost = GameCost(effort=(0.3, parameters["effort"]))
        policy = decentralized(cost, horizon=3, game=game, groups=2)
        return PAIR, policy, ridge_mixture()

    series, sizes = toy(1, 8), (5, 1)
    how = {"num_agents": 6, "key": KEY, "dtype": "float64", "groups": sizes}
    follow = stream_gradient(
        series, made, {"effort": 0.7}, "mean_agent_cost", block=4, mode=mode, **how
    )

    def mean_cost(effort):
        parts = made({"effort": effort})
        result = simulate(series, *parts, **how)
        return jnp.mean(result.agent_costs) / result.summary.scored_steps

    value, gradient = follow({"effort": 0.7})
    expected, by_effort = jax.jit(jax.value_and_grad(mean_cost))(0.7)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    np.testing.assert_allclose(gradient["effort"], by_effort, rtol=1e-7)


def test_sizes_are_numbers_and_compile_nothing():
    policy = greedy(COST, groups=3)
    first = run(policy, encoder=echo_state(2), record=None)
    before = _run_in_place._cache_size()
    second = run(policy, encoder=echo_state(2), groups=(1, 1, 4), record=None)
    assert _run_in_place._cache_size() == before
    assert np.abs(np.asarray(first.agent_costs) - second.agent_costs).max() > 1e-6


def test_nothing_that_comes_later_is_known():
    series = toy(2, 14)
    later = np.arange(14) > 9
    targets = np.where(later[:, None], 9.0, series.targets)
    altered = make_series(np.where(later[:, None], 1e3, series.inputs), targets, "altered")
    policy = centralized(COST, horizon=2, groups=3)
    one, two = (
        run(policy, data, echo_state(2)).recorded["prediction"] for data in (series, altered)
    )
    np.testing.assert_array_equal(one[:11], two[:11])
    assert np.abs(one[11:] - two[11:]).max() > 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": (3, 1)}, r"groups = \(3, 1\), together 4: allowed is sizes that sum to"),
        ({"groups": (3, 0, 3)}, r"groups\[1\] = 0: allowed is an integer >= 1"),
        ({"groups": ()}, "groups is empty"),
        ({"groups": None}, "encoder tells 3 groups apart, and none are given"),
        ({"groups": (3, 3)}, "encoder tells 3 groups apart, and 2 are given"),
        (
            {"encoder": echo_state(2), "policy": decentralized(groups=2)},
            "policy tells 2 groups apart, and 3 are given: allowed is groups with 2 sizes",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**{"policy": affine(), "agents": 6, **options})


def test_costs_that_do_not_fit_the_groups_are_refused():
    with pytest.raises(ValueError, match=r"cost.tracking holds 3 .* groups = None"):
        decentralized(COST)
    with pytest.raises(ValueError, match=r"cost.tracking holds 3 .*: allowed is one number, or 2"):
        centralized(COST, game="forecast", groups=2)
    with pytest.raises(ValueError, match=r"window = \(1, 2\) with groups = 3"):
        greedy(window=(1, 2), groups=3)
    with pytest.raises(ValueError, match=r"greedy: groups = 0"):
        greedy(groups=0)
    with pytest.raises(ValueError, match=r"GameCost.effort = 0.0"):
        GameCost(effort=(1.0, 0.0))
    with pytest.raises(ValueError, match="encoders is empty"):
        grouped([])
