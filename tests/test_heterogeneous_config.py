"""The heterogeneous policy in a config: from its table to a run, and what is run beside it."""

import pytest
from helpers import summary_of, write

from memoa_jax import build
from memoa_jax.cli import main
from memoa_jax.config_file import load
from memoa_jax.config_tune import values
from memoa_jax.cost_spread import CostSpread
from memoa_jax.game import GameCost
from memoa_jax.heterogeneity import heterogeneous
from memoa_jax.run import policies

OWN = """
name = "own"
agents = 6
[series]
kind = "logistic"
steps = 12
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "heterogeneous"
horizon = 2
cost = { consensus = 2.0 }
spread = { effort = 0.5 }
"""

pytestmark = pytest.mark.usefixtures("here")


def test_a_table_is_the_library_s_policy_and_has_its_own_uncoupled_twin():
    config = load(write(OWN + '[[policy]]\nkind = "decentralized"\nhorizon = 2\n'))
    built = build.policy(config.policy[0])
    assert built == heterogeneous(GameCost(consensus=2.0), 2, spread=CostSpread(effort=0.5))
    planned = policies(config)
    twins = ["uncoupled:heterogeneous", "uncoupled:decentralized"]
    assert list(planned) == ["heterogeneous", "decentralized", *twins]
    twin = build.policy(planned["uncoupled:heterogeneous"])
    assert twin == heterogeneous(GameCost(consensus=0.0), 2, spread=CostSpread(effort=0.5))
    alone = load(write(OWN, "alone.toml"), ["policy.0.game=forecast"])
    assert list(policies(alone)) == ["heterogeneous"]
    assert build.policy(alone.policy[0]).cost == GameCost(consensus=2.0, effort=1e-3)
    assert values(alone, alone.policy[0])["policy.spread.effort"] == 0.5


def test_a_run_of_the_command_line(capsys):
    assert main(["run", str(write(OWN)), "--out", "out"]) == 0
    found = summary_of("out")["policies"]
    assert list(found) == ["heterogeneous", "uncoupled"]
    assert all(0 < one["worst_agent_rmse"] < 10 for one in found.values())
    capsys.readouterr()
