"""indexing in NumPy: the definition."""

import numpy as np


def backward(grad_y, index, grad_x):
    grad_x[...] = 0
    np.add.at(grad_x, index, grad_y)
