"""Encoders: what each agent makes of the inputs. One contract (`types.Encoder`), four members.

An encoder is data; its functions are pure. Per-agent parameters and noise are functions of
(seed, agent, step) alone (`memoa_jax.draws`). Inside, agents are last: features [d, p, N].
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from memoa_jax.arguments import number, one_of, whole
from memoa_jax.draws import Stream, normals, uniform_integers
from memoa_jax.game import FeatureMoments
from memoa_jax.types import Agents, Array, Dimensions, Encoder, Scalar, Tree, record, static

Activation = Literal["relu", "tanh", "hard_sigmoid"]

_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "hard_sigmoid": lambda x: jnp.clip(x / 6 + 0.5, 0.0, 1.0),
}


def _not_negative(value: float) -> bool:
    return value >= 0


def _affine_inputs(weights: Array, inputs: Array) -> Array:
    """Return A^i x [d, N] for weights [d, k, N] and inputs [k] (shared) or [k, N] (own)."""
    columns = inputs if inputs.ndim == 2 else inputs[:, None]
    return jnp.sum(weights * columns[None], axis=1)


@record
class FeatureWeights:
    """The fixed random weights of one block of agents, all standard normal.

    `inputs` [d, k, N] is A, `biases` [d, p, N] is b, `recurrent` [d, d, N] is B (None for
    features without memory).
    """

    inputs: Array
    biases: Array
    recurrent: Array | None = None


def _draw_weights(
    agents: Agents, dimensions: Dimensions, features: int, recurrent: bool, dtype: Any
) -> FeatureWeights:
    d, k, count = dimensions.outputs, dimensions.inputs, agents.index.shape[0]

    def draw(stream: Stream, rows: int, columns: int) -> Array:
        return normals(agents, stream, 0, rows * columns, dtype).reshape(rows, columns, count)

    return FeatureWeights(
        inputs=draw(Stream.INPUT_WEIGHTS, d, k),
        biases=draw(Stream.BIASES, d, features),
        recurrent=draw(Stream.RECURRENT_WEIGHTS, d, d) if recurrent else None,
    )


@record
class RandomFeatures:
    """See `random_features`."""

    noise: Scalar
    features: int = static()
    shared_input: ClassVar[bool] = True

    def parameters(self, agents: Agents, dimensions: Dimensions, dtype: Any) -> FeatureWeights:
        """Draw A and b."""
        return _draw_weights(agents, dimensions, self.features, recurrent=False, dtype=dtype)

    def init(self, parameters: Tree, agents: Agents, dimensions: Dimensions, dtype: Any) -> Tree:
        """Return the empty state: these features have no memory."""
        del parameters, agents, dimensions, dtype
        return ()

    def encode(
        self, parameters: FeatureWeights, state: Tree, agents: Agents, inputs: Array, step: Array
    ) -> tuple[Tree, Array]:
        """Return Z_t = relu(A x_t 1' + b + noise 1 w'), [d, p, N]."""
        biases = parameters.biases
        fresh = normals(agents, Stream.FEATURE_NOISE, step, self.features, biases.dtype)
        mean = _affine_inputs(parameters.inputs, inputs)[:, None] + biases
        return state, jax.nn.relu(mean + _strength(self.noise, biases) * fresh[None])


def random_features(features: int = 8, noise: Scalar = 0.1) -> RandomFeatures:
    """Make random-feature agents: one random ReLU layer each, with fresh noise at every step.

        Z^i_t = relu(A^i x_t 1' + b^i + noise 1 w^i_t'),   A^i, b^i, w^i_t standard normal

    A^i [d, k] and b^i [d, p] are drawn once per agent, w^i_t [p] per agent and step; its moments
    given (A^i, b^i) are known in closed form: `random_feature_moments`.

    Args:
      features: p, features per output; static.
      noise: standard deviation of the fresh noise, >= 0; may be traced.

    Raises:
      ValueError: if features < 1 or noise is negative or not finite.

    Source: arXiv 2505.00216 (random feature network agents).

    Example:
      >>> random_features(features=4).features
      4
    """
    whole("random_features", "features", features)
    number("random_features", "noise", noise, ">= 0", _not_negative)
    return RandomFeatures(noise=noise, features=features)


@record
class EchoState:
    """See `echo_state`."""

    noise: Scalar
    features: int = static()
    activation: Activation = static()
    shared_input: ClassVar[bool] = True

    def parameters(self, agents: Agents, dimensions: Dimensions, dtype: Any) -> FeatureWeights:
        """Draw A, b and B."""
        return _draw_weights(agents, dimensions, self.features, recurrent=True, dtype=dtype)

    def init(
        self, parameters: FeatureWeights, agents: Agents, dimensions: Dimensions, dtype: Any
    ) -> Array:
        """Return Z_{-1} = 0, [d, p, N]."""
        del agents, dimensions, dtype
        return jnp.zeros_like(parameters.biases)

    def encode(
        self, parameters: FeatureWeights, state: Array, agents: Agents, inputs: Array, step: Array
    ) -> tuple[Array, Array]:
        """Return Z_t = phi(A x_t 1' + B Z_{t-1} + b + noise 1 w'), as state and as features."""
        assert parameters.recurrent is not None
        biases = parameters.biases
        fresh = normals(agents, Stream.FEATURE_NOISE, step, self.features, biases.dtype)
        recall = jnp.sum(parameters.recurrent[:, :, None] * state[None], axis=1)
        mean = _affine_inputs(parameters.inputs, inputs)[:, None] + recall + biases
        features = _ACTIVATIONS[self.activation](mean + _strength(self.noise, biases) * fresh[None])
        return features, features


def echo_state(
    features: int = 8, noise: Scalar = 0.1, activation: Activation = "tanh"
) -> EchoState:
    """Make echo-state agents: a random recurrent layer each, whose state is its features.

        Z^i_t = phi(A^i x_t 1' + B^i Z^i_{t-1} + b^i + noise 1 w^i_t'),   Z^i_{-1} = 0

    All weights are standard normal, A^i [d, k], B^i [d, d], b^i [d, p] once per agent, w^i_t
    [p] per agent and step. phi is tanh or the hard sigmoid clip(x/6 + 1/2, 0, 1).

    Args:
      features: p, features per output; static.
      noise: standard deviation of the fresh noise, >= 0; may be traced.
      activation: "tanh" or "hard_sigmoid" ("relu" is allowed but can grow without bound).

    Raises:
      ValueError: if an argument is outside what is allowed.

    Source: arXiv 2505.00216 (echo state network agents).

    Example:
      >>> echo_state(activation="hard_sigmoid").activation
      'hard_sigmoid'
    """
    whole("echo_state", "features", features)
    number("echo_state", "noise", noise, ">= 0", _not_negative)
    one_of("echo_state", "activation", activation, tuple(sorted(_ACTIVATIONS)))
    return EchoState(noise=noise, features=features, activation=activation)


@record
class GivenFeatures:
    """See `given_features`. `table` is stored with agents last, [n, d, p, N]."""

    table: Array

    @property
    def features(self) -> int:
        """Number p of features per output."""
        return self.table.shape[2]

    def parameters(self, agents: Agents, dimensions: Dimensions, dtype: Any) -> Array:
        """Take the block's agents out of the table."""
        points, outputs, _, count = self.table.shape
        if outputs != dimensions.outputs:
            raise ValueError(
                f"given_features: features has d = {outputs} outputs, the series has "
                f"{dimensions.outputs}: allowed is [n, N, d, p] with the series' d"
            )
        if count < agents.index.shape[0]:
            raise ValueError(
                f"given_features: features holds {count} agents, the run asks for "
                f"{agents.index.shape[0]}: lower num_agents or give more features"
            )
        if points < dimensions.points:
            raise ValueError(
                f"given_features: features has n = {points} rows, the series has "
                f"{dimensions.points} points: allowed is one row per point or more"
            )
        return jnp.take(self.table, agents.index, axis=3).astype(dtype)

    def init(self, parameters: Tree, agents: Agents, dimensions: Dimensions, dtype: Any) -> Tree:
        """Return the empty state."""
        del parameters, agents, dimensions, dtype
        return ()

    def encode(
        self, parameters: Array, state: Tree, agents: Agents, inputs: Array, step: Array
    ) -> tuple[Tree, Array]:
        """Return row t of the table, [d, p, N]; the inputs are not used."""
        del agents, inputs
        return state, parameters[step]


def given_features(features: Any) -> GivenFeatures:
    """Use precomputed features: a user's own black-box experts.

    Exact; memory O(n N d p). Row t belongs to x_t, so it may use everything up to time t and
    nothing later: that is the caller's promise, the simulator cannot check it.

    Args:
      features: [n, N, d, p], n the number of points of the series.

    Raises:
      ValueError: if the array has not four axes, holds no feature, or is not finite.

    Example:
      >>> import numpy as np
      >>> given_features(np.ones((5, 3, 1, 2))).features
      2
    """
    table = jnp.asarray(features)
    if table.ndim != 4 or 0 in table.shape:
        raise ValueError(
            f"given_features: features has shape {table.shape}: allowed is [n, N, d, p], no axis 0"
        )
    if not isinstance(table, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(table))):
        raise ValueError("given_features: features holds NaN or infinity: allowed is finite")
    return GivenFeatures(table=jnp.moveaxis(table, 1, 3))


@record
class ViewParameters:
    """A block's own delays [N] (steps), offsets [k, N] (input units), and the inner weights."""

    delay: Array
    offset: Array
    inner: Tree


@record
class Views:
    """See `views`."""

    encoder: Encoder
    offset: Scalar
    noise: Scalar
    max_delay: int = static()

    @property
    def features(self) -> int:
        """Number p of features per output."""
        return self.encoder.features

    @property
    def shared_input(self) -> bool:
        """Whether one input drives all features of an output alike."""
        return getattr(self.encoder, "shared_input", False)

    def parameters(self, agents: Agents, dimensions: Dimensions, dtype: Any) -> ViewParameters:
        """Draw every agent's delay and offset, and the inner encoder's parameters."""
        own = normals(agents, Stream.VIEW_OFFSET, 0, dimensions.inputs, dtype)
        return ViewParameters(
            delay=uniform_integers(agents, Stream.VIEW_DELAY, self.max_delay + 1),
            offset=_strength(self.offset, own) * own,
            inner=self.encoder.parameters(agents, dimensions, dtype),
        )

    def init(
        self, parameters: ViewParameters, agents: Agents, dimensions: Dimensions, dtype: Any
    ) -> tuple[Array, Tree]:
        """Return the recent inputs [max_delay + 1, k], newest first, and the inner state."""
        recent = jnp.zeros((self.max_delay + 1, dimensions.inputs), dtype)
        return recent, self.encoder.init(parameters.inner, agents, dimensions, dtype)

    def encode(
        self,
        parameters: ViewParameters,
        state: tuple[Array, Tree],
        agents: Agents,
        inputs: Array,
        step: Array,
    ) -> tuple[tuple[Array, Tree], Array]:
        """Show every agent its own version of the inputs and encode that."""
        recent, inner = state
        # Before the series began its first value stands for the past.
        shifted = jnp.concatenate([inputs[None], recent[:-1]])
        recent = jnp.where(step == 0, jnp.broadcast_to(inputs, recent.shape), shifted)
        seen = jnp.take(recent, parameters.delay, axis=0).T + parameters.offset
        fresh = normals(agents, Stream.VIEW_NOISE, step, inputs.shape[0], seen.dtype)
        seen = seen + _strength(self.noise, seen) * fresh
        inner, features = self.encoder.encode(parameters.inner, inner, agents, seen, step)
        return (recent, inner), features


def views(encoder: Encoder, max_delay: int = 0, offset: Scalar = 0.0, noise: Scalar = 0.0) -> Views:
    """Let every agent see the one series in its own way: late, shifted and noisy.

        x^i_t = x_{t - delay_i} + offset o^i + noise v^i_t,   o^i, v^i_t standard normal

    delay_i is uniform on 0..max_delay steps, drawn once per agent, as is o^i [k]; v^i_t [k] is
    fresh. Targets are not touched: all agents still predict the same series.

    Args:
      encoder: what the agent does with its own inputs.
      max_delay: largest delay in steps, 0..65535; static.
      offset: standard deviation of the constant offsets, in input units.
      noise: standard deviation of the fresh noise, in input units.

    Raises:
      ValueError: if an argument is outside what is allowed.

    Example:
      >>> views(random_features(4), max_delay=2).features
      4
    """
    whole("views", "max_delay", max_delay, 0, 65535)
    number("views", "offset", offset, ">= 0", _not_negative)
    number("views", "noise", noise, ">= 0", _not_negative)
    return Views(encoder=encoder, offset=offset, noise=noise, max_delay=max_delay)


def _strength(value: Scalar, like: Array) -> Array:
    return jnp.asarray(value, like.dtype)


def random_feature_moments(preactivation: Array, noise: Scalar) -> FeatureMoments:
    """Return the exact first and second moments of one agent's random features at one step.

    Exact in closed form; O(d^2 p^2). With u = A x 1' + b and s = noise, the rows of
    relu(u + s 1 w') share w:

        E Z_a     = u_a (1 - Phi(-u_a/s)) + s phi(u_a/s)
        E Z_a Z_b = (u_a u_b + s^2) (1 - Phi(h)) + s (u_a + u_b + s h) phi(h)   same column
                    with h = -min(u_a, u_b)/s;  different columns are independent.

    Args:
      preactivation: [d, p], the agent's u. Lift over agents and steps with vmap.
      noise: s >= 0; at 0 the features are not random.

    Returns:
      FeatureMoments with ``mean [d, p]`` and ``second [d, d, p, p]``, one agent, one step.

    Source: own derivation (rectified normal moments), tested by quadrature.

    Example:
      >>> random_feature_moments(jnp.array([[1.0, -1.0]]), 0.0).mean.tolist()
      [[1.0, 0.0]]
    """
    u = jnp.asarray(preactivation)
    s = _strength(noise, u)
    sharp = s > 0
    safe = jnp.where(sharp, s, 1.0)

    def rectified(value: Array) -> Array:
        ratio = value / safe
        return value * jax.scipy.stats.norm.cdf(ratio) + safe * jax.scipy.stats.norm.pdf(ratio)

    mean = jnp.where(sharp, rectified(u), jax.nn.relu(u))
    first, other = u[:, None], u[None, :]
    h = -jnp.minimum(first, other) / safe
    shared = (first * other + safe**2) * jax.scipy.stats.norm.cdf(-h) + safe * (
        first + other + safe * h
    ) * jax.scipy.stats.norm.pdf(h)
    same_column = jnp.where(sharp, shared, jax.nn.relu(first) * jax.nn.relu(other))
    second = mean[:, None, :, None] * mean[None, :, None, :]
    diagonal = jnp.eye(u.shape[1], dtype=bool)[None, None]
    return FeatureMoments(mean=mean, second=jnp.where(diagonal, same_column[..., None], second))
