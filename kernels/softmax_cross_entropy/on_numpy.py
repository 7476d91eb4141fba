"""softmax_cross_entropy in NumPy: the definition, in float64."""

import numpy as np


def forward(logits, target, weight, ignore_index, label_smoothing, reduction, loss, lse, divisor):
    weight = _or_ones(weight, logits)
    largest = logits.max(axis=1).astype(np.float64)
    lse[...] = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    log_p = logits - lse[:, None]
    if target.ndim == 2:
        losses = -(weight * _smoothed(target, label_smoothing) * log_p).sum(axis=1)
        total_weight = len(logits)
    else:
        kept = target != ignore_index
        row, t = np.flatnonzero(kept), target[kept]
        losses = np.zeros_like(lse)
        losses[row] = -(1 - label_smoothing) * weight[t] * log_p[row, t]
        if label_smoothing:
            losses[row] -= label_smoothing / len(weight) * (weight * log_p[row]).sum(axis=1)
        total_weight = weight[t].sum(dtype=np.float64)
    if reduction == "mean":
        divisor[...] = total_weight
        loss[...] = losses.sum() / divisor
    else:
        loss[...] = losses if reduction == "none" else losses.sum()


def backward(
    grad_loss, logits, target, weight, lse, divisor, ignore_index, label_smoothing, grad_logits
):
    weight = _or_ones(weight, logits)
    if target.ndim == 2:
        kept = np.full(len(target), True)
        a = weight * _smoothed(target, label_smoothing)
    else:
        kept = target != ignore_index
        one_hot = target[:, None] == np.arange(len(weight))
        a = weight * _smoothed(one_hot, label_smoothing)
    softmax = np.exp(logits - lse[:, None])
    scale = grad_loss if divisor is None else grad_loss / divisor
    scale = np.broadcast_to(scale.astype(np.float64), lse.shape)[:, None]
    grad = scale * (softmax * a.sum(axis=1, keepdims=True) - a)
    grad_logits[...] = np.where(kept[:, None], grad, 0)


def _smoothed(target, label_smoothing):
    return (1.0 - label_smoothing) * target + label_smoothing / target.shape[1]


def _or_ones(weight, logits):
    return np.ones(logits.shape[1], logits.dtype) if weight is None else weight
