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

from convolt.kernels import sgd
from convolt.kernels.backend import use_backend
from convolt.kernels.segments import CHUNK, CHUNK_BYTES, STEP
from convolt.kernels.sgd import on_cuda

PLAIN = [0.1, 0, 0, 0, 0, 0]
DECAYED = [0.1, 0, 0, 0.04, 0, 1]
MOMENTUM = [0.05, 0.9, 0, 0.01, 0, 0]
DAMPENED = [0.05, 0.8, 0.3, 0.02, 0, 1]
NESTEROV = [0.02, 0.7, 0, 0.03, 1, 0]


def problem(rng, dtype, sizes=(13, 1, 64, 257, 5, 31), groups=(0, 1, 2, 3, 1, 2)):
    """Every group; the fifth parameter is inactive, the second and third have taken no step."""
    count = len(sizes)
    active, steps = np.ones(count, int), np.full(count, 4)
    active[4], steps[1], steps[2] = 0, 0, 0
    segments, length = table(sizes, groups, active, steps, dtype)
    param, grad, b = (buffer(segments, length, dtype, rng.standard_normal) for _ in range(3))
    for start, size, _, _, taken in segments:
        if taken == 0:
            b[start : start + size] = np.nan  # the first step must not read it
    return param, grad, b, segments, np.array([DECAYED, MOMENTUM, DAMPENED, NESTEROV])


def scalar_step(w, g, b, first, numbers):
    """The equations for one element; also what they give for absolute values."""
    lr, momentum, dampening, weight_decay, nesterov, maximize = numbers
    d = (-g if maximize else g) + weight_decay * w
    d_size = abs(g) + weight_decay * abs(w)
    step, step_size, b_size = d, d_size, 0.0
    if momentum:
        b_size = d_size if first else momentum * abs(b) + (1 - dampening) * d_size
        b = d if first else momentum * b + (1 - dampening) * d
        step = d + momentum * b if nesterov else b
        step_size = d_size + momentum * b_size if nesterov else b_size
    return w - lr * step, abs(w) + lr * step_size, b, b_size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_step_is_the_definition(backend, rng, dtype):
    param, grad, b, segments, hyper = problem(rng, dtype)
    w_ref, w_size, b_ref, b_size = (np.full(param.size, np.nan) for _ in range(4))
    for start, size, group, active, taken in segments:
        if active:
            for i in range(start, start + size):
                w_ref[i], w_size[i], b_ref[i], b_size[i] = scalar_step(
                    float(param[i]), float(grad[i]), float(b[i]), taken == 0, hyper[group]
                )
    sgd.step(param, grad, b, segments, hyper)
    # At most 8 roundings, those of the hyper-parameters included, on the way to an element.
    stepped = ~np.isnan(w_ref)
    assert_within(param[stepped], w_ref[stepped], w_size[stepped], 8)
    with_momentum = ~np.isnan(w_ref) & (b_size > 0)
    assert_within(b[with_momentum], b_ref[with_momentum], b_size[with_momentum], 8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_active_segments_are_touched(backend, rng, dtype):
    assert_only_active_segments_change(sgd.step, problem(rng, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backends_agree_on_long_parameters(backend, rng, dtype):
    # The sizes cross the chunks, of threads and of blocks.
    block = CHUNK_BYTES // np.dtype(dtype).itemsize
    sizes = (CHUNK, CHUNK + 1, 3 * CHUNK + 17, 2, 0, block - 1)
    start = problem(rng, dtype, sizes)
    got = after_steps(sgd.step, start, 2)
    with use_backend("numpy"):
        ref = after_steps(sgd.step, start, 2)
    if backend == "numba":  # rounds after every operation, in the same order
        assert [array.tobytes() for array in got] == [array.tobytes() for array in ref]
    assert np.array_equal(got[-2], ref[-2])
    stepped = ~in_gap(start[-2], start[0].size)
    for got_buffer, ref_buffer in zip(got[:3], ref[:3], strict=True):
        expected = ref_buffer[stepped].astype(np.float64)
        assert_within(got_buffer[stepped], expected, np.abs(expected) + 1, 8)


def test_more_parameters_than_threads(backend, rng):
    """Tiny ones, in no order of memory, and none at all where one is empty."""
    sizes = rng.integers(0, 70, 600).tolist()
    segments, length = table(sizes, [0] * 600, rng.integers(0, 2, 600), [3] * 600, np.float32)
    segments = segments[rng.permutation(600)]
    draw = lambda size: rng.integers(-9, 10, size)  # noqa: E731
    param, grad, b = (buffer(segments, length, np.float32, draw) for _ in range(3))
    expected_b, expected = b.copy(), param.copy()
    for start, size in segments[segments[:, 3] == 1, :2]:
        here = slice(start, start + size)
        expected_b[here] = 2 * b[here] + grad[here]
        expected[here] -= 4 * expected_b[here]
    sgd.step(param, grad, b, segments, np.array([[4.0, 2, 0, 0, 0, 0]]))
    assert param.tobytes() == expected.tobytes()
    assert b.tobytes() == expected_b.tobytes()
    assert np.array_equal(segments[:, STEP], 3 + segments[:, 3])


@pytest.mark.parametrize("first", [0, 1])
def test_an_empty_parameter_may_lie_where_another_starts(backend, first):
    rows = [[64, 0, 1, 1, 0], [64, 5, 0, 1, 0]]
    segments = np.array([rows[first], rows[1 - first]])
    param = np.ones(128, np.float32)
    hyper = np.array([PLAIN, [0.5, 0, 0, 0, 0, 0]])
    sgd.step(param, np.ones_like(param), None, segments, hyper)
    assert np.flatnonzero(param != 1).tolist() == [64, 65, 66, 67, 68]
    assert np.all(param[64:69] == np.float32(1) - np.float32(0.1))


def test_bfloat16_is_stepped_in_float32(backend, rng):
    param, grad, b, segments, hyper = problem(rng, ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match="sgd: param has dtype bfloat16"):
            sgd.step(param, grad, b, segments, hyper)
        return
    wide = [array.astype(np.float32) for array in (param, grad, b)]
    rows = segments.copy()
    assert_only_active_segments_change(sgd.step, (param, grad, b, segments, hyper))
    sgd.step(param, grad, b, segments, hyper)
    # The table's starts are multiples of 128 elements: 256 bytes of bfloat16, 512 of float32.
    with use_backend("numpy"):
        sgd.step(*wide, rows, hyper)
    stepped = ~in_gap(segments, param.size)
    for got, ref in zip((param, b), (wide[0], wide[2]), strict=True):
        ref = ref[stepped].astype(np.float64)
        known = ~np.isnan(ref)  # the inactive parameter's
        assert_within(got[stepped][known], ref[known], np.abs(ref[known]) + 1, 8)


def test_buffers_at_any_address(backend, rng):
    """Kernels that move packs of 16 bytes get none here."""
    start = problem(rng, np.float32)
    shifted = [np.empty(array.size + 1, array.dtype)[1:] for array in start[:3]]
    for here, there in zip(shifted, start, strict=False):
        here[:] = there
    expected = after_steps(sgd.step, start)
    rows = start[3].copy()
    sgd.step(*shifted, rows, start[4])
    for got, ref in zip((*shifted, rows), expected, strict=False):
        assert got.tobytes() == ref.tobytes()


def test_integers_are_exact(backend):
    segments, length = table([5], [0], [1], [1], np.float32)
    param, grad, b = (buffer(segments, length, np.float32, np.arange) for _ in range(3))
    sgd.step(param, grad, b, segments, np.array([[2.0, 3, 0, 4, 1, 0]]))
    d = np.arange(5) + 4 * np.arange(5)
    new_b = 3 * np.arange(5) + d
    here = slice(segments[0, 0], segments[0, 0] + 5)
    assert np.array_equal(b[here], new_b)
    assert np.array_equal(param[here], np.arange(5) - 2 * (d + 3 * new_b))


def test_without_momentum_no_buffer_is_needed(backend, rng):
    param, grad, b, segments, _ = problem(rng, np.float32, groups=[0] * 6)
    expected, twin = param.copy(), segments.copy()
    hyper = np.array([[0.1, 0, 0, 0.2, 0, 1]])
    sgd.step(expected, grad, b, twin, hyper)
    sgd.step(param, grad, None, segments, hyper)
    assert param.tobytes() == expected.tobytes()
    assert np.array_equal(segments, twin)


def test_infinite_weights_are_not_decayed_to_nan_by_a_decay_of_zero(backend):
    segments, length = table([2], [0], [1], [0], np.float64)
    param, grad = (buffer(segments, length, np.float64, np.ones) for _ in range(2))
    start = segments[0, 0]
    param[start] = np.inf
    sgd.step(param, grad, None, segments, np.array([PLAIN]))
    assert param[start : start + 2].tolist() == [np.inf, 0.9]


def test_nothing_to_do(backend):
    param = np.full(64, np.nan, np.float32)
    sgd.step(param, param.copy(), None, np.empty((0, 5), np.int64), np.array([PLAIN]))
    sgd.step(param[:0], param[:0], None, np.empty((0, 5), np.int64), np.empty((0, 6)))
    assert np.isnan(param).all()


def test_any_number_of_threads_gives_the_same_bytes(rng):
    start = problem(rng, np.float32, (CHUNK * 5 + 3, 100, CHUNK, 1, 1, 7))
    assert_any_number_of_threads_gives_the_same_bytes(sgd.step, start)


def changed(column, value):
    numbers = list(NESTEROV)
    numbers[column] = value
    return {"hyper": np.array([PLAIN, numbers])}


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "lr must be >= 0 and finite, got -0.1 in group 1", changed(sgd.LR, -0.1)),
        (ValueError, "lr must be >= 0 and finite, got nan", changed(sgd.LR, np.nan)),
        (ValueError, "momentum must be .* got -1.0 in group 1", changed(sgd.MOMENTUM, -1)),
        (ValueError, "dampening must be finite, got inf", changed(sgd.DAMPENING, np.inf)),
        (ValueError, "weight_decay must be .* got -0.5", changed(sgd.WEIGHT_DECAY, -0.5)),
        (ValueError, "maximize must be 0 or 1, got 2.0", changed(sgd.MAXIMIZE, 2)),
        (ValueError, "nesterov must be 0 or 1, got 0.5", changed(sgd.NESTEROV, 0.5)),
        (ValueError, "nesterov needs .* momentum 0.0", changed(sgd.MOMENTUM, 0)),
        (ValueError, "nesterov needs .* dampening 0.1", changed(sgd.DAMPENING, 0.1)),
        (ValueError, "momentum_buffer is None", {"momentum_buffer": None}),
        (ValueError, r"grad has shape \(3,\), expected \(128,\)", {"grad": np.zeros(3, "f4")}),
        (ValueError, r"shape \(2, 64\)", {"grad": np.zeros((2, 64), "f4")}),
        (ValueError, "not C-contiguous", {"grad": np.zeros(256, "f4")[::2]}),
        (TypeError, "grad has dtype float64 but param has float32", {"grad": np.zeros(128)}),
        (TypeError, "param has dtype int64", {"param": np.zeros(128, np.int64)}),
        (TypeError, "segments must be an array of int64", {"segments": np.zeros((1, 5), "i4")}),
        (ValueError, r"segments must be .* \(rows, 5\)", {"segments": np.zeros((1, 4), "i8")}),
        (TypeError, "hyper must be an array of float64", {"hyper": np.zeros((1, 6), "f4")}),
        (ValueError, r"hyper must be .* \(rows, 6\)", {"hyper": np.zeros((1, 8))}),
    ],
)
def test_bad_input_is_an_error_and_nothing_is_changed(backend, error, message, change):
    segments = np.array([[0, 60, 1, 1, 0], [64, 64, 0, 1, 0]])
    good = {"param": np.ones(128, "f4"), "grad": np.ones(128, "f4")}
    good |= {"momentum_buffer": np.ones(128, "f4"), "segments": segments}
    good |= {"hyper": np.array([PLAIN, NESTEROV])}
    with pytest.raises(error, match=message):
        sgd.step(**good | change)
    assert np.all(good["param"] == 1)
    assert np.all(segments[:, STEP] == 0)
    sgd.step(**good)
    assert good["param"][64] == np.float32(1) - np.float32(0.1)


@pytest.mark.parametrize(
    ("length", "dtype", "rows", "grids"),
    [
        (0, "f4", 0, (0, 0)),
        (1, "f4", 1, (1, 1)),
        (4096, "f4", 256, (1, 1)),
        (4097, "f4", 257, (2, 2)),
        (2049, "f8", 9, (2, 1)),
        (2**31 - 1, "f8", 9, (2**20, 1)),
    ],
)
def test_a_block_steps_a_chunk_of_each_buffer(monkeypatch, length, dtype, rows, grids):
    launches = record_launches(monkeypatch)
    param = np.broadcast_to(np.zeros((), dtype), (length,))
    on_cuda.step(param, param, None, np.zeros((rows, 5), np.int64), np.array([PLAIN]))
    assert [launch[:2] for launch in launches] == [
        ("sgd_step_flat", grids[0]),
        ("sgd_count_steps", grids[1]),
    ]
