"""Groups of agents in configs, runs and sweeps: `[[group]]`."""

import pytest
from helpers import assert_as_alone, faults, strict_json, write

from memoa_jax import build
from memoa_jax.cli import main
from memoa_jax.config_file import load, to_toml
from memoa_jax.identity import difference, identity
from memoa_jax.run import policies
from memoa_jax.sweep_batch import Programs, batches
from memoa_jax.sweep_plan import plan

BASE = """
[series]
kind = "logistic"
steps = 12

[encoder]
kind = "random_features"
features = 2

[[group]]
name = "few"
agents = 2
cost = { effort = 0.5 }

[[group]]
name = "many"
agents = 5
encoder = { kind = "echo_state", features = 3 }
greedy = { window = 1, effort = 4.0 }

[[policy]]
kind = "greedy"
game = "forecast"

[[policy]]
kind = "decentralized"
horizon = 2

[[policy]]
kind = "decentralized"
name = "pooled"
horizon = 2
groups = "pooled"
"""
SHARES = BASE.replace("agents = 2", "share = 0.3").replace("agents = 5", "share = 0.7")


def test_agents_are_the_sum_of_the_groups(here):
    config = load(write(BASE))
    assert (config.agents, config.sizes) == (7, (2, 5))
    assert load(write(BASE), ["agents=7"]).agents == 7
    assert load(write(BASE), ["group.many.agents=9", "group.0.cost.effort=2"]).sizes == (2, 9)
    shared = load(write(SHARES), ["agents=9"])
    assert (shared.agents, shared.sizes) == (9, (3, 6))
    assert load(write(SHARES)).sizes == (300, 700)


def test_a_resolved_file_gives_the_same_config(here):
    for text in (BASE, f"agents = 9\n{SHARES}"):
        config = load(write(text))
        again = load(write(to_toml(config, here), "x.toml"))
        assert again == config


def test_groups_are_part_of_a_run_s_identity(here):
    mine, theirs = (load(write(BASE), [f"group.few.cost.effort={e}"]) for e in (0.5, 0.6))
    found = difference(identity(mine), identity(theirs))
    assert found == "group.0.cost.effort = 0.6 where this has 0.5"


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["group.few.agents=0"], "group.0.agents = 0: allowed is a whole number >= 1"),
        (["agents=8"], "agents = 8: allowed is 7, the sum of the groups' agents, or no such key"),
        (["group.few.share=0.5"], "group.0.agents = 2: another group has a share"),
        (["group.many.name=few"], 'group.1.name = "few": taken by another group'),
        (["group.few.size=3"], "group.0.size: unknown key; allowed: name"),
        (["group.few.cost.efort=1"], "group.0.cost.efort: unknown key; did you mean effort?"),
        (["group.few.cost.effort=-1"], "group.0.cost.effort = -1: allowed is a number > 0"),
        (["group.many.encoder.features=0"], "group.1.encoder.features = 0: allowed is a whole"),
        (["group.many.encoder.kind=echo"], 'group.1.encoder.kind = "echo": unknown kind; all'),
        (["group.many.encoder={features=2}"], "group.1.encoder.kind: missing; allowed: random_"),
        (
            ["group.many.encoder={kind='given', path='x.npy'}"],
            'group.1.encoder.kind = "given": allowed is random_features, echo_state',
        ),
        (["group=[]"], "group = []: allowed is one [[group]] table or more"),
        (["tune={keys=['encoder.noise']}"], "group: allowed in a run, a study or a sweep, not"),
        (["policy.pooled.groups=none"], 'policy.2.groups = "none": allowed is own, pooled'),
        (["record.agents=[7]"], "record.agents.0 = 7: allowed is 0 to 6"),
        (["group.fw.agents=3"], "group has no element fw; did you mean few?"),
    ],
)
def test_faults_of_groups_are_told(here, overrides, fault):
    found = faults(write(BASE), *overrides)
    assert any(fault in line for line in found), found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (SHARES.replace("0.7", "0.6"), "group.0.share = 0.3: the groups' shares sum to 0.9"),
        (f"agents = 1\n{SHARES}", "group.0.share = 0.3: nobody of 1 agents"),
        (BASE.replace("agents = 2\n", ""), "group.0.agents: missing; allowed is a whole number"),
        (BASE.replace('name = "few"\n', ""), "group.0.name: missing; allowed is a name of"),
        (BASE[: BASE.index("[[group]]")] + BASE[BASE.index("[[policy]]") :], "policy.2.groups ="),
    ],
)
def test_faults_between_groups_are_told(here, text, fault):
    found = faults(write(text))
    assert any(fault in line for line in found), found


def test_groups_override_what_policies_hold_but_for_what_has_no_coupling(here):
    config = load(write(BASE), ["group.few.cost.consensus=3", "policy.1.greedy_effort=6"])
    made = {
        name: build.policy(table, groups=config.group) for name, table in policies(config).items()
    }
    typed, pooled = made["decentralized"], made["pooled"]
    assert (typed.groups, typed.cost.effort, typed.cost.consensus) == (2, (0.5, 0.1), (3.0, 1.0))
    assert (typed.local.window, typed.local.windows) == (3, (3, 1))
    assert typed.local.cost.effort == (6.0, 4.0)
    assert (pooled.groups, pooled.cost.effort, pooled.cost.consensus) == (None, 0.1, 1.0)
    assert made["greedy"].cost.effort == (0.5, 1e-3)
    alone = made["uncoupled:decentralized"]
    assert (alone.groups, alone.cost.consensus, alone.cost.effort) == (2, 0.0, (0.5, 0.1))
    assert made["uncoupled:pooled"].groups is None
    encoder = build.encoder(config, 13)
    assert (encoder.groups, encoder.features) == (2, 3)


def test_a_run_tells_its_groups(here, capsys):
    path = write(BASE)
    less = ["run.uncoupled=false", "run.best_readout=false", "policy.1.game=forecast"]
    less += ["policy.2.game=forecast"]
    assert main(["run", str(path), "--out", "out", *(f"--set={one}" for one in less)]) == 0
    table = capsys.readouterr().out
    summary = strict_json(here / "out" / "summary.json")
    assert summary["groups"] == {"few": 2, "many": 5}
    for label, policy in summary["policies"].items():
        few, many = (policy["groups"][name] for name in ("few", "many"))
        worst = max(few["worst_agent_rmse"], many["worst_agent_rmse"])
        assert worst == pytest.approx(policy["worst_agent_rmse"], rel=1e-6)
        assert (few["agents"], many["agents"]) == (2, 5)
        assert few["worst_agent"] in (0, 1)
        assert many["worst_agent"] in range(2, 7)
        whole = (2 * few["mean_agent_rmse"] + 5 * many["mean_agent_rmse"]) / 7
        assert whole == pytest.approx(policy["mean_agent_rmse"], rel=1e-5)
        gap = abs(few["worst_agent_rmse"] - many["worst_agent_rmse"])
        assert policy["group_gaps"]["worst_gap"] == pytest.approx(gap, rel=1e-4, abs=1e-7)
        assert f"{label} " in table
    assert "(gap)" in table
    assert "by group: " in table


@pytest.mark.slow
def test_a_sweep_over_a_group_s_cost_is_one_program_and_its_runs_as_they_are_alone(here):
    axis = '[sweep]\nmethod = "grid"\n[[sweep.axis]]\nkey = "group.few.cost.effort"\n'
    text = f'{BASE.replace(BASE[BASE.index("[[policy]]") :], "")}[[policy]]\nkind = "greedy"\n'
    text += f'game = "forecast"\n{axis}values = [0.1, 1.0, 3.0]\n'
    runs = plan(load(write(text)))
    programs, found = Programs(), {}
    for batch in batches(runs):
        found |= programs.run(batch)
    assert programs.compiled == 1
    assert len({figures["mean_agent_rmse"] for figures in found.values()}) == 3
    assert_as_alone(found, runs, 1e-4)
