"""conv2d with residual, activation and moments: what the steps one by one give."""

import numpy as np
import pytest
from tolerance import assert_within

from convolt.kernels import batch_norm, conv2d, emulator
from convolt.kernels.arrays import dtype_of
from convolt.kernels.backend import use_backend
from convolt.kernels.conv2d import Conv2dSize

SIZES = {
    "3x3": ((2, 9, 7, 8), (16, 3, 3, 8), {"padding": 1}),
    "1x1, strided": ((3, 7, 6, 3), (5, 1, 1, 3), {"stride": 2}),
    "groups": ((1, 8, 9, 4), (6, 3, 3, 2), {"groups": 2, "dilation": 2}),
    "depthwise": ((2, 6, 6, 3), (3, 3, 3, 1), {"groups": 3}),
    "several tiles": ((5, 8, 9, 8), (72, 1, 1, 8), {}),
}
DTYPES = ["float32", "float64", "bfloat16"]


def draw(rng, name, dtype):
    x_shape, w_shape, options = SIZES[name]
    size = Conv2dSize.of(x_shape, w_shape, **options)
    shapes = x_shape, w_shape, (size.k,), size.y_shape
    x, w, bias, residual = (rng.standard_normal(s).astype(dtype_of(dtype)) for s in shapes)
    return x, w, bias, residual, size


def refused(backend, dtype, call):
    """Whether a backend has no such dtype, after a look that it says so."""
    if dtype != "bfloat16" or backend == "emulator":
        return False
    with pytest.raises(TypeError, match="dtype bfloat16"):
        call()
    return True


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIZES)
def test_residual_and_activation(backend, rng, nan_results, name, dtype):
    """Bit by bit what the plain convolution, the sum and the maximum give."""
    x, w, bias, residual, size = draw(rng, name, dtype)
    if refused(backend, dtype, lambda: conv2d.fprop(x, w, bias, size, residual, "relu")):
        return
    plain = conv2d.fprop(x, w, bias, size)
    with nan_results(conv2d):
        for added in (residual, None):
            for activation in ("relu", None):
                got = conv2d.fprop(x, w, bias, size, added, activation)
                real = np.float32 if dtype == "bfloat16" else dtype
                expected = plain.astype(real)
                expected = expected if added is None else expected + added.astype(real)
                expected = np.maximum(expected, 0) if activation else expected
                np.testing.assert_array_equal(got, expected.astype(got.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIZES)
def test_moments_are_those_of_the_result(backend, rng, nan_results, name, dtype):
    x, w, _, _, size = draw(rng, name, dtype)
    if refused(backend, dtype, lambda: conv2d.fprop_moments(x, w, size)):
        return
    with nan_results(conv2d):
        y, moments = conv2d.fprop_moments(x, w, size)
    np.testing.assert_array_equal(y, conv2d.fprop(x, w, None, size))
    values = y.reshape(-1, size.k).astype(np.float64)
    counts = moments.counts(len(values))
    assert counts.sum() == len(values)
    assert counts.min() > 0
    ends = np.cumsum(counts)
    for i, (end, count) in enumerate(zip(ends, counts, strict=True)):
        part = values[end - count : end]
        magnitude = np.abs(part).mean(axis=0)
        assert_within(moments.means[i], part.mean(axis=0), magnitude, count)
        square = ((np.abs(part) + magnitude) ** 2).sum(axis=0)
        assert_within(moments.squares[i], part.var(axis=0) * count, square, count)


def test_tensor_cores_leave_the_moments_on_the_way_out(rng):
    x, w, _, _, size = draw(rng, "3x3", "bfloat16")
    with use_backend("emulator"), emulator.record() as launches:
        y, moments = conv2d.fprop_moments(x, w, size)
        channels = (np.ones(16, np.float32),) * 2
        batch_norm.forward(y, *channels, None, None, 0.1, 1e-5, moments=moments)
    entries = [launch.entry for launch in launches]
    assert entries[0] in ("conv2d_fprop_mma", "conv2d_fprop_wgmma")
    assert entries[1:] == ["batch_norm_forward_combine", "batch_norm_forward_normalize"]


def test_an_empty_batch(backend):
    size = Conv2dSize.of((0, 4, 4, 2), (3, 1, 1, 2))
    x, w = np.empty(size.x_shape, np.float32), np.ones(size.w_shape, np.float32)
    y, moments = conv2d.fprop_moments(x, w, size)
    assert y.shape == conv2d.fprop(x, w, None, size, y, "relu").shape == (0, 4, 4, 3)
    assert moments.means.shape == moments.squares.shape == (0, 3)


def test_bad_input(backend, rng):
    x, w, bias, residual, size = draw(rng, "3x3", "float32")
    with pytest.raises(ValueError, match=r"residual has shape .*, expected \(2, 9, 7, 16\)"):
        conv2d.fprop(x, w, bias, size, residual[:1])
    with pytest.raises(TypeError, match="residual has dtype float64"):
        conv2d.fprop(x, w, bias, size, residual.astype(np.float64))
    with pytest.raises(ValueError, match="activation must be 'relu' or None, got 'elu'"):
        conv2d.fprop(x, w, bias, size, None, "elu")
    with pytest.raises(ValueError, match="x has shape"):
        conv2d.fprop_moments(x[:1], w, size)
    assert (conv2d.fprop(x, w, bias, size, residual, "relu") >= 0).all()
