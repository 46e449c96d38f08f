"""The servers that a config may name. The first docstring line is its line in `memoa list`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from memoa_jax.config_plugins import ByKind, PluginMixture
from memoa_jax.config_values import Flag, Inside, Number, Positive, Table


class Ridge(Table):
    """server weights by ridge regression of the target on the predictions, summing to eta"""

    kind: Literal["ridge"] = "ridge"
    kappa: Positive = 1.0
    eta: Number = 1.0
    discount: Annotated[
        float, Field(ge=0, le=1, allow_inf_nan=False, description="a number from 0 to 1")
    ] = 0.0


class Uniform(Table):
    """every agent present weighs the same, always"""

    kind: Literal["uniform"]


class ExponentialWeights(Table):
    """expert weights exp(-rate times loss); a rate that tunes itself if none is given"""

    kind: Literal["ewa"]
    rate: Positive | None = None
    gradient: Flag = True


class Bernstein(Table):
    """expert weights by Bernstein online aggregation: rates tune themselves, per agent"""

    kind: Literal["boa"]
    gradient: Flag = True


class Polynomial(Table):
    """expert weights by polynomial potentials (ML-Poly): rates tune themselves, per agent"""

    kind: Literal["mlpoly"]
    gradient: Flag = True


class FixedShare(Table):
    """exponential weights of which a share is dealt out anew at each step: follows changes"""

    kind: Literal["fixed_share"]
    rate: Positive
    share: Inside
    gradient: Flag = True


MIXTURES: TypeAlias = (
    Ridge | Uniform | ExponentialWeights | Bernstein | Polynomial | FixedShare | PluginMixture
)


def _ridge_by_default(raw: Any) -> Any:
    return {"kind": "ridge", **raw} if isinstance(raw, dict) else raw


OneMixture: TypeAlias = Annotated[MIXTURES, ByKind("mixture"), BeforeValidator(_ridge_by_default)]
