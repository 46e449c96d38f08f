"""Populations whose agents differ by a known amount, in one respect at a time: what to study.

All are random-feature agents (`memoa_jax.encoders.random_features`), whose moments are known in
closed form. At level 0 they are alike; the draws of one seed are the same at every level.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from memoa_jax.encoders import random_feature_moments
from memoa_jax.game import FeatureMoments, GameCost

Values = NDArray[np.float64]

LEVELS: dict[str, tuple[float, ...]] = {
    "moments": (0.0, 0.25, 0.5, 1.0, 1.5),
    "noise": (0.0, 0.25, 0.5, 1.0, 1.5),
    "encoders": (0.0, 0.25, 0.5, 1.0, 2.0),
    "delays": (0.0, 1.0, 2.0, 4.0, 8.0),
    "costs": (0.0, 0.25, 0.5, 1.0, 1.5),
    "everything": (0.0, 0.25, 0.5, 1.0, 1.5),
}
"""By what agents may differ, and how far in a study; `unlike` says what the numbers mean."""
DELAY_PER_LEVEL = 4
"""Largest delay of "everything", in steps per level."""
NOISE = 0.3
"""Of the agents that all others spread about, as `random_features` has it."""


@dataclass(frozen=True)
class Unlike:
    """A population, agent by agent: what it sees, how, and what it pays.

    Axes: ``weights [N, d, k]``, ``biases [N, d, p]``, everything else ``[N]``; `scale` is a factor
    of the features, `delay` in steps, and `effort` .. `consensus` are factors of the cost.
    """

    weights: Values
    biases: Values
    noise: Values
    scale: Values
    delay: NDArray[np.int64]
    tracking: Values
    consensus: Values
    effort: Values

    def preactivations(self, inputs: Values) -> Values:
        """Return u^i_t = A^i x_{t - delay_i} 1' + b^i, [n, N, d, p]; before the start x is x_0.

        Args:
          inputs: [n, k].
        """
        late = np.maximum(np.arange(len(inputs))[:, None] - self.delay, 0)
        seen = np.einsum("idk,tik->tid", self.weights, inputs[late])
        return np.asarray(seen[..., None] + self.biases)

    def moments(self, inputs: Values) -> FeatureMoments:
        """Return every agent's exact moments at every step: leaves [N, n, ...]."""
        u = jnp.asarray(np.moveaxis(self.preactivations(inputs), 1, 0))
        over_steps = jax.vmap(random_feature_moments, in_axes=(0, None))
        found = jax.vmap(over_steps)(u, jnp.asarray(self.noise))
        scale = jnp.asarray(self.scale)
        return FeatureMoments(
            found.mean * scale[:, None, None, None],
            found.second * scale[:, None, None, None, None, None] ** 2,
        )

    def features(self, inputs: Values, rng: np.random.Generator) -> Values:
        """Draw Z^i_t = scale_i relu(u^i_t + noise_i 1 w'), [n, N, d, p]."""
        u = self.preactivations(inputs)
        fresh = rng.normal(size=(*u.shape[:2], 1, u.shape[3]))
        noise, scale = self.noise[:, None, None], self.scale[:, None, None]
        return np.asarray(scale * np.maximum(u + noise * fresh, 0.0))

    def costs(self, cost: GameCost) -> GameCost:
        """Return what every agent pays: a cost times its own factors, leaves [N]."""
        names = ("tracking", "consensus", "effort")
        own = {name: jnp.asarray(getattr(cost, name) * getattr(self, name)) for name in names}
        same = {name: jnp.full(len(self.noise), getattr(cost, name)) for name in _SAME}
        return GameCost(**own, **same)


_SAME = ("ensemble", "forgetting")


def unlike(
    kind: str, level: float, *, agents: int, inputs: int, seed: int, features: int = 4
) -> Unlike:
    """Draw a population whose agents differ in one respect, by a given amount.

        moments     features times exp(level z^i): first and second moments
        noise       noise of the features times exp(level z^i)
        encoders    A^i, b^i = (common + level own) / sqrt(1 + level^2)
        delays      delay_i uniform on 0 .. level steps
        costs       tracking, consensus and effort times exp(level z^i), each its own
        everything  all of these at once, delays up to 4 level steps

    with z^i, A^i and b^i standard normal. One output.

    Args:
      kind: of `LEVELS`.
      level: >= 0; 0: agents alike.
      agents: N.
      inputs: k, inputs of the series.
      seed: of the population; its draws are the same at every level and kind.
      features: p, features per agent.

    Raises:
      ValueError: if kind is no such kind, or the level is negative.

    Example:
      >>> population = unlike("delays", 2.0, agents=5, inputs=1, seed=0)
      >>> population.biases.shape, int(population.delay.max()) <= 2
      ((5, 1, 4), True)
    """
    if kind not in LEVELS:
        raise ValueError(f"unlike: kind = {kind!r}: allowed is {', '.join(LEVELS)}")
    if not level >= 0:
        raise ValueError(f"unlike: level = {level!r}: allowed is a number >= 0")
    rng = np.random.default_rng([seed, 31])
    common = rng.normal(size=(1, 1, inputs)), rng.normal(size=(1, 1, features))
    own = rng.normal(size=(agents, 1, inputs)), rng.normal(size=(agents, 1, features))
    factors, places = rng.normal(size=(5, agents)), rng.uniform(size=agents)

    def by(name: str) -> float:
        return level if kind in (name, "everything") else 0.0

    weights, biases = (
        (shared + by("encoders") * apart) / np.sqrt(1 + by("encoders") ** 2)
        for shared, apart in zip(common, own, strict=True)
    )
    most = round(by("delays") * (DELAY_PER_LEVEL if kind == "everything" else 1))
    width = dict(zip(_FACTORS, ("moments", "noise", "costs", "costs", "costs"), strict=True))
    drawn = {name: np.exp(by(width[name]) * z) for name, z in zip(_FACTORS, factors, strict=True)}
    found = Unlike(weights, biases, delay=(places * (most + 1)).astype(np.int64), **drawn)
    return dataclasses.replace(found, noise=NOISE * found.noise)


_FACTORS = ("scale", "noise", "tracking", "consensus", "effort")
