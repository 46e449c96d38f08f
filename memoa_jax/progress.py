"""Progress of long work: events as plain data, the pace of the work, and when to look at it.

A `Watch` passes events on to whoever shows them (`memoa_jax.speaking`); one without a listener does
nothing. It is asked between compiled calls and looks at most once a second, and never for more
than a fiftieth of the time: reading figures costs a run nothing that can be measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memoa_jax.watching import Moment, Watcher

EVERY = 1.0
"""Seconds between two looks at figures, at least."""
SHARE = 50
"""A look that takes a second is followed by this many seconds without one."""

Listener = Callable[[Mapping[str, Any]], None]
Clock = Callable[[], float]


@dataclass
class Pace:
    """How fast a task of known size goes, without the seconds that go in compilation.

    The first piece is timed with what the compiler reports taken off. From the second one on it
    is left out: it also holds what nobody reports, such as tracing.

    Args:
      clock: seconds, from any start.
      compiling: seconds that went in compilation so far.

    Example:
      >>> seconds = iter([0.0, 4.0, 5.0])
      >>> pace = Pace(lambda: next(seconds))
      >>> [pace.at(done) for done in (0, 10, 20)]
      [None, 2.5, 10.0]
    """

    clock: Clock
    compiling: Clock = lambda: 0.0
    spent: float = 0.0
    _from: tuple[float, float] | None = None
    _anchored: bool = False
    _last: float = 0.0

    def at(self, done: float) -> float | None:
        """Return units per second, having done so many; None while nothing is known."""
        now = self.clock() - self.compiling()
        if self._from is None:
            self._from = (done, now)
            self._last = now
            return None
        self.spent += max(now - self._last, 0.0)
        self._last = now
        begun, since = self._from
        # A clock too coarse to tell is as good as none.
        rate = (done - begun) / (now - since) if done > begun and now > since else None
        if not self._anchored and done > begun:
            self._from, self._anchored = (done, now), True
        return rate

    def again(self) -> None:
        """Begin another part of the task, with a pace of its own."""
        self._from, self._anchored = None, False


@dataclass
class _Shared:
    """What the views of one watch have in common: the tasks so far, and when to look again."""

    tasks: list[Pace] = field(default_factory=list)
    again: float = float("-inf")


@dataclass(frozen=True)
class Watch:
    """Passes on what happens in a command; see the module.

    Args:
      listener: receives events, {"event": name, ...} with plain values; None: nobody does.
      clock: seconds, from any start.
      every: seconds between two looks.
      title: of the part of the command that this view is of.
      before: tasks that come before that part.
      tasks: how many there are in all; 0: as many as the part says.
    """

    listener: Listener | None = None
    clock: Clock = time.monotonic
    every: float = EVERY
    title: str = ""
    before: int = 0
    tasks: int = 0
    _shared: _Shared = field(default_factory=_Shared)

    def event(self, name: str, /, **facts: Any) -> None:
        """Pass on that something happened, at once."""
        if self.listener is not None:
            within = {"within": self.title} if self.title else {}
            self.listener({"event": name, **within, **facts})

    def within(self, title: str, before: int, tasks: int) -> Watch:
        """Return the view of a part of the command."""
        return replace(self, title=title, before=before, tasks=tasks)

    def policy(
        self, label: str, number: int, of: int, agent_steps: float, compiling: Clock
    ) -> Watcher | None:
        """Return what watches one policy's run; None if nobody listens.

        Args:
          label: the policy.
          number: its place among the policies of this part, from 1.
          of: how many there are.
          agent_steps: agents times rows, which every pass goes through.
          compiling: seconds that its compilation took so far.
        """
        if self.listener is None:
            return None
        pace, part = Pace(self.clock, compiling), 0
        self._shared.tasks.append(pace)
        left = (self.tasks or of) - self.before - number

        def see(moment: Moment) -> None:
            nonlocal part
            if moment.part != part:
                part = moment.part
                pace.again()
            rate = pace.at(moment.done)
            if not self._due():
                return
            compiled = compiling()
            live = moment.figures() if moment.done else None
            steps = max(moment.of - 1, 0) if moment.unit == "step" else moment.of
            passes = {"pass": part, "passes": moment.parts} if moment.parts > 1 else {}
            remaining = None
            if rate is not None:
                remaining = ((moment.parts - part + 1) * moment.of - moment.done) / rate
            self.event(
                "progress",
                policy=label,
                number=number,
                policies=of,
                **passes,
                **{moment.unit: min(moment.done, steps), f"{moment.unit}s": steps},
                agent_steps_per_second=None if rate is None else rate * agent_steps / moment.of,
                remaining_seconds=remaining,
                remaining_seconds_in_all=self._in_all(pace, remaining, left),
                **({} if live is None else live._asdict()),
            )
            self._looked(compiling() - compiled)

        return see

    def steps(
        self,
        name: str,
        of: float,
        agent_steps: float | None = None,
        compiling: Clock = lambda: 0.0,
    ) -> Callable[..., None]:
        """Return what is told, with any facts, how many pieces of some work are done, 0 first.

        Args:
          name: of a piece, such as "call"; the events hold it, and its plural with `of`.
          of: how many there are.
          agent_steps: agent-steps in one of them.
          compiling: seconds that compilation took so far.
        """
        pace = Pace(self.clock, compiling)

        def see(done: float, **facts: Any) -> None:
            if self.listener is None:
                return
            rate = pace.at(done)
            if not self._due():
                return
            speed = None if rate is None or agent_steps is None else rate * agent_steps
            self.event(
                "progress",
                **{name: done, f"{name}s": of},
                **({} if agent_steps is None else {"agent_steps_per_second": speed}),
                remaining_seconds=None if rate is None else (of - done) / rate,
                **facts,
            )
            self._looked()

        return see

    def _due(self) -> bool:
        """Tell whether it is time to look; the look begins now."""
        now = self.clock()
        if now < self._shared.again:
            return False
        self._shared.again = now
        return True

    def _looked(self, compiling: float = 0.0) -> None:
        """Say that the look is over, which decides when to look again; it compiles but once."""
        now = self.clock()
        cost = max(now - self._shared.again - compiling, 0.0)
        self._shared.again = now + max(self.every, SHARE * cost)

    def _in_all(self, pace: Pace, remaining: float | None, left: int) -> float | None:
        """Estimate what is left of the command: the tasks to come are like those before."""
        if remaining is None:
            return None
        over = [task.spent for task in self._shared.tasks[:-1]]
        typical = sum(over) / len(over) if over else pace.spent + remaining
        return remaining + left * typical


def duration(seconds: float) -> str:
    """Write a duration in its two largest units.

    Example:
      >>> duration(7.6), duration(200), duration(4000)
      ('8 s', '3 min 20 s', '1 h 6 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


SILENT = Watch()
"""Tells nobody."""
