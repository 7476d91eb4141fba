import pytest

from convolt.kernels import batch_norm

X_SHAPE, C = (16, 28, 28, 64), 64
MOMENTUM, EPS = 0.1, 1e-5


@pytest.mark.benchmark(group="batch_norm forward, training")
def test_batch_norm_forward(timed, random):
    running_mean, running_var = random(C), abs(random(C))
    x, weight, bias = random(*X_SHAPE), random(C), random(C)
    timed(batch_norm.forward, x, weight, bias, running_mean, running_var, MOMENTUM, EPS)


@pytest.mark.benchmark(group="batch_norm backward, training")
def test_batch_norm_backward(timed, random):
    x, weight = random(*X_SHAPE), random(C)
    _, mean, inv_std = batch_norm.forward(x, weight, None, None, None, MOMENTUM, EPS)
    timed(batch_norm.backward, random(*X_SHAPE), x, mean, inv_std, weight)


@pytest.mark.benchmark(group="batch_norm forward, evaluation")
def test_batch_norm_forward_eval(timed, random):
    running_mean, running_var = random(C), abs(random(C))
    x, weight, bias = random(*X_SHAPE), random(C), random(C)
    timed(batch_norm.forward_eval, x, weight, bias, running_mean, running_var, EPS)


@pytest.mark.benchmark(group="batch_norm backward, evaluation")
def test_batch_norm_backward_eval(timed, random):
    running_mean, running_var = random(C), abs(random(C))
    x, weight, grad_y = random(*X_SHAPE), random(C), random(*X_SHAPE)
    timed(batch_norm.backward_eval, grad_y, x, weight, running_mean, running_var, EPS)
