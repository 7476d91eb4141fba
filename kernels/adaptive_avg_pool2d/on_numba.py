"""adaptive_avg_pool2d in Numba: average pooling with windows of its own."""

from ..avg_pool2d.on_numba import average, spread
from . import geometry


def forward(x, y):
    average(x, y, *geometry(x.shape, y.shape))


def backward(grad_y, grad_x):
    spread(grad_y, grad_x, *geometry(grad_x.shape, grad_y.shape))
