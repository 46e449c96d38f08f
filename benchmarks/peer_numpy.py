"""The work in NumPy: batched with LAPACK, and with agents last in blocks that fit the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from work import (
    EFFORT,
    ETA,
    FEATURES,
    KAPPA,
    NOISE,
    WINDOW,
    Floats,
    Outcome,
    mix,
    targets_of,
)

Fresh = Callable[[int], Floats]
"""Gives a row's noise."""
BLOCK = 16384
"""Agents that live through the series together where agents are last; chosen by trial."""


class Direct:
    """The window itself, [N, W, p]; its Gram matrix is made anew at every step."""

    def __init__(self, agents: int, *, by_einsum: bool) -> None:
        self.rows = np.zeros((agents, WINDOW, FEATURES), np.float32)
        self.right = np.zeros((agents, WINDOW), np.float32)
        self.by_einsum = by_einsum

    def add(self, slot: int, features: Floats, residual: Floats) -> None:
        """Replace the window's oldest step."""
        self.rows[:, slot] = features
        self.right[:, slot] = residual

    def equations(self) -> tuple[Floats, Floats]:
        """Return Gram matrices [N, p, p] and moments [N, p]."""
        if self.by_einsum:
            gram = np.einsum("nwa,nwb->nab", self.rows, self.rows)
            return gram, np.einsum("nwa,nw->na", self.rows, self.right)
        columns = self.rows.transpose(0, 2, 1)
        return columns @ self.rows, (columns @ self.right[..., None])[..., 0]


class Incremental:
    """Running Gram matrices: the new step is added, the old one taken away."""

    def __init__(self, agents: int) -> None:
        self.rows = np.zeros((WINDOW, agents, FEATURES), np.float32)
        self.right = np.zeros((WINDOW, agents), np.float32)
        self.gram = np.zeros((agents, FEATURES, FEATURES), np.float32)
        self.moment = np.zeros((agents, FEATURES), np.float32)

    def add(self, slot: int, features: Floats, residual: Floats) -> None:
        """Replace the window's oldest step; once per window build everything anew."""
        old, gone = self.rows[slot], self.right[slot]
        if slot < WINDOW - 1:
            self.gram += features[:, :, None] * features[:, None]
            self.gram -= old[:, :, None] * old[:, None]
            self.moment += features * residual[:, None]
            self.moment -= old * gone[:, None]
        self.rows[slot], self.right[slot] = features, residual
        if slot == WINDOW - 1:
            self.gram.fill(0.0)
            self.moment.fill(0.0)
            for row, right in zip(self.rows, self.right, strict=True):
                self.gram += row[:, :, None] * row[:, None]
                self.moment += row * right[:, None]

    def equations(self) -> tuple[Floats, Floats]:
        """Return Gram matrices [N, p, p] and moments [N, p]."""
        return self.gram, self.moment


def batched(
    weights: Floats, biases: Floats, fresh: Fresh, targets: Floats, window: Direct | Incremental
) -> Outcome:
    """Take all agents through one step after the other; weights [N], biases [N, p]."""
    agents, last = len(weights), len(targets) - 1
    effort = np.float32(EFFORT) * np.eye(FEATURES, dtype=np.float32)
    prediction = base = np.full(agents, targets[0])
    features = np.zeros_like(biases)
    costs, efforts = np.zeros((2, agents), np.float32)
    paths = np.empty((2, len(targets)), np.float32)
    for t, target in enumerate(targets):
        error = prediction - target
        if t > 0:
            costs += error * error
            window.add((t - 1) % WINDOW, features, target - base)
        features = np.maximum(weights[:, None] * target + biases + NOISE * fresh(t), 0.0)
        gram, moment = window.equations()
        control = np.linalg.solve(gram + effort, moment[..., None])[..., 0]
        base = prediction
        prediction = base + np.einsum("na,na->n", features, control)
        if t < last:
            efforts += np.einsum("na,na->n", control, control)
        ahead, mean_error = prediction - target, error.mean()
        deviation = error - mean_error
        tilt = (target - ETA * (target + mean_error)) / (deviation @ deviation + KAPPA)
        paths[1, t] = target + ahead.mean()
        paths[0, t] = ETA * paths[1, t] + tilt * (deviation @ ahead)
    return Outcome(costs, efforts, *paths)


def solve_last(system: Floats, right: Floats, scratch: Floats) -> Floats:
    """Solve p x p systems [p, p, n] in place by LDL'; the solution replaces right [p, n]."""
    for c in range(FEATURES):
        np.divide(1.0, system[c, c], out=scratch[-1])
        for a in range(c + 1, FEATURES):
            np.multiply(system[a, c], scratch[-1], out=scratch[0])
            reduced = scratch[1 : a - c + 1]
            np.multiply(scratch[0], system[c + 1 : a + 1, c], out=reduced)
            system[a, c + 1 : a + 1] -= reduced
            system[c, a] = scratch[0]  # L', where nothing else is stored
        system[c, c] = scratch[-1]
    for c in range(FEATURES - 1):
        below = slice(c + 1, FEATURES)
        np.multiply(system[c, below], right[c], out=scratch[below])
        right[below] -= scratch[below]
    for c in range(FEATURES):
        right[c] *= system[c, c]
    for c in range(FEATURES - 1, 0, -1):
        np.multiply(system[:c, c], right[c], out=scratch[:c])
        right[:c] -= scratch[:c]
    return right


def add_last(gram: Floats, moment: Floats, row: Floats, right: Floats, scratch: Floats) -> None:
    """Add one step to the lower triangles gram [p, p, n] and to moment [p, n]."""
    for a in range(FEATURES):
        np.multiply(row[a], row[: a + 1], out=scratch[: a + 1])
        gram[a, : a + 1] += scratch[: a + 1]
    np.multiply(row, right, out=scratch[:FEATURES])
    moment += scratch[:FEATURES]


def remove_last(gram: Floats, moment: Floats, row: Floats, right: Floats, scratch: Floats) -> None:
    """Undo `add_last`."""
    for a in range(FEATURES):
        np.multiply(row[a], row[: a + 1], out=scratch[: a + 1])
        gram[a, : a + 1] -= scratch[: a + 1]
    np.multiply(row, right, out=scratch[:FEATURES])
    moment -= scratch[:FEATURES]


def live_last(
    weights: Floats, biases: Floats, fresh: Fresh, targets: Floats
) -> tuple[Floats, Floats, np.ndarray]:
    """Take one block through the whole series; biases and noise are [p, n].

    Returns costs and efforts [n agents], and the sums of `work.mix` over the block.
    """
    count, last = len(weights), len(targets) - 1
    rows = np.zeros((WINDOW, FEATURES, count), np.float32)
    rights = np.zeros((WINDOW, count), np.float32)
    gram = np.zeros((FEATURES, FEATURES, count), np.float32)
    system, moment = np.empty_like(gram), np.zeros((FEATURES, count), np.float32)
    features, control = np.zeros_like(moment), np.empty_like(moment)
    scratch = np.empty((FEATURES + 1, count), np.float32)
    prediction = np.full(count, targets[0])
    base, error, ahead = prediction.copy(), np.empty_like(prediction), np.empty_like(prediction)
    costs, efforts = np.zeros((2, count), np.float32)
    sums = np.empty((len(targets), 4))
    for t, target in enumerate(targets):
        np.subtract(prediction, target, out=error)
        if t > 0:
            slot = (t - 1) % WINDOW
            costs += error * error
            remove_last(gram, moment, rows[slot], rights[slot], scratch)
            rows[slot] = features
            np.subtract(target, base, out=rights[slot])
            if slot < WINDOW - 1:
                add_last(gram, moment, rows[slot], rights[slot], scratch)
            else:
                gram.fill(0.0)
                moment.fill(0.0)
                for row, right in zip(rows, rights, strict=True):
                    add_last(gram, moment, row, right, scratch)
        np.multiply(fresh(t), NOISE, out=features)
        features += biases
        features += weights * target
        np.maximum(features, 0.0, out=features)
        system[...] = gram
        for a in range(FEATURES):
            system[a, a] += EFFORT
        control[...] = moment
        solve_last(system, control, scratch)
        base[...] = prediction
        np.multiply(features, control, out=scratch[:FEATURES])
        prediction += scratch[:FEATURES].sum(axis=0)
        if t < last:
            np.multiply(control, control, out=scratch[:FEATURES])
            efforts += scratch[:FEATURES].sum(axis=0)
        np.subtract(prediction, target, out=ahead)
        sums[t] = error.sum(), error @ error, ahead.sum(), error @ ahead
    return costs, efforts, sums


def _join(
    blocks: Iterator[tuple[Floats, Floats, np.ndarray]], targets: Floats, agents: int
) -> Outcome:
    costs, efforts, sums = zip(*blocks, strict=True)
    paths = mix(np.sum(sums, axis=0), targets, agents)
    return Outcome(np.concatenate(costs), np.concatenate(efforts), *paths)


class Batched:
    """All agents at every step."""

    def __init__(self, window: Callable[[int], Direct | Incremental]) -> None:
        self.window = window

    def run(self, agents: int, steps: int, seed: int) -> Outcome:
        """Draw a population and let it live."""
        draw = np.random.Generator(np.random.SFC64(seed))
        weights = draw.standard_normal(agents, np.float32)
        biases = draw.standard_normal((agents, FEATURES), np.float32)

        def fresh(_: int) -> Floats:
            return draw.standard_normal((agents, FEATURES), np.float32)

        return batched(weights, biases, fresh, targets_of(steps), self.window(agents))

    def run_given(self, A: Floats, b: Floats, noise: Floats, series: Floats) -> Outcome:
        """Let a population live whose draws are given: A [m, 1], b [m, p], noise [n, m, p]."""
        return batched(A[:, 0], b, noise.__getitem__, series, self.window(len(A)))


class AgentsLast:
    """Blocks of agents, each through the whole series; in place, elimination written out."""

    def run(self, agents: int, steps: int, seed: int) -> Outcome:
        """Draw a population and let it live."""
        targets = targets_of(steps)

        def blocks() -> Iterator[tuple[Floats, Floats, np.ndarray]]:
            draw = np.random.Generator(np.random.SFC64(seed))
            for start in range(0, agents, BLOCK):
                count = min(BLOCK, agents - start)
                noise = np.empty((FEATURES, count), np.float32)

                def fresh(_: int, noise: Floats = noise) -> Floats:
                    return draw.standard_normal(out=noise, dtype=np.float32)

                weights = draw.standard_normal(count, np.float32)
                biases = draw.standard_normal((FEATURES, count), np.float32)
                yield live_last(weights, biases, fresh, targets)

        return _join(blocks(), targets, agents)

    def run_given(self, A: Floats, b: Floats, noise: Floats, series: Floats) -> Outcome:
        """Let a population live whose draws are given: A [m, 1], b [m, p], noise [n, m, p]."""
        block = live_last(A[:, 0], b.T, lambda t: noise[t].T, series)
        return _join(iter([block]), series, len(A))


FORMS = {
    "einsum": Batched(lambda agents: Direct(agents, by_einsum=True)),
    "matmul": Batched(lambda agents: Direct(agents, by_einsum=False)),
    "incremental": Batched(Incremental),
    "last": AgentsLast(),
}
