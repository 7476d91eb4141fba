import math

import ml_dtypes
import numpy as np
import pytest
from flat_buffers import (
    after_steps,
    assert_any_number_of_threads_gives_the_same_bytes,
    assert_only_active_segments_change,
    buffer,
    in_gap,
    table,
)
from launches import record_launches
from tolerance import assert_within

from convolt.kernels import adam
from convolt.kernels.adam import on_cuda
from convolt.kernels.backend import use_backend
from convolt.kernels.segments import ACTIVE, CHUNK, CHUNK_BYTES, STEP

ADAM = [0.01, 0.9, 0.99, 1e-8, 0, 0, 0, 0]
DECAYED = [0.02, 0.8, 0.95, 1e-3, 0.05, 0, 0, 1]
ADAMW = [0.03, 0.7, 0.98, 1e-6, 0.1, 1, 0, 0]
AMSGRAD = [0.04, 0.0, 0.9, 0.0, 0.02, 1, 1, 0]


def problem(rng, dtype, sizes=(13, 1, 64, 257, 5, 31), groups=(0, 1, 2, 3, 1, 0)):
    """Every group; the fifth parameter is inactive; steps from the first on."""
    segments, length = table(sizes, groups, [1, 1, 1, 1, 0, 1], [0, 1, 5, 40, 3, 1000], dtype)
    param, grad, m = (buffer(segments, length, dtype, rng.standard_normal) for _ in range(3))
    v, largest = (
        buffer(segments, length, dtype, lambda size: rng.uniform(0.5, 2, size)) for _ in range(2)
    )
    return param, grad, m, v, largest, segments, np.array([ADAM, DECAYED, ADAMW, AMSGRAD])


def scalar_step(w, g, m, v, largest, t, numbers):
    """The equations for one element; also what they give for absolute values."""
    lr, beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize = numbers
    d, d_size = (-g if maximize else g), abs(g)
    if decoupled:
        w *= 1 - lr * weight_decay
    else:
        d, d_size = d + weight_decay * w, d_size + weight_decay * abs(w)
    m_size = beta1 * abs(m) + (1 - beta1) * d_size
    m = beta1 * m + (1 - beta1) * d
    v_size = beta2 * v + (1 - beta2) * d_size**2
    v = beta2 * v + (1 - beta2) * d * d
    if amsgrad:
        largest = max(largest, v)
    s = largest if amsgrad else v
    rate = lr / (1 - beta1**t) / (math.sqrt(s / (1 - beta2**t)) + eps)
    # The denominator's relative error is that of v, at most v_size / v units.
    w_size = abs(w) + rate * m_size * max(1, v_size / v)
    return (w - rate * m, w_size), (m, m_size), (v, v_size), (largest, v_size + largest)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_step_is_the_definition(backend, rng, dtype):
    *buffers, segments, hyper = problem(rng, dtype)
    ref = np.full((4, 2, buffers[0].size), np.nan)
    for start, size, group, active, taken in segments:
        if active:
            for i in range(start, start + size):
                numbers = [float(array[i]) for array in buffers]
                ref[:, :, i] = scalar_step(*numbers, int(taken) + 1, hyper[group].tolist())
    adam.step(*buffers, segments, hyper)
    stepped = ~np.isnan(ref[0, 0])
    param, _, m, v, largest = buffers
    # At most 12 roundings, those of the hyper-parameters included, on the way to an element.
    for got, (value, size) in zip((param, m, v, largest), ref, strict=True):
        assert_within(got[stepped], value[stepped], size[stepped], 12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_active_segments_are_touched(backend, rng, dtype):
    assert_only_active_segments_change(adam.step, problem(rng, dtype))


def test_the_running_maximum_belongs_to_groups_with_amsgrad(backend, rng):
    start = problem(rng, np.float32)
    largest, segments, hyper = start[4:]
    after = after_steps(adam.step, start)[4]
    for begin, size, group in segments[segments[:, ACTIVE] == 1, :3]:
        here = slice(begin, begin + size)
        changes = after[here].tobytes() != largest[here].tobytes()
        assert hyper[group, adam.AMSGRAD] or not changes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backends_agree_on_long_parameters(backend, rng, dtype):
    # The order of operations is the same, but beta**t may be rounded differently: a few units
    # of the learning rate's multiple, lr * |m| / sqrt(v) < 1 here. The sizes cross the chunks, of
    # threads and of blocks.
    block = CHUNK_BYTES // np.dtype(dtype).itemsize
    sizes = (CHUNK, CHUNK + 1, 3 * CHUNK + 17, 2, 0, block - 1)
    start = problem(rng, dtype, sizes)
    got = after_steps(adam.step, start, 2)
    with use_backend("numpy"):
        expected = after_steps(adam.step, start, 2)
    stepped = ~in_gap(start[-2], start[0].size)
    for got_buffer, ref in zip(got[:5], expected[:5], strict=True):
        ref = ref[stepped].astype(np.float64)
        assert_within(got_buffer[stepped], ref, np.abs(ref) + 1, 3)
    assert np.array_equal(got[5], expected[5])


def test_bfloat16_is_stepped_in_float32(backend, rng):
    *buffers, segments, hyper = problem(rng, ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match="adam: param has dtype bfloat16"):
            adam.step(*buffers, segments, hyper)
        return
    assert_only_active_segments_change(adam.step, (*buffers, segments, hyper))
    # The table's starts are multiples of 128 elements: 256 bytes of bfloat16, 512 of float32.
    wide = [array.astype(np.float32) for array in buffers]
    rows = segments.copy()
    adam.step(*buffers, segments, hyper)
    with use_backend("numpy"):
        adam.step(*wide, rows, hyper)
    stepped = ~in_gap(segments, buffers[0].size)
    for got, ref in zip(buffers, wide, strict=True):
        ref = ref[stepped].astype(np.float64)
        assert_within(got[stepped], ref, np.abs(ref) + 1, 12)
    assert np.array_equal(segments, rows)


def test_a_nan_enters_the_running_maximum_and_stays(backend):
    segments, length = table([3], [0], [1], [1], np.float32)
    here = slice(segments[0, 0], segments[0, 0] + 3)
    param, grad, m, v, largest = (buffer(segments, length, np.float32, np.ones) for _ in range(5))
    grad[here], largest[here] = [np.nan, 1, 1], [1, np.nan, 2]
    adam.step(param, grad, m, v, largest, segments, np.array([AMSGRAD]))
    assert np.isnan(largest[here]).tolist() == [True, True, False]
    assert np.isnan(param[here]).tolist() == [True, True, False]
    assert largest[here][2] == 2


def test_first_step_is_the_learning_rate_times_the_sign(backend):
    segments, length = table([3], [0], [1], [0], np.float64)
    start = segments[0, 0]
    param, m, v = (buffer(segments, length, np.float64, np.zeros) for _ in range(3))
    grad = buffer(segments, length, np.float64, lambda size: np.array([-1e-6, 3.0, 1e6]))
    adam.step(param, grad, m, v, None, segments, np.array([[0.5, 0.9, 0.999, 0, 0, 0, 0, 0]]))
    got = param[start : start + 3]
    assert_within(got, np.array([0.5, -0.5, -0.5]), np.full(3, 0.5), 8)


def test_without_amsgrad_no_maximum_is_needed(backend, rng):
    *buffers, segments, hyper = problem(rng, np.float32, groups=[0, 1, 2, 2, 1, 0])
    *twins, twin_rows = [array.copy() for array in (*buffers, segments)]
    adam.step(*twins, twin_rows, hyper[:3])
    adam.step(*buffers[:4], None, segments, hyper[:3])
    for got, expected in zip(buffers, twins, strict=True):
        assert got.tobytes() == expected.tobytes()
    assert np.array_equal(segments, twin_rows)


def test_nothing_to_do(backend):
    nan = np.full(64, np.nan, np.float32)
    adam.step(nan, nan, nan, nan, None, np.empty((0, 5), np.int64), np.array([ADAM]))
    none = nan[:0]
    adam.step(none, none, none, none, none, np.empty((0, 5), np.int64), np.empty((0, 8)))
    assert np.isnan(nan).all()


def test_any_number_of_threads_gives_the_same_bytes(rng):
    start = problem(rng, np.float32, (CHUNK * 5 + 3, 100, CHUNK, 1, 1, 7))
    assert_any_number_of_threads_gives_the_same_bytes(adam.step, start)


def changed(column, value):
    numbers = list(AMSGRAD)
    numbers[column] = value
    return {"hyper": np.array([ADAM, numbers])}


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "lr must be >= 0 and finite, got -0.1 in group 1", changed(adam.LR, -0.1)),
        (ValueError, "beta1 must be >= 0 and < 1, got 1.0 in group 1", changed(adam.BETA1, 1)),
        (ValueError, "beta1 must be >= 0 and < 1, got -0.5", changed(adam.BETA1, -0.5)),
        (ValueError, "beta2 must be >= 0 and < 1, got nan", changed(adam.BETA2, np.nan)),
        (ValueError, "eps must be .* got -1e-08", changed(adam.EPS, -1e-8)),
        (ValueError, "weight_decay must be .* got -0.5", changed(adam.WEIGHT_DECAY, -0.5)),
        (ValueError, "decoupled must be 0 or 1, got 2.0", changed(adam.DECOUPLED, 2)),
        (ValueError, "amsgrad must be 0 or 1, got -1.0", changed(adam.AMSGRAD, -1)),
        (ValueError, "maximize must be 0 or 1, got 0.5", changed(adam.MAXIMIZE, 0.5)),
        (ValueError, "max_exp_avg_sq is None", {"max_exp_avg_sq": None}),
        (ValueError, r"exp_avg has shape \(3,\)", {"exp_avg": np.zeros(3, "f4")}),
        (TypeError, "exp_avg_sq has dtype float64", {"exp_avg_sq": np.zeros(128)}),
        (TypeError, "grad is list, not an array", {"grad": [0.0] * 128}),
        (ValueError, r"hyper must be .* \(rows, 8\)", {"hyper": np.zeros((1, 6))}),
    ],
)
def test_bad_input_is_an_error_and_nothing_is_changed(backend, error, message, change):
    segments = np.array([[0, 60, 1, 1, 0], [64, 64, 0, 1, 0]])
    names = ("param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    good: dict = {name: np.ones(128, "f4") for name in names}
    good |= {"segments": segments, "hyper": np.array([ADAM, AMSGRAD])}
    with pytest.raises(error, match=message):
        adam.step(**good | change)
    assert all(np.all(good[name] == 1) for name in names)
    assert np.all(segments[:, STEP] == 0)
    adam.step(**good)
    assert np.all(good["param"][64:] < 1)
    assert np.all(good["grad"] == 1)


@pytest.mark.parametrize(
    ("length", "dtype", "rows", "grids"),
    [
        (0, "f4", 0, (0, 0)),
        (4096, "f4", 256, (1, 1)),
        (4097, "f4", 257, (2, 2)),
        (2**31 - 1, "f8", 9, (2**20, 1)),
    ],
)
def test_a_block_steps_a_chunk_of_each_buffer(monkeypatch, length, dtype, rows, grids):
    launches = record_launches(monkeypatch)
    param = np.broadcast_to(np.zeros((), dtype), (length,))
    segments = np.zeros((rows, 5), np.int64)
    on_cuda.step(param, param, param, param, None, segments, np.array([ADAM]))
    assert [launch[:2] for launch in launches] == [
        ("adam_step_flat", grids[0]),
        ("adam_count_steps", grids[1]),
    ]
