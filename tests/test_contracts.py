"""The contracts, checked: every built-in part keeps its own, and what a malformed one is told."""

import numpy as np
import pytest
from plugin_sources import ENCODER, MIXTURE, POLICY
from test_contract import ENCODERS, MIXTURES, PARAMETERLESS, POLICIES

from memoa_jax import series
from memoa_jax.contracts import (
    ContractError,
    Sizes,
    check_encoder,
    check_mixture,
    check_policy,
    check_series,
)
from memoa_jax.plugins import PluginError
from memoa_jax.timeseries import Series, make_series

DTYPES = ["float32", pytest.param("float64", marks=pytest.mark.slow)]
POINTS, FEATURES, AGENTS = 8, 3, 5
RNG = np.random.default_rng(0)
DATA = make_series(RNG.normal(size=(POINTS, 3)), RNG.normal(size=(POINTS, 2)))


# Parts of a run with groups ask who belongs to which: no plug-in is checked in such a run.
ALONE = [name for name in ENCODERS if name != "grouped"]
POOLED = [name for name in POLICIES if getattr(POLICIES[name](0.7), "groups", None) is None]


def sizes(features=FEATURES, dtype="float32", agents=AGENTS):
    return Sizes.of(DATA, features, agents, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALONE)
def test_built_in_encoders_keep_the_contract(name, dtype):
    # Views make inputs of the agents' own, and are given everybody's.
    own_inputs = name.startswith("echo_state")
    check_encoder(ENCODERS[name](0.7), sizes(dtype=dtype), own_inputs=own_inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name.startswith("centralized") or name.endswith("late")
        else name
        for name in POOLED
    ],
)
def test_built_in_policies_keep_the_contract(name, dtype):
    # That one's status asks for a block's largest number; blocks' bits are then joined.
    streamed = name != "greedy forecast"
    check_policy(POLICIES[name](0.7), sizes(dtype=dtype), streamed=streamed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*MIXTURES, *PARAMETERLESS])
def test_built_in_mixtures_keep_the_contract(name, dtype):
    made = MIXTURES[name](0.7) if name in MIXTURES else PARAMETERLESS[name]
    check_mixture(made, sizes(dtype=dtype))


def test_one_agent_is_a_population():
    check_encoder(ENCODERS["echo_state tanh"](0.7), sizes(agents=1))


def test_series_are_checked_as_those_that_are_made_here():
    assert check_series(series.periodic(9)).num_points == 10
    with pytest.raises(ContractError, match=r"returned of type tuple: allowed is a memoa_jax\.Ser"):
        check_series((np.ones(3), np.ones(3)))
    with pytest.raises(ValueError, match=r"Series\.inputs\[1, 0\] = nan: allowed is"):
        check_series(Series(np.array([[1.0], [np.nan]]), np.ones((2, 1))))


def made(source, old, new, function):
    """Return what a plug-in with one thing changed makes."""
    assert old in source
    names = {"__name__": "changed"}
    exec(source.replace(old, new), names)
    return names[function]


# What stands in the source, what takes its place, what is said.
CALL = "parameters, state, agents, inputs, step"
BAD_ENCODERS = {
    "none": ("return Mine(gain, width)", "pass", "returned None: allowed is an object with parame"),
    "class": ("Mine(gain, width)", "Mine", "returned the class Mine: allowed is an object with"),
    "number": ("return Mine(gain, width)", "return 3", "int has no parameters: allowed is an enco"),
    "no encode": (
        "def encode",
        "def encodes",
        "Mine has no encode: allowed is an encoder with enc",
    ),
    "arity": (
        "agents, inputs, step)",
        "inputs, step)",
        f"Mine.encode takes (parameters, state, inputs, step): allowed is encode({CALL})",
    ),
    "no tree": ("@record\n", "import dataclasses\n@dataclasses.dataclass\n", "Mine is no pytree: "),
    "text": ("Mine(gain,", "Mine('loud',", "Mine.gain is of type str: allowed is real numbers"),
    "static array": (
        "return Mine(gain, width)",
        "made = Mine(gain, width)\n    object.__setattr__(made, 'features', Size(width))\n"
        "    return made\n\nclass Size(int):\n    __hash__ = None",
        "Mine has a static field that cannot be hashed (unhashable type: 'Size'): allowed is what",
    ),
    "no features": ("Mine(gain, width)", "Mine(gain, 0)", "Mine.features = 0: allowed is p, a who"),
    "features as data": ("features: int = static()", "features: int", "features is data: allowed"),
    "shape": (
        "return state, state +",
        "return state, state[:1] +",
        "encode returned features of shape (1, 3, 5), float32: allowed is [d, p, N] = (2, 3, 5), f",
    ),
    "float64": (
        "+ 0.1 * fresh[None]",
        "+ np.float64(0.1) * fresh[None]",
        "encode returned features of shape (2, 3, 5), float64: allowed is [d, p, N] = (2, 3, 5), f",
    ),
    "no pair": ("return state, state +", "return state +", "encode returned an array of shape (2,"),
    "structure": (
        "return state, state +",
        "return (state, step), state +",
        "encode returned a state of structure (*, *): allowed is that of init, *",
    ),
    "state dtype": (
        "return state, state +",
        "return state.astype(jnp.float16), state +",
        "encode returned state as shape (2, 3, 5), float16: allowed is that of init, shape (2, 3, ",
    ),
    "raises": (
        "fresh = no",
        "raise KeyError('lost'); fresh = no",
        "encode raised KeyError: 'lost'",
    ),
    "traced": (
        "fresh = normals",
        "fresh = 1 if self.gain > 0 else 2; fresh = normals",
        "encode raised TracerBoolConversionError: Attempted boolean conversion of traced array",
    ),
    "past": (
        "        return jnp.zeros_like(parameters)",
        "        n = dimensions.points, agents.index.shape[0]\n"
        "        return {'past': jnp.zeros(n), 'now': jnp.zeros_like(parameters)}\n"
        "    def encode(self, parameters, state, agents, inputs, step):\n"
        "        return state, state['now']\n"
        "class Other:",
        "init returned state['past'] of shape (8, 5), float64, which grows with the series and wit",
    ),
    "infinite": ("0.1 * fresh[None]", "jnp.inf * fresh[None]", "encode returned features with NaN"),
    "luck": (
        "fresh = normals(",
        "fresh = jax.random.normal(jax.random.key(0), parameters[0].shape, parameters.dtype)\n"
        "        normals(",
        "encode gives agent 0 other features (",
    ),
}
BAD_POLICIES = {
    "base": ("base = jnp.broadcast_to", "jnp.broadcast_to", "act returned base of shape (2,), flo"),
    "control": (
        "Action(base, state,",
        "Action(base, state.T,",
        "act returned control of shape (5,",
    ),
    "status": (
        "jnp.int32(0)",
        "jnp.float32(0)",
        "act returned status of shape (), float32: allowed",
    ),
    "move": (
        "jnp.int32(0))",
        "jnp.int32(0), move=state)",
        "act returned move of shape (3, 5), float32: allowed is [d, N] = (2, 5), float32",
    ),
    "effort": (
        "jnp.int32(0))",
        "jnp.int32(0), effort=base)",
        "act returned effort of shape (2, 5), float32: allowed is [N] = (5,), float32",
    ),
    "another move": (
        "jnp.int32(0))",
        "jnp.int32(0), move=base + 9)",
        "act returned move off by ",
    ),
    "another effort": (
        "jnp.int32(0))",
        "jnp.int32(0), effort=base[0] + 9)",
        "act returned effort off by ",
    ),
    "pair": (
        "return state, Action",
        "return Action",
        "act returned of type Action: allowed is (st",
    ),
    "action": (
        "Action(base, state, jnp.int32(0))",
        "base",
        "act returned an array of shape (2, 5),",
    ),
    "nothing": (
        "Action(base, state, jnp.int32(0))",
        "None",
        "act returned None as its action: allo",
    ),
    "infinite": (
        "0.1, dtype",
        "jnp.nan, dtype",
        "act returned control with NaN or infinity at step",
    ),
    "arity": (
        "def act(self, state,",
        "def act(self,",
        "Lean.act takes (observation): allowed is ac",
    ),
    "raises": (
        "o = observation",
        "o = observation.x",
        "act raised AttributeError: 'Observation' obj",
    ),
}
BAD_MIXTURES = {
    "output": (
        "return state, self",
        "return state, 1 + 0 * state + self",
        "mix returned output of",
    ),
    "weights": (
        "return state + self.",
        "return self.",
        "weights returned weights of shape (), flo",
    ),
    "pair": (
        "return state, self",
        "return self",
        "mix returned an array of shape (2,), float32: a",
    ),
    "none": ("return Mean(shrink)", "Mean(shrink)", "returned None: allowed is an object with ini"),
}
# The mixture's "output" is of two outputs and five agents, which do not broadcast.
BAD_MIXTURES["output"] = (
    "return state, self", "return state, jnp.zeros(1) + 0 * self",
    "mix returned output of shape (2,), float64: allowed is [d] = (2,), float32",
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_ENCODERS)
def test_malformed_encoders(name):
    old, new, said = BAD_ENCODERS[name]
    function = made(ENCODER, old, new, "mine")
    with pytest.raises(PluginError) as caught:
        check_encoder(function(), sizes())
    assert str(caught.value).startswith(said), str(caught.value)


@pytest.mark.parametrize("name", BAD_POLICIES)
def test_malformed_policies(name):
    old, new, said = BAD_POLICIES[name]
    function = made(POLICY, old, new, "lean")
    with pytest.raises(PluginError) as caught:
        check_policy(function(), sizes())
    assert str(caught.value).startswith(said), str(caught.value)


@pytest.mark.parametrize("name", BAD_MIXTURES)
def test_malformed_mixtures(name):
    old, new, said = BAD_MIXTURES[name]
    function = made(MIXTURE, old, new, "mean")
    with pytest.raises(PluginError) as caught:
        check_mixture(function(), sizes())
    assert str(caught.value).startswith(said), str(caught.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plug_ins_that_are_well_made_pass(dtype):
    check_encoder(made(ENCODER, "mine", "mine", "mine")(), sizes(dtype=dtype))
    check_policy(made(POLICY, "lean", "lean", "lean")(), sizes(dtype=dtype))
    check_mixture(made(MIXTURE, "mean", "mean", "mean")(), sizes(dtype=dtype))


def test_a_policy_without_surveys_may_ask_nothing_of_a_stream():
    asks = made(POLICY, "pull: Scalar", "pull: Scalar; surveys = ()", "lean")()
    check_policy(asks, sizes())
    with pytest.raises(ContractError, match="act asks the population for a sum, and names no surv"):
        check_policy(asks, sizes(), streamed=True)
