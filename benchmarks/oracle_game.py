"""What a whole population tells the agents of a hindsight game, for `oracle.Hindsight`.

The gains of a game come from the moments of everybody's features, and with feedback the agents
go by the realised mean field of their replays. Both are found here from the draws, for as many
agents as one likes, and nothing but the draws comes from the package: moments of float32
features, summed in float64 (a burst makes features alike, and the gains depend on how they
differ); gains by the limit's Riccati recursion in float64 NumPy;
mean fields from how the replayed states answer to them, which is affine:

    Y_{s+1} = (1 - Z own_s) Y_s - Z (common_s mbar_s + offset_s),    mbar_s = mean of Y_s

One output, one input, agents always present, every target known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from oracle import Doubles, Gains, rounded

from memoa_jax import GameCost
from memoa_jax.draws import Stream, normals, seed_words
from memoa_jax.types import Agents

CPU_BLOCK = 16_384
DEVICE_BLOCK = 131_072
"""Agents at once: their features over the whole series are held."""


class Told(NamedTuple):
    """What `oracle.Hindsight` is given: its `gains`, and its `paths` [n, T, 1]."""

    gains: Callable[[int, Sequence[Doubles]], Gains]
    paths: Doubles


def told(
    agents: int,
    key: Any,
    inputs: Doubles,
    targets: Doubles,
    cost: GameCost,
    horizon: int,
    *,
    features: int,
    noise: float,
    offline: bool,
) -> Told:
    """Find the gains of every game of a run, and the mean fields of its replays.

    Args:
      agents: N, all of them.
      key: the run's.
      inputs: [n, 1].
      targets: [n, 1].
      cost: of the game.
      horizon: T.
      features: p.
      noise: of the encoder.
      offline: whether agents roll the mean field by themselves; no path is then looked for.
    """
    y, games = rounded(targets), range(horizon, len(targets))
    crowd = functools.partial(_blocks, agents, key, inputs, features, noise)
    mean, second = np.zeros((len(y), features)), np.zeros((len(y), features, features))
    for block, _ in crowd():
        with jax.enable_x64(True):
            sums, products = _sums(block)
            mean, second = mean + np.asarray(sums), second + np.asarray(products)
    mean, second = mean[:, None] / agents, second[:, None, None] / agents
    gains = {}
    for t in games:
        steps = slice(t - horizon, t)
        gains[t] = limit_gains(cost, mean[steps], second[steps], y[t - horizon + 1 : t + 1])
        if offline:
            gains[t] = rolled(gains[t], mean[steps], y[t - horizon])
    paths = np.zeros((len(y), horizon, 1))
    if not offline and games:
        stacked = [np.stack([[g[kind] for g in gains[t]] for t in games]) for kind in range(3)]
        columns = [gain.reshape(len(games), horizon, features) for gain in stacked]
        paths[horizon:, :, 0] = _paths(crowd(), columns, y[: len(games), 0], agents)
    return Told(lambda t, _: gains[t], paths)


def own_paths(
    agents: int,
    key: Any,
    inputs: Doubles,
    targets: Doubles,
    cost: GameCost,
    horizon: int,
    *,
    features: int,
    noise: float,
) -> Doubles:
    """Return the mean fields [n, T, 1] at the ends of the steps of games by own features.

    An agent at 0 that can move by B u, and pays for u, goes to K (q y + c mbar) where

        K = B (B'W B + effort D)^{-1} B',    W = (q + c) D, D the discounts,
        B lower triangular, column s the size of Z_s

    Arguments are those of `told`.
    """
    y = rounded(targets)
    n, steps = len(y), np.arange(horizon)
    q, c, effort, alpha = (
        float(getattr(cost, name)) for name in ("tracking", "consensus", "effort", "forgetting")
    )
    delta = np.exp(-alpha * (horizon - 1 - steps))
    kernel = np.zeros((n, horizon, horizon))
    for block, exists in _blocks(agents, key, inputs, features, noise):
        here = np.asarray(exists)
        sizes = np.sqrt(np.square(np.asarray(block, np.float64)[..., here]).sum(axis=1))
        for t in range(horizon, n):
            B = np.where(steps[:, None] >= steps, sizes[t - horizon : t].T[:, None], 0.0)
            back = B.transpose(0, 2, 1)
            system = back @ ((q + c) * delta[:, None] * B) + np.diag(effort * delta)
            kernel[t] += (B @ np.linalg.solve(system, back)).sum(axis=0)
    paths = np.zeros((n, horizon, 1))
    for t in range(horizon, n):
        K, start = kernel[t] / agents * delta, y[t - horizon]
        apart = y[t - horizon + 1 : t + 1] - start
        paths[t] = start + np.linalg.solve(np.eye(horizon) - c * K, q * K @ apart)
    return paths


def limit_gains(cost: GameCost, mean: Doubles, second: Doubles, targets: Doubles) -> Gains:
    """Return the gains of the mean-field limit's equilibrium, step by step.

    The cost to go of an agent at Y, where the mean is m, is Y'A Y + 2 Y'(B m + a) and what it
    cannot change; with H = E Z'A Z + effort I and S = E Z H^{-1} E Z',

        beta = -H^{-1} E Z' (A Y + B m+ + a),    m+ = m - S (A m + B m+ + a)

    Args:
      cost: tracking, consensus, effort and forgetting are used; the ensemble's error is nothing
        that one agent of infinitely many could change.
      mean: [T, d, p].
      second: [T, d, d, p, p].
      targets: [T, d], row s is y_{s+1}.
    """
    horizon, d, p = mean.shape
    eye, gains = np.eye(d), []
    A, B, a = np.zeros((d, d)), np.zeros((d, d)), np.zeros(d)
    for s in reversed(range(horizon)):
        weight = np.exp(-float(cost.forgetting) * (horizon - 1 - s))
        A = A + weight * float(cost.tracking + cost.consensus) * eye
        B = B - weight * float(cost.consensus) * eye
        a = a - weight * float(cost.tracking) * targets[s]
        H = np.einsum("abkl,ab->kl", second[s], A) + weight * float(cost.effort) * np.eye(p)
        reach = np.linalg.solve(H, mean[s].T)
        S = mean[s] @ reach
        onward = np.linalg.solve(eye + S @ B, np.column_stack([eye - S @ A, -S @ a]))
        common, offset = B @ onward[:, :d], B @ onward[:, d] + a
        gains.append((reach @ A, reach @ common, reach @ offset))
        A, B, a = A - A @ S @ A, (eye - A @ S) @ common, (eye - A @ S) @ offset
    return gains[::-1]


def rolled(gains: Gains, mean: Doubles, start: Doubles) -> Gains:
    """Return the gains of agents that are told nothing and roll the mean field from `start` [d]."""
    own_path, z = [], start
    for (own, common, offset), m in zip(gains, mean, strict=True):
        known = common @ z + offset
        own_path.append((own, np.zeros_like(common), known))
        z = z - m @ (own @ z + known)
    return own_path


def _blocks(
    agents: int, key: Any, inputs: Doubles, features: int, noise: float
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yield the features [n, p, block] of all agents in turn, and who of a block exists."""
    size = min(agents, CPU_BLOCK if jax.default_backend() == "cpu" else DEVICE_BLOCK)
    x, words = jnp.asarray(inputs[:, 0], jnp.float32), seed_words(key)
    for first in range(0, agents, size):
        index = jnp.arange(size, dtype=jnp.uint32) + jnp.uint32(first)
        exists = index < agents
        yield _features(index, words, x, jnp.float32(noise), exists, features=features), exists


@functools.partial(jax.jit, static_argnames="features")
def _features(
    index: jax.Array,
    words: jax.Array,
    inputs: jax.Array,
    noise: jax.Array,
    exists: jax.Array,
    *,
    features: int,
) -> jax.Array:
    """Return Z = relu(A x + b + noise w) of a block at all steps; zero where nobody is."""
    crowd = Agents(index=index, key=words)
    weights = normals(crowd, Stream.INPUT_WEIGHTS, 0, 1, jnp.float32)
    biases = normals(crowd, Stream.BIASES, 0, features, jnp.float32)

    def at(step: jax.Array, x: jax.Array) -> jax.Array:
        fresh = normals(crowd, Stream.FEATURE_NOISE, step, features, jnp.float32)
        return jnp.maximum(weights * x + biases + noise * fresh, 0.0) * exists

    return jax.vmap(at)(jnp.arange(len(inputs)), inputs)


@jax.jit
def _sums(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the float64 sums of Z and of Z'Z over a block, [n, p] and [n, p, p]."""
    exact = features.astype(jnp.float64)
    return jnp.sum(exact, axis=-1), jnp.einsum("tpi,tqi->tpq", exact, exact)


def _paths(
    crowd: Iterator[tuple[jax.Array, jax.Array]],
    gains: Sequence[Doubles],
    starts: Doubles,
    agents: int,
) -> Doubles:
    """Return the mean fields [games, T] of all replays; row s is before step s of a game.

    `gains` are own, common and offset, each [games, T, p]; `starts` [games] where games start.
    """
    total: list[list[Any]] = []
    single = [jnp.asarray(one, jnp.float32) for one in (*gains, starts)]
    for block, exists in crowd:
        found = [
            [np.asarray(one, np.float64) for one in row] for row in _answers(block, exists, *single)
        ]
        total = (
            found
            if not total
            else [
                [old + new for old, new in zip(*rows, strict=True)]
                for rows in zip(total, found, strict=True)
            ]
        )
    path = [starts]
    for constant, *slopes in total:
        moved = sum((by * path[row] for row, by in enumerate(slopes, 1)), constant)
        path.append(moved / agents)
    return np.stack(path, axis=1)


@jax.jit
def _answers(
    features: jax.Array,
    exists: jax.Array,
    own: jax.Array,
    common: jax.Array,
    offset: jax.Array,
    starts: jax.Array,
) -> list[list[jax.Array]]:
    """Return, summed over a block, the replayed states after every step but the last.

    Each as numbers [games]: a constant, and the factors of the mean fields of rows 1, 2, ...
    """
    games, horizon, _ = own.shape
    constant = jnp.broadcast_to(starts[:, None], (games, features.shape[-1]))
    slopes: list[jax.Array] = []
    rows = []
    for s in range(horizon - 1):
        step = features[s : s + games]
        pull, shared, fixed = (
            jnp.sum(gain[:, s, :, None] * step, axis=1) for gain in (own, common, offset)
        )
        constant = constant - pull * constant - fixed
        slopes = [slope - pull * slope for slope in slopes]
        if s == 0:  # everybody knows where they all start
            constant = constant - shared * starts[:, None]
        else:
            slopes.append(-shared)
        rows.append([jnp.sum(one * exists, axis=-1) for one in (constant, *slopes)])
    return rows
