"""Configs: what they hold, overrides, studies, resolved files, library defaults."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MINIMAL, faults, write

from memoa_jax import config as schema
from memoa_jax.config import FAMILIES, Config, Cost, Study
from memoa_jax.config_file import load, override, to_toml
from memoa_jax.config_kinds import KINDS, command_of, model_of

pytestmark = pytest.mark.usefixtures("here")


CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))


def test_minimal_config_has_defaults_and_the_files_name():
    config = load(write(MINIMAL, "my run.toml"))
    assert (config.name, config.seed, config.agents, config.dtype) == ("my_run", 0, 1000, "float32")
    assert config.encoder.kind == "random_features"
    assert config.mixture.kind == "ridge"
    assert config.run.uncoupled
    assert config.record is None


def test_crlf_and_byte_order_mark_are_read():
    assert load(write(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())).agents == 1000


def test_set_parses_toml_and_finds_policies():
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


def test_several_series_encoders_or_seeds_are_a_study():
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


def test_a_special_table_names_the_command_and_stands_before_several_seeds():
    for table, model in KINDS.items():
        assert command_of(model.model_fields) == table
        assert model_of({table: {}, "seeds": 2, "series": []}) is model
    assert command_of(Study.model_fields) == command_of(Config.model_fields) == "run"


def test_study_and_config_share_their_keys():
    own = {"series", "encoder", "record", "seeds"}
    for name, field in Config.model_fields.items():
        if name not in own:
            assert Study.model_fields[name].default == field.default
            assert Study.model_fields[name].annotation == field.annotation
    assert set(Study.model_fields) ^ set(Config.model_fields) == {"record", "seeds"}


def test_set_finds_series_and_encoders_and_replaces_seeds():
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


def test_paths_are_taken_from_the_configs_folder_and_overrides_from_here(tmp_path, monkeypatch):
    write("a,b\n1,2\n", "a.csv")
    here = tmp_path / "here"
    here.mkdir()
    (here / "b.csv").write_text("a\n1\n")
    path = write(MINIMAL.replace('"logistic"', '"boc"\npath = "a.csv"'))
    monkeypatch.chdir(here)
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


def test_resolved_study_loads_to_the_same_study(tmp_path):
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


def test_resolved_config_loads_to_the_same_config(tmp_path):
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


def test_costs_have_the_defaults_of_their_game():
    from memoa_jax import policies

    for kind in ("greedy", "decentralized", "centralized", "heterogeneous"):
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
    from memoa_jax import build, cost_spread, encoders, game, policies
    from memoa_jax.simulate import Record

    assert_same_defaults(Cost, game.GameCost)
    assert_same_defaults(schema.Spread, cost_spread.CostSpread)
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
