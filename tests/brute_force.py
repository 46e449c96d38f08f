"""Plain NumPy enumeration of the game, sharing no code with the package.

Features take finitely many values, so every expectation is a finite sum over histories.
"""

import itertools

import numpy as np

FIELDS = ("tracking", "consensus", "ensemble", "effort", "forgetting")


def random_features(rng, *shape):
    """Features [*shape, d, p] whose mean is well away from zero."""
    return 0.6 * rng.normal(size=shape) + 0.4 * np.sign(rng.normal(size=shape[-2:]))


def random_moments(rng, horizon, d, p, lead=()):
    """Mean [*lead, T, d, p] and second [*lead, T, d, d, p, p] of 9 sampled features."""
    z = random_features(rng, 9, *lead, horizon, d, p)
    return z.mean(0), np.einsum("s...ak,s...bl->...abkl", z, z) / len(z)


class Enumeration:
    """N agents whose features take finitely many values: atoms [N, T, S, d, p], chances [N, T, S].

    `cost` maps each field to N numbers.
    """

    def __init__(self, atoms, chances, cost, targets):
        self.atoms, self.chances, self.targets = atoms, chances, targets
        self.cost = {k: np.broadcast_to(cost.get(k, 0.0), len(atoms)) for k in FIELDS}

    @classmethod
    def random(cls, rng, n, horizon, d, p, cost, *, alike, values=2):
        """Draw a law; with `alike` all agents share it."""
        atoms = random_features(rng, 1 if alike else n, horizon, values, d, p)
        chances = rng.dirichlet(np.full(values, 3.0), size=atoms.shape[:2])
        if alike:
            atoms, chances = np.repeat(atoms, n, 0), np.repeat(chances, n, 0)
        return cls(atoms, chances, cost, rng.normal(size=(horizon, d)))

    def moments(self):
        """Each agent's mean [N, T, d, p] and second [N, T, d, d, p, p]."""
        mean = np.einsum("its,itsak->itak", self.chances, self.atoms)
        return mean, np.einsum("its,itsak,itsbl->itabkl", self.chances, self.atoms, self.atoms)

    def costs(self, states, policy):
        """Expected costs [N] of policy(t, nodes [M, N, d]) -> controls [M, N, p]."""
        n, horizon, values = self.chances.shape
        nodes, weight, total = states[None], np.ones(1), np.zeros(n)
        for t in range(horizon):
            controls, following, weights = policy(t, nodes), [], []
            discount = np.exp(-self.cost["forgetting"] * (horizon - 1 - t))
            y = self.targets[t]
            for outcome in itertools.product(range(values), repeat=n):
                z = np.stack([self.atoms[i, t, s] for i, s in enumerate(outcome)])
                chance = np.prod([self.chances[i, t, s] for i, s in enumerate(outcome)])
                moved = nodes + np.einsum("idp,mip->mid", z, controls)
                mean = moved.mean(1, keepdims=True)
                running = (
                    self.cost["tracking"] * ((moved - y) ** 2).sum(2)
                    + self.cost["consensus"] * ((moved - mean) ** 2).sum(2)
                    + self.cost["ensemble"] * ((mean - y) ** 2).sum(2)
                    + self.cost["effort"] * (controls**2).sum(2)
                )
                total += discount * np.einsum("m,mi->i", weight * chance, running)
                following.append(moved)
                weights.append(weight * chance)
            nodes, weight = np.concatenate(following), np.concatenate(weights)
        return total

    def deviation(self, states, policy, agent):
        """One agent's cost as an exact quadratic in its own controls at every history.

        Returns (gradient, Hessian, cost) at the policy: the cost is quadratic, so differences
        of step 1 are exact, and the best response among all strategies is a linear solve.
        """
        n, horizon, values = self.chances.shape
        p = self.atoms.shape[-1]
        sizes = [p * values ** (n * t) for t in range(horizon)]
        cuts = np.cumsum(sizes)[:-1]

        def cost(change):
            tables = np.split(change, cuts)

            def deviant(t, nodes):
                controls = policy(t, nodes).copy()
                controls[:, agent] += tables[t].reshape(-1, p)
                return controls

            return self.costs(states, deviant)[agent]

        size = sum(sizes)
        eye, here = np.eye(size), cost(np.zeros(size))
        up = np.array([cost(e) for e in eye])
        down = np.array([cost(-e) for e in eye])
        hessian = np.diag(up + down - 2 * here)
        for i, j in itertools.combinations(range(size), 2):
            hessian[i, j] = hessian[j, i] = cost(eye[i] + eye[j]) - up[i] - up[j] + here
        return (up - down) / 2, hessian, here


def feedback(own, mean, offset):
    """The policy beta = -(own Y + mean Ybar + offset), same gains for all agents."""

    def policy(t, nodes):
        average = nodes.mean(1, keepdims=True)
        return -(nodes @ own[t].T + average @ mean[t].T + offset[t])

    return policy
