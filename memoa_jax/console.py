"""What the commands of `memoa` have in common: how they load, refuse, tell and show.

JAX is not imported here.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memoa_jax.config import Config, Study

OK, FAILED, WRONG = 0, 1, 2
LOG = logging.getLogger("memoa_jax")


def tell(line: str) -> None:
    """Tell how it goes (`memoa_jax.speaking` writes it, where somebody wants to know)."""
    LOG.info("%s", line)


def warn(line: str) -> None:
    """Tell what somebody should know who asked for nothing."""
    LOG.warning("%s", line)


def fail(code: int, *lines: str) -> int:
    """Tell what was wrong, a line each, and return the exit code."""
    for line in lines:
        LOG.error("%s", line)
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
