"""What this device can do at most: bandwidth, arithmetic, launches. For `roofline` and `gpu`.

Loops whose length is found by trial, so that a launch costs nothing beside them, on arrays that
either fit a fast cache or are many times larger than any. The best of five is the ceiling.
A process on one core of a CPU is timed by its processor time, which others on that core do not
lengthen; everything else by the clock on the wall.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CHAIN_SHAPES = ((6, 8), (8, 32))
"""Independent chains of operations and their length; the better of them is the ceiling."""
TURNS = 1000
"""Of a loop whose length the compiler knows, as it knows that of a scan."""
LEAST_SECONDS = 0.1
"""A loop is made so long that it takes at least this."""


def clock() -> str:
    """Return which time is taken here, "processor" or "wall"; see the module."""
    alone = jax.default_backend() == "cpu" and len(harness.cores()) == 1
    return "processor" if alone else "wall"


def seconds(timing: harness.Timing) -> float:
    """Return the least time of a measurement, by the clock that is taken here."""
    return timing.cpu if clock() == "processor" else timing.minimum


def rate(run: Callable[[int], Any], work: float) -> float:
    """Return work per nanosecond of a loop of a number of rounds, made long enough to be timed."""
    rounds = 1
    run(rounds)
    while harness.once(functools.partial(run, rounds))[0] < LEAST_SECONDS:
        rounds *= 4
    timing = harness.measure(functools.partial(run, rounds), repeats=5, warm=0)
    return work * rounds / seconds(timing) / 1e9


@functools.partial(jax.jit, donate_argnums=0)
def _copy(a: jax.Array, rounds: jax.Array) -> jax.Array:
    return lax.fori_loop(0, rounds, lambda _, a: -a, a)


@functools.partial(jax.jit, donate_argnums=0)
def _triad(a: jax.Array, b: jax.Array, scale: jax.Array, rounds: jax.Array) -> jax.Array:
    return lax.fori_loop(0, rounds, lambda _, a: scale * a + b, a)


def bandwidth(elements: int, *, host: bool = True) -> dict[str, float]:
    """Return GB/s of a <- -a (8 bytes each) and a <- s a + b (12), in JAX and in NumPy.

    In place, so that nothing is read only to be overwritten. NumPy takes two passes for the
    second (20 bytes), and runs on the host whatever the device; without `host` it is left out.
    """
    held, b = [jnp.ones(elements, jnp.float32)], jnp.ones(elements, jnp.float32)
    scale = jnp.float32(0.5)

    def copy(rounds: int) -> None:
        held[0] = jax.block_until_ready(_copy(held[0], rounds))

    def triad(rounds: int) -> None:
        held[0] = jax.block_until_ready(_triad(held[0], b, scale, rounds))

    found = {"copy": rate(copy, 8 * elements), "triad": rate(triad, 12 * elements)}
    return {**found, **host_bandwidth(elements)} if host else found


def host_bandwidth(elements: int) -> dict[str, float]:
    """Return the same of NumPy; see `bandwidth`."""
    x, y = np.ones(elements, np.float32), np.ones(elements, np.float32)

    def numpy_copy(rounds: int) -> None:
        for _ in range(rounds):
            np.negative(x, out=x)

    def numpy_triad(rounds: int) -> None:
        for _ in range(rounds):
            np.multiply(x, np.float32(0.5), out=x)
            np.add(x, y, out=x)

    return {
        "numpy_copy": rate(numpy_copy, 8 * elements),
        "numpy_triad": rate(numpy_triad, 20 * elements),
    }


@functools.partial(jax.jit, static_argnames=("chains", "depth"))
def _float_chains(x: jax.Array, rounds: jax.Array, chains: int, depth: int) -> jax.Array:
    # Not known to the compiler, which would otherwise simplify the chains.
    scale, offset = x[0] / 2, x[0] / 4

    def body(_: Any, x: jax.Array) -> jax.Array:
        values = [x + float(chain) for chain in range(chains)]
        for _ in range(depth):
            values = [value * scale + offset for value in values]
        return functools.reduce(jnp.add, values)

    return lax.fori_loop(0, rounds, body, x)


@functools.partial(jax.jit, static_argnames=("chains", "depth"))
def _integer_chains(x: jax.Array, rounds: jax.Array, chains: int, depth: int) -> jax.Array:
    def body(_: Any, x: jax.Array) -> jax.Array:
        values = [x + jnp.uint32(chain) for chain in range(chains)]
        for _ in range(depth):
            values = [(value + jnp.uint32(97)) ^ (value << jnp.uint32(13)) for value in values]
        return functools.reduce(jnp.bitwise_xor, values)

    return lax.fori_loop(0, rounds, body, x)


def arithmetic(elements: int) -> dict[str, float]:
    """Return G operations/s of fused multiply-adds (2 each), and of add, shift, exclusive or."""
    found: dict[str, float] = {}
    for name, chain, dtype, each in (
        ("float", _float_chains, jnp.float32, 2),
        ("integer", _integer_chains, jnp.uint32, 3),
    ):
        x = jnp.ones(elements, dtype)
        rates = [
            rate(
                lambda rounds, chain=chain, x=x, shape=shape: jax.block_until_ready(
                    chain(x, rounds, *shape)
                ),
                each * elements * shape[0] * shape[1],
            )
            for shape in CHAIN_SHAPES
        ]
        found[name] = max(rates)
    return found


@jax.jit
def _turns(x: jax.Array) -> jax.Array:
    return lax.fori_loop(0, TURNS, lambda _, x: x * jnp.float32(0.5) + jnp.float32(1.0), x)


@jax.jit
def _decisions(x: jax.Array) -> jax.Array:
    def body(_: Any, x: jax.Array) -> jax.Array:
        return lax.cond(x[0] > 0, lambda x: x * jnp.float32(0.5) + jnp.float32(1.0), jnp.sin, x)

    return lax.fori_loop(0, TURNS, body, x)


def launches() -> dict[str, float]:
    """Return microseconds of the smallest things that a compiled loop of known length does.

    `kernel`: a turn of a loop of one kernel on 8 numbers. `decision`: what it adds to choose that
    kernel by a number which the device has just computed.
    """
    x = jnp.ones(8, jnp.float32)

    def microseconds(loop: Callable[[jax.Array], jax.Array]) -> float:
        def run(rounds: int) -> None:
            held = x
            for _ in range(rounds):
                held = loop(held)
            jax.block_until_ready(held)

        return 1e-3 / rate(run, TURNS)

    turn = microseconds(_turns)
    return {"kernel": turn, "decision": max(microseconds(_decisions) - turn, 0.0)}
