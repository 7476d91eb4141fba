"""softmax_cross_entropy in Numba: blocks of rows in parallel.

Exponentials and gradients are in the dtype of the logits, by vectors (``cpu/softmax.py``); sums,
logarithms and the loss in float64. Arrays are flat: a slice counts its owners, by atomic
operations that all threads wait for.
"""

import numpy as np
from numba import prange

from ..cpu.exponential import exp, log
from ..cpu.fold import largest
from ..cpu.jit import jit, parallel_jit
from ..cpu.softmax import gradient, sum_of_exp
from .on_numpy import _or_ones

BLOCK = 1 << 14  # elements of the rows, at least one, that a turn of a parallel loop takes


def forward(logits, target, weight, ignore_index, label_smoothing, reduction, loss, lse, divisor):
    losses, weights = rows = np.empty((2, len(lse)))
    operands = [np.ravel(a) for a in (logits, target, _or_ones(weight, logits))]
    if target.ndim == 2:
        _forward_probabilities(*operands, float(label_smoothing), lse, losses, weights)
    else:
        options = int(ignore_index), float(label_smoothing)
        _forward_classes(*operands, *options, lse, losses, weights)
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
    if target.ndim == 2:
        _backward_probabilities(
            scale, *operands, lse, float(label_smoothing), grad_logits.reshape(-1)
        )
    else:
        options = int(ignore_index), float(label_smoothing)
        _backward_classes(scale, *operands, lse, *options, grad_logits.reshape(-1))


@jit
def _rows_of(block, classes, rows):
    together = BLOCK // classes + 1
    first = np.int64(block) * together
    return first, np.minimum(first + together, rows)


@jit
def _blocks(classes, rows):
    return -(-rows // (BLOCK // classes + 1))


@jit
def _log_sums(logits, classes, first, end, lse, scratch):
    """lse[m] = log(sum of exp(logits[m])), first <= m < end."""
    most = largest(logits, first * classes, classes)
    for m in range(first, end):
        following = np.minimum(m + 1, end - 1) * classes
        scratch[m] = most
        lse[m], most = sum_of_exp(logits, m * classes, classes, most, following)
    for m in range(np.uint64(first), np.uint64(end)):
        lse[m] = scratch[m] + log(lse[m])


@parallel_jit
def _forward_classes(logits, target, weight, ignore_index, label_smoothing, lse, losses, weights):
    classes = len(weight)
    for block in prange(_blocks(classes, len(lse))):
        first, end = _rows_of(block, classes, len(lse))
        _log_sums(logits, classes, first, end, lse, losses)
        for m in range(first, end):
            start, t = m * classes, target[m]
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
def _forward_probabilities(logits, target, weight, label_smoothing, lse, losses, weights):
    classes = len(weight)
    for block in prange(_blocks(classes, len(lse))):
        first, end = _rows_of(block, classes, len(lse))
        _log_sums(logits, classes, first, end, lse, losses)
        for m in range(first, end):
            start, total = m * classes, 0.0
            for c in range(classes):
                q = (1 - label_smoothing) * target[start + c] + label_smoothing / classes
                total += weight[c] * q * (logits[start + c] - lse[m])
            losses[m], weights[m] = -total, 1


@parallel_jit
def _backward_classes(
    scale, logits, target, weight, lse, ignore_index, label_smoothing, grad_logits
):
    classes = len(weight)
    dtype = logits.dtype.type
    rest = label_smoothing / classes
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
        _gradient(logits, weight, target, start, lse[m], total, factor, 0.0, rest, grad_logits)
        a = rest * weight[t] + (1 - label_smoothing) * weight[t]
        softmax = exp(dtype(logits[start + t] - lse[m]))
        grad_logits[start + t] = factor * (softmax * total - a)


@parallel_jit
def _backward_probabilities(scale, logits, target, weight, lse, label_smoothing, grad_logits):
    classes = len(weight)
    rest = label_smoothing / classes
    for m in prange(len(lse)):
        start, factor, total = np.int64(m) * classes, scale[m], 0.0
        for c in range(classes):
            total += weight[c] * ((1 - label_smoothing) * target[start + c] + rest)
        kept = 1 - label_smoothing
        _gradient(logits, weight, target, start, lse[m], total, factor, kept, rest, grad_logits)


@jit
def _gradient(logits, weight, target, start, lse, total, factor, kept, rest, grad_logits):
    """One row: factor * (softmax * total - weight * q), see ``cpu.softmax.gradient`` for q."""
    dtype = logits.dtype.type
    high = dtype(lse)
    low = dtype(lse - high)
    numbers = high, low, dtype(factor * total), dtype(factor), dtype(kept), dtype(rest)
    gradient(logits, weight, target, start, len(weight), *numbers, grad_logits)
