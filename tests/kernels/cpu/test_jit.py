"""The way to Numba: results that do not depend on history."""

import threading

import numpy as np

from convolt.kernels.cpu import jit


def test_float32_results_do_not_depend_on_float64_having_run_before():
    def third(x):
        return x / np.float32(3)

    x = np.random.default_rng(0).standard_normal(1000)
    fresh, used = jit.elementwise(third), jit.elementwise(third)
    results = []
    for apply, first in ((fresh, np.float32), (used, np.float64)):
        apply(x.astype(first), out=np.empty(1000, first))
        y = np.empty(1000, np.float32)
        apply(x.astype(np.float32), out=y)
        results.append(y.tobytes())
    assert results[0] == results[1]


def test_parallel_kernels_may_be_called_from_several_threads():
    from convolt.kernels import conv2d
    from convolt.kernels.backend import use_backend

    size = conv2d.Conv2dSize.of((4, 16, 16, 8), (8, 3, 3, 8), padding=1)
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (size.x_shape, size.w_shape))
    with use_backend("numba"):
        expected = conv2d.fprop(x, w, None, size)
        wrong = []

        def work():
            for _ in range(20):
                if not np.array_equal(conv2d.fprop(x, w, None, size), expected):
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
