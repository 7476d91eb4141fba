"""batch_norm in Numba: x read as flat memory, lane by lane and block by block.

A row of C values may be shorter than a vector register, so memory is cut into rows of ``width``
lanes, width = a multiple of C near LANES or above; lane l holds channel l % C. Parallel loops
run over blocks of such rows that stay in cache. The blocks depend on the shape alone and their
sums, in float64, are added in order, so that no result depends on the number of threads.
"""

import numpy as np
from numba import prange

from ..cpu.jit import parallel_jit

LANES = 64
BLOCK = 1 << 15  # elements: 128 KiB of float32
LEAST_ROWS = 32  # of a block, so that its sums are few beside its elements


def forward(x, weight, bias, running_mean, running_var, momentum, eps, y, mean, inv_std):
    m = len(x)
    var = _statistics(x, mean)
    inv_std[...] = 1 / np.sqrt(var + eps)
    _affine(x, mean, inv_std * weight, bias, y)
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean
        running_var[...] = (1 - momentum) * running_var + momentum * (var * (m / (m - 1)))


def backward(grad_y, x, mean, inv_std, weight, grad_x, grad_weight, grad_bias):
    m = len(x)
    sum_g, sum_gx = _gradient_sums(grad_y, x, mean, inv_std)
    repeat, _, block = _lanes(x)
    _gradient_of_x(
        grad_y.reshape(-1),
        x.reshape(-1),
        np.tile(mean, repeat),
        np.tile(weight * inv_std, repeat),
        np.tile(sum_g / m, repeat),
        np.tile(inv_std * sum_gx / m, repeat),
        block,
        grad_x.reshape(-1),
    )
    grad_weight[...], grad_bias[...] = sum_gx, sum_g


def forward_eval(x, weight, bias, running_mean, running_var, eps, y):
    mean, inv_std = _running(running_mean, running_var, eps)
    _affine(x, mean, weight * inv_std, bias, y)


def backward_eval(
    grad_y, x, weight, running_mean, running_var, eps, grad_x, grad_weight, grad_bias
):
    mean, inv_std = _running(running_mean, running_var, eps)
    sum_g, sum_gx = _gradient_sums(grad_y, x, mean, inv_std)
    zeros = np.zeros_like(mean)
    _affine(grad_y, zeros, weight * inv_std, zeros, grad_x)
    grad_weight[...], grad_bias[...] = sum_gx, sum_g


def _running(running_mean, running_var, eps):
    var = running_var.astype(np.float64)
    return running_mean.astype(np.float64), 1 / np.sqrt(var + eps)


def _lanes(x):
    """Return (rows of x side by side in a row of lanes, lanes, elements of a block)."""
    c = x.shape[1]
    repeat = max(1, LANES // c)
    width = repeat * c
    return repeat, width, width * max(LEAST_ROWS, BLOCK // width)


def _statistics(x, mean):
    """Fill the mean of each channel in, return its biased variance.

    The squared deviations are those from the mean of their lane in their block, plus those of
    these means from the mean of all: no difference of large numbers, one read of memory (Chan,
    Golub & LeVeque 1983).
    """
    m, c = x.shape
    repeat, width, block = _lanes(x)
    counts, means, squares = np.empty((3, -(-x.size // block), width))
    _lane_moments(x.reshape(-1), block, counts, means, squares)
    mean[...] = (counts * means).reshape(-1, c).sum(axis=0) / m
    squares += counts * (means - np.tile(mean, repeat)) ** 2
    return squares.reshape(-1, c).sum(axis=0) / m


def _affine(x, mean, scale, bias, y):
    repeat, _, block = _lanes(x)
    lanes = [np.tile(a, repeat).astype(np.float64, copy=False) for a in (mean, scale, bias)]
    _lane_affine(x.reshape(-1), *lanes, block, y.reshape(-1))


def _gradient_sums(grad_y, x, mean, inv_std):
    """Return the sums over m of grad_y and of grad_y * x_hat."""
    c = x.shape[1]
    repeat, width, block = _lanes(x)
    sums, products = np.empty((2, -(-x.size // block), width))
    _lane_sums(grad_y.reshape(-1), x.reshape(-1), np.tile(mean, repeat), block, sums, products)
    return sums.reshape(-1, c).sum(axis=0), products.reshape(-1, c).sum(axis=0) * inv_std


@parallel_jit
def _lane_moments(x, block, counts, means, squares):
    """Number, mean and sum of squared deviations from this mean, of each lane of each block."""
    size, step, width = np.uint64(len(x)), np.uint64(block), np.uint64(means.shape[1])
    for part in prange(len(means)):
        count, mean, square = counts[part], means[part], squares[part]
        start = np.uint64(part) * step
        stop = min(start + step, size)
        for lane in range(width):
            count[lane] = (stop - start + width - np.uint64(1) - lane) // width
            mean[lane] = 0
            square[lane] = 0
        for row in range(start, stop, width):
            for lane in range(min(width, stop - row)):
                mean[lane] += x[row + lane]
        for lane in range(width):
            mean[lane] /= max(count[lane], 1.0)
        for row in range(start, stop, width):
            for lane in range(min(width, stop - row)):
                square[lane] += (x[row + lane] - mean[lane]) ** 2


@parallel_jit
def _lane_affine(x, mean, scale, bias, block, y):
    """y = (x - mean) * scale + bias."""
    size, step, width = np.uint64(len(x)), np.uint64(block), np.uint64(len(mean))
    for part in prange((size + step - np.uint64(1)) // step):
        start = np.uint64(part) * step
        stop = min(start + step, size)
        for row in range(start, stop, width):
            for lane in range(min(width, stop - row)):
                y[row + lane] = (x[row + lane] - mean[lane]) * scale[lane] + bias[lane]


@parallel_jit
def _lane_sums(grad_y, x, mean, block, sums, products):
    """Sums of grad_y and of grad_y * (x - mean), of each lane of each block."""
    size, step, width = np.uint64(len(x)), np.uint64(block), np.uint64(len(mean))
    for part in prange(len(sums)):
        total, product = sums[part], products[part]
        start = np.uint64(part) * step
        stop = min(start + step, size)
        for lane in range(width):
            total[lane] = 0
            product[lane] = 0
        for row in range(start, stop, width):
            for lane in range(min(width, stop - row)):
                g = np.float64(grad_y[row + lane])
                total[lane] += g
                product[lane] += g * (x[row + lane] - mean[lane])


@parallel_jit
def _gradient_of_x(grad_y, x, mean, scale, offset, slope, block, grad_x):
    """grad_x = scale * (grad_y - offset - (x - mean) * slope)."""
    size, step, width = np.uint64(len(x)), np.uint64(block), np.uint64(len(mean))
    for part in prange((size + step - np.uint64(1)) // step):
        start = np.uint64(part) * step
        stop = min(start + step, size)
        for row in range(start, stop, width):
            for lane in range(min(width, stop - row)):
                i = row + lane
                grad_x[i] = scale[lane] * (
                    grad_y[i] - offset[lane] - (x[i] - mean[lane]) * slope[lane]
                )
