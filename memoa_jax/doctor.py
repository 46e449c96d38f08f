"""What `memoa doctor` looks at: versions, disk, devices, and whether this jax computes rightly."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from memoa_jax._version import __version__

BAD_BUILDS = {
    "0.10.2": "computes wrong numbers on CPU (jax issue 39103)",
    "0.11.0": "computes wrong numbers on some CUDA 13 cards (jax issue 40633)",
    "0.11.1": "computes wrong numbers on some CUDA 13 cards (jax issue 40633)",
}
"""Releases of jax and jaxlib that pyproject.toml excludes."""
LEAST_DISK = 10**8
"""Bytes that should be free: results are small, checkpoints of large populations are not."""


def examine() -> Iterator[tuple[bool, str]]:
    """Yield the checks of `memoa doctor`: whether all is well, and what was found."""
    yield sys.version_info >= (3, 11), f"python {sys.version.split()[0]}"
    yield True, f"memoa_jax {__version__}"
    for package in ("jax", "jaxlib", "numpy", "pydantic", "optax", "chex"):
        try:
            found = version(package)
            bad = BAD_BUILDS.get(found) if package in ("jax", "jaxlib") else None
            yield bad is None, f"{package} {found}" + (f": {bad}; install another" if bad else "")
        except PackageNotFoundError:
            yield False, f"{package} is not installed: pip install memoa-jax"
    yield _disk(Path.cwd())
    try:
        import jax

        devices = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
        yield True, f"{len(devices)} device{'s' * (len(devices) > 1)}: {', '.join(devices)}"
        from memoa_jax import canary

        with jax.enable_x64(True):
            wide = bool(jax.numpy.zeros(1).dtype == "float64")
            canary.check_build()
            solved = _self_check()
        yield wide, 'float64 works (dtype = "float64")'
        yield True, "this jax build computes right numbers"
        yield solved
        yield _precision()
    except Exception as error:  # a doctor tells what is wrong with whatever it meets
        yield False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _disk(folder: Path) -> tuple[bool, str]:
    """Tell how much a run can write here."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return False, f"disk: {folder}: {error.strerror}"
    if not os.access(folder, os.W_OK):
        return False, f"disk: {folder} cannot be written: give commands another folder by --out"
    return free >= LEAST_DISK, f"disk: {free / 1e9:.1f} GB free here"


def _precision() -> tuple[bool, str]:
    """Multiply float32 matrices as the games do, and as this device does unasked."""
    import jax.numpy as jnp
    import numpy as np

    from memoa_jax.linalg import matmul

    table = np.random.default_rng(0).normal(size=(128, 128))
    exact, short = table @ table, jnp.asarray(table, jnp.float32)
    error, unasked = (
        float(np.max(np.abs(np.asarray(one, np.float64) - exact)) / np.max(np.abs(exact)))
        for one in (matmul(short, short), jnp.matmul(short, short))
    )
    plain = "" if unasked < 1e-5 else f" (unasked, this device rounds to {unasked:.0e})"
    return error < 1e-5, f"float32 products are right to {error:.0e}{plain}"


def _self_check() -> tuple[bool, str]:
    """Solve one small game twice: closed form against the dense joint Riccati recursion."""
    import jax
    import jax.numpy as jnp

    from memoa_jax import FeatureMoments, GameCost, solve_nash, solve_nash_dense

    cost, population = GameCost(consensus=2.0, effort=0.5), 3
    samples = jax.random.normal(jax.random.key(0), (4, 50, 1, 2), jnp.float64)
    moments = FeatureMoments.from_samples(samples)
    targets = jnp.linspace(-1.0, 1.0, 4)[:, None]
    gains = solve_nash(cost, moments, targets, population).gains
    everyone = jax.tree.map(lambda leaf: jnp.stack([leaf] * population), moments)
    dense = solve_nash_dense(cost, everyone, targets)
    own = gains.own + gains.mean / population
    error = max(
        float(jnp.max(jnp.abs(dense.state[0, :, :, :1] - own))),
        float(jnp.max(jnp.abs(dense.offset[0] - gains.offset))),
    )
    return error < 1e-10, f"closed-form equilibrium equals the dense one (difference {error:.0e})"
