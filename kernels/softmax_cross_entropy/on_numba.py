"""softmax_cross_entropy in Numba: rows in parallel, each while it lies in the L1 cache.

The exponentials are those of ``cpu/exponential.py``, in the dtype of the logits, by vectors: a
piece of a row goes into a tile, which is filled up to whole vectors. Sums, logarithms, the loss
and the gradient are float64, rounded once at the end. Arrays are flat: a slice counts its owners,
by atomic operations that all threads wait for.
"""

import numpy as np
from numba import prange

from ..cpu.exponential import CONSTANTS, exp_parts
from ..cpu.fold import RUN, run_max, run_sum
from ..cpu.jit import jit, parallel_jit
from .on_numpy import _or_ones

TILE = 1024  # classes
VECTOR = 16  # elements; the tile is computed by multiples of it


def forward(logits, target, weight, ignore_index, label_smoothing, reduction, loss, lse, divisor):
    losses, weights = rows = np.empty((2, len(lse)))
    operands = [np.ravel(a) for a in (logits, target, _or_ones(weight, logits))]
    constants = CONSTANTS[logits.dtype.name]
    if target.ndim == 2:
        _forward_probabilities(*operands, float(label_smoothing), constants, lse, losses, weights)
    else:
        options = int(ignore_index), float(label_smoothing)
        _forward_classes(*operands, *options, constants, lse, losses, weights)
    if reduction == "none":
        loss[...] = losses
        return
    total_loss, total_weight = rows.sum(axis=1)
    if reduction == "mean":
        divisor[...] = total_weight
        total_loss /= total_weight
    loss[...] = total_loss


def backward(
    grad_loss, logits, target, weight, lse, divisor, ignore_index, label_smoothing, grad_logits
):
    scale = grad_loss if divisor is None else grad_loss / divisor
    scale = np.full(lse.shape, scale, np.float64)
    operands = [np.ravel(a) for a in (logits, target, _or_ones(weight, logits))]
    constants = CONSTANTS[logits.dtype.name]
    if target.ndim == 2:
        _backward_probabilities(
            scale, *operands, lse, float(label_smoothing), constants, grad_logits.reshape(-1)
        )
    else:
        options = int(ignore_index), float(label_smoothing)
        _backward_classes(scale, *operands, lse, *options, constants, grad_logits.reshape(-1))


@jit
def _exponentials(tile, count, constants):
    """Replace ``tile[:count]``, none above 0, by its exponentials, and what follows by zeros."""
    filled = np.uint64(-(-count // VECTOR) * VECTOR)
    for i in range(np.uint64(count), filled):
        tile[i] = constants[0]
    for i in range(filled):
        a, b, e = exp_parts(tile[i], constants)
        tile[i] = (b + b * e) * a


@jit
def _log_sum_exp(logits, start, classes, tile, constants):
    """Of the row of ``classes`` elements that begins at element ``start`` of flat logits."""
    largest = run_max(logits, start, np.minimum(RUN, classes))
    for c in range(RUN, classes, RUN):
        largest = np.maximum(largest, run_max(logits, start + c, np.minimum(RUN, classes - c)))
    total = 0.0
    for first in range(0, classes, TILE):
        here, count = np.uint64(start + first), np.minimum(TILE, classes - first)
        for c in range(np.uint64(count)):
            tile[c] = logits[here + c] - largest
        _exponentials(tile, count, constants)
        for c in range(0, count, RUN):
            total += run_sum(tile, c, np.minimum(RUN, count - c))
    return largest + np.log(total)


@parallel_jit
def _forward_classes(
    logits, target, weight, ignore_index, label_smoothing, constants, lse, losses, weights
):
    classes = len(weight)
    tile = np.empty(TILE, logits.dtype)
    for m in prange(len(lse)):
        start, t = np.int64(m) * classes, target[m]
        lse[m] = _log_sum_exp(logits, start, classes, tile, constants)
        if t == ignore_index:
            losses[m] = weights[m] = 0
            continue
        weights[m] = weight[t]
        losses[m] = -(1 - label_smoothing) * weight[t] * (logits[start + t] - lse[m])
        if label_smoothing:
            total = 0.0
            for c in range(classes):
                total += weight[c] * (logits[start + c] - lse[m])
            losses[m] -= label_smoothing / classes * total


@parallel_jit
def _forward_probabilities(
    logits, target, weight, label_smoothing, constants, lse, losses, weights
):
    classes = len(weight)
    tile = np.empty(TILE, logits.dtype)
    for m in prange(len(lse)):
        start = np.int64(m) * classes
        lse[m] = _log_sum_exp(logits, start, classes, tile, constants)
        total = 0.0
        for c in range(classes):
            q = (1 - label_smoothing) * target[start + c] + label_smoothing / classes
            total += weight[c] * q * (logits[start + c] - lse[m])
        losses[m], weights[m] = -total, 1


@jit
def _softmax(logits, start, count, lse, tile, constants):
    for c in range(np.uint64(count)):
        tile[c] = min(logits[np.uint64(start) + c] - lse, 0.0)
    _exponentials(tile, count, constants)


@parallel_jit
def _backward_classes(
    scale, logits, target, weight, lse, ignore_index, label_smoothing, constants, grad_logits
):
    classes = len(weight)
    rest = label_smoothing / classes
    tile = np.empty(TILE, logits.dtype)
    for m in prange(len(lse)):
        start, t, factor = np.int64(m) * classes, target[m], scale[m]
        if t == ignore_index:
            for c in range(start, start + classes):
                grad_logits[c] = 0
            continue
        total = (1 - label_smoothing) * weight[t]
        if label_smoothing:
            for c in range(classes):
                total += rest * weight[c]
        for first in range(0, classes, TILE):
            count = np.minimum(TILE, classes - first)
            _softmax(logits, start + first, count, lse[m], tile, constants)
            here, shares = np.uint64(start + first), np.uint64(first)
            for c in range(np.uint64(count)):
                grad_logits[here + c] = factor * (tile[c] * total - rest * weight[shares + c])
            if first <= t < first + count:
                a = rest * weight[t] + (1 - label_smoothing) * weight[t]
                grad_logits[start + t] = factor * (tile[t - first] * total - a)


@parallel_jit
def _backward_probabilities(
    scale, logits, target, weight, lse, label_smoothing, constants, grad_logits
):
    classes = len(weight)
    rest = label_smoothing / classes
    tile = np.empty(TILE, logits.dtype)
    for m in prange(len(lse)):
        start, factor, total = np.int64(m) * classes, scale[m], 0.0
        for c in range(classes):
            total += weight[c] * ((1 - label_smoothing) * target[start + c] + rest)
        for first in range(0, classes, TILE):
            count = np.minimum(TILE, classes - first)
            _softmax(logits, start + first, count, lse[m], tile, constants)
            here, shares = np.uint64(start + first), np.uint64(first)
            for c in range(np.uint64(count)):
                q = (1 - label_smoothing) * target[here + c] + rest
                a = weight[shares + c] * q
                grad_logits[here + c] = factor * (tile[c] * total - a)
