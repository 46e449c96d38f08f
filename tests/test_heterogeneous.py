"""Agents that all differ: the solver with realised features, and the hindsight policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.cost_spread import CostSpread, drawn_costs
from memoa_jax.draws import Stream, normals, seed_words
from memoa_jax.encoders import echo_state, given_features, random_features
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.heterogeneity import heterogeneous
from memoa_jax.linalg import solve_stacked
from memoa_jax.mixture import ridge_mixture
from memoa_jax.nash_dense import solve_heterogeneous, solve_nash_dense
from memoa_jax.policies import decentralized
from memoa_jax.recording import Record
from memoa_jax.responses import solve_heterogeneous_realised
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate
from memoa_jax.types import Agents, Status

KEY = jax.random.key(3)


def costs_of(rng, agents):
    """Draw costs that differ, some consensus negative."""
    return GameCost(
        tracking=rng.uniform(0.5, 2, agents),
        consensus=rng.uniform(-0.2, 2, agents),
        effort=rng.uniform(0.1, 1, agents),
        forgetting=0.15,
    )


def realised(features):
    """Return the moments of features that are known, [N, T, d, p]."""
    return FeatureMoments(features, np.einsum("ntak,ntbl->ntabkl", features, features))


def best_response(cost, Z, targets, path, start):
    """Return one agent's best path against a mean path, by one linear system in its controls.

    cost = (tracking, consensus, effort, forgetting); Z [T, d, p].
    """
    T, d, p = Z.shape
    q, c, gamma, alpha = cost
    moves = np.zeros((T * d, T * p))  # from all controls to all states
    for t in range(T):
        for s in range(t + 1):
            moves[t * d : (t + 1) * d, s * p : (s + 1) * p] = Z[s]
    delta = np.exp(-alpha * (T - 1 - np.arange(T)))
    by_state, by_control = np.repeat(delta, d), np.repeat(delta, p)
    hessian = moves.T @ ((q + c) * by_state[:, None] * moves) + np.diag(gamma * by_control)
    wish = q * targets.ravel() + c * path.ravel() - (q + c) * np.tile(start, T)
    control = np.linalg.solve(hessian, moves.T @ (by_state * wish))
    return (np.tile(start, T) + moves @ control).reshape(T, d), control.reshape(T, p)


def equilibrium_of(costs, Z, targets, starts):
    """Return the mean path, all paths and all controls: the fixed point of best responses."""
    _, T, d, _ = Z.shape

    def answer(path):
        found = [
            best_response(cost, z, targets, path, start)
            for cost, z, start in zip(costs, Z, starts, strict=True)
        ]
        return np.mean([f[0] for f in found], axis=0), found

    base, _ = answer(np.zeros((T, d)))
    columns = [(answer(unit.reshape(T, d))[0] - base).ravel() for unit in np.eye(T * d)]
    path = np.linalg.solve(np.eye(T * d) - np.array(columns).T, base.ravel()).reshape(T, d)
    mean, found = answer(path)
    np.testing.assert_allclose(mean, path, atol=1e-10)
    return path, np.array([f[0] for f in found]), np.array([f[1] for f in found])


def rows_of(cost, agents):
    """Return (tracking, consensus, effort, forgetting) of every agent."""
    names = ("tracking", "consensus", "effort", "forgetting")
    return np.stack([np.broadcast_to(getattr(cost, n), (agents,)) for n in names], axis=1)


@pytest.mark.parametrize(
    ("d", "p", "T"),
    [(1, 4, 3), (2, 3, 4), (2, 1, 1), pytest.param(3, 2, 2, marks=pytest.mark.slow)],
)
def test_realised_features_give_what_their_moments_give_and_the_fixed_point_of_best_answers(
    d, p, T
):
    rng = np.random.default_rng(d)
    features, targets = rng.normal(size=(5, T, d, p)), rng.normal(size=(T, d))
    initial, costs = rng.normal(size=(5, d)), costs_of(rng, 5)
    found = solve_heterogeneous_realised(costs, features, targets, initial)
    slow = solve_heterogeneous(costs, realised(features), targets, initial)
    for name in ("own", "offset", "mean_field", "expected_paths"):
        expected = np.asarray(getattr(slow, name))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(getattr(found, name), expected, rtol=0, atol=1e-11 * scale)
    path, paths, controls = equilibrium_of(rows_of(costs, 5), features, targets, initial)
    np.testing.assert_allclose(found.mean_field, path, atol=1e-10)
    np.testing.assert_allclose(found.expected_paths, paths, atol=1e-10)
    states = np.concatenate([initial[:, None], paths[:, :-1]], axis=1)
    control = -(np.einsum("ntpa,nta->ntp", found.own, states) + np.asarray(found.offset))
    np.testing.assert_allclose(control, controls, atol=1e-9)
    assert found.status == slow.status == Status.OK


def test_the_dense_equilibrium_of_replicated_agents_comes_near_at_rate_one_over_n():
    rng = np.random.default_rng(8)
    kinds, T, d = 3, 2, 1
    features, targets = rng.normal(size=(kinds, T, d, 2)), rng.normal(size=(T, d))
    costs, initial = costs_of(rng, kinds), rng.normal(size=(kinds, d))
    limit = solve_heterogeneous_realised(costs, features, targets, initial)
    gaps, sizes = [], [6, 12, 24]
    for size in sizes:
        who = np.arange(size) % kinds
        each = GameCost(
            costs.tracking[who], costs.consensus[who], 0.0, costs.effort[who], costs.forgetting
        )
        dense = solve_nash_dense(each, realised(features[who]), targets)
        joint = initial[who].ravel()
        for t in range(T):
            control = -(np.asarray(dense.state)[:, t] @ joint + np.asarray(dense.offset)[:, t])
            joint = joint + np.einsum("iak,ik->ia", features[who][:, t], control).ravel()
        gaps.append(np.abs(joint[:kinds] - np.asarray(limit.expected_paths)[:, -1, 0]).max())
    slope = np.polyfit(np.log(sizes), np.log(gaps), 1)[0]
    assert abs(slope + 1) < 0.1


def test_a_general_system_per_agent_is_solved_with_pivoting_and_differentiated():
    rng = np.random.default_rng(4)
    for d in (1, 2, 3):
        matrix, right = rng.normal(size=(d, d, 50)), rng.normal(size=(d, 2, 50))
        matrix[0, 0, :5] = 0.0 if d > 1 else 1.0
        expected = np.linalg.solve(np.moveaxis(matrix, -1, 0), np.moveaxis(right, -1, 0))
        found = np.moveaxis(np.asarray(solve_stacked(matrix, right)), -1, 0)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    matrix = 0.3 * matrix + 2 * np.eye(3)[..., None]
    direction = rng.normal(size=matrix.shape)

    def score(step):
        return jnp.sum(jnp.sin(solve_stacked(matrix + step * direction, right)))

    central = (score(1e-5) - score(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(score)(0.0), central, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(score, (0.0,), (1.0,))[1], central, rtol=1e-6)


def test_trouble_is_told():
    features, targets, initial = np.ones((3, 2, 2, 4)), np.ones((2, 2)), np.zeros((3, 2))
    game = features, targets, initial
    bad = GameCost(consensus=np.array([0.5, -9.0, 1.0]))
    assert int(solve_heterogeneous_realised(bad, *game).status) & Status.INDEFINITE
    # Negative, and yet a minimum: effort is large enough.
    mild = GameCost(consensus=np.array([0.5, -1.01, 1.0]), effort=1.0)
    assert int(solve_heterogeneous_realised(mild, *game).status) == Status.OK
    assert int(solve_heterogeneous(mild, realised(features), targets, initial).status) == Status.OK
    with pytest.raises(ValueError, match=r"targets has shape \(3, 2\).*allowed is \(2, 2\)"):
        solve_heterogeneous_realised(GameCost(), features, np.ones((3, 2)), initial)
    with pytest.raises(ValueError, match=r"cost.effort is -1.0 for agent 1: allowed is finite"):
        solve_heterogeneous_realised(GameCost(effort=np.array([1.0, -1.0, 1])), *game)
    with pytest.raises(ValueError, match=r"cost.forgetting has shape \(3,\): .* the same for all"):
        solve_heterogeneous_realised(GameCost(forgetting=np.ones(3)), *game)


# The policy.


def toy(d, n=14, gap=7):
    rng = np.random.default_rng(d)
    targets = np.cumsum(0.3 * rng.normal(size=(n, d)), axis=0)
    if gap is not None:
        targets[gap] = np.nan
    return make_series(rng.normal(size=(n, 2)), targets, "toy")


def lived(series, features, policy, **how):
    agents = features.shape[1]
    return simulate(
        series,
        given_features(features),
        policy,
        ridge_mixture(),
        num_agents=agents,
        key=KEY,
        **{
            "dtype": "float64",
            "record": Record(agents=tuple(range(agents)), fields=("prediction", "control")),
            **how,
        },
    )


def plain_loop(y, Z, cost, T, window, sync_every, efforts):
    """Return predictions [n, N, d] and controls [n, N, p], one agent and one step at a time."""
    n, N, d, p = Z.shape
    known = np.isfinite(y).all(axis=1)
    rows = rows_of(cost, N)
    prediction, base = np.zeros((n + 1, N, d)), np.zeros((n, N, d))
    control = np.zeros((n, N, p))
    prediction[0] = y[0]
    for t in range(n):
        base[t] = prediction[t]
        if t >= T and t % sync_every == 0 and known[t - T : t + 1].all():
            window_features = Z[t - T : t].transpose(1, 0, 2, 3)
            start = np.tile(y[t - T], (N, 1))
            _, paths, controls = equilibrium_of(rows, window_features, y[t - T + 1 : t + 1], start)
            base[t], control[t] = paths[:, -1], controls[:, -1]
        else:
            for i in range(N):
                gram, right = efforts[i] * np.eye(p), np.zeros(p)
                for s in range(max(t - window, 0), t):
                    if known[s + 1]:
                        weight = np.exp(-rows[i, 3] * (t - 1 - s))
                        gram += weight * Z[s, i].T @ Z[s, i]
                        right += weight * Z[s, i].T @ (y[s + 1] - base[s, i])
                control[t, i] = np.linalg.solve(gram, right)
        prediction[t + 1] = base[t] + np.einsum("iak,ik->ia", Z[t], control[t])
    return prediction[:n], control


@pytest.mark.parametrize(
    ("d", "T", "window", "sync", "greedy_effort"),
    [(1, 3, 2, 1, None), (2, 2, 3, 2, 5.0), pytest.param(1, 1, 1, 1, None, marks=pytest.mark.slow)],
)
def test_the_policy_is_a_plain_loop_of_best_answers(d, T, window, sync, greedy_effort):
    rng = np.random.default_rng(d + 10)
    series, Z = toy(d), rng.normal(size=(14, 4, d, 3))
    cost = costs_of(rng, 4)
    policy = heterogeneous(cost, T, window, sync, greedy_effort=greedy_effort)
    result = lived(series, Z, policy)
    efforts = cost.effort if greedy_effort is None else np.full(4, greedy_effort)
    prediction, control = plain_loop(series.targets, Z, cost, T, window, sync, efforts)
    np.testing.assert_allclose(result.recorded["prediction"], prediction, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(result.recorded["control"], control, rtol=1e-9, atol=1e-11)
    assert result.status == Status.OK


@pytest.mark.parametrize(
    ("d", "information"),
    [(2, "offline"), pytest.param(1, "feedback", marks=pytest.mark.slow)],
)
def test_identical_agents_are_the_homogeneous_policy(d, information):
    rng = np.random.default_rng(d)
    features = np.repeat(rng.normal(size=(14, 1, d, 4)), 5, axis=1)
    cost = GameCost(1.0, 0.7, 0.0, 0.4, 0.1)
    ours = lived(toy(d), features, heterogeneous(cost, horizon=4, window=2, sync_every=2))
    theirs = lived(
        toy(d),
        features,
        decentralized(cost, horizon=4, window=2, sync_every=2, information=information),
    )
    for name in ("prediction", "control"):
        expected = np.asarray(theirs.recorded[name])
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours.recorded[name], expected, rtol=0, atol=1e-12 * scale)


def test_costs_given_one_by_one_are_the_agents_own_wherever_they_are():
    rng = np.random.default_rng(2)
    series, Z = toy(1), rng.normal(size=(14, 9, 1, 2))
    policy = heterogeneous(costs_of(rng, 9), horizon=2)
    whole = lived(series, Z, policy)
    stream = lived(series, Z, policy, schedule="stream", block=4)
    for name in ("prediction", "control"):
        expected = whole.recorded[name]
        np.testing.assert_allclose(stream.recorded[name], expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match=r"num_agents = 9: allowed is 1\.\.5, as many as"):
        lived(series, Z, heterogeneous(costs_of(rng, 5), horizon=2))


def test_groups_that_pay_otherwise_are_agents_that_do():
    rng = np.random.default_rng(9)
    series, Z = toy(1), rng.normal(size=(14, 5, 1, 2))
    who = np.array([0, 0, 1, 1, 1])
    effort, consensus = np.array([0.2, 0.9]), np.array([0.5, 1.5])
    grouped = GameCost(effort=tuple(effort), consensus=tuple(consensus))
    each = GameCost(effort=effort[who], consensus=consensus[who])
    for how in ({"window": 2}, {"game": "forecast"}):
        policy = heterogeneous(grouped, 2, groups=2, **how)
        found = lived(series, Z, policy, groups=(2, 3)).recorded["prediction"]
        expected = lived(series, Z, heterogeneous(each, 2, **how)).recorded["prediction"]
        np.testing.assert_allclose(found, expected, rtol=1e-11)
    with pytest.raises(ValueError, match=r"heterogeneous: cost.forgetting = .* the same for all"):
        heterogeneous(GameCost(forgetting=(0.1, 0.2)), groups=2)


def test_drawn_costs_are_log_normal_and_depend_on_seed_and_agent_alone():
    crowd = Agents(jnp.arange(20_000, dtype=jnp.uint32), seed_words(KEY))
    spread = CostSpread(tracking=0.2, effort=0.5)
    found = drawn_costs(GameCost(2.0, 3.0, effort=0.7), spread, crowd, jnp.float64)
    for name, median, width in (("tracking", 2.0, 0.2), ("effort", 0.7, 0.5)):
        logs = np.log(np.asarray(getattr(found, name)) / median)
        assert abs(logs.mean()) < 4 * width / np.sqrt(20_000)
        assert abs(logs.std() / width - 1) < 0.03
    assert found.consensus == 3.0
    assert abs(np.corrcoef(found.tracking, found.effort)[0, 1]) < 0.03
    few = Agents(crowd.index[77:80], crowd.key)
    again = drawn_costs(GameCost(2.0, 3.0, effort=0.7), spread, few, jnp.float64)
    np.testing.assert_array_equal(again.effort, found.effort[77:80])
    z = normals(few, Stream.COSTS, 2, 1, jnp.float64)[0]
    np.testing.assert_allclose(again.effort, 0.7 * np.exp(0.5 * z), rtol=1e-14)
    with pytest.raises(ValueError, match=r"CostSpread: effort = -0.1: allowed is a finite number"):
        CostSpread(effort=-0.1)


def test_an_altered_future_changes_no_prediction():
    rng = np.random.default_rng(6)
    series, cut = toy(1, 16, gap=None), 9
    Z = rng.normal(size=(16, 4, 1, 2))
    later = np.arange(16) > cut
    targets = np.where(later[:, None], 50.0 - series.targets, series.targets)
    policy = heterogeneous(spread=CostSpread(0.3, 0.3, 0.3))
    kept = lived(series, Z, policy)
    other = np.where(later[:, None, None, None], -3 * Z, Z)
    altered = lived(make_series(series.inputs, targets, "altered"), other, policy)
    for name, known in (("prediction", cut + 2), ("control", cut + 1)):
        before, after = kept.recorded[name], altered.recorded[name]
        np.testing.assert_array_equal(after[:known], before[:known])
    np.testing.assert_array_equal(altered.server[: cut + 2], kept.server[: cut + 2])
    assert not np.array_equal(altered.server[cut + 2], kept.server[cut + 2])


def run(policy, agents=40, dtype="float64", **how):
    return simulate(
        toy(1),
        echo_state(3),
        policy,
        ridge_mixture(),
        num_agents=agents,
        key=KEY,
        dtype=dtype,
        **how,
    )


def test_gradients_of_a_run_are_central_differences():
    base = {"effort": 0.4, "consensus": 0.8, "spread": 0.5}

    def score(parameters):
        cost = GameCost(consensus=parameters["consensus"], effort=parameters["effort"])
        spread = CostSpread(parameters["spread"], parameters["spread"], parameters["spread"])
        policy = heterogeneous(cost, horizon=2, window=1, sync_every=2, spread=spread)
        return jnp.sum(run(policy, 8).server ** 2)

    slopes, value, h = jax.jit(jax.grad(score))(base), jax.jit(score), 1e-5
    for name, here in base.items():
        ends = [value({**base, name: here + side * h}) for side in (1, -1)]
        central = (ends[0] - ends[1]) / (2 * h)
        assert abs(central) > 1e-6
        np.testing.assert_allclose(slopes[name], central, rtol=1e-6)
    assert value._cache_size() == 1


def test_a_singular_or_indefinite_game_is_told_in_a_run():
    assert run(heterogeneous(GameCost(consensus=-30.0)), 5).status & Status.INDEFINITE
    assert run(heterogeneous(GameCost(consensus=0.5)), 5).status == Status.OK


@pytest.mark.slow
def test_float32_agrees_with_float64_after_bursts_for_an_odd_population():
    rng = np.random.default_rng(3)
    targets = np.cumsum(0.1 * rng.normal(size=60))
    targets[30:33] *= 100.0
    series = make_series(targets[:, None] / 10, targets[:, None], "burst")
    costs = {
        dtype: simulate(
            series,
            random_features(8),
            heterogeneous(window=1, spread=CostSpread(effort=0.5)),
            ridge_mixture(),
            num_agents=16_385,
            key=KEY,
            dtype=dtype,
        ).agent_costs
        for dtype in ("float32", "float64")
    }
    difference = np.abs(costs["float32"] - costs["float64"]) / costs["float64"]
    assert difference.max() < 1e-4


@pytest.mark.slow
def test_the_statements_of_memoa_verify_hold():
    from memoa_jax.verify_heterogeneity import heterogeneity

    statements = heterogeneity()
    assert [one.name for one in statements if not one.holds] == []
    slopes = statements[0].data["slopes"]
    assert set(slopes) == {"own gains", "expected paths"}
