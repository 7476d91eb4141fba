"""Philox4x32-10 in Numba: chunks of blocks, each block's ten rounds in vector registers."""

import math

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from .on_numpy import ticket

__all__ = ["normal", "philox", "ticket", "uniform"]

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
CHUNK = 4096  # elements whose words are made together: they stay in L1


@jit
def philox(key, low, high, out):
    """Fill ``out`` (4 B words) with the blocks of counters low, low + 1, ...; high: upper half.

    The rounds stand in the loop over blocks, not in a function of their own: a call would keep
    LLVM from vectorizing the loop, which makes it 5 times as long. All arguments uint64.
    """
    for b in range(np.uint64(out.size // 4)):
        k0, k1 = key & LOW, key >> HALF
        c0, c1 = (low + b) & LOW, (low + b) >> HALF
        c2, c3 = high & LOW, high >> HALF
        for _ in range(10):
            left, right = M0 * c0, M1 * c2
            c0, c1 = (right >> HALF) ^ c1 ^ k0, right & LOW
            c2, c3 = (left >> HALF) ^ c3 ^ k1, left & LOW
            k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
        at = np.uint64(4) * b
        out[at] = c0
        out[at + np.uint64(1)] = c1
        out[at + np.uint64(2)] = c2
        out[at + np.uint64(3)] = c3


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
        philox(ticket[0], ticket[1] + np.uint64(first * words_each // 4), np.uint64(0), words)
        if words_each == 1:
            for i in range(here.size):
                here[i] = (words[i] >> 8) * 2.0**-24
        else:
            for i in range(here.size):
                pair = np.uint64(words[2 * i]) | np.uint64(words[2 * i + 1]) << HALF
                here[i] = (pair >> np.uint64(11)) * 2.0**-53


@parallel_jit
def _box_muller(uniforms, out):
    for j in prange(uniforms.size // 2):
        u, v = np.float64(uniforms[2 * j]), np.float64(uniforms[2 * j + 1])
        radius, angle = math.sqrt(-2 * math.log(1 - u)), 2 * math.pi * v
        out[2 * j] = radius * math.cos(angle)
        if 2 * j + 1 < out.size:
            out[2 * j + 1] = radius * math.sin(angle)
