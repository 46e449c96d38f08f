"""The greedy policy: each agent fits its own last residuals and looks no further."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from memoa_jax.arguments import whole
from memoa_jax.arithmetic import computed_once
from memoa_jax.game import GameCost
from memoa_jax.groups import by_agent, check_costs, costs_by_agent
from memoa_jax.linalg import applied
from memoa_jax.memory import Window
from memoa_jax.regression import NormalEquations
from memoa_jax.types import (
    Action,
    Array,
    Dimensions,
    Observation,
    Population,
    Status,
    record,
    static,
)

ENTERED_ANEW = 3
"""Up to this window its steps are entered anew each time; a longer one slides."""


@record
class GreedyState:
    """The window, and its normal equations where they slide (None: too short to be worth it)."""

    window: Window
    equations: NormalEquations | None


@record
class Greedy:
    """See `memoa_jax.policies.greedy`.

    Of `groups` that differ, `windows` are the windows where those differ, and `window` is the
    longest; `reach` [N] is every agent's own, once they are known (`of_agents`).
    """

    cost: GameCost
    window: int = static()
    windows: tuple[int, ...] | None = static(default=None)
    groups: int | None = static(default=None)
    reach: Array | None = None

    def of_agents(self, population: Population, dtype: Any) -> Greedy:
        """Return the policy of a block's agents: of every one its own numbers."""
        if self.groups is None:
            return self
        cost = costs_by_agent(self.cost, population, dtype)
        reach = None
        if self.windows is not None:
            reach = by_agent(jnp.asarray(self.windows), population, jnp.int32)
        return dataclasses.replace(self, cost=cost, reach=reach)

    @property
    def surveys(self) -> tuple[()]:
        """Nothing: these agents ask nothing of the others."""
        return ()

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> GreedyState:
        """Return an empty window."""
        # The steps that leave windows of several lengths stand in several slots: entered anew.
        slides = self.window > ENTERED_ANEW and self.windows is None
        # The step that leaves is read after the new one is written.
        steps = self.window + 1 if slides else self.window
        return GreedyState(
            window=Window.empty(steps, dimensions, num_agents, dtype),
            equations=NormalEquations.empty(dimensions.features, num_agents, dtype)
            if slides
            else None,
        )

    def act(self, state: GreedyState, observation: Observation) -> tuple[GreedyState, Action]:
        """Fit the recent residuals, each agent its own, and apply the fit once more."""
        window, step = state.window.advance(observation), observation.step
        policy = self.of_agents(observation.population, observation.features.dtype)
        equations = state.equations
        if equations is None:
            fitted = window_equations(policy, window, step)
        else:
            slid = equations
            # What an outlier's rounding error leaves behind lives one window at most.
            fitted = equations = lax.cond(
                step % self.window == 0,
                lambda: window_equations(policy, window, step),
                lambda: slide(policy, slid, window, step),
            )
        action = _act_on(fitted, policy, observation)
        return GreedyState(window.onto(action.base), equations), action


def make_greedy(
    owner: str, cost: GameCost, window: int | tuple[int, ...], groups: int | None
) -> Greedy:
    """Make the policy; see `memoa_jax.policies.greedy`, whose arguments these are.

    Raises:
      ValueError: if an argument is outside what is allowed.
    """
    windows = window if isinstance(window, tuple) else (window,) * (groups or 1)
    for one in windows:
        whole(owner, "window", one)
    if len(windows) != (groups or 1):
        raise ValueError(
            f"{owner}: window = {window} with groups = {groups}: allowed is one number, or as many "
            "as there are groups"
        )
    cost, groups = check_costs(owner, cost, groups)
    return Greedy(
        cost=cost,
        window=max(windows),
        windows=windows if len(set(windows)) > 1 else None,
        groups=groups,
    )


def greedy_action(policy: Greedy, window: Window, observation: Observation) -> Action:
    """Return what each agent does by a ridge read-out of its own last residuals.

    beta = argmin_b sum_{s=max(t-W,0)}^{t-1} e^{-forgetting (t-1-s)} |y_{s+1}-Y_s-Z_s b|^2
                    + effort |b|^2
    """
    return _act_on(window_equations(policy, window, observation.step), policy, observation)


def _act_on(equations: NormalEquations, policy: Greedy, observation: Observation) -> Action:
    ridge, okay = policy.cost.effort, jnp.int32(Status.OK)
    move, effort = equations.fit(ridge, observation.features)
    return Action(observation.prediction, equations.solve(ridge), okay, move, effort)


def moving(action: Action, features: Array) -> Action:
    """Return an action that says its move and effort, as greedy ones do."""
    control = action.control
    effort = jnp.sum(control**2, axis=0)
    return dataclasses.replace(action, move=applied(features, control), effort=effort)


def window_equations(policy: Greedy, window: Window, step: Array) -> NormalEquations:
    """Enter the window's steps one by one; exact, O(W d p^2) per agent."""
    dtype = window.features.dtype

    def enter(equations: NormalEquations, age: Array | int) -> NormalEquations:
        slot = (step - 1 - age) % window.slots
        counted = window.known[slot] & (age < step)
        counted = counted if policy.reach is None else counted & (age < policy.reach)
        weight = jnp.where(counted, _faded(policy, age, dtype), 0.0)
        return equations.add(computed_once(window.features[slot]), window.residuals[slot], weight)

    _, _, features, count = window.features.shape
    equations = NormalEquations.empty(features, count, dtype)
    ages = jnp.arange(policy.window)
    return lax.scan(lambda carry, age: (enter(carry, age), None), equations, ages)[0]


def slide(
    policy: Greedy, equations: NormalEquations, window: Window, step: Array
) -> NormalEquations:
    """Enter the newest step and take out the one that leaves; O(d p^2) per agent."""
    dtype = window.features.dtype
    entered, leaving = (step - 1) % window.slots, (step - 1 - policy.window) % window.slots
    gone = jnp.where(window.known[leaving], -_faded(policy, policy.window, dtype), 0.0)
    return equations.add(
        computed_once(window.features[entered]),
        window.residuals[entered],
        window.known[entered].astype(dtype),
        _faded(policy, 1, dtype),
    ).add(computed_once(window.features[leaving]), window.residuals[leaving], gone)


def _faded(policy: Greedy, age: Array | int, dtype: Any) -> Array:
    """Return what a step of this age counts, e^{-forgetting age}."""
    return jnp.exp(-jnp.asarray(policy.cost.forgetting, dtype) * jnp.asarray(age, dtype))
