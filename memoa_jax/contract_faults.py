"""What makes a part no part: wrong functions, no pytree, other shapes, dtypes or structures.

Each function raises one line that says what was found and what is allowed; `memoa_jax.contracts`
says of which function of which part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.plugins import PluginError
from memoa_jax.types import Tree

Shaped: Any = jax.ShapeDtypeStruct
"""A stand-in for an array, of which only shape and dtype are known."""


class ContractError(PluginError):
    """A part that does not keep its contract, in one line."""


def has_functions(made: Any, contract: type, family: str) -> None:
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
        if not isinstance(features, int) or isinstance(features, bool) or features < 1:
            allowed = "allowed is p, a whole number >= 1"
            raise ContractError(f"{kind}.features = {features!r}: {allowed}")
    is_tree(made, kind)


def is_tree(made: Any, kind: str) -> None:
    """Refuse what is no pytree of real numbers with the rest static."""
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
            raise ContractError(f"{where} is {named(leaf)}: {allowed}")
    try:
        hash_all(structure)
    except TypeError as error:
        allowed = "allowed is what can be hashed; arrays and lists of numbers are data"
        raise ContractError(
            f"{kind} has a static field that cannot be hashed ({error}): {allowed}"
        ) from None
    again = jax.tree.unflatten(structure, [leaf for _, leaf in flat])
    if jax.tree.structure(again) != structure:
        allowed = "allowed is that flattening and unflattening give the same"
        raise ContractError(f"{kind} changes when it is flattened: {allowed}")


def hash_all(structure: Any) -> None:
    """Hash what is static at every node; the hash of a structure as a whole leaves it out."""
    node = structure.node_data()
    hash(node and node[1])
    for child in structure.children():
        hash_all(child)


def shapes_of(function: Callable[..., Any], *arguments: Any, **fixed: Any) -> Any:
    """Return the shapes and dtypes of what a function returns, without computing it."""

    def call(*traced: Any) -> Any:
        return function(*traced, **fixed)

    return jax.eval_shape(call, *arguments)


def stepped(function: str, found: Any, state: Tree, what: str) -> None:
    """Refuse what is no pair of the next state, as the one before, and something else."""
    if not (type(found) is tuple and len(found) == 2):
        said = f"{len(found)} things" if type(found) is tuple else named(found)
        raise ContractError(f"{function} returned {said}: allowed is (state, {what})")
    before: Any = jax.tree.structure(state)
    after: Any = jax.tree.structure(found[0])
    if before != after:
        raise ContractError(
            f"{function} returned a state of structure {cut_short(after)}: "
            f"allowed is that of init, {cut_short(before)}"
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(found[0]), strict=True)
    for (path, first), second in pairs:
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            where = f"state{jax.tree_util.keystr(path)}"
            allowed = f"allowed is that of init, {typed(first)}"
            raise ContractError(f"{function} returned {where} as {typed(second)}: {allowed}")


def is_array(
    function: str, what: str, found: Any, axes: str, shape: tuple[int, ...], dtype: Any
) -> None:
    """Refuse an array of another shape or dtype. A whole number of Python's own is any integer."""
    allowed = f"allowed is {axes} = {words(shape, dtype)}" if shape else words(shape, dtype)
    allowed = allowed if shape else f"allowed is {axes}, {dtype}"
    if not isinstance(found, Shaped):
        raise ContractError(f"{function} returned {what} as {named(found)}: {allowed}")
    weak = getattr(found, "weak_type", False) and found.dtype.kind == dtype.kind
    if found.shape != shape or (found.dtype != dtype and not weak):
        raise ContractError(f"{function} returned {what} of {typed(found)}: {allowed}")


def finite(function: str, **found: Any) -> None:
    """Refuse NaN and infinity in what a function returned."""
    for name, values in found.items():
        if not bool(jnp.all(jnp.isfinite(values))):
            allowed = "allowed is finite numbers"
            raise ContractError(
                f"{function} returned {name} with NaN or infinity at step 0: {allowed}"
            )


def same(function: str, what: str, found: Any, name: str, expected: Any) -> None:
    """Refuse what a function returned, if anything, where it is not what its name says."""
    if found is None:
        return
    off = float(jnp.max(jnp.abs(found - expected), initial=0.0))
    if not off <= 1e-3 * (1.0 + float(jnp.max(jnp.abs(expected), initial=0.0))):
        raise ContractError(f"{function} returned {what} off by {off:.3g}: allowed is {name}")


def typed(leaf: Any) -> str:
    """Write an array's shape and dtype."""
    return f"shape {words(leaf.shape, leaf.dtype)}"


def words(shape: tuple[int, ...], dtype: Any) -> str:
    """Write a shape and a dtype."""
    return f"{tuple(shape)}, {np.dtype(dtype)}"


def named(value: Any) -> str:
    """Say what a value is that is not what was wanted."""
    if isinstance(value, Shaped):
        return f"an array of {typed(value)}"
    return "None" if value is None else f"of type {type(value).__name__}"


def cut_short(structure: Any) -> str:
    """Write a pytree's structure, shortened."""
    text = str(structure).removeprefix("PyTreeDef(").removesuffix(")")
    return text if len(text) <= 80 else text[:77] + "..."
