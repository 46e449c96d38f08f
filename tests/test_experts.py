"""Mixtures with guarantees: each rule against a plain loop; absence, causality, any size."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.experts import (
    bernstein_aggregation,
    exponential_weights,
    fixed_share,
    polynomial_potentials,
)
from memoa_jax.mixture import play, ridge_mixture, uniform_mixture
from memoa_jax.types import Dimensions, Observation, Population

RATE, SHARE = 0.7, 0.05
EXPERTS = {
    "hedge": lambda gradient=True: exponential_weights(RATE, gradient),
    "adahedge": lambda gradient=True: exponential_weights(None, gradient),
    "bernstein": bernstein_aggregation,
    "polynomial": polynomial_potentials,
    "share": lambda gradient=True: fixed_share(RATE, SHARE, gradient),
}
MIXTURES = {
    **EXPERTS,
    "uniform": uniform_mixture,
    "ridge": ridge_mixture,
    "discounted ridge": lambda: ridge_mixture(discount=0.9),
}
every_rule = pytest.mark.parametrize("name", sorted(EXPERTS))
every_mixture = pytest.mark.parametrize("name", sorted(MIXTURES))


def sequence(rounds=40, count=5, outputs=2, seed=0, absent=0.0):
    """Return predictions [T, N, d], targets [T, d] and who is present [T, N].

    Most tests take the same sizes, so that one compiled program serves them all.
    """
    rng = np.random.default_rng(seed)
    targets = np.cumsum(rng.normal(size=(rounds, outputs)), axis=0)
    skill = rng.uniform(0.2, 2.0, size=(count, 1))
    predictions = targets[:, None] + skill * rng.normal(size=(rounds, count, outputs))
    return predictions, targets, rng.uniform(size=(rounds, count)) >= absent


class PlainRule:
    """One rule in absolute units, with plain numpy sums; r is zero for those asleep."""

    def __init__(self, name, count):
        self.name, self.count = name, count
        self.logarithm = np.log(max(count, 2))
        self.R, self.X, self.V = np.zeros(count), np.zeros(count), np.zeros(count)
        self.w, self.B, self.gap = np.full(count, 1 / count), 0.0, 0.0

    def weights(self, here):
        if not here.any():
            return np.zeros(self.count)
        if self.name == "share":
            w = self.w
        elif self.name == "hedge":
            w = np.exp(RATE * self.R)
        elif self.name == "adahedge":
            top = self.R[here].max()
            w = np.equal(self.R, top).astype(float)
            if self.gap > 0:
                w = np.exp(np.where(here, self.logarithm / self.gap * (self.R - top), 0))
        elif self.B == 0:
            w = np.ones(self.count)
        elif self.name == "bernstein":
            rate = 1 / np.sqrt(self.V / self.logarithm + 4 * self.B**2)
            w = rate * np.exp(rate * self.X)
        else:
            w = np.maximum(self.X, 0) / (self.B**2 + self.V)
            if not (w[here] > 0).any():
                w = np.ones(self.count)
        w = np.where(here, w, 0)
        return w / w.sum()

    def learn(self, w, r, here):
        before, self.B = self.B, max(self.B, np.abs(r).max())
        if self.name == "adahedge":
            if self.gap > 0:
                rate = self.logarithm / self.gap
                self.gap += np.log(np.sum(w * np.exp(rate * r))) / rate
            else:
                self.gap += (self.R + r)[here].max() - self.R[here].max()
        self.R = self.R + r
        grown = self.w * np.exp(RATE * r)
        self.w = SHARE / self.count + (1 - SHARE) * grown / grown.sum()
        c = r * before / self.B if self.B else r
        rate = 1 / np.sqrt(self.V / self.logarithm + 4 * before**2) if before else 0
        self.X = self.X + c - (rate * c**2 if self.name == "bernstein" else 0)
        self.V = self.V + c**2


def plain_play(name, gradient, predictions, targets, present):
    """Return outputs and weights of a rule, one round after the other."""
    rule, known = PlainRule(name, predictions.shape[1]), np.isfinite(targets).all(axis=1)
    outputs, weights = [], []
    last = np.zeros(targets.shape[1])
    for U, y, seen, here in zip(predictions, targets, known, present, strict=True):
        w = rule.weights(here)
        outputs.append(w @ U if here.any() else last)
        weights.append(w)
        if seen:
            last = y
            if here.any():
                loss = np.sum((U - y) ** 2, axis=1)
                if gradient:
                    loss = 2 * U @ (w @ U - y)
                rule.learn(w, np.where(here, w @ loss - loss, 0), here)
    return np.array(outputs), np.array(weights)


@every_rule
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("absent", [0.0, 0.4])
def test_equals_a_plain_loop(name, gradient, absent):
    predictions, targets, present = sequence(seed=2, absent=absent)
    if absent:
        present[12], targets[[3, 20]] = False, np.nan
    expected = plain_play(name, gradient, predictions, targets, present)
    found = play(
        EXPERTS[name](gradient=gradient), predictions, targets, present if absent else None
    )
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-9)
    assert np.ptp(expected[1][-1]) > 0.05  # something was learned


def test_every_mixture_is_a_program_of_its_own():
    """Trees that compare equal share a compiled program: leafless records need a static name."""
    programs = [jax.tree.structure(make()) for make in EXPERTS.values()]
    programs += [jax.tree.structure(make(gradient=False)) for make in EXPERTS.values()]
    programs += [jax.tree.structure(make()) for make in (uniform_mixture, ridge_mixture)]
    for first, second in itertools.combinations(programs, 2):
        assert first != second


@every_rule
def test_agents_that_agree_teach_nothing(name):
    """What is left of their excess is rounding, which a rule without units would blow up."""
    targets = np.sin(np.arange(12.0))[:, None]
    predictions = np.repeat(1.1 * targets[:, None] + 0.3, 7, axis=1)
    for dtype in (np.float64, np.float32):
        weights = play(EXPERTS[name](), predictions.astype(dtype), targets.astype(dtype))[1]
        np.testing.assert_allclose(weights, 1 / 7, rtol=1e-6)


def test_uniform_is_the_mean_of_those_present():
    predictions, targets, present = sequence(absent=0.3)
    outputs, weights = play(uniform_mixture(), predictions, targets, present)
    np.testing.assert_allclose(weights, present / present.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(outputs, np.einsum("ti,tid->td", weights, predictions), rtol=1e-12)


@every_mixture
@pytest.mark.parametrize("count", [1, 5])
def test_outputs_are_the_weighted_sums_and_weights_sum_to_one(name, count):
    predictions, targets, present = sequence(count=count, seed=count, absent=0.3)
    outputs, weights = play(MIXTURES[name](), predictions, targets, present)
    somebody = present.any(axis=1)
    np.testing.assert_allclose(weights.sum(axis=1), somebody, atol=1e-12)
    assert (weights[~present] == 0).all()
    if "ridge" not in name:
        assert (weights >= 0).all()
    expected = np.einsum("ti,tid->td", weights, predictions)
    np.testing.assert_allclose(outputs[somebody], expected[somebody], rtol=1e-9, atol=1e-9)


@every_mixture
def test_all_present_is_as_if_nobody_could_be_absent(name):
    predictions, targets, present = sequence()
    with_mask = play(MIXTURES[name](), predictions, targets, present)
    without = play(MIXTURES[name](), predictions, targets)
    np.testing.assert_allclose(with_mask[1], without[1], rtol=0, atol=1e-13)


@every_mixture
def test_the_future_changes_nothing(name):
    predictions, targets, present = sequence(absent=0.2)
    rng = np.random.default_rng(5)
    outputs, weights = play(MIXTURES[name](), predictions, targets, present)
    for t in (1, 2, 17):
        later, other = targets.copy(), predictions.copy()
        later[t:] = 1e3 * rng.normal(size=later[t:].shape)
        other[t + 1 :] = 1e3 * rng.normal(size=other[t + 1 :].shape)
        changed = play(MIXTURES[name](), other, later, present)
        np.testing.assert_array_equal(changed[0][: t + 1], outputs[: t + 1])
        np.testing.assert_array_equal(changed[1][: t + 1], weights[: t + 1])
        assert np.array_equal(changed[1][t + 1 :], weights[t + 1 :]) == (name == "uniform")


@every_rule
def test_a_missing_target_teaches_nothing(name):
    predictions, targets, _ = sequence()
    targets[6] = np.nan
    weights = play(EXPERTS[name](), predictions, targets)[1]
    np.testing.assert_array_equal(weights[7], weights[6])
    assert not np.array_equal(weights[8], weights[7])


def observe(prediction, target, step, population):
    return Observation(
        step=jnp.int32(step),
        target=target,
        known=jnp.asarray(True),
        prediction=prediction,
        features=jnp.zeros((*prediction.shape[:1], 0, prediction.shape[1])),
        population=population,
        voters=population,
    )


@every_rule
def test_step_zero_is_no_round(name):
    mixture = EXPERTS[name]()
    state = mixture.init(Dimensions(5, 0, 1, 0), 3, jnp.float64)
    rows = jnp.array([[1.0, 2.0, 5.0]])
    mix = jax.jit(
        lambda step: mixture.mix(
            state, observe(rows, jnp.ones(1), step, Population(jnp.asarray(3.0))), rows
        )[0]
    )
    for step, learns in ((0, False), (1, True)):
        new = mix(step)
        same = jax.tree.map(np.array_equal, new.memory, state.memory)
        assert all(jax.tree.leaves(same)) != learns


@every_mixture
def test_agents_may_live_in_blocks(name):
    """Two blocks that meet in sums and maxima only do what one block does."""
    count, mixture = 6, MIXTURES[name]()
    predictions, targets, present = sequence(15, count, absent=0.2)
    expected = play(mixture, predictions, targets, present)
    blocks = Population(
        size=jnp.asarray(float(count)),
        combine=lambda parts: jax.lax.psum(parts[..., 0], "blocks"),
        widest=lambda part: jax.lax.pmax(part, "blocks"),
    )
    dimensions = Dimensions(15, 0, 2, 0)

    def step(state, target, voted, here, before, ahead):
        observation = dataclasses.replace(
            observe(before, target, 1, blocks.among(here)), voters=blocks.among(voted)
        )
        state, output = mixture.mix(state, observation, ahead)
        return state, output, mixture.weights(state, observation.population)

    step = jax.jit(jax.vmap(step, in_axes=(0, None, 0, 0, 0, 0), axis_name="blocks"))

    def split(values):
        return jnp.asarray(values).reshape(2, count // 2, *values.shape[1:])

    def lanes(values):
        return jnp.swapaxes(split(values), 1, 2)

    state = jax.vmap(lambda _: mixture.init(dimensions, count // 2, jnp.float64))(jnp.arange(2))
    for t in range(1, 15):
        attendance = split(present[t - 1]), split(present[t])
        rows = lanes(predictions[t - 1]), lanes(predictions[t])
        state, output, weights = step(state, targets[t - 1], *attendance, *rows)
        np.testing.assert_allclose(output[0], expected[0][t], rtol=1e-10)
        np.testing.assert_allclose(weights.ravel(), expected[1][t], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["adahedge", "bernstein", "polynomial"])
def test_units_do_not_matter(name):
    predictions, targets, _ = sequence()
    weights = play(EXPERTS[name](), predictions, targets)[1]
    for unit in (1e-8, 1e12):
        other = play(EXPERTS[name](), unit * predictions, unit * targets)[1]
        np.testing.assert_allclose(other, weights, rtol=0, atol=1e-9)
    single = play(
        EXPERTS[name](), (1e12 * predictions).astype(np.float32), np.float32(1e12 * targets)
    )[1]
    np.testing.assert_allclose(single, weights, rtol=0, atol=1e-3)


@every_rule
@pytest.mark.parametrize("size", [1e8, 1e30, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("gradient", [True, False])
def test_a_diverged_agent_gets_no_weight_and_poisons_nothing(name, size, gradient):
    predictions, targets, _ = sequence(rounds=80)
    with np.errstate(over="ignore"):
        predictions = predictions.astype(np.float32)
    predictions[30:, 2] = size
    if size == 1e8:  # diverges by and by, as agents do
        predictions[30:, 2] = 10.0 ** np.minimum(np.arange(50)[:, None] / 2, 37)
    outputs, weights = play(EXPERTS[name](gradient=gradient), predictions, targets.astype("f4"))
    assert weights.dtype == jnp.float32
    assert np.isfinite(outputs).all()
    assert np.isfinite(weights).all()
    assert (weights[60:, 2] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    if size != 1e8:
        assert (weights[30:, 2] == 0).all()
        asleep = (np.arange(80)[:, None] >= 30) & (np.arange(5) == 2)
        sound = np.where(asleep[..., None], 0.0, predictions)
        expected = plain_play(name, gradient, sound, targets, ~asleep)[1]
        np.testing.assert_allclose(weights, expected, atol=2e-3)


@every_rule
def test_nobody_usable_leaves_the_last_target(name):
    predictions, targets, _ = sequence()
    predictions[5] = np.nan
    outputs, weights = play(EXPERTS[name](), predictions, targets)
    np.testing.assert_array_equal(outputs[5], targets[4])
    assert (weights[5] == 0).all()
    assert np.isfinite(outputs).all()


@every_rule
def test_long_sleepers_wake_up_whatever_the_others_did(name):
    """Weights that would have underflowed long ago are still weights among those awake."""
    rounds = 3000
    predictions = np.zeros((rounds, 3, 1))
    predictions[:, 1:] = 3.0
    predictions[:, 2] += 0.001 * np.arange(rounds)[:, None]
    present = np.ones((rounds, 3), bool)
    present[-100:, 0] = False
    weights = play(EXPERTS[name](), predictions.astype("f4"), np.zeros((rounds, 1), "f4"), present)[
        1
    ]
    assert weights[-101, 0] > 0.9
    np.testing.assert_allclose(weights[-100:].sum(axis=1), 1, atol=1e-5)
    assert np.isfinite(weights).all()


@every_rule
def test_float32_with_many_agents(name):
    count = 100_001
    rng = np.random.default_rng(2)
    targets = 5 + rng.normal(size=(12, 1))
    predictions = targets[:, None] + rng.uniform(0.1, 1, size=(count, 1)) * rng.normal(
        size=(12, count, 1)
    )
    exact = play(EXPERTS[name](), predictions, targets)
    single = play(EXPERTS[name](), predictions.astype("f4"), targets.astype("f4"))
    assert single[1].dtype == jnp.float32
    np.testing.assert_allclose(single[0], exact[0], rtol=1e-4)
    for found, expected in zip(single[1], exact[1], strict=True):
        assert np.abs(found - expected).max() < 2e-3 * expected.max()


@pytest.mark.parametrize(
    "make",
    [
        exponential_weights,
        lambda rate: fixed_share(rate, 0.05),
        lambda share: fixed_share(2.0, share),
        lambda discount: ridge_mixture(discount=discount),
    ],
)
def test_numbers_are_mapped_over_and_differentiated(make):
    predictions, targets, present = sequence(15, 4, absent=0.2)

    @jax.jit
    def loss(value):
        outputs = play(make(value), predictions, targets, present)[0]
        return jnp.sum((outputs - targets) ** 2)

    values = jnp.array([0.1, 0.3, 0.8])
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(values), [loss(v) for v in values])
    slope = (loss(0.3 + 1e-6) - loss(0.3 - 1e-6)) / 2e-6
    assert abs(slope) > 1e-6
    np.testing.assert_allclose(jax.grad(loss)(0.3), slope, rtol=1e-5)


@every_rule
def test_gradients_with_respect_to_predictions(name):
    predictions, targets, present = sequence(10, 3, 1, seed=4, absent=0.3)

    @jax.jit
    def loss(scale):
        outputs = play(EXPERTS[name](), scale * predictions, targets, present)[0]
        return jnp.sum((outputs - targets) ** 2)

    slope = (loss(1.1 + 1e-6) - loss(1.1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(loss)(1.1), slope, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: exponential_weights(rate=0.0), "rate = 0.0: allowed is a finite number > 0"),
        (lambda: exponential_weights(rate=float("nan")), "rate = nan"),
        (lambda: fixed_share(-1.0, 0.1), "fixed_share: rate = -1.0"),
        (lambda: fixed_share(1.0, 1.0), r"share = 1.0: allowed is a finite number in \(0, 1\)"),
        (lambda: play(uniform_mixture(), np.ones((2, 3)), np.ones((2, 1))), r"\[T, N, d\]"),
        (lambda: play(uniform_mixture(), np.ones((2, 3, 1)), np.ones((3, 1))), "targets has shape"),
        (
            lambda: play(uniform_mixture(), np.ones((2, 3, 1)), np.ones((2, 1)), np.ones((2, 2))),
            "present or weights",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
