"""How kernels walk strided arrays: axes merged, packs found, on the host alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convolt.kernels.cuda.strided import AXES, Strided, merged


def aligned(*shape, dtype=np.float32, offset=0):
    """An array that starts ``offset`` elements after a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) + offset
    memory = np.empty(size * dtype.itemsize + 64, np.uint8)
    first = -memory.ctypes.data % 64
    memory = memory[first : first + size * dtype.itemsize].view(dtype)
    return memory[offset:].reshape(shape)


def test_contiguous_arrays_are_one_axis_in_packs_of_16_bytes():
    for dtype, pack in ((np.float32, 4), (np.float64, 2), (np.uint8, 8)):
        x = aligned(3, 5, 7, dtype=dtype)
        size = Strided.of(x, x)
        assert (size.axes, size.shape[0], size.packed) == (1, 105, True)
        assert size.threads == -(-105 // pack)
        assert size.y[0] == size.a[0] == 1
        assert not any(size.b + size.c + size.y[1:] + size.shape[1:])


def test_the_order_of_axes_is_that_of_memory():
    x = aligned(2, 5, 6, 8).transpose(0, 3, 1, 2)
    assert Strided.of(x, x).axes == 1
    scale = aligned(8, 1, 1)
    size = Strided.of(x, x, scale)
    assert size.axes == 2
    assert size.shape[:2] == (8, 60)
    assert (size.y[:2], size.a[:2], size.b[:2]) == ((1, 8), (1, 8), (1, 0))
    assert size.packed  # 8 channels are two packs


def test_the_widest_type_sets_the_pack():
    y, condition, a = aligned(32, dtype=np.float64), aligned(32, dtype=bool), aligned(32)
    assert Strided.of(y, condition, a).threads == 16


@pytest.mark.parametrize(
    ("y", "x", "packed"),
    [
        (aligned(9), aligned(9), True),  # the end is not a whole pack
        (aligned(9), aligned(9, offset=1), False),
        (aligned(9, offset=4), aligned(9), True),
        (aligned(9), aligned(1), True),  # one element, again and again
        (aligned(9), aligned(1, offset=1), True),
        (aligned(9), aligned(18)[::2], False),
        (aligned(9), aligned(9)[::-1], False),
        (aligned(3, 8), aligned(3, 12)[:, 4:], True),
        (aligned(3, 8), aligned(3, 12)[:, 1:9], False),
        (aligned(3, 8), aligned(3, 9)[:, :8], False),
        (aligned(3, 6), aligned(3, 8)[:, :6], False),
        (aligned(3, 8), aligned(3, 1), True),
        (aligned(3, 8), aligned(8, 3).T, False),
        (aligned(16)[::2], aligned(8), False),
    ],
)
def test_packs_are_aligned_neighbours(y, x, packed):
    size = Strided.of(y, x)
    assert size.packed == packed
    assert size.threads == (-(-y.size // 4) if packed else y.size)


def test_scalars_and_empty_arrays():
    size = Strided.of(np.empty(()), np.empty(()))
    assert (size.count, size.axes, size.threads) == (1, 1, 1)
    assert Strided.of(np.empty((0, 3)), np.empty(3)).threads == 0
    assert Strided.of(np.empty((3, 0, 2)), np.empty((3, 0, 2))[:, :, ::-1]).threads == 0


@given(st.data())
def test_merged_axes_walk_the_same_elements(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axes = data.draw(st.permutations(range(len(shape))))
    arrays = []
    for _ in range(3):
        x = np.arange(np.prod(shape)).reshape([shape[i] for i in axes]).transpose(np.argsort(axes))
        cut = tuple(slice(None, None, data.draw(st.sampled_from([1, -1]))) for _ in shape)
        arrays.append(x[cut])
    steps = tuple(tuple(s // x.itemsize for s in x.strides) for x in arrays)
    lengths, walked = merged(shape, steps)

    def places(shape, steps):
        cells = itertools.product(*map(range, shape))
        return {tuple(np.dot(cell, s) for s in steps) for cell in cells}

    assert places(lengths, walked) == places(shape, steps)
    assert len(lengths) <= max(sum(n != 1 for n in shape), 1)


def test_what_cannot_be_walked_is_refused():
    huge = np.broadcast_to(np.float32(0), (2**16, 2**16))
    with pytest.raises(ValueError, match="more than an int32 index can count"):
        Strided.of(huge, huge)
    many = np.empty((2,) * (AXES + 1))
    Strided.of(many, many)
    with pytest.raises(ValueError, match=f"{AXES + 1} axes that cannot be merged"):
        Strided.of(many, many.T)
    records = np.zeros(3, [("a", "f4"), ("b", "u1")])["a"]
    with pytest.raises(ValueError, match="not multiples of 4 bytes"):
        Strided.of(np.empty(3, np.float32), records)
