"""The study of agents that differ: its populations, its exact games, its runs, its tables."""

import copy
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import policies, robustness, robustness_games, robustness_runs, robustness_table
from memoa_jax.analysis_types import best_response_costs_types, expected_costs_types
from memoa_jax.choices import DIFFERENCES
from memoa_jax.cli import main
from memoa_jax.encoders import given_features
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.nash_types import solve_nash_types
from memoa_jax.scaling import standardise
from memoa_jax.series import logistic
from memoa_jax.simulate import simulate
from memoa_jax.unlike import DELAY_PER_LEVEL, LEVELS, NOISE, unlike

COST = GameCost(tracking=1.0, consensus=0.8, ensemble=0.6, effort=0.5, forgetting=0.1)
SERIES = standardise(logistic(30))
INPUTS = np.asarray(SERIES.inputs, np.float64)
AGENTS, BEGIN = 3, 12


def population(kind="everything", level=0.6, agents=AGENTS, seed=3):
    return unlike(kind, level, agents=agents, inputs=1, seed=seed)


def game(kind="everything", level=0.6, seed=3):
    """A game over one window: costs, moments, targets, start."""
    own = population(kind, level, seed=seed)
    law = own.moments(INPUTS)
    moments = jax.tree.map(lambda leaf: leaf[:, BEGIN : BEGIN + 3], law)
    targets = jnp.asarray(SERIES.targets[BEGIN + 1 : BEGIN + 4], float)
    return own.costs(COST), moments, targets, jnp.asarray(SERIES.targets[BEGIN], float)


@pytest.fixture(scope="module")
def played():
    """Gains of every policy in `game()`, and what each agent pays under them."""
    costs, moments, targets, start = game()
    gains = robustness_games.policy_gains(costs, moments, targets, start)
    states = jnp.broadcast_to(start, (AGENTS, 1, 1))
    one_each = (costs, moments, targets, [1] * AGENTS)
    judge = jax.jit(lambda each: expected_costs_types(*one_each, each, states)[:, 0])
    return gains, {name: np.asarray(judge(each)) for name, each in gains.items()}


def test_the_command_line_names_the_kinds():
    assert tuple(LEVELS) == DIFFERENCES == tuple(robustness_table.MEANINGS)
    assert all(levels[0] == 0 and len(levels) == 5 for levels in LEVELS.values())


@pytest.mark.parametrize("kind", LEVELS)
def test_agents_are_alike_at_level_zero_and_differ_in_one_respect_beyond(kind):
    alike, apart = population(kind, 0.0), population(kind, LEVELS[kind][-1])
    factors = ("scale", "noise", "tracking", "consensus", "effort", "delay")
    for name in (*factors, "weights", "biases"):
        assert np.ptp(getattr(alike, name), axis=0).max() == 0, name
    of_kind = {
        "moments": {"scale"},
        "noise": {"noise"},
        "encoders": {"weights", "biases"},
        "delays": {"delay"},
        "costs": {"tracking", "consensus", "effort"},
    }
    differ = {n for n in (*factors, "weights", "biases") if np.ptp(getattr(apart, n), axis=0).max()}
    assert differ == of_kind.get(kind, set().union(*of_kind.values()))


def test_levels_are_what_they_say():
    half, whole = population("noise", 0.5, 2000), population("noise", 1.0, 2000)
    np.testing.assert_allclose(2 * np.log(half.noise / NOISE), np.log(whole.noise / NOISE))
    assert np.std(np.log(whole.noise)) == pytest.approx(1, abs=0.05)
    late = population("delays", 2.0, 3000).delay
    np.testing.assert_allclose(np.bincount(late) / 3000, 1 / 3, atol=0.03)
    assert population("everything", 1.5, 2000).delay.max() == round(1.5 * DELAY_PER_LEVEL)
    # Weights keep their size, whatever their own part of it is.
    assert np.std(population("encoders", 2.0, 4000).weights) < 1.2
    own = population("encoders", 1e6, 4000).weights
    assert np.std(own) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize(("kind", "level"), [("noises", 1.0), ("noise", -0.1), ("noise", np.nan)])
def test_what_is_no_kind_or_level_is_refused(kind, level):
    with pytest.raises(ValueError, match=r"^unlike: (kind|level) = .*: allowed is"):
        unlike(kind, level, agents=2, inputs=1, seed=0)


def test_moments_are_those_of_the_features_drawn():
    own, draws = population(), 20_000
    rows = np.repeat(INPUTS[7:8], draws, axis=0)  # one row over and over: delays play no part
    found = own.features(rows, np.random.default_rng(1))  # [draws, N, d, p]
    law = own.moments(rows[:1])
    mean, second = np.asarray(law.mean)[:, 0], np.asarray(law.second)[:, 0]
    error = found.std(axis=0) / np.sqrt(draws)
    assert np.all(np.abs(found.mean(axis=0) - mean) <= 4.5 * error + 1e-5)
    products = np.einsum("sik,sil->sikl", found[:, :, 0], found[:, :, 0])
    error = products.std(axis=0) / np.sqrt(draws)
    assert np.all(np.abs(products.mean(axis=0) - second[:, 0, 0]) <= 4.5 * error + 1e-5)


def test_delayed_agents_see_the_past():
    own = population("delays", 4.0, 6)
    u = own.preactivations(INPUTS)
    for i, delay in enumerate(own.delay):
        for t in (0, 2, 20):
            seen = INPUTS[max(t - delay, 0)]
            expected = own.weights[i] @ seen + own.biases[i, 0]
            np.testing.assert_allclose(u[t, i, 0], expected, rtol=1e-12)


def test_expected_costs_are_the_means_of_games_played_out(played):
    """In NumPy, with features drawn from the population's own law: nothing is shared."""
    gains, paid = played
    own, games = population(), 60_000
    costs, targets = own.costs(COST), np.asarray(SERIES.targets, float)
    rng = np.random.default_rng(5)
    u = own.preactivations(INPUTS)[BEGIN : BEGIN + 3, None]
    fresh = rng.normal(size=(3, games, AGENTS, 1, 4))
    features = own.scale[:, None, None] * np.maximum(u + own.noise[:, None, None] * fresh, 0)
    for name, play in gains.items():
        state = np.full((games, AGENTS), targets[BEGIN, 0])
        total = np.zeros((games, AGENTS))
        for t in range(3):
            controls = -(
                np.asarray(play.own)[:, t, :, 0] * state[..., None]
                + np.einsum("ipj,gj->gip", np.asarray(play.mean)[:, t], state)
                + np.asarray(play.offset)[:, t]
            )
            state = state + np.einsum("gip,gip->gi", features[t][:, :, 0], controls)
            crowd, y = state.mean(axis=1, keepdims=True), targets[BEGIN + t + 1, 0]
            running = (
                np.asarray(costs.tracking) * (state - y) ** 2
                + np.asarray(costs.consensus) * (state - crowd) ** 2
                + COST.ensemble * (crowd - y) ** 2
                + np.asarray(costs.effort) * (controls**2).sum(axis=2)
            )
            total += np.exp(-COST.forgetting * (2 - t)) * running
        error = total.std(axis=0) / np.sqrt(games)
        assert np.all(np.abs(total.mean(axis=0) - paid[name]) <= 4.5 * error), name
        assert np.all(error < 0.02 * paid[name])


def test_the_joint_equilibrium_is_one_and_the_team_is_the_best(played):
    gains, paid = played
    costs, moments, targets, start = game()
    one_each, states = (costs, moments, targets, [1] * AGENTS), jnp.broadcast_to(start, (3, 1, 1))
    best = best_response_costs_types(*one_each, gains["nash"], states)[:, 0]
    np.testing.assert_allclose(best, paid["nash"], rtol=1e-10)
    by_types = expected_costs_types(*one_each, solve_nash_types(*one_each).gains, states)[:, 0]
    np.testing.assert_allclose(by_types, paid["nash"], rtol=1e-10)
    others = [each.mean() for name, each in paid.items() if name != "team"]
    assert paid["team"].mean() <= min(others) * (1 + 1e-12)
    # Leaving what all others play must be worth something where it is no equilibrium.
    tempted = best_response_costs_types(*one_each, gains["homogeneous"], states)[:, 0]
    assert np.max(paid["homogeneous"] / np.asarray(tempted)) > 1.01


def test_agents_alike_gain_nothing_by_being_told_apart():
    costs, moments, targets, start = game("costs", 0.0)
    gains = robustness_games.policy_gains(costs, moments, targets, start)
    blind, own = gains["homogeneous, offline"], gains["heterogeneous"]
    # The homogeneous policy counts the ensemble's error, which no agent moves in the limit.
    alike = robustness_games.policy_gains(
        population("costs", 0.0).costs(GameCost(1.0, 0.8, 0.0, 0.5, 0.1)), moments, targets, start
    )
    for gains_of in (blind, alike["homogeneous, offline"]):
        np.testing.assert_allclose(gains_of.own, own.own, rtol=1e-11)
        np.testing.assert_allclose(gains_of.offset, own.offset, rtol=1e-10)


def test_games_are_averaged_over_windows():
    begins = robustness_games.windows_of(SERIES, 0)
    assert len(set(begins.tolist())) == robustness_games.WINDOWS
    assert begins.max() + robustness_games.HORIZON < SERIES.num_points
    both = robustness_games.play(population(), SERIES, COST, [BEGIN, 20])
    apart = [robustness_games.play(population(), SERIES, COST, [b, b]) for b in (BEGIN, 20)]
    for name in robustness_games.POLICIES:
        mean = (apart[0][name] + apart[1][name]) / 2
        np.testing.assert_allclose(both[name], mean, rtol=1e-12)


def test_runs_are_those_of_simulate(monkeypatch):
    monkeypatch.setattr(
        robustness_runs,
        "POLICIES",
        {"heterogeneous": robustness_runs.POLICIES["heterogeneous"]},
    )
    runs, own = robustness_runs.Runs(SERIES, COST, 2), population(agents=5)
    found = runs.play(own, 7)["heterogeneous"]
    features = own.features(INPUTS, np.random.default_rng([7, 41]))
    costs = own.costs(COST)
    cost = GameCost(costs.tracking, costs.consensus, 0.6, costs.effort, 0.1)
    expected = simulate(
        SERIES,
        given_features(features),
        policies.heterogeneous(cost, horizon=2, greedy_effort=COST.effort),
        ridge_mixture(),
        num_agents=5,
        key=jax.random.key(7),
        dtype="float64",
    ).summary
    for key in robustness_runs.MEASURED:
        assert found[key] == pytest.approx(float(getattr(expected, key)), rel=1e-9)
    assert runs.persistence() == pytest.approx(float(expected.persistence_rmse), rel=1e-12)


# What is shown.

CELL = {
    "kind": "noise",
    "level": 0.5,
    "games": {
        "homogeneous": {"mean": [3.0, 5.0], "worst": [8.0, 6.0]},
        "homogeneous, offline": {"mean": [3.0, 5.0], "worst": [8.0, 6.0]},
        "heterogeneous": {"mean": [2.0, 4.5], "worst": [4.0, 7.0]},
        "nash": {"mean": [2.0, 4.0], "worst": [4.0, 6.0]},
        "team": {"mean": [1.0, 4.0], "worst": [5.0, 6.0]},
    },
    "runs": {
        name: {"mean_agent_rmse": [0.1, 0.3], "worst_agent_rmse": [0.5, 0.7], "server_rmse": [1, 1]}
        for name in robustness_table.RUNS
    },
}
REPORT = {
    "cells": [CELL],
    "interrupted": False,
    "not_run": [],
    "seeds": [0, 1],
    "agents": 12,
    "crowd": 100,
    "series": "logistic",
    "steps": 200,
    "horizon": 3,
    "windows": 10,
    "persistence": 0.43,
}


def test_tables_hold_ratios_and_who_wins():
    assert robustness_table.ratios(CELL, "homogeneous", "mean") == [1.5, 1.25]
    assert robustness_table.wins(CELL, "games", "mean") == "2/2"
    assert robustness_table.wins(CELL, "games", "worst") == "1/2"
    text = robustness_table.table(REPORT)
    row = next(line for line in text.splitlines() if line.startswith("noise"))
    assert row.split()[:8] == ["noise", "0.5", "1.375", "/", "1.500", "1.062", "/", "1.083"]
    # Prices: (3 + 5/4)/2, (2 + 4.5/4)/2, (2 + 1)/2.
    assert "2.125" in row
    assert "1.562" in row
    assert "1.500" in row
    assert "2/2 / 1/2" in row
    online = [line for line in text.splitlines() if line.startswith("noise")][1]
    assert online.count("0.200 / 0.600") == 4
    assert online.endswith("0/2 / 0/2")
    assert "persistence 0.43" in text
    assert "by (noise)" in text
    assert "by (costs)" not in text
    marked = robustness_table.markdown(REPORT)
    assert "1.375 ± 0.18 / 1.500 ± 0.71" in marked
    widths = {line.count("|") for line in marked.splitlines() if line.startswith("| ")}
    assert widths == {9, 8}


def test_what_diverged_or_was_cut_off_is_told():
    broken = copy.deepcopy(REPORT)
    broken["cells"][0]["runs"]["uncoupled"]["mean_agent_rmse"] = [None, 0.1]
    broken.update(interrupted=True, not_run=["costs"])
    text = robustness_table.table(broken)
    assert "nan / 0.600" in text
    assert "INTERRUPTED: not run: costs." in text


def test_a_folder_of_the_study_has_a_report(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "robustness.json").write_text(json.dumps(REPORT))
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "1.375 / 1.500" in page
    assert "report-robustness.png" in page
    assert (tmp_path / "report-robustness.png").stat().st_size > 10_000
    (tmp_path / "robustness.json").write_text(json.dumps({**REPORT, "cells": [{}]}))
    assert main(["report", str(tmp_path)]) == 2
    assert "robustness.json" in capsys.readouterr().err


@pytest.fixture
def stand_in(monkeypatch):
    """Replace what is computed by the cell above, and record for which sizes."""
    asked = []

    class Compared:
        def __init__(self, cost, seeds, agents, crowd):
            asked.append((seeds, agents, crowd))
            self.runs = self

        def at(self, kind, level):
            if kind == "costs":
                raise KeyboardInterrupt
            return {**CELL, "kind": kind, "level": level}

        def persistence(self):
            return 0.5

    monkeypatch.setattr(robustness, "_Compared", Compared)
    return asked


def test_the_command_writes_what_it_prints(stand_in, tmp_path, capsys):
    words = ["--only", "noise", "--only", "moments", "--seeds", "2", "--agents", "3"]
    assert main(["robustness", *words, "--out", str(tmp_path), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert stand_in == [(2, 3, 100)]
    written = json.loads((tmp_path / "robustness.json").read_text())
    assert printed == written
    # In the order of the tables, whatever that of the command line is.
    assert [cell["kind"] for cell in written["cells"]] == ["moments"] * 5 + ["noise"] * 5
    assert robustness_table.markdown(written) == (tmp_path / "robustness.md").read_text()
    assert written["cost"]["ensemble"] == 1.0
    assert not written["interrupted"]


def test_an_interruption_keeps_the_kinds_that_are_whole(stand_in, tmp_path, capsys):
    words = ["--only", "noise", "--only", "costs", "--out", str(tmp_path)]
    assert main(["robustness", *words]) == 130
    captured = capsys.readouterr()
    assert "INTERRUPTED: not run: costs." in captured.out
    assert captured.err.strip().splitlines()[-1].endswith("not run: costs")
    assert json.loads((tmp_path / "robustness.json").read_text())["not_run"] == ["costs"]
    assert main(["robustness", "--only", "costs", "--out", str(tmp_path / "none")]) == 130
    assert not (tmp_path / "none" / "robustness.json").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seeds", "0"], "'0': allowed is a whole number 1..1000"),
        (["--agents", "49"], "'49': allowed is a whole number 2..48"),
        (["--crowd", "many"], "'many': allowed is a whole number 2..100000"),
        (["--only", "noises"], "invalid choice: 'noises'"),
    ],
)
def test_wrong_words_are_one_line(words, told, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["robustness", *words])
    assert caught.value.code == 2
    assert re.search(re.escape(told), capsys.readouterr().err)


@pytest.mark.slow
def test_the_whole_study_finds_what_the_readme_says(tmp_path):
    report = robustness.study(["moments", "costs"], tmp_path, lambda _: None, seeds=2)
    cells = {(cell["kind"], cell["level"]): cell for cell in report["cells"]}
    assert len(cells) == 10
    for (kind, level), cell in cells.items():
        own = robustness_table.ratios(cell, "heterogeneous", "mean")
        alike = robustness_table.ratios(cell, "homogeneous", "mean")
        assert max(own) < 1.1  # of the Nash equilibrium of twelve
        if kind == "moments" and level >= 0.5:
            assert max(alike) > 1.2
        team = robustness_table.ratios(cell, "team", "mean")
        assert max(team) <= 1 + 1e-12
    assert cells["moments", 0.0]["games"] == cells["costs", 0.0]["games"]
    assert (tmp_path / "robustness.png").stat().st_size > 20_000
