"""The command `memoa robustness`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from memoa_jax.choices import DIFFERENCES
from memoa_jax.console import FAILED, OK, WRONG, fail, prepare, shown, tell


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this command takes."""
    parser.add_argument(
        "--only",
        metavar="KIND",
        action="append",
        choices=DIFFERENCES,
        help=f"one kind of difference; may be repeated. Kinds: {', '.join(DIFFERENCES)}",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=_between(1, 1000), default=5, help="populations (default: 5)"
    )
    parser.add_argument(
        "--agents",
        metavar="N",
        type=_between(2, 48),
        default=12,
        help="agents of the exact games, which cost N^4 (default: 12)",
    )
    parser.add_argument(
        "--crowd",
        metavar="N",
        type=_between(2, 100_000),
        default=100,
        help="agents of the online runs (default: 100)",
    )


def _between(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number within bounds."""

    def read(text: str) -> int:
        value = int(text) if text.isdecimal() and len(text) < 10 else -1
        if not least <= value <= most:
            allowed = f"a whole number {least}..{most}"
            raise argparse.ArgumentTypeError(f"{text!r}: allowed is {allowed}")
        return value

    return read


def robustness(parsed: argparse.Namespace) -> int:
    """Run the study, print its tables, and return the exit code."""
    folder = parsed.out or Path("runs") / "robustness"
    fault = prepare(folder)
    if fault:
        return fail(WRONG, fault)

    import jax

    jax.config.update("jax_enable_x64", True)
    from memoa_jax.robustness import study
    from memoa_jax.robustness_table import table

    # In the order of the tables, each kind once.
    kinds = [kind for kind in DIFFERENCES if kind in (parsed.only or DIFFERENCES)]
    sizes = {"seeds": parsed.seeds, "agents": parsed.agents, "crowd": parsed.crowd}
    try:
        report = study(kinds, folder, tell, **sizes, watch=parsed.watch)
    except OSError as error:
        return fail(FAILED, f"{folder}: results cannot be written ({error.strerror})")
    except RuntimeError as error:
        return fail(FAILED, " ".join(str(error).split()))
    parsed.watch.event("saved", folder=str(folder))
    print(shown(parsed, report, table), end="")
    tell(f"results in {folder}")
    if report["interrupted"]:
        left = ", ".join(report["not_run"])
        return fail(parsed.stop.exit_code, f"{parsed.stop.word}; not run: {left}")
    return OK
