"""Write quantecon_nnash.json: games of two agents, solved by QuantEcon's `nnash`.

Run by hand where quantecon is installed: ``python tests/reference/make_quantecon.py``. Nothing
of memoa_jax is used; the game is stated here a second time, in plain NumPy, as `nnash` takes it:

    x = (Y^1, Y^2, 1),   x' = A x + B1 u1 + B2 u2,   u_i = -F_i x
    player i minimises   sum_t beta^t [ x_t' R_i x_t + u_it' Q_i u_it ]

with Y^i' = Y^i + m_i u_i and features m_i that are known and constant. `nnash` charges the state
x_t at step t, the game of memoa_jax the state that step t leads to:

    sum_t beta^t r(x_{t+1}) = (1/beta) sum_t beta^t r(x_t) - r(x_0)/beta

so R_i is the running cost r divided by beta, and r(x_0) nobody can change. `nnash` itself
multiplies A, B1 and B2 by sqrt(beta): that is the discounting, and leaves F as it is.
"""

import json
import pathlib

import numpy as np

SEED = 20250901
SHAPES = [(1, 1), (1, 2), (2, 2), (2, 3)]  # outputs d, features p
DISCOUNTS = [0.9, 0.97, 1.0]
FILE = pathlib.Path(__file__).parent / "quantecon_nnash.json"


def draw_case(rng, d, p, beta, *, alike):
    """Draw one game; lists have one item per player, the target one per output."""
    players = 1 if alike else 2
    share = 0.5 if alike else rng.uniform(0.25, 0.75)
    case = {
        "tracking": rng.uniform(0.5, 1.5, players),
        "consensus": rng.uniform(0.3, 1.5, players),
        "ensemble": rng.uniform(0.3, 1.0, players),
        "effort": rng.uniform(0.2, 0.8, players),
        "features": rng.normal(size=(players, d, p)),
    }
    case = {name: np.repeat(entry, 2 // players, axis=0).tolist() for name, entry in case.items()}
    target = rng.normal(size=d).tolist()
    return case | {"weights": [share, 1 - share], "target": target, "beta": beta, "alike": alike}


def draw_cases():
    """Draw all games, from one seed."""
    rng = np.random.default_rng(SEED)
    return [
        draw_case(rng, d, p, beta, alike=alike)
        for d, p in SHAPES
        for alike in (True, False)
        for beta in DISCOUNTS
    ]


def stated_for_nnash(case):
    """Return the game's matrices by the names of `nnash`; S, W and M are zero."""
    features, y = np.array(case["features"]), np.array(case["target"])[:, None]
    d, p = features[0].shape
    none, eye, zero = np.zeros((d, d)), np.eye(d), np.zeros((d, 1))
    states = [np.hstack([eye, none, zero]), np.hstack([none, eye, zero])]
    ensemble = case["weights"][0] * states[0] + case["weights"][1] * states[1]
    target = np.hstack([none, none, y])
    game = {"A": np.eye(2 * d + 1), "beta": case["beta"]}
    for i in range(2):
        running = (
            case["tracking"][i] * (states[i] - target).T @ (states[i] - target)
            + case["consensus"][i] * (states[i] - ensemble).T @ (states[i] - ensemble)
            + case["ensemble"][i] * (ensemble - target).T @ (ensemble - target)
        )
        game[f"B{i + 1}"] = states[i].T @ features[i]
        game[f"R{i + 1}"] = running / case["beta"]
        game[f"Q{i + 1}"] = case["effort"][i] * np.eye(p)
        game[f"S{i + 1}"] = game[f"M{i + 1}"] = np.zeros((p, p))
        game[f"W{i + 1}"] = np.zeros((2 * d + 1, p))
    return game


def solve_by_quantecon(case):
    """Return F1 and F2, [p, 2d+1], of the stationary equilibrium."""
    # Imported here: the test suite collects this file where quantecon is not installed.
    from quantecon import nnash

    return nnash(**stated_for_nnash(case), tol=1e-13, max_iter=10_000)[:2]


def main():
    """Solve all games and write them, one to a line."""
    from quantecon import __version__

    lines = []
    for case in draw_cases():
        F1, F2 = solve_by_quantecon(case)
        lines.append(json.dumps(case | {"F1": F1.tolist(), "F2": F2.tolist()}))
    cases = ",\n".join(lines)
    FILE.write_text(f'{{"quantecon": "{__version__}", "cases": [\n{cases}\n]}}\n')


if __name__ == "__main__":
    main()
