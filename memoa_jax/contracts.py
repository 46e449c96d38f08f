"""The contracts of `memoa_jax.types`, checked: what a part that somebody else wrote gets wrong.

Shapes, dtypes and structures are checked without computing anything (`jax.eval_shape`), at the
sizes of the run; a handful of agents then live through the first step, to see that they are finite
and that their luck is their own. A fault names the function, what it returned, and what is allowed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax import types
from memoa_jax.draws import seed_words
from memoa_jax.plugins import PluginError, speaking
from memoa_jax.timeseries import Series, make_series, part
from memoa_jax.types import Action, Agents, Array, Dimensions, Observation, Population, Tree

Shaped: Any = jax.ShapeDtypeStruct
"""A stand-in for an array, of which only shape and dtype are known."""
FEW = 3
"""Agents that live through the first step for a check."""
CLOSE = 1e-3
"""How far an agent's features may differ between two blocks, relative to the largest: rounding."""


class ContractError(PluginError):
    """A part that does not keep its contract, in one line."""


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
    _members(encoder, types.Encoder, "encoder")
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
    parameters, state = _shapes(begin, encoder, crowd, dims=dims)
    shape = (dims.inputs, sizes.agents) if own_inputs else (dims.inputs,)
    found = _shapes(encode, encoder, parameters, state, crowd, Shaped(shape, dtype))
    _stepped("encode", found, state, "features")
    _is("encode", "features", found[1], "[d, p, N]", _cube(sizes), dtype)

    def state_at(agents: int, dims: Dimensions) -> Tree:
        crowd = Agents(Shaped((agents,), jnp.uint32), Shaped((2,), jnp.uint32))
        return _shapes(begin, encoder, crowd, dims=dims)[1]

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
    _members(policy, types.Policy, "policy")
    dims, dtype, count = sizes.dimensions, sizes.dtype, sizes.agents

    def init(policy: Any, agents: int, dims: Dimensions) -> Tree:
        with sizes.calling("init"):
            return policy.init(dims, agents, dtype)

    def act(policy: Any, state: Tree, observation: Observation) -> Any:
        with sizes.calling("act"):
            return policy.act(state, observation)

    state = _shapes(init, policy, agents=count, dims=dims)
    found = _shapes(act, policy, state, _observation(sizes, Population(Shaped((), dtype))))
    _stepped("act", found, state, "action")
    action = found[1]
    if not isinstance(action, Action):
        raise ContractError(
            f"act returned {_named(action)} as its action: "
            "allowed is types.Action(base, control, status)"
        )
    _is("act", "base", action.base, "[d, N]", (dims.outputs, count), dtype)
    _is("act", "control", action.control, "[p, N]", (dims.features, count), dtype)
    _is("act", "status", action.status, "a scalar", (), np.dtype("int32"))
    _remembers_no_past(lambda n, dims: _shapes(init, policy, agents=n, dims=dims), sizes)
    if streamed and getattr(policy, "surveys", None) == ():
        alone = Population(Shaped((), dtype), combine=_refuse_sums, widest=_refuse_sums)
        _shapes(act, policy, state, _observation(sizes, alone))
    few = _few(sizes)
    first: Action = jax.jit(lambda one: act(one, init(one, FEW, few.dimensions), _seen(few))[1])(
        policy
    )
    _finite("act", base=first.base, control=first.control)


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
    _members(mixture, types.Mixture, "mixture")
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
    state = _shapes(init, mixture, agents=count, dims=dims)
    following = Shaped((dims.outputs, count), dtype)
    found = _shapes(mix, mixture, state, _observation(sizes, everyone), following)
    _stepped("mix", found, state, "output")
    _is("mix", "output", found[1], "[d]", (dims.outputs,), dtype)
    weights = _shapes(weigh, mixture, state, everyone)
    _is("weights", "weights", weights, "[N]", (count,), dtype)
    _remembers_no_past(lambda n, dims: _shapes(init, mixture, agents=n, dims=dims), sizes)
    few = _few(sizes)
    seen = _seen(few)

    def first(mixture: Any) -> Array:
        state, output = mix(mixture, init(mixture, FEW, dims), seen, seen.prediction)
        return jnp.concatenate([output, weigh(mixture, state, seen.population)])

    _finite("mix", output=jax.jit(first)(mixture))


def check_series(series: Any) -> Series:
    """Return a series that was made elsewhere, checked as those that are made here.

    Raises:
      ContractError: if it is no `Series`.
      ValueError: as `make_series`.
    """
    if not isinstance(series, Series):
        allowed = "allowed is a memoa_jax.Series (make_series(inputs, targets))"
        raise ContractError(f"returned {_named(series)}: {allowed}")
    checked = make_series(series.inputs, series.targets, series.name)
    return part(checked, series.scored_from)


def _members(made: Any, contract: type, family: str) -> None:
    """Refuse what has not the contract's functions, or is no pytree of numbers."""
    functions = {
        name: list(inspect.signature(function).parameters)[1:]
        for name, function in vars(contract).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }
    calls = ", ".join(f"{name}({', '.join(names)})" for name, names in functions.items())
    if made is None or isinstance(made, type):
        raise ContractError(
            f"returned {'None' if made is None else f'the class {made.__name__}'}: "
            f"allowed is an object with {calls}"
        )
    kind = type(made).__name__
    for name, parameters in functions.items():
        call = f"{name}({', '.join(parameters)})"
        function = getattr(made, name, None)
        if not callable(function):
            raise ContractError(f"{kind} has no {name}: allowed is an {family} with {call}")
        try:
            signature = inspect.signature(function)
            signature.bind(*parameters)
        except ValueError:  # Python cannot tell
            continue
        except TypeError:
            raise ContractError(f"{kind}.{name} takes {signature}: allowed is {call}") from None
    if family == "encoder":
        features = getattr(made, "features", None)
        if type(features) is not int or features < 1:
            allowed = "allowed is p, a whole number >= 1"
            raise ContractError(f"{kind}.features = {features!r}: {allowed}")
    _is_tree(made, kind)


def _is_tree(made: Any, kind: str) -> None:
    structure: Any
    flat, structure = jax.tree_util.tree_flatten_with_path(made)
    if any(leaf is made for _, leaf in flat):
        allowed = "allowed is a class under @memoa_jax.types.record"
        raise ContractError(f"{kind} is no pytree: {allowed}")
    for path, leaf in flat:
        where = f"{kind}{jax.tree_util.keystr(path)}"
        kept = isinstance(leaf, bool | int | float | np.ndarray | np.generic | jax.Array)
        if not kept or (not isinstance(leaf, bool | int | float) and leaf.dtype.kind not in "biuf"):
            allowed = "allowed is real numbers and arrays; what is none is a field = static()"
            raise ContractError(f"{where} is {_named(leaf)}: {allowed}")
    try:
        hash(structure)
    except TypeError as error:
        allowed = "allowed is what can be hashed; arrays and lists of numbers are data"
        raise ContractError(f"{kind} has a static field that cannot be ({error}): {allowed}") from (
            None
        )
    again = jax.tree.unflatten(structure, [leaf for _, leaf in flat])
    if jax.tree.structure(again) != structure:
        allowed = "allowed is that flattening and unflattening give the same"
        raise ContractError(f"{kind} changes when it is flattened: {allowed}")


def _shapes(function: Callable[..., Any], *arguments: Any, **fixed: Any) -> Any:
    """Return the shapes and dtypes of what a function returns, without computing it."""

    def call(*traced: Any) -> Any:
        return function(*traced, **fixed)

    return jax.eval_shape(call, *arguments)


def _stepped(function: str, found: Any, state: Tree, what: str) -> None:
    """Refuse what is no pair of the next state, as the one before, and something else."""
    if not (type(found) is tuple and len(found) == 2):
        said = f"{len(found)} things" if type(found) is tuple else _named(found)
        raise ContractError(f"{function} returned {said}: allowed is (state, {what})")
    before: Any = jax.tree.structure(state)
    after: Any = jax.tree.structure(found[0])
    if before != after:
        raise ContractError(
            f"{function} returned a state of structure {_cut(after)}: allowed is that of init, "
            f"{_cut(before)}"
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(found[0]), strict=True)
    for (path, first), second in pairs:
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            where = f"state{jax.tree_util.keystr(path)}"
            allowed = f"allowed is that of init, {_typed(first)}"
            raise ContractError(f"{function} returned {where} as {_typed(second)}: {allowed}")


def _is(
    function: str, what: str, found: Any, axes: str, shape: tuple[int, ...], dtype: Any
) -> None:
    """Refuse an array of another shape or dtype. A whole number of Python's own is any integer."""
    allowed = f"allowed is {axes} = {_words(shape, dtype)}" if shape else _words(shape, dtype)
    allowed = allowed if shape else f"allowed is {axes}, {dtype}"
    if not isinstance(found, Shaped):
        raise ContractError(f"{function} returned {what} as {_named(found)}: {allowed}")
    weak = getattr(found, "weak_type", False) and found.dtype.kind == dtype.kind
    if found.shape != shape or (found.dtype != dtype and not weak):
        raise ContractError(f"{function} returned {what} of {_typed(found)}: {allowed}")


def _remembers_no_past(state_at: Callable[[int, Dimensions], Tree], sizes: Sizes) -> None:
    """Refuse a state that grows with the series and with the population: [time, agents]."""
    dims, agents = sizes.dimensions, sizes.agents
    if agents < 2 or dims.points < 3:
        return
    shorter = Dimensions(dims.points - 1, dims.inputs, dims.outputs, dims.features)
    states = (state_at(agents, dims), state_at(agents, shorter), state_at(agents - 1, dims))
    whole, late, fewer = (jax.tree_util.tree_leaves_with_path(state) for state in states)
    for (path, leaf), (_, other), (_, third) in zip(whole, late, fewer, strict=False):
        if leaf.shape not in (other.shape, third.shape):
            raise ContractError(
                f"init returned state{jax.tree_util.keystr(path)} of {_typed(leaf)}, which grows "
                "with the series and with the population: allowed is what the next step needs"
            )


def _first_features(encoder: Any, sizes: Sizes, own_inputs: bool) -> None:
    """Refuse features that are not finite, or that depend on the block their agent sits in."""
    count = min(FEW, sizes.agents)

    def lived(encoder: Any, index: Array) -> Array:
        agents = Agents(index, seed_words(jax.random.key(0)))
        parameters = encoder.parameters(agents, sizes.dimensions, sizes.dtype)
        state = encoder.init(parameters, agents, sizes.dimensions, sizes.dtype)
        found = []
        for step, row in enumerate(sizes.inputs):
            own = jnp.broadcast_to(row[:, None], (len(row), len(index))) if own_inputs else row
            state, features = encoder.encode(
                parameters, state, agents, jnp.asarray(own), jnp.int32(step)
            )
            found.append(features)
        return jnp.stack(found)

    index = jnp.arange(count, dtype=jnp.uint32)
    with sizes.calling("encode"):
        together, apart = jax.jit(lambda one: (lived(one, index), lived(one, index[1:])))(encoder)
    _finite("encode", features=together)
    if count < 2:
        return
    gap = float(jnp.max(jnp.abs(together[..., 1:] - apart)))
    if gap > CLOSE * max(float(jnp.max(jnp.abs(together))), 1e-6):
        raise ContractError(
            f"encode gives agent 1 other features ({gap:.1e} apart) in a block that agent 0 is not "
            "in: allowed is luck of an agent's own, memoa_jax.draws by agents.index"
        )


def _finite(function: str, **found: Any) -> None:
    for name, values in found.items():
        if not bool(jnp.all(jnp.isfinite(values))):
            allowed = "allowed is finite numbers"
            raise ContractError(
                f"{function} returned {name} with NaN or infinity at step 0: {allowed}"
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
    )


def _cube(sizes: Sizes) -> tuple[int, int, int]:
    return (sizes.dimensions.outputs, sizes.dimensions.features, sizes.agents)


def _typed(leaf: Any) -> str:
    return f"shape {_words(leaf.shape, leaf.dtype)}"


def _words(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{tuple(shape)}, {np.dtype(dtype)}"


def _named(value: Any) -> str:
    if isinstance(value, Shaped):
        return f"an array of {_typed(value)}"
    return "None" if value is None else f"of type {type(value).__name__}"


def _cut(structure: Any) -> str:
    text = str(structure).removeprefix("PyTreeDef(").removesuffix(")")
    return text if len(text) <= 80 else text[:77] + "..."
