"""Plug-ins in a config: how they are found, refused, kept apart, gone on with, swept."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import faults, rows_of, summary_of, told
from plugin_sources import CONFIG, ENCODER, FILES, POLICY, SECOND

from memoa_jax import plugins, simulate
from memoa_jax.cli import main
from memoa_jax.config_file import load, to_toml
from memoa_jax.config_sweep import Sweep
from memoa_jax.identity import difference, identity
from memoa_jax.run import input_files
from memoa_jax.sweep_plan import plan


@pytest.fixture(autouse=True)
def forget():
    """Leave no module of a plug-in behind for the next test."""
    yield
    plugins._forget(list(plugins._beside))


@pytest.fixture
def mine(here):
    """Work in a folder beside the one that holds a config and its four plug-ins; return it."""
    folder = here / "project"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "mine.toml").write_text(CONFIG)
    return folder


def install(folder, monkeypatch, entries, module=ENCODER, name="extra-encoders"):
    """Make an installed package that registers plug-ins: entries by group."""
    stem = name.replace("-", "_")
    folder.mkdir(exist_ok=True)
    (folder / f"{stem}.py").write_text(module)
    info = folder / f"{stem}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "top_level.txt").write_text(f"{stem}\n")
    (info / "entry_points.txt").write_text(
        "".join(f"[{group}]\n{short} = {stem}:{to}\n" for group, short, to in entries)
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, stem, raising=False)


def test_a_run_of_four_plug_ins_is_the_same_in_plain_python(mine, capsys):
    """And leaves the import path as it was; and says what its plug-ins were, and where."""
    assert main(["run", "project/mine.toml", "--out", "out"]) == 0
    found = summary_of("out")
    assert found["series"] == "wave"
    assert found["policies"]["lean"]["kind"] == "rule:lean"
    own, rule, server, data = (sys.modules[name] for name in ("own", "rule", "server", "data"))
    result = simulate(
        data.wave(24), own.mine(2), rule.lean(0.25), server.mean(0.9),
        num_agents=6, key=jax.random.key(0),
    )  # fmt: skip
    with np.load("out/trajectories.npz") as kept:
        np.testing.assert_allclose(kept["server/lean"], result.server, rtol=1e-6)
        assert np.ptp(kept["server/lean"]) > 0.1
    assert str(mine) not in sys.path
    assert not (mine / "__pycache__").exists()
    # The resolved config, in another folder, is the same config.
    again = load("out/config.toml")
    assert again.encoder.folder == str(mine)
    assert identity(again) == identity(load("project/mine.toml"))
    assert to_toml(again, Path("out")) == Path("out/config.toml").read_text()
    named = json.loads(Path("out/manifest.json").read_text())["plug-ins"]
    assert set(named) == {"series", "encoder", "mixture", "policy.0"}
    assert named["encoder"]["kind"] == "own:mine"
    assert len({one["sha256"] for one in named.values()}) == 4
    assert str(mine) not in json.dumps(named)


def test_validate_imports_nothing_that_it_need_not_build(mine, capsys):
    assert main(["validate", "project/mine.toml"]) == 0
    assert "data:wave, lean\n" in capsys.readouterr().out


FAULTS = {
    "encoder.widht=3": "encoder.widht = 3: unknown argument of own:mine; did you mean width?",
    "encoder.width=2.5": "encoder.width = 2.5: allowed is a whole number",
    'encoder.gain="x"': 'encoder.gain = "x": allowed is a finite number',
    "encoder.gain=nan": "encoder.gain = nan: allowed is a finite number, a text, true, false, or a",
    "encoder.gain=2020-01-01": "encoder.gain = 2020-01-01: allowed is a finite number, a text,",
    "encoder.kind=owm:mine": 'encoder.kind = "owm:mine": no module owm in ',
    "encoder.kind=own:mien": 'encoder.kind = "own:mien": module own has no mien; did you mean mine',
    "encoder.kind=own:np": 'encoder.kind = "own:np": np is module: allowed is a function that ret',
    "encoder.kind=own:": 'encoder.kind = "own:": allowed is package.module:function, the names',
    "encoder.kind=own.mine": 'encoder.kind = "own.mine": unknown kind; a plug-in is package.module',
    "series={kind='data:wave'}": "series.steps: missing; data:wave needs it",
    "policy.lean.name=9": "policy.0.name = 9: allowed is a name of letters",
    "encoder.views.ofset=1": "encoder.views.ofset: unknown key; did you mean offset?",
    "encoder.x_path=none.npz": 'encoder.x_path = "',
    "series.path=7": "series.path = 7: unknown argument of data:wave; allowed: steps, period",
}


@pytest.mark.parametrize("override", FAULTS)
def test_faults_name_the_key_and_the_plug_in(mine, override):
    found = faults("project/mine.toml", override)
    assert found[0].startswith(f"--set {override}: {FAULTS[override]}"), found


def test_two_plug_ins_of_one_name_need_names(mine):
    (mine / "mine.toml").write_text(CONFIG + "[[policy]]\nkind = 'rule:lean'\n")
    (found,) = faults("project/mine.toml")
    assert found == 'policy.1.name = "lean": taken by another policy; give each its own'
    load("project/mine.toml", ["policy.1.name=other"])


def test_every_fault_is_told_at_once(mine):
    found = faults(
        "project/mine.toml", "encoder.widht=3", "mixture.kind=servr:mean", "agents=0", "series.x=1"
    )
    assert len(found) == 4


BROKEN = {
    "import nothing_of_this_name": "importing bad raised ModuleNotFoundError: No module named "
    "'nothing_of_this_name' (bad.py:2)",
    "def f(:": "importing bad raised SyntaxError: ",
    "1 / 0": "importing bad raised ZeroDivisionError: division by zero (bad.py:2)",
    "raise SystemExit(3)": "importing bad raised SystemExit: 3 (bad.py:2)",
    "f = None": "f is NoneType: allowed is a function that returns the encoder",
    "def f(a, /): pass": "a is positional only; allowed are parameters given by name",
    "def f(kind): pass": "its parameter kind is a key of the table's own; give it another name",
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_module_that_cannot_be_used_is_told_in_one_line(mine, source):
    (mine / "bad.py").write_text(f"# mine\n{source}\n")
    (found,) = faults("project/mine.toml", "encoder={kind='bad:f'}")
    assert f'encoder.kind = "bad:f": {BROKEN[source]}' in found


def test_a_module_that_hides_another_is_refused(mine):
    (mine / "json.py").write_text("def f(): pass")
    (found,) = faults("project/mine.toml", "encoder={kind='json:f'}")
    assert "json beside the config has the name of a module that is in use already" in found
    assert json.loads("1") == 1


def test_two_configs_may_have_modules_of_one_name(mine, here):
    other = here / "other"
    other.mkdir()
    (other / "own.py").write_text(
        ENCODER.replace("def mine(width: int = 3", "def mine(size: int = 3")
    )
    (other / "x.toml").write_text(CONFIG.replace("width", "size").replace("data:wave", "logistic")
        .replace("rule:lean", "greedy").replace("pull = 0.25", "").replace("server:mean", "uniform")
        .replace("shrink = 0.9", ""))  # fmt: skip
    for _ in range(2):
        load("project/mine.toml")
        load("other/x.toml")


def test_a_module_beside_the_working_folder_is_found_for_an_override(mine, here):
    (here / "loose.py").write_text(ENCODER)
    loaded = load("project/mine.toml", ["encoder.kind=loose:mine"])
    assert loaded.encoder.folder == str(here)


def test_modules_beside_a_plug_in_can_be_imported_and_count(mine):
    (mine / "inner.py").write_text("WIDTH = 2\n")
    (mine / "own.py").write_text("import inner\n" + ENCODER)
    found = load("project/mine.toml").encoder.found()
    assert [path.name for path in found.files] == ["inner.py", "own.py"]
    before = found.digest()
    (mine / "inner.py").write_text("WIDTH = 3\n")
    assert found.digest() == before  # what was imported counts, until it is loaded again
    again = load("project/mine.toml").encoder.found()
    assert again.digest() != before
    assert again.function.__globals__["inner"].WIDTH == 3


def test_what_an_environment_beside_the_config_holds_is_not_beside_it(mine, monkeypatch):
    """Nor is it imported anew with an edited plug-in: compiled packages can be imported once."""
    packages = mine / ".venv" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "installed_there.py").write_text("")
    monkeypatch.syspath_prepend(packages)
    (mine / "rule.py").write_text("import installed_there\n" + POLICY)
    load("project/mine.toml")
    first = sys.modules["installed_there"], sys.modules["rule"]
    (mine / "rule.py").write_text("import installed_there\n" + POLICY + "# another word\n")
    load("project/mine.toml")
    again = sys.modules.pop("installed_there"), sys.modules["rule"]
    assert [one is other for one, other in zip(first, again, strict=True)] == [True, False]


def test_an_edited_plug_in_is_imported_anew_and_held_to_its_contract_again(mine, capsys):
    """In one process, as from a notebook: no result is of a source that the file no longer has."""
    command = ["run", "project/mine.toml", "--set", "run.schedule=stream",
               "--set", "mixture={kind='uniform'}", "--out"]  # fmt: skip
    asking = POLICY.replace("pull: Scalar\n", "pull: Scalar\n    surveys = ()\n")
    fine = asking.replace("o.population.mean(o.prediction)", "o.target")
    (mine / "rule.py").write_text(fine)
    assert main([*command, "first"]) == 0
    (mine / "rule.py").write_text(fine.replace("o.target + self.pull", "o.target - self.pull"))
    assert main([*command, "second"]) == 0
    one, other = (summary_of(x)["policies"]["lean"]["server_rmse"] for x in ("first", "second"))
    assert one != other
    (mine / "rule.py").write_text(asking)
    assert main([*command, "third"]) == 2
    assert "act asks the population for a sum" in told(capsys)[-1]


def test_an_identity_holds_the_source_and_not_the_folder(mine, here):
    first = identity(load("project/mine.toml"))
    mine.rename(here / "moved")
    assert identity(load("moved/mine.toml")) == first
    text = (here / "moved" / "rule.py").read_text()
    (here / "moved" / "rule.py").write_text(text + "# another word\n")
    found = difference(first, identity(load("moved/mine.toml")))
    assert found.startswith("policy.0.plug-in.sha256 = ")


def test_files_that_a_plug_in_reads_are_found_hashed_and_compared(mine, here, capsys):
    (mine / "own.py").write_text(
        ENCODER.replace("def mine(", "def mine(gain_path: str, ").replace(
            "Mine(gain", "Mine(np.load(gain_path)"
        )
    )
    np.save(mine / "gain.npy", np.float32(0.5))
    path = mine / "mine.toml"
    path.write_text(CONFIG.replace("width = 2", 'width = 2\ngain_path = "gain.npy"'))
    loaded = load(path)
    assert loaded.encoder.gain_path == str(mine / "gain.npy")
    first = identity(loaded)
    assert input_files(loaded) == {"encoder gain_path": mine / "gain.npy"}
    assert 'gain_path = "../project/gain.npy"' in to_toml(loaded, here / "out")
    np.save(mine / "gain.npy", np.float32(0.25))
    assert difference(first, identity(load(path))).startswith("encoder.gain_path = ")


def test_resume_is_refused_once_the_source_changed(mine, capsys, monkeypatch):
    from memoa_jax.session import Session

    monkeypatch.setattr(Session, "clear", lambda self: None)  # what a crash leaves
    every = ["run", "project/mine.toml", "--out", "out", "--checkpoint-every", "0", "--set"]
    assert main([*every, "run.chunk=5"]) == 0
    resume = ["run", "project/mine.toml", "--resume", "out", "--set", "run.chunk=5"]
    assert main(resume) == 0
    capsys.readouterr()
    text = (mine / "own.py").read_text()
    (mine / "own.py").write_text(text.replace("0.1 * state", "0.2 * state"))
    assert main(resume) == 2
    (line,) = told(capsys)
    assert "--resume out: is of encoder.plug-in.sha256 = " in line


SWEEP = f"""{CONFIG}
[sweep]
method = "grid"

[[sweep.axis]]
key = "encoder.width"
low = 2
high = 3
count = 2

[[sweep.axis]]
key = "policy.lean.pull"
low = 0.0
high = 1.0
count = 3
"""


def test_a_sweep_takes_a_size_as_whole_and_a_number_as_data(mine, capsys):
    (mine / "sweep.toml").write_text(SWEEP)
    swept = load("project/sweep.toml")
    assert isinstance(swept, Sweep)
    values = [run.values for run in plan(swept)]
    assert [type(one["encoder.width"]) for one in values] == [int] * 6
    assert main(["sweep", "project/sweep.toml", "--out", "out"]) == 0
    rows = [row for row in rows_of("out/table.csv") if row["policy"] == "lean"]
    assert len(rows) == 6
    # Two widths are two shapes of a program; pulls are numbers in one.
    assert "to compile 2 programs" in capsys.readouterr().out
    for run in plan(swept)[4:5]:
        values = [f"--set={key}={value}" for key, value in run.values.items()]
        assert main(["run", "project/mine.toml", "--out", "one", *values]) == 0
        alone = summary_of("one")["policies"]["lean"]["server_rmse"]
        (row,) = [r for r in rows if all(float(r[k]) == v for k, v in run.values.items())]
        assert float(row["server_rmse"]) == pytest.approx(alone, rel=1e-5)


def test_whole_numbers_become_floats_where_the_function_has_one(mine):
    from memoa_jax.config_plugins import converted

    table = load("project/mine.toml", ["encoder.gain=2", "policy.0.pull=1"])
    given = converted(table.encoder.found(), table.encoder.arguments)
    assert [type(given[name]) for name in ("width", "gain")] == [int, float]
    pull = converted(table.policy[0].found(), table.policy[0].arguments)["pull"]
    assert type(pull) is float


TUNE = """
[tune]
keys = ["policy.cost.effort"]
policy = "greedy"
steps = 2
"""


def test_a_plug_in_s_arguments_are_not_tuned_and_what_is_beside_them_is(mine, capsys):
    path = mine / "tune.toml"
    path.write_text(CONFIG + SECOND + TUNE)
    (found,) = faults(path, "tune.keys=['encoder.gain']", "encoder.gain=0.5")
    assert 'tune.keys.0 = "encoder.gain": not a number that this run has' in found
    assert main(["tune", str(path), "--out", "out"]) == 0
    assert summary_of("out")["origins"]


def test_a_stream_refuses_a_policy_without_surveys_by_name(mine, capsys):
    code = main(["run", "project/mine.toml", "--out", "out", "--set", "run.schedule=stream",
                 "--set", "mixture={kind='uniform'}"])  # fmt: skip
    assert code == 2
    assert "policy Lean names no surveys of the population" in told(capsys)[-1]


def test_a_stream_refuses_a_policy_that_asks_without_saying_so(mine, capsys):
    text = POLICY.replace("pull: Scalar\n", "pull: Scalar\n    surveys = ()\n")
    (mine / "rule.py").write_text(text)
    command = ["run", "project/mine.toml", "--out", "out", "--set", "run.schedule=stream",
               "--set", "mixture={kind='uniform'}"]  # fmt: skip
    assert main(command) == 2
    assert 'policy.kind = "rule:lean": act asks the population for a sum' in told(capsys)[-1]


def test_a_policy_that_asks_nothing_is_streamed(mine, capsys):
    text = POLICY.replace("pull: Scalar\n", "pull: Scalar\n    surveys = ()\n")
    text = text.replace("o.population.mean(o.prediction)", "o.target")
    (mine / "rule.py").write_text(text)
    parts = ["--set", "mixture={kind='uniform'}"]
    assert main(["run", "project/mine.toml", "--out", "out", *parts]) == 0
    assert main(["run", "project/mine.toml", "--out", "streamed", *parts,
                 "--set", "run.schedule=stream", "--set", "run.block=4"]) == 0  # fmt: skip
    one, other = (summary_of(x)["policies"]["lean"]["server_rmse"] for x in ("out", "streamed"))
    assert one == pytest.approx(other, rel=1e-5)


ENTRIES = [("memoa_jax.encoders", "felt", "mine"), ("memoa_jax.policies", "greedy", "mine")]


def test_an_installed_package_registers_kinds(mine, here, monkeypatch, capsys):
    install(here / "site", monkeypatch, ENTRIES)
    assert main(["list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    (line,) = [one for one in listed if one.startswith("  felt ")]
    assert line.split(maxsplit=1)[1] == "plug-in extra_encoders:mine (extra-encoders 1.2)"
    assert listed.index(line) > listed.index("encoders:")
    (taken,) = [one for one in listed if "REFUSED" in one]
    assert taken.split()[0] == "greedy"
    path = mine / "mine.toml"
    path.write_text(CONFIG.replace("own:mine", "felt"))
    (found,) = faults(path, "encoder.widht=3")
    assert "unknown argument of felt; did you mean width?" in found
    (near,) = faults(path, "encoder.kind=fellt")
    assert near.endswith("unknown kind; did you mean felt?")
    assert main(["run", str(path), "--out", "out"]) == 0
    kept = json.loads(Path("out/manifest.json").read_text())["plug-ins"]["encoder"]
    assert (kept["kind"], kept["version"]) == ("felt", "extra-encoders 1.2")
    assert "folder" not in Path("out/config.toml").read_text().split("[encoder]")[1].split("[")[0]


def test_a_built_in_s_name_is_the_built_in_s(mine, here, monkeypatch):
    install(here / "site", monkeypatch, ENTRIES)
    (mine / "mine.toml").write_text(CONFIG + SECOND)
    assert type(load("project/mine.toml").policy[1]).__name__ == "Greedy"


def test_a_name_that_two_packages_register_is_refused(mine, here, monkeypatch):
    install(here / "site", monkeypatch, ENTRIES)
    install(here / "more", monkeypatch, ENTRIES, name="more-encoders")
    (found,) = faults("project/mine.toml", "encoder.kind=felt")
    assert "registered by several packages; allowed is one of " in found
    assert "more_encoders:mine" in found


def test_what_a_plug_in_prints_is_no_result(mine, capsys):
    loud = ENCODER.replace("    return Mine(", "    print('mine!')\n    return Mine(")
    (mine / "own.py").write_text(loud + "print('imported')\n")
    assert main(["run", "project/mine.toml", "--out", "out", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["name"] == "mine"
    assert "mine!" in captured.err
    assert "imported" in captured.err


def test_a_study_takes_plug_ins_under_their_short_names(mine, capsys):
    path = mine / "study.toml"
    path.write_text(CONFIG.replace("[encoder]", "[[encoder]]").replace("[mixture]",
        '[[encoder]]\nkind = "random_features"\nfeatures = 2\n\n[mixture]'))  # fmt: skip
    assert main(["run", str(path), "--out", "out"]) == 0
    assert {row["encoder"] for row in rows_of("out/table.csv")} == {"mine", "random_features"}
