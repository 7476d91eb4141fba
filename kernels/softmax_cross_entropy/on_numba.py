"""softmax_cross_entropy in Numba: rows in parallel, each while it lies in the L1 cache.

The exponentials are those of ``cpu/exponential.py``, in the dtype of the logits, by vectors: a
piece of a row goes into a tile, which is filled up to whole vectors. Sums, logarithms, the loss
and the gradient are float64, rounded once at the end.
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
    operands = [np.ascontiguousarray(a) for a in (logits, target, _or_ones(weight, logits))]
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
    operands = [np.ascontiguousarray(a) for a in (logits, target, _or_ones(weight, logits))]
    constants = CONSTANTS[logits.dtype.name]
    if target.ndim == 2:
        _backward_probabilities(
            scale, *operands, lse, float(label_smoothing), constants, grad_logits
        )
    else:
        options = int(ignore_index), float(label_smoothing)
        _backward_classes(scale, *operands, lse, *options, constants, grad_logits)


@jit
def _exponentials(tile, count, constants):
    """Replace ``tile[:count]``, none above 0, by its exponentials, and what follows by zeros."""
    filled = -(-count // VECTOR) * VECTOR
    for i in range(count, filled):
        tile[i] = constants[0]
    here = tile[:filled]
    for i in range(filled):
        a, b, e = exp_parts(here[i], constants)
        here[i] = (b + b * e) * a


@jit
def _log_sum_exp(row, tile, constants):
    largest = run_max(row, 0, np.minimum(RUN, len(row)))
    for c in range(RUN, len(row), RUN):
        largest = np.maximum(largest, run_max(row, c, np.minimum(RUN, len(row) - c)))
    total = 0.0
    for first in range(0, len(row), TILE):
        piece = row[first : first + TILE]
        for c in range(len(piece)):
            tile[c] = piece[c] - largest
        _exponentials(tile, len(piece), constants)
        for c in range(0, len(piece), RUN):
            total += run_sum(tile, c, np.minimum(RUN, len(piece) - c))
    return largest + np.log(total)


@parallel_jit
def _forward_classes(
    logits, target, weight, ignore_index, label_smoothing, constants, lse, losses, weights
):
    classes = logits.shape[1]
    tile = np.empty(TILE, logits.dtype)
    for m in prange(len(logits)):
        row, t = logits[m], target[m]
        lse[m] = _log_sum_exp(row, tile, constants)
        if t == ignore_index:
            losses[m] = weights[m] = 0
            continue
        weights[m] = weight[t]
        losses[m] = -(1 - label_smoothing) * weight[t] * (row[t] - lse[m])
        if label_smoothing:
            total = 0.0
            for c in range(classes):
                total += weight[c] * (row[c] - lse[m])
            losses[m] -= label_smoothing / classes * total


@parallel_jit
def _forward_probabilities(
    logits, target, weight, label_smoothing, constants, lse, losses, weights
):
    classes = logits.shape[1]
    tile = np.empty(TILE, logits.dtype)
    for m in prange(len(logits)):
        row = logits[m]
        lse[m] = _log_sum_exp(row, tile, constants)
        total = 0.0
        for c in range(classes):
            q = (1 - label_smoothing) * target[m, c] + label_smoothing / classes
            total += weight[c] * q * (row[c] - lse[m])
        losses[m], weights[m] = -total, 1


@jit
def _softmax(piece, lse, tile, constants):
    for c in range(len(piece)):
        tile[c] = min(piece[c] - lse, 0.0)
    _exponentials(tile, len(piece), constants)


@parallel_jit
def _backward_classes(
    scale, logits, target, weight, lse, ignore_index, label_smoothing, constants, grad_logits
):
    classes = logits.shape[1]
    rest = label_smoothing / classes
    tile = np.empty(TILE, logits.dtype)
    for m in prange(len(logits)):
        t, factor = target[m], scale[m]
        if t == ignore_index:
            grad_logits[m] = 0
            continue
        total = (1 - label_smoothing) * weight[t]
        if label_smoothing:
            for c in range(classes):
                total += rest * weight[c]
        for first in range(0, classes, TILE):
            piece, grad = logits[m, first : first + TILE], grad_logits[m, first : first + TILE]
            shares = weight[first : first + TILE]
            _softmax(piece, lse[m], tile, constants)
            for c in range(len(grad)):
                grad[c] = factor * (tile[c] * total - rest * shares[c])
            c = t - first
            if 0 <= c < len(grad):
                a = rest * shares[c] + (1 - label_smoothing) * shares[c]
                grad[c] = factor * (tile[c] * total - a)


@parallel_jit
def _backward_probabilities(
    scale, logits, target, weight, lse, label_smoothing, constants, grad_logits
):
    classes = logits.shape[1]
    rest = label_smoothing / classes
    tile = np.empty(TILE, logits.dtype)
    for m in prange(len(logits)):
        factor, total = scale[m], 0.0
        for c in range(classes):
            total += weight[c] * ((1 - label_smoothing) * target[m, c] + rest)
        for first in range(0, classes, TILE):
            piece, grad = logits[m, first : first + TILE], grad_logits[m, first : first + TILE]
            shares, wanted = weight[first : first + TILE], target[m, first : first + TILE]
            _softmax(piece, lse[m], tile, constants)
            for c in range(len(grad)):
                a = shares[c] * ((1 - label_smoothing) * wanted[c] + rest)
                grad[c] = factor * (tile[c] * total - a)
