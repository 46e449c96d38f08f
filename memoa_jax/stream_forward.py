"""Forward mode block by block: every pass of a stream carries its derivatives along.

One more stream per parameter, in the memory of as many more blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.placement import Together
from memoa_jax.stream_objective import Chain, raw, smooth, smooth_leaves, spreads, sum_blocks
from memoa_jax.types import Array, Tree


class Dual(NamedTuple):
    """Numbers, and beside them their derivatives: the same tree with a leading axis [m]."""

    value: Tree
    slopes: Tree


class Forward:
    """Gives the objective of a chain and its slopes [m]; compiled functions are kept with it."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._looks = [
            self._pass(functools.partial(chain.look, number)) for number in range(chain.answered)
        ]
        self._amount = self._pass(chain.amount)
        self._answers = [self._answer(number) for number in range(chain.answered)]

    def __call__(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Follow the chain from parameters [m]."""
        chain = self.chain
        told: tuple[Dual, ...] = ()
        for number in range(chain.answered):
            total = _Total()
            for found in chain.calls(self._looks[number], values, _beside(told)):
                total.add(found)
            with jax.enable_x64(True):
                found = self._answers[number](jnp.asarray(values), total.sums)
                told = (*told, chain.narrow(found))
            if number == chain.surveys:
                return float(found.value), np.asarray(found.slopes, np.float64)
        calls = list(chain.calls(self._amount, values, _beside(told)))
        value, weights = chain.join([call.value for call in calls])
        return value, weights @ np.asarray([call.slopes for call in calls], np.float64)

    def _pass(self, run: Callable[..., Tree]) -> Together:
        """Compile a pass."""

        def pass_(point: Array, told: Dual, *here: Any) -> Dual:
            def found(point: Array, told: Tree) -> Tree:
                return run(point, told, *here)

            return along(found, Dual((point, told.value), (_unit(point), told.slopes)))

        return self.chain.together(pass_)

    def _answer(self, number: int) -> Callable[..., Dual]:
        """Compile what turns sums into answers."""

        @jax.jit
        def answer(point: Array, sums: Dual) -> Dual:
            def met(point: Array, sums: Tree) -> Tree:
                return self.chain.answer(number, point, spreads(sums))

            return along(met, Dual((point, sums.value), (_unit(point), sums.slopes)))

        return answer


def along(function: Callable[..., Tree], at: Dual) -> Dual:
    """Differentiate along m directions; what is no floating-point number has slopes of zero."""
    found = smooth(function, at.value)
    moves = [
        slope
        for leaf, slope in zip(jax.tree.leaves(at.value), jax.tree.leaves(at.slopes), strict=True)
        if smooth_leaves(leaf)
    ]

    def one(move: list[Array]) -> Any:
        return jax.jvp(found.of, (found.values,), (move,), has_aux=True)

    value, slopes, others = jax.vmap(one, out_axes=(None, 0, None))(moves)
    nothing = [jnp.zeros((moves[0].shape[0],))] * len(others)
    return Dual(found.whole(value, others), found.whole(slopes, nothing))


@jax.jit
def _summed(found: Dual) -> Dual:
    """Sum over the blocks of a call."""
    return along(lambda value: sum_blocks(raw(value)), Dual((found.value,), (found.slopes,)))


class _Total:
    """Sums over calls, in float64."""

    def __init__(self) -> None:
        self.sums: Any = None

    def add(self, found: Dual) -> None:
        """Enter a call's blocks."""
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
            one = jax.device_get(_summed(exact))
        self.sums = one if self.sums is None else jax.tree.map(np.add, self.sums, one)


def _beside(told: tuple[Dual, ...]) -> Dual:
    return Dual(tuple(one.value for one in told), tuple(one.slopes for one in told))


def _unit(point: Array) -> Array:
    return jnp.eye(len(point), dtype=point.dtype)
