"""batch_norm in Numba: x read as flat memory, lane by lane and block by block.

A row of C values may be shorter than a vector register, or no multiple of one, so memory is cut
into rows of ``width`` lanes, width = a multiple of C; lane l holds channel l % C. Parallel loops
run over blocks of such rows. The blocks depend on the shape alone and their sums, in float64, are
added in order, so that no result depends on the number of threads.

The second pass computes in the dtype of x, with the mean as the sum of a number of this dtype and
the rest: x minus the first is exact where the mean is much larger than the deviation.

Memory is read once for the statistics or the sums of the gradient, and once more for the result,
from the end backwards: there the caches still hold what was read last. The first pass, and the
gradient, which reads two arrays, ask for what lies AHEAD: by themselves, among so much arithmetic,
the cores keep too few reads under way.
"""

from math import gcd

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from ..cpu.pixels import fetch
from .on_numpy import _combined, _follow, _running

VECTOR = 16  # lanes: the widest register holds as many float32
LEAST_LANES = 64
MOST_LANES = 2048  # whose sums stay in the L1 cache
BLOCKS = 64
LEAST_BLOCK = 1 << 14  # elements
AHEAD = np.uint64(1024)  # elements: some microseconds of reading
SAMPLE = 8  # rows whose mean is taken from all values before they are squared


def moments(x):
    mean = np.empty(x.shape[1])
    var = _statistics(x, mean)
    return mean[None], var[None] * len(x), len(x)


def forward(
    x,
    weight,
    bias,
    running_mean,
    running_var,
    momentum,
    eps,
    residual,
    relu,
    moments,
    y,
    mean,
    inv_std,
):
    var = _combined(moments, len(x), mean)
    inv_std[...] = 1 / np.sqrt(var + eps)
    _affine(x, mean, inv_std * weight, bias, y)
    _activate(y, residual, relu)
    _follow(running_mean, running_var, momentum, mean, var, len(x))


def backward(
    grad_y,
    x,
    mean,
    inv_std,
    weight,
    bias,
    y,
    relu,
    grad_x,
    grad_weight,
    grad_bias,
    grad_residual,
):
    m = len(x)
    g = _through_activation(grad_y, x, mean, inv_std * weight, bias, y, relu, grad_residual)
    sum_g, sum_gx = _gradient_sums(g, x, mean, inv_std)
    width, block = _lanes(x)
    lanes = _repeated((mean, weight * inv_std, sum_g / m, inv_std * sum_gx / m), width, x.dtype)
    _gradient_of_x(g.reshape(-1), x.reshape(-1), lanes, block, grad_x.reshape(-1))
    grad_weight[...], grad_bias[...] = sum_gx, sum_g


def forward_eval(x, weight, bias, running_mean, running_var, eps, residual, relu, y):
    mean, inv_std = _running(running_mean, running_var, eps)
    _affine(x, mean, weight * inv_std, bias, y)
    _activate(y, residual, relu)


def backward_eval(
    grad_y,
    x,
    weight,
    bias,
    running_mean,
    running_var,
    eps,
    y,
    relu,
    grad_x,
    grad_weight,
    grad_bias,
    grad_residual,
):
    mean, inv_std = _running(running_mean, running_var, eps)
    g = _through_activation(grad_y, x, mean, inv_std * weight, bias, y, relu, grad_residual)
    sum_g, sum_gx = _gradient_sums(g, x, mean, inv_std)
    zeros = np.zeros_like(mean)
    _affine(g, zeros, weight * inv_std, zeros, grad_x)
    grad_weight[...], grad_bias[...] = sum_gx, sum_g


def _activate(y, residual, relu):
    if residual is not None:
        y += residual
    if relu:
        np.maximum(y, 0, out=y)


def _through_activation(grad_y, x, mean, scale, bias, y, relu, grad_residual):
    """Return g, the gradient of what the activation was applied to."""
    if not relu:
        return grad_y
    if y is None:
        y = np.empty_like(x)
        _affine(x, mean, scale, bias, y)
    g = np.empty_like(grad_y) if grad_residual is None else grad_residual
    np.multiply(grad_y, y > 0, out=g)
    return g


def _lanes(x):
    """Return (lanes of a row, elements of a block)."""
    c = x.shape[1]
    width = c * (VECTOR // gcd(c, VECTOR))
    if width > MOST_LANES:
        width = c
    width *= max(1, LEAST_LANES // width)
    rows = max(LEAST_BLOCK, x.size // BLOCKS) // width
    return width, width * max(1, rows)


def _repeated(channels, width, dtype):
    """Return numbers of each channel as rows (k + 1, width) of each lane, the last the mean's rest.

    The first number is the mean.
    """
    wide = np.array([*channels, channels[0]], np.float64)
    wide[-1] -= wide[0].astype(dtype)
    return np.tile(wide.astype(dtype, copy=False), width // wide.shape[1])


def _statistics(x, mean):
    """Fill the mean of each channel in, return its biased variance."""
    width, block = _lanes(x)
    sums = np.empty((-(-x.size // block), 3, width))
    _block_moments(x.reshape(-1), block, sums)
    var = np.zeros_like(mean)
    _combine_moments(sums, x.size, block, mean, var)
    return var


def _affine(x, mean, scale, bias, y):
    width, block = _lanes(x)
    lanes = _repeated((mean, scale, bias), width, x.dtype)
    _lane_affine(x.reshape(-1), lanes, block, y.reshape(-1))


def _gradient_sums(grad_y, x, mean, inv_std):
    """Return the sums over m of grad_y and of grad_y * x_hat."""
    width, block = _lanes(x)
    sums = np.empty((-(-x.size // block), 2, width))
    lanes = np.tile(mean, width // len(mean))
    _block_sums(grad_y.reshape(-1), x.reshape(-1), lanes, block, sums)
    sum_g, sum_gx = sums.reshape(len(sums), 2, -1, len(mean)).sum(axis=(0, 2))
    return sum_g, sum_gx * inv_std


@parallel_jit
def _block_moments(x, block, sums):
    """Fill in, for each lane of each block, what ``_moments`` says."""
    for i in prange(len(sums)):
        first, end = _span(i, block, len(x))
        _moments(x, first, end, sums[i, 0], sums[i, 1], sums[i, 2])


@jit
def _span(i, block, size):
    """First element of block ``i``, and the one behind its last: unsigned, as all loops count."""
    first = np.uint64(i) * np.uint64(block)
    return first, min(first + np.uint64(block), np.uint64(size))


@jit
def _span_from_the_end(i, block, size):
    """The same, of the blocks counted from the last."""
    return _span(-(-size // block) - 1 - np.int64(i), block, size)


@jit
def _moments(x, first, end, shift, total, square):
    """A number near the mean of each lane, and the sums of x - shift and of its square.

    Four rows at a time, as the sums are loaded and stored each time.
    """
    width = np.uint64(len(shift))
    sample = min(np.uint64(SAMPLE), (end - first) // width)
    for lane in range(width):
        shift[lane] = total[lane] = square[lane] = 0
    for row in range(first, first + sample * width, width):
        for lane in range(width):
            shift[lane] += x[row + lane]
    for lane in range(width):
        shift[lane] /= max(sample, 1)
    four = np.uint64(4) * width
    fours = first + (end - first) // four * four
    for row in range(first, fours, four):
        fetch(x, row + AHEAD, four)
        row_1, row_2, row_3 = row + width, row + width + width, row + width + width + width
        for lane in range(width):
            a, b = x[row + lane] - shift[lane], x[row_1 + lane] - shift[lane]
            c, d = x[row_2 + lane] - shift[lane], x[row_3 + lane] - shift[lane]
            total[lane] += (a + b) + (c + d)
            square[lane] += (a * a + b * b) + (c * c + d * d)
    for row in range(fours, end, width):
        for lane in range(min(width, end - row)):
            a = x[row + lane] - shift[lane]
            total[lane] += a
            square[lane] += a * a


@jit
def _combine_moments(sums, size, block, mean, var):
    """The mean of each channel and its variance, from the moments of the lanes of the blocks.

    The squared deviations are those from the mean of their lane in their block, plus those of
    these means from the mean of all: no difference of large numbers (Chan, Golub & LeVeque 1983).
    """
    blocks, _, width = sums.shape
    channels = len(mean)
    for c in range(channels):
        mean[c] = var[c] = 0
    for i in range(blocks):
        rows, rest = divmod(min(block, size - i * block), width)
        for lane in range(width):
            count = rows + (lane < rest)
            shift, total, square = sums[i, 0, lane], sums[i, 1, lane], sums[i, 2, lane]
            less = total / max(count, 1)
            sums[i, 0, lane], sums[i, 1, lane] = shift + less, count
            sums[i, 2, lane] = square - total * less
        for first in range(0, width, channels):
            for c in range(channels):
                mean[c] += sums[i, 1, first + c] * sums[i, 0, first + c]
    for c in range(channels):
        mean[c] /= size // channels
    for i in range(blocks):
        for first in range(0, width, channels):
            for c in range(channels):
                apart = sums[i, 0, first + c] - mean[c]
                var[c] += sums[i, 2, first + c] + sums[i, 1, first + c] * (apart * apart)
    for c in range(channels):
        var[c] = 0 if var[c] < 0 else var[c] / (size // channels)


@parallel_jit
def _lane_affine(x, lanes, block, y):
    """y = (x - mean) * scale + bias, from the last block to the first."""
    mean, scale, bias, rest = lanes[0], lanes[1], lanes[2], lanes[3]
    width = np.uint64(lanes.shape[1])
    for i in prange(-(-len(x) // block)):
        first, end = _span_from_the_end(i, block, len(x))
        for row in range(first, end, width):
            for lane in range(min(width, end - row)):
                centered = (x[row + lane] - mean[lane]) - rest[lane]
                y[row + lane] = centered * scale[lane] + bias[lane]


@parallel_jit
def _block_sums(grad_y, x, mean, block, sums):
    """Sums of grad_y and of grad_y * (x - mean), of each lane of each block."""
    for i in prange(len(sums)):
        first, end = _span(i, block, len(x))
        _products(grad_y, x, mean, first, end, sums[i, 0], sums[i, 1])


@jit
def _products(grad_y, x, mean, first, end, total, product):
    width = np.uint64(len(mean))
    for lane in range(width):
        total[lane] = product[lane] = 0
    two = width + width
    twos = first + (end - first) // two * two
    for row in range(first, twos, two):
        fetch(x, row + AHEAD, two)
        fetch(grad_y, row + AHEAD, two)
        row_1 = row + width
        for lane in range(width):
            g, h = np.float64(grad_y[row + lane]), np.float64(grad_y[row_1 + lane])
            a, b = x[row + lane] - mean[lane], x[row_1 + lane] - mean[lane]
            total[lane] += g + h
            product[lane] += g * a + h * b
    for row in range(twos, end, width):
        for lane in range(min(width, end - row)):
            g = np.float64(grad_y[row + lane])
            total[lane] += g
            product[lane] += g * (x[row + lane] - mean[lane])


@parallel_jit
def _gradient_of_x(grad_y, x, lanes, block, grad_x):
    """grad_x = scale * (grad_y - offset - (x - mean) * slope), from the last block to the first."""
    mean, scale, offset, slope, rest = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    width = np.uint64(lanes.shape[1])
    for i in prange(-(-len(x) // block)):
        first, end = _span_from_the_end(i, block, len(x))
        for row in range(first, end, width):
            fetch(x, row + AHEAD, width)
            fetch(grad_y, row + AHEAD, width)
            for lane in range(min(width, end - row)):
                centered = (x[row + lane] - mean[lane]) - rest[lane]
                g = (grad_y[row + lane] - offset[lane]) - centered * slope[lane]
                grad_x[row + lane] = scale[lane] * g
