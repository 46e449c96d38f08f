"""The work in Numba, one agent after the other: plain loops, every agent through the series.

Threads take equal shares of the agents. The population sums that the server needs are kept per
row and joined at the end, so an agent's state never leaves the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from work import EFFORT, FEATURES, NOISE, WINDOW, Floats, Outcome, mix, targets_of

# Numba computes in float64 as soon as one literal is: all constants are float32.
F = np.float32
P, W = FEATURES, WINDOW
ZERO, ONE, HALF, MINUS_TWO = F(0.0), F(1.0), F(0.5), F(-2.0)
GAMMA, SIGMA = F(EFFORT), F(NOISE)
UNIT, TURN = F(2.0**-31), F(math.pi * 2.0**-31)
Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


def by_library(state: int, into: Floats) -> int:
    """Fill with Numba's own normals."""
    for a in range(P):
        into[a] = F(np.random.normal())  # noqa: NPY002  the only interface Numba compiles here
    return state


def by_xorshift(state: int, into: Floats) -> int:
    """Fill with normals by Box-Muller on Marsaglia's xorshift64; return the next state."""
    for a in range(0, P, 2):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
        uniform = (F(np.int32(state >> np.uint64(33))) + HALF) * UNIT
        radius = math.sqrt(MINUS_TWO * math.log(uniform))
        angle = F(np.int32(state & np.uint64(0xFFFFFFFF))) * TURN
        into[a] = radius * math.cos(angle)
        into[a + 1] = radius * math.sin(angle)
    return state


def solve(gram: Floats, scaled: Floats, lower: Floats, inverse: Floats, right: Floats) -> None:
    """Solve (gram + effort I) x = right by LDL'; the solution replaces right.

    Scratch: `lower` is L, `scaled` L times the pivots, `inverse` the pivots' inverses.
    """
    for a in range(P):
        pivot = gram[a, a] + GAMMA
        for b in range(a):
            entry = gram[a, b]
            for c in range(b):
                entry -= scaled[a, c] * lower[b, c]
            scaled[a, b] = entry
            lower[a, b] = entry * inverse[b]
            pivot -= entry * lower[a, b]
        inverse[a] = ONE / pivot
    for a in range(P):
        value = right[a]
        for c in range(a):
            value -= lower[a, c] * right[c]
        right[a] = value
    for a in range(P - 1, -1, -1):
        value = right[a] * inverse[a]
        for c in range(a + 1, P):
            value -= lower[c, a] * right[c]
        right[a] = value


def enter(
    slot: int,
    features: Floats,
    residual: float,
    rows: Floats,
    rights: Floats,
    gram: Floats,
    moment: Floats,
) -> None:
    """Replace the window's oldest step; once per window build the equations anew."""
    gone = rights[slot]
    for a in range(P):
        moment[a] += features[a] * residual - rows[slot, a] * gone
        for b in range(P):  # the whole row: eight numbers are one vector register
            gram[a, b] += features[a] * features[b] - rows[slot, a] * rows[slot, b]
    rights[slot] = residual
    for a in range(P):
        rows[slot, a] = features[a]
    if slot == W - 1:
        gram[:] = ZERO
        moment[:] = ZERO
        for s in range(W):
            for a in range(P):
                moment[a] += rows[s, a] * rights[s]
                for b in range(P):
                    gram[a, b] += rows[s, a] * rows[s, b]


def compile_share(jit: Compile, normals: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what one thread does: take agents first..last - 1 through the series."""
    draw, ridge, window = jit(normals), jit(solve), jit(enter)

    def share(first, last, seed, drawn, A, b, given, y, costs, efforts, sums):  # type: ignore
        points = y.shape[0]
        state = np.uint64(seed)
        np.random.seed(seed % 4294967296)  # noqa: NPY002
        rows, rights = np.empty((W, P), F), np.empty(W, F)
        gram, scaled, lower = np.empty((P, P), F), np.empty((P, P), F), np.empty((P, P), F)
        moment = np.empty(P, F)
        inverse, z, noise, beta = np.empty(P, F), np.empty(P, F), np.empty(P, F), np.empty(P, F)
        biases = np.empty(P, F)
        for i in range(first, last):
            rows[:], rights[:], gram[:], moment[:] = ZERO, ZERO, ZERO, ZERO
            if drawn:
                state = draw(state, biases)
                weight = biases[0]
                state = draw(state, biases)
            else:
                weight = A[i, 0]
                biases[:] = b[i]
            prediction, base, cost, effort = y[0], y[0], ZERO, ZERO
            for t in range(points):
                error = prediction - y[t]
                if t > 0:
                    cost += error * error
                    window((t - 1) % W, z, y[t] - base, rows, rights, gram, moment)
                if drawn:
                    state = draw(state, noise)
                else:
                    noise[:] = given[t, i]
                for a in range(P):
                    z[a] = max(weight * y[t] + biases[a] + SIGMA * noise[a], ZERO)
                    beta[a] = moment[a]
                ridge(gram, scaled, lower, inverse, beta)
                base = prediction
                for a in range(P):
                    prediction += z[a] * beta[a]
                    if t < points - 1:
                        effort += beta[a] * beta[a]
                ahead = prediction - y[t]
                sums[t, 0] += error
                sums[t, 1] += error * error
                sums[t, 2] += ahead
                sums[t, 3] += error * ahead
            costs[i], efforts[i] = cost, effort

    return jit(share)


class Form:
    """One way to compile and to draw; compiled on first use, for the threads Numba was given."""

    def __init__(
        self,
        compile_one: Callable[[Compile], Callable[..., Any]],
        *,
        fastmath: bool,
        unit: int = 1,
    ) -> None:
        """Take what compiles one thread's share; shares are whole multiples of `unit` agents."""
        self.compile_one = compile_one
        self.fastmath = fastmath
        self.unit = unit
        self.everyone: Callable[..., Any] | None = None

    def _compiled(self) -> Callable[..., Any]:
        # Without the error model a division by zero must raise, which keeps loops from
        # becoming vector arithmetic.
        options = {"error_model": "numpy", "fastmath": self.fastmath}
        share = self.compile_one(numba.njit(**options))
        unit = self.unit

        def everyone(seeds, drawn, A, b, given, y, costs, efforts, sums):  # type: ignore
            shares, agents = len(seeds), len(costs)
            units = (agents + unit - 1) // unit
            for s in numba.prange(shares):
                first = units * s // shares * unit
                last = min(units * (s + 1) // shares * unit, agents)
                share(first, last, seeds[s], drawn, A, b, given, y, costs, efforts, sums[s])

        return numba.njit(parallel=numba.get_num_threads() > 1, **options)(everyone)

    def _live(
        self, drawn: bool, A: Floats, b: Floats, noise: Floats, y: Floats, agents: int, seed: int
    ) -> Outcome:
        if self.everyone is None:
            self.everyone = self._compiled()
        threads = numba.get_num_threads()
        seeds = np.random.default_rng(seed).integers(1, 2**63, threads, dtype=np.uint64)
        costs, efforts = np.zeros((2, agents), np.float32)
        sums = np.zeros((threads, len(y), 4))
        self.everyone(seeds, drawn, A, b, noise, y, costs, efforts, sums)
        return Outcome(costs, efforts, *mix(sums.sum(axis=0), y, agents))

    def run(self, agents: int, steps: int, seed: int) -> Outcome:
        """Draw a population and let it live."""
        nothing = np.empty((1, 0, FEATURES), np.float32)
        y = targets_of(steps)
        return self._live(True, nothing[0], nothing[0], nothing, y, agents, seed)

    def run_given(self, A: Floats, b: Floats, noise: Floats, series: Floats) -> Outcome:
        """Let a population live whose draws are given: A [m, 1], b [m, p], noise [n, m, p]."""
        arrays = (np.ascontiguousarray(x) for x in (A, b, noise, series))
        return self._live(False, *arrays, agents=len(A), seed=1)


FORMS = {
    name + ("_fastmath" if fastmath else ""): Form(
        lambda jit, normals=normals: compile_share(jit, normals), fastmath=fastmath
    )
    for name, normals in {"library": by_library, "xorshift": by_xorshift}.items()
    for fastmath in (False, True)
}
