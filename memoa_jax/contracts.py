"""The contracts of `memoa_jax.types`, checked: what a part that somebody else wrote gets wrong.

Shapes, dtypes and structures are checked without computing anything (`jax.eval_shape`), at the
sizes of the run; a handful of agents then live through the first step, to see that they are finite
and that their luck is their own. A fault names the function, what it returned, and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax import types
from memoa_jax.contract_faults import (
    ContractError,
    Shaped,
    finite,
    has_functions,
    is_array,
    named,
    same,
    shapes_of,
    stepped,
    typed,
)
from memoa_jax.draws import seed_words
from memoa_jax.linalg import applied
from memoa_jax.plugins import speaking
from memoa_jax.timeseries import Series, make_series, part
from memoa_jax.types import Action, Agents, Array, Dimensions, Observation, Population, Tree

FEW = 3
"""Agents that live through the first step for a check."""
CLOSE = 1e-3
"""How far an agent's features may differ between two blocks, relative to the largest: rounding."""


@dataclass(frozen=True)
class Sizes:
    """What a part is checked for: the run's sizes, its agents and dtype.

    `inputs` [2, k] are x_0 and x_1, `target` [d] is y_0. `files` are the part's own sources: an
    error inside of it is told with the line in them.
    """

    dimensions: Dimensions
    agents: int
    dtype: Any
    inputs: np.ndarray
    target: np.ndarray
    files: Sequence[Path] = field(default=())

    @classmethod
    def of(
        cls, series: Series, features: int, agents: int, dtype: str, files: Sequence[Path] = ()
    ) -> Sizes:
        """Take them from a series and the encoder's features."""
        points, outputs = np.shape(series.targets)
        inputs = np.asarray(series.inputs)
        dimensions = Dimensions(points, inputs.shape[1], outputs, features)
        first = inputs[:2].astype(dtype), np.asarray(series.targets)[0].astype(dtype)
        return cls(dimensions, agents, np.dtype(dtype), *first, files)

    def calling(self, function: str) -> Any:
        """Turn what a function of the part raises into one line."""
        return speaking(self.files, function)


def check_encoder(encoder: Any, sizes: Sizes, *, own_inputs: bool = False) -> None:
    """Check an encoder against `types.Encoder`.

    Args:
      encoder: what is to be one.
      sizes: of the run; its features are the encoder's own.
      own_inputs: whether every agent has inputs of its own, [k, N].

    Raises:
      ContractError: naming the function that breaks the contract.
      PluginError: if one of its functions raises.

    Example:
      >>> from memoa_jax import random_features, series
      >>> check_encoder(random_features(4), Sizes.of(series.periodic(20), 4, 5, "float32"))
    """
    has_functions(encoder, types.Encoder, "encoder")
    dims, dtype = sizes.dimensions, sizes.dtype

    def begin(encoder: Any, agents: Agents, dims: Dimensions) -> tuple[Tree, Tree]:
        if isinstance(encoder.features, jax.core.Tracer):
            raise ContractError("features is data: allowed is a static number, a field = static()")
        with sizes.calling("parameters"):
            parameters = encoder.parameters(agents, dims, dtype)
        with sizes.calling("init"):
            return parameters, encoder.init(parameters, agents, dims, dtype)

    def encode(encoder: Any, parameters: Tree, state: Tree, agents: Agents, inputs: Array) -> Any:
        with sizes.calling("encode"):
            return encoder.encode(parameters, state, agents, inputs, jnp.int32(0))

    crowd = Agents(Shaped((sizes.agents,), jnp.uint32), Shaped((2,), jnp.uint32))
    parameters, state = shapes_of(begin, encoder, crowd, dims=dims)
    shape = (dims.inputs, sizes.agents) if own_inputs else (dims.inputs,)
    found = shapes_of(encode, encoder, parameters, state, crowd, Shaped(shape, dtype))
    stepped("encode", found, state, "features")
    is_array("encode", "features", found[1], "[d, p, N]", _cube(sizes), dtype)

    def state_at(agents: int, dims: Dimensions) -> Tree:
        if (agents, dims) == (sizes.agents, sizes.dimensions):
            return state
        crowd = Agents(Shaped((agents,), jnp.uint32), Shaped((2,), jnp.uint32))
        return shapes_of(begin, encoder, crowd, dims=dims)[1]

    _remembers_no_past(state_at, sizes)
    _first_features(encoder, sizes, own_inputs)


def check_policy(policy: Any, sizes: Sizes, *, streamed: bool = False) -> None:
    """Check a policy against `types.Policy`.

    Args:
      policy: what is to be one.
      sizes: of the run.
      streamed: whether it is to run block by block: without surveys it may then ask the
        population for nothing.

    Raises:
      ContractError, PluginError: as `check_encoder`.

    Example:
      >>> from memoa_jax import greedy, series
      >>> check_policy(greedy(), Sizes.of(series.periodic(20), 4, 5, "float32"))
    """
    has_functions(policy, types.Policy, "policy")
    dims, dtype, count = sizes.dimensions, sizes.dtype, sizes.agents

    def init(policy: Any, agents: int, dims: Dimensions) -> Tree:
        with sizes.calling("init"):
            return policy.init(dims, agents, dtype)

    def act(policy: Any, state: Tree, observation: Observation) -> Any:
        with sizes.calling("act"):
            return policy.act(state, observation)

    state = shapes_of(init, policy, agents=count, dims=dims)
    found = shapes_of(act, policy, state, _observation(sizes, Population(Shaped((), dtype))))
    stepped("act", found, state, "action")
    action = found[1]
    if not isinstance(action, Action):
        raise ContractError(
            f"act returned {named(action)} as its action: "
            "allowed is types.Action(base, control, status)"
        )
    is_array("act", "base", action.base, "[d, N]", (dims.outputs, count), dtype)
    is_array("act", "control", action.control, "[p, N]", (dims.features, count), dtype)
    is_array("act", "status", action.status, "a scalar", (), np.dtype("int32"))
    if action.move is not None:
        is_array("act", "move", action.move, "[d, N]", (dims.outputs, count), dtype)
    if action.effort is not None:
        is_array("act", "effort", action.effort, "[N]", (count,), dtype)
    _remembers_no_past(lambda n, dims: shapes_of(init, policy, agents=n, dims=dims), sizes)
    if streamed and getattr(policy, "surveys", None) == ():
        alone = Population(Shaped((), dtype), combine=_refuse_sums, widest=_refuse_sums)
        shapes_of(act, policy, state, _observation(sizes, alone))
    few = _few(sizes)
    first: Action = jax.jit(lambda one: act(one, init(one, FEW, few.dimensions), _seen(few))[1])(
        policy
    )
    finite("act", base=first.base, control=first.control)
    features = _seen(few).features
    same("act", "move", first.move, "features @ control", applied(features, first.control))
    same("act", "effort", first.effort, "|control|^2", jnp.sum(first.control**2, axis=0))


def check_mixture(mixture: Any, sizes: Sizes) -> None:
    """Check a mixture against `types.Mixture`.

    Args:
      mixture: what is to be one.
      sizes: of the run.

    Raises:
      ContractError, PluginError: as `check_encoder`.

    Example:
      >>> from memoa_jax import ridge_mixture, series
      >>> check_mixture(ridge_mixture(), Sizes.of(series.periodic(20), 4, 5, "float32"))
    """
    has_functions(mixture, types.Mixture, "mixture")
    dims, dtype, count = sizes.dimensions, sizes.dtype, sizes.agents

    def init(mixture: Any, agents: int, dims: Dimensions) -> Tree:
        with sizes.calling("init"):
            return mixture.init(dims, agents, dtype)

    def mix(mixture: Any, state: Tree, observation: Observation, following: Array) -> Any:
        with sizes.calling("mix"):
            return mixture.mix(state, observation, following)

    def weigh(mixture: Any, state: Tree, population: Population) -> Any:
        with sizes.calling("weights"):
            return mixture.weights(state, population)

    everyone = Population(Shaped((), dtype))
    state = shapes_of(init, mixture, agents=count, dims=dims)
    following = Shaped((dims.outputs, count), dtype)
    found = shapes_of(mix, mixture, state, _observation(sizes, everyone), following)
    stepped("mix", found, state, "output")
    is_array("mix", "output", found[1], "[d]", (dims.outputs,), dtype)
    weights = shapes_of(weigh, mixture, state, everyone)
    is_array("weights", "weights", weights, "[N]", (count,), dtype)
    _remembers_no_past(lambda n, dims: shapes_of(init, mixture, agents=n, dims=dims), sizes)
    few = _few(sizes)
    seen = _seen(few)

    def first(mixture: Any) -> Array:
        state, output = mix(mixture, init(mixture, FEW, dims), seen, seen.prediction)
        return jnp.concatenate([output, weigh(mixture, state, seen.population)])

    finite("mix", output=jax.jit(first)(mixture))


def check_series(series: Any) -> Series:
    """Return a series that was made elsewhere, checked as those that are made here.

    Raises:
      ContractError: if it is no `Series`.
      ValueError: as `make_series`.
    """
    if not isinstance(series, Series):
        allowed = "allowed is a memoa_jax.Series (make_series(inputs, targets))"
        raise ContractError(f"returned {named(series)}: {allowed}")
    checked = make_series(series.inputs, series.targets, series.name)
    return part(checked, series.scored_from)


def _remembers_no_past(state_at: Callable[[int, Dimensions], Tree], sizes: Sizes) -> None:
    """Refuse a state that grows with the series and with the population: [time, agents]."""
    dims, agents = sizes.dimensions, sizes.agents
    whole = jax.tree_util.tree_leaves_with_path(state_at(agents, dims))
    if agents < 2 or dims.points < 3 or all(x.size < dims.points * agents for _, x in whole):
        return
    shorter = Dimensions(dims.points - 1, dims.inputs, dims.outputs, dims.features)
    late, fewer = (jax.tree.leaves(state_at(*at)) for at in ((agents, shorter), (agents - 1, dims)))
    for (path, leaf), other, third in zip(whole, late, fewer, strict=False):
        if leaf.shape not in (other.shape, third.shape):
            raise ContractError(
                f"init returned state{jax.tree_util.keystr(path)} of {typed(leaf)}, which grows "
                "with the series and with the population: allowed is what the next step needs"
            )


def _first_features(encoder: Any, sizes: Sizes, own_inputs: bool) -> None:
    """Refuse features that are not finite, or that depend on an agent's place in its block."""
    dims, dtype = sizes.dimensions, sizes.dtype

    def lived(encoder: Any, index: Array) -> Array:
        agents = Agents(index, seed_words(jax.random.key(0)))
        parameters = encoder.parameters(agents, dims, dtype)

        def step(state: Tree, row: tuple[Array, Array]) -> tuple[Tree, Array]:
            seen = jnp.broadcast_to(row[0][:, None], (dims.inputs, len(index)))
            inputs = seen if own_inputs else row[0]
            return encoder.encode(parameters, state, agents, inputs, row[1])

        first = encoder.init(parameters, agents, dims, dtype)
        return jax.lax.scan(step, first, (jnp.asarray(sizes.inputs), jnp.arange(2)))[1]

    index = np.arange(min(FEW, sizes.agents), dtype=np.uint32)
    life = jax.jit(lived)
    with sizes.calling("encode"):
        found, turned = life(encoder, index), life(encoder, np.roll(index, 1))
    finite("encode", features=found)
    gap = float(jnp.max(jnp.abs(jnp.roll(found, 1, axis=-1) - turned)))
    if gap > CLOSE * float(jnp.max(jnp.abs(found))):
        raise ContractError(
            f"encode gives agent 0 other features ({gap:.1e} apart) at another place of its block: "
            "allowed is luck of an agent's own, memoa_jax.draws by agents.index"
        )


def _refuse_sums(values: Array) -> Array:
    raise ContractError(
        "act asks the population for a sum, and names no survey: in a stream allowed is a sum that "
        "one of policy.surveys asks for (memoa_jax.types.Survey)"
    )


def _observation(sizes: Sizes, population: Population) -> Observation:
    dims, dtype = sizes.dimensions, sizes.dtype
    return Observation(
        step=Shaped((), jnp.int32),
        target=Shaped((dims.outputs,), dtype),
        known=Shaped((), bool),
        prediction=Shaped((dims.outputs, sizes.agents), dtype),
        features=Shaped(_cube(sizes), dtype),
        population=population,
        voters=population,
        agents=Agents(index=Shaped((sizes.agents,), jnp.uint32), key=Shaped((2,), jnp.uint32)),
    )


def _few(sizes: Sizes) -> Sizes:
    return Sizes(sizes.dimensions, FEW, sizes.dtype, sizes.inputs, sizes.target, sizes.files)


def _seen(sizes: Sizes) -> Observation:
    """Return what a few agents see at step 0, with made-up features."""
    rng, count = np.random.default_rng(0), sizes.agents
    features = jnp.asarray(rng.normal(size=_cube(sizes)), sizes.dtype)
    target = jnp.asarray(sizes.target)
    everyone = Population(jnp.asarray(count, sizes.dtype))
    return Observation(
        step=jnp.int32(0),
        target=target,
        known=jnp.asarray(True),
        prediction=jnp.broadcast_to(target[:, None], (len(target), count)),
        features=features,
        population=everyone,
        voters=everyone,
        agents=Agents(index=jnp.arange(count, dtype=jnp.uint32), key=jnp.zeros(2, jnp.uint32)),
    )


def _cube(sizes: Sizes) -> tuple[int, int, int]:
    return (sizes.dimensions.outputs, sizes.dimensions.features, sizes.agents)
