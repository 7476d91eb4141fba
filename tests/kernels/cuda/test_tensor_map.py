"""Tensor maps: what they refuse, and what the emulator's encoding says. TMA itself: test_ptx.py."""

import numpy as np
import pytest

from convolt.kernels.cuda import tensor_map


def image(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: tensor_map.tiled(image(8, 8, dtype=np.int32), (4, 4)), TypeError, "dtype"),
        (lambda: tensor_map.tiled(image(16), (4,)), ValueError, "2 to 4 axes"),
        (lambda: tensor_map.tiled(image(0, 8), (4, 4)), ValueError, "none empty"),
        (lambda: tensor_map.tiled(image(8, 7), (4, 4)), ValueError, "pad the last axis"),
        (lambda: tensor_map.tiled(image(8, 8).T, (4, 4)), ValueError, "contiguous"),
        (lambda: tensor_map.tiled(image(8, 12)[:, 1:9], (4, 4)), ValueError, "start on"),
        (lambda: tensor_map.tiled(image(8, 8), (4,)), ValueError, "2 sizes"),
        (lambda: tensor_map.tiled(image(8, 8), (4, 257)), ValueError, "1 to 256"),
        (lambda: tensor_map.tiled(image(8, 8), (4, 3)), ValueError, "12 bytes"),
        (
            lambda: tensor_map.tiled(image(8, 64), (4, 64), swizzle_bytes=128),
            ValueError,
            "at most the swizzle's 128",
        ),
        (lambda: tensor_map.tiled(image(8, 8), (4, 4), swizzle_bytes=16), ValueError, "swizzle"),
        (lambda: pixels(image(8, 8), 8), ValueError, "N H W C"),
        (lambda: pixels(image(1, 8, 8, 8), 8, pixels=1025), ValueError, "1025 pixels"),
        (lambda: pixels(image(1, 8, 8, 8), 8, lower=(-129, 0)), ValueError, "-128..127"),
        (lambda: pixels(image(1, 8, 8, 8), 8, stride=(9, 1)), ValueError, "stride"),
        (lambda: pixels(image(1, 8, 8, 8), 3), ValueError, "12 bytes"),
    ],
)
def test_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()


def pixels(array, channels, pixels=16, lower=(0, 0), upper=(0, 0), **options):
    return tensor_map.im2col(array, channels, pixels, lower=lower, upper=upper, **options)


def test_extent_is_the_array():
    whole = image(6, 5, 8)
    part = whole[1:5, ::2, :4]
    begin, end = tensor_map.extent(tensor_map.tiled(part, (2, 2, 4)).opaque)
    assert (begin, end) == np.lib.array_utils.byte_bounds(part)


def test_map_keeps_its_array():
    array = image(8, 8)
    map_ = tensor_map.tiled(array, (4, 4))
    assert map_.array is array
    assert map_.opaque.shape == (16,)
    assert map_.opaque.dtype == np.uint64
