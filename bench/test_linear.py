import pytest

from convolt.kernels import linear

M, C, K = 128, 2450, 500  # LeNet-5's largest


@pytest.mark.benchmark(group="linear fprop")
def test_linear_fprop(timed, random):
    timed(linear.fprop, random(M, C), random(K, C), random(K))


@pytest.mark.benchmark(group="linear dgrad")
def test_linear_dgrad(timed, random):
    timed(linear.dgrad, random(M, K), random(K, C))


@pytest.mark.benchmark(group="linear wgrad")
def test_linear_wgrad(timed, random):
    timed(linear.wgrad, random(M, K), random(M, C))
