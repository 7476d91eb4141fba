"""Philox4x32-10 in NumPy: the definition, one element a block. Read this first."""

import numpy as np

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # golden ratio, sqrt(3) - 1
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def ticket(state, blocks, drawn):
    drawn[...] = state
    state[1:] += np.uint64(blocks)


def philox(key, low, high, out):
    """Fill ``out`` (4 B words) with the blocks of counters low, low + 1, ...; high: upper half."""
    counters = np.uint64(low) + np.arange(out.size // 4, dtype=np.uint64)
    key, high = np.array([key], np.uint64), np.full_like(counters, high)
    k0, k1 = key & LOW, key >> HALF
    c0, c1, c2, c3 = counters & LOW, counters >> HALF, high & LOW, high >> HALF
    for _ in range(10):
        left, right = M0 * c0, M1 * c2
        c0, c1 = (right >> HALF) ^ c1 ^ k0, right & LOW
        c2, c3 = (left >> HALF) ^ c3 ^ k1, left & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    out[...] = np.stack([c0, c1, c2, c3], axis=1).reshape(-1)


def uniform(ticket, out):
    words = np.empty(-(-out.nbytes // 16) * 4, np.uint32)
    philox(ticket[0], ticket[1], 0, words)
    if out.dtype == np.float32:
        numbers = (words >> 8) * 2.0**-24
    else:
        pairs = words[0::2] + words[1::2].astype(np.uint64) * 2**32
        numbers = (pairs >> 11) * 2.0**-53
    out[...] = numbers[: out.size].reshape(out.shape)


def normal(ticket, out):
    uniforms = np.empty(out.size + out.size % 2, out.dtype)
    uniform(ticket, uniforms)
    u, v = uniforms.astype(np.float64).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log(1 - u)), 2 * np.pi * v
    numbers = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    out[...] = numbers.reshape(-1)[: out.size].reshape(out.shape)
