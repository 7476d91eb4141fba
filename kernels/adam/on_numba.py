"""adam in Numba: one pass over fixed chunks of the active segments, indexed as in sgd."""

import math

import numpy as np
from numba import prange

from ..cpu.jit import parallel_jit
from ..segments import ACTIVE, GROUP, STEP, chunks
from . import AMSGRAD, BETA1, BETA2, DECOUPLED, EPS, LR, MAXIMIZE, WEIGHT_DECAY


def step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, segments, hyper):
    if max_exp_avg_sq is None:
        max_exp_avg_sq = param[:0]  # never read: no group has amsgrad
    segments[:, STEP] += segments[:, ACTIVE]
    _step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, chunks(segments), segments, hyper)


@parallel_jit
def _step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, pieces, segments, hyper):
    number = param.dtype.type  # scalars too, as in the definition: float64 ones would widen all
    for piece in prange(len(pieces)):
        row = pieces[piece, 0]
        elements = range(np.uint64(pieces[piece, 1]), np.uint64(pieces[piece, 2]))
        numbers = hyper[segments[row, GROUP]]
        lr, weight_decay = numbers[LR], numbers[WEIGHT_DECAY]
        t = np.float64(segments[row, STEP])
        beta1, gain1 = number(numbers[BETA1]), number(1 - numbers[BETA1])
        beta2, gain2 = number(numbers[BETA2]), number(1 - numbers[BETA2])
        rate = number(lr / (1 - math.pow(numbers[BETA1], t)))
        root = number(math.sqrt(1 - math.pow(numbers[BETA2], t)))
        eps, decoupled = number(numbers[EPS]), numbers[DECOUPLED] != 0
        shrink = number(1 - lr * weight_decay if decoupled else 1.0)
        decay, decays = number(weight_decay), weight_decay != 0 and not decoupled
        amsgrad, maximize = numbers[AMSGRAD] != 0, numbers[MAXIMIZE] != 0
        for i in elements:
            d = -grad[i] if maximize else grad[i]
            w = param[i] * shrink
            if decays:
                d += decay * w
            m = beta1 * exp_avg[i] + gain1 * d
            s = v = beta2 * exp_avg_sq[i] + gain2 * d * d
            exp_avg[i], exp_avg_sq[i] = m, v
            if amsgrad:
                s = np.maximum(max_exp_avg_sq[i], s)
                max_exp_avg_sq[i] = s
            param[i] = w - rate * m / (np.sqrt(s) / root + eps)
