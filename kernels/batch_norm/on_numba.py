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

A residual and a ReLU belong to the same passes. Where the ReLU has let a gradient through, each
pass computes anew from x; after a residual the first pass reads it from y, and writes the gradient
that is left for the second one.
"""

from math import gcd

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from ..cpu.pixels import fetch
from .on_numpy import _combined, _follow, _running, _totals

VECTOR = 16  # lanes: the widest register holds as many float32
LEAST_LANES = 128
MOST_LANES = 2048  # whose sums stay in the L1 cache
BLOCKS = 64
LEAST_BLOCK = 1 << 14  # elements
AHEAD = np.uint64(1024)  # elements: some microseconds of reading
SAMPLE = 8  # rows whose mean is taken from all values before they are squared
FEW = 4096  # elements of a gradient that wait in the L1 cache to be summed
NO_RELU, OF_X, OF_Y = range(3)  # what tells where a ReLU has passed a gradient on: see _products


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
    signs,
):
    var = _combined(moments, len(x), mean)
    inv_std[...] = 1 / np.sqrt(var + eps)
    _affine(x, mean, weight * inv_std, bias, residual, relu, y)
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
    sums,
    grad_x,
    grad_weight,
    grad_bias,
    grad_residual,
):
    m, scale = len(x), weight * inv_std
    relu = (OF_X if y is None else OF_Y) if relu else NO_RELU
    if sums is None:
        sums = _gradient_sums(grad_y, x, mean, inv_std, scale, bias, relu, y, grad_residual)
    else:
        sums = _totals(sums, inv_std)
    g = grad_residual if relu == OF_Y else grad_y
    bias = bias if relu == OF_X else np.full_like(mean, np.inf)
    width, block = _lanes(x)
    lanes = _repeated((mean, scale, bias, sums[0] / m, inv_std * sums[1] / m), width, x.dtype)
    _gradient_of_x(g.reshape(-1), x.reshape(-1), lanes, block, grad_x.reshape(-1))
    grad_bias[...], grad_weight[...] = sums


def forward_eval(x, weight, bias, running_mean, running_var, eps, residual, relu, y):
    mean, inv_std = _running(running_mean, running_var, eps)
    _affine(x, mean, weight * inv_std, bias, residual, relu, y)


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
    scale = weight * inv_std
    if relu and y is None:
        y, grad_residual = np.empty_like(x), np.empty_like(x)
        _affine(x, mean, scale, bias, None, False, y)
    relu = OF_Y if relu else NO_RELU
    grad_bias[...], grad_weight[...] = _gradient_sums(
        grad_y, x, mean, inv_std, scale, bias, relu, y, grad_residual, grad_x
    )


def activate(x, residual, relu, y):
    zeros = np.zeros(x.shape[1])
    _affine(x, zeros, zeros + 1, zeros, residual, relu, y)


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


def _affine(x, mean, scale, bias, residual, relu, y):
    width, block = _lanes(x)
    lanes = _repeated((mean, scale, bias), width, x.dtype)
    residual = np.empty(0, x.dtype) if residual is None else residual.reshape(-1)
    least = x.dtype.type(0 if relu else -np.inf)
    _lane_affine(x.reshape(-1), lanes, residual, least, block, y.reshape(-1))


def _gradient_sums(grad_y, x, mean, inv_std, scale, bias, relu, y, g, grad_x=None):
    """Return the sums over m of g and of g * x_hat; ``_products`` says what g is.

    Fills grad_x = g * scale in, where it is given: the gradient of evaluation.
    """
    width, block = _lanes(x)
    sums = np.empty((-(-x.size // block), 2, width))
    wide = np.tile(mean, width // len(mean))
    if relu == OF_X:
        lanes = _repeated((mean, scale, bias), width, x.dtype)
    else:
        lanes = _repeated((scale,), width, x.dtype)
    y, g, grad_x = (
        np.empty(0, x.dtype) if array is None else array.reshape(-1) for array in (y, g, grad_x)
    )
    _block_sums(grad_y.reshape(-1), x.reshape(-1), wide, lanes, relu, y, block, g, sums, grad_x)
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
def _lane_affine(x, lanes, residual, least, block, y):
    """y = (x - mean) * scale + bias + residual or ``least``, from the last block to the first."""
    mean, scale, bias, rest = lanes[0], lanes[1], lanes[2], lanes[3]
    width = np.uint64(lanes.shape[1])
    for i in prange(-(-len(x) // block)):
        first, end = _span_from_the_end(i, block, len(x))
        for row in range(first, end, width):
            if len(residual):
                for lane in range(min(width, end - row)):
                    centered = (x[row + lane] - mean[lane]) - rest[lane]
                    value = (centered * scale[lane] + bias[lane]) + residual[row + lane]
                    y[row + lane] = least if value < least else value
            else:
                for lane in range(min(width, end - row)):
                    centered = (x[row + lane] - mean[lane]) - rest[lane]
                    value = centered * scale[lane] + bias[lane]
                    y[row + lane] = least if value < least else value


@parallel_jit
def _block_sums(grad_y, x, mean, lanes, relu, y, block, g, sums, grad_x):
    """Sums of g and of g * (x - mean), of each lane of each block.

    Also grad_x = g * lanes[0], if it is not empty, from what the caches hold of g.
    """
    for i in prange(len(sums)):
        first, end = _span(i, block, len(x))
        _products(grad_y, x, mean, lanes, relu, y, first, end, g, sums[i, 0], sums[i, 1])
        if len(grad_x):
            _scaled(g if relu == OF_Y else grad_y, lanes[0], first, end, grad_x)


@jit
def _scaled(g, scale, first, end, grad_x):
    width = np.uint64(len(scale))
    for row in range(first, end, width):
        for lane in range(min(width, end - row)):
            grad_x[row + lane] = g[row + lane] * scale[lane]


@jit
def _products(grad_y, x, mean, lanes, relu, y, first, end, g, total, product):
    """g = grad_y; after a ReLU 0 where its result, y or as x tells, is not positive.

    The result y is given where a residual was added: g is the residual's gradient then.
    """
    zero = x.dtype.type(0)
    for lane in range(len(mean)):
        total[lane] = product[lane] = 0
    few = np.empty(_few(lanes) if relu == OF_X else 0, x.dtype)
    step = end - first if relu == NO_RELU else np.uint64(_few(lanes))
    for start in range(first, end, step):
        stop, passed, at = min(start + step, end), grad_y, start
        if relu == OF_X:
            _through_relu_of_x(grad_y, x, lanes, start, stop, few)
            passed, at = few, np.uint64(0)
        elif relu == OF_Y:
            fetch(y, start + AHEAD, stop - start)
            for i in range(start, stop):
                g[i] = grad_y[i] if y[i] > zero else zero
            passed = g
        _add_products(passed, at, x, start, stop, mean, total, product)


@jit
def _few(lanes):
    """How many elements pass through a ReLU at a time: whole pairs of rows, which stay in L1."""
    pair = 2 * lanes.shape[1]
    return max(1, FEW // pair) * pair


@jit
def _add_products(g, at, x, first, end, mean, total, product):
    """Add the numbers of g from ``at`` on, and their products with x - mean, lane by lane."""
    width = np.uint64(len(mean))
    two = width + width
    twos = first + (end - first) // two * two
    for row in range(first, twos, two):
        fetch(x, row + AHEAD, two)
        fetch(g, at + AHEAD, two)
        at_1, row_1 = at + width, row + width
        for lane in range(width):
            a, b = np.float64(g[at + lane]), np.float64(g[at_1 + lane])
            c, d = x[row + lane] - mean[lane], x[row_1 + lane] - mean[lane]
            total[lane] += a + b
            product[lane] += a * c + b * d
        at += two
    for row in range(twos, end, width):
        for lane in range(min(width, end - row)):
            a = np.float64(g[at + lane])
            total[lane] += a
            product[lane] += a * (x[row + lane] - mean[lane])
        at += width


@jit
def _through_relu_of_x(grad_y, x, lanes, first, end, g):
    """g = grad_y from ``first`` to ``end`` where ``_lane_affine`` made x positive, else 0."""
    mean, scale, bias, rest = lanes[0], lanes[1], lanes[2], lanes[-1]
    width, at, zero = np.uint64(len(mean)), np.uint64(0), x.dtype.type(0)
    for row in range(first, end, width):
        fetch(x, row + AHEAD, width)
        fetch(grad_y, row + AHEAD, width)
        for lane in range(min(width, end - row)):
            value = ((x[row + lane] - mean[lane]) - rest[lane]) * scale[lane] + bias[lane]
            passed = grad_y[row + lane]
            g[at + lane] = passed if value > zero else zero
        at += width


@parallel_jit
def _gradient_of_x(grad_y, x, lanes, block, grad_x):
    """grad_x = scale * (g - offset - (x - mean) * slope), from the last block to the first.

    g = grad_y where ``_lane_affine`` made x positive, as an infinite bias does, else 0.
    """
    mean, scale, bias = lanes[0], lanes[1], lanes[2]
    offset, slope, rest = lanes[3], lanes[4], lanes[5]
    width, zero = np.uint64(lanes.shape[1]), x.dtype.type(0)
    for i in prange(-(-len(x) // block)):
        first, end = _span_from_the_end(i, block, len(x))
        for row in range(first, end, width):
            fetch(x, row + AHEAD, width)
            fetch(grad_y, row + AHEAD, width)
            for lane in range(min(width, end - row)):
                centered = (x[row + lane] - mean[lane]) - rest[lane]
                passed = grad_y[row + lane]
                g = passed if centered * scale[lane] + bias[lane] > zero else zero
                grad_x[row + lane] = scale[lane] * ((g - offset[lane]) - centered * slope[lane])
