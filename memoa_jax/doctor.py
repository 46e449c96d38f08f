"""What `memoa doctor` looks at: versions, devices, and whether this jax computes right numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from memoa_jax._version import __version__

BAD_BUILDS = {
    "0.10.2": "computes wrong numbers on CPU (jax issue 39103)",
    "0.11.0": "computes wrong numbers on some CUDA 13 cards (jax issue 40633)",
    "0.11.1": "computes wrong numbers on some CUDA 13 cards (jax issue 40633)",
}
"""Releases of jax and jaxlib that pyproject.toml excludes."""


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
    except Exception as error:  # a doctor tells what is wrong with whatever it meets
        yield False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


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
