"""Every encoder, policy and mixture through the same clauses. A new member joins the lists."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import types
from memoa_jax.cost_spread import CostSpread
from memoa_jax.draws import seed_words
from memoa_jax.encoder_groups import grouped
from memoa_jax.encoders import echo_state, given_features, random_features, views
from memoa_jax.experts import (
    bernstein_aggregation,
    exponential_weights,
    fixed_share,
    polynomial_potentials,
)
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture, uniform_mixture
from memoa_jax.policies import affine, centralized, decentralized, greedy, heterogeneous
from memoa_jax.types import Agents, Dimensions, Observation, Population, Status

POINTS, INPUTS, OUTPUTS, FEATURES = 8, 3, 2, 3
DIMENSIONS = Dimensions(points=POINTS, inputs=INPUTS, outputs=OUTPUTS, features=FEATURES)
TABLE = np.random.default_rng(0).normal(size=(POINTS, 7, OUTPUTS, FEATURES))

GAINS = 0.1 * np.arange(FEATURES * OUTPUTS).reshape(FEATURES, OUTPUTS)

# name -> function of one number that is swept, mapped over and differentiated
ENCODERS = {
    "random_features": lambda noise: random_features(FEATURES, noise),
    "echo_state tanh": lambda noise: echo_state(FEATURES, noise),
    "echo_state hard sigmoid": lambda noise: echo_state(FEATURES, noise, "hard_sigmoid"),
    "given_features": lambda scale: given_features(TABLE * scale),
    "views": lambda noise: views(random_features(FEATURES, noise), 2, noise, noise),
    "grouped": lambda noise: grouped([random_features(FEATURES, noise), echo_state(1, noise)]),
}
POLICIES = {
    "greedy": lambda effort: greedy(GameCost(effort=effort, forgetting=0.1), window=2),
    **{
        f"{make.__name__} {information}": lambda effort, make=make, information=information: make(
            GameCost(effort=effort, consensus=0.5),
            horizon=2,
            window=3,
            sync_every=2,
            information=information,
        )
        for make in (decentralized, centralized)
        for information in ("feedback", "offline")
    },
    **{
        f"{make.__name__} forecast": lambda effort, make=make: make(
            GameCost(effort=effort, consensus=0.5), game="forecast", ridge=0.3
        )
        for make in (greedy, decentralized, centralized)
    },
    "decentralized late": lambda effort: decentralized(
        GameCost(effort=effort, consensus=0.5), horizon=3, window=3, staleness=1
    ),
    "decentralized forecast late": lambda effort: decentralized(
        GameCost(effort=effort, consensus=0.5), game="forecast", staleness=2
    ),
    "decentralized groups": lambda effort: decentralized(
        GameCost(effort=(effort, 0.5), consensus=0.5), horizon=2, window=(3, 1), groups=2
    ),
    "decentralized forecast groups": lambda effort: decentralized(
        GameCost(effort=effort, consensus=(0.5, effort)), game="forecast", groups=2
    ),
    "heterogeneous": lambda effort: heterogeneous(
        GameCost(effort=effort, consensus=0.5), horizon=2, window=3, sync_every=2
    ),
    "heterogeneous spread": lambda width: heterogeneous(
        GameCost(effort=0.7), horizon=3, window=1, spread=CostSpread(width, width, width)
    ),
    "heterogeneous moments": lambda effort: heterogeneous(
        GameCost(effort=effort, consensus=0.5), horizon=2, window=3, features="moments"
    ),
    "heterogeneous memory": lambda number: heterogeneous(
        GameCost(effort=(0.7, 0.5)),
        horizon=3,
        window=1,
        groups=2,
        features="moments",
        memory=number / 4,
    ),
    "heterogeneous forecast": lambda width: heterogeneous(
        GameCost(effort=0.7), game="forecast", spread=CostSpread(width, width, width)
    ),
    "heterogeneous groups": lambda effort: heterogeneous(
        GameCost(effort=(effort, 0.5), consensus=0.5), horizon=2, window=(3, 1), groups=2
    ),
    "affine": lambda gain: affine(own=gain * GAINS, mean=gain * GAINS, target=-gain * GAINS),
}
MIXTURES = {
    "ridge kappa": lambda kappa: ridge_mixture(kappa=kappa),
    "ridge eta": lambda eta: ridge_mixture(eta=eta),
    "ridge discount": lambda number: ridge_mixture(discount=number / 4),
    "ewa": lambda rate: exponential_weights(rate=rate),
    "fixed share rate": lambda rate: fixed_share(rate=rate, share=0.1),
    "fixed share": lambda number: fixed_share(rate=0.5, share=number / 4),
}
# Without a number of their own: what can be asked of them stands in tests/test_experts.py, and
# the state's structure and dtypes here.
PARAMETERLESS = {
    "uniform": uniform_mixture(),
    "adahedge": exponential_weights(),
    "boa": bernstein_aggregation(),
    "mlpoly": polynomial_potentials(),
}
DTYPES = [jnp.float32, jnp.float64]


def groups(count):
    """Of which of two groups each agent is: the first two, and the rest."""
    return (jnp.arange(count) >= 2).astype(jnp.int32)


def agents(count):
    words = seed_words(jax.random.key(1))
    return Agents(jnp.arange(count, dtype=jnp.uint32), words, groups(count))


def everybody(count, dtype):
    """Return the population at every step, stacked."""
    sizes = jnp.array([min(count, 2), max(count - 2, 0)], dtype)
    whole = Population(jnp.asarray(count, dtype), group=groups(count), sizes=sizes)
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * POINTS), whole)


def observations(count, dtype):
    """Return a made-up life: what an agent sees at steps 0, 1, .., stacked; row 3 is missing."""
    rng = np.random.default_rng(1)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=(POINTS, *shape)), dtype)

    return Observation(
        step=jnp.arange(POINTS, dtype=jnp.int32),
        target=draw(OUTPUTS),
        known=jnp.arange(POINTS) != 3,
        prediction=draw(OUTPUTS, count),
        features=draw(OUTPUTS, FEATURES, count),
        population=everybody(count, dtype),
        voters=everybody(count, dtype),
        agents=jax.tree.map(lambda leaf: jnp.stack([leaf] * POINTS), agents(count)),
    )


def encode_all(encoder, count, dtype):
    """Return the features of every step, and the states before and after."""
    crowd = agents(count)
    parameters = encoder.parameters(crowd, DIMENSIONS, dtype)
    first = encoder.init(parameters, crowd, DIMENSIONS, dtype)
    inputs = jnp.asarray(np.sin(np.arange(POINTS)[:, None] + np.arange(INPUTS)), dtype)

    def step(state, row):
        state, features = encoder.encode(parameters, state, crowd, *row)
        assert features.shape == (OUTPUTS, FEATURES, count)
        return state, features

    last, values = jax.lax.scan(step, first, (inputs, jnp.arange(POINTS, dtype=jnp.int32)))
    return values, first, last


def act_all(policy, count, dtype):
    """Return base and control of every step, and the states before and after."""
    first = policy.init(DIMENSIONS, count, dtype)

    def step(state, observation):
        state, action = policy.act(state, observation)
        assert action.base.shape == (OUTPUTS, count)
        assert action.control.shape == (FEATURES, count)
        assert (action.status.shape, action.status.dtype) == ((), jnp.int32)
        return state, jnp.concatenate([action.base, action.control])

    last, values = jax.lax.scan(step, first, observations(count, dtype))
    return values, first, last


def mix_all(mixture, count, dtype):
    """Return output and weights of every step, and the states before and after."""
    first = mixture.init(DIMENSIONS, count, dtype)

    def step(state, observation):
        state, output = mixture.mix(state, observation, 2 * observation.prediction + 1)
        weights = mixture.weights(state, observation.population)
        assert (output.shape, weights.shape) == ((OUTPUTS,), (count,))
        return state, jnp.concatenate([output, weights])

    last, values = jax.lax.scan(step, first, observations(count, dtype))
    return values, first, last


MEMBERS = {
    **{f"encoder {name}": (make, encode_all) for name, make in ENCODERS.items()},
    **{f"policy {name}": (make, act_all) for name, make in POLICIES.items()},
    **{f"mixture {name}": (make, mix_all) for name, make in MIXTURES.items()},
}
LATER = {
    "encoder echo_state hard sigmoid",
    *(f"policy {make} forecast" for make in ("greedy", "decentralized")),
    "policy centralized feedback",
    "policy decentralized offline",
    "policy decentralized late",
    "policy decentralized forecast late",
    *(f"policy decentralized {game}groups" for game in ("", "forecast ")),
    *(f"policy heterogeneous{how}" for how in ("", " spread", " memory", " forecast", " groups")),
}
"""Members that are others in a variation: of these the long clauses are checked with -m slow."""
EVERY_MEMBER = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in LATER)) for name in sorted(MEMBERS)
]


def test_members_that_wait_are_members():
    assert set(MEMBERS) > LATER


@pytest.mark.parametrize("name", sorted(MEMBERS))
@pytest.mark.parametrize(
    ("dtype", "count"),
    [
        (jnp.float32, 5),
        pytest.param(jnp.float64, 1, marks=pytest.mark.slow),
        pytest.param(jnp.float32, 1, marks=pytest.mark.slow),
        pytest.param(jnp.float64, 5, marks=pytest.mark.slow),
    ],
)
def test_state_keeps_its_structure_and_dtypes_and_values_are_finite(name, dtype, count):
    make, live = MEMBERS[name]
    values, first, last = jax.jit(live, static_argnums=(1, 2))(make(0.7), count, dtype)
    assert values.dtype == dtype
    assert np.isfinite(values).all()
    assert jax.tree.structure(first) == jax.tree.structure(last)
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert before.dtype in (dtype, jnp.int32, jnp.bool_)


@pytest.mark.parametrize("name", PARAMETERLESS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mixtures_without_parameters_keep_their_state_s_structure(name, dtype):
    values, first, last = jax.jit(mix_all, static_argnums=(1, 2))(PARAMETERLESS[name], 5, dtype)
    assert np.isfinite(values).all()
    assert jax.tree.structure(first) == jax.tree.structure(last)
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)


class Member(NamedTuple):
    """A member, its life as one compiled program, and how often that was traced."""

    make: Callable[[float], Any]
    live: Callable[[Any], jax.Array]
    traces: list[str]


@pytest.fixture(scope="module", params=EVERY_MEMBER)
def member(request):
    """Return one member after the other, each for all the tests that share its program."""
    (make, live), traces = MEMBERS[request.param], []

    @jax.jit
    def compiled(one):
        traces.append(request.param)
        return live(one, 4, jnp.float64)[0]

    return Member(make, compiled, traces)


def test_a_sweep_compiles_once(member):
    low, *others = np.linspace(0.2, 2.0, 8)
    first = member.live(member.make(low))
    so_far = len(member.traces)  # tests before this one may have traced it under vmap or grad
    results = [member.live(member.make(value)) for value in others]
    assert len(member.traces) == so_far >= 1
    assert not np.array_equal(first, results[-1])


def test_vmap_over_parameters_equals_a_loop(member):
    sweep = jnp.array([0.2, 0.9, 2.0])
    mapped = jax.jit(jax.vmap(lambda value: member.live(member.make(value))))(sweep)
    looped = [member.live(member.make(value)) for value in sweep]
    np.testing.assert_allclose(mapped, np.stack(looped), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(jax.grad, id="reverse"),
        pytest.param(jax.jacfwd, id="forward", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_finite_and_right(member, mode):
    """Against central differences; by default forward ones are only traced: every rule is there."""

    def score(value):
        return jnp.sum(jnp.sin(member.live(member.make(value))))

    step = 1e-6
    slope = (score(0.7 + step) - score(0.7 - step)) / (2 * step)
    assert abs(slope) > 1e-9
    np.testing.assert_allclose(jax.jit(mode(score))(0.7), slope, rtol=1e-5)
    assert jax.eval_shape(jax.jacfwd(score), 0.7).shape == ()


@pytest.mark.parametrize(
    ("contract", "members"),
    [(types.Encoder, ENCODERS), (types.Policy, POLICIES), (types.Mixture, MIXTURES)],
)
def test_argument_order_is_the_contract(contract, members):
    methods = [
        name
        for name, value in vars(contract).items()
        if inspect.isfunction(value) and not name.startswith("_")
    ]
    assert methods
    for make, method in itertools.product(members.values(), methods):
        expected = list(inspect.signature(getattr(contract, method)).parameters)
        assert list(inspect.signature(getattr(type(make(0.5)), method)).parameters) == expected


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (f"policy {name}" in LATER))
        for name in sorted(set(POLICIES) - {"affine"})  # whose gains are given
    ],
)
def test_a_policy_with_nothing_learned_predicts_persistence_of_its_base(name):
    """At step 0 nothing is known, so every control is zero."""
    policy = POLICIES[name](0.7)
    observation = jax.tree.map(lambda leaf: leaf[0], observations(4, jnp.float64))
    _, action = policy.act(policy.init(DIMENSIONS, 4, jnp.float64), observation)
    np.testing.assert_array_equal(action.control, 0)
    base = observation.prediction
    if "forecast" in name:
        base = np.broadcast_to(observation.target[:, None], base.shape)
    np.testing.assert_array_equal(action.base, base)
    assert int(action.status) == Status.OK
