"""The schema of a run's TOML file: its tables, their keys, what is allowed and the defaults.

Read by `memoa_jax.config_file` (text to schema) and `memoa_jax.build` (schema to library
objects). Nothing here imports JAX, so `memoa validate` and `memoa list` answer at once; a test
holds every default against the library's own. A description says what a key may hold: it is
the text of a fault. The first docstring line of a kind is its line in `memoa list`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Number = Annotated[float, Field(allow_inf_nan=False, description="a finite number")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number > 0")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number >= 0")]
Discount = Annotated[
    float, Field(gt=0, le=1, allow_inf_nan=False, description="a number > 0 and <= 1")
]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1, description="a whole number >= 0")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1, description="a whole number >= 1")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number from 0 to 4294967295")]
Flag = Annotated[bool, Field(description="true or false")]
Label = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        description="a name of letters, digits, '_' and '-' that starts with a letter",
    ),
]
FileName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
        max_length=100,
        description="a name of letters, digits, '_', '-' and '.', fit for a folder",
    ),
]
Path = Annotated[
    str, Field(min_length=1, description="the path of a file, relative to the config's folder")
]
GameName = Literal["hindsight", "forecast"]
Text = Annotated[str, Field(min_length=1, description="a text that is not empty")]


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


class Table(BaseModel):
    """A table of the file: unknown keys are faults, nothing is converted, nothing changes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Periodic(Table):
    """levels 5, 6, 12, 20 in turn, scaled to [-0.9, 0.9]"""

    kind: Literal["periodic"]
    steps: Count = 200


class Logistic(Table):
    """logistic map whose rate swings through chaos"""

    kind: Literal["logistic"]
    steps: Count = 200


class ConceptDrift(Table):
    """the law from inputs to two targets turns into another half-way"""

    kind: Literal["concept_drift"]
    steps: Count = 200
    outputs: Literal["both", "second"] = "both"


class Brownian(Table):
    """Brownian motion with drift: nothing beats persistence at drift 0"""

    kind: Literal["brownian"]
    steps: Count = 200
    volatility: NonNegative = 0.1
    drift: Number = 0.0
    outputs: Count = 1
    seed: Seed = 0


class RandomWalk(Table):
    """a fair coin per step and output"""

    kind: Literal["random_walk"]
    steps: Count = 200
    size: NonNegative = 0.1
    outputs: Count = 1
    seed: Seed = 0


class StepChange(Table):
    """a noisy level that jumps from time to time"""

    kind: Literal["step_change"]
    steps: Count = 200
    every: Count = 50
    jump: NonNegative = 1.0
    noise: NonNegative = 0.05
    seed: Seed = 0


class Seasonal(Table):
    """a wave, a trend and noise"""

    kind: Literal["seasonal"]
    steps: Count = 200
    period: Annotated[
        float, Field(ge=1, allow_inf_nan=False, description="a number of steps >= 1")
    ] = 12.0
    amplitude: Number = 1.0
    trend: Number = 0.0
    noise: NonNegative = 0.1
    seed: Seed = 0


class Co2(Table):
    """weekly carbon dioxide at Mauna Loa with its real gaps (in the package)"""

    kind: Literal["co2"]
    steps: Count | None = None


class Sunspots(Table):
    """monthly mean sunspot numbers since 1749 (in the package)"""

    kind: Literal["sunspots"]
    steps: Count | None = None


class Published(Table):
    """The keys of a public data set: a local copy, or a download kept in a cache."""

    path: Path | None = None
    window: Literal["main", "validation"] = "main"
    steps: Count | None = None
    url: Text | None = None
    cache: Text | None = None


class Boc(Published):
    """Bank of Canada closing rates: the USD from five currencies (a CSV, or a download)"""

    kind: Literal["boc"]


class Ett(Published):
    """ETTh1, a transformer's oil temperature from its loads (a CSV, or a download)"""

    kind: Literal["ett"]


class OwnTable(Table):
    """your own CSV or NPZ file: columns, lags, rows, units, gaps"""

    kind: Literal["table"]
    path: Path
    targets: list[Text] | None = None
    inputs: list[Text] | None = None
    lags: Lags = [0]
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
    name: Text = "table"


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
)


class Views(Table):
    """What each agent sees of the inputs: its own delay, its own offset, fresh noise."""

    delay: Whole = 0
    offset: NonNegative = 0.0
    noise: NonNegative = 0.0


class RandomFeatures(Table):
    """relu of a random affine map of the inputs, with fresh noise"""

    kind: Literal["random_features"] = "random_features"
    features: Count = 8
    noise: NonNegative = 0.1
    views: Views | None = None


class EchoState(Table):
    """random recurrent features: each step sees the one before"""

    kind: Literal["echo_state"]
    features: Count = 8
    noise: NonNegative = 0.1
    activation: Literal["tanh", "hard_sigmoid"] = "tanh"
    views: Views | None = None


class GivenFeatures(Table):
    """features computed elsewhere, read from an .npz or .npy file"""

    kind: Literal["given"]
    path: Path
    array: Annotated[str, Field(min_length=1, description="the name of an array in the file")] = (
        "features"
    )


ENCODERS: TypeAlias = RandomFeatures | EchoState | GivenFeatures


class Ridge(Table):
    """server weights by ridge regression of the target on the predictions, summing to eta"""

    kind: Literal["ridge"] = "ridge"
    kappa: Positive = 1.0
    eta: Number = 1.0


MIXTURES: TypeAlias = Ridge


class Cost(Table):
    """What an agent pays (`memoa_jax.GameCost`)."""

    tracking: Number = 1.0
    consensus: Number = 1.0
    ensemble: Number = 0.0
    effort: Positive = 0.1
    forgetting: NonNegative = 0.0


class GreedyCost(Table):
    """What counts for an agent that ignores the others; `tracking` for the forecaster only."""

    tracking: Number = 1.0
    effort: Positive
    forgetting: NonNegative = 0.0


class Greedy(Table):
    """each agent alone: ridge fit of its last residuals over a window"""

    kind: Literal["greedy"]
    name: Label = "greedy"
    cost: GreedyCost = GreedyCost(effort=10.0)
    window: Count = 3
    game: GameName = "hindsight"
    ridge: Positive = 0.1
    discount: Discount = 0.98

    @model_validator(mode="before")
    @classmethod
    def _default_effort(cls, raw: Any) -> Any:
        """Fill in the library's default effort, which is another one for the forecaster."""
        cost = raw.get("cost", {}) if isinstance(raw, dict) else None
        if not isinstance(cost, dict):
            return raw
        effort = 0.1 if raw.get("game") == "forecast" else 10.0
        return {**raw, "cost": {"effort": effort, **cost}}


class Game(Table):
    """The keys that both game policies share.

    `ridge` and `discount` belong to the forecast game, which needs no horizon and plays at
    every step; `horizon` to `greedy_effort` belong to the hindsight game.
    """

    cost: Cost = Cost()
    game: GameName = "hindsight"
    horizon: Count = 3
    window: Count = 3
    sync_every: Count = 1
    information: Literal["feedback", "offline"] = "feedback"
    greedy_effort: Positive | None = None
    ridge: Positive = 0.1
    discount: Discount = 0.98


class Decentralized(Game):
    """closed-form mean-field Nash policy: own state and the mean field only"""

    kind: Literal["decentralized"]
    name: Label = "decentralized"


class Centralized(Game):
    """exact Nash policy of the finite population"""

    kind: Literal["centralized"]
    name: Label = "centralized"


POLICIES: TypeAlias = Greedy | Decentralized | Centralized


class Run(Table):
    """How the run is driven; no key here changes a policy's numbers."""

    chunk: Annotated[int, Field(ge=1, description="a whole number of steps >= 1")] | None = None
    best_readout: Flag = True
    uncoupled: Flag = True


class Record(Table):
    """Agents, steps and fields whose values are kept."""

    agents: list[Whole] = [0]
    steps: list[Whole] | None = None
    fields: list[Literal["prediction", "control", "features", "weights"]] = ["prediction"]


class Config(Table):
    """A run: one series, one population, and the policies compared on them."""

    name: FileName
    seed: Seed = 0
    agents: Count = 1000
    dtype: Literal["float32", "float64"] = "float32"
    series: Annotated[SERIES, Field(discriminator="kind")]
    encoder: Annotated[ENCODERS, Field(discriminator="kind")] = RandomFeatures()
    mixture: MIXTURES = Ridge()
    policy: Annotated[
        list[Annotated[POLICIES, Field(discriminator="kind")]],
        Field(min_length=1, description="one [[policy]] table or more"),
    ]
    run: Run = Run()
    record: Record | None = None


def kind_of(table: type[Table]) -> str:
    """Return the `kind` that selects a table among its family."""
    return str(get_args(table.model_fields["kind"].annotation)[0])


def members(union: Any) -> dict[str, type[Table]]:
    """Return a family's tables by kind, in the order they are declared."""
    return {kind_of(table): table for table in get_args(union) or (union,)}


FAMILIES = {
    "series": members(SERIES),
    "encoder": members(ENCODERS),
    "mixture": members(MIXTURES),
    "policy": members(POLICIES),
}
"""Every kind that a config may name, by table."""
