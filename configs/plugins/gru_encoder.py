"""An encoder of one's own: a small recurrent network (GRU), pre-trained on the first rows.

    h^i_t = GRU(x_t, h^i_{t-1}; W, own biases),   Z^i_t = [move(h^i_t), own projections of h^i_t]

All agents share the weights W [3 width, k + width], which optax fits to the first `prefix` rows of
the series: from x_0..x_t, predict the move y_{t+1} - y_t. Each agent adds biases of its own and
looks at the hidden state through random projections of its own, so agents differ. The rows of the
prefix are lived through and count in no figure: `series.scored_from` must be `prefix` or later.

Run it with `memoa run configs/plugins/gru.toml`, or from Python:

    simulate(series, gru(series, prefix=1000), policy, mixture, num_agents=1000, key=key)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memoa_jax import Series
from memoa_jax.draws import Stream, normals
from memoa_jax.types import Agents, Array, Dimensions, Scalar, Tree, record, static


@record
class Weights:
    """What is learnt: the gates [3w, k + w] and [3w], and the read-out of the move [d, w]."""

    gates: Array
    biases: Array
    move: Array


@record
class Units:
    """Means and scales of the inputs [k] and the scale of the moves [d], of the prefix alone."""

    mean: Array
    scale: Array
    move: Array


@record
class Own:
    """An agent's own: what it adds to the gates' biases [3w, N], its projections [d, p-1, w, N]."""

    weights: Weights
    units: Units
    biases: Array
    projections: Array


@record
class Gru:
    """See `gru`."""

    weights: Weights
    units: Units
    spread: Scalar
    features: int = static()

    def parameters(self, agents: Agents, dimensions: Dimensions, dtype: Any) -> Own:
        """Draw every agent's biases and projections; the weights are everybody's."""
        d, width, count = dimensions.outputs, self.weights.move.shape[1], agents.index.shape[0]
        own, others = 3 * width, d * (self.features - 1) * width
        biases = normals(agents, Stream.BIASES, 0, own, dtype)
        looks = normals(agents, Stream.INPUT_WEIGHTS, 0, others, dtype) / width**0.5
        weights, units = jax.tree.map(lambda leaf: leaf.astype(dtype), (self.weights, self.units))
        return Own(
            weights=weights,
            units=units,
            biases=jnp.asarray(self.spread, dtype) * biases,
            projections=looks.reshape(d, self.features - 1, width, count),
        )

    def init(self, parameters: Own, agents: Agents, dimensions: Dimensions, dtype: Any) -> Array:
        """Return the hidden state before step 0, [w, N]."""
        del dimensions
        return jnp.zeros((parameters.weights.move.shape[1], agents.index.shape[0]), dtype)

    def encode(
        self, parameters: Own, state: Array, agents: Agents, inputs: Array, step: Array
    ) -> tuple[Tree, Array]:
        """Return the next hidden state and Z_t [d, p, N]."""
        del agents, step
        own = parameters
        columns = inputs if inputs.ndim == 2 else inputs[:, None]  # own inputs, or everybody's
        seen = (columns - own.units.mean[:, None]) / own.units.scale[:, None]
        hidden = cell(own.weights, own.biases, state, seen)
        move = own.units.move[:, None] * _product(own.weights.move, hidden)
        looks = jnp.sum(own.projections * hidden[None, None], axis=2)
        return hidden, jnp.concatenate(
            [move[:, None], own.units.move[:, None, None] * looks], axis=1
        )


def cell(weights: Weights, own: Array, hidden: Array, inputs: Array) -> Array:
    """Return the hidden state [w, N] after inputs [k, 1] or [k, N]: a gated recurrent unit."""
    width, count = hidden.shape
    inputs = jnp.broadcast_to(inputs, (inputs.shape[0], count))
    biases = weights.biases[:, None] + own
    both = _product(weights.gates[: 2 * width], jnp.concatenate([inputs, hidden]))
    update, reset = jnp.split(jax.nn.sigmoid(both + biases[: 2 * width]), 2)
    fresh = _product(weights.gates[2 * width :], jnp.concatenate([inputs, reset * hidden]))
    return (1 - update) * hidden + update * jnp.tanh(fresh + biases[2 * width :])


def _product(matrix: Array, columns: Array) -> Array:
    # An accelerator's default would round the factors to half the digits.
    return jnp.matmul(matrix, columns, precision=jax.lax.Precision.HIGHEST)


def gru(
    series: Series,
    prefix: int = 1000,
    width: int = 16,
    features: int = 8,
    spread: float = 0.1,
    steps: int = 300,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> Gru:
    """Pre-train a recurrent network on the first rows of a series, and make agents of it.

    Args:
      series: the run fills it in; of it, rows 0 .. prefix - 1 are looked at.
      prefix: rows to learn from, >= 3; none of them may count in the figures.
      width: w, hidden numbers per agent.
      features: p >= 2: the learnt move, and p - 1 random projections of the hidden state.
      spread: standard deviation of what an agent adds to the biases; 0: agents differ by their
        projections alone.
      steps: of Adam.
      learning_rate: of Adam.
      seed: of the weights that it begins with.

    Raises:
      ValueError: if the prefix is too short, or reaches into the rows that count.
    """
    if not 3 <= prefix <= series.scored_from:
        raise ValueError(
            f"prefix = {prefix}: allowed is 3 to series.scored_from = {series.scored_from}: "
            "rows that were learnt from must not count"
        )
    if features < 2:
        raise ValueError(f"features = {features}: allowed is a whole number >= 2")
    inputs, targets = series.inputs[:prefix], series.targets[:prefix]
    moves, known = np.diff(targets, axis=0), series.known[:prefix]
    both = known[1:] & known[:-1]
    scale = inputs.std(axis=0)
    units = Units(
        mean=_single(inputs.mean(axis=0)),
        scale=_single(np.where(scale > 0, scale, 1.0)),
        move=_single(np.sqrt(np.mean(moves[both] ** 2, axis=0)) + 1e-12),
    )
    seen = _single((inputs[:-1] - np.asarray(units.mean)) / np.asarray(units.scale))
    wanted = _single(np.where(both[:, None], moves, 0.0) / np.asarray(units.move))
    weights = pretrain(
        _begin(seed, inputs.shape[1], width, targets.shape[1]),
        seen, wanted, jnp.asarray(both), steps, learning_rate,
    )  # fmt: skip
    return Gru(weights=weights, units=units, spread=spread, features=features)


def pretrain(
    weights: Weights, seen: Array, wanted: Array, known: Array, steps: int, learning_rate: float
) -> Weights:
    """Fit weights to moves [n, d] from standardised inputs [n, k], by Adam on the whole prefix."""
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(weights: Weights) -> Array:
        def step(hidden: Array, row: Array) -> tuple[Array, Array]:
            hidden = cell(weights, jnp.zeros((), row.dtype), hidden, row[:, None])
            return hidden, _product(weights.move, hidden)[:, 0]

        start = jnp.zeros((weights.move.shape[1], 1), seen.dtype)
        _, predicted = jax.lax.scan(step, start, seen)
        return jnp.sum(jnp.where(known[:, None], (predicted - wanted) ** 2, 0.0)) / jnp.sum(known)

    def descend(carry: Tree, _: None) -> tuple[Tree, Array]:
        weights, memory = carry
        value, slope = jax.value_and_grad(loss)(weights)
        moves, memory = optimiser.update(slope, memory)
        return (optax.apply_updates(weights, moves), memory), value

    def fit(weights: Weights) -> Weights:
        return jax.lax.scan(descend, (weights, optimiser.init(weights)), None, steps)[0][0]

    return jax.jit(fit)(weights)


def _begin(seed: int, inputs: int, width: int, outputs: int) -> Weights:
    """Return weights to begin with: normal, of variance one over what they sum."""
    rng = np.random.default_rng(seed)
    gates = rng.normal(size=(3 * width, inputs + width)) / np.sqrt(inputs + width)
    move = rng.normal(size=(outputs, width)) / np.sqrt(width)
    return Weights(
        gates=_single(gates), biases=jnp.zeros(3 * width, jnp.float32), move=_single(move)
    )


def _single(values: np.ndarray) -> Array:
    return jnp.asarray(values, jnp.float32)
