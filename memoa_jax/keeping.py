"""What a run asks of whoever keeps it: where to go on from, and when to lay down what is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from memoa_jax.types import Tree


class Kept(NamedTuple):
    """A run as it stood: its arrays as a pytree, and plain facts beside them."""

    tree: Tree
    facts: dict[str, Any]


class Keeper(Protocol):
    """Keeps a run that may be cut off. Both calls come between compiled ones, on the host."""

    def resume(self, template: Callable[[dict[str, Any]], Tree]) -> Kept | None:
        """Return what was kept of this run; None where it begins.

        Args:
          template: of the facts; a pytree of the shapes that the arrays must have.
        """

    def offer(
        self,
        done: int,
        of: int,
        keep: Callable[[], Kept],
        partial: Callable[[], Any] | None = None,
    ) -> None:
        """Be told how far the run is; it may be kept now, and it may be ended here.

        Args:
          done: compiled calls or steps that are over.
          of: how many there will be.
          keep: returns the run as it stands; costs a copy to the host.
          partial: returns the result so far, where there is one.

        Raises:
          KeyboardInterrupt: to end the run, after it was kept.
        """
