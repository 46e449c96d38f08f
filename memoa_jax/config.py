"""The schema of a run's TOML file: its tables, their keys, what is allowed and the defaults.

Read by `memoa_jax.config_file` (text to schema) and `memoa_jax.build` (schema to library
objects). Nothing here imports JAX, so `memoa validate` and `memoa list` answer at once; a test
holds every default against the library's own. A description says what a key may hold: it is
the text of a fault. The first docstring line of a kind is its line in `memoa list`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from memoa_jax.choices import Containment
from memoa_jax.config_affine import Affine
from memoa_jax.config_games import Centralized, Greedy
from memoa_jax.config_games import Cost as Cost
from memoa_jax.config_games import Decentralized as Decentralized
from memoa_jax.config_games import Game as Game
from memoa_jax.config_games import Heterogeneous as Heterogeneous
from memoa_jax.config_games import Spread as Spread
from memoa_jax.config_groups import GroupTable, filled, sizes
from memoa_jax.config_mixtures import MIXTURES, OneMixture, Ridge
from memoa_jax.config_plugins import (
    ByKind,
    PluginMixture,
    PluginPolicy,
    PluginTable,
)
from memoa_jax.config_series import SERIES, PluginSeries
from memoa_jax.config_values import (
    Count,
    FileName,
    Flag,
    Inside,
    Label,
    NonNegative,
    Path,
    Seed,
    Share,
    Table,
    Whole,
    members,
)
from memoa_jax.plugins import short


class Views(Table):
    """What each agent sees of the inputs: its own delay, its own offset, fresh noise."""

    delay: Whole = 0
    offset: NonNegative = 0.0
    noise: NonNegative = 0.0


class EncoderTable(Table):
    """The key of every encoder: the label that it has in a study."""

    name: Label | None = None


class RandomFeatures(EncoderTable):
    """relu of a random affine map of the inputs, with fresh noise"""

    kind: Literal["random_features"] = "random_features"
    features: Count = 8
    noise: NonNegative = 0.1
    views: Views | None = None


class EchoState(EncoderTable):
    """random recurrent features: each step sees the one before"""

    kind: Literal["echo_state"]
    features: Count = 8
    noise: NonNegative = 0.1
    activation: Literal["tanh", "hard_sigmoid"] = "tanh"
    views: Views | None = None


class GivenFeatures(EncoderTable):
    """features computed elsewhere, read from an .npz or .npy file"""

    kind: Literal["given"]
    path: Path
    array: Annotated[str, Field(min_length=1, description="the name of an array in the file")] = (
        "features"
    )


class PluginEncoder(EncoderTable, PluginTable):
    """an encoder of your own"""

    views: Views | None = None


ENCODERS: TypeAlias = RandomFeatures | EchoState | GivenFeatures | PluginEncoder


class Bernoulli(Table):
    """every agent is present with one probability, at each step anew"""

    kind: Literal["bernoulli"]
    probability: Share


class Markov(Table):
    """agents come and go: chances per step to leave and to join"""

    kind: Literal["markov"]
    leave: Inside
    join: Share


class Late(Table):
    """agents join one by one, at steps drawn from first to last, and stay"""

    kind: Literal["late"]
    first: Whole
    last: Whole


class ParticipationFile(Table):
    """who is present when, from an .npy or .npz file: true and false [n, N]"""

    kind: Literal["file"]
    path: Path
    array: Annotated[str, Field(min_length=1, description="the name of an array in the file")] = (
        "participation"
    )


PARTICIPATIONS: TypeAlias = Bernoulli | Markov | Late | ParticipationFile


POLICIES: TypeAlias = Greedy | Decentralized | Centralized | Heterogeneous | Affine | PluginPolicy


class Run(Table):
    """How the run is driven; no key but `containment` changes a policy's numbers."""

    chunk: Annotated[int, Field(ge=1, description="a whole number of steps >= 1")] | None = None
    best_readout: Flag = True
    uncoupled: Flag = True
    schedule: Literal["resident", "stream"] = "resident"
    block: Count | None = None
    devices: Count | None = None
    reproducible: Flag = False
    sample: Whole = 100
    containment: Containment = "report"


class Record(Table):
    """Agents, steps and fields whose values are kept."""

    agents: list[Whole] = Field([0])
    steps: list[Whole] | None = None
    fields: list[Literal["prediction", "control", "features", "weights"]] = Field(["prediction"])


OneSeries: TypeAlias = Annotated[SERIES, ByKind("series")]
OneEncoder: TypeAlias = Annotated[ENCODERS, ByKind("encoder")]
OneParticipation: TypeAlias = Annotated[PARTICIPATIONS, Field(discriminator="kind")]
Policies: TypeAlias = Annotated[
    list[Annotated[POLICIES, ByKind("policy")]],
    Field(min_length=1, description="one [[policy]] table or more"),
]


class Group(GroupTable):
    """A group of agents; without an encoder of its own it has the run's."""

    encoder: OneEncoder | None = None


Groups: TypeAlias = Annotated[
    list[Group], Field(min_length=1, description="one [[group]] table or more")
]


class Config(Table):
    """A run: one series, one population, and the policies compared on them."""

    name: FileName
    seed: Seed = 0
    agents: Count = 1000
    dtype: Literal["float32", "float64"] = "float32"
    series: OneSeries
    encoder: OneEncoder = RandomFeatures()
    mixture: OneMixture = Ridge()
    participation: OneParticipation | None = None
    group: Groups | None = None
    policy: Policies
    run: Run = Run()
    record: Record | None = None

    @model_validator(mode="before")
    @classmethod
    def _all_agents(cls, raw: Any) -> Any:
        """Sum the groups' agents, where they give their own."""
        return filled(raw)

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """The groups' numbers of agents; None where there are no groups."""
        return None if self.group is None else sizes(self.group, self.agents)


def _check_seeds(value: Any) -> Any:
    """Return the seeds: those listed, or the first so many."""
    listed = isinstance(value, list)
    seeds = value if listed else list(range(value)) if _is_whole(value, 1, MOST_SEEDS) else []
    if not 1 <= len(seeds) <= MOST_SEEDS or not all(_is_whole(s, 0, 2**32 - 1) for s in seeds):
        raise ValueError("no seeds")
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed twice")
    return seeds


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


MOST_SEEDS = 10_000
Seeds = Annotated[
    Any,
    AfterValidator(_check_seeds),
    Field(
        description="how many (1 to 10000), or a list of different whole numbers from 0 to "
        "4294967295"
    ),
]


class Study(Table):
    """Many runs: every series with every encoder and every seed, the policies on each.

    Its keys are those of `Config`, with several `[[series]]`, `[[encoder]]` or `seeds`. It
    keeps no trajectories, so it takes no `[record]`.
    """

    name: FileName
    seed: Seed = 0
    seeds: Seeds | None = None
    agents: Count = 1000
    dtype: Literal["float32", "float64"] = "float32"
    series: Annotated[
        list[OneSeries],
        BeforeValidator(_as_list),
        Field(min_length=1, description="one [[series]] table or more"),
    ]
    encoder: Annotated[
        list[OneEncoder],
        BeforeValidator(_as_list),
        Field(min_length=1, description="one [[encoder]] table or more"),
    ] = Field([RandomFeatures()])
    mixture: OneMixture = Ridge()
    participation: OneParticipation | None = None
    group: Groups | None = None
    policy: Policies
    run: Run = Run()

    @model_validator(mode="before")
    @classmethod
    def _all_agents(cls, raw: Any) -> Any:
        """Sum the groups' agents, where they give their own."""
        return filled(raw)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds, whichever of the two keys gives them."""
        return self.seeds or [self.seed]

    def cells(self) -> Iterator[Cell]:
        """Yield the runs that the study is made of."""
        shared = {
            key: getattr(self, key) for key in Study.model_fields if key in Config.model_fields
        }
        for series in self.series:
            for encoder in self.encoder:
                for seed in self.all_seeds:
                    own = {"series": series, "encoder": encoder, "seed": seed}
                    yield Cell(label(series), label(encoder), Config(**{**shared, **own}))


class Cell(NamedTuple):
    """One run of a study: the labels of its series and encoder, and the run itself."""

    series: str
    encoder: str
    config: Config

    @property
    def place(self) -> str:
        """What to call the run on a line of its own."""
        return f"{self.series}, {self.encoder}, seed {self.config.seed}"


def label(table: SERIES | ENCODERS) -> str:
    """Return what a study calls a series or an encoder: its name, or its kind."""
    return table.name or short(table.kind)


FAMILIES = {
    "series": members(SERIES),
    "encoder": members(ENCODERS),
    "mixture": members(MIXTURES),
    "policy": members(POLICIES),
    "participation": members(PARTICIPATIONS),
}
"""Every kind that a config may name, by table."""
PLUGINS: dict[str, type[PluginTable]] = {
    "series": PluginSeries,
    "encoder": PluginEncoder,
    "mixture": PluginMixture,
    "policy": PluginPolicy,
}
"""The table of a plug-in, by the table of the config that it stands in."""
