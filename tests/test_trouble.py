"""Agents that run away are told, counted, and kept out of everybody's sums where that is asked."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import (
    GameCost,
    decentralized,
    exponential_weights,
    greedy,
    participation,
    random_features,
    ridge_mixture,
    series,
    simulate,
    uniform_mixture,
)
from memoa_jax.cli import main
from memoa_jax.trouble import FAR, QUANTITIES, told
from memoa_jax.types import Action, Status, record

AGENTS, NAN_AT, HUGE_AT = 9, 6, 9
LIVED = series.logistic(20)
KEY = jax.random.key(0)


@record
class Runaway:
    """A policy that says y_t + 0.01 i, but for two agents that lose their minds at some step."""

    broken: Any

    @property
    def surveys(self):
        return ()

    def init(self, dimensions, num_agents, dtype):
        return ()

    def act(self, state, observation):
        count = observation.prediction.shape[1]
        agent = jnp.arange(count)
        said = observation.target[:, None] + 0.01 * agent[None]
        nan = (agent == 2) & (observation.step >= NAN_AT)
        huge = (agent == 5) & (observation.step >= HUGE_AT)
        said = jnp.where(nan[None], jnp.nan, jnp.where(huge[None], self.broken, said))
        control = jnp.zeros((observation.features.shape[1], count), said.dtype)
        return state, Action(base=said, control=control, status=jnp.int32(Status.OK))


def run(containment="report", *, policy=None, mixture=None, broken=1e6, lived=LIVED, **how):
    return simulate(
        lived,
        random_features(2),
        policy or Runaway(broken),
        mixture or uniform_mixture(),
        num_agents=AGENTS,
        key=KEY,
        dtype="float64",
        containment=containment,
        **how,
    )


def opinions():
    """Return what every agent says of y_1 .. y_n, [n, N], and who of them is in bounds."""
    targets = np.asarray(LIVED.targets)[:, 0]
    said = targets[:, None] + 0.01 * np.arange(AGENTS)
    said[NAN_AT:, 2], said[HUGE_AT:, 5] = np.nan, 1e6
    sane = np.ones_like(said, bool)
    sane[NAN_AT:, 2] = sane[HUGE_AT:, 5] = False
    return said, sane


def test_report_leaves_them_there_and_tells_the_first():
    found = run()
    assert (int(found.trouble.step), int(found.trouble.agent)) == (NAN_AT, 2)
    assert QUANTITIES[int(found.trouble.quantity)] == "prediction"
    assert told(found.trouble, "report") == [
        f"first trouble: agent 2's prediction is not finite at step {NAN_AT}"
    ]
    assert np.isnan(found.mean_field[NAN_AT + 1 :]).all()
    assert int(found.status) & Status.NON_FINITE
    assert int(found.summary.diverged_agents) == 2


def test_excluded_agents_enter_no_sum_from_that_step_on():
    found = run("exclude")
    said, sane = opinions()
    mean = np.where(sane, said, 0.0).sum(axis=1) / sane.sum(axis=1)
    np.testing.assert_allclose(found.mean_field[1:, 0], mean[:-1], rtol=1e-13)
    np.testing.assert_allclose(found.server[1:, 0], mean[:-1], rtol=1e-13)
    assert (int(found.trouble.step), int(found.trouble.agent)) == (NAN_AT, 2)
    assert int(found.summary.diverged_agents) == 2
    assert int(found.status) == Status.OK
    assert np.isfinite(found.agent_costs).all()
    targets = np.asarray(LIVED.targets)[:, 0]
    errors = np.where(sane[:-1], said[:-1] - targets[1:, None], 0.0)
    np.testing.assert_allclose(found.agent_costs, (errors**2).sum(axis=0), rtol=1e-12)
    assert np.isfinite(float(found.summary.worst_agent_cost))
    assert told(found.trouble, "exclude")[0].endswith("; it is left out from there on")


def test_clipped_agents_stay_within_the_bounds():
    found = run("clip")
    said, _ = opinions()
    targets = np.asarray(LIVED.targets)[:, 0]
    far = FAR * np.maximum.accumulate(np.abs(targets))[:, None]
    said = np.clip(np.where(np.isnan(said), targets[:, None], said), -far, far)
    np.testing.assert_allclose(found.mean_field[1:, 0], said.mean(axis=1)[:-1], rtol=1e-13)
    assert int(found.summary.diverged_agents) == 2
    assert int(found.status) == Status.OK


@pytest.mark.parametrize("containment", ["exclude", "clip"])
@pytest.mark.parametrize("mixture", [ridge_mixture(), exponential_weights()], ids=["ridge", "ewa"])
def test_no_server_is_poisoned(containment, mixture):
    found = run(containment, mixture=mixture, broken=np.inf)
    assert np.isfinite(found.server).all()
    assert np.isfinite(float(found.summary.server_rmse))
    assert int(found.summary.diverged_agents) == 2


@pytest.mark.parametrize(
    ("policy", "containment"),
    [
        pytest.param(
            policy, containment, marks=[pytest.mark.slow] * slow, id=f"{name}-{containment}"
        )
        for name, policy, slow in (
            ("greedy", greedy(GameCost(effort=5.0)), False),
            ("decentralized", decentralized(horizon=3), True),
            ("forecast", decentralized(game="forecast"), False),
        )
        for containment in ("exclude", "clip")
    ],
)
def test_where_nobody_runs_away_nothing_changes(policy, containment):
    plain = run(policy=policy, mixture=ridge_mixture())
    found = run(containment, policy=policy, mixture=ridge_mixture())
    np.testing.assert_allclose(found.server, plain.server, rtol=1e-10)
    np.testing.assert_allclose(found.agent_costs, plain.agent_costs, rtol=1e-10)
    assert int(found.trouble.step) == -1
    assert told(found.trouble, containment) == []


def test_a_greedy_population_that_runs_away_is_contained():
    """Little effort: the loop's gain is far above one."""
    wild, how = greedy(GameCost(effort=1e-3), window=3), {"lived": series.periodic(60)}
    plain, found = run(policy=wild, **how), run("exclude", policy=wild, **how)
    assert float(plain.summary.worst_agent_rmse) > 1e5
    assert int(plain.summary.diverged_agents) > 0
    assert int(found.summary.diverged_agents) > 0
    assert np.abs(found.mean_field).max() <= FAR < np.abs(plain.mean_field).max()
    assert float(found.summary.worst_agent_rmse) <= FAR
    assert np.isfinite(found.server).all()


def test_participation_and_exclusion_go_together():
    mask = np.ones((21, AGENTS), bool)
    mask[3:12, 4] = False
    found = run("exclude", participation=participation.given_participation(mask))
    said, sane = opinions()
    there = sane & mask
    mean = np.where(there, said, 0.0).sum(axis=1) / there.sum(axis=1)
    np.testing.assert_allclose(found.mean_field[1:, 0], mean[:-1], rtol=1e-13)


@pytest.mark.parametrize("containment", ["report", "clip"])
def test_a_stream_tells_the_same(containment):
    resident = run(containment, mixture=ridge_mixture())
    found = run(containment, mixture=ridge_mixture(), schedule="stream", block=4)
    # Agents of Runaway are counted within their block: 2 of each of the three.
    assert (int(found.trouble.step), int(found.trouble.agent)) == (NAN_AT, 2)
    assert int(resident.trouble.agent) == 2
    assert int(found.summary.diverged_agents) >= 2


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="needs to know at every step who has run away"):
        run("exclude", schedule="stream")
    with pytest.raises(ValueError, match="containment = 'ignore': allowed is"):
        run("ignore")


def test_a_sharded_run_finds_the_same_agent():
    mesh = jax.make_mesh((1,), ("agents",))
    for containment in ("report", "exclude"):
        found = run(containment, mesh=mesh)
        assert (int(found.trouble.step), int(found.trouble.agent)) == (NAN_AT, 2)


GREEDY = """
agents = 5
[series]
kind = "periodic"
steps = 600
[encoder]
kind = "echo_state"
features = 2
[[policy]]
kind = "greedy"
cost = {effort = 1e-6}
[[policy]]
kind = "decentralized"
game = "forecast"
"""


def test_debug_names_the_operation_that_made_no_number(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wild.toml").write_text(GREEDY)
    assert main(["run", "wild.toml", "--debug", "--out", "out"]) == 0
    policies = json.loads((tmp_path / "out" / "summary.json").read_text())["policies"]
    assert policies["greedy"]["diverged_agents"] > 0
    wild, tame = (policies[name]["notes"][-1] for name in ("greedy", "decentralized"))
    assert re.match(r"debug: nan generated by primitive: \w+, at \w+\.py:\d+", wild)
    assert tame == "debug: no operation made a number that is none"
    capsys.readouterr()
    assert main(["run", "wild.toml", "--debug", "--set", 'run.schedule="stream"']) == 2
    assert "--debug: allowed is run.schedule" in capsys.readouterr().err
