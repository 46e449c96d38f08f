"""The series that a config may name. The first docstring line is its line in `memoa list`."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from memoa_jax.config_plugins import PluginTable
from memoa_jax.config_values import (
    Count,
    Label,
    NonNegative,
    Number,
    Path,
    Seed,
    Steps,
    Table,
    Text,
    Whole,
)


def _check_lags(value: Any) -> Any:
    rows = list(value.values()) if isinstance(value, dict) else [value]
    if not rows or not all(
        isinstance(row, list) and row and all(type(lag) is int and lag >= 0 for lag in row)
        for row in rows
    ):
        raise ValueError("no lags")
    return value


Lags = Annotated[
    Any,
    AfterValidator(_check_lags),
    Field(description="a list of whole numbers >= 0, or a table with such a list per input"),
]


def _check_published(value: Any) -> Any:
    figures = list(value.values()) if isinstance(value, dict) else [value]
    if not figures or not all(
        type(figure) in (int, float) and 0 <= figure <= sys.float_info.max for figure in figures
    ):
        raise ValueError("no figures")
    return value


Figures = Annotated[
    Any,
    AfterValidator(_check_published),
    Field(description="a number >= 0, or a table with such a number per label"),
]


def _refuse_numbers(value: Any) -> Any:
    if not isinstance(value, bool | str):  # 1 is True to Python
        raise ValueError("a number")
    return value


LagList = Annotated[
    list[Whole], Field(min_length=1, description="a list of whole numbers >= 0, not empty")
]
Standardise = Annotated[
    Literal[True, False, "levels", "moves", "both"],
    BeforeValidator(_refuse_numbers),
    Field(description="true, false, levels, moves or both (true is levels)"),
]


class SeriesTable(Table):
    """The keys of every series.

    `name` labels it in a study; `standardise` is done to its inputs, causally; `published`
    holds figures (RMSE) that are shown beside a study's results, and do nothing else. Rows
    before `scored_from` are lived through and count in no figure.
    """

    name: Label | None = None
    standardise: Standardise = False
    published: Figures | None = None
    scored_from: Count = 1


class Periodic(SeriesTable):
    """levels 5, 6, 12, 20 in turn, scaled to [-0.9, 0.9]"""

    kind: Literal["periodic"]
    steps: Steps = 200


class Logistic(SeriesTable):
    """logistic map whose rate swings through chaos"""

    kind: Literal["logistic"]
    steps: Steps = 200


class ConceptDrift(SeriesTable):
    """the law from inputs to two targets turns into another half-way"""

    kind: Literal["concept_drift"]
    steps: Steps = 200
    outputs: Literal["both", "second"] = "both"


class Brownian(SeriesTable):
    """Brownian motion with drift: nothing beats persistence at drift 0"""

    kind: Literal["brownian"]
    steps: Steps = 200
    volatility: NonNegative = 0.1
    drift: Number = 0.0
    outputs: Count = 1
    seed: Seed = 0


class RandomWalk(SeriesTable):
    """a fair coin per step and output"""

    kind: Literal["random_walk"]
    steps: Steps = 200
    size: NonNegative = 0.1
    outputs: Count = 1
    seed: Seed = 0


class StepChange(SeriesTable):
    """a noisy level that jumps from time to time"""

    kind: Literal["step_change"]
    steps: Steps = 200
    every: Count = 50
    jump: NonNegative = 1.0
    noise: NonNegative = 0.05
    seed: Seed = 0


class Seasonal(SeriesTable):
    """a wave, a trend and noise"""

    kind: Literal["seasonal"]
    steps: Steps = 200
    period: Annotated[
        float, Field(ge=1, allow_inf_nan=False, description="a number of steps >= 1")
    ] = 12.0
    amplitude: Number = 1.0
    trend: Number = 0.0
    noise: NonNegative = 0.1
    seed: Seed = 0


class Co2(SeriesTable):
    """weekly carbon dioxide at Mauna Loa with its real gaps (in the package)"""

    kind: Literal["co2"]
    steps: Steps | None = None
    lags: LagList = Field([0, 1, 52])


class Sunspots(SeriesTable):
    """monthly mean sunspot numbers since 1749 (in the package)"""

    kind: Literal["sunspots"]
    steps: Steps | None = None
    lags: LagList = Field([0, 1, 11])


class PublicData(SeriesTable):
    """The keys of a public data set: a local copy, or a download kept in a cache."""

    path: Path | None = None
    window: Literal["main", "validation"] = "main"
    steps: Steps | None = None
    url: Text | None = None
    cache: Text | None = None


class Boc(PublicData):
    """Bank of Canada closing rates: the USD from five currencies (a CSV, or a download)"""

    kind: Literal["boc"]


class Ett(PublicData):
    """ETTh1, a transformer's oil temperature from its loads (a CSV, or a download)"""

    kind: Literal["ett"]


class OwnTable(SeriesTable):
    """your own CSV or NPZ file: columns, lags, rows, units, gaps"""

    kind: Literal["table"]
    path: Path
    targets: list[Text] | None = None
    inputs: list[Text] | None = None
    lags: Lags = Field([0])
    rows: (
        Annotated[
            list[Whole],
            Field(min_length=2, max_length=2, description="[start, stop], the stop row excluded"),
        ]
        | None
    ) = None
    scaling: Literal["none", "window_max", "column_max", "minmax", "prefix"] = "none"
    prefix: Annotated[int, Field(ge=2, description="a number of rows >= 2")] | None = None
    missing: Literal["error", "forward_fill", "mask"] = "error"
    before: Literal["zero", "first"] = "zero"
    dates: Text | None = None
    name: Text = "table"


class PluginSeries(SeriesTable, PluginTable):
    """a series of your own"""


SERIES: TypeAlias = (
    Periodic
    | Logistic
    | ConceptDrift
    | Brownian
    | RandomWalk
    | StepChange
    | Seasonal
    | Co2
    | Sunspots
    | Boc
    | Ett
    | OwnTable
    | PluginSeries
)
