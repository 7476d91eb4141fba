"""layout: copies of strided memory; indexing: gathering and its gradient."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threads import results_by_threads

from convolt.kernels import indexing, layout
from convolt.kernels.backend import use_backend
from convolt.kernels.cpu import memory, streaming
from convolt.kernels.layout import on_numba
from convolt.kernels.layout.on_cuda import pitch, tile, transposed_of


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 16, 8, 16), (2, 64, 20, 12), (2, 160, 16, 7), (2, 32, 9, 9)])
def test_streaming_stores_give_the_same_bytes(monkeypatch, rng, shape, dtype):
    """Rows of whole lines and others, several blocks down and across, what fills no line."""
    monkeypatch.setattr(streaming, "last_cache_bytes", lambda: 0)
    x = rng.standard_normal(shape).astype(dtype)
    other = np.float64 if dtype == np.float32 else np.float32
    odd = x.reshape(-1)[: x.size - 3]

    def copies():
        last = layout.channels_last(x)
        first = layout.contiguous(layout.channels_first(last))
        return [a.tobytes() for a in (last, first, layout.cast(odd, other))]

    with use_backend("numba"):
        results = results_by_threads(copies)
    expected = (np.moveaxis(x, 1, -1), x, odd.astype(other))
    assert results == [[a.tobytes() for a in expected]] * len(results)


def test_only_whole_lines_of_large_results_are_streamed(monkeypatch):
    lines = memory.empty((64, 32), np.dtype(np.float32))
    assert not streaming.streams(lines)
    monkeypatch.setattr(streaming, "last_cache_bytes", lambda: 0)
    assert streaming.streams(lines)
    assert not streaming.streams(lines[:, 1:])
    assert not streaming.streams(memory.empty((64, 34), lines.dtype))


SHAPE = (3, 4, 5, 67)


@pytest.mark.parametrize("dtype", [np.uint8, ml_dtypes.bfloat16, np.float32, np.float64])
def test_copies_between_all_orders_of_memory(backend, rng, nan_results, dtype):
    """Of elements of 1, 2, 4 and 8 bytes: direct, or in tiles through shared memory."""
    values = rng.integers(0, 250, SHAPE).astype(dtype)
    for axes in itertools.permutations(range(4)):
        x = np.ascontiguousarray(values.transpose(axes)).transpose(np.argsort(axes).tolist())
        with nan_results(layout):
            np.testing.assert_array_equal(layout.contiguous(x), values)
        y = np.full_like(values, 251).transpose(axes)[:, ::-1]
        layout.fill(y, values.transpose(axes)[:, ::-1])
        np.testing.assert_array_equal(y, values.transpose(axes)[:, ::-1])
    y = np.full((2, *SHAPE), 251, dtype)
    layout.fill(y.transpose(0, 1, 3, 4, 2), values.transpose(0, 2, 3, 1)[None])  # broadcast
    np.testing.assert_array_equal(y, np.broadcast_to(values, y.shape))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 31, 32, 33, 65])
@pytest.mark.parametrize("pixels", [(1, 1), (1, 2), (5, 7), (8, 32), (41, 50)])
def test_any_number_of_channels_and_pixels(backend, rng, nan_results, channels, pixels):
    x = rng.standard_normal((2, channels, *pixels)).astype(np.float32)
    with nan_results(layout):
        last = layout.channels_last(x)
        first = layout.contiguous(layout.channels_first(last))
    np.testing.assert_array_equal(last, x.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(first, x)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 33, 5, 7), (1, 16, 16, 16), (3, 1, 130, 40), (5, 19, 1, 1)])
def test_matrices_transposed_in_registers(rng, monkeypatch, dtype, shape):
    monkeypatch.setattr(on_numba, "SMALL", 0)
    values = rng.integers(0, 250, shape).astype(dtype)
    with use_backend("numba"):
        for axes in itertools.permutations(range(4)):
            x = np.ascontiguousarray(values.transpose(axes)).transpose(np.argsort(axes).tolist())
            for source in (x, x[::-1, ::2], np.flip(x), np.broadcast_to(x[:1], x.shape)):
                for y in (np.zeros_like(source, order="C"), np.zeros_like(values).T[::-1].T):
                    if y.shape == source.shape:
                        layout.fill(y, source)
                        np.testing.assert_array_equal(y, source)
            for other in (np.float32, np.float64):
                np.testing.assert_array_equal(layout.copy(x, other), x.astype(other))


TYPES = ["bool", "uint8", "int32", "int64", "float32", "float64", "bfloat16"]


@pytest.mark.parametrize("target", TYPES)
def test_conversions(backend, rng, nan_results, target):
    target = np.dtype(getattr(ml_dtypes, target, target))
    for source in TYPES:
        source = np.dtype(getattr(ml_dtypes, source, source))
        x = rng.integers(0, 100, (6, 20)).astype(source)
        if source.kind in "fV" and target.kind in "fV":
            x = (rng.standard_normal((6, 20)) * 1e3).astype(source)
        for view in (x, x.T, x[::-1, 3:]):
            with nan_results(layout):
                y = layout.copy(view, target)
            assert y.dtype == target
            np.testing.assert_array_equal(y, view.astype(target))


def test_bfloat16_rounds_to_even_and_keeps_special_values(backend):
    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, 1e-40], np.float32)
    x = np.concatenate([x, -x, [np.inf, -np.inf, np.nan, -0.0]]).astype(np.float32)
    y = layout.cast(x, ml_dtypes.bfloat16)
    wide = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(y.astype(np.float32), wide)
    np.testing.assert_array_equal(np.signbit(y[:-2]), np.signbit(x[:-2]))
    assert np.signbit(y[-1])
    np.testing.assert_array_equal(layout.cast(y, np.float32), wide)


def test_overlapping_memory_is_copied_as_if_at_once(backend):
    x = np.arange(100.0)
    layout.fill(x, x[::-1])
    np.testing.assert_array_equal(x, np.arange(100.0)[::-1])
    layout.fill(x[1:], x[:-1])
    np.testing.assert_array_equal(x[1:], np.arange(99, 0, -1))
    square = np.arange(400.0).reshape(20, 20)
    layout.fill(square, square.T)
    np.testing.assert_array_equal(square, np.arange(400.0).reshape(20, 20).T)


def test_what_cannot_be_copied_on_cuda_is_refused(backend):
    if backend != "emulator":
        return
    with pytest.raises(TypeError, match="no conversion from int16 to float32"):
        layout.cast(np.ones(3, np.int16), np.float32)
    with pytest.raises(TypeError, match="not complex128"):
        layout.copy(np.ones(3, complex))
    unaligned = np.zeros(3, [("a", "f4"), ("b", "u1")])["a"]
    with pytest.raises(ValueError, match="not multiples of 4 bytes"):
        layout.copy(unaligned)
    np.testing.assert_array_equal(layout.copy(np.ones(3, np.int16)), [1, 1, 1])


@given(p=st.integers(2, 5000), q=st.integers(2, 5000))
def test_tiles_fit_into_shared_memory(p, q):
    p_tile, q_tile = tile(p, q)
    assert 1 <= p_tile <= p
    assert 1 <= q_tile <= q
    assert q_tile * pitch(p_tile, q_tile) <= 3104  # TILE_WORDS
    # Contiguous pieces, of x along p and of y along q, are whole rows or start on a sector.
    assert p_tile == p or p_tile % 32 == 0
    assert q_tile == q or q_tile % 32 == 0


def test_only_transposed_memory_goes_through_tiles():
    def transposed(y, x):
        return transposed_of(y.shape, y.strides, x.shape, x.strides, x.itemsize)

    nchw = np.zeros((2, 64, 14, 14), np.float32)
    nhwc = np.moveaxis(np.zeros((2, 14, 14, 64), np.float32), -1, 1)
    found = transposed(nhwc, nchw)
    assert (found.p, found.q, found.rest.count) == (196, 64, 2)
    found = transposed(nchw, nhwc)
    assert (found.p, found.q, found.rest.count) == (64, 196, 2)
    assert transposed(nchw, nchw[::-1, ::-1]) is None
    assert transposed(nchw, nchw[:, :1]) is None
    assert transposed(nchw, nchw[:1, :1, :1, :1]) is None
    assert transposed(np.zeros((50, 2, 3)), np.zeros((50, 3, 2)).transpose(0, 2, 1)) is None


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
    (2, 3, 4),
    (np.int64(1), Ellipsis, slice(None, None, 2)),
    True,
    (np.array([1, 1]), np.array([0, 0]), np.array([2, 2])),
]


@pytest.mark.parametrize("index", INDICES, ids=[repr(i)[:20] for i in INDICES])
def test_gradient_adds_up_over_all_places_that_picked_a_cell(backend, rng, nan_results, index):
    x = rng.standard_normal((3, 4, 5))
    grad_y = rng.integers(-9, 10, indexing.forward(x, index).shape).astype(np.float64)
    cells = indexing.forward(np.arange(x.size).reshape(x.shape), index)
    expected = np.zeros(x.size)
    for cell, g in zip(np.ravel(cells), np.ravel(grad_y), strict=True):
        expected[cell] += g
    for dtype in (np.float64, np.float32, ml_dtypes.bfloat16):
        if dtype == ml_dtypes.bfloat16 and backend != "emulator":
            continue
        with nan_results(indexing):
            grad_x = indexing.backward(grad_y.astype(dtype), index, x.shape)
        assert grad_x.dtype == dtype
        np.testing.assert_array_equal(grad_x, expected.reshape(x.shape))


def test_a_cell_that_is_picked_often_is_summed_in_order(backend, rng):
    index = rng.integers(0, 3, 1000)
    grad_y = rng.standard_normal((1000, 2)).astype(np.float32)
    expected = np.zeros((5, 2), np.float32)
    np.add.at(expected, index, grad_y)  # one after the other, in float32
    np.testing.assert_array_equal(indexing.backward(grad_y[::-1][::-1], index, (5, 2)), expected)
    np.testing.assert_array_equal(
        indexing.backward(np.asfortranarray(grad_y), index, (5, 2)), expected
    )


def test_an_index_out_of_range_is_refused(backend):
    with pytest.raises(IndexError):
        indexing.forward(np.ones(3), 3)
    with pytest.raises(IndexError):
        indexing.forward(np.ones(3), (0, 0))
