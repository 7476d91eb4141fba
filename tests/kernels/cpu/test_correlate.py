"""Convolution and matrix products over register tiles: phases, and bits for any thread count."""

import os
import subprocess
import sys

import numpy as np
import pytest

from convolt.kernels import conv2d, linear
from convolt.kernels.backend import use_backend
from convolt.kernels.conv2d.phases import NONE, blocks, dgrad_phases, fprop_phases
from convolt.kernels.cpu import thread_count


def reads(phases, length, outputs):
    """Return the sorted (input, tap) pairs of every output of an axis."""
    found = {}
    for phase in phases:
        for run in phase.runs(length):
            for u in range(run.first, run.first + run.count):
                for i in range(run.outputs):
                    output = phase.first + u * phase.step + i
                    assert output not in found
                    found[output] = sorted(
                        (u * phase.in_step + phase.offsets[j], phase.taps[i][j])
                        for j in range(run.lo, run.hi)
                        if phase.taps[i][j] != NONE
                    )
    assert set(found) == set(range(outputs))
    return found


def test_phases_read_what_the_equation_reads(rng):
    for _ in range(300):
        length, taps, stride, pad, dilation, size = (
            int(rng.integers(*limits))
            for limits in ((1, 20), (1, 6), (1, 5), (0, 5), (1, 4), (1, 7))
        )
        outputs = (length + 2 * pad - (taps - 1) * dilation - 1) // stride + 1
        if outputs < 1:
            continue
        pairs = [
            (p, p * stride - pad + r * dilation, r)
            for p in range(outputs)
            for r in range(taps)
            if 0 <= p * stride - pad + r * dilation < length
        ]
        forward = {p: sorted((i, r) for q, i, r in pairs if q == p) for p in range(outputs)}
        backward = {i: sorted((p, r) for p, j, r in pairs if j == i) for i in range(length)}
        phases = fprop_phases(outputs, taps, stride, pad, dilation)
        assert reads(phases, length, outputs) == forward
        assert reads((blocks(phases, outputs, size),), length, outputs) == forward
        phases = dgrad_phases(length, taps, stride, pad, dilation)
        assert reads(phases, outputs, length) == backward
        assert reads((blocks(phases, length, size * stride),), outputs, length) == backward


def results(dtype):
    """Return the bytes of convolutions that take every path, and of matrix products."""
    rng = np.random.default_rng(3)
    found = []
    for x_shape, w_shape, window in (
        ((16, 28, 28, 20), (50, 5, 5, 20), {"padding": 2}),
        ((3, 31, 29, 3), (33, 7, 7, 3), {"padding": 3, "stride": 2}),  # few channels
        ((2, 15, 17, 96), (80, 3, 3, 96), {"padding": 2, "dilation": 2}),
        ((2, 14, 14, 64), (1024, 1, 1, 64), {}),  # filters beyond the second cache
        ((5, 13, 13, 24), (36, 3, 3, 2), {"groups": 12}),
        ((4, 19, 19, 32), (32, 3, 3, 1), {"groups": 32, "stride": 2, "padding": 1}),
    ):
        size = conv2d.Conv2dSize.of(x_shape, w_shape, **window)
        x, w, grad_y, bias = (
            rng.standard_normal(shape).astype(dtype)
            for shape in (x_shape, w_shape, size.y_shape, size.k)
        )
        found += [
            conv2d.fprop(x, w, bias, size),
            conv2d.dgrad(grad_y, w, size),
            conv2d.wgrad(grad_y, x, size),
        ]
    a, b = rng.standard_normal((2, 300, 3001)).astype(dtype)
    found += [linear.fprop(a, b, None), linear.dgrad(a[:, :300].copy(), b), linear.wgrad(a, b)]
    return [array.tobytes() for array in found]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_bit_depends_on_the_number_of_threads(dtype):
    before = thread_count.get_num_threads()
    try:
        with use_backend("numba"):
            thread_count.set_num_threads(1)
            expected = results(dtype)
            for threads in (2, 3, 7):
                thread_count.set_num_threads(threads)
                for _ in range(3):
                    assert results(dtype) == expected
    finally:
        thread_count.set_num_threads(before)


GUARDED = """
import ctypes, mmap
import numpy as np
from convolt.kernels import conv2d, linear
from convolt.kernels.backend import use_backend

def before_a_guard(values):
    pages = -(-max(values.nbytes, 1) // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    guard = ctypes.c_void_p(start + pages * mmap.PAGESIZE)
    assert libc.mprotect(guard, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    first = pages * mmap.PAGESIZE - values.nbytes
    array = np.frombuffer(memory, values.dtype, values.size, first).reshape(values.shape)
    array[...] = values
    return array

rng = np.random.default_rng(0)
shapes = [((2, 5, 7, 3), (5, 3, 3, 3), 1), ((1, 9, 9, 20), (33, 3, 3, 20), 1)]
shapes += [((2, 4, 4, 17), (17, 3, 3, 1), 17), ((1, 3, 3, 1), (1, 2, 2, 1), 1)]
shapes += [((1, 5, 5, 10), (6, 3, 3, 5), 2), ((3, 1, 1, 50), (70, 1, 1, 50), 1)]
with use_backend("numba"):
    for dtype in (np.float32, np.float64):
        for x_shape, w_shape, groups in shapes:
            size = conv2d.Conv2dSize.of(x_shape, w_shape, padding=w_shape[1] // 2, groups=groups)
            given = (x_shape, w_shape, size.y_shape, (size.k,))
            plain = [rng.standard_normal(shape).astype(dtype) for shape in given]
            results = []
            for x, w, grad_y, bias in (plain, [before_a_guard(a) for a in plain]):
                results.append((conv2d.fprop(x, w, bias, size), conv2d.dgrad(grad_y, w, size)))
                results[-1] += (conv2d.wgrad(grad_y, x, size),)
            for one, other in zip(*results):
                assert one.tobytes() == other.tobytes()
print("read nothing beyond")
"""


def test_nothing_is_read_beyond_an_array():
    environment = os.environ | {"CONVOLT_BACKEND": "numba"}
    command = [sys.executable, "-c", GUARDED]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.stdout == "read nothing beyond\n", result.stderr


def test_infinities_and_nans_are_results_not_warnings(backend):
    size = conv2d.Conv2dSize.of((1, 3, 3, 1), (1, 3, 3, 1))
    x, w = np.full(size.x_shape, np.inf), np.zeros(size.w_shape)
    assert np.isnan(conv2d.fprop(x, w, None, size)).all()
    assert np.isnan(linear.fprop(np.full((2, 3), np.inf), np.zeros((4, 3)), None)).all()
    huge = np.full((2, 3), 1e30, np.float32)
    assert np.isinf(linear.fprop(huge, huge, None)).all()


@pytest.mark.parametrize("stride", [17, (31, 1)])
def test_pixels_that_no_tap_touches_are_zero(backend, stride):
    size = conv2d.Conv2dSize.of((2, 40, 37, 3), (4, 2, 2, 3), stride=stride)
    grad_x = conv2d.dgrad(np.ones(size.y_shape), np.ones(size.w_shape), size)
    touched = np.zeros(size.x_shape)
    for p in range(size.p):
        for q in range(size.q):
            i, j = p * size.stride_h, q * size.stride_w
            touched[:, i : i + 2, j : j + 2] += 4
    np.testing.assert_array_equal(grad_x, touched)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "groups"),
    [
        ((1, 8, 8, 3), (4, 3, 3, 3), 1),
        ((1, 6, 6, 8), (8, 3, 3, 2), 4),
        ((1, 8, 8, 6), (6, 5, 5, 6), 1),
    ],
)
def test_an_infinity_reaches_every_output_that_reads_it(backend, x_shape, w_shape, groups):
    size = conv2d.Conv2dSize.of(x_shape, w_shape, groups=groups)
    x, w = np.ones(x_shape), np.ones(w_shape)
    x[0, 3, 4, 1] = np.inf
    with use_backend("numpy"):
        reads = conv2d.fprop(np.isinf(x) + 0.0, w, None, size) > 0
    y = conv2d.fprop(x, w, None, size)
    assert reads.any()
    assert not np.isfinite(y[reads]).any()
    assert not np.isposinf(y[~reads]).any()
