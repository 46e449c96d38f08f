"""A command's work in its folder: what is kept of it, and what it goes on from.

    FOLDER/checkpoint/identity.json    what the kept work is of
    FOLDER/checkpoint/NAME/            a part's checkpoints (`memoa_jax.checkpoint`)

A part is under way (a `DiskKeeper` keeps it) or finished. Nothing is written before work has
taken as long as `every` says, or somebody asks to stop; when all is done, all of it is removed.
Of several processes, which share the folder, the first one writes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from memoa_jax.checkpoint import Arrays, Checkpoint, Store, read_sealed, sealed
from memoa_jax.config_faults import ConfigError
from memoa_jax.disk_keeper import DiskKeeper, agreed
from memoa_jax.files import remove, remove_temporaries, replace
from memoa_jax.identity import difference
from memoa_jax.progress import SILENT, Watch
from memoa_jax.stopping import Stop

FOLDER, IDENTITY = "checkpoint", "identity.json"


@dataclass
class Session:
    """The kept work of one command.

    Args:
      folder: of the results.
      identity: what the work is of, as plain data (`memoa_jax.identity`).
      every: seconds between two checkpoints; None: only when somebody asks to stop.
      stop: tells when to end.
      say: told where work goes on.
      warn: told what was damaged or cannot be kept; None: `say` is.
      watch: told of every checkpoint.
    """

    folder: Path
    identity: Mapping[str, Any]
    every: float | None
    stop: Stop
    say: Callable[[str], None]
    warn: Callable[[str], None] | None = None
    watch: Watch = SILENT
    _waiting: dict[str, tuple[Arrays, Mapping[str, Any]]] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)

    def claim(self, *, resume: bool, fresh: bool) -> None:
        """Take what the folder holds, or refuse it.

        Raises:
          ConfigError: if it holds unfinished work and nothing was said of it, or of another
            config, or none where there should be some.
        """
        path = self._root / IDENTITY
        if jax.process_index() == 0:
            remove_temporaries(self.folder)
        if fresh:
            self.clear()
        elif not path.exists():
            if resume:
                raise ConfigError([f"--resume {self.folder}: holds no unfinished run"])
            self.clear()  # parts without an identity are of nothing
        elif not resume:
            allowed = f"allowed is --resume {self.folder} to go on with it, or --fresh"
            raise ConfigError([f"{self.folder} holds an unfinished run: {allowed}"])
        else:
            self._compare(path)

    def _compare(self, path: Path) -> None:
        try:
            theirs = read_sealed(path)
        except (OSError, ValueError) as error:
            allowed = "allowed is --fresh to start again"
            raise ConfigError([f"{path} is damaged ({error}): {allowed}"]) from None
        found = difference(self.identity, theirs)
        if found is not None:
            allowed = "allowed is the same config, --fresh or another folder"
            raise ConfigError([f"--resume {self.folder}: is of {found}: {allowed}"])

    def keeper(
        self, name: str, title: str, on_partial: Callable[[int, int, Any], None] | None = None
    ) -> DiskKeeper:
        """Return the keeper of a part; `title` is what people call it."""
        return DiskKeeper(
            store=self._store(name),
            every=self.every,
            stop=self.stop,
            say=lambda line: self.say(f"{title}: {line}"),
            warn=lambda line: self._warn(f"{title}: {line}"),
            on_kept=lambda done, of: self.watch.event("saved", kept=title, done=done, of=of),
            prepare=self.flush,
            on_partial=on_partial,
        )

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Let signals wait, as a keeper looks between chunks; keep what finished if it fails."""
        try:
            with self.stop.waiting(self._warn):
                yield
        except BaseException:
            if self._waiting:
                with contextlib.suppress(OSError):
                    self.flush()
            raise

    def look(self) -> None:
        """End here if somebody has asked to stop.

        Raises:
          KeyboardInterrupt: if somebody has.
        """
        if agreed(self.stop.asked)[0]:
            raise KeyboardInterrupt

    def finished(self, name: str) -> Checkpoint | None:
        """Return what a finished part left; None where it is under way or not begun.

        Raises:
          DamagedError: if none of its checkpoints is whole.
        """
        found = self._store(name).load()
        if found is None or "finished" not in found[0].facts:
            return None
        (arrays, facts), _ = found
        return Checkpoint(arrays, facts["finished"])

    def finish(self, name: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Keep what a finished part leaves, now or with the next that is kept."""
        self._waiting[name] = (arrays, facts)
        due = self.every is not None and time.monotonic() - self._begun >= self.every
        if due or self.stop.asked:
            try:
                self.flush()
            except OSError as error:
                self._warn(f"{name}: cannot be kept ({error.strerror or error})")

    def flush(self) -> None:
        """Write what waits.

        Raises:
          OSError: if it cannot be written; it waits on.
        """
        if jax.process_index() > 0:
            return
        self._root.mkdir(parents=True, exist_ok=True)
        if not (self._root / IDENTITY).exists():
            replace(self._root / IDENTITY, sealed(self.identity))
        for name in list(self._waiting):
            arrays, facts = self._waiting[name]
            self._store(name).save(arrays, {"finished": dict(facts)})
            del self._waiting[name]

    def forget(self, within: str) -> None:
        """Remove the parts whose names begin so: what they were parts of is finished."""
        for name in [name for name in self._waiting if name.startswith(within)]:
            del self._waiting[name]
        if jax.process_index() > 0:
            return
        for part in self._root.glob(f"{within}*"):
            Store(part).clear()

    def clear(self) -> None:
        """Remove all that is kept."""
        self._waiting.clear()
        if jax.process_index() > 0:
            return
        remove(self._root / IDENTITY)  # first: without it the rest is nothing
        if self._root.is_dir():
            for part in sorted(self._root.iterdir()):
                if part.is_dir():
                    Store(part).clear()
            remove_temporaries(self._root)
            with contextlib.suppress(OSError):
                self._root.rmdir()

    def _warn(self, line: str) -> None:
        (self.warn or self.say)(line)

    @property
    def _root(self) -> Path:
        return self.folder / FOLDER

    def _store(self, name: str) -> Store:
        return Store(self._root / name)
