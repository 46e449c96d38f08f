"""Faults of a config: every one told at once, in one plain line, and nothing else."""

import json
import re

import pytest
from helpers import MINIMAL, faults, write

from memoa_jax import config as schema
from memoa_jax.config import FAMILIES, Config, Cost, Study
from memoa_jax.config_sweep import Axis, Sweep, SweepTable

pytestmark = pytest.mark.usefixtures("here")


ONE_FAULT = {
    "policy.0.windw: unknown key; did you mean window?": "[[policy]]\nkind='greedy'\nwindw=3",
    "policy.0.xyz: unknown key; allowed: kind, name, cost, window, game, ridge, discount, groups": (
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
    "policy.0.kind: missing; allowed: greedy, decentralized, centralized, heterogeneous, affine": (
        "[[policy]]\nwindow=3"
    ),
    "policy.0.spread.effort = -0.5: allowed is a number >= 0": (
        "[[policy]]\nkind='heterogeneous'\nspread={effort=-0.5}"
    ),
    "policy.0.owm: unknown key; did you mean own?": "[[policy]]\nkind='affine'\nowm=[[1]]",
    "policy.0.own.0 = 1.0: allowed is a list with a finite number per output": (
        "[[policy]]\nkind='affine'\nown=[1.0]"
    ),
    **{
        f"policy.0.target = {shown}: allowed is a list of rows of one length: a row per feature, a "
        "number per output": f"[[policy]]\nkind='affine'\ntarget={shown}"
        for shown in ("[[1.0, 2.0], [3.0]]", "[[]]", "[]", "3")
    },
    "policy.0.mean.1.0 = nan: allowed is a finite number": (
        "[[policy]]\nkind='affine'\nmean=[[1],[nan]]"
    ),
    "policy.0.offset = []: allowed is a list with a finite number per feature": (
        "[[policy]]\nkind='affine'\noffset=[]"
    ),
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
    "policy.0.staleness: unknown key; allowed: kind, name, cost, window, game, ridge, discount, "
    "groups": ("[[policy]]\nkind='greedy'\nstaleness=1"),
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
    "tune: sweep is given too; allowed is one of them": (
        "[sweep]\nmethod='grid'\n[[sweep.axis]]\nkey='agents'\nvalues=[2, 3]\n"
        "[tune]\nkeys=['policy.cost.effort']"
    ),
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
    "swep: unknown key; did you mean sweep?": "[swep]\nmethod='grid'",
    "tuen: unknown key; did you mean tune?": "[tuen]\nkeys=['policy.ridge']",
    "seeds: allowed is tune.seeds": "seeds = 2\n[tune]\nkeys=['policy.cost.effort']",
}


@pytest.mark.parametrize(("fault", "text"), ONE_FAULT.items(), ids=range(len(ONE_FAULT)))
def test_every_kind_of_fault_is_one_plain_line(fault, text):
    for header, block in (
        ("series", "[series]\nkind='logistic'"),
        ("policy", "[[policy]]\nkind='greedy'"),
    ):
        if not re.search(rf"^\[*{header}\b", text, re.M):
            text = f"{text}\n{block}"
    assert faults(write(text)) == [fault]


def test_files_that_are_not_there_are_faults_wherever_they_are_named(tmp_path):
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


def test_a_lone_table_of_a_study_is_named_as_it_stands():
    path = write("seeds = 2\n[series]\nkind='logistic'\nsteps=0\n[[policy]]\nkind='greedy'\n")
    assert faults(path) == ["series.steps = 0: allowed is a whole number >= 1"]
    path = write("seeds = 2\n[series]\nsteps=1\n[[policy]]\nkind='greedy'\n")
    assert faults(path)[0].startswith("series.kind: missing; allowed: periodic")
    path = write("seeds = 2\n[[policy]]\nkind='greedy'\n")
    assert faults(path) == ["series: missing; allowed is a table"]


def test_all_faults_are_told_at_once():
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


def test_missing_tables_are_named():
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
def test_unreadable_content_is_one_fault(content, said):
    (fault,) = faults(write(content))
    assert re.search(said, fault)


def test_unreadable_files_are_one_fault(tmp_path):
    write(MINIMAL, "quick.toml")
    assert faults(tmp_path) == ["is a folder; give a .toml file"]
    missing = tmp_path / "quik.toml"
    assert faults(missing) == [f"no such file; did you mean {tmp_path / 'quick.toml'}?"]
    assert faults(tmp_path / "quick.toml" / "x") == ["cannot be read (Not a directory)"]
    assert len(faults("a\0b")) == 1


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
def test_set_faults_name_the_override(text, said):
    shown = text if text.isprintable() else repr(text)
    assert faults(write("seed = 1\n" + MINIMAL), text) == [f"--set {shown}: {said}"]


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
