"""dropout in NumPy: the definition. Read this first."""

import numpy as np

from ..random.on_numpy import uniform


def forward(x, p, ticket, y):
    np.multiply(x, _mask(x, p, ticket), out=y)


def backward(grad_y, p, ticket, grad_x):
    np.multiply(grad_y, _mask(grad_y, p, ticket), out=grad_x)


def _mask(x, p, ticket):
    uniforms = np.empty(x.shape, np.float32)
    uniform(ticket, uniforms)
    return np.where(uniforms >= np.float64(p), 1 / (1 - p) if p < 1 else 0, 0).astype(x.dtype)
