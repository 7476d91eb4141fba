"""adam in NumPy: the definition, parameter by parameter. Read this first."""

import numpy as np

from ..segments import ACTIVE, STEP


def step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, segments, hyper):
    for row in np.flatnonzero(segments[:, ACTIVE]):
        segments[row, STEP] += 1
        start, size, group, _, t = segments[row].tolist()
        lr, beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize = hyper[group].tolist()
        here = slice(start, start + size)
        w, d, m, v = param[here], grad[here], exp_avg[here], exp_avg_sq[here]
        if maximize:
            d = -d
        if weight_decay and decoupled:
            w *= 1 - lr * weight_decay
        elif weight_decay:
            d = d + weight_decay * w
        m[...] = beta1 * m + (1 - beta1) * d
        v[...] = beta2 * v + (1 - beta2) * d * d
        s = v
        if amsgrad:
            s = max_exp_avg_sq[here]
            np.maximum(s, v, out=s)
        rate, root = lr / (1 - beta1**t), (1 - beta2**t) ** 0.5
        w -= rate * m / (np.sqrt(s) / root + eps)
