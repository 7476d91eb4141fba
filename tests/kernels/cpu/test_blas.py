"""Matrix products on our own threads: the same bits for any number of them, BLAS left as it was."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from convolt.kernels import conv2d, linear
from convolt.kernels.backend import use_backend
from convolt.kernels.cpu import blas


@pytest.fixture(params=range(1, numba.config.NUMBA_NUM_THREADS + 1))
def threads(request):
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.mark.parametrize(
    ("m", "c", "n"), [(1, 1, 1), (300, 401, 500), (500, 400, 301), (2, 9000, 1000), (1000, 3001, 1)]
)
def test_blocks_cover_the_product(threads, rng, m, c, n):
    a, b = (rng.integers(-3, 4, s).astype(np.float32) for s in ((m, c), (c, n)))
    out = np.full((m, n), np.nan, np.float32)
    blas.product(a, b, out)
    np.testing.assert_array_equal(out, a.astype(np.float64) @ b)


def results():
    rng = np.random.default_rng(3)
    size = conv2d.Conv2dSize.of((16, 28, 28, 20), (50, 5, 5, 20), padding=2)
    x, w, grad_y = (
        rng.standard_normal(s).astype(np.float32)
        for s in (size.x_shape, size.w_shape, size.y_shape)
    )
    with use_backend("numba"):
        arrays = [
            conv2d.fprop(x, w, None, size),
            conv2d.dgrad(grad_y, w, size),
            conv2d.wgrad(grad_y, x, size),
        ]
        a, b = rng.standard_normal((2, 300, 3001)).astype(np.float32)
        arrays += [linear.fprop(a, b, None), linear.wgrad(a, b)]
    return [array.tobytes() for array in arrays]


def test_results_do_not_depend_on_the_number_of_threads(threads):
    numba.set_num_threads(1)
    expected = results()
    numba.set_num_threads(threads)
    assert results() == expected


def test_blas_keeps_its_own_number_of_threads():
    before = blas_threads()
    during = []
    blas.for_each(lambda _: during.append(blas_threads()), 1)
    assert 1 in during[0]
    assert blas_threads() == before
    with pytest.raises(ZeroDivisionError):
        blas.for_each(lambda i: 1 // i, 3)
    assert blas_threads() == before


FORK = """
import os, signal
import convolt
from convolt import functional as F
x, w = convolt.randn(32, 8, 32, 32), convolt.randn(16, 8, 3, 3)
expected = F.max_pool2d(F.conv2d(x, w), 2).numpy().tobytes()
child = os.fork()
if child == 0:
    signal.alarm(60)  # instead of waiting for threads that are not there
    os._exit(F.max_pool2d(F.conv2d(x, w), 2).numpy().tobytes() != expected)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_threads_of_its_own():
    environment = os.environ | {"CONVOLT_BACKEND": "numba"}
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert result.stdout == "0\n"


def test_infinities_and_nans_are_results_not_warnings(backend):
    size = conv2d.Conv2dSize.of((1, 3, 3, 1), (1, 3, 3, 1))
    x, w = np.full(size.x_shape, np.inf), np.zeros(size.w_shape)
    assert np.isnan(conv2d.fprop(x, w, None, size)).all()
    assert np.isnan(linear.fprop(np.full((2, 3), np.inf), np.zeros((4, 3)), None)).all()
    huge = np.full((2, 3), 1e30, np.float32)
    assert np.isinf(linear.fprop(huge, huge, None)).all()
