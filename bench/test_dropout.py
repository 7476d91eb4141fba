import numpy as np
import pytest

from convolt.kernels import dropout
from convolt.kernels import random as random_kernel

SHAPE = (128, 4096)


@pytest.fixture
def ticket(put):
    return random_kernel.ticket(put(np.array([1, 0], np.uint64)), SHAPE[0] * SHAPE[1])


@pytest.mark.benchmark(group="dropout forward")
def test_dropout_forward(timed, random, ticket):
    timed(dropout.forward, random(*SHAPE), 0.5, ticket)


@pytest.mark.benchmark(group="dropout backward")
def test_dropout_backward(timed, random, ticket):
    timed(dropout.backward, random(*SHAPE), 0.5, ticket)


@pytest.mark.benchmark(group="random uniform")
def test_uniform(timed, ticket):
    timed(random_kernel.uniform, ticket, SHAPE)


@pytest.mark.benchmark(group="random normal")
def test_normal(timed, ticket):
    timed(random_kernel.normal, ticket, SHAPE)
