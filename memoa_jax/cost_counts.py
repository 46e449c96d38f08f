"""How many agents had which cost: counts in fixed bins, in memory that does not grow with N.

The bins are those of the floating-point numbers themselves: all float32 that agree in sign,
exponent and the first ten bits of their fraction. No logarithm is rounded, so the same costs
are counted alike everywhere; a bin is 0.05 to 0.1 percent wide.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_DROPPED = 13
"""Bits of a float32 that do not choose a bin."""
BINS = 0x7F800000 >> _DROPPED
"""Bins of the numbers from 0 up to the largest float32."""
MOST = 256
"""Bins that a report is given."""
_PIECE = 1 << 20
"""Agents looked at in one go."""


class CostCounts(NamedTuple):
    """Agents by cost per row: ``counts`` [BINS] int64, and ``lost``, whose cost is no number.

    Agents that took part in no scored row count nowhere.
    """

    counts: NDArray[np.int64]
    lost: NDArray[np.int64]

    @classmethod
    def none(cls) -> CostCounts:
        """Return the counts of nobody."""
        return cls(np.zeros(BINS, np.int64), np.zeros((), np.int64))

    def add(self, costs: Any, rows: Any) -> CostCounts:
        """Enter agents by their cost per row; exact, O(N) beside O(BINS).

        Args:
          costs: [m], cumulative squared errors.
          rows: that each of them is over: one number for all, or [m].

        Example:
          >>> found = CostCounts.none().add([2.0, 6.0, float("nan")], 2)
          >>> int(found.counts.sum()), int(found.lost)
          (2, 1)
        """
        costs = np.asarray(costs)
        rows = np.broadcast_to(np.asarray(rows), costs.shape)
        counts, lost = self.counts.copy(), int(self.lost)
        for first in range(0, costs.size, _PIECE):
            own, over = costs[first : first + _PIECE], rows[first : first + _PIECE]
            finite = np.isfinite(own)
            lost += int((~finite).sum())
            counted = finite & (over > 0)
            keys = _keys(own[counted].astype(np.float64) / over[counted])
            counts += np.bincount(keys, minlength=BINS)
        return CostCounts(counts, np.asarray(lost, np.int64))

    def coarse(self, most: int = MOST) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return edges [m + 1] and counts [m] of at most so many bins, none at the ends empty.

        Bins are joined by twos, fours, eights; equal in the numbers' own grid, that is about
        equal on a logarithmic axis.

        Example:
          >>> edges, counts = CostCounts.none().add([1.0, 4.0], 1).coarse(2)
          >>> edges.tolist(), counts.tolist()
          ([0.5, 2.0, 8.0], [1, 1])
        """
        there = np.flatnonzero(self.counts)
        if there.size == 0:
            return np.zeros(1), np.zeros(0, np.int64)
        first, last, joined = int(there[0]), int(there[-1]), 0
        while (last >> joined) - (first >> joined) >= most:
            joined += 1
        low, high = first >> joined, last >> joined
        keys = (there >> joined) - low
        counts = np.zeros(high - low + 1, np.int64)
        np.add.at(counts, keys, self.counts[there])
        return _edges(np.arange(low, high + 2) << joined), counts


def _keys(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each, >= 0; what float32 cannot hold counts as the largest it can."""
    held = np.minimum(values, np.finfo(np.float32).max).astype(np.float32)
    return (held.view(np.uint32) >> _DROPPED).astype(np.int64)


def _edges(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the smallest number of each bin; beyond the last bin, the largest float32."""
    bits = np.minimum(keys << _DROPPED, 0x7F7FFFFF).astype(np.uint32)
    return bits.view(np.float32).astype(np.float64)
