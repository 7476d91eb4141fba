"""layout on the CPU: a strided copy is bound by memory, and NumPy walks it in the order of y."""

import numpy as np


def fill(y, x):
    np.copyto(y, x, casting="unsafe")
