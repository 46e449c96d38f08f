"""Results read back and exported: the same numbers, and damage told in one line."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import FORECAST, GREEDY, RECORDED, SMALL

from memoa_jax import results
from memoa_jax.cli import main
from memoa_jax.export import to_netcdf, to_xarray

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5py")
pytest.importorskip("h5netcdf")  # whole, before a test hides what it imports

RUN = SMALL + GREEDY + FORECAST + '[[policy]]\nkind = "affine"\n' + RECORDED
STUDY = """
agents = 3
seeds = 2
[[series]]
kind = "logistic"
steps = 8
[[encoder]]
kind = "random_features"
features = 2
[[policy]]
kind = "greedy"
"""
SWEEP = """
agents = 3
[series]
kind = "logistic"
steps = 8
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "greedy"
[sweep]
method = "grid"
[[sweep.axis]]
key = "encoder.noise"
values = [0.0, 0.1]
"""
TUNE = """
agents = 3
[series]
kind = "logistic"
steps = 30
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "decentralized"
game = "forecast"
[tune]
keys = ["policy.ridge"]
steps = 1
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The results of one small command of each kind, by kind."""
    place = tmp_path_factory.mktemp("results")
    made = {}
    for kind, config in {"run": RUN, "study": STUDY, "sweep": SWEEP, "tune": TUNE}.items():
        (place / f"{kind}.toml").write_text(config)
        made[kind] = place / kind
        command = "run" if kind == "study" else kind
        assert main([command, str(place / f"{kind}.toml"), "--out", str(made[kind])]) == 0
    return made


@pytest.mark.parametrize("kind", ["run", "study", "sweep", "tune"])
def test_every_kind_of_results_is_read(folders, kind):
    found = results.load(folders[kind])
    assert found.kind == kind
    assert found.summary == json.loads((folders[kind] / "summary.json").read_text())
    assert found.manifest == json.loads((folders[kind] / "manifest.json").read_text())
    assert found.config["agents"] == found.summary["agents"]
    if kind != "run":
        assert len({column.shape for column in found.arrays.values()}) == 1


def test_arrays_are_those_of_the_files(folders):
    found = results.load(str(folders["run"])).arrays
    with np.load(folders["run"] / "trajectories.npz") as packed:
        assert set(found) == set(packed.files)
        for name in found:
            np.testing.assert_array_equal(found[name], packed[name])
            assert found[name].dtype == packed[name].dtype
    study = results.load(folders["study"])
    spread = study.summary["series"]["logistic"]["encoders"]["random_features"]["policies"]
    np.testing.assert_array_equal(
        study.arrays["server_rmse"], spread["greedy"]["server_rmse"]["per_seed"]
    )
    assert study.arrays["seed"].dtype == np.int64
    assert study.arrays["policy"].tolist() == ["greedy", "greedy"]
    assert np.isnan(study.arrays["under_performer_regret"]).all()  # no centralized policy was run


@pytest.mark.parametrize("name", ["summary.json", "trajectories.npz", "config.toml"])
def test_a_changed_byte_is_told(folders, tmp_path, name):
    shutil.copytree(folders["run"], tmp_path / "run")
    path = tmp_path / "run" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="SHA-256") as error:
        results.load(tmp_path / "run")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("manifest.json", b"{", "is damaged"),
        ("manifest.json", b"[1]", "holds no results' facts"),
        ("manifest.json", b'{"sha256": 3}', "holds no results' facts"),
        ("manifest.json", b"\xff", "is damaged"),
        ("manifest.json", None, "holds no manifest.json: allowed is"),
        ("summary.json", None, "holds no summary.json: allowed is"),
    ],
)
def test_files_that_are_none_are_told(folders, tmp_path, capsys, name, content, said):
    shutil.copytree(folders["run"], tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    if content is not None:
        (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        results.load(tmp_path / "run")
    assert main(["export", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memoa: ")
    assert said in line


@pytest.mark.parametrize("content", [b"PK", b"", b"{}", b'{"series": "co2"}', b"3"])
def test_unsealed_files_are_judged_by_what_they_hold(folders, tmp_path, content):
    """A manifest without hashes: what cannot be read is told all the same."""
    for name in ("summary.json", "trajectories.npz"):
        shutil.copytree(folders["run"], tmp_path / name)
        (tmp_path / name / "manifest.json").write_text("{}")
        (tmp_path / name / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged, or was changed"):
            results.load(tmp_path / name)


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="no such folder: allowed is"):
        results.load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is no folder"):
        results.load(tmp_path / "file")


def test_a_run_becomes_a_dataset_and_netcdf_keeps_every_bit(folders, tmp_path, capsys):
    found = results.load(folders["run"])
    made = to_xarray(found)
    assert main(["export", str(folders["run"]), "--to", str(tmp_path / "a.nc")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.nc'}\n"
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as read:
        read.load()
    for one in (made, read):
        assert dict(one.sizes) == {
            **{"policy": 3, "time": 21, "output": 1},
            **{"agent": 2, "recorded_time": 2},
        }
        assert one["policy"].values.tolist() == list(found.summary["policies"])
        assert one["agent"].values.tolist() == [0, 5]
        assert one["recorded_time"].values.tolist() == [3, 4]
        for label in one["policy"].values:
            for name in ("server", "mean_field"):
                mine = one[name].sel(policy=label)
                np.testing.assert_array_equal(mine.values, found.arrays[f"{name}/{label}"])
                assert mine.dtype == found.arrays[f"{name}/{label}"].dtype
            for name in ("prediction", "weights"):
                kept = one[name].sel(policy=label).values
                np.testing.assert_array_equal(kept, found.arrays[f"recorded/{label}/{name}"])
            figures = found.summary["policies"][label]
            assert float(one["worst_agent_rmse"].sel(policy=label)) == figures["worst_agent_rmse"]
            assert int(one["worst_agent"].sel(policy=label)) == figures["worst_agent"]
            assert str(one["kind"].sel(policy=label).values) == figures["kind"]
        assert one["complete"].values.all()
        assert float(one["persistence"]) == found.summary["baselines"]["persistence"]
        assert one.attrs["agents"] == 6
        assert one.attrs["manifest_jax"] == found.manifest["jax"]
        assert json.loads(one.attrs["manifest_sha256"]) == found.manifest["sha256"]
        assert one.attrs["config"] == found.config_text
        for name in one.variables:
            assert one[name].attrs["long_name"] != name or one[name].ndim == 1
        assert one["server"].attrs["units"] == "target units"
        assert one["weights"].dims == ("policy", "recorded_time", "agent")
    # The RMSE that the summary gives, recomputed from the file alone.
    error = (read["server"] - read["targets"]).isel(time=slice(1, None))
    np.testing.assert_allclose(
        np.sqrt((error**2).mean(("time", "output"))), read["server_rmse"], rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["study", "sweep", "tune"])
def test_tables_become_datasets(folders, tmp_path, kind):
    found = results.load(folders[kind])
    to_netcdf(folders[kind], tmp_path / "table.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["table.nc"]
    with xarray.open_dataset(tmp_path / "table.nc", engine="h5netcdf") as read:
        assert set(read.data_vars) == set(found.arrays)
        for name, column in found.arrays.items():
            assert read[name].dims == ("row",)
            np.testing.assert_array_equal(read[name].values, column)
        assert read.attrs["kind"] == kind


def test_what_was_cut_off_or_ran_away_is_marked(folders, tmp_path):
    """A run by hand: one policy with half its rows, one that is infinite, one that never ran."""
    found = results.load(folders["run"])
    summary = json.loads(json.dumps(found.summary))
    arrays = dict(found.arrays)
    summary["interrupted"], summary["not_run"] = True, ["affine"]
    del summary["policies"]["affine"]
    summary["partial"] = {"decentralized": 9}
    lost = summary["policies"]["greedy"]
    lost["server_rmse"], lost["non_finite"], lost["diverged_agents"] = None, ["server_rmse"], 6
    for name in ("server", "mean_field"):
        arrays[f"{name}/decentralized"] = arrays[f"{name}/decentralized"][:9]
        del arrays[f"{name}/affine"]
    arrays["server/greedy"] = np.where(np.arange(21)[:, None] > 5, np.inf, 1.0)
    for field in ("prediction", "weights"):
        del arrays[f"recorded/affine/{field}"]
        arrays[f"recorded/decentralized/{field}"] = arrays[f"recorded/decentralized/{field}"][:1]
    cut = results.Results(**{**vars(found), "summary": summary, "arrays": arrays})
    to_netcdf(cut, tmp_path / "cut.nc")
    with xarray.open_dataset(tmp_path / "cut.nc", engine="h5netcdf") as read:
        assert read["policy"].values.tolist() == ["greedy", "decentralized"]
        assert read["rows"].values.tolist() == [21, 9]
        assert read["complete"].values.tolist() == [True, False]
        server = read["server"].sel(policy="decentralized").values
        assert np.isfinite(server[:9]).all()
        assert np.isnan(server[9:]).all()
        assert np.isinf(read["server"].sel(policy="greedy").values[6:]).all()
        assert np.isnan(read["prediction"].sel(policy="decentralized").values[1:]).all()
        assert np.isnan(float(read["server_rmse"].sel(policy="greedy")))
        assert str(read["non_finite"].sel(policy="greedy").values) == "server_rmse"
        assert int(read["diverged_agents"].sel(policy="greedy")) == 6
        assert read.attrs["interrupted"] == 1
        assert json.loads(read.attrs["not_run"]) == ["affine"]


@pytest.mark.parametrize("missing", ["xarray", "h5netcdf", "h5py"])
def test_without_the_extra_there_is_one_line(folders, tmp_path, monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["export", str(folders["run"]), "--to", str(tmp_path / "a.nc")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("not installed: pip install 'memoa-jax[xarray]'")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_told(folders, tmp_path, capsys):
    assert main(["export", str(folders["run"]), "--to", str(tmp_path / "no" / "a.nc")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"memoa: --to {tmp_path / 'no' / 'a.nc'}: cannot be written")


def test_results_load_in_three_lines_without_jax(folders, monkeypatch):
    import subprocess

    code = f"""
import sys
import memoa_jax
found = memoa_jax.results.load({str(folders["run"])!r})
print(found.summary["policies"]["greedy"]["server_rmse"], found.arrays["server/greedy"].shape)
assert not {{"jax", "pydantic", "xarray"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("(21, 1)\n")
    assert Path(folders["run"]).is_dir()
