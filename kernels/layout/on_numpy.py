"""layout in NumPy: the definition."""

import numpy as np


def fill(y, x):
    np.copyto(y, x, casting="unsafe")
