"""Arrays walked as flat memory."""

import numpy as np

from convolt.kernels.cpu.flat import flat


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
