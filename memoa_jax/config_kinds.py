"""What a config is to be, told by its keys: a run, a study, a sweep, a tuning.

Nothing here imports JAX.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from memoa_jax.config import Config, Study
from memoa_jax.config_sweep import Sweep
from memoa_jax.config_tune import TuneConfig

KINDS: dict[str, type[Config]] = {"sweep": Sweep, "tune": TuneConfig}
"""What a table makes of the config that holds it, by its name; the command has the same name."""


def command_of(keys: Container[str]) -> str:
    """Return the command that takes a config of these keys: its special table's, or `run`.

    Args:
      keys: a raw config, or the fields of a checked one.
    """
    return next((table for table in KINDS if table in keys), "run")


def model_of(raw: dict[str, Any]) -> type[Config | Study]:
    """Return what a raw config is to be: a `Study` if it is a run that names several of a thing."""
    several = "seeds" in raw or any(isinstance(raw.get(key), list) for key in ("series", "encoder"))
    return KINDS.get(command_of(raw), Study if several else Config)
