"""The least that a policy's step must compute and move, counted by hand. For `roofline`, `gpu`.

Everything is per agent and step, for p features of d outputs and k inputs, window W, horizon T.
A float operation is an addition, product, division, comparison or selection, or one of the
conversions of the noise; an integer operation one of the cipher's; a logarithm or square root is
taken as `TRANSCENDENTAL` float operations.

    noise     p normals: threefry 2x32 (112 integer), Box-Muller (20 float, log and sqrt)
    encoder   relu(A x + b + noise w): d (2k-1) + 3 d p + p;       reads A, b
    window    Gram rebuilt: W d (p (p+1) + 2p) + d;                reads W slots, writes one
              or running (in, out, 1/W of a rebuild, fading): 3 d (p (p+1) + 2p) + p (p+1)/2 + p;
                  reads two slots (d p + d each) and the equations (p (p+1)/2 + p), writes a slot
                  and the equations
    solve     LDL' p (p+1) (2p+1) / 6, substitutions 2 p^2 - p, ridge p
    moments   of the population: d p + d p (d p + 1)               (decentralized)
    replay    T (4 d p + d);                                       reads T (d p + d), writes T d
    answers   T d x d systems by elimination, and their products: T (4 d^3 + 4 d^2);
                                                                   reads T d^2, writes 2 T d^2
    kernels   T (T+1) / 2 blocks, moved and summed: 2 d^3 + 2 d^2; reads 2 T d^2     (heterogeneous)
    follow    T (8 d^2 + 2 d), last control 2 d p;                 reads 2 T d^2 + d p
    forecast  regression (p (p+1) + 2p) d, fading, solve, one-step game of d x d systems
    predict   base + Z beta: 2 d p;                                reads d, writes d
    sums      mean field and server: 2 d^2 + 10 d;                 reads d, writes d
    totals    errors, efforts, two compensated sums: 25 + 3 d + 2 p;   reads 5, writes 5

Features of earlier steps are read where they are kept; to draw them again would move less and
compute more. Where agents are resident all of this goes to and from memory at every step; where
they stream, a block of agents lives through a whole pass in the cache, and only what it holds
enters and leaves, once per pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

BYTES = 4
TRANSCENDENTAL = 10
"""Float operations that a logarithm or a square root is taken for; it is a polynomial or two."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the counts depend on: d, p, k, W, T, and the steps that a block stays in the cache."""

    outputs: int
    features: int
    inputs: int
    window: int
    horizon: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the step: operations, and numbers (of 4 bytes) read and written."""

    name: str
    flops: float
    integers: float = 0
    read: float = 0
    written: float = 0


@dataclasses.dataclass(frozen=True)
class Count:
    """A hand count: its parts, and the numbers that a block of agents holds and is given."""

    parts: tuple[Part, ...]
    state: float
    parameters: float
    method: str

    def total(self, field: str) -> float:
        """Sum a field of the parts."""
        return float(sum(getattr(part, field) for part in self.parts))

    def bytes_moved(self, schedule: str, steps: int) -> float:
        """Return bytes to and from memory per agent-step; see the module."""
        if schedule == "stream":
            return BYTES * (2 * self.state + self.parameters) / steps
        return BYTES * (self.total("read") + self.total("written"))


def solve_flops(p: float) -> float:
    """Return the operations of one p x p solve: LDL', and two substitutions."""
    return p * (p + 1) * (2 * p + 1) / 6 + 2 * p**2 - p


def common(s: Sizes) -> tuple[Part, ...]:
    """Return what every policy's step does besides deciding."""
    d, p, k = s.outputs, s.features, s.inputs
    return (
        Part("noise", (20 + 2 * TRANSCENDENTAL) * p, 112 * p, read=1),
        Part("encoder", d * (2 * k - 1) + 3 * d * p + p, read=d * k + d * p),
        Part("predict", 2 * d * p, read=d, written=d),
        Part("sums", 2 * d**2 + 10 * d, read=d, written=d),
        Part("totals", 25 + 3 * d + 2 * p, read=5, written=5),
    )


def counted(s: Sizes, own: Sequence[Part], memory: float, method: str) -> Count:
    """Join a policy's own parts, and the numbers it remembers, to what all policies do."""
    d, p, k = s.outputs, s.features, s.inputs
    return Count((*common(s), *own), memory + 2 * d + 5, d * k + d * p + 1, method)


def greedy_counts(s: Sizes) -> list[Count]:
    """Count the window ridge, its Gram matrix rebuilt at every step or kept running."""
    d, p, W = s.outputs, s.features, s.window
    slot, triangle = d * p + d, p * (p + 1) / 2
    equations, row = triangle + p, d * (p * (p + 1) + 2 * p)
    solve = Part("solve", solve_flops(p) + p)
    rebuilt = Part("window", W * row + d, read=W * slot, written=slot)
    running = Part(
        "window",
        3 * row + equations + d,
        read=2 * slot + equations,
        written=slot + equations,
    )
    return [
        counted(s, (rebuilt, solve), W * slot, "Gram rebuilt"),
        counted(s, (running, solve), W * slot + equations, "Gram running"),
    ]


def decentralized_counts(s: Sizes) -> list[Count]:
    """Count the game on the last T steps, replayed at every step."""
    d, p, T = s.outputs, s.features, s.horizon
    own = (
        Part("window", 0, written=d * p),
        Part("moments", d * p + d * p * (d * p + 1)),
        Part("replay", T * (4 * d * p + d), read=T * (d * p + d), written=T * d),
    )
    return [counted(s, own, T * d * p, "replay")]


def heterogeneous_counts(s: Sizes) -> list[Count]:
    """Count the game on the last T steps by each agent's own features."""
    d, p, T, slot = s.outputs, s.features, s.horizon, s.outputs * s.features + s.outputs
    own = (
        Part("window", 2 * d**2 * p, written=slot + d**2),
        Part("answers", T * (4 * d**3 + 4 * d**2), read=T * d**2, written=2 * T * d**2),
        Part("kernels", T * (T + 1) / 2 * (2 * d**3 + 2 * d**2), read=2 * T * d**2),
        # In between stands a sum over all agents: what was found is needed again.
        Part("follow", T * (8 * d**2 + 2 * d) + 2 * d * p, read=2 * T * d**2 + d * p, written=d),
    )
    return [counted(s, own, T * d**2 + s.window * slot, "own answers")]


def forecast_counts(s: Sizes) -> list[Count]:
    """Count the discounted regression and the one-step game on its forecasts."""
    d, p = s.outputs, s.features
    triangle = p * (p + 1) / 2
    equations = triangle + p
    game = d * p * (d + 1) + 2 * d * (d + 1) + 5 * d**2 + (d + 1) * (2 * d**2 - d)
    own = (
        Part(
            "regression",
            2 * d * equations + equations,
            read=equations + d * p,
            written=equations + d * p,
        ),
        Part("solve", solve_flops(p) + p),
        # In between stands a sum over all agents: features and forecast are needed again.
        Part("game", 4 * d * p + game + solve_flops(d), read=d * p + d, written=d),
    )
    return [counted(s, own, equations + d * p, "regression")]


def bound_of(count: Count, schedule: str, steps: int, roof: Mapping[str, float]) -> dict[str, Any]:
    """Return the nanoseconds that memory and arithmetic allow a step of an agent at best.

    `roof` holds the device's bandwidth in GB/s, and its G operations/s, `float` and `integer`.
    """
    memory = count.bytes_moved(schedule, steps) / roof["bandwidth"]
    # Vector units do one or the other: times of float and integer operations add up.
    flops, integers = count.total("flops"), count.total("integers")
    computing = flops / roof["float"] + integers / roof["integer"]
    return {
        "method": count.method,
        "bytes": count.bytes_moved(schedule, steps),
        "flops": flops,
        "integers": integers,
        "memory_ns": memory,
        "arithmetic_ns": computing,
        "floor_ns": max(memory, computing),
        "bound": "memory" if memory > computing else "arithmetic",
    }
