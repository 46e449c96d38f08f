"""The work in JAX as a user first writes it: one agent's step, lifted by vmap, scanned over time.

Agents are first, the random numbers and the small solves are the library's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve
from work import EFFORT, ETA, FEATURES, KAPPA, NOISE, WINDOW, Floats, Outcome, targets_of


class Agent(NamedTuple):
    """What one agent carries: its window as a ring, its last step, its totals."""

    rows: Array
    rights: Array
    gram: Array
    moment: Array
    features: Array
    base: Array
    prediction: Array
    cost: Array
    effort: Array
    pending: Array


def newborn(first: Array) -> Agent:
    """Return an agent before row 0, which predicts that row's target."""
    square, line, zero = jnp.zeros((FEATURES, FEATURES)), jnp.zeros(FEATURES), jnp.zeros(())
    rows, rights = jnp.zeros((WINDOW, FEATURES)), jnp.zeros(WINDOW)
    return Agent(rows, rights, square, line, line, first, first, zero, zero, zero)


def anew(agent: Agent, rows: Array, rights: Array, slot: Array) -> tuple[Array, Array]:
    """Return Gram matrix and moment made from the whole window."""
    return rows.T @ rows, rows.T @ rights


def running(agent: Agent, rows: Array, rights: Array, slot: Array) -> tuple[Array, Array]:
    """Add the new step and take the old one away; once per window make both anew."""

    def update() -> tuple[Array, Array]:
        old, new = agent.rows[slot], rows[slot]
        gram = agent.gram + jnp.outer(new, new) - jnp.outer(old, old)
        return gram, agent.moment + new * rights[slot] - old * agent.rights[slot]

    # The slot is the same for all agents, so under vmap this stays a branch.
    rebuilt = slot == WINDOW - 1
    return jax.lax.cond(rebuilt, lambda: anew(agent, rows, rights, slot), update)


def step(
    agent: Agent,
    weight: Array,
    bias: Array,
    noise: Array,
    target: Array,
    t: Array,
    equations: Callable[..., tuple[Array, Array]],
) -> tuple[Agent, tuple[Array, Array]]:
    """Take one agent through one step; also return its error and what it predicts, less y_t."""
    error = agent.prediction - target
    slot = (t - 1) % WINDOW
    # Before the first step there is nothing to complete: the features are zero.
    rows = agent.rows.at[slot].set(agent.features)
    rights = agent.rights.at[slot].set(target - agent.base)
    gram, moment = equations(agent, rows, rights, slot)
    features = jax.nn.relu(weight * target + bias + NOISE * noise)
    control = cho_solve(cho_factor(gram + EFFORT * jnp.eye(FEATURES)), moment)
    prediction = agent.prediction + features @ control
    now = Agent(
        rows=rows,
        rights=rights,
        gram=gram,
        moment=moment,
        features=features,
        base=agent.prediction,
        prediction=prediction,
        cost=agent.cost + error**2,
        effort=agent.effort + agent.pending,
        pending=control @ control,
    )
    return now, (error, prediction - target)


def live(
    weights: Array, biases: Array, draws: Any, targets: Array, form: Form, *, given: bool
) -> tuple[Array, Array, Array, Array]:
    """Take all agents through the series; `draws` is a key or the given noise [n, N, p]."""
    agents = weights.shape[0]

    def body(population: Agent, row: Any) -> tuple[Agent, tuple[Array, Array]]:
        t, target, noise = row
        if not given:
            noise = jax.random.normal(jax.random.fold_in(draws, t), (agents, FEATURES))
        population, (error, ahead) = jax.vmap(
            lambda agent, weight, bias, noise: step(
                agent, weight, bias, noise, target, t, form.equations
            )
        )(population, weights, biases, noise)
        mean_error = error.mean()
        deviation = error - mean_error
        tilt = (target - ETA * (target + mean_error)) / (deviation @ deviation + KAPPA)
        mean_field = target + ahead.mean()
        return population, (ETA * mean_field + tilt * (deviation @ ahead), mean_field)

    born = jax.vmap(lambda _: newborn(targets[0]))(weights)
    rows = (jnp.arange(len(targets)), targets, draws if given else None)
    population, paths = jax.lax.scan(body, born, rows)
    return population.cost, population.effort, *paths


class Form:
    """One way to make the equations of a window."""

    def __init__(self, equations: Callable[..., tuple[Array, Array]]) -> None:
        self.equations = equations
        self.drawn = jax.jit(self._drawn, static_argnames="agents")
        self.given = jax.jit(lambda *arrays: live(*arrays, self, given=True))

    def _drawn(self, key: Array, targets: Array, *, agents: int) -> tuple[Array, ...]:
        own, shift, fresh = jax.random.split(key, 3)
        weights = jax.random.normal(own, (agents,))
        biases = jax.random.normal(shift, (agents, FEATURES))
        return live(weights, biases, fresh, targets, self, given=False)

    def run(self, agents: int, steps: int, seed: int) -> Outcome:
        """Draw a population and let it live."""
        targets = jnp.asarray(targets_of(steps))
        found = self.drawn(jax.random.key(seed), targets, agents=agents)
        return Outcome(*map(np.asarray, found))

    def run_given(self, A: Floats, b: Floats, noise: Floats, series: Floats) -> Outcome:
        """Let a population live whose draws are given: A [m, 1], b [m, p], noise [n, m, p]."""
        return Outcome(*map(np.asarray, self.given(A[:, 0], b, noise, jnp.asarray(series))))


FORMS = {"direct": Form(anew), "incremental": Form(running)}
