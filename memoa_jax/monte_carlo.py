"""Play the game out: realised costs of N agents whose features are drawn, step by step.

`memoa_jax.analysis` gives expected costs; this gives one realisation of them, agent by agent,
and with it what no expectation tells: the worst of N agents, and how far a population falls
from its mean. An agent's draws are functions of (key, step, agent) alone, so features are
drawn where they are used, a block of agents at a time, and are stored nowhere.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.arguments import one_of, whole
from memoa_jax.draws import Stream, normals, seed_words, uniforms
from memoa_jax.game import (
    FeatureMoments,
    GameCost,
    InitialLaw,
    discounts,
    initial_mean,
    standard_game,
    standard_states,
)
from memoa_jax.information import Information, check_information, offline_gains
from memoa_jax.linalg import einsum, matmul, symmetrise
from memoa_jax.nash_step import FeedbackGains, standard_gains
from memoa_jax.types import Agents, Array, record, static

Law = Literal["gaussian", "bounded"]
"""The law of what is drawn: normal, or a linear image of independent uniforms."""


@record
class GameSample:
    """One realisation of the game: what every agent paid, and the path of the mean field.

    Axes: ``costs [N]``, discounted, effort included; ``mean_field [T+1, d]``, row t is Ybar_t;
    ``states [N, d]``, the predictions Y_T at the end.
    """

    costs: Array
    mean_field: Array
    states: Array

    @property
    def worst_agent(self) -> Array:
        """Index of the agent that paid most (the first NaN, where there is one)."""
        return jnp.argmax(self.costs, axis=-1)

    @property
    def worst_cost(self) -> Array:
        """What that agent paid."""
        return jnp.max(self.costs, axis=-1)

    @property
    def mean_cost(self) -> Array:
        """What agents paid on average."""
        return jnp.mean(self.costs, axis=-1)


def sample_game(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int,
    gains: FeedbackGains,
    states: Array | InitialLaw,
    *,
    key: Array,
    information: Information = "feedback",
    features: Law = "gaussian",
    block: int = 16384,
) -> GameSample:
    """Draw every agent's features and return what the game came to cost each of them.

    A sample: its expectation is `expected_costs`, for both laws. O(N T d^2 p^2) arithmetic,
    O(N d) memory; features and draws of `block` agents exist at a time. An agent's draws are
    the same whatever the population and the blocks. Maps over (`jax.vmap`) and differentiates
    in all numbers; the draws are fixed by the key, and drawn again on the way back.

        Z^i_t = m_t + R_t xi^i_t,      R_t R_t = Cov(vec Z_t),      E xi = 0,  E xi xi' = I
        Y^i_{t+1} = Y^i_t - Z^i_t (own_t Y^i_t + mean_t Ybar_t + offset_t)

    Axes: N agents, n given states, T horizon, d outputs, p features.

    Args:
      cost: what an agent pays. Leaves are scalars in squared target units; `effort` > 0, per
        squared control.
      moments: mean [T, d, p] and second [T, d, d, p, p] of the features, common to all agents.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      population: number N of agents, static: it is the size of arrays.
      gains: own [T, p, d], mean [T, p, d], offset [T, p]: what everybody plays.
      states: [n, d], predictions at t = 0, in target units; n divides N, and agent i starts at
        row i mod n, so that they are the population's empirical law. Or an `InitialLaw`, of
        which each agent's state is drawn, in the manner of `features`.
      key: any JAX key.
      information: "feedback", or "offline" (see `offline_gains`), rolled from the mean of the
        given states, or from the law's.
      features: "gaussian", xi standard normal; or "bounded", xi uniform on [-sqrt 3, sqrt 3].
      block: how many agents are simulated at once, static. A matter of speed: no draw depends
        on it, and costs only by rounding.

    Returns:
      GameSample: `costs` [N], `mean_field` [T+1, d], `states` [N, d]. NaN where a mean and a
      second moment belong to no law: a covariance with an eigenvalue below zero by more than
      1e-6 of the largest, and by more than rounding.

    Raises:
      ValueError: at trace time, if a shape does not fit, effort is a number not above 0,
        population or block is no integer >= 1, n does not divide population, or information or
        features is no such pattern or law.

    Source: own derivation, tested in tests/test_monte_carlo.py against a plain loop and
      `expected_costs`.

    Example:
      >>> moments = FeatureMoments(jnp.ones((3, 1, 1)), jnp.full((3, 1, 1, 1, 1), 1.1))
      >>> gains = FeedbackGains(*(jnp.full((3, 1, 1), g) for g in (0.5, 0.1)), -jnp.ones((3, 1)))
      >>> game = (GameCost(), moments, jnp.ones((3, 1)), 10, gains, jnp.zeros((1, 1)))
      >>> sample = sample_game(*game, key=jax.random.key(0))
      >>> sample.costs.shape, sample.mean_field.shape, bool(sample.worst_cost > sample.mean_cost)
      ((10,), (4, 1), True)
    """
    whole("sample_game", "population", population)
    whole("sample_game", "block", block)
    one_of("sample_game", "features", features, ("gaussian", "bounded"))
    check_information(information)
    also = jax.tree.leaves((gains, states))
    cost, moments, targets = standard_game(cost, moments, targets, also=also)
    gains = standard_gains(gains, moments)
    states = standard_states(states, targets.shape[1], targets.dtype)
    if not isinstance(states, InitialLaw) and population % states.shape[0]:
        raise ValueError(
            f"states has shape {states.shape}: allowed is a number of rows that divides the "
            f"population of {population}, each row being the start of equally many agents"
        )
    game = _Game(
        cost=cost,
        moments=moments,
        targets=targets,
        gains=gains,
        states=states,
        population=int(population),
        blocks=-(-int(population) // int(block)),
        offline=information == "offline",
        bounded=features == "bounded",
    )
    sample: GameSample = _sample(game, key)
    return sample


@record
class _Game:
    """A checked game of one dtype, what everybody plays, and how the agents are laid out."""

    cost: GameCost
    moments: FeatureMoments
    targets: Array
    gains: FeedbackGains
    states: Array | InitialLaw
    population: int = static()
    blocks: int = static()
    offline: bool = static()
    bounded: bool = static()

    @property
    def size(self) -> int:
        """Agents in a block. Blocks are of equal size, so padding is below one agent for each."""
        return -(-self.population // self.blocks)

    def play(self) -> FeedbackGains:
        """Return the gains of what agents know: offline, none of the realised mean field."""
        if not self.offline:
            return self.gains
        return offline_gains(self.moments, self.gains, initial_mean(self.states))

    def draw(self, key: Array, block: Array, stream: Stream, step: Array | int, n: int) -> Array:
        """Return n draws of mean 0 and variance 1 for each agent of a block, [n, size]."""
        first = block * jnp.uint32(self.size)
        agents = Agents(first + lax.iota(jnp.uint32, self.size), key)
        dtype = self.targets.dtype
        if self.bounded:
            return uniforms(agents, stream, step, n, dtype) * math.sqrt(12.0)
        return normals(agents, stream, step, n, dtype)

    def average(self, states: Array) -> Array:
        """Return the mean field [d] of states [blocks, d, size]; padding has no part in it."""
        if self.blocks * self.size > self.population:
            index = lax.iota(jnp.uint32, self.blocks * self.size)
            real = (index < self.population).reshape(self.blocks, 1, self.size)
            states = jnp.where(real, states, 0.0)
        return jnp.sum(jnp.sum(states, axis=2), axis=0) / self.population


@record
class _Step:
    """What the scan over time reads at step t: numbers of the game, all of one step."""

    index: Array
    mean: Array
    root: Array
    gains: FeedbackGains
    target: Array
    discount: Array


@jax.jit
def _sample(game: _Game, key: Array) -> GameSample:
    horizon, d, _ = game.moments.mean.shape
    words = seed_words(key)
    states, average = _first_states(game, words)
    steps = _Step(
        index=jnp.arange(horizon, dtype=jnp.uint32),
        mean=game.moments.mean,
        root=_feature_roots(game.moments),
        gains=game.play(),
        target=game.targets,
        discount=discounts(game.cost.forgetting, horizon, game.targets.dtype),
    )

    def step(carry: tuple[Array, Array, Array], now: _Step) -> tuple[Any, Array]:
        states, costs, average = carry
        states, costs = _move(game, words, now, states, costs, average)
        average = game.average(states)
        costs = costs + now.discount * _arrival(game.cost, states, average, now.target)
        return (states, costs, average), average

    costs = jnp.zeros((game.blocks, game.size), states.dtype)
    (states, costs, _), path = lax.scan(step, (states, costs, average), steps)
    return GameSample(
        costs=costs.reshape(-1)[: game.population],
        mean_field=jnp.concatenate([average[None], path]),
        states=jnp.moveaxis(states, 1, 2).reshape(-1, d)[: game.population],
    )


def _first_states(game: _Game, key: Array) -> tuple[Array, Array]:
    """Return the states at t = 0, [blocks, d, size], and the mean field [d]."""
    law, d = game.states, game.targets.shape[1]
    if not isinstance(law, InitialLaw):
        copies = jnp.tile(law, (game.population // law.shape[0], 1))
        padding = game.blocks * game.size - game.population
        padded = jnp.pad(copies, ((0, padding), (0, 0)))
        states = jnp.moveaxis(padded.reshape(game.blocks, game.size, d), 2, 1)
        return states, jnp.mean(law, axis=0)
    root = symmetric_root(law.covariance, jnp.trace(law.covariance))

    def draw(block: Array) -> Array:
        noise = game.draw(key, block, Stream.GAME_STATES, 0, d)
        return law.mean[:, None] + matmul(root, noise)

    states = lax.map(draw, jnp.arange(game.blocks, dtype=jnp.uint32))
    return states, game.average(states)


def _move(
    game: _Game, key: Array, now: _Step, states: Array, costs: Array, average: Array
) -> tuple[Array, Array]:
    """Let every agent decide, draw its features and move; add the effort to its cost."""
    d, p = now.mean.shape
    common = matmul(now.gains.mean, average) + now.gains.offset
    price = now.discount * game.cost.effort

    # Differentiated, a block is computed anew on the way back: nothing of it is stored.
    @jax.checkpoint
    def move(block: Array, states: Array, costs: Array) -> tuple[Array, Array]:
        control = -(jnp.sum(now.gains.own[:, :, None] * states[None], axis=1) + common[:, None])
        noise = game.draw(key, block, Stream.GAME_FEATURES, now.index, d * p)
        # As a matrix product, which reads its noise from memory. In a fused sum of products
        # XLA draws each number again for each of the d p sums it enters: twice the time.
        deviation = matmul(now.root, noise).reshape(d, p, game.size)
        features = now.mean[:, :, None] + deviation
        moved = states + jnp.sum(features * control[None], axis=1)
        return moved, costs + price * jnp.sum(control * control, axis=0)

    blocks = jnp.arange(game.blocks, dtype=jnp.uint32)
    return lax.map(lambda one: move(*one), (blocks, states, costs))


def _arrival(cost: GameCost, states: Array, average: Array, target: Array) -> Array:
    """Return the running cost on arrival, effort and discount apart, for [blocks, d, size]."""
    error, apart = states - target[None, :, None], states - average[None, :, None]
    own = cost.tracking * error * error + cost.consensus * apart * apart
    return jnp.sum(own, axis=1) + cost.ensemble * jnp.sum((average - target) ** 2)


def _feature_roots(moments: FeatureMoments) -> Array:
    """Return R_t [T, d p, d p], R_t R_t = Cov(vec Z_t); O(T d^3 p^3), once for all agents."""
    horizon, d, p = moments.mean.shape
    mean = moments.mean.reshape(horizon, d * p)
    second = jnp.moveaxis(moments.second, 3, 2).reshape(horizon, d * p, d * p)
    # The covariance is a difference: it is exact to the rounding of the second moments.
    scale = jnp.trace(second, axis1=1, axis2=2)
    return symmetric_root(second - mean[:, :, None] * mean[:, None, :], scale)


def symmetric_root(covariance: Array, scale: Array) -> Array:
    """Return the symmetric R with R R = covariance; NaN for a matrix that is no covariance.

    By its eigenvalues, O(n^3). Eigenvalues within 8 roundings of `scale` of zero count as zero
    (what is constant is then drawn as exactly constant). NaN if one is below zero by more than
    1e-6 of the largest and 800 roundings of `scale`. Differentiable wherever R is, equal
    eigenvalues or not; on the null space, where the derivative is infinite, it is taken as 0.

    Args:
      covariance: [..., n, n], symmetric.
      scale: [...], the size of the numbers that the covariance is a difference of.

    Source: own derivation, tested in tests/test_monte_carlo.py.

    Example:
      >>> symmetric_root(jnp.diag(jnp.array([4.0, 0.0])), jnp.array(4.0)).tolist()
      [[2.0, 0.0], [0.0, 0.0]]
    """
    return _root(symmetrise(covariance), lax.stop_gradient(scale))


@jax.custom_jvp
def _root(covariance: Array, scale: Array) -> Array:
    roots, vectors, possible = _spectrum(covariance, scale)
    root = einsum("...ia,...a,...ja->...ij", vectors, roots, vectors)
    return jnp.where(possible[..., None, None], root, jnp.nan)


@_root.defjvp
def _root_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # From dR R + R dR = dC, solved where R is diagonal; the eigenvectors' own derivative,
    # infinite at equal eigenvalues, is not needed.
    roots, vectors, _ = _spectrum(*primals)
    change = einsum("...ia,...ij,...jb->...ab", vectors, tangents[0], vectors)
    sums = roots[..., :, None] + roots[..., None, :]
    change = jnp.where(sums > 0, change / jnp.where(sums > 0, sums, 1.0), 0.0)
    return _root(*primals), einsum("...ia,...ab,...jb->...ij", vectors, change, vectors)


def _spectrum(covariance: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Return the roots of the eigenvalues, the eigenvectors, and whether it is a covariance."""
    values, vectors = jnp.linalg.eigh(covariance)
    rounding = 8 * float(jnp.finfo(values.dtype).eps) * jnp.abs(scale)[..., None]
    kept = values > rounding
    roots = jnp.where(kept, jnp.sqrt(jnp.where(kept, values, 1.0)), 0.0)
    largest = jnp.max(jnp.abs(values), axis=-1, keepdims=True)
    # A NaN is passed on by the comparison, which it fails.
    possible = jnp.all(values >= -(1e-6 * largest + 100 * rounding), axis=-1)
    return roots, vectors, possible
