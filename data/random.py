"""Random streams named by what they are for, so that any one can be made again alone."""

from __future__ import annotations

import operator

import numpy as np


def stream(seed: int, *key: int) -> np.random.Generator:
    """The Philox generator that belongs to ``seed`` and ``key``, e.g. (epoch, batch).

    Different keys, also of different lengths, give independent streams.
    Raises TypeError for a seed that is not an integer, ValueError for a negative one.
    """
    if operator.index(seed) < 0:
        raise ValueError(f"seed must be 0 or more, it is {seed}")
    # The key goes into spawn_key: as entropy, (1,) and (1, 0) would give the same stream.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def permutation(n: int, rng: np.random.Generator) -> np.ndarray:
    """0 .. n - 1 in random order, int64 (n,).

    Sorts raw bits, which NumPy keeps stable across versions and machines; it does not promise
    that of ``Generator.permutation`` (NEP 19).
    """
    bits = rng.bit_generator.random_raw(n)
    return np.argsort(np.asarray(bits), kind="stable").astype(np.int64, copy=False)
