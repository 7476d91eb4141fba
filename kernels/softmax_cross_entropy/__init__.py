"""Softmax and cross entropy in one: the contract that every backend implements.

    lse[m] = log(sum over c of exp(logits[m,c]))       log_p[m,c] = logits[m,c] - lse[m]

Classes as targets, t = target[m] (epsilon is the label smoothing):

    loss[m] = -(1 - epsilon) * weight[t] * log_p[m,t]
              - epsilon / C * sum over c of weight[c] * log_p[m,c];      0 if t = ignore_index

Probabilities as targets:

    loss[m] = -sum over c of weight[c] * q[m,c] * log_p[m,c],
    q[m,c] = (1 - epsilon) * target[m,c] + epsilon / C

The reduction "sum" adds the losses; "mean" divides the sum by the weight[t] of the rows that are
not ignored, added up, or by M when targets are probabilities; so that there is a NaN where no row
is left. With a[m,c] = weight[c] * q[m,c], where a class t stands for q[m,t] = 1, the gradient is

    grad_logits[m,c] = grad_loss[m] * (softmax[m,c] * (sum over k of a[m,k]) - a[m,c])

and 0 for ignored rows; softmax - q for weights of 1, as in the lectures. Label smoothing: Szegedy
et al. 2016, section 7. The largest logit is taken out of the exponentials: none overflows.

Arrays: logits (M, C), target (M,) or (M, C), weight (C,), lse (M,); any strides, grad_logits is
C-contiguous. lse is float64 whatever logits is: float32 would lose the loss of large logits.
"""

import numpy as np

from ..arrays import Array, check_floats, check_index_range, empty
from ..backend import implementation

REDUCTIONS = ("none", "mean", "sum")
Saved = tuple[Array, Array | None]  # lse (M,) and what "mean" divides by (), both float64


def forward(
    logits: Array,
    target: Array,
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
) -> tuple[Array, Saved]:
    """Cross entropy between the targets and the softmax of the logits.

    Args:
        logits: (M, C), float32 or float64; bfloat16 on the backends cuda and emulator.
        target: Classes, (M,), int64, each in 0 .. C-1 or ``ignore_index``; or probabilities,
            (M, C), dtype of ``logits``. On the backend of ``logits``.
        weight: (C,), dtype and backend of ``logits``, or None for ones.
        ignore_index: Class whose rows do not count; only negative ones with probabilities.
        label_smoothing: epsilon, in 0 .. 1.
        reduction: "none", "mean" or "sum".

    Returns:
        loss, dtype of ``logits``, () or (M,) for "none"; and what ``backward`` needs.

    Raises:
        TypeError: dtypes or backends differ, or are not supported.
        ValueError: Shapes do not fit, C is 0, an option is out of range, or a class in a NumPy
            array is (CuPy's are not looked at, which would wait for the GPU: their losses and
            gradients are NaN).
    """
    _check(logits, target, weight, ignore_index, label_smoothing)
    if reduction not in REDUCTIONS:
        raise ValueError(f"cross_entropy: reduction must be one of {REDUCTIONS}, got {reduction!r}")
    m, c = logits.shape
    if target.ndim == 1 and isinstance(target, np.ndarray):
        _check_classes(target, c, ignore_index)
    loss = empty(logits, (m,) if reduction == "none" else ())
    lse = empty(logits, (m,), np.float64)
    divisor = empty(lse, ()) if reduction == "mean" else None
    operands = (logits, target, weight)
    implementation(__name__, *operands).forward(
        *operands, ignore_index, label_smoothing, reduction, loss, lse, divisor
    )
    return loss, (lse, divisor)


def backward(
    grad_loss: Array,
    logits: Array,
    target: Array,
    weight: Array | None,
    saved: Saved,
    ignore_index: int,
    label_smoothing: float,
) -> Array:
    """Gradient of ``forward`` with respect to the logits.

    Args:
        grad_loss: Shape of the loss, dtype of ``logits``.
        logits, target, weight, ignore_index, label_smoothing: As ``forward`` had them.
        saved: From ``forward``.

    Returns:
        (M, C), dtype of ``logits``.

    Raises:
        TypeError, ValueError: As ``forward``; classes are not looked at again.
    """
    _check(logits, target, weight, ignore_index, label_smoothing)
    check_floats("cross_entropy", logits=logits, grad_loss=grad_loss)
    m = logits.shape[0]
    if tuple(grad_loss.shape) not in ((), (m,)):
        raise ValueError(
            f"cross_entropy: grad_loss has shape {tuple(grad_loss.shape)}, expected () or ({m},)"
        )
    lse, divisor = saved
    grad_logits = empty(logits, logits.shape)
    operands = (grad_loss, logits, target, weight, lse, divisor)
    implementation(__name__, *operands).backward(
        *operands, ignore_index, label_smoothing, grad_logits
    )
    return grad_logits


def _check(
    logits: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> None:
    check_floats("cross_entropy", logits=logits, weight=weight)
    if not hasattr(target, "dtype"):
        raise TypeError(f"cross_entropy: target is {type(target).__name__}, not an array")
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(
            f"cross_entropy: logits must be (M, C) with C > 0, got shape {tuple(logits.shape)}"
        )
    m, c = logits.shape
    if tuple(target.shape) == (m, c):
        check_floats("cross_entropy", logits=logits, target=target)
        if ignore_index >= 0:
            raise ValueError(
                f"cross_entropy: ignore_index={ignore_index} has no meaning for probabilities"
            )
    elif tuple(target.shape) == (m,):
        if target.dtype != np.int64:
            raise TypeError(
                f"cross_entropy: target has dtype {target.dtype}, classes must be int64: "
                "convert them first, target.astype('int64')"
            )
    else:
        raise ValueError(
            f"cross_entropy: target {tuple(target.shape)} must be classes ({m},) or "
            f"probabilities ({m}, {c}) for logits {(m, c)}"
        )
    if weight is not None and tuple(weight.shape) != (c,):
        raise ValueError(
            f"cross_entropy: weight has shape {tuple(weight.shape)}, expected ({c},), one a class"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"cross_entropy: label_smoothing must be between 0 and 1, got {label_smoothing}"
        )
    check_index_range("cross_entropy", logits=m * c)


def _check_classes(target: np.ndarray, classes: int, ignore_index: int) -> None:
    wrong = np.flatnonzero(((target < 0) | (target >= classes)) & (target != ignore_index))
    if wrong.size:
        raise ValueError(
            f"cross_entropy: target[{wrong[0]}] is {target[wrong[0]]}, but there are {classes} "
            f"classes, 0 to {classes - 1} (ignore_index is {ignore_index}); "
            f"{wrong.size} of {target.size} targets are out of range"
        )
