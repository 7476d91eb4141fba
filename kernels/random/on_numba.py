"""Random numbers in Numba: from chunks of words, which stay in the first cache."""

import math

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from ..cpu.philox import philox_words
from .on_numpy import ticket

__all__ = ["normal", "philox", "ticket", "uniform"]

HALF = np.uint64(32)
CHUNK = 4096  # elements whose words are made together: they stay in L1
PAIRS = 512  # of normal numbers that are made together

FRACTION_BITS = np.int64(52)  # of float64
SQRT_HALF_BITS = np.int64(np.float64(0.5**0.5).view(np.int64))
LN2 = math.log(2)
# Of the series, last first; the first term left out is below half a unit in the last place.
ARTANH = tuple(2 / (2 * n + 1) for n in range(10, -1, -1))
COSINE = tuple((-1) ** n / math.factorial(2 * n) for n in range(8, -1, -1))
SINE = tuple((-1) ** n / math.factorial(2 * n + 1) for n in range(8, -1, -1))


@jit
def philox(key, low, high, out):
    """Fill ``out`` (4 B words) with the blocks of counters low, low + 1, ...; high: upper half."""
    philox_words(key, low, high, out)


def uniform(ticket, out):
    _uniform(ticket, out.reshape(-1))


def normal(ticket, out):
    uniforms = np.empty(out.size + out.size % 2, out.dtype)
    _uniform(ticket, uniforms)
    _box_muller(uniforms, out.reshape(-1))


@parallel_jit
def _uniform(ticket, out):
    words_each = out.itemsize // 4
    for chunk in prange(-(-out.size // CHUNK)):
        first = np.int64(chunk) * CHUNK
        here = out[first : first + CHUNK]
        words = np.empty(-(-here.size * words_each // 4) * 4, np.uint32)
        philox_words(ticket[0], ticket[1] + np.uint64(first * words_each // 4), np.uint64(0), words)
        if words_each == 1:
            for i in range(here.size):
                here[i] = (words[i] >> 8) * 2.0**-24
        else:
            for i in range(here.size):
                pair = np.uint64(words[2 * i]) | np.uint64(words[2 * i + 1]) << HALF
                here[i] = (pair >> np.uint64(11)) * 2.0**-53


@parallel_jit
def _box_muller(uniforms, out):
    """In float64, without calls, so that each loop is vectorized."""
    logs, turns, exponents = np.empty(PAIRS), np.empty(PAIRS), np.empty(PAIRS)
    bits = logs.view(np.int64)
    cosines, sines = np.empty(PAIRS), np.empty(PAIRS)
    for chunk in prange(-(-uniforms.size // (2 * PAIRS))):
        first = np.int64(chunk) * 2 * PAIRS
        here, numbers = uniforms[first : first + 2 * PAIRS], out[first : first + 2 * PAIRS]
        count = len(here) // 2
        for j in range(count):
            logs[j] = 1 - np.float64(here[2 * j])
            turns[j] = here[2 * j + 1]
        for j in range(count):  # to 2**exponent times a number from sqrt(1/2) to sqrt(2)
            exponent = (bits[j] - SQRT_HALF_BITS) >> FRACTION_BITS
            bits[j] -= exponent << FRACTION_BITS
            exponents[j] = exponent
        for j in range(count):
            radius = np.sqrt(-2 * (exponents[j] * LN2 + _log(logs[j])))
            cosine, sine = _circle(turns[j])
            cosines[j], sines[j] = radius * cosine, radius * sine
        for j in range(len(numbers) // 2):
            numbers[2 * j] = cosines[j]
            numbers[2 * j + 1] = sines[j]
        if len(numbers) % 2:
            numbers[len(numbers) - 1] = cosines[len(numbers) // 2]


@jit
def _log(x):
    """ln x = 2 artanh s, s = (x - 1) / (x + 1), by its series, for x from sqrt(1/2) to sqrt(2)."""
    s = (x - 1) / (x + 1)
    return s * _series(s * s, ARTANH)


@jit
def _circle(turn):
    """(cos, sin) of 2 pi turn, 0 <= turn <= 1, by their series around the nearest quarter."""
    quarter = np.floor(4 * turn + 0.5)
    x = 2 * np.pi * (turn - 0.25 * quarter)
    cosine, sine = _series(x * x, COSINE), x * _series(x * x, SINE)
    swapped = (quarter == 1) | (quarter == 3)
    left, below = (quarter == 1) | (quarter == 2), (quarter == 2) | (quarter == 3)
    a, b = sine if swapped else cosine, cosine if swapped else sine
    return -a if left else a, -b if below else b


@jit
def _series(x, terms):
    total = terms[0]
    for term in terms[1:]:
        total = total * x + term
    return total
