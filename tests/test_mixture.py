"""The server: equal to the textbook solve, from sums only, and sound in float32."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import plain_loop
import pytest

from memoa_jax.mixture import RidgeFit, _fit, mixture_weights, play, ridge_mixture

REFERENCE = json.loads((pathlib.Path(__file__).parent / "reference/mixture.json").read_text())


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: str(len(c["weights"])))
def test_reference_numbers(case):
    weights = mixture_weights(
        np.array(case["predictions"]), np.array(case["target"]), case["kappa"], case["eta"]
    )
    expected = np.array(case["weights"])
    assert np.abs(weights - expected).max() <= 1e-9 * np.abs(expected).max()
    assert abs(weights.sum() - case["eta"]) < 1e-12


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(("kappa", "eta"), [(1.0, 1.0), (1e-3, 0.4), (50.0, -2.0)])
def test_equals_the_textbook_solve(count, d, kappa, eta):
    rng = np.random.default_rng(count * 10 + d)
    predictions, target = rng.normal(size=(count, d)), rng.normal(size=d)
    expected = plain_loop.textbook_weights(predictions, target, kappa, eta)
    weights = mixture_weights(predictions, target, kappa, eta)
    np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-9)


def test_float32_is_sound_where_the_textbook_form_is_not():
    """10^5 agents that agree to 1%: the sums of squares are 10^9 times the spread."""
    rng = np.random.default_rng(0)
    predictions = 5 + 0.05 * rng.normal(size=(100_000, 1))
    target = np.array([5.1])
    exact = np.asarray(mixture_weights(predictions, target, 1.0, 1.0))
    single = mixture_weights(
        predictions.astype(np.float32), target.astype(np.float32), np.float32(1), np.float32(1)
    )
    assert single.dtype == jnp.float32
    assert np.abs(single - exact).max() < 1e-4 * np.abs(exact).max()


def test_weights_minimise_what_they_should():
    rng = np.random.default_rng(3)
    U, y = rng.normal(size=(6, 2)), rng.normal(size=2)
    w = np.asarray(mixture_weights(U, y, 0.3, 1.0))

    def loss(v):
        return np.sum((y - U.T @ v) ** 2) + 0.3 * np.sum(v**2)

    for _ in range(50):
        step = rng.normal(size=6)
        step -= step.mean()  # keeps the sum
        assert loss(w + 1e-3 * step) > loss(w)


def test_gradients_through_the_weights():
    rng = np.random.default_rng(4)
    U, y = jnp.asarray(rng.normal(size=(5, 2))), jnp.asarray(rng.normal(size=2))

    def score(kappa):
        return jnp.sum(mixture_weights(U, y, kappa, 1.0) ** 3)

    slope = (score(0.5 + 1e-6) - score(0.5 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(score)(0.5), slope, rtol=1e-7)


def sequence(rounds=14, count=5, d=2, absent=0.0):
    rng = np.random.default_rng(7)
    targets = np.cumsum(rng.normal(size=(rounds, d)), axis=0)
    targets[6] = np.nan
    mean = np.nan_to_num(targets) + rng.normal(size=(rounds, d))
    predictions = mean[:, None] + rng.normal(size=(rounds, count, d))
    return predictions, targets, rng.uniform(size=(rounds, count)) >= absent


def weights_by_regression(predictions, targets, present, kappa, eta, discount):
    """Return the weights [T, N] by least squares over all agents' weights, stacked over steps."""
    _, count, d = predictions.shape
    deviation, response, weights = np.zeros((count, d)), np.zeros(d), []
    rows, right = np.zeros((0, d)), np.zeros(0)
    for U, y, here in zip(predictions, targets, present, strict=True):
        w = np.where(here, eta / here.sum() + deviation @ response, 0)
        w += here * (eta - w.sum()) / here.sum()  # all moved equally, back to the sum
        weights.append(w)
        if not np.isfinite(y).all():
            continue
        mean = U[here].mean(axis=0)
        deviation = np.where(here[:, None], U - mean, 0)
        # w = eta/N + deviation r: |y - U' w|^2 + kappa |w - eta/N|^2
        now = np.vstack([deviation.T @ deviation, np.sqrt(kappa) * deviation])
        rows = np.vstack([np.sqrt(discount) * rows, now])
        right = np.concatenate([np.sqrt(discount) * right, y - eta * mean, np.zeros(count)])
        response = np.linalg.lstsq(rows, right, rcond=None)[0]
    return np.array(weights)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("absent", [0.0, 0.3])
@pytest.mark.parametrize(("discount", "eta"), [(0.0, 1.0), (0.6, 1.0), (0.95, 0.4), (1.0, -1.0)])
def test_discounted_weights_are_a_regression_on_the_past(d, absent, discount, eta):
    predictions, targets, present = sequence(d=d, absent=absent)
    expected = weights_by_regression(predictions, targets, present, 0.3, eta, discount)
    mixture = ridge_mixture(kappa=0.3, eta=eta, discount=discount)
    outputs, weights = play(mixture, predictions, targets, present if absent else None)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(weights.sum(axis=1), eta, atol=1e-12)
    np.testing.assert_allclose(outputs, np.einsum("ti,tid->td", expected, predictions), atol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_without_discount_it_is_the_published_rule(d):
    """Three agents in three outputs: the spread is singular, and nothing is lost."""
    predictions, targets, _ = sequence(count=3, d=d)
    weights = play(ridge_mixture(kappa=0.3, eta=0.8), predictions, targets)[1]
    for t in range(1, 14):
        last = t - 2 if t == 7 else t - 1  # row 6 is missing
        expected = plain_loop.textbook_weights(predictions[last], targets[last], 0.3, 0.8)
        np.testing.assert_allclose(weights[t], expected, rtol=0, atol=1e-12)


def test_the_past_helps_where_the_last_step_is_noise():
    rng = np.random.default_rng(3)
    targets = 2 * rng.normal(size=(300, 1))
    predictions = np.array([0.0, 2.0, 4.0, 6.0])[:, None] + 0.1 * rng.normal(size=(300, 4, 1))
    losses = [
        np.mean((play(ridge_mixture(discount=x), predictions, targets)[0] - targets)[50:] ** 2)
        for x in (0.0, 0.9)
    ]
    assert losses[1] < 0.7 * losses[0]


def test_a_new_discount_compiles_nothing_and_agreement_is_no_trouble():
    predictions, targets, _ = sequence()
    predictions[3:6] = predictions[3:6, :1]  # everybody agrees
    traces = []

    @jax.jit
    def last(discount):
        traces.append(1)
        return play(ridge_mixture(discount=discount), predictions, targets)[1][-1]

    found = [last(x) for x in (0.0, 0.5, 0.9, 1.0)]
    assert np.isfinite(found).all()
    assert len(traces) == 1


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_a_spread_whose_square_overflows_costs_the_past_only(discount):
    """Float32, agents 10^12 apart for three steps: then as if there had been no past."""
    predictions, targets, _ = sequence()
    far = predictions.copy()
    far[4:7] *= 1e12
    mixture = ridge_mixture(discount=discount)
    weights = play(mixture, far.astype("f4"), targets.astype("f4"))[1]
    assert np.isfinite(weights).all()
    fresh = play(mixture, predictions[7:].astype("f4"), targets[7:].astype("f4"))[1]
    np.testing.assert_allclose(weights[8:], fresh[1:], atol=1e-4)


def test_discounted_weights_in_float32_with_many_agents():
    rng = np.random.default_rng(0)
    targets = 5 + rng.normal(size=(20, 2))
    predictions = targets[:, None] + 0.2 * rng.normal(size=(20, 30_000, 2)) + 0.3
    mixture = ridge_mixture(discount=0.9)
    exact = play(mixture, predictions, targets)
    single = play(mixture, predictions.astype("f4"), targets.astype("f4"))
    assert single[1].dtype == jnp.float32
    assert np.abs(single[1] - exact[1]).max() < 1e-3 * np.abs(exact[1]).max()
    np.testing.assert_allclose(single[0], exact[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ridge_mixture(kappa=0.0), "kappa = 0.0: allowed is a finite number > 0"),
        (lambda: ridge_mixture(eta=float("inf")), "eta = inf"),
        (lambda: ridge_mixture(discount=1.5), r"discount = 1.5: .* in \[0, 1\]"),
        (lambda: mixture_weights(np.ones((3, 2)), np.ones(3), 1.0, 1.0), r"\[N, d\] and \[d\]"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_deviations_of_rounding_size_do_no_harm():
    """Agents that agree but for the last bit; their products were once not even symmetric."""
    spread = jnp.array([[4.83e-32, 1.94e-33], [1.94e-33, 0.0]])
    nothing = RidgeFit.empty(2, jnp.float64)
    fit = _fit(ridge_mixture(), nothing, spread, jnp.array([0.77, -0.03]), jnp.array([0.13, -0.13]))
    np.testing.assert_allclose(fit.response, [0.64, 0.1], rtol=1e-9)
