"""Sums over the blocks of a population, on the host."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from memoa_jax.spread import Spread
from memoa_jax.types import Tree


class Sums:
    """Sums over blocks in their order, in float64: plain ones, and `Spread`s joined by theirs."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._structure: Any = None

    def add(self, found: Tree) -> None:
        """Enter a call's blocks: every leaf [blocks, ...]."""
        leaves, self._structure = jax.tree.flatten(found, is_leaf=_is_spread)
        leaves = [
            _join(leaf) if _is_spread(leaf) else np.sum(leaf, axis=0, dtype=np.float64)
            for leaf in leaves
        ]
        if self._leaves:
            leaves = [
                _join(_stack(old, new)) if _is_spread(new) else old + new
                for old, new in zip(self._leaves, leaves, strict=True)
            ]
        self._leaves = leaves

    @property
    def leaves(self) -> list[Any]:
        """The sums so far, without their structure."""
        return self._leaves

    @classmethod
    def of(cls, leaves: list[Any], like: Tree) -> Sums:
        """Return the sums that these are the leaves of, over what is built as `like`."""
        sums = cls()
        sums._leaves, sums._structure = leaves, jax.tree.structure(like, is_leaf=_is_spread)
        return sums

    def result(self) -> Tree:
        """Return the sums over all blocks entered, NumPy float64."""
        return jax.tree.unflatten(self._structure, self._leaves)


def shapes(found: Tree) -> list[Any]:
    """Return the shapes of the leaves of sums over what has the shapes of `found`."""
    return [
        jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape[1:], np.dtype(np.float64)), leaf)
        for leaf in jax.tree.leaves(found, is_leaf=_is_spread)
    ]


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, Spread)


def _stack(*spreads: Spread) -> Spread:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *spreads)


def _join(spreads: Spread) -> Spread:
    """Join the spreads of blocks, leaves [blocks, n, ...], about their common mean."""
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), spreads).reflected_back()
    count, mean, scatter = exact.count, exact.mean, exact.scatter
    total = count.sum(axis=0)
    share = (count / np.maximum(total, 1.0))[..., None]
    common = np.sum(share * mean, axis=0)
    apart = mean - common
    between = (count[..., None] * apart)[..., :, None] * apart[..., None, :]
    joint = np.sum(scatter + between, axis=0)
    return Spread(count=total, mean=common, scatter=joint, householder=np.zeros_like(common))
