"""The table `[tune]` of a config: what is tuned, towards what, and on which rows."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from memoa_jax.choices import Constraint, Measure, Mode, Optimiser
from memoa_jax.config import POLICIES, Config, Seeds
from memoa_jax.config_affine import Affine
from memoa_jax.config_plugins import PluginTable
from memoa_jax.config_values import Count, Inside, Label, NonNegative, Positive, Table, Text

TUNABLE: Mapping[str, Constraint] = {
    "policy.cost.tracking": "non_negative",
    "policy.cost.consensus": "non_negative",
    "policy.cost.ensemble": "non_negative",
    "policy.cost.effort": "positive",
    "policy.cost.forgetting": "non_negative",
    "policy.spread.tracking": "non_negative",
    "policy.spread.consensus": "non_negative",
    "policy.spread.effort": "non_negative",
    "policy.greedy_effort": "positive",
    "policy.ridge": "positive",
    "policy.discount": "unit_interval",
    "policy.memory": "unit_interval",
    **{f"policy.{name}": "free" for name in Affine.GAINS},
    "encoder.noise": "non_negative",
    "encoder.views.offset": "non_negative",
    "encoder.views.noise": "non_negative",
    "mixture.kappa": "positive",
    "mixture.eta": "free",
    "mixture.discount": "unit_interval",
}
"""The keys that a run is differentiable in, and what each is kept to. A key that holds a list is
one number per entry, named by its indexes: "policy.own.0.0"."""

Part = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, description="a number >= 0 and < 1")]


class Tune(Table):
    """What is tuned, towards what, and on which rows.

    The rows of the series, in order: the first `warm_up` share is lived through only; then those
    that are descended on; the last `validation` share of those before the held-out ones decides
    which step is best; the last `held_out` share is never seen, and judges the result. With
    several `origins` the held-out rows are cut into as many windows, and each is judged with
    parameters tuned on the rows before it.
    """

    keys: Annotated[
        list[Text], Field(min_length=1, description='a list of keys such as "policy.cost.effort"')
    ]
    policy: Label | None = None
    measure: Measure = "server_rmse"
    temperature: NonNegative = 0.0
    optimiser: Optimiser = "adam"
    learning_rate: Positive = 0.05
    steps: Count = 100
    patience: Count | None = 20
    mode: Mode = "auto"
    seeds: Seeds | None = None
    warm_up: Part = 0.1
    validation: Inside = 0.2
    held_out: Inside = 0.25
    origins: Count = 1


class TuneConfig(Config):
    """A run, and what of it is tuned."""

    tune: Tune

    @property
    def tuned_policy(self) -> POLICIES:
        """The policy that is tuned: the one named, or the first."""
        wanted = self.tune.policy
        return next(one for one in self.policy if wanted in (None, one.name))

    @property
    def all_seeds(self) -> list[int]:
        """The seeds that an objective is averaged over."""
        return self.tune.seeds or [self.seed]

    def as_run(self, name: str) -> Config:
        """Return the run without what is tuned of it."""
        raw = self.model_dump(exclude_none=True, exclude={"tune"})
        return Config.model_validate({**raw, "name": name})

    def start(self) -> dict[str, float]:
        """Return the tuned numbers by name, and the values that they start from."""
        known = values(self, self.tuned_policy)
        return {
            name: value
            for key in self.tune.keys
            for name, value in known.items()
            if key_of(name) == key
        }

    def sized(self, features: int, outputs: int) -> TuneConfig:
        """Return the config with a zero for every entry of the tuned gains that it leaves out.

        Until the encoder and the series are built, how many those are is not known.
        """
        tuned = self.tuned_policy
        if not isinstance(tuned, Affine):
            return self
        wanted = [name for name in tuned.GAINS if f"policy.{name}" in self.tune.keys]
        whole = tuned.written_out(wanted, features, outputs)
        listed = [whole if one is tuned else one for one in self.policy]
        return self.model_copy(update={"policy": listed})


def key_of(name: str) -> str:
    """Return the key that a tuned number belongs to: its name without indexes.

    Example:
      >>> key_of("policy.own.0.1"), key_of("policy.cost.effort")
      ('policy.own', 'policy.cost.effort')
    """
    return re.sub(r"(\.\d+)+$", "", name)


def values(config: Config, policy: POLICIES) -> dict[str, float]:
    """Return what can be tuned of a run of one policy, and its values, number by number.

    Of gains that are left out there are none: see `TuneConfig.sized`.
    """
    return {
        name: value
        for key in TUNABLE
        for name, value in _numbers(key, _value(config, policy, key)).items()
    }


def _value(config: Config, policy: POLICIES, key: str) -> Any:
    """Return what stands at a tunable key; None where the run has no such key or value."""
    family, *names = key.split(".")
    node: Any = {"policy": policy, "encoder": config.encoder, "mixture": config.mixture}[family]
    for name in names:
        # A plug-in's arguments are plain numbers, and may be sizes: there is no slope in them.
        node = None if isinstance(node, PluginTable) else getattr(node, name, None)
    return node


def _numbers(name: str, value: Any) -> dict[str, float]:
    """Return a value's numbers by name: its own, or those of a list's entries."""
    if not isinstance(value, list):
        return {} if value is None else {name: float(value)}
    entries = [_numbers(f"{name}.{index}", inner) for index, inner in enumerate(value)]
    return {inner: number for entry in entries for inner, number in entry.items()}


def _tunable(config: Config, policy: POLICIES) -> list[str]:
    """Return the keys that can be tuned of a run: gains that are left out are zeros, and are."""
    gains = policy.GAINS if isinstance(policy, Affine) else ()
    return [
        key
        for key in TUNABLE
        if _value(config, policy, key) is not None or key.removeprefix("policy.") in gains
    ]


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def faults(config: TuneConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what no single key shows: a policy or a key that is not there, with its place."""
    labels = [policy.name for policy in config.policy]
    tune = config.tune
    if tune.policy is not None and tune.policy not in labels:
        hint = _nearest(tune.policy, labels)
        fault = f'tune.policy = "{tune.policy}": allowed is one of {", ".join(labels)}{hint}'
        yield ("tune", "policy"), fault
        return
    known = _tunable(config, config.tuned_policy)
    for index, key in enumerate(tune.keys):
        place, where = ("tune", "keys", index), f"tune.keys.{index} = {json.dumps(key)}"
        if key not in known:
            allowed = ", ".join(known)
            hint = _nearest(key, list(known))
            yield place, f"{where}: not a number that this run has; allowed: {allowed}{hint}"
        elif key in tune.keys[:index]:
            yield place, f"{where}: named twice"
