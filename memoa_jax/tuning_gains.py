"""Direct policy tuning: the gains of an affine policy as parameters, by descent.

The closed form needs none of this. It is here to be compared with: descent on the game's own cost
must come as near to the closed form's as it likes, and must not come below.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from memoa_jax.analysis import expected_costs
from memoa_jax.arguments import one_of, whole
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.monte_carlo import sample_game
from memoa_jax.nash_step import FeedbackGains, standard_gains
from memoa_jax.types import Array, record

Source = Literal["expected", "sampled"]


@record
class TunedGains:
    """What descent found: `gains`, and the cost [steps] that it saw before every step."""

    gains: FeedbackGains
    history: Array


def tune_gains(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int,
    states: Array,
    *,
    start: FeedbackGains | None = None,
    source: Source = "expected",
    key: Array | None = None,
    learning_rate: float = 0.02,
    steps: int = 300,
) -> TunedGains:
    """Minimise the population's average cost over the gains that everybody plays.

        minimise  mean_i J^i(gains),    beta^i_t = -(own_t Y^i_t + mean_t Ybar_t + offset_t)

    With "expected" the exact cost, by L-BFGS: it converges to `solve_team`'s optimum, which is
    also the minimax, and in the limit of many agents, with ``ensemble = 0``, the decentralized
    policy. With "sampled" the cost of a game drawn anew at every step, by Adam: what an agent
    could do that knows no moments. One compiled loop; O(steps) evaluations.

    Axes: N agents, n given states, T horizon, d outputs, p features.

    Args:
      cost: what an agent pays.
      moments: mean [T, d, p] and second [T, d, d, p, p] of the features.
      targets: [T, d]; row t is y_{t+1}.
      population: number N of agents, static.
      states: [n, d], predictions at t = 0; n divides N.
      start: gains to begin with; None: zero.
      source: "expected" or "sampled".
      key: of the draws; with "sampled" only.
      learning_rate: of Adam; L-BFGS searches along its lines instead.
      steps: of the descent.

    Raises:
      ValueError: if a shape does not fit, or "sampled" is asked for without a key.

    Source: own derivation, tested in tests/test_tuning_gains.py against `solve_team`.

    Example:
      >>> moments = FeatureMoments.from_samples(jnp.ones((2, 10, 1, 1)))
      >>> game = (GameCost(), moments, jnp.ones((2, 1)), 10, jnp.zeros((10, 1)))
      >>> found = tune_gains(*game, steps=20)
      >>> bool(found.history[-1] < found.history[0])
      True
    """
    one_of("tune_gains", "source", source, get_args(Source))
    whole("tune_gains", "steps", steps)
    if source == "sampled" and key is None:
        raise ValueError("tune_gains: key = None: allowed is a JAX key with source = 'sampled'")
    moments = jax.tree.map(jnp.asarray, moments)
    gains = _no_gains(moments) if start is None else standard_gains(start, moments)
    dtype = moments.mean.dtype
    game = (cost, moments, jnp.asarray(targets, dtype), jnp.asarray(states, dtype))
    key = jax.random.key(0) if key is None else key
    return _descend(game, gains, key, learning_rate, population, source, steps)


def _no_gains(moments: FeatureMoments) -> FeedbackGains:
    """Return gains of zero."""
    horizon, d, p = moments.mean.shape
    zero = functools.partial(jnp.zeros, dtype=moments.mean.dtype)
    return FeedbackGains(zero((horizon, p, d)), zero((horizon, p, d)), zero((horizon, p)))


@functools.partial(jax.jit, static_argnames=("population", "source", "steps"))
def _descend(
    game: tuple[GameCost, FeatureMoments, Array, Array],
    gains: FeedbackGains,
    key: Array,
    learning_rate: Array,
    population: int,
    source: Source,
    steps: int,
) -> TunedGains:
    cost, moments, targets, states = game

    def average(gains: FeedbackGains, key: Array) -> Array:
        playing = (cost, moments, targets, population, gains, states)
        if source == "expected":
            return jnp.mean(expected_costs(*playing))
        return sample_game(*playing, key=key).mean_cost

    exact = source == "expected"
    rule: Any = optax.lbfgs() if exact else optax.adam(learning_rate)

    def step(carry: tuple[FeedbackGains, Any], number: Array) -> tuple[Any, Array]:
        gains, state = carry
        here = functools.partial(average, key=jax.random.fold_in(key, number))
        value, slope = jax.value_and_grad(here)(gains)
        if exact:
            updates, state = rule.update(
                slope, state, gains, value=value, grad=slope, value_fn=here
            )
        else:
            updates, state = rule.update(slope, state, gains)
        return (optax.apply_updates(gains, updates), state), value

    (gains, _), history = lax.scan(step, (gains, rule.init(gains)), jnp.arange(steps))
    return TunedGains(gains, history)
