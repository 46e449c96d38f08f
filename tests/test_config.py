"""Configs: every fault told at once and plainly, overrides, resolved files, library defaults."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from memoa_jax import config as schema
from memoa_jax.config import FAMILIES, Config, Cost, Study
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import load, override, to_toml
from memoa_jax.config_sweep import Axis, Sweep, SweepTable

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))
MINIMAL = """
[series]
kind = "logistic"
[[policy]]
kind = "greedy"
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="x.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def faults(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert all("\n" not in fault for fault in caught.value.faults)
    return [fault.removeprefix(f"{path}: ") for fault in caught.value.faults]


def test_minimal_config_has_defaults_and_the_files_name(write):
    config = load(write(MINIMAL, "my run.toml"))
    assert (config.name, config.seed, config.agents, config.dtype) == ("my_run", 0, 1000, "float32")
    assert config.encoder.kind == "random_features"
    assert config.mixture.kind == "ridge"
    assert config.run.uncoupled
    assert config.record is None


ONE_FAULT = {
    "policy.0.windw: unknown key; did you mean window?": "[[policy]]\nkind='greedy'\nwindw=3",
    "policy.0.xyz: unknown key; allowed: kind, name, cost, window, game, ridge, discount": (
        "[[policy]]\nkind='greedy'\nxyz=3"
    ),
    "policy.0.cost.efort: unknown key; did you mean effort?": (
        "[[policy]]\nkind='greedy'\ncost={efort=1}"
    ),
    "policy.0.cost.effort = 0: allowed is a number > 0": "[[policy]]\nkind='greedy'\ncost.effort=0",
    "policy.0.cost.consensus: unknown key; allowed: tracking, effort, forgetting": (
        "[[policy]]\nkind='greedy'\ncost={consensus=1}"
    ),
    'policy.0.game = "forcast": allowed is hindsight, forecast; did you mean forecast?': (
        "[[policy]]\nkind='centralized'\ngame='forcast'"
    ),
    "policy.0.discount = 1.5: allowed is a number > 0 and <= 1": (
        "[[policy]]\nkind='centralized'\ndiscount=1.5"
    ),
    "policy.0.cost = 3: allowed is a table": "[[policy]]\nkind='greedy'\ncost=3",
    "policy.0.window = 0: allowed is a whole number >= 1": "[[policy]]\nkind='greedy'\nwindow=0",
    "policy.0.window = 2.0: allowed is a whole number >= 1": (
        "[[policy]]\nkind='greedy'\nwindow=2.0"
    ),
    'policy.0.kind = "gredy": unknown kind; did you mean greedy?': "[[policy]]\nkind='gredy'",
    "policy.0.kind: missing; allowed: greedy, decentralized, centralized": "[[policy]]\nwindow=3",
    "policy.0.horizon = -1: allowed is a whole number >= 1": (
        "[[policy]]\nkind='decentralized'\nhorizon=-1"
    ),
    "policy.0.sync_every = 0: allowed is a whole number >= 1": (
        "[[policy]]\nkind='centralized'\nsync_every=0"
    ),
    "policy.0.greedy_effort = -0.5: allowed is a number > 0": (
        "[[policy]]\nkind='centralized'\ngreedy_effort=-0.5"
    ),
    'policy.0.information = "feedbak": allowed is feedback, offline; did you mean feedback?': (
        "[[policy]]\nkind='centralized'\ninformation='feedbak'"
    ),
    'policy.1.name = "greedy": taken by another policy; give each its own': (
        "[[policy]]\nkind='greedy'\n[[policy]]\nkind='greedy'"
    ),
    'policy.0.name = "uncoupled": kept for the run\'s own comparisons': (
        "[[policy]]\nkind='greedy'\nname='uncoupled'"
    ),
    "policy.0.name = \"a.b\": allowed is a name of letters, digits, '_' and '-' that starts with "
    "a letter": "[[policy]]\nkind='greedy'\nname='a.b'",
    "policy = []: allowed is one [[policy]] table or more": "policy = []",
    "policy = 3: allowed is one [[policy]] table or more": "policy = 3",
    "policy.0 = 3: allowed is a table": "policy = [3]",
    "agents = 0: allowed is a whole number >= 1": "agents = 0",
    "agents = true: allowed is a whole number >= 1": "agents = true",
    'agents = "many": allowed is a whole number >= 1': "agents = 'many'",
    "agents = 1979-05-27: allowed is a whole number >= 1": "agents = 1979-05-27",
    "seed = -1: allowed is a whole number from 0 to 4294967295": "seed = -1",
    'dtype = "float16": allowed is float32, float64; did you mean float64?': "dtype='float16'",
    "name = \"../x\": allowed is a name of letters, digits, '_', '-' and '.', fit for a folder": (
        "name='../x'"
    ),
    "series.stesp: unknown key; did you mean steps?": "[series]\nkind='logistic'\nstesp=1",
    'series.kind = "logistik": unknown kind; did you mean logistic?': "[series]\nkind='logistik'",
    "series = 3: allowed is a table": "series = 3",
    "series.noise: unknown key; allowed: kind, name, standardise, published, scored_from, steps": (
        "[series]\nkind='periodic'\nnoise=1"
    ),
    "series.volatility = inf: allowed is a number >= 0": (
        "[series]\nkind='brownian'\nvolatility=inf"
    ),
    "series.path: missing; allowed is the path of a file, relative to the config's folder": (
        "[series]\nkind='table'"
    ),
    "series.lags = [0, -1]: allowed is a list of whole numbers >= 0, or a table with such a list "
    "per input": "[series]\nkind='table'\npath='x.toml'\nlags=[0,-1]",
    "series.rows = [1]: allowed is [start, stop], the stop row excluded": (
        "[series]\nkind='table'\npath='x.toml'\nrows=[1]"
    ),
    "encoder.noise = -0.1: allowed is a number >= 0": "[encoder]\nkind='echo_state'\nnoise=-0.1",
    "encoder.noise = nan: allowed is a number >= 0": "[encoder]\nkind='echo_state'\nnoise=nan",
    "encoder.activation: unknown key; allowed: kind, name, features, noise, views": (
        "[encoder]\nkind='random_features'\nactivation='tanh'"
    ),
    "encoder.views.delay = -1: allowed is a whole number >= 0": (
        "[encoder]\nkind='echo_state'\n[encoder.views]\ndelay=-1"
    ),
    "mixture.kappa = 0: allowed is a number > 0": "[mixture]\nkappa=0",
    "mixture.eta = nan: allowed is a finite number": "[mixture]\neta=nan",
    "policy.0.staleness = -1: allowed is a whole number >= 0": (
        "[[policy]]\nkind='centralized'\nstaleness=-1"
    ),
    "policy.0.staleness: unknown key; allowed: kind, name, cost, window, game, ridge, discount": (
        "[[policy]]\nkind='greedy'\nstaleness=1"
    ),
    'policy.0.staleness = 2: allowed is 0 with information = "offline"': (
        "[[policy]]\nkind='decentralized'\nstaleness=2\ninformation='offline'"
    ),
    "mixture.discount = 1.5: allowed is a number from 0 to 1": "[mixture]\ndiscount=1.5",
    'mixture.kind = "ridg": unknown kind; did you mean ridge?': "[mixture]\nkind='ridg'",
    "mixture.rate: unknown key; allowed: kind, kappa, eta, discount": "[mixture]\nrate=1",
    "mixture.kappa: unknown key; allowed: kind": "[mixture]\nkind='uniform'\nkappa=1",
    "mixture.rate = 0: allowed is a number > 0": "[mixture]\nkind='ewa'\nrate=0",
    "mixture.gradient = 1: allowed is true or false": "[mixture]\nkind='boa'\ngradient=1",
    "mixture.rate: unknown key; allowed: kind, gradient": "[mixture]\nkind='mlpoly'\nrate=1",
    "mixture.rate: missing; allowed is a number > 0": ("[mixture]\nkind='fixed_share'\nshare=0.1"),
    "mixture.share = 1: allowed is a number > 0 and < 1": (
        "[mixture]\nkind='fixed_share'\nrate=1\nshare=1"
    ),
    "mixture = 3: allowed is a table": "mixture = 3",
    "participation.kind: missing; allowed: bernoulli, markov, late, file": (
        "[participation]\nprobability=1"
    ),
    "participation.probability = 0: allowed is a number > 0 and <= 1": (
        "[participation]\nkind='bernoulli'\nprobability=0"
    ),
    "participation.leave = 1.0: allowed is a number > 0 and < 1": (
        "[participation]\nkind='markov'\nleave=1.0\njoin=1.0"
    ),
    "participation.join: missing; allowed is a number > 0 and <= 1": (
        "[participation]\nkind='markov'\nleave=0.5"
    ),
    "participation.last = 4: allowed is a whole number >= first, 5": (
        "[participation]\nkind='late'\nfirst=5\nlast=4"
    ),
    "series.standardise = 1: allowed is true, false, levels, moves or both (true is levels)": (
        "[series]\nkind='logistic'\nstandardise=1"
    ),
    'series.standardise = "move": allowed is true, false, levels, moves or both (true is levels); '
    "did you mean moves?": "[series]\nkind='logistic'\nstandardise='move'",
    "series.lags = []: allowed is a list of whole numbers >= 0, not empty": (
        "[series]\nkind='co2'\nlags=[]"
    ),
    "series.lags.1 = -1: allowed is a whole number >= 0": (
        "[series]\nkind='sunspots'\nlags=[0,-1]"
    ),
    "series.published = -1: allowed is a number >= 0, or a table with such a number per label": (
        "[series]\nkind='logistic'\npublished=-1"
    ),
    'series.published = {"a": "b"}: allowed is a number >= 0, or a table with such a number per '
    "label": "[series]\nkind='logistic'\npublished={a='b'}",
    "series.0.steps = 0: allowed is a whole number >= 1": "[[series]]\nkind='logistic'\nsteps=0",
    "series.0.stesp: unknown key; did you mean steps?": "[[series]]\nkind='logistic'\nstesp=1",
    "series.0.kind: missing; allowed: periodic, logistic, concept_drift, brownian, random_walk, "
    "step_change, seasonal, co2, sunspots, boc, ett, table": "[[series]]\nsteps=1",
    'series.1.name = "logistic": taken by another series; give each its own': (
        "[[series]]\nkind='logistic'\n[[series]]\nkind='logistic'\nsteps=5"
    ),
    'series.1.name = "a": taken by another series; give each its own': (
        "[[series]]\nkind='logistic'\nname='a'\n[[series]]\nkind='co2'\nname='a'"
    ),
    "series.0.name = \"a b\": allowed is a name of letters, digits, '_' and '-' that starts with a "
    "letter": "[[series]]\nkind='logistic'\nname='a b'",
    "series = []: allowed is one [[series]] table or more": "series = []",
    "series.0 = 3: allowed is a table": "series = [3]",
    "encoder = []: allowed is one [[encoder]] table or more": "encoder = []",
    "encoder.1.noise = -1: allowed is a number >= 0": (
        "[[encoder]]\nkind='echo_state'\n[[encoder]]\nkind='random_features'\nnoise=-1"
    ),
    "encoder.0.views.delay = -1: allowed is a whole number >= 0": (
        "[[encoder]]\nkind='echo_state'\n[encoder.views]\ndelay=-1"
    ),
    'encoder.1.name = "echo_state": taken by another encoder; give each its own': (
        "[[encoder]]\nkind='echo_state'\n[[encoder]]\nkind='echo_state'"
    ),
    "seeds: seed is given too; allowed is one of them": "seed = 1\nseeds = 2",
    **{
        f"seeds = {shown}: allowed is how many (1 to 10000), or a list of different whole numbers "
        "from 0 to 4294967295": f"seeds = {shown}"
        for shown in ("0", "10001", "true", '"5"', "[]", "[1, 1]", "[-1]", "[1.0]", "[4294967296]")
    },
    "record: allowed in a run of one series, one encoder and one seed only": (
        "seeds = 2\n[record]\nagents=[1]"
    ),
    "agnts: unknown key; did you mean agents?": "agnts = 1\nseeds = 2",
    "encoder.noise = -0.2: allowed is a number >= 0": (
        "seeds = 2\n[encoder]\nkind='echo_state'\nnoise=-0.2"
    ),
    "encoder = 4: allowed is a table": "seeds = 2\nencoder = 4",
    "run.chunk = 0: allowed is a whole number of steps >= 1": "[run]\nchunk=0",
    "run.uncoupled = 1: allowed is true or false": "[run]\nuncoupled=1",
    "record.agents.1 = 1000: allowed is 0 to 999": "[record]\nagents=[1,1000]",
    "record.agents.0 = -1: allowed is a whole number >= 0": "[record]\nagents=[-1]",
    'record.fields.0 = "contrl": allowed is prediction, control, features, weights; did you mean '
    "control?": "[record]\nfields=['contrl']",
    "sed: unknown key; did you mean seed?": "sed = 3",
}


@pytest.mark.parametrize(("fault", "text"), ONE_FAULT.items(), ids=range(len(ONE_FAULT)))
def test_every_kind_of_fault_is_one_plain_line(write, fault, text):
    for header, block in (
        ("series", "[series]\nkind='logistic'"),
        ("policy", "[[policy]]\nkind='greedy'"),
    ):
        if not re.search(rf"^\[*{header}\b", text, re.M):
            text = f"{text}\n{block}"
    assert faults(write(text)) == [fault]


def test_files_that_are_not_there_are_faults_wherever_they_are_named(write, tmp_path):
    path = write(
        "[[series]]\nkind='logistic'\n[[series]]\nkind='boc'\npath='none.csv'\n"
        "[[encoder]]\nkind='given'\npath='none.npz'\n[[policy]]\nkind='greedy'\n"
        "[participation]\nkind='file'\npath='none.npy'\n"
    )
    assert faults(path) == [
        f'series.1.path = "{tmp_path / "none.csv"}": no such file',
        f'encoder.0.path = "{tmp_path / "none.npz"}": no such file',
        f'participation.path = "{tmp_path / "none.npy"}": no such file',
    ]


def test_a_lone_table_of_a_study_is_named_as_it_stands(write):
    path = write("seeds = 2\n[series]\nkind='logistic'\nsteps=0\n[[policy]]\nkind='greedy'\n")
    assert faults(path) == ["series.steps = 0: allowed is a whole number >= 1"]
    path = write("seeds = 2\n[series]\nsteps=1\n[[policy]]\nkind='greedy'\n")
    assert faults(path)[0].startswith("series.kind: missing; allowed: periodic")
    path = write("seeds = 2\n[[policy]]\nkind='greedy'\n")
    assert faults(path) == ["series: missing; allowed is a table"]


def test_all_faults_are_told_at_once(write):
    path = write(
        "agents = 2\nsed = 1\n[series]\nkind='periodic'\nsteps='x'\n[encoder]\nkind='given'\n"
        "path='none.npz'\n[[policy]]\nkind='greedy'\nwindow=0\n[[policy]]\nkind='greedy'\n"
        "[record]\nagents=[5]\n"
    )
    told = faults(path, "mixture.kappa=-1", "policy.3.window=3")
    assert len(told) == 8
    for part in (
        "sed: unknown key",
        'series.steps = "x"',
        f"encoder.path = {json.dumps(str(path.parent / 'none.npz'))}: no such file",
        "policy.0.window = 0",
        "policy.1.name",
        "record.agents.0 = 5: allowed is 0 to 1",
        "--set mixture.kappa=-1: mixture.kappa = -1: allowed is a number > 0",
        "--set policy.3.window=3: policy has 2 elements, counted from 0",
    ):
        assert any(part in fault for fault in told), part


def test_missing_tables_are_named(write):
    assert faults(write("")) == [
        "series: missing; allowed is a table",
        "policy: missing; allowed is one [[policy]] table or more",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = \n", r"not valid TOML: .*line 1, column 5"),
        (b"\x80\x03abc", r"not a text file \(byte 0 is not UTF-8\)"),
        (b"a = 1\na = 2\n", r"not valid TOML: .*line 2"),
        (b"\x00", "not valid TOML"),
    ],
)
def test_unreadable_content_is_one_fault(write, content, said):
    (fault,) = faults(write(content))
    assert re.search(said, fault)


def test_unreadable_files_are_one_fault(write, tmp_path):
    write(MINIMAL, "quick.toml")
    assert faults(tmp_path) == ["is a folder; give a .toml file"]
    missing = tmp_path / "quik.toml"
    assert faults(missing) == [f"no such file; did you mean {tmp_path / 'quick.toml'}?"]
    assert faults(tmp_path / "quick.toml" / "x") == ["cannot be read (Not a directory)"]
    assert len(faults("a\0b")) == 1


def test_crlf_and_byte_order_mark_are_read(write):
    assert load(write(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())).agents == 1000


def test_set_parses_toml_and_finds_policies(write):
    path = write(MINIMAL + "[[policy]]\nkind='decentralized'\nname='d'\n")
    config = load(
        path,
        [
            "agents=50",
            "policy.greedy.window=5",
            "policy.d.cost.consensus = 4",
            "policy.1.information=offline",
            "run.chunk=10",
            "series.kind=co2",
            "record.agents=[1, 2]",
            "encoder={kind='echo_state'}",
        ],
    )
    assert config.agents == 50
    assert config.policy[0].window == 5
    assert config.policy[1].cost == Cost(consensus=4.0)
    assert config.policy[1].information == "offline"
    assert config.run.chunk == 10
    assert config.series.kind == "co2"
    assert config.record.agents == [1, 2]
    assert config.encoder.kind == "echo_state"


SEVERAL = """
seeds = [3, 1]
[[series]]
kind = "logistic"
[[series]]
kind = "logistic"
name = "long"
steps = 400
published = { MEMOA = 0.0067, "greedy, theirs" = 1 }
[[encoder]]
kind = "echo_state"
[encoder.views]
delay = 3
[[encoder]]
kind = "random_features"
[[policy]]
kind = "greedy"
"""


def test_several_series_encoders_or_seeds_are_a_study(write):
    study = load(write(SEVERAL))
    assert isinstance(study, Study)
    cells = list(study.cells())
    assert [cell.place for cell in cells[:3]] == [
        "logistic, echo_state, seed 3",
        "logistic, echo_state, seed 1",
        "logistic, random_features, seed 3",
    ]
    assert (len(cells), cells[-1].place) == (8, "long, random_features, seed 1")
    alone = cells[-1].config
    assert (alone.series.steps, alone.encoder.kind, alone.seed) == (400, "random_features", 1)
    assert isinstance(load(write(MINIMAL)), Config)
    assert isinstance(load(write(MINIMAL), ["seeds=1"]), Study)
    assert load(write("seeds = 3\n" + MINIMAL)).seeds == [0, 1, 2]
    lone = load(write(MINIMAL.replace("[series]", "[[series]]")), ["seed=7"])
    assert lone.all_seeds == [7]


def test_study_and_config_share_their_keys():
    own = {"series", "encoder", "record", "seeds"}
    for name, field in Config.model_fields.items():
        if name not in own:
            assert Study.model_fields[name].default == field.default
            assert Study.model_fields[name].annotation == field.annotation
    assert set(Study.model_fields) ^ set(Config.model_fields) == {"record", "seeds"}


def test_set_finds_series_and_encoders_and_replaces_seeds(write):
    path = write(SEVERAL)
    study = load(
        path,
        [
            "series.0.steps=50",
            "series.long.steps=60",
            "encoder.random_features.noise=0.5",
            "encoder.echo_state.views.delay=1",
            "seeds=2",
            "agents=20",
            "series.long.published=0.5",
        ],
    )
    assert [series.steps for series in study.series] == [50, 60]
    assert study.encoder[1].noise == 0.5
    assert study.encoder[0].views.delay == 1
    assert (study.seeds, study.agents) == ([0, 1], 20)
    assert study.series[1].published == 0.5
    assert load(path, ["seed=5"]).all_seeds == [5]
    assert load(write("seed = 9\n" + MINIMAL, "y.toml"), ["seeds=[4, 5]"]).seeds == [4, 5]
    assert load(path, ["seed=5", "seeds=1"]).all_seeds == [0]
    for text, said in {
        "series.lnog.steps=3": "series has no element lnog; did you mean long?",
        "series.2.steps=3": "series has 2 elements, counted from 0",
        "series.steps=3": "series has no element steps; allowed: logistic, long",
        "encoder.long.noise=3": "encoder has no element long; allowed: echo_state, random_features",
        "series.long.steps=0": "series.1.steps = 0: allowed is a whole number >= 1",
        "encoder.1.nose=0": "encoder.1.nose: unknown key; did you mean noise?",
    }.items():
        assert faults(path, text) == [f"--set {text}: {said}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents", "allowed is KEY=VALUE with a dotted key, such as policy.0.window=5"),
        ("=3", "allowed is KEY=VALUE with a dotted key, such as policy.0.window=5"),
        ("a..b=3", "allowed is KEY=VALUE with a dotted key, such as policy.0.window=5"),
        ("policy.gredy.window=3", "policy has no element gredy; did you mean greedy?"),
        ("policy.7.window=3", "policy has 1 elements, counted from 0"),
        ("seed.x=3", "seed is no table"),
        ("agnts=3", "agnts: unknown key; did you mean agents?"),
        ("policy.greedy.windw=3", "policy.0.windw: unknown key; did you mean window?"),
        ("rn.chunk=3", "rn: unknown key; did you mean run?"),
        ("agents=1\nseed=2", 'agents = "1\\nseed=2": allowed is a whole number >= 1'),
    ],
)
def test_set_faults_name_the_override(write, text, said):
    shown = text if text.isprintable() else repr(text)
    assert faults(write("seed = 1\n" + MINIMAL), text) == [f"--set {shown}: {said}"]


def test_set_refuses_an_ambiguous_kind():
    raw = {"policy": [{"kind": "greedy", "name": "a"}, {"kind": "greedy", "name": "b"}]}
    with pytest.raises(ValueError, match="2 elements greedy; use a number"):
        override(raw, "policy.greedy.window=3")
    assert override(raw, "policy.b.window=3") == ("policy", 1, "window")
    # A table without a name goes by its kind, whatever others of that kind are called.
    raw = {"series": [{"kind": "boc"}, {"kind": "boc", "name": "later"}, {"kind": "ett"}]}
    assert override(raw, "series.boc.steps=3") == ("series", 0, "steps")
    assert override(raw, "series.later.steps=3") == ("series", 1, "steps")
    assert override(raw, "series.ett.steps=3") == ("series", 2, "steps")


def test_paths_are_taken_from_the_configs_folder_and_overrides_from_here(
    write, tmp_path, monkeypatch
):
    write("a,b\n1,2\n", "a.csv")
    here = tmp_path / "here"
    here.mkdir()
    (here / "b.csv").write_text("a\n1\n")
    monkeypatch.chdir(here)
    path = write(MINIMAL.replace('"logistic"', '"boc"\npath = "a.csv"'))
    assert load(path).series.path == str(tmp_path / "a.csv")
    assert load(path, ["series.path=b.csv"]).series.path == str(here / "b.csv")


RICH = """
name = "rich"
seed = 3
dtype = "float64"
[series]
kind = "table"
path = "x.toml"
targets = ["a", "b \\"c\\" \\u007f"]
rows = [0, 100]
[series.lags]
"a b" = [0, 1]
[encoder]
kind = "echo_state"
noise = 1e-20
[encoder.views]
delay = 3
[[policy]]
kind = "greedy"
cost = { effort = 1e17 }
[[policy]]
kind = "decentralized"
name = "d-5"
horizon = 5
greedy_effort = 3
[run]
chunk = 7
[record]
agents = []
steps = [1, 2]
"""


def test_resolved_study_loads_to_the_same_study(write, tmp_path):
    write("a\n", "a.csv")
    text = SEVERAL + "[[series]]\nkind='boc'\npath='a.csv'\n[mixture]\nkind='ewa'\n"
    study = load(write(text))
    (tmp_path / "runs").mkdir()
    resolved = tmp_path / "runs" / "config.toml"
    resolved.write_text(to_toml(study, tmp_path / "runs"))
    assert load(resolved) == study
    assert 'path = "../a.csv"' in resolved.read_text()
    assert "seed =" not in resolved.read_text()
    for keys in (
        "[participation]\nkind='markov'\nleave=0.1\njoin=1\n",
        "[participation]\nkind='late'\nfirst=1\nlast=9\n",
    ):
        config = load(write(MINIMAL + keys))
        resolved.write_text(to_toml(config, tmp_path / "runs"))
        assert load(resolved) == config


def test_resolved_config_loads_to_the_same_config(write, tmp_path):
    config = load(write(RICH))
    text = to_toml(config, tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    resolved = tmp_path / "runs" / "config.toml"
    resolved.write_text(text)
    assert load(resolved) == config
    assert 'path = "../x.toml"' in text
    assert to_toml(load(resolved), tmp_path / "runs") == text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_commented(path, tmp_path):
    config = load(path)
    assert config.name == path.stem
    lines = path.read_text().splitlines()
    assert [line.startswith("# ") for line in lines[:3]] == [True, True, False]
    copy = tmp_path / "config.toml"
    copy.write_text(to_toml(config, tmp_path))
    assert load(copy) == config


def test_every_key_says_what_it_may_hold():
    from memoa_jax.config_faults import describe

    def walk(table):
        for name, field in table.model_fields.items():
            text = field.description or describe(field.annotation)
            assert text != "a value", (table, name)

    plain = (Config, Study, Sweep, SweepTable, Axis)
    for table in (*plain, schema.Run, schema.Record, schema.Views, Cost):
        walk(table)
    for family in FAMILIES.values():
        for table in family.values():
            walk(table)


def test_schema_and_faults_need_no_jax():
    code = (
        "import sys; from memoa_jax.config_file import load; load(sys.argv[1]);"
        "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(CONFIGS[0])]).returncode == 0


def keywords(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def assert_same_defaults(table, function, rename=()):
    """Hold a table's keys and defaults against a function's keywords."""
    rename, known = dict(rename), keywords(function)
    for name, field in table.model_fields.items():
        if name in ("kind", "name", "views", "standardise", "published", "scored_from"):
            continue
        default, found = field.get_default(call_default_factory=True), known[rename.get(name, name)]
        if name == "cost":
            default, found = default.model_dump(), vars(function().cost)
            found = {key: found[key] for key in default}
        if isinstance(default, list):
            default, found = tuple(default), tuple(found)
        if found is not inspect.Parameter.empty:
            assert default == found, (table, name)


def test_costs_have_the_defaults_of_their_game(write):
    from memoa_jax import policies

    for kind in ("greedy", "decentralized", "centralized"):
        path = write(MINIMAL.replace('"greedy"', f'"{kind}"'), f"{kind}.toml")
        for game in ("hindsight", "forecast"):
            (table,) = load(path, [f"policy.0.game={game}"]).policy
            cost = getattr(policies, kind)(game=game).cost
            assert table.cost.model_dump().items() <= vars(cost).items()
        (table,) = load(path, ["policy.0.cost.effort=2", "policy.0.game=forecast"]).policy
        assert table.cost.effort == 2.0
        assert kind == "greedy" or table.cost.consensus == 10.0


def test_series_kinds_are_the_librarys():
    from memoa_jax.series import SERIES_KINDS
    from memoa_jax.tables import load_table

    assert list(FAMILIES["series"]) == list(SERIES_KINDS)
    for kind, table in FAMILIES["series"].items():
        function = load_table if kind == "table" else SERIES_KINDS[kind]
        assert_same_defaults(table, function)
        known = set(keywords(function))
        assert known <= set(table.model_fields)


def test_other_defaults_are_the_librarys():
    from memoa_jax import build, encoders, game, policies
    from memoa_jax.simulate import Record

    assert_same_defaults(Cost, game.GameCost)
    for kind in ("random_features", "echo_state"):
        assert_same_defaults(FAMILIES["encoder"][kind], getattr(encoders, kind))
    assert_same_defaults(schema.Views, encoders.views, {"delay": "max_delay"})
    for functions, family in (
        (build.MIXTURE_KINDS, FAMILIES["mixture"]),
        (build.PARTICIPATION_KINDS, FAMILIES["participation"]),
    ):
        assert set(functions) == set(family) - {"file"}
        for kind, function in functions.items():
            assert_same_defaults(family[kind], function)
            assert set(keywords(function)) <= set(family[kind].model_fields)
    for kind, table in FAMILIES["policy"].items():
        assert_same_defaults(table, getattr(policies, kind))
    assert_same_defaults(schema.Record, Record)
