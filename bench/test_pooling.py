import pytest

from convolt.kernels import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from convolt.kernels.pooling_window import PoolSize

X_SHAPE = (16, 28, 28, 32)
SIZE = PoolSize.of("pooling", X_SHAPE, kernel_size=3, stride=2, padding=1)


@pytest.mark.benchmark(group="max_pool2d forward")
def test_max_pool2d_forward(timed, random):
    timed(max_pool2d.forward, random(*X_SHAPE), SIZE)


@pytest.mark.benchmark(group="max_pool2d backward")
def test_max_pool2d_backward(timed, random):
    _, argmax = max_pool2d.forward(random(*X_SHAPE), SIZE)
    timed(max_pool2d.backward, random(*SIZE.y_shape), argmax, SIZE)


@pytest.mark.benchmark(group="avg_pool2d forward")
def test_avg_pool2d_forward(timed, random):
    timed(avg_pool2d.forward, random(*X_SHAPE), SIZE)


@pytest.mark.benchmark(group="avg_pool2d backward")
def test_avg_pool2d_backward(timed, random):
    timed(avg_pool2d.backward, random(*SIZE.y_shape), SIZE)


@pytest.mark.benchmark(group="adaptive_avg_pool2d forward, to 1x1")
def test_adaptive_avg_pool2d_forward(timed, random):
    timed(adaptive_avg_pool2d.forward, random(*X_SHAPE), 1)


@pytest.mark.benchmark(group="adaptive_avg_pool2d backward, from 1x1")
def test_adaptive_avg_pool2d_backward(timed, random):
    timed(adaptive_avg_pool2d.backward, random(X_SHAPE[0], 1, 1, X_SHAPE[3]), X_SHAPE)
