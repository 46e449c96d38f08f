"""Regret under the theorems' bounds on 1,000 sequences; the best in hindsight by brute force."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import regret as judge
from memoa_jax.experts import (
    ExpertMixture,
    Hedge,
    bernstein_aggregation,
    exponential_weights,
    fixed_share,
    polynomial_potentials,
)
from memoa_jax.mixture import play, ridge_mixture, uniform_mixture
from memoa_jax.types import Dimensions, Observation, Population

ROUNDS, SHARE = 200, 0.02
COUNTS = {2: 300, 5: 300, 20: 400}  # agents -> sequences: 1,000 in all
KINDS = 10


def rate_of(count, width):
    """Return the rate that the bound of exponential weights is least for."""
    return float(np.sqrt(8 * np.log(count) / (ROUNDS * width**2)))


QUICK = ("adahedge", "share")
"""Whose bound is checked by default."""
EXPERTS = {
    "hedge": lambda count, gradient: exponential_weights(rate_of(count, 1 + gradient), gradient),
    "adahedge": lambda count, gradient: exponential_weights(None, gradient),
    "bernstein": lambda count, gradient: bernstein_aggregation(gradient),
    "polynomial": lambda count, gradient: polynomial_potentials(gradient),
    "share": lambda count, gradient: fixed_share(2 * rate_of(count, 1 + gradient), SHARE, gradient),
}


def losses_against(kind, key, t, state, weights, suffered):
    """Return losses [N] in [0, 1] for one round, made by an adversary who sees the weights.

    `state` [N] is the adversary's own (a random walk of means), `suffered` [N] what the agents
    have lost so far.
    """
    count = weights.shape[0]
    noise = jax.random.uniform(key, (count,))
    coin = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, (count,)).astype(float)
    agents = jnp.arange(count)
    best = (t * 5 // ROUNDS) % count
    return jax.lax.switch(
        kind,
        [
            lambda: noise,  # independent
            lambda: coin,
            lambda: (noise < 0.5 - 0.2 * (agents == 1)).astype(float),  # one is better
            lambda: jnp.clip(state, 0, 1),  # drifting
            lambda: (agents == weights.argmax()).astype(float),  # the heaviest is punished
            lambda: (agents == suffered.argmin()).astype(float),  # the leader is punished
            lambda: ((agents + t) % 2).astype(float),  # alternating
            lambda: (agents == t % count).astype(float),  # one loses, in turn
            lambda: jnp.where(agents == best, 0.1 * noise, 0.5 + 0.5 * noise),  # best one switches
            lambda: coin * 2.0 ** (0.1 * (t - ROUNDS)),  # ever larger
        ],
    )


def duel(mixture, kind, seed, *, count, gradient):
    """Play a mixture against an adversary; return losses and weights [T, N] that it met."""
    population = Population(jnp.asarray(float(count)))
    observe = functools.partial(
        Observation, features=jnp.zeros((1, 0, count)), population=population, voters=population
    )

    def one_round(carry, t):
        state, walk, suffered = carry
        key = jax.random.fold_in(jax.random.key(seed), t)
        weights = mixture.weights(state, population)
        losses = losses_against(kind, key, t, walk, weights, suffered)
        if gradient:  # the losses become predictions, and the target the side farther away
            rows = losses
            target = (weights @ rows < 0.5).astype(float)
            losses = 2 * (weights @ rows - target) * rows
        else:
            rows, target = jnp.sqrt(losses), jnp.zeros(())
        observation = observe(
            step=t + 1, target=target[None], known=jnp.asarray(True), prediction=rows[None]
        )
        state = mixture.mix(state, observation, rows[None])[0]
        walk = walk + 0.1 * jax.random.normal(jax.random.fold_in(key, 2), (count,))
        return (state, walk, suffered + losses), (losses, weights)

    start = mixture.init(Dimensions(ROUNDS, 0, 1, 0), count, jnp.float64)
    start = start, jnp.full((count,), 0.5), jnp.zeros((count,))
    return jax.lax.scan(one_round, start, jnp.arange(ROUNDS, dtype=jnp.int32))[1]


@functools.partial(jax.jit, static_argnames=("count", "gradient"))
def fights(mixture, kinds, seeds, *, count, gradient):
    one = functools.partial(duel, count=count, gradient=gradient)
    return jax.vmap(one, (None, 0, 0))(mixture, kinds, seeds)


@functools.cache
def duels(make, count, gradient):
    """Return the excess r [S, T, N], the weights and the ranges [S, T] of many sequences."""
    number = COUNTS[count]
    kinds, seeds = jnp.arange(number) % KINDS, jnp.arange(number)
    met = fights(make(count, gradient), kinds, seeds, count=count, gradient=gradient)
    losses, weights = map(np.asarray, met)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    excess = np.sum(weights * losses, axis=-1, keepdims=True) - losses
    return excess, weights, np.ptp(losses, axis=-1)


def bounds(name, count, gradient, excess, weights, ranges):
    """Return the theorem's bound [S, N] of every sequence and agent."""
    squares = np.sum(ranges**2, axis=1, keepdims=True)
    if name == "hedge":
        bound = judge.hedge_bound(count, rate_of(count, 1 + gradient), squares)
    elif name == "adahedge":
        variance = np.sum(weights * excess**2, axis=(1, 2))[:, None]
        bound = judge.adahedge_bound(count, variance, ranges.max(axis=1, keepdims=True))
    elif name == "share":
        rate = 2 * rate_of(count, 1 + gradient)
        bound = judge.fixed_share_bound(count, rate, SHARE, 0, ROUNDS, squares)
    else:
        spans = np.abs(excess).max(axis=2)
        first = spans[np.arange(len(spans)), np.argmax(spans > 0, axis=1)]
        largest = spans.max(axis=1, keepdims=True)
        growth = np.where(largest > 0, largest / np.where(first > 0, first, 1)[:, None], 1.0)
        formula = judge.bernstein_bound if name == "bernstein" else judge.polynomial_bound
        bound = formula(count, ROUNDS, largest, np.sum(excess**2, axis=1), np.maximum(growth, 1))
    return np.broadcast_to(np.asarray(bound), (len(excess), count))


@pytest.mark.parametrize(
    ("gradient", "name"),
    [
        pytest.param(gradient, name, marks=[pytest.mark.slow] * (gradient or name not in QUICK))
        for gradient in (False, True)
        for name in sorted(EXPERTS)
    ],
)
def test_regret_stays_under_the_bound(name, gradient):
    ratios, kinds = [], []
    for count in COUNTS:
        met = duels(EXPERTS[name], count, gradient)
        bound = bounds(name, count, gradient, *met)
        assert np.isfinite(bound).all()
        total = met[0].sum(axis=1)
        assert (total <= bound + 1e-9).all()
        ratios.append((total / np.maximum(bound, 1e-9)).max(axis=1))
        kinds.append(np.arange(len(total)) % KINDS)
    ratios, kinds = np.concatenate(ratios), np.concatenate(kinds)
    assert len(ratios) == 1000
    assert ratios.max() > 0.15  # the bounds are not empty
    for kind in (4, 5):  # the adversaries hurt
        assert ratios[kinds == kind].max() > 0.02


def lazy(count, gradient):
    """Make what never learns; it has but one kind of loss."""
    return uniform_mixture()


def contrary(count, gradient):
    """Make weights that follow the worst."""
    return ExpertMixture(Hedge(-rate_of(count, 1 + gradient)), gradient)


def alone(count, gradient):
    """Make fixed share without the sharing."""
    return exponential_weights(2 * rate_of(count, 1 + gradient), gradient)


@pytest.mark.parametrize("name", sorted(EXPERTS))
@pytest.mark.parametrize("make", [lazy, contrary])
def test_the_bounds_catch_who_does_not_learn(name, make):
    met = duels(make, 5, False)
    assert (met[0].sum(axis=1) > bounds(name, 5, False, *met)).any()


def test_fixed_share_tracks_every_number_of_switches():
    largest, most = 0.0, 6
    for count in (2, 5):
        rate = 2 * rate_of(count, 1)
        excess, _, ranges = duels(EXPERTS["share"], count, False)
        squares = np.sum(ranges**2, axis=1)
        tracked = -np.stack([judge.switching_losses(-row, most) for row in excess])
        for switches in range(most + 1):
            bound = judge.fixed_share_bound(count, rate, SHARE, switches, ROUNDS, squares)
            assert (tracked[:, switches] <= bound + 1e-9).all()
            largest = max(largest, float((tracked[:, switches] / bound).max()))
    assert largest > 0.15


@pytest.mark.parametrize("make", [EXPERTS["share"], alone])
def test_without_sharing_nobody_tracks(make):
    """Exponential weights alone break the bound that fixed share keeps, where the best switches."""
    count, switching = 5, 8
    excess, _, ranges = duels(make, count, False)
    excess, squares = excess[switching::KINDS], np.sum(ranges[switching::KINDS] ** 2, axis=1)
    tracked = -np.stack([judge.switching_losses(-row, 4)[4] for row in excess])
    bound = judge.fixed_share_bound(count, 2 * rate_of(count, 1), SHARE, 4, ROUNDS, squares)
    assert (tracked > bound).any() == (make is alone)


def drift(rounds, count, outputs, seed, absent=0.0):
    rng = np.random.default_rng(seed)
    targets = 0.3 * np.cumsum(rng.normal(size=(rounds, outputs)), axis=0)
    predictions = targets[:, None] + rng.uniform(0.1, 1, (count, 1)) * rng.normal(
        size=(rounds, count, outputs)
    )
    predictions += 0.5 * rng.normal(size=(count, outputs))
    return predictions, targets, rng.uniform(size=(rounds, count)) >= absent


@pytest.mark.parametrize("name", sorted(EXPERTS))
@pytest.mark.parametrize("gradient", [False, True])
def test_theorem_bound_on_recorded_predictions(name, gradient):
    """Against each agent, and with the gradient's losses against the best fixed mixture."""
    mixture = EXPERTS[name](4, gradient)
    for seed, absent in itertools.product(range(6), (0.0, 0.3)):
        predictions, targets, present = drift(80, 4, 2, seed, absent)
        targets[11] = np.nan
        outputs, weights = play(mixture, predictions, targets, present)
        found = judge.regret(predictions, targets, outputs, present=present)
        bound = judge.theorem_bound(mixture, predictions, targets, weights, present=present)
        assert bound.shape == (4,)
        assert (found.agents <= bound).all()
        assert found.mixture >= found.agents.max() - 1e-9
        if gradient and not absent:
            assert found.mixture <= found.best_mixture.weights @ bound


def test_theorem_bound_equals_the_formulas():
    predictions, targets, _ = drift(50, 4, 1, 3)
    for name, make in EXPERTS.items():
        mixture = make(4, False)
        weights = np.asarray(play(mixture, predictions, targets)[1])
        losses = np.sum((predictions - targets[:, None]) ** 2, axis=2)
        excess = np.sum(weights * losses, axis=1, keepdims=True) - losses
        met = excess[None], weights[None], np.ptp(losses, axis=1)[None]
        expected = bounds(name, 4, False, *met)[0]
        if name == "share":  # `bounds` is for 200 rounds
            expected = expected + (50 - ROUNDS) * -np.log1p(-SHARE) / (2 * rate_of(4, 1))
        elif name in {"bernstein", "polynomial"}:
            continue  # likewise; 200 rounds allow more
        np.testing.assert_allclose(
            judge.theorem_bound(mixture, predictions, targets, weights), expected, rtol=1e-10
        )
    with pytest.raises(ValueError, match="no theorem is known for RidgeMixture"):
        judge.theorem_bound(ridge_mixture(), predictions, targets, weights)


def test_regret_against_agents_counts_only_rounds_of_both():
    predictions, targets, present = drift(30, 3, 2, 0, absent=0.4)
    targets[4] = np.nan
    predictions[~present] = np.nan  # what an absent agent says is not looked at
    outputs = play(uniform_mixture(), predictions, targets, present)[0]
    found = judge.regret(predictions, targets, outputs, present=present)
    for i in range(3):
        rows = present[:, i] & np.isfinite(targets).all(axis=1)
        gap = np.sum((outputs - targets)[rows] ** 2) - np.sum(
            (predictions[:, i] - targets)[rows] ** 2
        )
        np.testing.assert_allclose(found.agents[i], gap, rtol=1e-10)
    assert np.isfinite(found.mixture)


def test_a_diverged_agent_is_no_competitor():
    predictions, targets, _ = drift(30, 3, 2, 0)
    predictions[20:, 1] = np.inf
    predictions[25, 2] = np.nan
    found = judge.regret(predictions, targets, targets, switches=2)
    assert found.loss == 0
    assert (found.agents[1:] == -np.inf).all()
    assert found.best_mixture.weights.tolist() == [1.0, 0.0, 0.0]
    assert np.isfinite(found.switching).all()
    predictions[5, 0] = np.nan
    with pytest.raises(ValueError, match="every agent has a prediction that is not finite"):
        judge.best_mixture(predictions, targets)


def test_best_mixture_of_three_against_a_grid():
    steps = np.linspace(0, 1, 201)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-12])
    for seed in range(10):
        predictions, targets, _ = drift(12, 3, 2, seed)
        best = judge.best_mixture(predictions, targets)
        errors = np.einsum("tid,gi->gtd", predictions, grid) - targets
        least = np.sum(errors**2, axis=(1, 2)).min()
        assert best.loss <= least + 1e-12
        assert best.loss >= least - 0.05
        assert (best.weights >= 0).all()
        assert abs(best.weights.sum() - 1) < 1e-12
        direct = np.sum((np.einsum("tid,i->td", predictions, best.weights) - targets) ** 2)
        np.testing.assert_allclose(best.loss, direct, rtol=1e-9)
        assert best.gap <= 1e-10 * np.sum((predictions[:, 0] - targets) ** 2)


@pytest.mark.parametrize(("rounds", "count"), [(5, 40), (60, 40), (200, 8), (1, 3)])
def test_best_mixture_meets_the_conditions_of_optimality(rounds, count):
    """Gradients are equal where weights are positive and nowhere smaller."""
    for seed in range(5):
        predictions, targets, _ = drift(rounds, count, 1, seed)
        predictions[:, 3 % count] = predictions[:, 0]  # two agents may be the same
        best = judge.best_mixture(predictions, targets)
        errors = (predictions - targets[:, None])[..., 0]
        slope = 2 * errors.T @ (errors @ best.weights)
        scale = np.abs(errors.T @ errors).max()
        used = best.weights > 0
        assert np.ptp(slope[used]) < 1e-9 * scale
        assert slope.min() > slope[used].min() - 1e-9 * scale


def test_best_mixture_with_thousands_of_agents():
    predictions, targets, _ = drift(100, 3000, 1, 0)
    best = judge.best_mixture(predictions, targets)
    assert best.gap <= 1e-9 * np.sum((predictions - targets[:, None]) ** 2, axis=(0, 2)).min()


def test_switching_against_enumeration():
    rng = np.random.default_rng(1)
    for _ in range(5):
        losses = rng.uniform(size=(6, 3))
        best = np.full(6, np.inf)
        for path in itertools.product(range(3), repeat=6):
            switches = np.count_nonzero(np.diff(path))
            best[switches] = min(best[switches], losses[np.arange(6), path].sum())
        expected = np.minimum.accumulate(best)
        np.testing.assert_allclose(judge.switching_losses(losses, 5), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: judge.regret(np.ones((2, 3)), np.ones((2, 1)), np.ones((2, 1))), r"\[T, N, d\]"),
        (
            lambda: judge.regret(np.ones((2, 3, 1)), np.ones((2, 1)), np.ones((1, 1))),
            "outputs has shape",
        ),
        (
            lambda: judge.regret(np.ones((2, 3, 1)), np.ones((2, 1)), np.ones((2, 1)), -1),
            "switches = -1",
        ),
        (lambda: judge.best_mixture(np.ones((2, 3, 1)), np.full((2, 1), np.nan)), "every row"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
