"""Element-wise arithmetic, reductions, layout and indexing."""

import numpy as np
import pytest

from convolt.kernels import elementwise, indexing, layout, reduction

SHAPE = (16, 64, 28, 28)  # N C H W


@pytest.mark.benchmark(group="elementwise add")
def test_add(timed, random):
    timed(elementwise.add, random(*SHAPE), random(*SHAPE))


@pytest.mark.benchmark(group="elementwise add, a bias broadcast over channels-last images")
def test_add_broadcast(timed, random):
    x = layout.channels_first(random(16, 28, 28, 64))
    timed(elementwise.add, x, random(64, 1, 1))


@pytest.mark.benchmark(group="reduction sum of all elements")
def test_sum(timed, random):
    timed(reduction.sum, random(*SHAPE))


@pytest.mark.benchmark(group="reduction sum over N, H, W of channels-last images")
def test_sum_by_channel(timed, random):
    timed(reduction.sum, layout.channels_first(random(16, 28, 28, 64)), (0, 2, 3))


@pytest.mark.benchmark(group="layout, N C H W to N H W C")
def test_channels_last(timed, random):
    timed(layout.channels_last, random(*SHAPE))


@pytest.mark.benchmark(group="layout, N H W C to N C H W")
def test_contiguous(timed, random):
    timed(layout.contiguous, layout.channels_first(random(16, 28, 28, 64)))


@pytest.mark.benchmark(group="layout, float32 to float64")
def test_cast(timed, random):
    timed(layout.cast, random(*SHAPE), np.float64)


@pytest.mark.benchmark(group="indexing, gradient of a slice")
def test_slice_gradient(timed, random):
    timed(indexing.backward, random(16, 64, 14, 14), (Ellipsis, slice(0, 14), slice(0, 14)), SHAPE)


@pytest.mark.benchmark(group="indexing, gradient of a gather")
def test_gather_gradient(timed, random):
    index = np.arange(512) * 7 % 100
    timed(indexing.backward, random(512, 64), index, (100, 64))
