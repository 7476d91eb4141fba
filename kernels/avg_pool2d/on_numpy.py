"""avg_pool2d in NumPy: the definition, window by window. Read this first."""

from . import geometry


def forward(x, y, size, count_include_pad, divisor_override):
    average(x, y, *geometry(size, count_include_pad, divisor_override))


def backward(grad_y, grad_x, size, count_include_pad, divisor_override):
    spread(grad_y, grad_x, *geometry(size, count_include_pad, divisor_override))


def average(x, y, rows, columns, divisors):
    for p, (top, bottom) in enumerate(rows.T):
        for q, (left, right) in enumerate(columns.T):
            y[:, p, q] = x[:, top:bottom, left:right].sum((1, 2)) / y.dtype.type(divisors[p, q])


def spread(grad_y, grad_x, rows, columns, divisors):
    grad_x[...] = 0
    for p, (top, bottom) in enumerate(rows.T):
        for q, (left, right) in enumerate(columns.T):
            share = grad_y[:, p, q] / grad_y.dtype.type(divisors[p, q])
            grad_x[:, top:bottom, left:right] += share[:, None, None]
