"""Ending a command from outside: an interrupt or a termination waits for the end of a chunk.

The first signal asks; whoever computes in chunks looks (`Stop.asked`), keeps what there is and
ends. A second one, or one while nobody looks, ends the command at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._waits = 0
        self._say: Callable[[str], None] = lambda line: None

    @property
    def asked(self) -> bool:
        """Whether to keep what there is and end."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 and the signal's number: 130 for an interrupt, 143 for a termination."""
        return 128 + (self.signal or signal.SIGINT)

    @property
    def word(self) -> str:
        """What has become of the command."""
        return "terminated" if self.signal == signal.SIGTERM else "interrupted"

    @contextlib.contextmanager
    def waiting(self, say: Callable[[str], None]) -> Iterator[None]:
        """Let signals wait: inside, somebody looks from time to time."""
        self._waits, self._say = self._waits + 1, say
        try:
            yield
        finally:
            self._waits -= 1

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals; only the main thread can, and elsewhere this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self._receive) for one in SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        again, self.signal = self.asked, number
        if again or not self._waits:
            raise KeyboardInterrupt
        self._say("stopping at the end of this chunk; once more to stop at once")
