"""What a config's keys may hold: numbers, names, flags, and the table they stand in.

A description says what a key may hold: it is the text of a fault. Nothing here imports JAX.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False, description="a finite number")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number > 0")]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number >= 0")]
Share = Annotated[
    float, Field(gt=0, le=1, allow_inf_nan=False, description="a number > 0 and <= 1")
]
Inside = Annotated[
    float, Field(gt=0, lt=1, allow_inf_nan=False, description="a number > 0 and < 1")
]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1, description="a whole number >= 0")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1, description="a whole number >= 1")]
Steps = Annotated[int, Field(ge=1, le=10**8, description="a whole number >= 1")]
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
Text = Annotated[str, Field(min_length=1, description="a text that is not empty")]


class Table(BaseModel):
    """A table of the file: unknown keys are faults, nothing is converted, nothing changes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", frozen=True)


def kind_of(table: type[Table]) -> str:
    """Return the `kind` that selects a table among its family; "" for one of many kinds."""
    return "".join(map(str, get_args(table.model_fields["kind"].annotation)))


def members(union: Any) -> dict[str, type[Table]]:
    """Return a family's tables by kind, in the order they are declared."""
    return {kind_of(table): table for table in get_args(union) or (union,) if kind_of(table)}
