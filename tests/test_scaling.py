import numpy as np
import pytest

from memoa_jax.scaling import standardise
from memoa_jax.series import Series


def plain(inputs, mode):
    """Row by row, from the definition."""
    rows = []
    for t in range(len(inputs)):
        seen = inputs[: t + 1]
        moves = np.concatenate([0 * seen[:1], np.diff(seen, axis=0)])
        parts = {"levels": [seen], "moves": [moves], "both": [seen, moves]}[mode]
        seen = np.concatenate(parts, axis=1)
        spread = seen.std(axis=0)
        fits = spread > 1e-9 * np.abs(seen).max(axis=0)
        rows.append(np.where(fits, (seen[-1] - seen.mean(axis=0)) / np.where(fits, spread, 1), 0))
    return np.array(rows)


@pytest.mark.parametrize("mode", ["levels", "moves", "both"])
def test_every_row_is_in_the_units_of_its_past(mode):
    rng = np.random.default_rng(0)
    inputs = np.cumsum(rng.normal(size=(200, 3)), axis=0) * [1.0, 1e-6, 1e3] + [0.0, 1.0, 1e7]
    inputs[:, 2] = np.where(np.arange(200) < 50, 7.0, inputs[:, 2])
    got = standardise(Series(inputs, inputs), mode).inputs
    np.testing.assert_allclose(got, plain(inputs, mode), atol=1e-6)


@pytest.mark.parametrize("mode", ["levels", "moves", "both"])
def test_the_future_changes_nothing(mode):
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(100, 2))
    other = inputs.copy()
    other[60:] = 1e6 * rng.normal(size=(40, 2))
    a, b = (standardise(Series(x, x), mode).inputs for x in (inputs, other))
    np.testing.assert_array_equal(a[:60], b[:60])
    assert np.abs(a[60:] - b[60:]).max() > 0.1


def test_a_large_offset_and_a_constant_column():
    ramp = np.stack([np.arange(50.0), np.full(50, 3.3), np.zeros(50)], axis=1)
    plainly = standardise(Series(ramp, ramp)).inputs
    assert np.all(plainly[:, 1:] == 0)
    apart = standardise(Series(ramp + 1e6, ramp)).inputs
    np.testing.assert_allclose(apart[:, 0], plainly[:, 0], rtol=1e-6)
    assert np.all(np.isfinite(apart))


def test_wrong_modes_are_refused_by_name():
    with pytest.raises(
        ValueError, match="inputs = 'slopes': allowed is one of levels, moves, both"
    ):
        standardise(Series(np.zeros((2, 1)), np.zeros((2, 1))), "slopes")
