"""Keeps a run on the disk: every so often, and when somebody asks it to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from memoa_jax.checkpoint import DamagedError, Store, from_arrays, to_arrays
from memoa_jax.keeping import Kept
from memoa_jax.stopping import Stop
from memoa_jax.types import Tree

LOG = logging.getLogger(__name__)
ROOT = "kept"
"""What the names of a run's arrays begin with."""


@dataclass
class DiskKeeper:
    """A `Keeper` with a store of its own. Of several processes the first one writes, all read.

    Args:
      store: where.
      every: seconds between two checkpoints; None keeps only what somebody who stops the run
        leaves behind.
      stop: tells when to end.
      say: told, in one line, where the run goes on.
      warn: told which checkpoints were damaged, or cannot be written; None: `say` is.
      prepare: called before a checkpoint is written.
      on_partial: given how far the run is, and its result so far, where there is one.
      on_kept: told how far a run is that has just been kept.
    """

    store: Store
    every: float | None
    stop: Stop
    say: Callable[[str], None]
    prepare: Callable[[], None] = lambda: None
    on_partial: Callable[[int, int, Any], None] | None = None
    warn: Callable[[str], None] | None = None
    on_kept: Callable[[int, int], None] = lambda done, of: None
    _last: float = field(default_factory=time.monotonic)

    def resume(self, template: Callable[[dict[str, Any]], Tree]) -> Kept | None:
        """Return what the newest whole checkpoint holds.

        Raises:
          DamagedError: if there are some, and none is whole and of this run.
        """
        found = self.store.load()
        if found is None:
            return None
        (arrays, facts), damaged = found
        for line in damaged:
            (self.warn or self.say)(f"{line}: the checkpoint before it stands in")
        done, of = facts["progress"]
        try:
            tree = from_arrays(arrays, template(facts["run"]), ROOT)
        except DamagedError as error:
            raise DamagedError(f"{self.store.folder}: {error}") from None
        self.say(f"goes on from {done:,} of {of:,}")
        return Kept(tree, facts["run"])

    def offer(
        self,
        done: int,
        of: int,
        keep: Callable[[], Kept],
        partial: Callable[[], Any] | None = None,
    ) -> None:
        """Keep the run where it is time to, or somebody asks to stop.

        Where it cannot be kept, that is said, and it goes on.

        Raises:
          KeyboardInterrupt: if somebody asks, after it was kept.
        """
        due = self.every is not None and time.monotonic() - self._last >= self.every
        due, asked = agreed(due, self.stop.asked)
        if not (due or asked):
            return
        kept = keep()
        result = None if self.on_partial is None or partial is None else partial()
        try:
            if jax.process_index() == 0:
                self.prepare()
                facts = {"run": kept.facts, "progress": [done, of]}
                self.store.save(to_arrays(kept.tree, ROOT), facts)
            if self.on_partial is not None and partial is not None:
                self.on_partial(done, of, result)
        except OSError as error:
            told = f"cannot be kept at {done:,} of {of:,} ({error.strerror or error})"
            (self.warn or self.say)(told)
        else:
            LOG.debug("%s: checkpoint written at %s of %s", self.store.folder, done, of)
            self.on_kept(done, of)
        self._last = time.monotonic()
        if asked:
            raise KeyboardInterrupt


def agreed(*flags: bool) -> tuple[bool, ...]:
    """Return which flags are up in any of the processes of a run; all of them ask at once.

    Example:
      >>> agreed(True, False)
      (True, False)
    """
    if jax.process_count() == 1:
        return flags
    gathered = np.asarray(multihost_utils.process_allgather(np.asarray(flags)))
    each = gathered.reshape(-1, len(flags))
    return tuple(bool(np.any(each[:, k])) for k in range(len(flags)))
