"""linear on the CPU: BLAS is blocked and vectorized already; the threads are ours."""

from ..cpu.blas import product


def fprop(x, w, bias, y):
    product(x, w.T, y)
    if bias is not None:
        y += bias


def dgrad(grad_y, w, grad_x):
    product(grad_y, w, grad_x)


def wgrad(grad_y, x, grad_w):
    product(grad_y.T, x, grad_w)
