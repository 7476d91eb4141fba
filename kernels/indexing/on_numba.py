"""indexing on the CPU: slices touch no cell twice and need no scattered sum."""

import numpy as np


def backward(grad_y, index, grad_x):
    grad_x[...] = 0
    parts = index if isinstance(index, tuple) else (index,)
    if any(hasattr(part, "dtype") or isinstance(part, list) for part in parts):
        np.add.at(grad_x, index, grad_y)
    else:
        grad_x[index] = grad_y
