import math

import numpy as np
import pytest
from launches import record_launches
from threads import results_by_threads
from tolerance import UNIT

from convolt.kernels import random
from convolt.kernels.backend import implementation, use_backend
from convolt.kernels.random import on_cuda

# (counter, key, block), from the file kat_vectors of the authors' library Random123.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),  # digits of pi
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def joined(low, high):
    return np.uint64(low | high << 32)


def ticket_of(seed, offset):
    return np.array([seed, offset], np.uint64)


ZEROS = ticket_of(0, 0)


def scalar_words(seed, offset, count):
    """The stream from the definition, in Python's integers."""
    words = []
    while len(words) < count:
        counter = (offset + len(words) // 4) % 2**64
        c, k = [counter % 2**32, counter >> 32, 0, 0], [seed % 2**32, seed >> 32]
        for _ in range(10):
            left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [
                (right >> 32) ^ c[1] ^ k[0],
                right % 2**32,
                (left >> 32) ^ c[3] ^ k[1],
                left % 2**32,
            ]
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        words += c
    return words[:count]


def scalar_uniforms(seed, offset, count, dtype):
    if dtype == np.float32:
        return [(word >> 8) / 2**24 for word in scalar_words(seed, offset, count)]
    words = scalar_words(seed, offset, 2 * count)
    return [((words[2 * i] + (words[2 * i + 1] << 32)) >> 11) / 2**53 for i in range(count)]


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(backend, counter, key, block):
    out = np.full(8, 7, np.uint32)
    kernel = implementation(random.__name__, out)
    kernel.philox(joined(*key), joined(*counter[:2]), joined(*counter[2:]), out)
    assert tuple(out[:4].tolist()) == block
    after = joined(*counter[:2]) + np.uint64(1) if counter[0] < 2**32 - 1 else np.uint64(0)
    kernel.philox(joined(*key), after, joined(*counter[2:]), out[:4])
    assert out[:4].tolist() == out[4:].tolist()


# Offsets: small, the carry into the second word, the wrap of the whole offset.
@pytest.mark.parametrize("offset", [0, 5, 2**32 - 2, 2**64 - 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_is_the_definition(backend, nan_results, dtype, offset):
    seed = 0x0123456789ABCDEF
    with nan_results(random):
        got = random.uniform(ticket_of(seed, offset), (3, 7), dtype)
    assert got.shape == (3, 7)
    assert got.dtype == dtype
    assert got.flags.c_contiguous
    assert got.reshape(-1).tolist() == scalar_uniforms(seed, offset, 21, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 1023, 4095, 4096, 4097, 20011])
def test_uniform_is_numpys_bit_by_bit(backend, nan_results, dtype, count):
    ticket = ticket_of(3, 2**32 - 100)
    with nan_results(random):
        got = random.uniform(ticket, (count,), dtype)
    with use_backend("numpy"):
        expected = random.uniform(ticket, (count,), dtype)
    assert got.size == count
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 300])
def test_normal_is_the_transform_of_box_and_muller(backend, nan_results, dtype, count):
    with nan_results(random):
        got = random.normal(ticket_of(11, 8), (count,), dtype)
    uniforms = scalar_uniforms(11, 8, count + count % 2, dtype)
    assert got.dtype == dtype
    for i in range(count):
        u, v = uniforms[i - i % 2], uniforms[i - i % 2 + 1]
        radius = math.sqrt(-2 * math.log(1 - u))
        ref = radius * (math.sin if i % 2 else math.cos)(2 * math.pi * v)
        assert abs(float(got[i]) - ref) <= 8 * UNIT[np.dtype(dtype).name] * radius


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_is_numpys_within_the_contract(backend, dtype):
    got = random.normal(ticket_of(3, 1), (4099,), dtype).astype(np.float64)
    with use_backend("numpy"):
        ref = random.normal(ticket_of(3, 1), (4099,), dtype).astype(np.float64)
    # Each pair (r cos a, r sin a) gives its own radius back.
    radius = np.hypot(ref[:-1:2], ref[1::2]).repeat(2)
    error = np.abs(got - ref)[:-1]
    assert np.all(error <= 8 * UNIT[np.dtype(dtype).name] * radius * 1.001)


# Bounds are 5 standard deviations of the estimate from n samples: 1 in 1.7 million exceeds them,
# and the seed is fixed.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_of_uniform(backend, dtype):
    n = 200_000
    x = random.uniform(ticket_of(2026, 77), (n,), dtype).astype(np.float64)
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 1 / 2) <= 5 * math.sqrt(1 / 12 / n)
    assert abs(np.mean((x - 0.5) ** 2) - 1 / 12) <= 5 * math.sqrt(1 / 180 / n)
    for lag in (1, 2, 4):
        products = (x[lag:] - 0.5) * (x[:-lag] - 0.5)
        assert abs(products.mean()) <= 5 / 12 / math.sqrt(n - lag)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_of_normal(backend, dtype):
    n = 200_000
    x = random.normal(ticket_of(2026, 78), (n,), dtype).astype(np.float64)
    assert abs(x.mean()) <= 5 / math.sqrt(n)
    assert abs(np.mean(x**2) - 1) <= 5 * math.sqrt(2 / n)
    assert abs(np.mean(x**4) - 3) <= 5 * math.sqrt(96 / n)
    assert abs(np.mean(x[::2] * x[1::2])) <= 5 / math.sqrt(n / 2)
    beyond = math.erfc(2 / math.sqrt(2))
    assert abs(np.mean(np.abs(x) > 2) - beyond) <= 5 * math.sqrt(beyond * (1 - beyond) / n)


@pytest.mark.parametrize(("count", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (4096, 1024)])
def test_ticket_copies_the_state_and_advances_it(backend, nan_results, count, blocks):
    state = ticket_of(9, 2**64 - 1)
    with nan_results(random):
        drawn = random.ticket(state, count)
    assert drawn.tolist() == [9, 2**64 - 1]
    assert state.tolist() == [9, (2**64 - 1 + blocks) % 2**64]
    random.ticket(state, 40)
    assert drawn.tolist() == [9, 2**64 - 1]


def test_states_and_tickets_of_any_stride(backend):
    memory = np.array([5, 7, 6, 7], np.uint64)
    drawn = random.ticket(memory[::2], 9)
    assert drawn.tolist() == [5, 6]
    assert memory.tolist() == [5, 7, 6 + 3, 7]
    expected = random.uniform(ticket_of(5, 9), (8,))
    assert random.uniform(memory[::2], (8,)).tolist() == expected.tolist()
    backwards = np.array([9, 5], np.uint64)[::-1]
    assert random.uniform(backwards, (8,)).tolist() == expected.tolist()


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, 1), (np.float64, 2)])
def test_tickets_in_a_row_continue_one_stream(backend, dtype, words):
    state = ticket_of(1, 0)
    whole = random.uniform(state.copy(), (24,), dtype)
    first = random.uniform(random.ticket(state, 8 * words), (8,), dtype)
    second = random.uniform(random.ticket(state, 16 * words), (16,), dtype)
    assert np.concatenate([first, second]).tolist() == whole.tolist()
    assert len(set(whole.tolist())) == 24


def test_seeds_give_different_numbers(backend):
    drawn = {random.uniform(ticket_of(seed, 0), (2,)).tobytes() for seed in (0, 1, 2**32, 2**63)}
    assert len(drawn) == 4


def test_any_number_of_threads_gives_the_same_bytes():
    with use_backend("numba"):
        results = results_by_threads(lambda: random.normal(ticket_of(4, 4), (30_001,)).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "uint64", lambda: random.uniform(np.array([1, 2]), (3,))),
        (TypeError, "uint64", lambda: random.ticket([1, 2], 3)),
        (ValueError, r"shape \(2,\), got \(3,\)", lambda: random.normal(ZEROS[[0, 0, 0]], (3,))),
        (ValueError, r"state must have shape \(2,\)", lambda: random.ticket(ZEROS[:1], 3)),
        (ValueError, "count must be >= 0, got -1", lambda: random.ticket(ZEROS.copy(), -1)),
        (TypeError, "count must be an int, got 2.0", lambda: random.ticket(ZEROS.copy(), 2.0)),
        (TypeError, "float16", lambda: random.uniform(ZEROS, (3,), np.float16)),
        (ValueError, "negative length", lambda: random.uniform(ZEROS, (3, -1))),
        (ValueError, "int32 index", lambda: random.uniform(ZEROS, (2**16, 2**16))),
    ],
)
def test_bad_input_is_an_error(backend, error, message, call):
    with pytest.raises(error, match=message):
        call()
    assert random.uniform(ZEROS, (4,)).tolist() == scalar_uniforms(0, 0, 4, np.float32)


@pytest.mark.parametrize(
    ("count", "dtype", "grid"),
    [
        (0, "f4", 0),
        (1, "f4", 1),
        (1024, "f4", 1),
        (1025, "f4", 2),
        (2**31 - 1, "f4", 2**21),
        (1, "f8", 1),
        (512, "f8", 1),
        (513, "f8", 2),
        (2**31 - 1, "f8", 2**22),
    ],
)
def test_a_thread_makes_the_numbers_of_one_counter(monkeypatch, count, dtype, grid):
    launches = record_launches(monkeypatch)
    out = np.broadcast_to(np.zeros((), dtype), (count,))
    on_cuda.uniform(ZEROS, out)
    on_cuda.normal(ZEROS, out)
    assert [launch[1] for launch in launches] == [grid, grid]
