"""What a run shows of itself between two compiled calls: how far it is, and how it goes.

Whoever watches is called on the host and changes nothing; figures are computed when they are
asked for, and only then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Live(NamedTuple):
    """The figures of a run so far, in target units; None where nothing is known yet.

    Of a stream `worst_agent_rmse` and `diverged_agents` are of the blocks that are over, and the
    server's error is known at the end.
    """

    server_rmse: float | None = None
    worst_agent_rmse: float | None = None
    worst_agent: int | None = None
    diverged_agents: int | None = None


class Moment(NamedTuple):
    """How far a run is: `done` of `of` are over, in pass `part` of `parts`.

    Resident runs count rows of the series in one pass, streams blocks of agents in each of theirs
    (`unit`). `figures` costs a reduction over the agents; of several processes it gives what the
    host knows alone.
    """

    done: int
    of: int
    figures: Callable[[], Live]
    part: int = 1
    parts: int = 1
    unit: str = "step"


Watcher = Callable[[Moment], None]
"""Is called at the beginning of a run and after every compiled call."""
