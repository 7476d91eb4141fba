import math

import ml_dtypes
import numpy as np
import pytest
from launches import record_launches
from threads import results_by_threads

from convolt.kernels import dropout, random
from convolt.kernels.backend import use_backend
from convolt.kernels.dropout import on_cuda

TICKET = np.array([20, 31], np.uint64)


def channels_last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


LAYOUTS = {
    "C order": lambda x: x,
    "channels last": channels_last,
    "F order": np.asfortranarray,
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.97, 1.0])
def test_both_passes_are_the_definition(backend, rng, nan_results, dtype, p):
    x = rng.standard_normal((2, 3, 5, 7)).astype(dtype)
    with nan_results(dropout):
        y = dropout.forward(x, p, TICKET)
        assert np.array_equal(dropout.backward(x, p, TICKET), y)  # the same mask
    uniforms = random.uniform(TICKET, (x.size,), np.float32).tolist()
    scale = dtype(1 / (1 - p)) if p < 1 else dtype(0)
    for index, u in zip(np.ndindex(x.shape), uniforms, strict=True):
        assert y[index] == (x[index] * scale if u >= p else 0)
    assert y.dtype == dtype


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_does_not_change_the_mask(backend, rng, layout):
    x = rng.standard_normal((3, 5, 6, 7)).astype(np.float32)
    ref = dropout.forward(x, 0.4, TICKET)
    laid_out = LAYOUTS[layout](x)
    y = dropout.forward(laid_out, 0.4, TICKET)
    assert np.ascontiguousarray(y).tobytes() == ref.tobytes()
    assert y.strides == np.empty_like(laid_out).strides
    grad_x = dropout.backward(laid_out, 0.4, TICKET)
    assert np.ascontiguousarray(grad_x).tobytes() == ref.tobytes()


# One element, a vector over several tiles, images of one and of several tiles, fewer channels than
# a vector has lanes, channels that two vectors share, more than a tile has room for, odd sizes that
# let blocks of words straddle rows, five axes, nothing.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [
        *((), (1,), (5003,), (7, 33), (2, 3, 37, 31), (3, 65, 1, 1), (2, 11, 7, 7)),
        *((5, 600, 2, 1), (2, 3, 2, 3, 5), (0, 4, 3, 3), (2, 0, 3, 3), (2, 4, 0, 3)),
        *((1, 400, 9, 11), (2, 40, 31, 37), (1, 3, 60, 61), (3, 16, 2, 2), (20_011,)),
    ],
)
def test_all_backends_give_numpys_bytes(backend, rng, nan_results, dtype, shape):
    x = rng.standard_normal(shape).astype(dtype)
    for p in (0.25, 1 / 3):
        for laid_out in (x, channels_last(x)) if x.ndim > 2 else (x,):
            with nan_results(dropout):
                y = dropout.forward(laid_out, p, TICKET)
            with use_backend("numpy"):
                assert y.tobytes() == dropout.forward(laid_out, p, TICKET).tobytes()


@pytest.mark.parametrize("shape", [(42,), (2, 5, 3, 19)])  # the shape in memory
def test_memory_at_any_address(backend, rng, shape):
    """Kernels that move packs of 16 bytes get none here."""
    x = rng.standard_normal(shape).astype(np.float32)
    shifted = np.empty(x.size + 1, np.float32)[1:].reshape(shape)
    shifted[:] = x
    y, ref = (
        dropout.forward(np.moveaxis(a, -1, min(1, a.ndim - 1)), 0.5, TICKET) for a in (shifted, x)
    )
    assert y.tobytes() == ref.tobytes()


@pytest.mark.parametrize("shape", [(7, 33), (2, 16, 5, 3)])
def test_bfloat16_is_scaled_in_float32_and_rounded(backend, rng, nan_results, shape):
    x = channels_last(rng.standard_normal(shape).astype(ml_dtypes.bfloat16))
    if backend != "emulator":
        with pytest.raises(TypeError, match="dropout: x has dtype bfloat16"):
            dropout.forward(x, 0.3, TICKET)
        return
    with nan_results(dropout):
        y = dropout.forward(x, 0.3, TICKET)
    with use_backend("numpy"):
        wide = dropout.forward(x.astype(np.float32), 0.3, TICKET)
    assert y.strides == x.strides
    assert y.tobytes() == wide.astype(ml_dtypes.bfloat16).tobytes()


def test_mask_does_not_depend_on_the_dtype(backend):
    masks = [dropout.forward(np.ones(999, dtype), 0.3, TICKET) > 0 for dtype in ("f4", "f8")]
    assert np.array_equal(*masks)


@pytest.mark.parametrize("last", [False, True])
def test_backward_is_the_adjoint_of_forward(backend, rng, last):
    # Small integers, and 1 / (1 - p) = 2: every sum is exact.
    x, grad_y = rng.integers(-9, 10, (2, 4, 6, 9, 5)).astype(np.float64)
    grad_y = channels_last(grad_y) if last else grad_y
    y, grad_x = dropout.forward(x, 0.5, TICKET), dropout.backward(grad_y, 0.5, TICKET)
    assert np.sum(grad_y * y) == np.sum(grad_x * x) != 0
    assert np.array_equal(grad_x, grad_y * dropout.forward(np.ones_like(x), 0.5, TICKET))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_p(backend, p):
    n = 100_000
    y = dropout.forward(np.ones(n), p, TICKET)
    # 5 standard deviations of a binomial share.
    assert abs(np.mean(y == 0) - p) <= 5 * math.sqrt(p * (1 - p) / n)
    assert set(y.tolist()) == {0, 1 / (1 - p)}


def test_an_element_is_kept_where_its_number_equals_p(backend):
    p = float(random.uniform(TICKET, (9,))[6])
    assert dropout.forward(np.ones(9), p, TICKET)[6] > 0
    assert dropout.forward(np.ones(9), math.nextafter(p, 1), TICKET)[6] == 0


def test_dropped_nan_stays_visible(backend):
    x = np.full(64, np.nan, np.float32)
    assert np.isnan(dropout.forward(x, 0.5, TICKET)).all()


def test_tickets_give_different_masks(backend):
    state = TICKET.copy()
    masks = [dropout.forward(np.ones(64), 0.5, random.ticket(state, 64)) for _ in range(4)]
    assert len({mask.tobytes() for mask in masks}) == 4


def test_input_is_left_as_it_was(backend, rng):
    for x in (rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 6))[:, ::2]):
        before = x.copy()
        dropout.forward(x, 0.5, TICKET)
        assert np.array_equal(x, before)


@pytest.mark.parametrize("shape", [(3, 5, 40, 40), (2, 19, 21, 23)])
@pytest.mark.parametrize("order", [channels_last, np.ascontiguousarray])
def test_any_number_of_threads_gives_the_same_bytes(rng, shape, order):
    x = order(rng.standard_normal(shape))
    with use_backend("numba"):
        results = results_by_threads(lambda: dropout.forward(x, 0.5, TICKET).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"p must be in \[0, 1\], got -0.1", (np.ones(3), -0.1, TICKET)),
        (ValueError, r"p must be in \[0, 1\], got 1.5", (np.ones(3), 1.5, TICKET)),
        (ValueError, r"p must be in \[0, 1\], got nan", (np.ones(3), math.nan, TICKET)),
        (TypeError, "p must be a number, got '0.5'", (np.ones(3), "0.5", TICKET)),
        (TypeError, "int64", (np.ones(3, np.int64), 0.5, TICKET)),
        (TypeError, "not an array", ([1.0], 0.5, TICKET)),
        (TypeError, "uint64", (np.ones(3), 0.5, TICKET.astype(np.int64))),
        (ValueError, r"shape \(2,\)", (np.ones(3), 0.5, TICKET[:1])),
        (
            ValueError,
            "int32 index",
            (np.broadcast_to(np.float32(1), (2**16, 2**16)), 0.5, TICKET),
        ),
    ],
)
def test_bad_input_is_an_error(backend, error, message, arguments):
    for verb in (dropout.forward, dropout.backward):
        with pytest.raises(error, match=message):
            verb(*arguments)
        assert np.array_equal(verb(np.ones(5), 0, TICKET), np.ones(5))


@pytest.mark.parametrize(
    ("shape", "dtype", "grid"),
    [
        ((0,), "f4", 0),
        ((1,), "f4", 1),
        ((1024,), "f4", 1),
        ((1025,), "f4", 2),
        ((513,), "f8", 2),
        ((1025,), "bfloat16", 2),
        ((2**27,), "f4", 2**17),
    ],
)
def test_a_thread_takes_16_bytes_or_four_elements(monkeypatch, shape, dtype, grid):
    launches = record_launches(monkeypatch)
    y = np.empty(shape, dtype)
    on_cuda.forward(y, 0.5, TICKET, y)
    assert launches == [("dropout_apply_contiguous", grid, {"STORAGE": y.dtype})]


@pytest.mark.parametrize(("shape", "grid"), [((2, 64, 8, 2), 2), ((2, 64, 17, 1), 3)])
def test_a_thread_takes_four_pixels_of_a_channel(monkeypatch, shape, grid):
    launches = record_launches(monkeypatch)
    y = channels_last(np.empty(shape, np.float32))
    on_cuda.forward(y, 0.5, TICKET, y)
    assert launches == [("dropout_apply_channels_last", grid, {"STORAGE": y.dtype})]
