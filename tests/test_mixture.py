"""The server: equal to the textbook solve, from sums only, and sound in float32."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import plain_loop
import pytest

from memoa_jax.mixture import mixture_weights, ridge_mixture

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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ridge_mixture(kappa=0.0), "kappa = 0.0: allowed is a finite number > 0"),
        (lambda: ridge_mixture(eta=float("inf")), "eta = inf"),
        (lambda: mixture_weights(np.ones((3, 2)), np.ones(3), 1.0, 1.0), r"\[N, d\] and \[d\]"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
