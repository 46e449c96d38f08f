"""What the commands of `memoa` have in common: how they load, refuse, tell and show.

JAX is not imported here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from memoa_jax.config import Config, Study

OK, FAILED, WRONG = 0, 1, 2


def discard(stream: TextIO) -> None:
    """Send a stream whose reader is gone to nowhere: Python flushes it once more at exit."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def tell(line: str) -> None:
    """Write a line to stderr; a reader that is gone does not end the run."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        discard(sys.stderr)


def fail(code: int, *lines: str) -> int:
    """Tell what was wrong, a line each, and return the exit code."""
    for line in lines:
        tell(f"memoa: {line}")
    return code


def load_config(
    parsed: argparse.Namespace, kinds: Sequence[str] = ("run", "sweep", "tune")
) -> Config | Study | None:
    """Load a config of these kinds, or tell its faults."""
    from memoa_jax.config_faults import ConfigError
    from memoa_jax.config_file import load
    from memoa_jax.config_kinds import command_of

    try:
        config = load(parsed.config, parsed.overrides)
        kind = command_of(type(config).model_fields)
        if kind not in kinds:
            has = f"no [{kinds[0]}]" if kind == "run" else f"a [{kind}]"
            raise ConfigError([f"{parsed.config}: has {has}; allowed is memoa {kind}"])
        return config
    except ConfigError as error:
        fail(WRONG, *error.faults)
        return None


def prepare(folder: Path, option: str = "--out") -> str | None:
    """Make the folder and try to write in it, before any time is spent; return the fault."""
    probe = folder / f".memoa.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        return f"{option} {folder}: a file stands in the way; give a folder"
    except (OSError, ValueError) as error:
        return f"{option} {folder}: cannot be written ({getattr(error, 'strerror', None) or error})"
    return None


def shown(
    parsed: argparse.Namespace, found: dict[str, Any], table: Callable[[dict[str, Any]], str]
) -> str:
    """Return what to print at the end, as --format asks."""
    from memoa_jax.report import to_json

    return to_json(found) if parsed.format == "json" else table(found) + "\n"
