"""Random draws that are a function of (seed, stream, step, agent) alone.

Counter-based: the block cipher threefry-2x32 (20 rounds) maps the key of a (stream, step) and
the counter (agent, word) to 64 random bits. Nothing is split or carried, so an agent's draws
are the same whatever the population's size, the block it sits in, its device, or the chunks
that a run is cut into; and features can be drawn again instead of stored.
"""

from __future__ import annotations

import enum
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.arithmetic import apart
from memoa_jax.types import Agents, Array


class Stream(enum.IntEnum):
    """What a draw is for. Each purpose has its own key, so no two ever share a draw.

    The numbers are part of every published result: add new ones, never change these.
    """

    INPUT_WEIGHTS = 1
    RECURRENT_WEIGHTS = 2
    BIASES = 3
    FEATURE_NOISE = 4
    VIEW_DELAY = 5
    VIEW_OFFSET = 6
    VIEW_NOISE = 7
    GAME_FEATURES = 8
    GAME_STATES = 9
    PARTICIPATION = 10
    COSTS = 11


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

# sin(x)/x as a polynomial in x^2 for |x| <= pi/2, float32
_SINE = (
    0.9999999957158398,
    -0.16666657969904786,
    0.008333050617328908,
    -0.00019809046357435538,
    2.605166276143111e-06,
)
# (log(1 + x) - x + x^2/2) / x^3 as a polynomial in x for sqrt(1/2) <= 1 + x < sqrt(2), float32
_LOGARITHM = (
    0.33333972564698316,
    -0.2500096937117954,
    0.19960596533933345,
    -0.16587949064488006,
    0.1495097949419676,
    -0.14197471796367875,
    0.0850695337753863,
)
_ROOT_OF_HALF = 0x3F3504F3
"""The bits of sqrt(1/2) in float32."""
_FRACTION = 23
"""Bits of a float32 after its exponent."""


def threefry2x32(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Encrypt a 64-bit counter under a 64-bit key: threefry-2x32 with 20 rounds.

    Args:
      key: two uint32 words, broadcastable against the counter.
      counter: two uint32 words of one shape.

    Returns:
      Two uint32 words of random bits, of the counter's shape.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011);
    tested against its known answers and bit for bit against JAX's own threefry.

    Example:
      >>> zero = jnp.uint32(0)
      >>> [hex(int(word)) for word in threefry2x32((zero, zero), (zero, zero))]
      ['0x6b200159', '0x99ba4efe']
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation))
            y = x ^ y
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


def seed_words(key: Array) -> Array:
    """Reduce any JAX key (typed, or raw threefry words) to the two uint32 words used here.

    Example:
      >>> seed_words(jax.random.key(0)).shape
      (2,)
    """
    return jax.random.bits(key, (2,), jnp.uint32)


def _key_of(agents: Agents, stream: Stream, step: Array | int) -> tuple[Array, Array]:
    """Return the key of a purpose at a step, two words."""
    step = jnp.asarray(step).astype(jnp.uint32)
    return threefry2x32((agents.key[0], agents.key[1]), (jnp.uint32(stream), step))


def _bits(
    key: tuple[Array, Array], index: Array, count: int, first: int = 0
) -> tuple[Array, Array]:
    """Return two words of random bits per agent and draw, each uint32 [count, N]."""
    shape = (count, index.shape[0])
    number = lax.broadcasted_iota(jnp.uint32, shape, 0) + jnp.uint32(first)
    return threefry2x32(key, (jnp.broadcast_to(index, shape), number))


def normals(agents: Agents, stream: Stream, step: Array | int, count: int, dtype: Any) -> Array:
    """Draw `count` independent standard normals per agent, agents last.

        z = sqrt(-2 log u) cos(2 pi v),   u in (0, 1],  v in [-1/2, 1/2)

    Exact Box-Muller up to rounding; u has 31 bits, so |z| <= 6.7. float32 and float64 runs see
    the same draws up to rounding. Not differentiable in anything (the bits are integers). The
    twin draw (the sine) is thrown away: every element then needs its own counter only, the
    whole draw is one loop, and that measured faster than sharing.

    Args:
      agents: whose draws; `agents.index` [N].
      stream: what they are for.
      step: the time step, 0 for what is drawn once in a life. An array may stand in a loop over
        time: on CPU its draws then take a longer program that runs faster.
      count: how many per agent; static.
      dtype: float32 or float64.

    Returns:
      [count, N]; row m is the same whatever `count` is.

    Source: Box and Muller (1958).

    Example:
      >>> crowd = Agents(jnp.arange(4, dtype=jnp.uint32), seed_words(jax.random.key(0)))
      >>> normals(crowd, Stream.BIASES, 0, 3, jnp.float32).shape
      (3, 4)
    """
    key = _key_of(agents, stream, step)
    one_by_one = functools.partial(_normals, count=count, dtype=dtype)
    once_in_a_life = not isinstance(step, Array)  # and not worth the longer program
    if once_in_a_life or count == 1 or dtype != jnp.float32:
        return one_by_one(key, agents.index)
    in_pairs = functools.partial(_normals_in_pairs, count=count)
    drawn: Array = lax.platform_dependent(key, agents.index, cpu=in_pairs, default=one_by_one)
    return drawn


def _normals(
    key: tuple[Array, Array], index: Array, *, count: int, dtype: Any, first: int = 0
) -> Array:
    """Return draws `first`, `first` + 1, .. of each agent, [count, N]."""
    word_u, word_v = _bits(key, index, count, first)
    # The lowest bits of u matter most (the tail): 31 bits convert to float without losing
    # them, because small integers are exact in float32.
    magnitude = (word_u >> jnp.uint32(1)).astype(jnp.int32)
    u = (magnitude.astype(dtype) + 0.5) * 2.0**-31
    half_angle = word_v.astype(jnp.int32).astype(dtype) * (math.pi * 2.0**-32)
    sine = _sine(half_angle)
    return jnp.sqrt(-2.0 * _log(u)) * (1.0 - 2.0 * sine * sine)


def _normals_in_pairs(key: tuple[Array, Array], index: Array, *, count: int) -> Array:
    """Return the same draws in float32, two at a time.

    A draw is one long chain of dependent instructions, which a processor's core waits for. XLA
    writes one loop for one array, so two draws are the two parts of one number: two chains side by
    side take three quarters of the time.
    """
    half = -(-count // 2)

    def pairs(index: Array) -> Array:
        first, second = (
            _normals(key, index, count=half, dtype=jnp.float32, first=start) for start in (0, half)
        )
        return lax.complex(first, second)

    both = apart(pairs, index)
    # A choice between the parts is arithmetic; to concatenate them would be a branch per element.
    number = lax.broadcasted_iota(jnp.uint8, (2, *both.shape), 0)
    drawn = jnp.where(number == 0, lax.real(both)[None], lax.imag(both)[None])
    return drawn.reshape(2 * half, -1)[:count]


def _sine(angle: Array) -> Array:
    """Return sin for |angle| <= pi/2.

    In float32 by a short polynomial (least squares on Chebyshev nodes, error below 2e-7): the
    library's routine also reduces huge angles, which costs several times as much.
    """
    if angle.dtype != jnp.float32:
        return jnp.sin(angle)
    square = angle * angle
    value = jnp.full_like(square, _SINE[-1])
    for coefficient in reversed(_SINE[:-1]):
        value = value * square + coefficient
    return value * angle


def _log(value: Array) -> Array:
    """Return log for 0 < value <= 1, normal numbers.

    In float32 by exponent and polynomial (least squares on Chebyshev nodes, relative error below
    4e-7): the library's routine also minds zeros, infinities and subnormal numbers.
    """
    if value.dtype != jnp.float32:
        return jnp.log(value)
    bits = lax.bitcast_convert_type(value, jnp.int32)
    exponent = (bits - _ROOT_OF_HALF) >> _FRACTION
    mantissa = lax.bitcast_convert_type(bits - (exponent << _FRACTION), jnp.float32)
    x = mantissa - 1.0
    series = jnp.full_like(x, _LOGARITHM[-1])
    for coefficient in reversed(_LOGARITHM[:-1]):
        series = series * x + coefficient
    return exponent.astype(jnp.float32) * math.log(2.0) + (x + x * x * (series * x - 0.5))


def uniforms(agents: Agents, stream: Stream, step: Array | int, count: int, dtype: Any) -> Array:
    """Draw `count` independent uniforms on [-1/2, 1/2] per agent, agents last.

        u = (k + 1/2) / 2^32,   k an integer, all of -2^31..2^31 - 1 equally likely

    All 32 bits of the cipher are used. In float64 u is exact: an end is never reached, the mean
    is exactly 0 and the variance 1/12 to 2^-64. In float32 it is rounded to 24 bits, so an end
    can be reached and is never passed. Not differentiable in anything.

    Args:
      agents: whose draws; `agents.index` [N].
      stream: what they are for. One stream serves normals or uniforms at a step, not both:
        the two would share bits.
      step: the time step, 0 for what is drawn once in a life.
      count: how many per agent; static.
      dtype: float32 or float64.

    Returns:
      [count, N]; row m is the same whatever `count` is.

    Source: own derivation, tested in tests/test_draws.py.

    Example:
      >>> crowd = Agents(jnp.arange(4, dtype=jnp.uint32), seed_words(jax.random.key(0)))
      >>> bool(jnp.all(jnp.abs(uniforms(crowd, Stream.GAME_FEATURES, 0, 3, jnp.float32)) <= 0.5))
      True
    """
    word = _bits(_key_of(agents, stream, step), agents.index, count)[0].astype(jnp.int32)
    return (word.astype(dtype) + 0.5) * 2.0**-32


def uniform_integers(agents: Agents, stream: Stream, bound: int) -> Array:
    """Draw one integer per agent, uniform on 0..bound-1, as int32 [N].

    `bound` is static and at most 65536; the bias of the multiply-shift is below bound / 2^32.

    Example:
      >>> crowd = Agents(jnp.arange(99, dtype=jnp.uint32), seed_words(jax.random.key(0)))
      >>> int(uniform_integers(crowd, Stream.VIEW_DELAY, 3).max())
      2
    """
    bits = _bits(_key_of(agents, stream, 0), agents.index, 1)[0][0]
    # 16 bits of the draw at a time, so that the product fits in 32 bits
    high, low = bits >> jnp.uint32(16), bits & jnp.uint32(0xFFFF)
    scale = jnp.uint32(bound)
    return ((high * scale + ((low * scale) >> jnp.uint32(16))) >> jnp.uint32(16)).astype(jnp.int32)
