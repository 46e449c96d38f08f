"""How many kernels a compiled step launches, read from XLA's text of the compiled program.

A device is kept busy only while its kernels last longer than their launches take; what a step
launches is the same for ten agents and for ten million. Counted are the instructions of the
loop over time that run as a kernel or a copy of their own; loops inside the step count as often
as they turn. A conditional is a decision, for which the host may have to wait for the device.
Kernels that XLA has captured into one graph are counted one by one, though they cost less.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "partition-id",
    "replica-id",
}
"""Instructions that launch nothing."""
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s64": 8, "u64": 8}
_BYTES |= {"f64": 8, "c64": 8, "c128": 16}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*)$")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Launches:
    """Kernels and copies that are launched, decisions, and the bytes that the copies write."""

    kernels: int = 0
    copies: int = 0
    decisions: int = 0
    copied_bytes: int = 0

    def plus(self, other: Launches, times: int = 1) -> Launches:
        """Add another's, a number of times."""
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Launches(*(a + times * b for a, b in zip(mine, theirs, strict=True)))

    @property
    def total(self) -> int:
        """How many things are launched."""
        return self.kernels + self.copies


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: its operation, the bytes it yields, whom it calls."""

    operation: str
    bytes: int
    text: str

    def called(self, name: str) -> list[str]:
        """Return the computations of an attribute such as ``body``, ``branch_computations``."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.text)
        if found is None:
            return []
        names = (found.group(1) or found.group(2)).split(",")
        return [one.strip().lstrip("%") for one in names]


def computations(text: str) -> dict[str, list[Instruction]]:
    """Take a module's text apart into its computations."""
    found: dict[str, list[Instruction]] = {}
    lines: list[Instruction] = []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            lines = found[head.group(1)] = []
        elif body := _INSTRUCTION.match(line):
            shape, rest = _split(body.group(1))
            operation = rest.partition("(")[0]
            lines.append(Instruction(operation, _size(shape), rest))
    return found


def _split(text: str) -> tuple[str, str]:
    """Split an instruction after its type, which may be a tuple of types."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: place + 1], text[place + 2 :]
    return text, ""


def _size(shape: str) -> int:
    """Return the bytes of a type."""
    total = 0
    for kind, sides in _SHAPE.findall(shape):
        elements = 1
        for side in filter(None, sides.split(",")):
            elements *= int(side)
        total += _BYTES.get(kind, 4) * elements
    return total


def of_step(text: str) -> tuple[Launches, Launches]:
    """Return what one turn of the loop over time launches, at least and at most.

    It is the loop whose turns launch most. The two differ by the branches of its conditionals; one
    that stands around the whole body (it skips rows that only fill a chunk) is entered in both.
    """
    found = computations(text)
    most = _Counter(found, max)
    lines = (one for computation in found.values() for one in computation)
    bodies = [one.called("body")[0] for one in lines if one.operation == "while"]
    if not bodies:
        raise ValueError("the program has no loop")
    body = max(bodies, key=lambda name: most.count(name).total)
    return _Counter(found, min, entered=body).count(body), most.count(body)


class _Counter:
    """Counts what computations launch; `choose` takes one of a conditional's branches."""

    def __init__(
        self,
        found: Mapping[str, Sequence[Instruction]],
        choose: Callable[..., Launches],
        entered: str = "",
    ) -> None:
        self.found, self.choose, self.entered = found, choose, entered
        self.count = functools.cache(self._count)

    def _count(self, name: str) -> Launches:
        total = Launches()
        for one in self.found[name]:
            total = total.plus(self._launched(one, name == self.entered))
        return total

    def _launched(self, one: Instruction, outermost: bool) -> Launches:
        """Return what one instruction launches."""
        operation = one.operation
        if operation in FREE or operation.endswith(("-done", "-update")):
            return Launches()
        if operation == "call":
            return self.count(one.called("to_apply")[0])
        if operation == "while":
            trips = _TRIPS.search(one.text)
            turn = self.count(one.called("body")[0])
            if trips is None:  # the device finds out, turn by turn
                turn = turn.plus(self.count(one.called("condition")[0])).plus(Launches(0, 0, 1))
            return Launches().plus(turn, int(trips.group(1)) if trips else 1)
        if operation == "conditional":
            names = one.called("branch_computations") or [
                *one.called("true_computation"),
                *one.called("false_computation"),
            ]
            branches = [self.count(name) for name in names]
            choose = max if outermost else self.choose
            return choose(branches, key=lambda launches: launches.total).plus(Launches(0, 0, 1))
        if operation in ("copy", "copy-start"):
            # The start of a copy names both of its ends.
            size = one.bytes // (1 if operation == "copy" else 2)
            return Launches(copies=1, copied_bytes=size)
        return Launches(kernels=1)
