"""conv2d on CUDA: each call goes to the family of kernels that ``choice`` names."""

from ..batch_norm.on_cuda import moments
from ..cuda.gpu import gpu_of
from .algorithm import Problem
from .choice import FAMILIES, choose


def fprop(x, w, bias, y, size):
    algorithm = choose(Problem.of("fprop", size, x, w, y), gpu_of(x))
    FAMILIES[algorithm.family].fprop(algorithm, x, w, bias, y, size)


def fprop_moments(x, w, y, size):
    fprop(x, w, None, y, size)
    return moments(y.reshape(-1, size.k))


def dgrad(grad_y, w, grad_x, size):
    algorithm = choose(Problem.of("dgrad", size, grad_y, w, grad_x), gpu_of(w))
    FAMILIES[algorithm.family].dgrad(algorithm, grad_y, w, grad_x, size)


def wgrad(grad_y, x, grad_w, size):
    algorithm = choose(Problem.of("wgrad", size, grad_y, x, grad_w), gpu_of(x))
    FAMILIES[algorithm.family].wgrad(algorithm, grad_y, x, grad_w, size)
