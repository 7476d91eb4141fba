"""Which arrays fall into packs of 16 bytes."""

import ml_dtypes
import numpy as np
import pytest

from convolt.kernels.cuda.packs import pack_length, packable


def aligned(size, dtype):
    """An array that begins at a multiple of 64 bytes."""
    memory = np.empty(size * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start:][: size * np.dtype(dtype).itemsize].view(dtype)


@pytest.mark.parametrize(
    ("dtype", "length"), [(np.float32, 4), (np.float64, 2), (ml_dtypes.bfloat16, 8)]
)
def test_lines_must_be_whole_packs(dtype, length):
    x = aligned(64, dtype)
    assert (pack_length(x, True), pack_length(x, False)) == (length, 1)
    assert packable(length, x)
    assert packable(3 * length, x)
    assert not packable(length + 1, x)
    assert not packable(length // 2, x)


def test_every_array_must_begin_at_a_multiple_of_its_pack():
    x, argmax = aligned(64, np.float32), aligned(64, np.uint8)
    assert packable(8, x, argmax[4:])  # 4 bytes to the 4 elements of a pack
    assert not packable(8, x, argmax[2:])
    assert not packable(8, x[1:], argmax)
    assert packable(8, x[4:], argmax)
