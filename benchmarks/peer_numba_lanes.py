"""The work in Numba, many agents abreast: every operation is a loop over a block of agents.

What a specialist writes for speed: agents are last, blocks stay in the cache through the whole
series, loops are simple enough for the compiler to turn into vector instructions, and so are
the normals: xoshiro128+ in every lane, and both halves of Box-Muller by polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from peer_numba import (
    GAMMA,
    HALF,
    MINUS_TWO,
    ONE,
    SIGMA,
    UNIT,
    ZERO,
    Compile,
    F,
    Form,
    P,
    W,
)
from work import Floats

LANES = 256
"""Agents per block; chosen by trial."""
TWO, HALF_TURN = F(2.0), F(math.pi * 2.0**-32)
# sin(x)/x as a polynomial in x^2 for |x| <= pi/2, and the natural logarithm of 1 + x beyond
# x - x^2/2, as x^3 times a polynomial in x, for 1 + x between sqrt(1/2) and sqrt(2) (Cephes).
S0, S1, S2, S3, S4 = (
    F(c)
    for c in (
        0.9999999957158398,
        -0.16666657969904786,
        0.008333050617328908,
        -0.00019809046357435538,
        2.605166276143111e-06,
    )
)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (
    F(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
ROOT_HALF, LOG_TWO = F(math.sqrt(0.5)), F(math.log(2.0))
U = np.uint32
I = np.int32  # noqa: E741


@intrinsic
def bits_of(_: Any, value: Any) -> Any:
    """Reinterpret a float32 as an int32."""

    def generate(context, builder, _, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@intrinsic
def float_of(_: Any, value: Any) -> Any:
    """Reinterpret an int32 as a float32."""

    def generate(context, builder, _, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


def fill_words(state: np.ndarray, words: np.ndarray) -> None:
    """Draw [p, n] random words by xoshiro128+, one generator per lane; state [4, n]."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    for a in range(words.shape[0]):
        for i in range(words.shape[1]):
            first = s0[i]
            words[a, i] = first + s3[i]
            shifted = s1[i] << U(9)
            s2[i] ^= first
            s3[i] ^= s1[i]
            s1[i] ^= s2[i]
            s0[i] ^= s3[i]
            s2[i] ^= shifted
            s3[i] = (s3[i] << U(11)) | (s3[i] >> U(21))


def fill_radii(words: np.ndarray, into: Floats) -> None:
    """Put sqrt(-2 log u) of the first half of the words into the first half."""
    for a in range(into.shape[0] // 2):
        for i in range(into.shape[1]):
            bits = bits_of((F(I(words[a, i] >> U(1))) + HALF) * UNIT)
            exponent = F(I(I(bits >> I(23)) - I(126)))
            mantissa = float_of(I(I(bits & I(0x7FFFFF)) | I(0x3F000000)))
            low = mantissa < ROOT_HALF
            exponent -= ONE if low else ZERO
            x = mantissa + (mantissa if low else ZERO) - ONE
            square = x * x
            tail = L0
            tail = ((((tail * x + L1) * x + L2) * x + L3) * x + L4) * x + L5
            tail = (((tail * x + L6) * x + L7) * x + L8) * x * square
            log = x + (tail - HALF * square) + exponent * LOG_TWO
            into[a, i] = math.sqrt(MINUS_TWO * log)


def turn(words: np.ndarray, into: Floats) -> None:
    """Multiply the radii by cosines and sines of the second half of the words."""
    half = into.shape[0] // 2
    for a in range(half):
        for i in range(into.shape[1]):
            x = F(I(words[a + half, i])) * HALF_TURN
            square = x * x
            sine = ((((S4 * square + S3) * square + S2) * square + S1) * square + S0) * x
            cosine = math.sqrt(max(ONE - sine * sine, ZERO))
            radius = into[a, i]
            into[a, i] = radius * (ONE - TWO * sine * sine)
            into[a + half, i] = radius * TWO * sine * cosine


def solve(system: Floats, lower: Floats, inverse: Floats, right: Floats) -> None:
    """Solve p x p systems [p, p, n] in place by LDL'; the solution replaces right [p, n]."""
    p, lanes = right.shape
    for a in range(p):
        for b in range(a):
            for c in range(b):
                for i in range(lanes):
                    system[a, b, i] -= system[a, c, i] * lower[b, c, i]
            for i in range(lanes):
                value = system[a, b, i] * inverse[b, i]
                lower[a, b, i] = value
                system[a, a, i] -= system[a, b, i] * value
        for i in range(lanes):
            inverse[a, i] = ONE / system[a, a, i]
    for a in range(p):
        for c in range(a):
            for i in range(lanes):
                right[a, i] -= lower[a, c, i] * right[c, i]
    for a in range(p - 1, -1, -1):
        for i in range(lanes):
            right[a, i] *= inverse[a, i]
        for c in range(a + 1, p):
            for i in range(lanes):
                right[a, i] -= lower[c, a, i] * right[c, i]


def enter(
    slot: int,
    features: Floats,
    residual: Floats,
    rows: Floats,
    rights: Floats,
    gram: Floats,
    moment: Floats,
) -> None:
    """Replace the window's oldest step; once per window build the equations anew."""
    p, lanes = features.shape
    for a in range(p):
        for i in range(lanes):
            moment[a, i] += features[a, i] * residual[i] - rows[slot, a, i] * rights[slot, i]
        for b in range(a + 1):
            for i in range(lanes):
                gram[a, b, i] += (
                    features[a, i] * features[b, i] - rows[slot, a, i] * rows[slot, b, i]
                )
    for i in range(lanes):
        rights[slot, i] = residual[i]
    for a in range(p):
        for i in range(lanes):
            rows[slot, a, i] = features[a, i]
    if slot == rows.shape[0] - 1:
        gram[:], moment[:] = ZERO, ZERO
        for a in range(p):
            for s in range(rows.shape[0]):
                for i in range(lanes):
                    moment[a, i] += rows[s, a, i] * rights[s, i]
            for b in range(a + 1):
                for s in range(rows.shape[0]):
                    for i in range(lanes):
                        gram[a, b, i] += rows[s, a, i] * rows[s, b, i]


def compile_share(jit: Compile) -> Callable[..., Any]:
    """Compile what one thread does: take agents first..last - 1 through the series, in blocks."""
    block = compile_block(jit)

    def share(first, last, seed, drawn, A, b, given, y, costs, efforts, sums):  # type: ignore
        np.random.seed(seed % 4294967296)  # noqa: NPY002
        state = np.empty((4, LANES), U)
        for word in range(4):
            for i in range(LANES):
                state[word, i] = np.random.randint(1, 4294967296)  # noqa: NPY002
        for start in range(first, last, LANES):
            stop = min(start + LANES, last)
            block(start, stop, state, drawn, A, b, given, y, costs, efforts, sums)

    return jit(share)


def see(now: float, prediction: Floats, base: Floats, error: Floats, residual: Floats) -> None:
    """Score the prediction, and see what the step before left unexplained."""
    for i in range(error.shape[0]):
        error[i] = prediction[i] - now
        residual[i] = now - base[i]


def encode(now: float, weights: Floats, biases: Floats, noise: Floats, into: Floats) -> None:
    """Make features."""
    for a in range(into.shape[0]):
        for i in range(into.shape[1]):
            into[a, i] = max(weights[i] * now + biases[a, i] + SIGMA * noise[a, i], ZERO)


def set_up(gram: Floats, moment: Floats, system: Floats, beta: Floats) -> None:
    """Copy the equations to where they are solved, and add the ridge."""
    for a in range(beta.shape[0]):
        for i in range(beta.shape[1]):
            beta[a, i] = moment[a, i]
        for b in range(a + 1):
            for i in range(beta.shape[1]):
                system[a, b, i] = gram[a, b, i]
        for i in range(beta.shape[1]):
            system[a, a, i] += GAMMA


def add_squares(rows: Floats, into: Floats) -> None:
    """Add the squares of [m, n] over the first axis to [n]."""
    for a in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            into[i] += rows[a, i] * rows[a, i]


def predict(features: Floats, beta: Floats, prediction: Floats, base: Floats) -> None:
    """Keep the prediction as the base of the next, and move it."""
    for i in range(base.shape[0]):
        base[i] = prediction[i]
    for a in range(beta.shape[0]):
        for i in range(beta.shape[1]):
            prediction[i] += features[a, i] * beta[a, i]


def add_up(now: float, error: Floats, prediction: Floats, sums: np.ndarray) -> None:
    """Add a block's part to a row's population sums."""
    s0, s1, s2, s3 = ZERO, ZERO, ZERO, ZERO
    for i in range(error.shape[0]):
        ahead = prediction[i] - now
        s0 += error[i]
        s1 += error[i] * error[i]
        s2 += ahead
        s3 += error[i] * ahead
    sums[0] += s0
    sums[1] += s1
    sums[2] += s2
    sums[3] += s3


def compile_block(jit: Compile) -> Callable[..., Any]:
    """Compile the life of one block of agents."""
    window, equations, ridge, square = jit(enter), jit(set_up), jit(solve), jit(add_squares)
    look, features_of, move, total = jit(see), jit(encode), jit(predict), jit(add_up)
    draw_words, draw_radii, draw_turns = jit(fill_words), jit(fill_radii), jit(turn)

    def block(start, stop, generator, drawn, A, b, given, y, costs, efforts, sums):  # type: ignore
        points, lanes = y.shape[0], stop - start
        state = generator[:, :lanes].copy()
        words, noise = np.empty((P, lanes), U), np.empty((P, lanes), F)
        rows, rights = np.zeros((W, P, lanes), F), np.zeros((W, lanes), F)
        gram, moment = np.zeros((P, P, lanes), F), np.zeros((P, lanes), F)
        system, lower = np.empty((P, P, lanes), F), np.empty((P, P, lanes), F)
        inverse, z, beta = np.empty((P, lanes), F), np.zeros((P, lanes), F), np.empty((P, lanes), F)
        weights, biases = np.empty(lanes, F), np.empty((P, lanes), F)
        prediction, base = np.full(lanes, y[0]), np.full(lanes, y[0])
        error, residual = np.empty((1, lanes), F), np.empty(lanes, F)
        cost, effort = np.zeros(lanes, F), np.zeros(lanes, F)
        if drawn:
            for target in (noise, biases):
                draw_words(state, words)
                draw_radii(words, target)
                draw_turns(words, target)
            weights[:] = noise[0]
        else:
            weights[:] = A[start:stop, 0]
            biases[:] = b[start:stop].T
        for t in range(points):
            now = y[t]
            look(now, prediction, base, error[0], residual)
            if t > 0:
                square(error, cost)
                square(beta, effort)
                window((t - 1) % W, z, residual, rows, rights, gram, moment)
            if drawn:
                draw_words(state, words)
                draw_radii(words, noise)
                draw_turns(words, noise)
            else:
                noise[:] = given[t, start:stop].T
            features_of(now, weights, biases, noise, z)
            equations(gram, moment, system, beta)
            ridge(system, lower, inverse, beta)
            move(z, beta, prediction, base)
            total(now, error[0], prediction, sums[t])
        generator[:, :lanes] = state
        costs[start:stop], efforts[start:stop] = cost, effort

    return jit(block)


FORMS = {
    "lanes" + ("_fastmath" if fastmath else ""): Form(compile_share, fastmath=fastmath, unit=LANES)
    for fastmath in (False, True)
}
