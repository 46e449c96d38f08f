"""The statements of `memoa verify` that closed forms decide: nothing here is sampled.

Reduction, convergence, exploitability, minimax and the price of anarchy. Each function returns
its statements; the order of the programme is in `memoa_jax.verify`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from memoa_jax.analysis import expected_costs, exploitability, price_of_anarchy
from memoa_jax.analysis_types import expected_costs_types
from memoa_jax.game import GameCost, InitialLaw
from memoa_jax.nash import FeedbackGains, solve_nash, solve_team
from memoa_jax.nash_dense import solve_nash_dense
from memoa_jax.nash_types import solve_nash_types
from memoa_jax.statement import (
    Game,
    Statement,
    bound_statement,
    difference,
    random_game,
    random_moments,
    rate_statement,
)
from memoa_jax.types import Array

COST = GameCost(tracking=1.0, consensus=0.8, ensemble=0.3, effort=0.4, forgetting=0.1)
UNCOUPLED_MEAN = GameCost(tracking=1.0, consensus=0.8, ensemble=0.0, effort=0.4, forgetting=0.1)
POPULATIONS = np.array([2, 5] + [x * 10**k for k in range(1, 6) for x in (1, 2, 5)] + [10**6])


def reduction() -> list[Statement]:
    """State that the reductions are the joint game: gains on all states, and every cost."""
    dense_gap, value_gap, sizes = 0.0, 0.0, []
    for seed, (population, outputs, features) in enumerate([(2, 2, 3), (5, 1, 2)]):
        game, states = random_game(seed, COST, outputs=outputs, features=features)
        states = states[:population]
        nash = solve_nash(*game, population).gains
        everyone = jax.tree.map(lambda leaf, n=population: jnp.stack([leaf] * n), game[1])
        dense = solve_nash_dense(COST, everyone, game[2])
        costs = expected_costs(*game, population, nash, states)
        dense_gap = max(
            dense_gap, difference((dense.state, dense.offset), _joint(nash, population))
        )
        value_gap = max(value_gap, difference(costs, dense.value.costs(states)))
        sizes.append({"agents": population, "outputs": outputs, "features": features})
    return [
        bound_statement(
            "reduction",
            "the closed form of size d is the Nash equilibrium on the joint state of size N d",
            max(dense_gap, value_gap),
            1e-10,
            {"gains": dense_gap, "costs": value_gap, "games": sizes},
        ),
        bound_statement(
            "reduction of types",
            "so is that of K types that differ in costs and features",
            _types_gap(),
            1e-10,
        ),
    ]


def _joint(gains: FeedbackGains, population: int) -> tuple[Array, Array]:
    """Write gains of (Y, Ybar) as gains on the joint state, [N, T, p, N d] and [N, T, p]."""
    eye, even = jnp.eye(population), jnp.full((population, population), 1 / population)
    by_agent = jnp.einsum("ij,tpa->itpja", eye, gains.own)
    by_agent = by_agent + jnp.einsum("ij,tpa->itpja", even, gains.mean)
    offset = jnp.broadcast_to(gains.offset, (population, *gains.offset.shape))
    return by_agent.reshape(*by_agent.shape[:3], -1), offset


def _types_gap() -> float:
    """Compare three agents of two types (2 and 1) with their joint game."""
    rng, counts = np.random.default_rng(3), [2, 1]
    moments = random_moments(rng, (2, 4, 2, 2))
    costs = GameCost(1.0, jnp.array([0.5, 1.2]), jnp.array([0.3, 0.1]), jnp.array([0.4, 0.2]), 0.1)
    targets, states = jnp.asarray(rng.normal(size=(4, 2))), jnp.asarray(rng.normal(size=(3, 2)))
    gains = solve_nash_types(costs, moments, targets, counts).gains
    found = expected_costs_types(costs, moments, targets, counts, gains, [states[:2], states[2:]])
    owner = np.array([0, 0, 1])
    each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2,))[owner], costs)
    dense = solve_nash_dense(each, jax.tree.map(lambda leaf: leaf[owner], moments), targets)
    return difference(jnp.concatenate(list(found)), dense.value.costs(states))


def convergence() -> list[Statement]:
    """State that the centralized gains approach the decentralized ones at rate 1/N."""
    game, _ = random_game(10, COST)
    finite = jax.vmap(lambda n: solve_nash(*game, n).gains)(jnp.asarray(POPULATIONS, float))
    limit = solve_nash(*game, None).gains
    errors = {
        name: np.asarray(
            jnp.max(jnp.abs(getattr(finite, name) - getattr(limit, name)[None]), axis=axes)
        )
        for name, axes in (("own", (1, 2, 3)), ("mean", (1, 2, 3)), ("offset", (1, 2)))
    }
    claim = "the gains of the centralized Nash equilibrium converge to the decentralized ones"
    return [rate_statement("convergence", claim, POPULATIONS, errors, -1, 0.05, (10, 10**6))]


def deviations() -> list[Statement]:
    """State what one deviating agent gains, under both patterns of information, and in Nash."""
    game, states = random_game(11, COST)
    limit = solve_nash(*game, None).gains
    sizes = jnp.asarray(POPULATIONS, float)

    def at_limit(information: Any) -> NDArray[Any]:
        worst = jax.jit(lambda n: jnp.max(exploitability(*game, n, limit, states, information)))
        return np.asarray(jax.vmap(worst)(sizes))

    def at_nash(n: Array) -> Array:
        gains = solve_nash(*game, n).gains
        gain = exploitability(*game, n, gains, states)
        return jnp.max(jnp.abs(gain) / expected_costs(*game, n, gains, states))

    return [
        rate_statement(
            "exploitability, feedback",
            "what an agent gains by leaving the decentralized policy, the mean field broadcast",
            POPULATIONS,
            {"feedback": at_limit("feedback")},
            -2,
            0.1,
            (10, 10**4),
        ),
        rate_statement(
            "exploitability, offline",
            "the same with no communication after the start",
            POPULATIONS,
            {"offline": at_limit("offline")},
            -1,
            0.2,
            (10**3, 10**6),
        ),
        bound_statement(
            "exploitability, centralized",
            "no agent gains by leaving the centralized policy, at any N (share of its cost)",
            float(jnp.max(jax.vmap(at_nash)(sizes))),
            1e-12,
        ),
    ]


LAW: InitialLaw = InitialLaw(
    # NumPy's arrays: making JAX's would start a backend on import.
    np.array([0.5, -0.3]),  # type: ignore[arg-type]
    np.array([[1.0, 0.3], [0.3, 0.6]]),  # type: ignore[arg-type]
)
"""The agents' states before they are drawn, in the statements on the weakest agent."""
CROWD, FEW = 20, 4
"""Numbers of agents in those statements: alike, and each for itself."""


def minimax() -> list[Statement]:
    """State that the team optimum is what is best for the weakest agent, before states are drawn.

    The argument: the worst cost is at least the average cost, which the team minimises, and under
    the team all agents pay the same.
    """
    game, states = random_game(12, UNCOUPLED_MEAN, horizon=3, features=2)
    found = []
    for cost, words in ((UNCOUPLED_MEAN, "ensemble 0"), (COST, "ensemble 0.3")):
        this = (cost, *game[1:])
        slope, gap, raised = _stationarity(this), _descent(this), _perturbations(this)
        found += [
            bound_statement(
                f"minimax, stationary, {words}",
                "the team's gains are where the agents' expected cost has no slope (share of it)",
                slope,
                1e-10,
            ),
            bound_statement(
                f"minimax, optimum, {words}",
                "a numerical minimisation from zero gains ends at the team's cost (relative gap)",
                abs(gap),
                1e-10,
            ),
            Statement(
                f"minimax, changes, {words}",
                "no change of the team's gains helps the weakest agent: "
                f"{len(raised):,} at random, half alike for all, half each for itself",
                f"its cost rises by {min(raised):.1e} or more",
                ">= -1e-13",
                bool(min(raised) >= -1e-13),
                {"least": float(min(raised)), "median": float(np.median(raised))},
            ),
        ]
    return [*found, *_team_limit(game), _unequal_states(game, states)]


@jax.jit
def _ex_ante(game: Game, gains: FeedbackGains) -> Array:
    """Return the expected cost of each of `CROWD` agents alike, before their states are drawn."""
    return expected_costs(*game, CROWD, gains, LAW)


def _stationarity(game: Game) -> float:
    """Return the largest slope of the ex ante cost in the team's gains, over that cost."""
    value, slope = jax.value_and_grad(_ex_ante, argnums=1)(game, solve_team(*game, CROWD).gains)
    return float(max(jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(slope)) / value)


def _descent(game: Game) -> float:
    """Minimise the ex ante cost from zero gains; return how far off the team's it ends."""
    team = solve_team(*game, CROWD).gains
    lowest = _descend(game, jax.tree.map(jnp.zeros_like, team))
    return float(lowest / _ex_ante(game, team) - 1)


@jax.jit
def _descend(game: Game, start: FeedbackGains) -> Array:
    def cost(gains: FeedbackGains) -> Array:
        return _ex_ante(game, gains)

    optimizer = optax.lbfgs(memory_size=40)
    slope = optax.value_and_grad_from_state(cost)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        gains, state = carry
        value, gradient = slope(gains, state=state)
        update, state = optimizer.update(
            gradient, state, gains, value=value, grad=gradient, value_fn=cost
        )
        return (optax.apply_updates(gains, update), state), None

    (gains, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=150)
    return cost(gains)


def _perturbations(game: Game, count: int = 300) -> NDArray[Any]:
    """Return by how much random changes of the team's gains raise the weakest agent's cost.

    Changes alike for all of a crowd; and changes of four agents, each for itself and reading
    every state. Sizes from a thousandth to the whole of a gain.
    """
    rng = np.random.default_rng(13)
    sizes = jnp.asarray(10 ** rng.uniform(-3, 0, count))

    def rises(weakest: Any, gains: FeedbackGains) -> NDArray[Any]:
        def change(x: Array) -> Array:
            noise = jnp.asarray(rng.normal(size=(count, *x.shape)))
            return x[None] + jnp.reshape(sizes, (-1,) + (1,) * x.ndim) * noise

        costs = jax.vmap(weakest, in_axes=(None, 0))(game, jax.tree.map(change, gains))
        return np.asarray(costs / weakest(game, gains) - 1)

    few = solve_team(*game, FEW).gains
    reading_all = jnp.tile(few.mean / FEW, (1, 1, FEW))
    each = FeedbackGains(*(jnp.stack([x] * FEW) for x in (few.own, reading_all, few.offset)))
    alike = rises(_ex_ante, solve_team(*game, CROWD).gains)
    return np.concatenate([alike, rises(_weakest_of_few, each)])


@jax.jit
def _weakest_of_few(game: Game, gains: FeedbackGains) -> Array:
    """Return the largest ex ante cost of `FEW` agents that play each its own gains."""
    cost, moments, targets = game
    moments, law = jax.tree.map(lambda leaf: jnp.stack([leaf] * FEW), (moments, LAW))
    costs = expected_costs_types(cost, moments, targets, [1] * FEW, gains, law)
    return jnp.max(jnp.asarray(costs))


def _team_limit(game: Game) -> list[Statement]:
    """State that without an ensemble cost the decentralized policy is the limit of the team."""
    sizes = jnp.asarray(POPULATIONS, float)
    limit, team = solve_nash(*game, None).gains, solve_team(*game, None).gains
    finite = jax.vmap(lambda n: solve_team(*game, n).gains)(sizes)
    gaps = [
        jnp.max(jnp.abs(leaf - last[None]), axis=tuple(range(1, leaf.ndim)))
        for leaf, last in zip(jax.tree.leaves(finite), jax.tree.leaves(limit), strict=True)
    ]
    errors = {"gains": np.asarray(jnp.max(jnp.stack(gaps), axis=0))}
    weakest = jax.jit(lambda n, gains: expected_costs(*game, n, gains, LAW))
    ours = jax.vmap(weakest, in_axes=(0, None))(sizes, limit)
    theirs = jax.vmap(weakest)(sizes, finite)
    regret = np.asarray(ours / theirs - 1)
    return [
        bound_statement(
            "minimax in the limit",
            "with ensemble 0 the decentralized policy is the team optimum of the limit",
            difference(limit, team),
            1e-12,
        ),
        rate_statement(
            "minimax, convergence",
            "with ensemble 0 the team's gains converge to the decentralized ones",
            POPULATIONS,
            errors,
            -1,
            0.05,
            (10, 10**6),
        ),
        rate_statement(
            "minimax, weakest agent",
            "what the decentralized policy costs the weakest agent more than the optimum",
            POPULATIONS,
            {"weakest agent": regret},
            -2,
            0.1,
            (10, 10**4),
        ),
    ]


def _unequal_states(game: Game, states: Array) -> Statement:
    """Report how far the minimax fails once unequal states are known: it is one ex ante only."""
    population = states.shape[0]
    team = solve_team(*game, population).gains

    def weakest(gains: FeedbackGains) -> Array:
        return jnp.max(expected_costs(*game, population, gains, states))

    value, slope = jax.value_and_grad(weakest)(team)
    steps = jnp.asarray(10.0 ** np.arange(-5, 1, 0.25))
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(slope)))

    def moved(step: Array) -> Array:
        return weakest(jax.tree.map(lambda x, g: x - step * g / norm, team, slope))

    lower = float(1 - jnp.min(jax.vmap(moved)(steps)) / value)
    return Statement(
        "minimax, states given",
        "once unequal states are known, other gains can serve the weakest agent better",
        f"its cost can fall by at least {lower:.1%}",
        "reported, not claimed",
        None,
        {"fall": lower},
    )


def anarchy() -> list[Statement]:
    """State what selfishness costs: nothing in the limit without an ensemble cost."""
    (_, moments, targets), _ = random_game(14, COST, horizon=3, features=2)
    weights = np.array([0.0, 0.1, 0.3, 1.0, 3.0, 10.0])
    sizes: dict[str, int | None] = {"2": 2, "10": 10, "limit": None}

    def price(ensemble: Array, population: int | None) -> Array:
        cost = GameCost(1.0, 0.8, ensemble, 0.4, 0.1)
        return price_of_anarchy(cost, moments, targets, population, LAW)

    found = {
        label: np.asarray(jax.vmap(lambda e, n=n: price(e, n))(jnp.asarray(weights)))
        for label, n in sizes.items()
    }
    least = min(float(np.min(prices)) for prices in found.values())
    at_zero = abs(float(found["limit"][0]) - 1)
    top = {label: f"{prices[-1]:.3f}" for label, prices in found.items()}
    return [
        Statement(
            "price of anarchy",
            "mean Nash cost over mean team cost, ensemble weight 0..10: 1 at weight 0 in the limit",
            f"{at_zero:.0e} off there; at weight 10: {top['2']} (N = 2), {top['limit']} (limit)",
            ">= 1; 1 to 1e-12 there",
            bool(least >= 1 - 1e-12 and at_zero <= 1e-12),
            {"ensemble": weights.tolist(), "price": {k: v.tolist() for k, v in found.items()}},
        )
    ]
