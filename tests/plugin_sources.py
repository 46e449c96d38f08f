"""Plug-ins as users write them, good and malformed, for the tests of plug-ins."""

HEAD = """
import jax, jax.numpy as jnp, numpy as np
from memoa_jax import Series
from memoa_jax.draws import Stream, normals
from memoa_jax.timeseries import make_series
from memoa_jax.types import Action, Scalar, record, static
"""

ENCODER = f"""{HEAD}
@record
class Mine:
    gain: Scalar
    features: int = static()
    def parameters(self, agents, dimensions, dtype):
        shape = (dimensions.outputs, self.features, agents.index.shape[0])
        numbers = normals(agents, Stream.INPUT_WEIGHTS, 0, shape[0] * shape[1], dtype)
        return numbers.reshape(shape)
    def init(self, parameters, agents, dimensions, dtype):
        return jnp.zeros_like(parameters)
    def encode(self, parameters, state, agents, inputs, step):
        fresh = normals(agents, Stream.FEATURE_NOISE, step, self.features, parameters.dtype)
        state = jnp.tanh(self.gain * parameters * inputs[0] + 0.1 * state)
        return state, state + 0.1 * fresh[None]

def mine(width: int = 3, gain: float = 1.0):
    return Mine(gain, width)
"""

POLICY = f"""{HEAD}
@record
class Lean:
    pull: Scalar
    def init(self, dimensions, num_agents, dtype):
        return jnp.full((dimensions.features, num_agents), 0.1, dtype)
    def act(self, state, observation):
        o = observation
        crowd = o.population.mean(o.prediction)
        base = (1 - self.pull) * o.target + self.pull * crowd
        base = jnp.broadcast_to(base[:, None], o.prediction.shape)
        return state, Action(base, state, jnp.int32(0))

def lean(pull=0.5):
    return Lean(pull)
"""

MIXTURE = f"""{HEAD}
@record
class Mean:
    shrink: Scalar
    def init(self, dimensions, num_agents, dtype):
        return jnp.zeros(num_agents, dtype)
    def mix(self, state, observation, next_prediction):
        return state, self.shrink * observation.population.mean(next_prediction)
    def weights(self, state, population):
        return state + self.shrink / population.size

def mean(shrink=1.0):
    return Mean(shrink)
"""

SERIES = f"""{HEAD}
def wave(steps: int, period: float = 7.0):
    y = np.sin(2 * np.pi * np.arange(steps + 1) / period)[:, None]
    return make_series(y, y, "wave")
"""

FILES = {"own.py": ENCODER, "rule.py": POLICY, "server.py": MIXTURE, "data.py": SERIES}

CONFIG = """
agents = 6

[series]
kind = "data:wave"
steps = 24

[encoder]
kind = "own:mine"
width = 2

[mixture]
kind = "server:mean"
shrink = 0.9

[[policy]]
kind = "rule:lean"
pull = 0.25
"""
SECOND = """
[[policy]]
kind = "greedy"
game = "forecast"
"""
