"""The online loop once more: plain numpy, one agent and one step at a time, no shared code.

Only the random draws are taken from the package (they define what is simulated); everything
that is computed from them is written out again here, from the equations.
"""

import numpy as np

from memoa_jax.draws import Stream, normals, seed_words, uniform_integers
from memoa_jax.types import Agents


def draws(key, count, stream, step, width):
    """Return the draws of `count` agents, [N, width]."""
    agents = Agents(np.arange(count, dtype=np.uint32), seed_words(key))
    return np.asarray(normals(agents, stream, step, width, np.float64)).T


def features_of(kind, series, key, count, p, noise, given=None, view=None):
    """Return Z [n, N, d, p] of random-feature ("relu") or echo-state agents."""
    if kind == "given":
        return given
    x, y = np.asarray(series.inputs), np.asarray(series.targets)
    (n, k), d = x.shape, y.shape[1]
    A = draws(key, count, Stream.INPUT_WEIGHTS, 0, d * k).reshape(count, d, k)
    B = draws(key, count, Stream.RECURRENT_WEIGHTS, 0, d * d).reshape(count, d, d)
    b = draws(key, count, Stream.BIASES, 0, d * p).reshape(count, d, p)
    phi = {
        "relu": lambda u: np.maximum(u, 0),
        "tanh": np.tanh,
        "hard_sigmoid": lambda u: np.clip(u / 6 + 0.5, 0, 1),
    }[kind]
    Z = np.zeros((n, count, d, p))
    for t in range(n):
        w = draws(key, count, Stream.FEATURE_NOISE, t, p)
        for i in range(count):
            seen = x[t]
            if view is not None:
                delay = np.asarray(
                    uniform_integers(
                        Agents(np.arange(count, dtype=np.uint32), seed_words(key)),
                        Stream.VIEW_DELAY,
                        view["max_delay"] + 1,
                    )
                )[i]
                seen = (
                    x[max(t - delay, 0)]
                    + view["offset"] * draws(key, count, Stream.VIEW_OFFSET, 0, k)[i]
                )
                seen = seen + view["noise"] * draws(key, count, Stream.VIEW_NOISE, t, k)[i]
            u = np.outer(A[i] @ seen, np.ones(p)) + b[i] + noise * np.outer(np.ones(d), w[i])
            if kind != "relu" and t > 0:
                u = u + B[i] @ Z[t - 1, i]
            Z[t, i] = phi(u)
    return Z


def nash_gains(cost, m, S, targets, eps):
    """Return K, Kb, kappa [T, ...] of MATH section 2, written out with plain loops."""
    T, d, p = m.shape
    q, c, e, gamma, alpha = cost
    A = np.zeros((d, d))
    B, C, D = A.copy(), A.copy(), A.copy()
    a, b = np.zeros(d), np.zeros(d)
    eye = np.eye(d)
    gains = [None] * T

    def sym(Q):
        return (Q + Q.T) / 2

    def cov(Q, t):
        M = sum(Q[r, s] * S[t, r, s] for r in range(d) for s in range(d))
        return M - m[t].T @ Q @ m[t]

    for t in reversed(range(T)):
        delta, mt = np.exp(-alpha * (T - 1 - t)), m[t]
        A1, B1 = A + delta * (q + c) * eye, B - delta * c * eye
        C1, D1 = C + delta * (c + e) * eye, D
        a1, b1 = a - delta * q * targets[t], b - delta * e * targets[t]
        Ey, F, f = A1 + eps * (B1.T + D1), B1 + eps * C1, a1 + eps * b1
        effort = delta * gamma * np.eye(p)
        H = mt.T @ Ey @ mt + cov(A1 + eps * (2 * sym(B1) + D1) + eps**2 * C1, t) + effort
        G = mt @ np.linalg.inv(H + mt.T @ F @ mt) @ mt.T
        Phi, phi = eye - G @ (Ey + F), -G @ f
        K = np.linalg.solve(H, mt.T @ Ey)
        Kb = np.linalg.solve(H, mt.T @ F @ Phi)
        kappa = np.linalg.solve(H, mt.T @ (F @ phi + f))
        gains[t] = (K, Kb, kappa)
        U = cov(A1 + 2 * eps * sym(B1), t) + effort
        X = cov(D1 + eps * C1, t)
        Ac, Bc, cc = eye - mt @ K, -mt @ Kb, -mt @ kappa
        W = Bc.T @ B1 @ Phi
        R = Ac.T @ D1 @ Bc + K.T @ X @ Kb
        A = Ac.T @ A1 @ Ac + K.T @ U @ K
        D = Ac.T @ D1 @ Ac + K.T @ X @ K
        B = Ac.T @ A1 @ Bc + Ac.T @ B1 @ Phi + K.T @ U @ Kb
        C = Bc.T @ A1 @ Bc + W + W.T + Phi.T @ C1 @ Phi + Kb.T @ U @ Kb
        C = C + Bc.T @ D1 @ Bc + Kb.T @ X @ Kb + R + R.T
        a = Ac.T @ (A1 @ cc + B1 @ phi + a1) + K.T @ U @ kappa
        b = (
            Bc.T @ (A1 @ cc + B1 @ phi + a1)
            + Phi.T @ (B1.T @ cc + C1 @ phi + b1)
            + Kb.T @ U @ kappa
            + (Ac + Bc).T @ D1 @ cc
            + (K + Kb).T @ X @ kappa
        )
    return gains


def textbook_weights(U, y, kappa, eta):
    """Solve the N x N bordered system of the ridge weights; U is [N, d]."""
    N = U.shape[0]
    system = np.zeros((N + 1, N + 1))
    system[:N, :N] = 2 * (U @ U.T + kappa * np.eye(N))
    system[:N, N] = system[N, :N] = 1
    return np.linalg.solve(system, np.append(2 * U @ y, eta))[:N]


def online_loop(
    y,
    Z,
    policy,
    *,
    cost,
    window,
    horizon=1,
    sync_every=1,
    information="feedback",
    greedy_effort=None,
    kappa=1.0,
    eta=1.0,
):
    """Return predictions [n, N, d], controls, weights, server [n, d]; cost = (q, c, e, g, a)."""
    n, N, d, p = Z.shape
    known = np.isfinite(y).all(axis=1)
    gamma, alpha = cost[3] if greedy_effort is None else greedy_effort, cost[4]
    prediction = np.zeros((n + 1, N, d))
    base = np.zeros((n, N, d))  # Y_t as used by the increment: replaced after a game
    control, weights = np.zeros((n, N, p)), np.zeros((n, N))
    server = np.zeros((n + 1, d))
    prediction[0], server[0] = y[0], y[0]
    w = np.full(N, eta / N)
    for t in range(n):
        span = range(t - horizon, t)
        play = policy != "greedy" and t >= horizon and t % sync_every == 0
        play = play and all(known[s] and known[s + 1] for s in span)
        base[t] = prediction[t]
        if play:
            m = np.stack([Z[s].mean(axis=0) for s in span])
            S = np.stack([np.einsum("nak,nbl->abkl", Z[s], Z[s]) / N for s in span])
            eps = 1 / N if policy == "centralized" else 0.0
            gains = nash_gains(cost, m, S, y[t - horizon + 1 : t + 1], eps)
            Y = np.tile(y[t - horizon], (N, 1))
            mean = y[t - horizon]
            for j, s in enumerate(span):
                K, Kb, offset = gains[j]
                for i in range(N):
                    control[t, i] = -(K @ Y[i] + Kb @ mean + offset)
                    Y[i] = Y[i] + Z[s, i] @ control[t, i]
                implied = mean - m[j] @ (K @ mean + Kb @ mean + offset)
                mean = Y.mean(axis=0) if information == "feedback" else implied
            base[t] = Y
        else:
            for i in range(N):
                gram, right = gamma * np.eye(p), np.zeros(p)
                for s in range(max(t - window, 0), t):
                    if known[s + 1]:
                        weight = np.exp(-alpha * (t - 1 - s))
                        gram += weight * Z[s, i].T @ Z[s, i]
                        right += weight * Z[s, i].T @ (y[s + 1] - base[s, i])
                control[t, i] = np.linalg.solve(gram, right)
        for i in range(N):
            prediction[t + 1, i] = base[t, i] + Z[t, i] @ control[t, i]
        if known[t]:
            w = textbook_weights(prediction[t], y[t], kappa, eta)
        weights[t] = w
        server[t + 1] = w @ prediction[t + 1]
    return {
        "prediction": prediction[:n],
        "forecast": server[n],
        "control": control,
        "weights": weights,
        "server": server[:n],
    }
