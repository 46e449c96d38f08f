"""The table of the affine policy: gains as lists of numbers, and how many there must be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from memoa_jax.config_values import Label, Number, Table


def _check_rows(rows: list[list[float]]) -> list[list[float]]:
    if not rows or not rows[0] or len(set(map(len, rows))) > 1:
        raise ValueError("no rows of one length")
    return rows


Row = Annotated[list[Number], Field(description="a list with a finite number per output")]
Rows = Annotated[
    list[Row],
    AfterValidator(_check_rows),
    Field(description="a list of rows of one length: a row per feature, a number per output"),
]
Numbers = Annotated[
    list[Number], Field(min_length=1, description="a list with a finite number per feature")
]


class Affine(Table):
    """given gains on own prediction, mean field and last target; made to be tuned"""

    GAINS: ClassVar[tuple[str, ...]] = ("own", "mean", "target", "offset")
    game: ClassVar[str] = "none"
    """What stands in the tables of results under the policy's game: it plays none."""

    kind: Literal["affine"]
    name: Label = "affine"
    own: Rows | None = None
    mean: Rows | None = None
    target: Rows | None = None
    offset: Numbers | None = None

    def written_out(self, gains: Sequence[str], features: int, outputs: int) -> Affine:
        """Return the policy with zeros in place of those of some gains that are left out."""
        zeros: dict[str, Any] = {
            name: [0.0] * features
            if name == "offset"
            else [[0.0] * outputs for _ in range(features)]
            for name in gains
            if getattr(self, name) is None
        }
        return self.model_copy(update=zeros)

    def misfits(self, features: int, outputs: int) -> Iterator[str]:
        """Yield a line for every gain that has not the run's size, from the gain's name on."""
        for name in self.GAINS:
            given = getattr(self, name)
            if given is None:
                continue
            rows = name != "offset"
            if len(given) != features or (rows and len(given[0]) != outputs):
                found, allowed = (
                    f"{p} rows of length {d}" if rows else f"length {p}"
                    for p, d in ((len(given), len(given[0]) if rows else 0), (features, outputs))
                )
                why = "a row per feature of the encoder and a number per output of the series"
                why = why if rows else "a number per feature of the encoder"
                yield f"{name}: {found}: allowed is {allowed}, {why}"
