"""What a seed means, and what must not matter: names of agents, order of policies, company."""

import json

import jax
import numpy as np
import pytest

from memoa_jax import (
    GameCost,
    Record,
    bernstein_aggregation,
    centralized,
    decentralized,
    exponential_weights,
    fixed_share,
    given_features,
    greedy,
    polynomial_potentials,
    random_features,
    ridge_mixture,
    series,
    simulate,
    uniform_mixture,
)
from memoa_jax.cli import main
from memoa_jax.participation import given_participation

AGENTS, POINTS = 7, 17
COST = GameCost(consensus=2.0, effort=3.0)
POLICIES = {
    "greedy": greedy(COST, window=2),
    "feedback": decentralized(COST, horizon=3),
    "offline": centralized(COST, horizon=3, information="offline"),
    "forecast": decentralized(COST, game="forecast"),
}
MIXTURES = {
    "ridge": ridge_mixture(),
    "uniform": uniform_mixture(),
    "ewa": exponential_weights(),
    "boa": bernstein_aggregation(),
    "mlpoly": polynomial_potentials(),
    "fixed_share": fixed_share(rate=0.5, share=0.05),
}
CASES = [
    (policy, mixture, schedule)
    for policy in POLICIES
    for mixture in MIXTURES
    for schedule in ("resident", "stream")
    if schedule == "resident" or mixture in ("ridge", "uniform")
]
QUICK = [
    ("feedback", "ridge", "stream"),
    ("offline", "boa", "resident"),
    ("forecast", "fixed_share", "resident"),
]


def cases():
    """Mark all but a few as slow."""
    return [
        case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES
    ]


def lived(policy, mixture, schedule, encoder, agents=AGENTS, participation=None, **options):
    record = Record(agents=tuple(range(AGENTS)), fields=("prediction", "control"))
    data = series.seasonal(POINTS - 1)
    return simulate(
        data,
        encoder,
        policy,
        mixture,
        num_agents=agents,
        key=options.pop("key", jax.random.key(3)),
        schedule=schedule,
        participation=participation,
        record=record,
        dtype="float64",
        keep_costs=True,
        **options,
    )


@pytest.mark.parametrize(("policy", "mixture", "schedule"), cases())
def test_agents_may_be_renamed(policy, mixture, schedule):
    draw = np.random.default_rng(5)
    table = draw.normal(size=(POINTS, AGENTS, 1, 3))
    here = draw.random((POINTS, AGENTS)) < 0.8
    order = draw.permutation(AGENTS)
    present = [None, None]
    if schedule == "resident":
        present = [given_participation(here), given_participation(here[:, order])]
    rule = MIXTURES[mixture]
    plain = lived(POLICIES[policy], rule, schedule, given_features(table), participation=present[0])
    renamed = lived(
        POLICIES[policy], rule, schedule, given_features(table[:, order]), participation=present[1]
    )
    for field, values in plain.recorded.items():
        expected = np.asarray(values)[:, order]
        np.testing.assert_allclose(renamed.recorded[field], expected, rtol=1e-9, atol=1e-10)
    costs = np.asarray(plain.agent_costs)
    np.testing.assert_allclose(renamed.agent_costs, costs[order], rtol=1e-9)
    np.testing.assert_allclose(renamed.server, plain.server, rtol=1e-8, atol=1e-9)
    assert order[int(renamed.summary.worst_agent)] == int(plain.summary.worst_agent)
    # not by everybody being alike
    assert np.ptp(costs) > 1e-3 * costs.mean()


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_seed_is_a_world_of_its_own(seed):
    """Nobody in it is anybody in a neighbouring one, and it is the same each time."""
    encoder = random_features(4, noise=0.2)

    def world(number):
        key = jax.random.key(number)
        return lived(POLICIES["feedback"], ridge_mixture(), "resident", encoder, key=key)

    once, again, other = world(seed), world(seed), world(seed ^ 1)
    first = np.asarray(once.recorded["prediction"])
    np.testing.assert_array_equal(first, again.recorded["prediction"])
    second = np.asarray(other.recorded["prediction"])
    for one in range(AGENTS):
        for two in range(AGENTS):
            assert not np.array_equal(first[:, one], second[:, two])


def test_many_seeds_scatter_about_one_mean():
    """Ten seeds and ten others tell of the same population, within what seeds scatter."""
    encoder = random_features(4, noise=0.2)

    def figure(seed):
        key = jax.random.key(seed)
        found = lived(POLICIES["forecast"], ridge_mixture(), "resident", encoder, 400, key=key)
        return float(found.summary.mean_agent_rmse)

    figures = np.array([figure(seed) for seed in range(20)])
    means, spreads = figures.reshape(2, 10).mean(axis=1), figures.reshape(2, 10).std(axis=1, ddof=1)
    assert len(set(figures)) == 20
    assert abs(means[0] - means[1]) < 4 * np.hypot(*spreads) / np.sqrt(10)
    # means over 400 agents: seeds scatter by a twentieth of what agents do, not more
    assert spreads.max() < 0.05 * means.mean()


CONFIG = """
name = "company"
agents = 9
[series]
kind = "logistic"
steps = 30
[encoder]
kind = "echo_state"
features = 3
[run]
uncoupled = false
"""
TABLES = {
    "a": '[[policy]]\nkind = "greedy"\nname = "a"\ncost = { effort = 3.0 }\n',
    "b": '[[policy]]\nkind = "centralized"\nname = "b"\ngame = "forecast"\n',
}
TIMES = ("seconds", "compile_seconds", "agent_steps_per_second", "under_performer_regret")


def of_a_run(folder, names):
    """Return the figures of each policy of a run, without times."""
    config = folder / f"{names}.toml"
    config.write_text(CONFIG + "".join(TABLES[name] for name in names))
    assert main(["run", str(config), "--out", str(folder / names)]) == 0
    summary = json.loads((folder / names / "summary.json").read_text())
    return {
        name: {key: value for key, value in found.items() if key not in TIMES}
        for name, found in summary["policies"].items()
    }


def test_a_policy_does_not_notice_its_company(tmp_path):
    together = of_a_run(tmp_path, "ab")
    assert of_a_run(tmp_path, "ba") == together
    assert of_a_run(tmp_path, "b")["b"] == together["b"]
