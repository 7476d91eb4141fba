"""Random numbers: a seed determines them, on every backend and over states."""

import math

import numpy as np

import convolt
from convolt.engine import random
from convolt.kernels.backend import use_backend


def test_a_seed_gives_the_same_numbers_on_every_backend():
    results = []
    for name in ("numpy", "numba"):
        with use_backend(name):
            convolt.manual_seed(7)
            x = convolt.Tensor(np.ones((3, 5)))
            results.append(
                (
                    convolt.rand(3, 5).numpy(),
                    convolt.functional.dropout(x).numpy(),
                    convolt.rand(2, dtype=np.float64).numpy(),
                )
            )
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_stream_moves_on_and_the_state_brings_it_back():
    generator = random.Generator(3)
    first = random.uniform((5,), generator=generator)
    state = generator.get_state()
    second = random.normal((5,), generator=generator)
    third = random.uniform((5,), generator=generator)
    assert not np.array_equal(first, third)
    generator.set_state(state)
    np.testing.assert_array_equal(random.normal((5,), generator=generator), second)
    np.testing.assert_array_equal(random.uniform((5,), generator=generator), third)
    other = random.Generator(4)
    assert not np.array_equal(random.uniform((5,), generator=other), first)


def test_consecutive_draws_share_no_numbers():
    generator = random.Generator(0)
    draws = [random.uniform((n,), generator=generator) for n in (1, 2, 3, 5, 7, 11)]
    values = np.concatenate(draws)
    assert len(set(values.tolist())) == len(values)


def test_bounds_and_moments():
    n = 100_000
    x = random.uniform((n,), -2.0, 6.0, generator=random.Generator(1))
    assert x.dtype == np.float32
    assert -2 <= x.min() < x.max() <= 6
    # Five standard errors: 8/sqrt(12 n) for the mean.
    assert abs(x.mean(dtype=np.float64) - 2.0) < 5 * 8 / math.sqrt(12 * n)
    z = random.normal((n,), 1.0, 3.0, np.float64, random.Generator(1))
    assert abs(z.mean() - 1.0) < 5 * 3 / math.sqrt(n)
    assert abs(z.var() - 9.0) < 5 * 9 * math.sqrt(2 / n)


def test_large_and_negative_seeds():
    for seed in (-1, 2**64 + 5, 2**63):
        assert convolt.manual_seed(seed).get_state() == (seed % 2**64, 0)
        convolt.rand(2)
        assert convolt.engine.random.default_generator.get_state()[0] == seed % 2**64
    convolt.manual_seed(0)
