"""layout: copies of strided memory; indexing: gathering and its gradient."""

import numpy as np
import pytest

from convolt.kernels import indexing, layout


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (2, 3, 0, 4), (3, 4, 5), (2, 3)])
def test_channels_last_is_the_same_memory_seen_from_the_other_side(backend, rng, shape):
    x = rng.standard_normal(shape)
    last = layout.channels_last(x)
    assert last.flags.c_contiguous
    assert last.shape == (shape[0], *shape[2:], shape[1])
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), x)
    public = layout.channels_first(last)
    assert np.shares_memory(public, last) or not public.size
    assert layout.channels_last(public) is not None
    if public.size > 1:
        assert np.shares_memory(layout.channels_last(public), last)  # nothing is copied twice


def test_copies_convert_and_keep_or_change_the_memory_order(backend, rng, nan_results):
    x = rng.standard_normal((4, 5, 6)).transpose(2, 0, 1)[::2]
    assert layout.copy(x).strides != layout.copy(x, order="C").strides
    with nan_results(layout):
        copies = layout.copy(x), layout.copy(x, order="C"), layout.contiguous(x)
        as_float32 = layout.cast(x, np.float32)
    for y in copies:
        assert not np.shares_memory(x, y)
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(as_float32, x.astype(np.float32))
    assert layout.cast(x, np.float64) is x
    assert layout.contiguous(y) is y


def test_fill_broadcasts_and_refuses_what_does_not_fit(backend):
    y = np.zeros((2, 3))
    layout.fill(y, np.arange(3))
    np.testing.assert_array_equal(y, [[0, 1, 2], [0, 1, 2]])
    with pytest.raises(ValueError, match=r"\(2,\) does not broadcast to \(2, 3\)"):
        layout.fill(y, np.arange(2))
    layout.fill(y, np.array(7.0))
    np.testing.assert_array_equal(y, np.full((2, 3), 7.0))


INDICES = [
    0,
    -1,
    slice(None, None, -1),
    (slice(1, None), 2),
    (Ellipsis, 1),
    (None, 0),
    np.array([0, 2, 0, 0]),
    [1, 1],
    (np.array([[0, 1], [1, 1]]), slice(None), 2),
    (slice(None), np.array([3, 0, 3])),
    np.arange(60).reshape(3, 4, 5) % 3 == 0,
    slice(3, 3),
]


@pytest.mark.parametrize("index", INDICES, ids=[repr(i)[:20] for i in INDICES])
def test_gradient_adds_up_over_all_places_that_picked_a_cell(backend, rng, nan_results, index):
    x = rng.standard_normal((3, 4, 5))
    grad_y = rng.integers(-9, 10, indexing.forward(x, index).shape).astype(np.float64)
    cells = indexing.forward(np.arange(x.size).reshape(x.shape), index)
    expected = np.zeros(x.size)
    for cell, g in zip(np.ravel(cells), np.ravel(grad_y), strict=True):
        expected[cell] += g
    with nan_results(indexing):
        grad_x = indexing.backward(grad_y, index, x.shape)
    np.testing.assert_array_equal(grad_x, expected.reshape(x.shape))


def test_an_index_out_of_range_is_refused(backend):
    with pytest.raises(IndexError):
        indexing.forward(np.ones(3), 3)
    with pytest.raises(IndexError):
        indexing.forward(np.ones(3), (0, 0))
