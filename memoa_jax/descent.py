"""A descent under way: where it stands, what it has seen, and how to keep all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memoa_jax.keeping import Keeper, Kept
from memoa_jax.types import Array, Scalar

Parameters = dict[str, Any]
Objective = Callable[[Parameters], Array]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a descent: where it was, and what it found there.

    `gradient` holds the objective's slopes in the unconstrained numbers.
    """

    parameters: Mapping[str, float]
    objective: float
    validation: float
    gradient: Mapping[str, float]


class Descent:
    """A descent under way: the steps so far, where it stands, and the optimiser's state."""

    def __init__(
        self,
        follow: Callable[[Parameters], tuple[Parameters, Scalar, Parameters]],
        validation: Objective | None,
        rule: optax.GradientTransformation,
        point: Parameters,
    ) -> None:
        self.follow: Callable[[Parameters], tuple[Parameters, Scalar, Parameters]] = follow
        self.validation: Objective | None = validation
        self.rule: optax.GradientTransformation = rule
        self.point: Parameters = point
        self.state: Any = rule.init(point)
        self.names: list[str] = list(point)
        self.history: list[Step] = []

    def advance(self) -> None:
        """Look where it stands, and take a step from there."""
        parameters, value, slopes = self.follow(self.point)
        seen = value if self.validation is None else self.validation(parameters)
        self.history.append(Step(plain(parameters), float(value), float(seen), plain(slopes)))
        updates, self.state = self.rule.update(slopes, self.state, self.point)
        self.point = optax.apply_updates(self.point, updates)

    def kept(self) -> Kept:
        """Return all of it."""
        rows = [
            [
                *(one.parameters[name] for name in self.names),
                *(one.gradient[name] for name in self.names),
                one.objective,
                one.validation,
            ]
            for one in self.history
        ]
        tree = {"point": self.point, "state": self.state, "history": np.asarray(rows)}
        return Kept(tree, {"steps": len(rows)})

    def resume(self, keeper: Keeper | None) -> int:
        """Take up what was kept; return how many steps that are."""

        def template(facts: dict[str, Any]) -> Any:
            rows = np.empty((facts["steps"], 2 * len(self.point) + 2))
            return {"point": self.point, "state": self.state, "history": rows}

        kept = None if keeper is None else keeper.resume(template)
        if kept is None:
            return 0
        self.point, self.state = (
            jax.tree.map(jnp.asarray, kept.tree[name]) for name in ("point", "state")
        )
        count = len(self.names)
        for row in kept.tree["history"].tolist():
            parameters, gradient = (
                dict(zip(self.names, part, strict=True))
                for part in (row[:count], row[count : 2 * count])
            )
            self.history.append(Step(parameters, row[-2], row[-1], gradient))
        return len(self.history)


def plain(values: Parameters) -> dict[str, float]:
    """Return numbers as Python's own."""
    return {name: float(np.asarray(value)) for name, value in values.items()}
