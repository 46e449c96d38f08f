"""Tables against plain indexing into the file, causality, and every message of a bad file."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest

from memoa_jax.tables import TableError, load_table

NAN = math.nan


def csv_file(folder, text, name="data.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def random_file(folder, rows=40, seed=0, missing=0.0):
    """A file of three columns among a date and a remark; its values, NaN where missing."""
    draws = np.random.default_rng(seed)
    values = draws.normal(2.0, 1.0, (rows, 3))
    values[draws.random(values.shape) < missing] = NAN
    values[0] = [1.5, -2.5, 3.5]
    lines = ["when,a,b,remark,c"]
    for t, row in enumerate(values.tolist()):
        a, b, c = ("" if math.isnan(v) else repr(v) for v in row)
        lines.append(f'2020-01-{t},{a},{b},"x, y",{c}')
    return csv_file(folder, "\n".join(lines) + "\n"), values


def last_known(column, row):
    """The plain definition of a forward fill."""
    return next(column[s] for s in range(row, -1, -1) if not math.isnan(column[s]))


# --- columns, lags, windows


def test_columns_by_name_with_their_lags(tmp_path):
    path, values = random_file(tmp_path)
    lags = {"c": [0, 3], "a": [2]}
    table = load_table(path, targets=["b", "a"], inputs=["c", "a"], lags=lags, rows=(1, 30))
    assert table.inputs.shape == (29, 3)
    for t in range(29):
        row = 1 + t
        expected = [
            values[row, 2],
            values[row - 3, 2] if row >= 3 else 0.0,
            values[row - 2, 0] if row >= 2 else 0.0,
        ]
        assert table.inputs[t].tolist() == expected
        assert table.targets[t].tolist() == [values[row, 1], values[row, 0]]


def test_inputs_default_to_the_targets_and_rows_to_the_file(tmp_path):
    path, values = random_file(tmp_path)
    table = load_table(path, targets=["b"])
    np.testing.assert_array_equal(table.inputs, values[:, 1:2])
    np.testing.assert_array_equal(table.targets, values[:, 1:2])


def test_a_lag_before_the_file_is_zero_or_its_first_value(tmp_path):
    path, values = random_file(tmp_path, rows=4)
    zero = load_table(path, targets=["a"], lags=[2]).inputs[:, 0]
    assert zero.tolist() == [0.0, 0.0, values[0, 0], values[1, 0]]
    first = load_table(path, targets=["a"], lags=[2], before="first").inputs[:, 0]
    assert first.tolist() == [values[0, 0], values[0, 0], values[0, 0], values[1, 0]]
    beyond = load_table(path, targets=["a"], lags=[9], before="first").inputs[:, 0]
    assert beyond.tolist() == [values[0, 0]] * 4
    far = load_table(path, targets=["a"], lags=[10**15, 1], rows=(1, 4)).inputs
    assert far.tolist() == [[0.0, value] for value in values[:3, 0]]


def test_byte_order_mark_spaces_and_line_ends(tmp_path):
    text = "\ufeffy , x\r\n1, 2\r\n 3 ,4e0\r\n\r\n"
    table = load_table(csv_file(tmp_path, text), targets=["y"], inputs=["x"])
    assert table.targets.tolist() == [[1.0], [3.0]]
    assert table.inputs.tolist() == [[2.0], [4.0]]


def test_what_follows_the_window_is_not_read(tmp_path):
    path = csv_file(tmp_path, "y\n1\n2\nbroken,row\n")
    assert load_table(path, targets=["y"], rows=(0, 2)).targets.tolist() == [[1.0], [2.0]]


# --- units


def test_units_of_the_window(tmp_path):
    path, values = random_file(tmp_path)
    kept = {"targets": ["a"], "inputs": ["b", "c"], "rows": (5, 25)}
    inside = values[5:25]

    table = load_table(path, scaling="window_max", **kept)
    np.testing.assert_allclose(table.inputs, inside[:, 1:] / inside[:, 1:].max(), rtol=1e-15)
    np.testing.assert_allclose(table.targets, inside[:, :1] / inside[:, 0].max(), rtol=1e-15)

    table = load_table(path, scaling="column_max", **kept)
    np.testing.assert_allclose(table.inputs, inside[:, 1:] / inside[:, 1:].max(0), rtol=1e-15)

    table = load_table(path, scaling="minmax", **kept)
    low, high = inside.min(axis=0), inside.max(axis=0)
    np.testing.assert_allclose(table.inputs, ((inside - low) / (high - low))[:, 1:], atol=1e-15)
    assert table.targets.min() == 0.0
    assert table.targets.max() == 1.0

    table = load_table(path, scaling="prefix", prefix=8, **kept)
    mean, spread = inside[:8].mean(axis=0), inside[:8].std(axis=0)
    np.testing.assert_allclose(table.inputs, ((inside - mean) / spread)[:, 1:], atol=1e-13)
    np.testing.assert_allclose(table.targets, ((inside - mean) / spread)[:, :1], atol=1e-13)


def test_every_lag_of_a_column_has_the_columns_units(tmp_path):
    path, values = random_file(tmp_path)
    options = {"targets": ["a"], "lags": [0, 1], "scaling": "prefix", "prefix": 10}
    inputs = load_table(path, **options).inputs
    np.testing.assert_array_equal(inputs[1:, 1], inputs[:-1, 0])
    assert inputs[0, 1] == 0.0
    inputs = load_table(path, before="first", **options).inputs
    assert inputs[0, 1] == inputs[0, 0] != values[0, 0]


def test_a_constant_column_is_centred_only(tmp_path):
    assert np.full(7, 0.1).std() > 0  # rounding: dividing by it would invent units
    path = csv_file(tmp_path, "y\n" + 7 * "0.1\n")
    for options in ({"scaling": "prefix", "prefix": 7}, {"scaling": "minmax"}):
        targets = load_table(path, targets=["y"], **options).targets
        np.testing.assert_allclose(targets, 0.0, atol=1e-15)


# --- missing values


def test_forward_fill_carries_the_last_known_value(tmp_path):
    path, values = random_file(tmp_path, rows=80, missing=0.4)
    table = load_table(
        path, targets=["a"], inputs=["b", "c"], lags=[0, 2], rows=(3, 80), missing="forward_fill"
    )
    for t, row in enumerate(range(3, 80)):
        assert table.targets[t, 0] == last_known(values[:, 0], row)
        expected = [
            last_known(values[:, j], row - lag) for j in (1, 2) for lag in (0, 2) if row >= lag
        ]
        assert table.inputs[t].tolist() == expected


def test_mask_keeps_gaps_in_targets_and_fills_inputs(tmp_path):
    path, values = random_file(tmp_path, rows=80, missing=0.4)
    table = load_table(path, targets=["a", "b"], lags=[0, 1], missing="mask")
    np.testing.assert_array_equal(table.targets, values[:, :2])
    assert np.isnan(table.targets).any()
    assert np.isfinite(table.inputs).all()
    assert table.inputs[50, 1] == last_known(values[:, 0], 49)


def test_units_ignore_gaps(tmp_path):
    path, values = random_file(tmp_path, rows=80, missing=0.4)
    table = load_table(path, targets=["a"], scaling="prefix", prefix=20, missing="mask")
    known = values[:20, 0][~np.isnan(values[:20, 0])]
    expected = (values[:, :1] - known.mean()) / known.std()
    np.testing.assert_allclose(table.targets, expected, atol=1e-13)


@pytest.mark.parametrize("cell", ["", "  ", "NaN", "nan", "NA", '""'])
def test_cells_that_mean_missing(tmp_path, cell):
    path = csv_file(tmp_path, f"day,y\na,1\nb,{cell}\nc,3\n")
    table = load_table(path, targets=["y"], missing="mask")
    assert table.inputs[:, 0].tolist() == [1.0, 1.0, 3.0]
    assert np.isnan(table.targets[1, 0])


@pytest.mark.parametrize("missing", ["forward_fill", "mask"])
@pytest.mark.parametrize(("scaling", "prefix"), [("none", None), ("prefix", 6)])
def test_later_rows_change_no_earlier_input(tmp_path, missing, scaling, prefix):
    path, _ = random_file(tmp_path, rows=60, missing=0.3)
    lines = path.read_text().splitlines()
    options = {"targets": ["a"], "inputs": ["a", "b", "c"], "lags": [0, 1, 5],
               "missing": missing, "scaling": scaling, "prefix": prefix}  # fmt: skip
    whole = load_table(path, **options)
    for altered in (6, 20, 59):
        tail = [f"later,{7e5 + t},-8e5,z,9e5" for t in range(altered, 60)]
        other = csv_file(tmp_path, "\n".join([*lines[: altered + 1], *tail]), "other.csv")
        changed = load_table(other, **options)
        np.testing.assert_array_equal(changed.inputs[:altered], whole.inputs[:altered])
        np.testing.assert_array_equal(changed.targets[:altered], whole.targets[:altered])
        assert not np.array_equal(changed.inputs[altered], whole.inputs[altered])


# --- NPZ


def test_npz_reads_inputs_and_targets_by_default(tmp_path):
    inputs, targets = np.arange(12.0).reshape(6, 2), np.arange(6)
    np.savez(tmp_path / "a.npz", inputs=inputs, targets=targets, other=np.array(["text"]))
    table = load_table(tmp_path / "a.npz")
    np.testing.assert_array_equal(table.inputs, inputs)
    np.testing.assert_array_equal(table.targets, targets[:, None])
    assert table.targets.dtype == np.float64


def test_npz_takes_the_same_options_as_csv(tmp_path):
    path, values = random_file(tmp_path, rows=50, missing=0.3)
    np.savez_compressed(tmp_path / "a.npz", y=values[:, 0], x=values[:, 1:])
    options = {"rows": (6, 44), "missing": "mask", "scaling": "prefix", "prefix": 9}
    from_csv = load_table(path, targets=["a"], inputs=["b", "c"], lags=[0, 4], **options)
    from_npz = load_table(
        tmp_path / "a.npz", targets=["y"], inputs=["x"], lags={"x": [0, 4]}, **options
    )
    np.testing.assert_array_equal(from_csv.inputs, from_npz.inputs)
    np.testing.assert_array_equal(from_csv.targets, from_npz.targets)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"input": np.ones(3), "targets": np.ones(3)},
            "no array 'inputs' (did you mean 'input'?): allowed is 'input', 'targets'",
        ),
        (
            {"inputs": np.ones(3), "targets": np.ones(4)},
            "array 'inputs' has 3 rows: allowed is 4, as the others",
        ),
        (
            {"inputs": np.ones((3, 2, 2)), "targets": np.ones(3)},
            "array 'inputs' has shape (3, 2, 2): allowed is [m] or [m, columns]",
        ),
        (
            {"inputs": np.ones(3), "targets": np.float64(3)},
            "array 'targets' has shape (): allowed is [m] or [m, columns]",
        ),
        (
            {"inputs": np.array(["a", "b"]), "targets": np.ones(2)},
            "array 'inputs' has dtype <U1: allowed is real numbers",
        ),
        (
            {"inputs": np.array([[1, 2], [3, math.inf]]), "targets": np.ones(2)},
            "array 'inputs', row 1, column 1: inf: allowed is a finite number, or NaN where",
        ),
        (
            {"inputs": np.array([[1, 2], [3, NAN]]), "targets": np.ones(2)},
            "row 1, column 'inputs[1]': missing: allowed is a finite number, or missing =",
        ),
        (
            {"inputs": np.array([{}, []], dtype=object), "targets": np.ones(2)},
            "array 'inputs' cannot be read: allowed is arrays of real numbers saved by numpy",
        ),
    ],
)
def test_faults_of_an_npz_file(tmp_path, arrays, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(TableError, match=re.escape(f"{path}: {message}")):
        load_table(path)


def test_files_that_are_no_npz_archive(tmp_path):
    path = csv_file(tmp_path, "y\n1\n", "a.npz")
    with pytest.raises(TableError, match=r"a.npz: not an NPZ archive: allowed is a file of numpy"):
        load_table(path)
    np.savez(path, inputs=np.ones(50), targets=np.ones(50))
    damaged = path.read_bytes().replace(np.ones(9).tobytes(), np.zeros(9).tobytes())
    path.write_bytes(damaged)
    with pytest.raises(TableError, match=r"a.npz: array 'targets' cannot be read: allowed is arr"):
        load_table(path)
    with pytest.raises(TableError, match=r"none.npz: cannot be read: No such file"):
        load_table(tmp_path / "none.npz")


# --- faults of a CSV file: one line with file, row, column, value, what is allowed

NUMBER = "allowed is a finite number, or empty or NaN where missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no header: allowed is a line of column names, then rows"),
        ("\n\n", "no header: allowed is a line of column names, then rows"),
        ("y,x\n", "0 rows: allowed is at least 2"),
        ("y,x\n1,2\n", "1 rows: allowed is at least 2"),
        ("y,x\n1,2\n3\n", "row 1 (line 3) has 1 cells: allowed is 2, as the header"),
        ("y,x\n1,2\n3,4,5\n", "row 1 (line 3) has 3 cells: allowed is 2, as the header"),
        ("y,x\n1,2\n\n3,4\n", "row 2 (line 4) follows an empty line: allowed is no empty line"),
        ("y,x\n1,2\nabc,4\n", f"row 1 (line 3), column 'y': 'abc': {NUMBER}"),
        ("y,x\n1,2\n1_0,4\n", f"row 1 (line 3), column 'y': '1_0': {NUMBER}"),
        ("y,x\n1,2\ninf,4\n", f"row 1 (line 3), column 'y': 'inf': {NUMBER}"),
        ("y,x\n1,-1e999\n1,4\n", f"row 0 (line 2), column 'x': '-1e999': {NUMBER}"),
        (f"y,x\n1,{'z' * 99}\n1,4\n", f"row 0 (line 2), column 'x': '{'z' * 37}...': {NUMBER}"),
        (
            "y,x\n1,2\n,4\n",
            "row 1, column 'y': missing: allowed is a finite number, or missing = 'forward_fill'",
        ),
        ("Y,x\n1,2\n3,4\n", "no column 'y' (did you mean 'Y'?): allowed is 'Y', 'x'"),
        ("a,b\n1,2\n3,4\n", "no column 'y': allowed is 'a', 'b'"),
        ("y,x,y\n1,2,3\n4,5,6\n", "column 'y' stands in the header twice: allowed is once"),
        (
            'y,x\n1,2\n3,"4\n',
            "row 1 (line 3) is not CSV (unexpected end of data)",
        ),
    ],
)
def test_faults_of_a_csv_file(tmp_path, text, message):
    path = csv_file(tmp_path, text)
    with pytest.raises(TableError, match=re.escape(f"{path}: {message}")) as caught:
        load_table(path, targets=["y"], inputs=["x"])
    assert "\n" not in str(caught.value)


def test_nearest_column_name_is_suggested(tmp_path):
    path = csv_file(tmp_path, "date,EUR_CLOSE,USD_CLOSE\nx,1,2\ny,3,4\n")
    with pytest.raises(TableError, match=r"no column 'usd_clos' \(did you mean 'USD_CLOSE'\?\)"):
        load_table(path, targets=["usd_clos"])
    wide = csv_file(tmp_path, ",".join(f"column{j}" for j in range(99)))
    with pytest.raises(TableError, match=r"'column11', \.\.\.$"):
        load_table(wide, targets=["z"])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("y\n1\n2\n", {"rows": (0, 3)}, "2 rows: allowed is at least 3"),
        (
            "y,x\n,1\n2,1\n3,1\n",
            {"missing": "mask"},
            "row 0, column 'y': missing, no value to start from: allowed is a window",
        ),
        (
            "y,x\n1,\n2,\n3,1\n",
            {"missing": "forward_fill", "inputs": ["x"], "lags": [1], "rows": (1, 3)},
            "row 0, column 'x': missing, no value to start from: allowed is a window",
        ),
        (
            "y,x\n1,\n2,2\n3,1\n",
            {"inputs": ["x"], "lags": [3]},
            "row 0, column 'x': missing: allowed is a finite number, or missing =",
        ),
        (
            "y,x\n-1,1\n0,2\n",
            {"scaling": "column_max"},
            "column 'y' has maximum 0.0 in the window: allowed is a maximum > 0 with scaling =",
        ),
        (
            "y,x\n1,\n2,\n3,1\n",
            {"missing": "mask", "inputs": ["x"], "scaling": "prefix", "prefix": 2},
            "rows 0 .. 1, column 'x': no value: allowed is at least one for units",
        ),
    ],
)
def test_faults_in_the_window(tmp_path, text, options, message):
    path = csv_file(tmp_path, text)
    with pytest.raises(TableError, match=re.escape(f"{path}: {message}")):
        load_table(path, targets=["y"], **options)


def test_gaps_outside_the_window_are_no_fault(tmp_path):
    path = csv_file(tmp_path, 'y\n""\n""\n3\n4\n5\n""\n')
    assert load_table(path, targets=["y"], rows=(3, 5), lags=[0, 1]).inputs.tolist() == [
        [4.0, 3.0],
        [5.0, 4.0],
    ]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TableError, match=r"none.csv: cannot be read: No such file or directory"):
        load_table(tmp_path / "none.csv", targets=["y"])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TableError, match=r"folder.csv: cannot be read: Is a directory"):
        load_table(tmp_path / "folder.csv", targets=["y"])
    utf16 = csv_file(tmp_path, "y\n1\n2\n", encoding="utf-16")
    with pytest.raises(TableError, match=r"header is not UTF-8 text: allowed is a UTF-8 CSV file"):
        load_table(utf16, targets=["y"])
    with pytest.raises(TableError, match=r"a.xlsx: file ending '.xlsx': allowed is '.csv' or"):
        load_table(tmp_path / "a.xlsx", targets=["y"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": None}, "targets = None: allowed is one or more column names of the CSV"),
        ({"targets": "y"}, "targets = 'y': allowed is a list of names"),
        ({"targets": []}, "targets = []: allowed is one or more different names"),
        ({"inputs": ["x", "x"]}, "inputs = ['x', 'x']: allowed is one or more different names"),
        ({"lags": []}, "lags = []: allowed is one or more whole numbers >= 0"),
        ({"lags": [-1]}, "lags = [-1]: allowed is one or more whole numbers >= 0"),
        ({"lags": [0.5]}, "lags = [0.5]: allowed is one or more whole numbers >= 0"),
        ({"lags": "01"}, "lags = '01': allowed is one or more whole numbers >= 0"),
        ({"lags": 1}, "lags = 1: allowed is one or more whole numbers >= 0"),
        ({"lags": [1, 1]}, "lags = [1, 1]: allowed is each lag once"),
        (
            {"inputs": ["xray"], "lags": {"xry": [0]}},
            "lags = 'xry': allowed is the name of an input (did you mean 'xray'?)",
        ),
        (
            {"inputs": ["x", "y"], "lags": {"x": [0]}},
            "lags = {'x': [0]}: allowed is a list for every input, 'y' too",
        ),
        ({"rows": (0, 1)}, "rows = (0, 1): allowed is (start, stop) with 0 <= start and stop >="),
        ({"rows": (-5, 9)}, "rows = (-5, 9): allowed is (start, stop) with 0 <= start"),
        ({"rows": 9}, "rows = 9: allowed is (start, stop) with 0 <= start"),
        (
            {"scaling": "max"},
            "scaling = 'max': allowed is 'none' or 'window_max' or 'column_max' or 'minmax' or",
        ),
        ({"missing": "drop"}, "missing = 'drop': allowed is 'error' or 'forward_fill' or 'mask'"),
        ({"before": "nan"}, "before = 'nan': allowed is 'zero' or 'first'"),
        ({"scaling": "prefix"}, "prefix = None: allowed is a number of rows >= 2 with scaling ="),
        ({"scaling": "prefix", "prefix": 1}, "prefix = 1: allowed is a number of rows >= 2"),
        (
            {"scaling": "prefix", "prefix": 4},
            "prefix = 4: allowed is 2 .. 3, the rows of the window",
        ),
        ({"prefix": 5}, "prefix = 5: allowed is None with scaling = 'none'"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, options, message):
    path = csv_file(tmp_path, "y,x,xray\n1,2,3\n4,5,6\n7,8,9\n")
    with pytest.raises(ValueError, match=f"^{re.escape('load_table.' + message)}"):
        load_table(path, **{"targets": ["y"], **options})


def test_reading_a_file_loads_no_jax(tmp_path):
    path = csv_file(tmp_path, "y\n1\n2\n")
    code = (
        "import sys, memoa_jax.tables as t, memoa_jax.download\n"
        f"t.load_table({str(path)!r}, targets=['y'])\n"
        "print(sorted({'jax', 'pooch', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
