"""in_threads: whatever is cut, and into how many parts, the bytes are those of one call."""

import numpy as np
import pytest

from convolt.kernels import elementwise
from convolt.kernels.backend import use_backend
from convolt.kernels.cpu import ufuncs


@pytest.fixture(params=[1, 2, 3, 7])
def count(request, monkeypatch):
    monkeypatch.setattr(ufuncs, "WORTH_BYTES", 1)
    monkeypatch.setattr(ufuncs, "get_num_threads", lambda: request.param)


SHAPES = [(1,), (2,), (1001,), (3, 5), (2, 3, 5, 7), (1, 40, 3), (1, 1, 1), (20, 0), (0,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_cut_gives_the_bytes_of_one_call(count, rng, shape):
    a, b = rng.standard_normal((2, *shape)).astype(np.float32)
    for x, out in (
        (a, np.full(shape, np.nan, np.float32)),
        (a.T, np.full(shape[::-1], np.nan, np.float32)),
        (a[..., ::-1], np.full((*shape, 2), np.nan, np.float32)[..., 1]),
    ):
        for other in (b if x.shape == shape else b.T, b[..., :1] if x.shape == shape else 2.5):
            ufuncs.in_threads(np.subtract, x, other, out=out)
            np.testing.assert_array_equal(out, x - other)


def test_operands_broadcast_and_may_be_the_result(count, rng):
    x = rng.standard_normal((6, 4, 33)).astype(np.float32)
    for other in (x[:1], x[:, :1], x[0], x[0, :1], x[0, 0, :1], x[0, 0, 0], np.float32(3)):
        out = np.full_like(x, np.nan)
        ufuncs.in_threads(np.multiply, other, x, out=out)
        np.testing.assert_array_equal(out, other * x)
    expected = x + out
    ufuncs.in_threads(np.add, x, out, out=x)
    np.testing.assert_array_equal(x, expected)


def test_no_thread_warns_and_an_error_reaches_the_caller(count):
    zeros = np.zeros(100, np.float32)
    with use_backend("numba"):
        assert np.isnan(elementwise.divide(zeros, zeros)).all()
        with pytest.raises(ValueError, match="negative integer powers"):
            elementwise.power(np.full(100, 2), np.full(100, -1))
