"""Dirty files, kind by kind: refused with file, row and column, or handled as the README states.

Every kind goes through the library and through the command line. A refused one is exit code 2,
one line, no traceback, nothing written; a handled one ends in a finite summary, or a flagged one.
"""

import json
import random
import re
from pathlib import Path

import dirty_csv
import dirty_npz
import numpy as np
import pytest

from memoa_jax import scaling, series
from memoa_jax.cli import main
from memoa_jax.tables import LARGEST, TableError, load_table

CONFIG = """
name = "dirty"
agents = 3
[series]
kind = "table"
KEYS
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "greedy"
game = "forecast"
[run]
best_readout = false
"""
REGRETS = {"under_performer_regret", "under_performer_regret_best_readout"}  # not asked for


def both(kinds):
    """The kinds of CSV and NPZ files as parameters: file name, content, keys, what becomes."""
    return [
        pytest.param(f"data.{ending}", *kind, id=f"{ending}: {name}")
        for ending, module in (("csv", dirty_csv), ("npz", dirty_npz))
        for name, kind in getattr(module, kinds).items()
    ]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def place(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def run(path, keys):
    """Run a config that asks for a file; return its name and the exit code."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"path": str(path), **keys}.items()]
    config = path.with_name("dirty.toml")
    config.write_text(CONFIG.replace("KEYS", "\n".join(lines)))
    return config, main(["run", str(config)])


def library(path, keys):
    """Build a series of a file without a config."""
    keys = {key: tuple(value) if key == "rows" else value for key, value in keys.items()}
    units = keys.pop("standardise", False)
    built = series.table(path, **keys)
    return scaling.standardise(built, "levels" if units is True else units) if units else built


@pytest.mark.parametrize(("file", "content", "keys", "message"), both("REFUSED"))
def test_the_library_refuses_a_dirty_file_in_one_line(tmp_path, file, content, keys, message):
    path = place(tmp_path / file, content)
    with pytest.raises(TableError) as caught:
        library(path, keys)
    assert str(caught.value) == f"{path}: {message}"
    assert message.isprintable()


@pytest.mark.parametrize(("file", "content", "keys", "message"), both("REFUSED"))
def test_the_command_line_refuses_a_dirty_file_in_one_line(
    tmp_path, file, content, keys, message, capsys
):
    path = place(tmp_path / file, content)
    config, code = run(path, keys)
    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert told.err == f"memoa: {config}: {path}: {message}\n"
    assert [one for one in Path("runs").rglob("*") if one.is_file()] == []


@pytest.mark.parametrize(("file", "content", "keys", "targets"), both("HANDLED"))
def test_the_library_reads_what_is_handled(tmp_path, file, content, keys, targets):
    built = library(place(tmp_path / file, content), keys)
    np.testing.assert_allclose(built.targets[:, 0], targets, rtol=1e-12)
    assert np.isfinite(built.inputs).all()
    assert np.abs(built.inputs).max() <= LARGEST


@pytest.mark.parametrize(("file", "content", "keys", "targets"), both("HANDLED"))
def test_the_command_line_runs_what_is_handled(tmp_path, file, content, keys, targets, capsys):
    _, code = run(place(tmp_path / file, content), keys)
    assert "Traceback" not in capsys.readouterr().err
    summary = json.loads(Path("runs/dirty/summary.json").read_text())
    assert summary["scored_steps"] == np.isfinite(targets[1:]).sum()
    policy = summary["policies"]["greedy"]
    for figures in (policy, summary["baselines"]):
        missing = {name for name, value in figures.items() if value is None}
        assert missing - set(figures["non_finite"]) <= REGRETS
    if np.nanmax(np.abs(targets)) < 1e6:
        assert (code, policy["non_finite"], policy["diverged_agents"]) == (0, [], 0)
    else:  # a run may not survive it, but says so
        assert code == (1 if policy["server_rmse"] is None else 0)
        assert policy["diverged_agents"] or policy["server_rmse"] is not None


def test_files_that_are_no_files_are_refused(tmp_path, capsys):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "data.txt").write_text("y\n1\n2\n")
    absent, can = "no such file", "allowed is a file that can be read"
    for name, of_config, of_library in (
        ("none.csv", absent, f"cannot be read: No such file or directory: {can}"),
        ("~nobody-here/none.csv", absent, f"cannot be read: No such file or directory: {can}"),
        ("folder.csv", absent, f"cannot be read: Is a directory: {can}"),
        ("data.txt", None, "file ending '.txt': allowed is '.csv' or '.npz'"),
    ):
        path = name if name.startswith("~") else tmp_path / name
        with pytest.raises(TableError, match=re.escape(f"{path}: {of_library}")):
            load_table(path, targets=["y"])
        if name.startswith("~"):
            continue
        config, code = run(tmp_path / name, {"targets": ["y"]})
        told = capsys.readouterr().err
        where = f"memoa: {config}: "
        expected = of_config and f"series.path = {json.dumps(str(path))}: {of_config}"
        assert (code, told) == (2, f"{where}{expected or f'{path}: {of_library}'}\n")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux only")
@pytest.mark.parametrize("name", ["data.csv", "data.npz"])
def test_a_file_that_fails_while_it_is_read_is_refused(tmp_path, capsys, name):
    path = tmp_path / name
    path.symlink_to("/proc/self/mem")  # opens, and gives an error when read, to root too
    config, code = run(path, {"targets": ["y"]})
    told = capsys.readouterr().err
    said = "cannot be read: Input/output error: allowed is a file that can be read"
    assert (code, told) == (2, f"memoa: {config}: {path}: {said}\n")


def test_values_that_no_run_can_carry_are_refused_wherever_they_come_from(tmp_path, capsys):
    large = [[0.0], [2e15], [1.0]]
    for inputs, targets, field in ((large, [[0.0]] * 3, "inputs"), ([[0.0]] * 3, large, "targets")):
        said = f"Series.{field}[1, 0] = 2000000000000000.0: allowed is a number up to 1e+15"
        with pytest.raises(ValueError, match=re.escape(said)):
            series.make_series(inputs, targets)
    config, _ = run(place(tmp_path / "data.csv", "y\n1\n2\n"), {"targets": ["y"]})
    capsys.readouterr()
    kind = "series={kind='brownian', volatility=1e30, steps=11}"
    assert main(["run", str(config), "--set", kind]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"memoa: {config}: Series.inputs[1, 0] = ")
    assert line.endswith(": allowed is a number up to 1e+15 in size: rescale the series")


def test_rows_of_which_none_is_scored_are_refused(tmp_path, capsys):
    path = place(tmp_path / "data.csv", "y\n1\n2\n3\nNA\nNA\n")
    config, code = run(path, {"targets": ["y"], "missing": "mask", "scored_from": 3})
    line = "part: scored_from = 3: no row of 3 .. 4 has all its targets: allowed is rows of which"
    assert (code, capsys.readouterr().err) == (2, f"memoa: {config}: {line} at least one has\n")


@pytest.mark.parametrize(("name", "dates"), [("mauna_loa_co2", "date"), ("sunspots", "month")])
def test_dates_of_the_embedded_data_are_in_order(name, dates):
    path = Path(series.__file__).parent / "data" / f"{name}.csv"
    column = "co2" if dates == "date" else "sunspots"
    plain = load_table(path, targets=[column], missing="mask")
    judged = load_table(path, targets=[column], missing="mask", dates=dates)
    np.testing.assert_array_equal(plain.targets, judged.targets)


@pytest.mark.parametrize("dates", ["", 3, ["day"]])
def test_dates_is_one_name(tmp_path, dates):
    path = place(tmp_path / "data.csv", "day,y\n1,1\n2,2\n")
    with pytest.raises(ValueError, match=r"^load_table.dates = .*: allowed is the name of a colu"):
        load_table(path, targets=["y"], dates=dates)


FEATURES = np.ones((12, 3, 1, 2))
GIVEN = {  # other files of numbers that a config names: what is in them, and what is said of it
    "truncated": (dirty_npz.saved(features=FEATURES)[:-30], "not a NumPy file ("),
    "damaged": (
        dirty_npz.saved(features=FEATURES).replace(FEATURES[0].tobytes(), bytes(48)),
        "not a NumPy file (Bad CRC-32",
    ),
    "no archive": (b"y,x\n1,2\n", "not a NumPy file ("),
    "empty": (b"", "not a NumPy file ("),
    "pickled objects": (
        dirty_npz.saved(features=np.array([1, None], dtype=object)),
        "not a NumPy file (Object arrays cannot be loaded",
    ),
    "header that lies": (
        dirty_npz.zipped(**{"features.npy": dirty_npz.header(shape=(10**13,))}),
        "not a NumPy file (Unable to allocate",
    ),
    "no such array": (dirty_npz.saved(feature=FEATURES), "no array features; allowed: feature"),
    "complex": (dirty_npz.saved(features=FEATURES * 1j), "complex128 of shape (12, 3, 1, 2): all"),
    "another shape": (dirty_npz.saved(features=FEATURES[0]), "float64 of shape (3, 1, 2): allowed"),
}


@pytest.mark.parametrize(("content", "said"), GIVEN.values(), ids=GIVEN)
def test_dirty_files_of_features_are_refused_in_one_line(tmp_path, content, said, capsys):
    path = place(tmp_path / "z.npz", content)
    config, _ = run(place(tmp_path / "data.csv", "y\n"), {"targets": ["y"]})
    capsys.readouterr()
    words = ["series={kind='logistic', steps=11}", f"encoder={{kind='given', path='{path}'}}"]
    assert main(["run", str(config), "--set", words[0], "--set", words[1]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"memoa: {config}: encoder.path = {path}: {said}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(tmp_path, value, capsys):
    path = place(tmp_path / "z.npz", dirty_npz.saved(features=FEATURES * value))
    config, _ = run(place(tmp_path / "data.csv", "y\n"), {"targets": ["y"]})
    capsys.readouterr()
    words = ["series={kind='logistic', steps=11}", f"encoder={{kind='given', path='{path}'}}"]
    assert main(["run", str(config), "--set", words[0], "--set", words[1]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"memoa: {config}: given_features: features holds NaN or infinity: all")


def test_a_participation_of_nobody_is_refused(tmp_path, capsys):
    path = place(tmp_path / "here.npz", dirty_npz.saved(participation=np.zeros((12, 3), bool)))
    config, _ = run(place(tmp_path / "data.csv", "y\n"), {"targets": ["y"]})
    capsys.readouterr()
    words = ["series={kind='logistic', steps=11}", f"participation={{kind='file', path='{path}'}}"]
    assert main(["run", str(config), "--set", words[0], "--set", words[1]]) == 2
    said = "nobody is ever present: allowed is somebody, some time"
    assert capsys.readouterr().err == f"memoa: {config}: participation.path = {path}: {said}\n"


def damaged(draws, content):
    """Change, cut, repeat or insert a few bytes."""
    content = bytearray(content)
    for _ in range(draws.randint(1, 4)):
        at, length = draws.randrange(len(content)), draws.randrange(1, 30)
        content[at : at + draws.choice([0, 1, length])] = draws.choice(
            [b"", b"\xff", b'"', b",", b"\n", b"\0", b";", b"e9", content[at : at + 20]]
        )
    return bytes(content)


@pytest.mark.parametrize("file", ["data.csv", "data.npz"])
def test_bytes_damaged_at_random_are_read_or_refused_in_one_line(tmp_path, file):
    draws, counted = random.Random(0), np.arange(10.0)
    whole = dirty_csv.rows_of([f'{t},"{t}.5"' for t in range(10)], "day,y").encode()
    if file.endswith("npz"):
        whole = dirty_npz.saved(inputs=counted, targets=counted, day=counted)
    outcomes = set()
    for _ in range(400):
        path = place(tmp_path / file, damaged(draws, whole))
        options = {} if file.endswith("npz") else {"targets": ["y"]}
        options["missing"] = draws.choice(["error", "forward_fill", "mask"])
        options["scaling"] = draws.choice(["none", "window_max", "minmax"])
        try:
            table = load_table(path, **options, dates=draws.choice([None, "day"]))
        except TableError as fault:
            outcomes.add(str(fault).startswith(f"{path}: ") and "allowed is" in str(fault))
        else:
            assert np.isfinite(table.inputs).all()
            assert not np.isinf(table.targets).any()
            outcomes.add("read")
    assert outcomes == {True, "read"}
