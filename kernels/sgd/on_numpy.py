"""sgd in NumPy: the definition, parameter by parameter. Read this first."""

import numpy as np

from ..segments import ACTIVE, STEP


def step(param, grad, momentum_buffer, segments, hyper):
    for row in np.flatnonzero(segments[:, ACTIVE]):
        start, size, group, _, taken = segments[row].tolist()
        lr, momentum, dampening, weight_decay, nesterov, maximize = hyper[group].tolist()
        here = slice(start, start + size)
        w, d = param[here], grad[here]
        if maximize:
            d = -d
        if weight_decay:
            d = d + weight_decay * w
        if momentum:
            b = momentum_buffer[here]
            b[...] = momentum * b + (1 - dampening) * d if taken else d
            d = d + momentum * b if nesterov else b
        w -= lr * d
        segments[row, STEP] += 1
