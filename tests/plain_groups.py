"""The online loop of groups once more: plain numpy, agent by agent, group by group.

Features are those of the group, [n, N_k, d, p_k] each: nothing is padded here.
"""

import numpy as np
from plain_loop import textbook_weights


def gains_of_types(costs, m, S, targets, counts, weights):
    """Return own, mean, offset of each type at each step: the typed recursion, loop by loop.

    `costs` are K rows (q, c, e, gamma, alpha); m[k] is [T, d, p_k]; a count None is the limit.
    """
    K, (T, d, _) = len(costs), m[0].shape
    eps = [0.0 if n is None else 1.0 / n for n in counts]
    eye, omega = np.eye(d), np.kron(np.asarray(weights)[None], np.eye(d))
    J = [np.eye(K * d)[:, k * d : (k + 1) * d] for k in range(K)]
    A, B = [np.zeros((d, d))] * K, [np.zeros((d, K * d))] * K
    C, D = [np.zeros((K * d, K * d))] * K, [[np.zeros((d, d))] * K for _ in range(K)]
    a, b = [np.zeros(d)] * K, [np.zeros(K * d)] * K
    gains = [[None] * T for _ in range(K)]

    def cov(Q, k, t):
        M = sum(Q[r, s] * S[k][t, r, s] for r in range(d) for s in range(d))
        return M - m[k][t].T @ Q @ m[k][t]

    def sym(Q):
        return (Q + Q.T) / 2

    for t in reversed(range(T)):
        y, solved, system, right, free = targets[t], [], np.eye(K * d), np.eye(K * d), []
        for k, (q, c, e, gamma, alpha) in enumerate(costs):
            delta, z = np.exp(-alpha * (T - 1 - t)), m[k][t]
            A[k] = A[k] + delta * (q + c) * eye
            B[k] = B[k] - delta * c * omega
            C[k] = C[k] + delta * (c + e) * omega.T @ omega
            a[k] = a[k] - delta * q * y
            b[k] = b[k] - delta * e * omega.T @ y
            effort = delta * gamma * np.eye(z.shape[1])
            Ey = A[k] + eps[k] * ((B[k] @ J[k]).T + D[k][k])
            F = B[k] + eps[k] * J[k].T @ C[k]
            f = a[k] + eps[k] * J[k].T @ b[k]
            noise = A[k] + eps[k] * (2 * sym(B[k] @ J[k]) + D[k][k])
            noise = noise + eps[k] ** 2 * J[k].T @ C[k] @ J[k]
            H = np.linalg.inv(z.T @ Ey @ z + cov(noise, k, t) + effort)
            L = z @ H @ z.T
            rows = slice(k * d, (k + 1) * d)
            system[rows] += L @ F
            right[rows] -= L @ Ey @ J[k].T
            free.append(-L @ f)
            U = cov(A[k] + 2 * eps[k] * sym(B[k] @ J[k]), k, t) + effort
            solved.append((H, Ey, F, f, U))
        Phi = np.linalg.solve(system, right)
        phi = np.linalg.solve(system, np.concatenate(free))
        play = []
        for k, (H, Ey, F, f, _) in enumerate(solved):
            z = m[k][t]
            one = (H @ z.T @ Ey, H @ z.T @ F @ Phi, H @ z.T @ (F @ phi + f))
            gains[k][t] = one
            play.append((*one, eye - z @ one[0], -z @ one[1], -z @ one[2]))
        for k in range(K):
            (own, mean, offset, Ac, Bc, cc), U = play[k], solved[k][4]
            A1, B1, C1, a1, b1 = A[k], B[k], C[k], a[k], b[k]
            W = Bc.T @ B1 @ Phi
            push = A1 @ cc + B1 @ phi + a1
            A[k] = Ac.T @ A1 @ Ac + own.T @ U @ own
            B[k] = Ac.T @ A1 @ Bc + Ac.T @ B1 @ Phi + own.T @ U @ mean
            C[k] = Bc.T @ A1 @ Bc + W + W.T + Phi.T @ C1 @ Phi + mean.T @ U @ mean
            a[k] = Ac.T @ push + own.T @ U @ offset
            b[k] = Bc.T @ push + Phi.T @ (B1.T @ cc + C1 @ phi + b1) + mean.T @ U @ offset
            spread = []
            for other in range(K):
                own, mean, offset, Ac, Bc, cc = play[other]
                D1, select = D[k][other], J[other]
                X = cov(D1 + eps[other] * select.T @ C1 @ select, other, t)
                R = select @ (Ac.T @ D1 @ Bc + own.T @ X @ mean)
                C[k] = C[k] + Bc.T @ D1 @ Bc + mean.T @ X @ mean + R + R.T
                b[k] = b[k] + (Ac @ select.T + Bc).T @ D1 @ cc
                b[k] = b[k] + (own @ select.T + mean).T @ X @ offset
                spread.append(Ac.T @ D1 @ Ac + own.T @ X @ own)
            D[k] = spread
    return gains


def online_loop_of_groups(
    y,
    Z,
    policy,
    *,
    costs,
    windows,
    horizon=1,
    sync_every=1,
    information="feedback",
    greedy_efforts=None,
):
    """Return predictions and controls, K arrays [n, N_k, ...], and the server [n, d].

    `costs` are K rows (q, c, e, gamma, alpha).
    """
    K, n, d = len(Z), len(y), y.shape[1]
    known = np.isfinite(y).all(axis=1)
    sizes = [one.shape[1] for one in Z]
    prediction = [np.zeros((n + 1, size, d)) for size in sizes]
    base = [np.zeros((n, size, d)) for size in sizes]
    control = [np.zeros((*one.shape[:2], one.shape[3])) for one in Z]
    server, held = np.zeros((n + 1, d)), y[0]
    w = np.full(sum(sizes), 1 / sum(sizes))
    for one in prediction:
        one[0] = y[0]
    server[0] = y[0]
    for t in range(n):
        span = range(t - horizon, t)
        play = policy != "greedy" and t >= horizon and t % sync_every == 0
        play = play and all(known[s] and known[s + 1] for s in span)
        for k in range(K):
            base[k][t] = prediction[k][t]
        if play:
            m = [np.stack([Z[k][s].mean(axis=0) for s in span]) for k in range(K)]
            S = [
                np.stack([np.einsum("nak,nbl->abkl", Z[k][s], Z[k][s]) / sizes[k] for s in span])
                for k in range(K)
            ]
            counts = sizes if policy == "centralized" else [None] * K
            weights = np.array(sizes) / sum(sizes)
            lived = y[t - horizon + 1 : t + 1]
            gains = gains_of_types(costs, m, S, lived, counts, weights)
            Y = [np.tile(y[t - horizon], (size, 1)) for size in sizes]
            means = np.tile(y[t - horizon], K)
            for j, s in enumerate(span):
                rolled = []
                for k in range(K):
                    own, mean, offset = gains[k][j]
                    mine = means[k * d : (k + 1) * d]
                    rolled.append(mine - m[k][j] @ (own @ mine + mean @ means + offset))
                    for i in range(sizes[k]):
                        control[k][t, i] = -(own @ Y[k][i] + mean @ means + offset)
                        Y[k][i] = Y[k][i] + Z[k][s, i] @ control[k][t, i]
                realised = np.concatenate([one.mean(axis=0) for one in Y])
                means = realised if information == "feedback" else np.concatenate(rolled)
            for k in range(K):
                base[k][t] = Y[k]
        else:
            for k, (_, _, _, gamma, alpha) in enumerate(costs):
                effort = gamma if greedy_efforts is None else greedy_efforts[k]
                p = Z[k].shape[3]
                for i in range(sizes[k]):
                    gram, right = effort * np.eye(p), np.zeros(p)
                    for s in range(max(t - windows[k], 0), t):
                        if known[s + 1]:
                            weight = np.exp(-alpha * (t - 1 - s))
                            gram += weight * Z[k][s, i].T @ Z[k][s, i]
                            right += weight * Z[k][s, i].T @ (y[s + 1] - base[k][s, i])
                    control[k][t, i] = np.linalg.solve(gram, right)
        for k in range(K):
            prediction[k][t + 1] = base[k][t] + np.einsum("nap,np->na", Z[k][t], control[k][t])
        everyone = [np.concatenate([one[s] for one in prediction]) for s in (t, t + 1)]
        if known[t]:
            held = y[t]
            w = textbook_weights(everyone[0], held, 1.0, 1.0)
        server[t + 1] = w @ everyone[1]
    return [one[:n] for one in prediction], control, server[:n]
