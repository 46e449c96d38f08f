"""The work in PyTorch: batched with LAPACK, and with agents last in blocks that fit the cache.

`torch.compile` made the agents-last step somewhat faster in a trial; it is left out because it
needs a C++ compiler beside PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
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

Fresh = Callable[[int], Tensor]
"""Gives a row's noise."""
BLOCK = 16384
"""Agents that live through the series together where agents are last; chosen by trial."""


def solve_batched(system: Tensor, right: Tensor, by: Literal["lu", "cholesky"]) -> Tensor:
    """Solve [N, p, p] against [N, p] with the library."""
    columns = right.unsqueeze(-1)
    if by == "lu":
        return torch.linalg.solve_ex(system, columns)[0].squeeze(-1)
    factor = torch.linalg.cholesky_ex(system)[0]
    return torch.cholesky_solve(columns, factor).squeeze(-1)


def batched(
    weights: Tensor,
    biases: Tensor,
    fresh: Fresh,
    targets: Floats,
    by: Literal["lu", "cholesky"],
) -> Outcome:
    """Take all agents through one step after the other; weights [N, 1], biases [N, p]."""
    agents, last = len(weights), len(targets) - 1
    rows, rights = torch.zeros(WINDOW, agents, FEATURES), torch.zeros(WINDOW, agents)
    gram, moment = torch.zeros(agents, FEATURES, FEATURES), torch.zeros(agents, FEATURES)
    effort = EFFORT * torch.eye(FEATURES)
    prediction = base = torch.full((agents,), float(targets[0]))
    features = torch.zeros_like(biases)
    costs, efforts = torch.zeros(agents), torch.zeros(agents)
    paths = torch.empty(2, len(targets))
    for t, target in enumerate(targets.tolist()):
        error = prediction - target
        if t > 0:
            slot = (t - 1) % WINDOW
            costs.addcmul_(error, error)
            old = rows[slot]
            gram.addcmul_(old.unsqueeze(2), old.unsqueeze(1), value=-1.0)
            moment.addcmul_(old, rights[slot].unsqueeze(1), value=-1.0)
            rows[slot], rights[slot] = features, target - base
            if slot < WINDOW - 1:
                gram.addcmul_(features.unsqueeze(2), features.unsqueeze(1))
                moment.addcmul_(features, rights[slot].unsqueeze(1))
            else:
                gram = torch.einsum("wna,wnb->nab", rows, rows)
                moment = torch.einsum("wna,wn->na", rows, rights)
        features = torch.addcmul(biases, weights, torch.tensor(target))
        features.add_(fresh(t), alpha=NOISE).relu_()
        control = solve_batched(gram + effort, moment, by)
        base = prediction
        prediction = base + (features * control).sum(dim=1)
        if t < last:
            efforts += (control * control).sum(dim=1)
        ahead, mean_error = prediction - target, error.mean()
        deviation = error - mean_error
        tilt = (target - ETA * (target + mean_error)) / (deviation.dot(deviation) + KAPPA)
        paths[1, t] = target + ahead.mean()
        paths[0, t] = ETA * paths[1, t] + tilt * deviation.dot(ahead)
    return Outcome(costs.numpy(), efforts.numpy(), *paths.numpy())


def solve_last(system: Tensor, right: Tensor) -> Tensor:
    """Solve p x p systems [p, p, n] in place by LDL'; the solution replaces right [p, n]."""
    for c in range(FEATURES):
        system[c, c].reciprocal_()
        for a in range(c + 1, FEATURES):
            torch.mul(system[a, c], system[c, c], out=system[c, a])  # L', above the diagonal
            system[a, c + 1 : a + 1].addcmul_(system[c + 1 : a + 1, c], system[c, a], value=-1.0)
    for c in range(FEATURES - 1):
        right[c + 1 :].addcmul_(system[c, c + 1 :], right[c], value=-1.0)
    right.mul_(torch.diagonal(system).T)
    for c in range(FEATURES - 1, 0, -1):
        right[:c].addcmul_(system[:c, c], right[c], value=-1.0)
    return right


def add_last(gram: Tensor, moment: Tensor, row: Tensor, right: Tensor, sign: float) -> None:
    """Add one step to, or take it from, the lower triangles gram [p, p, n] and moment [p, n]."""
    for a in range(FEATURES):
        gram[a, : a + 1].addcmul_(row[: a + 1], row[a], value=sign)
    moment.addcmul_(row, right, value=sign)


def live_last(
    weights: Tensor, biases: Tensor, fresh: Fresh, targets: Floats
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Take one block through the whole series; weights [n], biases and noise [p, n].

    Returns costs and efforts [n agents], and the sums of `work.mix` over the block.
    """
    count, last = len(weights), len(targets) - 1
    rows, rights = torch.zeros(WINDOW, FEATURES, count), torch.zeros(WINDOW, count)
    gram, moment = torch.zeros(FEATURES, FEATURES, count), torch.zeros(FEATURES, count)
    system, control = torch.empty_like(gram), torch.empty_like(moment)
    features, product = torch.zeros_like(moment), torch.empty_like(moment)
    prediction = torch.full((count,), float(targets[0]))
    base, error, ahead = prediction.clone(), torch.empty(count), torch.empty(count)
    costs, efforts, sums = torch.zeros(count), torch.zeros(count), torch.empty(len(targets), 4)
    for t, target in enumerate(targets.tolist()):
        torch.sub(prediction, target, out=error)
        if t > 0:
            slot = (t - 1) % WINDOW
            costs.addcmul_(error, error)
            add_last(gram, moment, rows[slot], rights[slot], -1.0)
            rows[slot].copy_(features)
            torch.sub(base, target, out=rights[slot]).neg_()
            if slot < WINDOW - 1:
                add_last(gram, moment, rows[slot], rights[slot], 1.0)
            else:
                gram.zero_()
                moment.zero_()
                for row, right in zip(rows, rights, strict=True):
                    add_last(gram, moment, row, right, 1.0)
        torch.add(biases, fresh(t), alpha=NOISE, out=features)
        features.add_(weights, alpha=target).relu_()
        system.copy_(gram)
        torch.diagonal(system).add_(EFFORT)
        control.copy_(moment)
        solve_last(system, control)
        base.copy_(prediction)
        torch.mul(features, control, out=product)
        prediction.add_(product.sum(dim=0))
        if t < last:
            torch.mul(control, control, out=product)
            efforts.add_(product.sum(dim=0))
        torch.sub(prediction, target, out=ahead)
        sums[t, 0], sums[t, 1] = error.sum(), error.dot(error)
        sums[t, 2], sums[t, 3] = ahead.sum(), error.dot(ahead)
    return costs, efforts, sums.double().numpy()


def _join(
    blocks: Iterator[tuple[Tensor, Tensor, np.ndarray]], targets: Floats, agents: int
) -> Outcome:
    costs, efforts, sums = zip(*blocks, strict=True)
    paths = mix(np.sum(sums, axis=0), targets, agents)
    return Outcome(torch.cat(costs).numpy(), torch.cat(efforts).numpy(), *paths)


class Batched:
    """All agents at every step; `by` is the library's solver."""

    def __init__(self, by: Literal["lu", "cholesky"]) -> None:
        self.by = by

    @torch.inference_mode()
    def run(self, agents: int, steps: int, seed: int) -> Outcome:
        """Draw a population and let it live."""
        draw = torch.Generator().manual_seed(seed)
        weights = torch.randn(agents, 1, generator=draw)
        biases = torch.randn(agents, FEATURES, generator=draw)
        noise = torch.empty(agents, FEATURES)
        fresh = lambda _: noise.normal_(generator=draw)  # noqa: E731
        return batched(weights, biases, fresh, targets_of(steps), self.by)

    @torch.inference_mode()
    def run_given(self, A: Floats, b: Floats, noise: Floats, series: Floats) -> Outcome:
        """Let a population live whose draws are given: A [m, 1], b [m, p], noise [n, m, p]."""
        weights, biases, table = (torch.from_numpy(x) for x in (A, b, noise))
        return batched(weights, biases, table.__getitem__, series, self.by)


class AgentsLast:
    """Blocks of agents, each through the whole series; in place, elimination written out."""

    @torch.inference_mode()
    def run(self, agents: int, steps: int, seed: int) -> Outcome:
        """Draw a population and let it live."""
        targets = targets_of(steps)

        def blocks() -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
            draw = torch.Generator().manual_seed(seed)
            for start in range(0, agents, BLOCK):
                count = min(BLOCK, agents - start)
                noise = torch.empty(FEATURES, count)

                def fresh(_: int, noise: Tensor = noise) -> Tensor:
                    return noise.normal_(generator=draw)

                weights = torch.randn(count, generator=draw)
                biases = torch.randn(FEATURES, count, generator=draw)
                yield live_last(weights, biases, fresh, targets)

        return _join(blocks(), targets, agents)

    @torch.inference_mode()
    def run_given(self, A: Floats, b: Floats, noise: Floats, series: Floats) -> Outcome:
        """Let a population live whose draws are given: A [m, 1], b [m, p], noise [n, m, p]."""
        weights, biases, table = (torch.from_numpy(x) for x in (A[:, 0], b.T, noise))
        block = live_last(weights, biases, lambda t: table[t].T, series)
        return _join(iter([block]), series, len(A))


FORMS = {"lu": Batched("lu"), "cholesky": Batched("cholesky"), "last": AgentsLast()}
