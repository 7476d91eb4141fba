"""Arrays walked as flat memory."""

import numpy as np

from convolt.kernels.arrays import memory_order
from convolt.kernels.cpu.flat import flat, lie_alike


def test_arrays_are_views_where_memory_is_in_the_order_of_the_result(rng):
    result = np.empty((2, 3, 4, 5)).transpose(0, 3, 1, 2)
    same = rng.standard_normal((2, 3, 4, 5)).transpose(0, 3, 1, 2)
    other = rng.standard_normal((2, 5, 3, 4))
    once = np.broadcast_to(rng.standard_normal(()), result.shape)
    y, *others = flat(result, same, other, once)
    assert np.shares_memory(y, result)
    assert np.shares_memory(others[0], same)
    for found, array in zip(others, (same, other, once), strict=True):
        np.testing.assert_array_equal(found, array.transpose(0, 2, 3, 1).ravel())


def test_arrays_that_lie_alike_are_dense_and_of_one_order():
    y = np.empty((2, 3, 4, 5)).transpose(0, 3, 1, 2)
    assert lie_alike(y, y.copy("K"), y.astype(np.float32))
    for other in (np.empty(y.shape), np.empty((2, 5, 3, 8))[..., ::2], y[:1], y[:, ::-1]):
        assert not lie_alike(y, other)
    assert not lie_alike(y[:, ::2], y[:, ::2])  # gaps


def test_memory_order_is_that_of_numpys_dense_arrays():
    dense = np.empty((2, 1, 4, 5)).transpose(2, 3, 1, 0)
    assert dense.transpose(memory_order(dense)).flags.c_contiguous
    nothing = np.empty((2, 0, 4))[:, :, ::2]
    assert nothing.transpose(memory_order(nothing)).flags.c_contiguous
    for gaps in (dense[::2], dense[:, :2], np.broadcast_to(1.0, (2, 3)), dense[::-1]):
        assert memory_order(gaps) == tuple(range(gaps.ndim))
