"""Direct policy tuning against the closed form: it comes near, and not below."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import FeatureMoments, GameCost, expected_costs, sample_game, solve_nash, solve_team
from memoa_jax.analysis import best_response_costs
from memoa_jax.tuning_gains import tune_gains

AGENTS = 40


def game(outputs=1, ensemble=0.3):
    draw = np.random.default_rng(1)
    samples = draw.normal(size=(3, 400, outputs, 2)) + 0.6
    moments = FeatureMoments.from_samples(jnp.asarray(samples))
    targets = jnp.asarray(draw.normal(size=(3, outputs)))
    states = jnp.asarray(draw.normal(size=(AGENTS, outputs)))
    cost = GameCost(consensus=1.5, ensemble=ensemble, effort=0.4, forgetting=0.1)
    return (cost, moments, targets, AGENTS), states


@pytest.mark.parametrize("outputs", [1, 2])
def test_descent_on_the_exact_cost_finds_the_team_optimum_and_nothing_below(outputs):
    (cost, moments, targets, agents), states = game(outputs)
    found = tune_gains(cost, moments, targets, agents, states, steps=300)
    best = solve_team(cost, moments, targets, agents).gains
    least = expected_costs(cost, moments, targets, agents, best, states).mean()
    reached = expected_costs(cost, moments, targets, agents, found.gains, states).mean()
    assert least - 1e-12 <= reached <= least * (1 + 1e-6)
    assert found.history[0] > 1.2 * least  # it came from far
    assert jnp.all(found.history >= least - 1e-12)
    # Only where states lie is the policy decided: what it does there is the same.
    average = states.mean(axis=0)
    control = lambda gains, y: gains.own[0] @ y + gains.mean[0] @ average + gains.offset[0]  # noqa: E731
    for y in states[:5]:
        np.testing.assert_allclose(control(found.gains, y), control(best, y), atol=2e-3)


def test_descent_on_samples_comes_near_and_not_below_by_more_than_their_error():
    (cost, moments, targets, agents), states = game()
    options = {"source": "sampled", "key": jax.random.key(3), "steps": 1500, "learning_rate": 0.01}
    found = tune_gains(cost, moments, targets, agents, states, **options)
    best = solve_team(cost, moments, targets, agents).gains
    fresh = jax.random.split(jax.random.key(4), 400)

    def played(gains):
        play = lambda key: sample_game(cost, moments, targets, agents, gains, states, key=key)  # noqa: E731
        return jax.vmap(lambda key: play(key).mean_cost)(fresh)

    surplus = played(found.gains) - played(best)  # on the same draws
    error = surplus.std() / np.sqrt(len(fresh))
    assert -3 * error <= surplus.mean() <= 0.05 * played(best).mean()


def test_one_agent_gains_nothing_against_the_equilibrium_by_descent():
    (cost, moments, targets, agents), states = game()
    nash = solve_nash(cost, moments, targets, agents).gains
    paid = expected_costs(cost, moments, targets, agents, nash, states)
    least = best_response_costs(cost, moments, targets, agents, nash, states)
    np.testing.assert_allclose(paid, least, rtol=1e-10)


def test_descent_may_start_at_the_closed_form_and_stays_there():
    (cost, moments, targets, agents), states = game()
    best = solve_team(cost, moments, targets, agents).gains
    found = tune_gains(cost, moments, targets, agents, states, start=best, steps=5)
    np.testing.assert_allclose(found.history, found.history[0], rtol=1e-12)


def test_samples_need_a_key():
    (cost, moments, targets, agents), states = game()
    with pytest.raises(ValueError, match="key = None: allowed is a JAX key"):
        tune_gains(cost, moments, targets, agents, states, source="sampled")
    with pytest.raises(ValueError, match="source = 'guessed': allowed is one of"):
        tune_gains(cost, moments, targets, agents, states, source="guessed")
