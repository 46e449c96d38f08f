"""What the command line says on stderr: lines, or one JSON object per line, and the progress line.

The package tells what it does to the logger "memoa_jax" and to a `memoa_jax.progress.Watch`; this
module, which `memoa` alone uses, writes it down. Nothing is written but warnings and errors where
stderr is no terminal and nobody asked (`--log-level`, `--format json`). No colour is ever used.

The progress line is some thirty lines of code of our own: a library for it would bring another
dependency, and would have to be taught the figures, the JSON lines and the log all the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TextIO, get_args

from memoa_jax.progress import EVERY, SILENT, Watch, duration

Level = Literal["quiet", "warning", "info", "debug"]
LEVELS: tuple[Level, ...] = get_args(Level)
NUMBERS = {
    "quiet": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
EVERY_IN_A_LOG = 60.0
"""Seconds between two lines of progress where each of them stays."""
LOG = logging.getLogger("memoa_jax")


def discard(stream: TextIO) -> None:
    """Send a stream whose reader is gone to nowhere: Python flushes it once more at exit."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class Speaker(logging.Handler):
    """Writes log records and events to stderr; a reader that is gone does not end the run.

    Args:
      threshold: of the log records that are written.
      machine: whether to write JSON lines.
      live: whether progress is one line, written again and again, or lines that stay.
    """

    def __init__(self, threshold: int, *, machine: bool, live: bool) -> None:
        super().__init__(threshold)
        self.machine: bool = machine
        self.live: bool = live
        self._shown = ""  # the progress line that stands on the terminal
        self._busy = False
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log record."""
        if record.levelno >= logging.ERROR:
            name, prefix = "error", "memoa: "
        else:
            name, prefix = ("trouble" if record.levelno >= logging.WARNING else "told"), ""
        if self.machine:
            self.hear({"event": name, "message": record.getMessage()})
        else:
            self._write(f"{prefix}{record.getMessage()}\n")

    def hear(self, facts: Mapping[str, Any]) -> None:
        """Write an event: all of it for machines; for people progress, other events are told."""
        if self.machine:
            self._write(json.dumps(_plain(facts), ensure_ascii=False, allow_nan=False) + "\n")
        elif facts["event"] != "progress":
            self.erase()
        elif self.live:
            self._write("", line_of(facts, shutil.get_terminal_size().columns - 1))
        else:
            self._write(line_of(facts) + "\n")

    def erase(self) -> None:
        """Take the progress line away."""
        self._write("")

    def _write(self, text: str, line: str = "") -> None:
        """Write text in place of the progress line, and a new one; from a signal's handler, too."""
        if self._busy:  # interrupted by a signal within a write: its words come right after
            self._waiting.append(text)
            return
        self._busy = True
        # The line is overwritten with spaces: that takes no control sequence but the return.
        erased = f"\r{' ' * len(self._shown)}\r" if self._shown else ""
        try:
            if erased or text or line:
                sys.stderr.write(erased + text + line)
                sys.stderr.flush()
            self._shown = line
        except BrokenPipeError:
            discard(sys.stderr)
        finally:
            self._busy = False
        while self._waiting:
            self._write(self._waiting.pop(0))


@contextlib.contextmanager
def speaking(level: Level | None, *, machine: bool) -> Iterator[Watch]:
    """Write down what the package tells meanwhile; give the watch to tell it to.

    Args:
      level: the least of what is told; None: "info" on a terminal, "warning" elsewhere.
      machine: whether to write JSON lines; all events are then written unless `level` is "quiet".
    """
    terminal = sys.stderr.isatty()
    level = level or ("info" if terminal and not machine else "warning")
    live = terminal and os.environ.get("TERM") != "dumb"
    speaker = Speaker(NUMBERS[level], machine=machine, live=live)
    hears = level != "quiet" if machine else level in ("info", "debug")
    pause = EVERY if machine or live else EVERY_IN_A_LOG
    before = LOG.level, LOG.propagate
    LOG.addHandler(speaker)
    LOG.setLevel(NUMBERS[level])
    LOG.propagate = False
    try:
        yield Watch(speaker.hear, every=pause) if hears else SILENT
    finally:
        speaker.erase()
        LOG.removeHandler(speaker)
        LOG.setLevel(before[0])
        LOG.propagate = before[1]


def _plain(value: Any) -> Any:
    """Return facts as strict JSON takes them: a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


UNITS = ("step", "block", "call", "part")
FIGURES = {
    "diverged_agents": (2, "{} diverged"),
    "server_rmse": (5, "server {}"),
    "worst_agent_rmse": (6, "worst {}"),
    "objective": (5, "objective {}"),
    "validation": (6, "validation {}"),
    "best": (5, "best {}"),
}
"""What a line of progress shows of how it goes: how little it matters, and the words."""


def line_of(facts: Mapping[str, Any], columns: int | None = None) -> str:
    """Return an event of progress as a line; where it is too long, what matters least goes first.

    Example:
      >>> facts = {"event": "progress", "policy": "greedy", "number": 1, "policies": 3}
      >>> facts |= {"step": 512, "steps": 2283, "agent_steps_per_second": 2059351.0}
      >>> facts |= {"remaining_seconds": 64.2, "server_rmse": 0.02543}
      >>> line_of(facts)
      'greedy 1/3  step 512/2,283  2.06M agent-steps/s  1 min 4 s left  server 0.02543'
      >>> line_of(facts, 45)
      'greedy 1/3  step 512/2,283  1 min 4 s left'
    """
    # (how little it matters, text), in the order of the line
    parts = [(8, facts.get("within")), (0, _whose(facts)), (1, _where(facts))]
    rate = facts.get("agent_steps_per_second")
    parts.append((7, None if rate is None else f"{_short(rate)} agent-steps/s"))
    left = facts.get("remaining_seconds_in_all", facts.get("remaining_seconds"))
    parts.append((3, None if left is None else f"{duration(left)} left"))
    for key, (rank, words) in FIGURES.items():
        value = facts.get(key)
        if value is None or (key == "diverged_agents" and not value):
            continue
        parts.append(
            (rank, words.format(f"{value:,}" if isinstance(value, int) else f"{value:.4g}"))
        )
    kept = [(rank, text) for rank, text in parts if text]
    while columns is not None and len(kept) > 1 and len(_joined(kept)) > columns:
        kept.remove(max(kept))
    return _joined(kept)[: None if columns is None else max(columns, 0)]


def _joined(parts: list[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in parts)


def _whose(facts: Mapping[str, Any]) -> str | None:
    """Name the policy, and which of how many."""
    if "policy" not in facts:
        name: str | None = facts.get("name")
        return name
    many = facts["policies"] > 1
    return facts["policy"] + (f" {facts['number']}/{facts['policies']}" if many else "")


def _where(facts: Mapping[str, Any]) -> str | None:
    """Say how far it is."""
    found = [f"pass {facts['pass']}/{facts['passes']}"] if "passes" in facts else []
    found += [f"{unit} {facts[unit]:,}/{facts[f'{unit}s']:,}" for unit in UNITS if unit in facts]
    return ", ".join(found) or None


def _short(number: float) -> str:
    """Write a large number in three digits.

    Example:
      >>> _short(2059351.0), _short(999.7e6), _short(12.0)
      ('2.06M', '1.00G', '12.0')
    """
    for unit in ("", "k", "M", "G", "T"):
        if abs(number) < 999.5 or unit == "T":
            break
        number /= 1000
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}{unit}"
