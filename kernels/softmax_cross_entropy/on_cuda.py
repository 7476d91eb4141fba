"""softmax_cross_entropy on CUDA: a warp or a block for each row, then one block for the sum."""

import numpy as np

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..layout import contiguous

_BLOCK = 256
_WARP = 32
_MOST_PARTS = 1024  # blocks of a forward pass, whose sums one more block adds up
_LONG_ROW = 256  # classes from which a whole block takes a row


def _kernel(entry, lanes=(_WARP, _BLOCK)):
    constants = {"LANES": lanes, "STORAGE": FLOAT_TYPES}
    name = f"softmax_cross_entropy_{entry}"
    return Kernel(__file__, "softmax_cross_entropy.cu", name, block=_BLOCK, **constants)


_FORWARD_CLASSES = _kernel("forward_classes")
_FORWARD_PROBABILITIES = _kernel("forward_probabilities")
_REDUCE = _kernel("forward_reduce", lanes=_BLOCK)
_BACKWARD_CLASSES = _kernel("backward_classes")
_BACKWARD_PROBABILITIES = _kernel("backward_probabilities")


def forward(logits, target, weight, ignore_index, label_smoothing, reduction, loss, lse, divisor):
    size, rows, chosen = _launch_shape(logits)
    grid = min(rows, _MOST_PARTS)
    part = None if reduction == "none" else np.empty_like(lse, shape=(grid, 2))
    results = (lse, loss if part is None else None, part, size)
    operands = (contiguous(logits), contiguous(target), _contiguous(weight))
    if target.ndim == 2:
        _FORWARD_PROBABILITIES.launch(grid, *operands, *results, label_smoothing, **chosen)
    else:
        _FORWARD_CLASSES.launch(grid, *operands, *results, ignore_index, label_smoothing, **chosen)
    if part is not None:
        _REDUCE.launch(1, part, grid, loss, divisor, STORAGE=logits.dtype)


def backward(
    grad_loss, logits, target, weight, lse, divisor, ignore_index, label_smoothing, grad_logits
):
    size, rows, chosen = _launch_shape(logits)
    operands = (contiguous(grad_loss), grad_loss.ndim)
    operands += (contiguous(logits), contiguous(target), _contiguous(weight))
    operands += (lse, divisor, grad_logits, size)
    if target.ndim == 2:
        _BACKWARD_PROBABILITIES.launch(rows, *operands, label_smoothing, **chosen)
    else:
        _BACKWARD_CLASSES.launch(rows, *operands, ignore_index, label_smoothing, **chosen)


def _launch_shape(logits):
    """Return the sizes, the blocks that hold all rows, and the constants."""
    m, c = logits.shape
    lanes = _BLOCK if c >= _LONG_ROW else _WARP
    blocks = ceil_div(m, _BLOCK // lanes)
    return {"m": m, "c": c}, blocks, {"LANES": lanes, "STORAGE": logits.dtype}


def _contiguous(weight):
    return None if weight is None else contiguous(weight)
