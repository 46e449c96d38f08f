"""Series against plain recomputation of their definitions, and the figures of persistence."""

import hashlib
import inspect
import math
import re
from importlib import resources

import jax
import numpy as np
import pytest

from memoa_jax import series
from memoa_jax.series import SERIES_KINDS, Series, make_series

GENERATORS = (
    *("periodic", "logistic", "concept_drift"),
    *("brownian", "random_walk", "step_change", "seasonal"),
)


def persistence(targets, lag=1):
    """RMSE over steps and outputs of predicting y_t by y_{t-lag}."""
    errors = [
        (now - before) ** 2
        for row, earlier in zip(targets[lag:].tolist(), targets[:-lag].tolist(), strict=True)
        for now, before in zip(row, earlier, strict=True)
    ]
    return math.sqrt(sum(errors) / len(errors))


# --- the definitions, recomputed with plain Python


def test_periodic_repeats_its_levels():
    levels = {5: -0.9, 6: -0.78, 12: -0.06, 20: 0.9}
    expected = [levels[(5, 6, 12, 20)[(t + 1) % 4]] for t in range(201)]
    built = series.periodic()
    np.testing.assert_allclose(built.targets[:, 0], expected, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(built.inputs, built.targets)


def test_logistic_follows_its_map():
    for steps in (7, 200):
        n, value, expected = steps + 2, 0.6, [0.6]
        for t in range(1, steps + 1):
            swing = sum(math.sin(2 * math.pi * k * t / n) for k in (5, 11, 13))
            value = (3.6 + 0.13 * swing) * value * (1 - value)
            expected.append(value)
        # the map is chaotic, so rounding differences grow along the path
        np.testing.assert_allclose(series.logistic(steps).targets[:, 0], expected, atol=1e-9)


def concept(u):
    mix = 1.0 if u <= 7 * math.pi / 8 else 0.0
    if 7 * math.pi / 8 < u <= 9 * math.pi / 8:
        mix = math.cos(2 * (u - 7 * math.pi / 8))
    old1 = u * u + math.sin(u) + u * math.sqrt(u) + 0.5 * math.cos(10 * u)
    new1 = 2 * u - math.sin(math.sqrt(u))
    old2 = u * math.cos(u) + math.sqrt(u) - math.exp(-u)
    new2 = math.cos(u) * math.sin(u) + u + 0.25 * math.cos(10 * u)
    return mix * old1 + (1 - mix) * new1, mix * old2 + (1 - mix) * new2


@pytest.mark.parametrize("steps", [1, 30, 200])
def test_concept_drift_maps_each_input_to_the_next_target(steps):
    built = series.concept_drift(steps)
    grid = [2 * math.pi * k / (steps + 1) for k in range(steps + 2)]
    np.testing.assert_allclose(built.targets, [concept(u) for u in grid[:-1]], atol=1e-12)
    np.testing.assert_allclose(built.inputs, [(u, u, math.sqrt(u)) for u in grid[1:]], atol=1e-12)
    np.testing.assert_allclose(
        built.targets[1:], [concept(float(u)) for u in built.inputs[:-1, 0]], atol=1e-12
    )
    alone = series.concept_drift(steps, outputs="second")
    np.testing.assert_array_equal(alone.targets, built.targets[:, 1:])
    np.testing.assert_array_equal(alone.inputs, built.inputs)


def test_persistence_has_the_published_figures():
    assert round(persistence(series.periodic().targets), 4) == 1.0833
    assert persistence(series.periodic().targets, lag=4) == 0.0
    assert round(persistence(series.logistic().targets), 4) == 0.4301
    assert round(persistence(series.concept_drift().targets), 4) == 0.1516


# --- stress generators


def test_brownian_moves_have_their_mean_and_spread():
    built = series.brownian(40_000, volatility=0.3, drift=0.05, outputs=2, seed=3)
    moves = np.diff(built.targets, axis=0)
    np.testing.assert_array_equal(built.targets[0], 0.0)
    # five standard errors of a mean and of a standard deviation
    np.testing.assert_allclose(moves.mean(axis=0), 0.05, atol=5 * 0.3 / 200)
    np.testing.assert_allclose(moves.std(axis=0), 0.3, atol=5 * 0.3 / 283)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 5 / 200


def test_random_walk_persistence_errs_by_its_size():
    built = series.random_walk(10_000, size=0.25, seed=1)
    assert persistence(built.targets) == pytest.approx(0.25, rel=1e-12)
    assert abs(np.mean(np.diff(built.targets[:, 0]) > 0) - 0.5) < 5 * 0.5 / 100


def test_step_change_holds_its_levels():
    quiet = series.step_change(99, every=10, jump=2.0, noise=0.0, seed=4).targets[:, 0]
    blocks = quiet.reshape(10, 10)
    np.testing.assert_array_equal(blocks, np.repeat(blocks[:, :1], 10, axis=1))
    assert len(set(blocks[:, 0])) == 10
    assert np.abs(quiet).max() <= 2.0
    noisy = series.step_change(99, every=10, jump=2.0, noise=0.1, seed=4).targets[:, 0]
    assert 0.05 < (noisy - quiet).std() < 0.15


def test_seasonal_is_a_wave_a_trend_and_noise():
    quiet = series.seasonal(48, period=24, amplitude=3, trend=0.5, noise=0).targets[:, 0]
    expected = [3 * math.sin(2 * math.pi * t / 24) + 0.5 * t for t in range(49)]
    np.testing.assert_allclose(quiet, expected, atol=1e-12)
    noisy = series.seasonal(48, period=24, amplitude=3, trend=0.5, noise=0.2).targets[:, 0]
    assert 0.1 < (noisy - quiet).std() < 0.3


@pytest.mark.parametrize("kind", ["brownian", "random_walk", "step_change", "seasonal"])
def test_seeds_decide_and_longer_series_continue_shorter_ones(kind):
    build = SERIES_KINDS[kind]
    np.testing.assert_array_equal(build(300, seed=5).targets[:101], build(100, seed=5).targets)
    assert not np.array_equal(build(100, seed=5).targets, build(100, seed=6).targets)


@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_make_steps_plus_one_points(kind):
    for steps in (1, 37):
        built = SERIES_KINDS[kind](steps)
        assert built.num_points == len(built.inputs) == steps + 1
        assert built.known.all()
        assert built.name == kind
    assert SERIES_KINDS[kind]().num_points == 201


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("periodic", {"steps": 0}, "periodic.steps = 0: allowed is a whole number >= 1"),
        ("logistic", {"steps": 2.0}, "logistic.steps = 2.0: allowed is a whole number >= 1"),
        ("brownian", {"steps": True}, "brownian.steps = True: allowed is a whole number >= 1"),
        ("brownian", {"outputs": 0}, "brownian.outputs = 0: allowed is a whole number >= 1"),
        ("random_walk", {"seed": -1}, "random_walk.seed = -1: allowed is a whole number >= 0"),
        ("brownian", {"drift": math.nan}, "brownian.drift = nan: allowed is a finite number"),
        ("step_change", {"jump": -1}, "step_change.jump = -1: allowed is a finite number >= 0"),
        ("step_change", {"every": 0}, "step_change.every = 0: allowed is a whole number >= 1"),
        ("seasonal", {"period": 0.5}, "seasonal.period = 0.5: allowed is a finite number >= 1"),
        ("seasonal", {"noise": math.inf}, "seasonal.noise = inf: allowed is a finite number >= 0"),
        (
            "concept_drift",
            {"outputs": "y2"},
            "concept_drift.outputs = 'y2': allowed is 'both' or 'second'",
        ),
        ("co2", {"steps": 2284}, "co2.steps = 2284: allowed is a whole number 1 .. 2283"),
        ("sunspots", {"steps": 0}, "sunspots.steps = 0: allowed is a whole number 1 .. 3119"),
        ("boc", {"window": "test"}, "boc.window = 'test': allowed is 'main' or 'validation'"),
        ("ett", {"window": ""}, "ett.window = '': allowed is 'main' or 'validation'"),
    ],
)
def test_wrong_arguments_are_named(kind, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SERIES_KINDS[kind](**options)


# --- the record


def test_series_is_a_pytree_with_its_name_static():
    built = series.periodic(3)
    assert len(jax.tree.leaves(built)) == 2
    doubled = jax.tree.map(lambda leaf: 2 * leaf, built)
    assert isinstance(doubled, Series)
    assert doubled.name == "periodic"
    np.testing.assert_array_equal(doubled.targets, 2 * built.targets)


def test_a_row_is_missing_if_any_output_is():
    built = make_series(np.zeros((3, 1)), [[1, 2], [math.nan, 2], [3, 4]])
    assert built.known.tolist() == [True, False, True]
    assert built.inputs.dtype == built.targets.dtype == np.float64


def test_make_series_copies():
    values = np.zeros((3, 1))
    built = make_series(values, values)
    values[1] = 7.0
    assert not built.inputs.any()
    assert not built.targets.any()


@pytest.mark.parametrize(
    ("inputs", "targets", "name", "message"),
    [
        ([1, 2], [[1], [2]], "a", "Series.inputs has shape (2,): allowed is [n, k]"),
        ([[1], [2]], [1, 2], "a", "Series.targets has shape (2,): allowed is [n, d]"),
        ([[1], [2]], np.ones((2, 0)), "a", "Series.targets has shape (2, 0): allowed is [n, d]"),
        ([[1], [2], [3]], [[1], [2]], "a", "Series.inputs has 3 rows: allowed is 2, as targets"),
        ([[1]], [[1]], "a", "Series.targets has 1 row: allowed is at least 2"),
        (
            [[1], [math.nan]],
            [[1], [2]],
            "a",
            "Series.inputs[1, 0] = nan: allowed is a finite number (fill gaps forward)",
        ),
        (
            [[1], [math.inf]],
            [[1], [2]],
            "a",
            "Series.inputs[1, 0] = inf: allowed is a finite number (fill gaps forward)",
        ),
        (
            [[1], [2]],
            [[1, 1], [2, -math.inf]],
            "a",
            "Series.targets[1, 1] = -inf: allowed is a finite number, or NaN where missing",
        ),
        (
            [[1], [2]],
            [[1, math.nan], [2, 2]],
            "a",
            "Series.targets[0, 1] = nan: allowed is a known first target: agents start there",
        ),
        ([["a"], ["b"]], [[1], [2]], "a", "Series.inputs has dtype <U1: allowed is real numbers"),
        ([[1], [2]], [[1j], [2]], "a", "Series.targets has dtype complex128: allowed is real"),
        ([[1], [2]], [[1], [2]], "", "Series.name = '': allowed is a text that is not empty"),
    ],
)
def test_make_series_names_what_is_wrong(inputs, targets, name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make_series(inputs, targets, name)


# --- embedded real series


@pytest.mark.parametrize("file", ["mauna_loa_co2.csv", "sunspots.csv"])
def test_embedded_files_are_those_of_their_provenance(file):
    data = resources.files("memoa_jax") / "data"
    provenance = (data / "PROVENANCE.md").read_text(encoding="utf-8")
    section = provenance.split(f"## {file}")[1].split("\n## ")[0]
    digest = hashlib.sha256((data / file).read_bytes()).hexdigest()
    assert f"SHA-256 of this file: `{digest}`" in section
    assert "public domain" in section


def raw_column(file):
    """The last cell of every line, read without the loader; None where empty."""
    text = (resources.files("memoa_jax") / "data" / file).read_text(encoding="utf-8")
    return [float(v) if v else None for v in (line.split(",")[1] for line in text.split()[1:])]


@pytest.mark.parametrize(
    ("build", "file", "lags", "offset", "unit", "gaps"),
    [
        (series.co2, "mauna_loa_co2.csv", (0, 1, 52), 315.0, 20.0, 59),
        (series.sunspots, "sunspots.csv", (0, 1, 11), 0.0, 100.0, 1),
    ],
)
def test_embedded_series_keep_gaps_and_look_back_only(build, file, lags, offset, unit, gaps):
    raw = raw_column(file)
    built = build()
    assert built.num_points == len(raw)
    assert (~built.known).sum() == raw.count(None) == gaps
    for t, value in enumerate(raw):
        if value is not None:
            assert built.targets[t, 0] == pytest.approx((value - offset) / unit, abs=1e-12)
        for column, lag in enumerate(lags):
            past = [v for v in raw[: max(t - lag, 0) + 1] if v is not None]
            last_known = (past[-1] - offset) / unit
            assert built.inputs[t, column] == pytest.approx(last_known, abs=1e-12)
    assert np.nanmax(np.abs(built.targets)) < 3.0


def test_embedded_series_hold_what_they_say():
    weeks = series.co2()
    np.testing.assert_allclose(
        weeks.targets[[0, -1], 0] * 20 + 315, [316.1, 371.5], rtol=0, atol=1e-9
    )
    months = series.sunspots()
    np.testing.assert_allclose(months.targets[[0, -1], 0], [0.58, 0.008], rtol=0, atol=1e-12)
    february_1824 = (1824 - 1749) * 12 + 1
    assert np.flatnonzero(~months.known).tolist() == [february_1824]


@pytest.mark.parametrize("build", [series.co2, series.sunspots])
def test_steps_takes_a_prefix(build):
    whole, head = build(), build(100)
    assert head.num_points == 101
    np.testing.assert_array_equal(head.targets, whole.targets[:101])
    np.testing.assert_array_equal(head.inputs, whole.inputs[:101])


# --- the two public series, on files of their format with other numbers

BOC_COLUMNS = ["AUD", "DKK", "EUR", "HKD", "JPY", "MXN", "NZD", "NOK", "SEK", "CHF", "GBP", "USD"]
ETT_COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]


def written(path, header, values):
    lines = [",".join(["date", *header])]
    lines += [",".join([f"day {t}", *map(repr, row)]) for t, row in enumerate(values.tolist())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def boc_file(tmp_path_factory):
    values = np.random.default_rng(0).uniform(0.5, 2.0, (3650, 12))
    header = [f"{name}_CLOSE" for name in BOC_COLUMNS]
    return written(tmp_path_factory.mktemp("boc") / "boc.csv", header, values), values


@pytest.fixture(scope="module")
def ett_file(tmp_path_factory):
    values = np.random.default_rng(1).normal(5.0, 4.0, (5600, 7))
    return written(tmp_path_factory.mktemp("ett") / "ett.csv", ETT_COLUMNS, values), values


@pytest.mark.parametrize(("window", "start"), [("main", 0), ("validation", 1600)])
def test_boc_has_five_currencies_at_two_lags(boc_file, window, start):
    path, values = boc_file
    built = series.boc(path, window=window)
    assert built.name == f"boc_{window}"
    assert built.num_points == 2001
    for t in (0, 1, 2, 1000, 2000):
        row = start + t
        expected = []
        for currency in ("AUD", "EUR", "GBP", "JPY", "USD"):
            column = values[:, BOC_COLUMNS.index(currency)]
            expected += [column[row], column[row - 1] if row >= 1 else 0.0]
        np.testing.assert_array_equal(built.inputs[t], expected)
        assert built.targets[t, 0] == values[row, 11]
    expected = np.sqrt(np.mean(np.diff(values[start : start + 2001, 11]) ** 2))
    assert persistence(built.targets) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("window", "start"), [("main", 0), ("validation", 3500)])
def test_ett_divides_inputs_and_targets_each_by_one_maximum(ett_file, window, start):
    path, values = ett_file
    built = series.ett(path, window=window)
    assert built.name == f"ett_{window}"
    inside = values[start : start + 2001]
    for t in (0, 1, 2, 1000, 2000):
        expected = []
        for j in range(7):
            for lag in (0, 1, 2) if j < 6 else (0, 1):
                row = start + t - lag
                expected.append(values[row, j] / inside.max() if row >= 0 else 0.0)
        np.testing.assert_allclose(built.inputs[t], expected, rtol=1e-15)
        assert built.targets[t, 0] == pytest.approx(inside[t, 6] / inside[:, 6].max(), rel=1e-15)


def test_steps_keeps_the_units_of_the_window(ett_file):
    path, _ = ett_file
    np.testing.assert_array_equal(series.ett(path, steps=10).inputs, series.ett(path).inputs[:11])
    with pytest.raises(ValueError, match=r"^ett.steps = 2001: allowed is a whole number 1 .. 2000"):
        series.ett(path, steps=2001)


def test_table_makes_a_series(boc_file):
    path, values = boc_file
    built = series.table(path, targets=["USD_CLOSE"], rows=(10, 20), name="dollar")
    np.testing.assert_array_equal(built.targets[:, 0], values[10:20, 11])
    assert built.name == "dollar"


def test_kinds_are_functions_called_by_keyword():
    assert list(SERIES_KINDS)[:7] == list(GENERATORS)
    assert list(SERIES_KINDS)[7:] == ["co2", "sunspots", "boc", "ett", "table"]
    for kind, build in SERIES_KINDS.items():
        assert inspect.signature(build).return_annotation == "Series", kind
        assert inspect.getdoc(build), kind
