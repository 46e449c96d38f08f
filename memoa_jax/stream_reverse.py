"""Reverse mode block by block: a stream's passes forth, and then back in the other order.

However many parameters there are, it costs a handful of streams. Going back, a block's life is
computed again from states kept every sqrt(n) steps: memory does not grow with the population.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.placement import Together
from memoa_jax.stream_objective import (
    Chain,
    centres_of,
    is_smooth,
    raw,
    smooth,
    spreads,
    sum_blocks,
)
from memoa_jax.sums import Sums
from memoa_jax.types import Array, Tree


class Reverse:
    """Gives the objective of a chain and its slopes [m]; compiled functions are kept with it."""

    def __init__(self, chain: Chain) -> None:
        kept = max(math.isqrt(chain.stream.dimensions.points), 1)
        chain = dataclasses.replace(
            chain, stream=dataclasses.replace(chain.stream, steps_kept=kept)
        )
        numbers = range(chain.answered)
        self.chain = chain
        self._looks = [chain.together(functools.partial(chain.look, number)) for number in numbers]
        self._amount = chain.together(chain.amount)
        self._answers = [jax.jit(functools.partial(chain.answer, number)) for number in numbers]
        self._looks_back = [_look_back(chain, number) for number in numbers]
        self._amount_back = _amount_back(chain)
        self._answers_back = [_answer_back(chain, number) for number in numbers]

    def __call__(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """Follow the chain from parameters [m], and go back."""
        chain = self.chain
        told, sums = self._forth(values)
        if chain.measure == "server_rmse":
            value = float(told.pop())
            pulls = _Pulls(values, told)
            self._back(chain.surveys, values, told, sums, np.float64(1.0), pulls)
        else:
            value, weights = chain.join(list(chain.calls(self._amount, values, tuple(told))))
            pulls, weights = _Pulls(values, told), weights.astype(chain.stream.dtype)
            for found in chain.calls(self._amount_back, values, tuple(told), weights):
                pulls.add(*found)
        for number in reversed(range(chain.surveys)):
            self._back(number, values, told, sums, pulls.told[number], pulls)
        return value, pulls.point

    def _forth(self, values: np.ndarray) -> tuple[list[Tree], list[Tree]]:
        """Return the answers of all passes and the sums that they were made of."""
        chain = self.chain
        told: list[Tree] = []
        sums: list[Tree] = []
        for number in range(chain.answered):
            total = Sums()
            for found in chain.calls(self._looks[number], values, tuple(told)):
                total.add(found)
            sums.append(total.result())
            with jax.enable_x64(True):
                answer = self._answers[number](jnp.asarray(values), sums[-1])
                told.append(answer if number == chain.surveys else chain.narrow(answer))
        return told, sums

    def _back(
        self,
        number: int,
        values: np.ndarray,
        told: Sequence[Tree],
        sums: Sequence[Tree],
        pull: Tree,
        pulls: _Pulls,
    ) -> None:
        """Go back through an answer, pulled at by `pull`, and through the pass before it."""
        chain = self.chain
        centres = centres_of(sums[number])
        with jax.enable_x64(True):
            moments = raw(sums[number], centres)
            back = self._answers_back[number](jnp.asarray(values), moments, centres, pull)
            point, pull = jax.device_get(back)
        pulls.add(point, ())
        beside = chain.narrow((centres, pull))
        before = tuple(told[:number])
        for found in chain.calls(self._looks_back[number], values, before, *beside):
            pulls.add(*found)


def _look_back(chain: Chain, number: int) -> Together:
    """Compile the way back through a pass: from its sums to parameters and what was told."""

    def back(point: Array, told: Tree, centres: Tree, pull: Tree, *here: Any) -> Tree:
        def sums(point: Array, told: Tree) -> Tree:
            return sum_blocks(raw(chain.look(number, point, told, *here), centres))

        return pulled(sums, (point, told), pull)

    return chain.together(back)


def _amount_back(chain: Chain) -> Together:
    """Compile the way back through the last pass: from the calls' amounts, by their weights."""

    def back(point: Array, told: Tree, weights: Array, *here: Any) -> Tree:
        plan, firsts = chain.stream.plan, here[-1]

        def amount(point: Array, told: Tree) -> Array:
            return chain.amount(point, told, *here)

        return pulled(amount, (point, told), weights[firsts[0] // (plan.size * plan.blocks)])

    return chain.together(back)


def _answer_back(chain: Chain, number: int) -> Callable[..., Tree]:
    """Compile the way back through an answer: to parameters and the sums it was made of."""

    @jax.jit
    def back(point: Array, moments: Tree, centres: Tree, pull: Tree) -> Tree:
        def answer(point: Array, moments: Tree) -> Tree:
            return chain.answer(number, point, spreads(moments, centres))

        return pulled(answer, (point, moments), pull)

    return back


def pulled(function: Callable[..., Tree], at: tuple[Tree, ...], pull: Tree) -> Tree:
    """Return the derivatives by `at` of a function's result weighted by `pull`, a tree like `at`.

    What is no floating-point number has a derivative of zero.
    """
    leaves, structure = jax.tree.flatten(at)
    found = smooth(function, at)
    result, back, others = jax.vjp(found.of, found.values, has_aux=True)
    kinds = jax.tree.leaves(found.whole([True] * len(result), [False] * len(others)))
    chosen = [leaf for leaf, kind in zip(jax.tree.leaves(pull), kinds, strict=True) if kind]
    (slopes,) = back(chosen)
    each = iter(slopes)
    return jax.tree.unflatten(
        structure, [next(each) if is_smooth(leaf) else jnp.zeros(()) for leaf in leaves]
    )


class _Pulls:
    """What pulls at the parameters, [m], and at each of what was told; sums in float64."""

    def __init__(self, values: np.ndarray, told: Sequence[Tree]) -> None:
        self.point = np.zeros(len(values))
        self.told = [
            jax.tree.map(lambda leaf: np.zeros(np.shape(leaf) if is_smooth(leaf) else ()), one)
            for one in told
        ]

    def add(self, point: Any, told: Sequence[Tree]) -> None:
        """Enter what a call came to; it may have been told the first few only."""
        self.point = self.point + point
        for number, one in enumerate(told):
            self.told[number] = jax.tree.map(np.add, self.told[number], one)
