import numpy as np
import pytest

from convolt.kernels import softmax_cross_entropy

M, C = 512, 1000
IGNORED, SMOOTHING = -100, 0.1


@pytest.fixture
def target(put):
    return put(np.random.default_rng(0).integers(C, size=M))


@pytest.mark.benchmark(group="softmax_cross_entropy forward")
def test_softmax_cross_entropy_forward(timed, random, target):
    timed(softmax_cross_entropy.forward, random(M, C), target, None, IGNORED, SMOOTHING, "mean")


@pytest.mark.benchmark(group="softmax_cross_entropy backward")
def test_softmax_cross_entropy_backward(timed, random, put, target):
    logits = random(M, C)
    loss, saved = softmax_cross_entropy.forward(logits, target, None, IGNORED, SMOOTHING, "mean")
    grad_loss = put(np.ones(loss.shape, np.float32))
    arguments = (grad_loss, logits, target, None, saved, IGNORED, SMOOTHING)
    timed(softmax_cross_entropy.backward, *arguments)
