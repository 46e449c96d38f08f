"""The programme of `memoa verify`: run its parts, tell what holds, write it down.

The statements themselves are in `verify_exact`, `verify_sampled` and `verify_rivals`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from memoa_jax import canary, verify_exact, verify_heterogeneity, verify_rivals, verify_sampled
from memoa_jax._version import __version__
from memoa_jax.figure_style import FigureError
from memoa_jax.figures import draw_verification
from memoa_jax.files import replace
from memoa_jax.progress import SILENT, Watch
from memoa_jax.report import platform_facts, to_json
from memoa_jax.statement import Statement

PROGRAMME: dict[str, Callable[[], list[Statement]]] = {
    "reduction": verify_exact.reduction,
    "convergence": verify_exact.convergence,
    "exploitability": verify_exact.deviations,
    "minimax": verify_exact.minimax,
    "anarchy": verify_exact.anarchy,
    "heterogeneity": verify_heterogeneity.heterogeneity,
    "monte-carlo": verify_sampled.monte_carlo,
    "regret": verify_sampled.regret,
    "games": verify_rivals.random_games,
    "series": verify_rivals.online,
}
"""The parts, by the names that `memoa verify --only` takes."""


def verify(
    parts: Sequence[str], folder: Path, say: Callable[[str], None], *, watch: Watch = SILENT
) -> dict[str, Any]:
    """Run parts of the programme, write verification.json and verification.png, return the report.

    A part that fails to run counts as a statement that does not hold. A keyboard interrupt ends
    the programme early: what was found is written, and the report says what was not run.

    Args:
      parts: names of `PROGRAMME`, in the order to run them.
      folder: an existing folder.
      say: receives one line of progress per part.
      watch: told which part is run.

    Raises:
      RuntimeError: if the installed jax computes wrong numbers.
      OSError: if a file cannot be written.
    """
    canary.check_build()
    found: dict[str, tuple[list[Statement], float]] = {}
    try:
        for number, part in enumerate(parts, start=1):
            watch.event("progress", name=part, part=number, parts=len(parts))
            start = time.perf_counter()
            statements = _run(part)
            found[part] = statements, time.perf_counter() - start
            judged = {"failed": [one.name for one in statements if one.holds is False]}
            watch.event("part", name=part, seconds=found[part][1], **judged)
            failed = sum(statement.holds is False for statement in statements)
            say(
                f"{part}: {f'{failed} FAILED' if failed else 'none fails'} of {len(statements)}, "
                f"{found[part][1]:.1f} s ({len(found)} of {len(parts)})"
            )
    except KeyboardInterrupt:
        if not found:
            raise
    report = _report(found, [part for part in parts if part not in found])
    replace(folder / "verification.json", to_json(report).encode())
    try:
        draw_verification(report, folder / "verification.png")
    except FigureError as error:
        say(f"no figure: {error}")
    return report


def _run(part: str) -> list[Statement]:
    try:
        return PROGRAMME[part]()
    except Exception as error:  # whatever it is, the statement was not shown to hold
        line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return [Statement(part, "this part runs", line, "no error", False)]


def _report(
    found: Mapping[str, tuple[list[Statement], float]], not_run: Sequence[str]
) -> dict[str, Any]:
    statements = [
        {
            "part": part,
            "name": one.name,
            "claim": one.claim,
            "measured": one.measured,
            "allowed": one.allowed,
            "holds": one.holds,
            "data": _plain(one.data),
        }
        for part, (listed, _) in found.items()
        for one in listed
    ]
    return {
        "holds": not not_run and all(one["holds"] is not False for one in statements),
        "interrupted": bool(not_run),
        "not_run": list(not_run),
        "seconds": {part: round(seconds, 2) for part, (_, seconds) in found.items()},
        "statements": statements,
        "memoa_jax": __version__,
        **{package: version(package) for package in ("jax", "jaxlib", "numpy")},
        **platform_facts(),
        "device": jax.devices()[0].device_kind,
    }


def _plain(value: Any) -> Any:
    """Return nested data as strict JSON takes it: a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def table(report: Mapping[str, Any]) -> str:
    """Return the report as a table: verdict, statement, what was measured, what is allowed."""
    words = {True: "holds", False: "FAILS", None: "-"}
    rows = [("", "statement", "measured", "allowed")]
    rows += [
        (words[one["holds"]], one["name"], one["measured"], one["allowed"])
        for one in report["statements"]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines, part = [], ""
    for row, one in zip(rows, [None, *report["statements"]], strict=True):
        if one is not None and one["part"] != part:
            part = one["part"]
            lines.append("")
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        if one is not None:
            lines.append(f"{'':{widths[0]}}    {one['claim']}")
    judged = [one["holds"] for one in report["statements"] if one["holds"] is not None]
    seconds = sum(report["seconds"].values())
    lines += ["", f"{sum(judged)} of {len(judged)} statements hold ({seconds:.0f} s)"]
    if report["interrupted"]:
        lines.append(f"INTERRUPTED: not run: {', '.join(report['not_run'])}")
    return "\n".join(lines)
