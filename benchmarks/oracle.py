"""The simulator's runs once more, in float64 NumPy, for chosen agents and given draws.

The float32 draws define what is simulated; everything made of them is written out again from
the equations, and shares no code with the package. A run takes the agents it is given for the
whole population. For a sample of a larger one, what the population tells its agents (the mean
field of a game) is handed in, and the server and the mean field that come out are the sample's.

Every target must be known.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]


class Draws(NamedTuple):
    """The normals of m agents: A [m, d, k] and b [m, d, p] of a life, w [n, m, p] of its rows.

    For one output A may be [m, k] and b [m, p].
    """

    weights: NDArray[np.float32]
    biases: NDArray[np.float32]
    noise: NDArray[np.float32]


class Run(NamedTuple):
    """Per agent `costs` and `efforts` [m], and two paths [n, d].

    Row t of `server` and `mean_field` is the prediction made at row t, for row t + 1.
    """

    costs: Doubles
    efforts: Doubles
    server: Doubles
    mean_field: Doubles


class Policy(Protocol):
    """Decides: called once per row, in order, with y_0..y_t known."""

    def __call__(self, t: int, features: Doubles, prediction: Doubles) -> tuple[Doubles, Doubles]:
        """Return bases [m, d] and controls [m, p], given Z_t [m, d, p] and Y_t [m, d]."""
        ...


def draws_of(
    agents: ArrayLike,
    key: Any,
    points: int,
    *,
    features: int = 8,
    outputs: int = 1,
    inputs: int = 1,
) -> Draws:
    """Return the draws that `memoa_jax.simulate` makes for random-feature agents.

    Args:
      agents: [m], places in the population.
      key: the run's key.
      points: n, rows of the series.
      features: p.
      outputs: d.
      inputs: k.
    """
    import jax
    import jax.numpy as jnp

    from memoa_jax.draws import Stream, normals, seed_words
    from memoa_jax.types import Agents

    crowd = Agents(index=jnp.asarray(agents, jnp.uint32), key=seed_words(key))
    count = crowd.index.shape[0]

    def life(stream: Stream, columns: int) -> NDArray[np.float32]:
        flat = normals(crowd, stream, 0, outputs * columns, jnp.float32)
        return np.moveaxis(np.asarray(flat).reshape(outputs, columns, count), -1, 0)

    noise = jax.vmap(lambda t: normals(crowd, Stream.FEATURE_NOISE, t, features, jnp.float32))
    return Draws(
        weights=life(Stream.INPUT_WEIGHTS, inputs),
        biases=life(Stream.BIASES, features),
        noise=np.asarray(noise(jnp.arange(points))).transpose(0, 2, 1),
    )


def live(
    draws: Draws,
    inputs: ArrayLike,
    targets: ArrayLike,
    policy: Policy,
    *,
    noise: float = 0.1,
    kappa: float = 1.0,
    eta: float = 1.0,
) -> Run:
    """Take the agents through a series, as `memoa_jax.simulate` does with a ridge mixture.

        Z_t = relu(A x_t 1' + b + noise 1 w_t'),   Y_{t+1} = base_t + Z_t beta_t
        w_i = eta/N + (Y^i - mean)' (kappa I + scatter)^{-1} (y - eta mean)

    Args:
      draws: of the agents.
      inputs: [n, k].
      targets: [n, d].
      policy: chooses base_t and beta_t.
      noise: strength of the fresh noise.
      kappa: of the mixture.
      eta: of the mixture.
    """
    x, y = rounded(inputs), rounded(targets)
    (points, k), d, m = x.shape, y.shape[1], len(draws.weights)
    weights = draws.weights.astype(np.float64).reshape(m, d, k)
    biases = draws.biases.astype(np.float64).reshape(m, d, -1)
    prediction = np.tile(y[0], (m, 1))
    costs, efforts, control = np.zeros(m), np.zeros(m), np.zeros((m, biases.shape[2]))
    server, mean_field = np.empty((points, d)), np.empty((points, d))
    for t in range(points):
        error = prediction - y[t]
        if t > 0:
            costs += (error**2).sum(axis=1)
            efforts += (control**2).sum(axis=1)
        fresh = noise * draws.noise[t].astype(np.float64)
        features = np.maximum((weights @ x[t])[:, :, None] + biases + fresh[:, None], 0.0)
        base, control = policy(t, features, prediction)
        prediction = base + np.einsum("mdp,mp->md", features, control)
        deviation = error - error.mean(axis=0)
        scatter = deviation.T @ deviation + kappa * np.eye(d)
        tilt = np.linalg.solve(scatter, y[t] - eta * (y[t] + error.mean(axis=0)))
        mean_field[t] = prediction.mean(axis=0)
        server[t] = eta * mean_field[t] + tilt @ deviation.T @ (prediction - y[t])
    return Run(costs, efforts, server, mean_field)


def rounded(values: ArrayLike) -> Doubles:
    """Return values as a float32 run sees them, [n, .]; a vector becomes one column."""
    array = np.asarray(values, np.float32).astype(np.float64)
    return array[:, None] if array.ndim == 1 else array


def largest_difference(costs32: ArrayLike, costs64: ArrayLike) -> float:
    """Return the largest difference relative to the second argument's entries."""
    exact = np.asarray(costs64, np.float64)
    return float(np.max(np.abs(np.asarray(costs32, np.float64) - exact) / np.abs(exact)))


class Greedy:
    """The window ridge, from the definition: all of its sums are made anew at every row.

    beta_t = argmin_b sum_{s=max(t-W,0)}^{t-1} e^{-forgetting (t-1-s)} |y_{s+1} - Y_s - Z_s b|^2
                      + effort |b|^2
    """

    def __init__(
        self, targets: ArrayLike, window: int, effort: float, forgetting: float = 0.0
    ) -> None:
        self.targets, self.effort, self.forgetting = rounded(targets), effort, forgetting
        self.steps: collections.deque[tuple[Doubles, Doubles]] = collections.deque(maxlen=window)
        self.pending: tuple[Doubles, Doubles] | None = None

    def complete(self, t: int) -> None:
        """Enter the step in progress, whose target y_t has been seen."""
        if self.pending is not None:
            features, base = self.pending
            self.steps.append((features, self.targets[t] - base))

    def fit(self, features: Doubles) -> Doubles:
        """Return the controls [m, p] of the window."""
        count, _, p = features.shape
        gram, moment = np.tile(self.effort * np.eye(p), (count, 1, 1)), np.zeros((count, p))
        for age, (rows, residual) in enumerate(reversed(self.steps)):
            weight = np.exp(-self.forgetting * age)
            gram += weight * np.einsum("mda,mdb->mab", rows, rows)
            moment += weight * np.einsum("mda,md->ma", rows, residual)
        return np.linalg.solve(gram, moment[..., None])[..., 0]

    def __call__(self, t: int, features: Doubles, prediction: Doubles) -> tuple[Doubles, Doubles]:
        """Decide."""
        self.complete(t)
        self.pending = (features, prediction)
        return prediction, self.fit(features)


Gains = Sequence[tuple[Doubles, Doubles, Doubles]]
"""A game's feedback gains, step by step: own [p, d], of the mean field [p, d], offset [p]."""


class Hindsight:
    """The replayed game with feedback, on the last `horizon` steps; greedy where none is played.

    `gains` is called with t and the replayed features, T arrays [m, d, p], and gives the game's
    gains. `paths` [n, T, d], row t the mean fields of the game played at t, from its start on;
    None: the mean over the agents given.
    """

    def __init__(
        self,
        greedy: Greedy,
        horizon: int,
        gains: Callable[[int, Sequence[Doubles]], Gains],
        *,
        paths: Doubles | None = None,
        sync_every: int = 1,
    ) -> None:
        self.greedy, self.gains, self.paths, self.sync_every = greedy, gains, paths, sync_every
        self.recent: collections.deque[Doubles] = collections.deque(maxlen=horizon)

    def __call__(self, t: int, features: Doubles, prediction: Doubles) -> tuple[Doubles, Doubles]:
        """Decide."""
        self.greedy.complete(t)
        horizon = self.recent.maxlen or 1
        if t >= horizon and t % self.sync_every == 0:
            start = self.greedy.targets[t - horizon]
            path = None if self.paths is None else self.paths[t]
            base, control = replay(self.recent, self.gains(t, self.recent), start, path)
        else:
            base, control = prediction, self.greedy.fit(features)
        self.greedy.pending = (features, base)
        self.recent.append(features)
        return base, control


def replay(
    window: Sequence[Doubles], gains: Gains, start: Doubles, path: Doubles | None
) -> tuple[Doubles, Doubles]:
    """Let agents live through a window with a game's gains; return the end and last control."""
    states = np.tile(start, (len(window[0]), 1))
    for j, (features, (own, common, offset)) in enumerate(zip(window, gains, strict=True)):
        mean_field = states.mean(axis=0) if path is None else path[j]
        control = -(states @ own.T + common @ mean_field + offset)
        states = states + np.einsum("mdp,mp->md", features, control)
    return states, control


class Heterogeneous:
    """The replayed game of agents that go by their own features; greedy where none is played.

    Every agent's controls of the whole window are one ridge regression of T p numbers: no
    recursion, and no reduction to d x d. `paths` [n, T, d], row t the mean field of the game
    played at t at the ends of its steps.
    """

    def __init__(self, greedy: Greedy, horizon: int, cost: Any, paths: Doubles) -> None:
        self.greedy, self.cost, self.paths = greedy, cost, paths
        self.recent: collections.deque[Doubles] = collections.deque(maxlen=horizon)

    def __call__(self, t: int, features: Doubles, prediction: Doubles) -> tuple[Doubles, Doubles]:
        """Decide."""
        self.greedy.complete(t)
        horizon = self.recent.maxlen or 1
        if t >= horizon:
            base, control = self.answer(t, np.stack(self.recent, axis=1))
        else:
            base, control = prediction, self.greedy.fit(features)
        self.greedy.pending = (features, base)
        self.recent.append(features)
        return base, control

    def answer(self, t: int, window: Doubles) -> tuple[Doubles, Doubles]:
        """Return where agents with features [m, T, d, p] end, and their last controls."""
        count, horizon, d, p = window.shape
        start = self.greedy.targets[t - horizon]
        targets = self.greedy.targets[t - horizon + 1 : t + 1] - start
        q, c, gamma, alpha = (
            float(getattr(self.cost, name))
            for name in ("tracking", "consensus", "effort", "forgetting")
        )
        delta = np.exp(-alpha * (horizon - 1 - np.arange(horizon)))
        moves = np.zeros((count, horizon, d, horizon, p))
        for s in range(horizon):
            moves[:, s:, :, s] = window[:, s, None]
        moves = moves.reshape(count, horizon * d, horizon * p)
        weight, back = np.repeat(delta, d), moves.transpose(0, 2, 1)
        system = back @ ((q + c) * weight[:, None] * moves)
        system = system + np.diag(gamma * np.repeat(delta, p))
        wish = weight * (q * targets + c * (self.paths[t] - start)).ravel()
        control = np.linalg.solve(system, (back @ wish)[..., None])
        ends = (moves @ control)[:, -d:, 0]
        return start + ends, control[:, -p:, 0]


class Forecast:
    """The one-step game on every agent's own forecast of the move, from the definition.

    `moves` [n, d] are the mean moves that the agents know of, in a run without staleness
    ``mean_field[t + 1] - y_t``; None: solved for the agents given, in the limit.
    """

    def __init__(
        self,
        targets: ArrayLike,
        moves: ArrayLike | None,
        *,
        tracking: float,
        pull: float,
        effort: float,
        ridge: float = 0.1,
        discount: float = 0.999,
    ) -> None:
        self.targets = rounded(targets)
        self.moves = None if moves is None else rounded(moves)
        self.tracking, self.pull, self.effort = tracking, pull, effort
        self.ridge, self.discount = ridge, discount
        self.features: Doubles | None = None

    def regress(self, t: int, features: Doubles) -> Doubles:
        """Enter the move just seen; return every agent's forecast of the next, [m, d]."""
        count, _, p = features.shape
        if self.features is None:
            self.gram, self.moment = np.zeros((count, p, p)), np.zeros((count, p))
        else:
            z, move = self.features, self.targets[t] - self.targets[t - 1]
            self.gram = self.discount * self.gram + np.einsum("mda,mdb->mab", z, z)
            self.moment = self.discount * self.moment + np.einsum("mda,d->ma", z, move)
        self.features = features
        system = self.gram + self.ridge * np.eye(p)
        readout = np.linalg.solve(system, self.moment[..., None])
        return (features @ readout)[..., 0]

    def __call__(self, t: int, features: Doubles, prediction: Doubles) -> tuple[Doubles, Doubles]:
        """Decide."""
        forecast = self.regress(t, features)
        p, rows = features.shape[2], features.transpose(0, 2, 1)
        system = (self.tracking + self.pull) * rows @ features + self.effort * np.eye(p)
        if self.moves is None:
            response = features @ np.linalg.solve(system, rows)
            wish = self.tracking * (response @ forecast[..., None])[..., 0]
            matrix = np.eye(features.shape[1]) - self.pull * response.mean(axis=0)
            move = np.linalg.solve(matrix, wish.mean(axis=0))
        else:
            move = self.moves[t]
        sought = self.tracking * forecast + self.pull * move
        control = np.linalg.solve(system, rows @ sought[..., None])[..., 0]
        return np.broadcast_to(self.targets[t], prediction.shape), control
