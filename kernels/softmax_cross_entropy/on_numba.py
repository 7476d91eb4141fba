"""softmax_cross_entropy in Numba: one pass over each row, rows in parallel, in float64."""

import numpy as np
from numba import prange

from ..cpu.jit import jit, parallel_jit
from .on_numpy import _or_ones


def forward(logits, target, weight, ignore_index, label_smoothing, reduction, loss, lse, divisor):
    losses = np.empty_like(lse)
    weight = _or_ones(weight, logits)
    operands = [np.ascontiguousarray(a) for a in (logits, target, weight)]
    if target.ndim == 2:
        _forward_probabilities(*operands, float(label_smoothing), lse, losses)
        total_weight = len(logits)
    else:
        _forward_classes(*operands, ignore_index, float(label_smoothing), lse, losses)
        total_weight = weight[target[target != ignore_index]].sum(dtype=np.float64)
    if reduction == "mean":
        divisor[...] = total_weight
        loss[...] = losses.sum() / divisor
    else:
        loss[...] = losses if reduction == "none" else losses.sum()


def backward(
    grad_loss, logits, target, weight, lse, divisor, ignore_index, label_smoothing, grad_logits
):
    scale = grad_loss if divisor is None else grad_loss / divisor
    scale = np.ascontiguousarray(np.broadcast_to(scale.astype(np.float64), lse.shape))
    operands = [np.ascontiguousarray(a) for a in (logits, target, _or_ones(weight, logits))]
    if target.ndim == 2:
        _backward_probabilities(scale, *operands, lse, float(label_smoothing), grad_logits)
    else:
        _backward_classes(scale, *operands, lse, ignore_index, float(label_smoothing), grad_logits)


@jit
def _log_sum_exp(row):
    largest = np.float64(row[0])
    for x in row:
        largest = max(largest, np.float64(x))
    total = 0.0
    for x in row:
        total += np.exp(x - largest)
    return largest + np.log(total)


@parallel_jit
def _forward_classes(logits, target, weight, ignore_index, label_smoothing, lse, losses):
    classes = logits.shape[1]
    for m in prange(len(logits)):
        row = logits[m]
        lse[m] = _log_sum_exp(row)
        if target[m] == ignore_index:
            losses[m] = 0
            continue
        t = target[m]
        losses[m] = -(1 - label_smoothing) * weight[t] * (row[t] - lse[m])
        if label_smoothing:
            total = 0.0
            for c in range(classes):
                total += weight[c] * (row[c] - lse[m])
            losses[m] -= label_smoothing / classes * total


@parallel_jit
def _forward_probabilities(logits, target, weight, label_smoothing, lse, losses):
    classes = logits.shape[1]
    for m in prange(len(logits)):
        row = logits[m]
        lse[m] = _log_sum_exp(row)
        total = 0.0
        for c in range(classes):
            q = (1 - label_smoothing) * target[m, c] + label_smoothing / classes
            total += weight[c] * q * (row[c] - lse[m])
        losses[m] = -total


@parallel_jit
def _backward_classes(
    scale, logits, target, weight, lse, ignore_index, label_smoothing, grad_logits
):
    classes = logits.shape[1]
    rest = label_smoothing / classes
    for m in prange(len(logits)):
        grad = grad_logits[m]
        if target[m] == ignore_index:
            grad[:] = 0
            continue
        t = target[m]
        total = (1 - label_smoothing) * weight[t]
        if label_smoothing:
            for c in range(classes):
                total += rest * weight[c]
        for c in range(classes):
            a = rest * weight[c]
            if c == t:
                a += (1 - label_smoothing) * weight[c]
            grad[c] = scale[m] * (np.exp(logits[m, c] - lse[m]) * total - a)


@parallel_jit
def _backward_probabilities(scale, logits, target, weight, lse, label_smoothing, grad_logits):
    classes = logits.shape[1]
    rest = label_smoothing / classes
    for m in prange(len(logits)):
        total = 0.0
        for c in range(classes):
            total += weight[c] * ((1 - label_smoothing) * target[m, c] + rest)
        for c in range(classes):
            a = weight[c] * ((1 - label_smoothing) * target[m, c] + rest)
            grad_logits[m, c] = scale[m] * (np.exp(logits[m, c] - lse[m]) * total - a)
