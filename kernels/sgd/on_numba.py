"""sgd in Numba: one pass over fixed chunks of the active segments.

Indices are unsigned, since a signed one might count from the end, and address whole buffers: a
slice counts its owners, by atomic operations that all threads wait for.
"""

import numpy as np
from numba import prange

from ..cpu.jit import parallel_jit
from ..segments import ACTIVE, GROUP, STEP, chunks
from . import DAMPENING, LR, MAXIMIZE, MOMENTUM, NESTEROV, WEIGHT_DECAY


def step(param, grad, momentum_buffer, segments, hyper):
    if momentum_buffer is None:
        momentum_buffer = param[:0]  # never read: no group has momentum
    _step(param, grad, momentum_buffer, chunks(segments), segments, hyper)
    segments[:, STEP] += segments[:, ACTIVE]


@parallel_jit
def _step(param, grad, momentum_buffer, pieces, segments, hyper):
    number = param.dtype.type  # scalars too, as in the definition: float64 ones would widen all
    for piece in prange(len(pieces)):
        row = pieces[piece, 0]
        elements = range(np.uint64(pieces[piece, 1]), np.uint64(pieces[piece, 2]))
        numbers = hyper[segments[row, GROUP]]
        lr, momentum = number(numbers[LR]), number(numbers[MOMENTUM])
        gain, decay = number(1 - numbers[DAMPENING]), number(numbers[WEIGHT_DECAY])
        decays, maximize = numbers[WEIGHT_DECAY] != 0, numbers[MAXIMIZE] != 0
        first, nesterov = segments[row, STEP] == 0, numbers[NESTEROV] != 0
        if numbers[MOMENTUM] == 0:
            for i in elements:
                d = -grad[i] if maximize else grad[i]
                if decays:
                    d += decay * param[i]
                param[i] -= lr * d
        else:
            for i in elements:
                d = -grad[i] if maximize else grad[i]
                if decays:
                    d += decay * param[i]
                b = d if first else momentum * momentum_buffer[i] + gain * d
                momentum_buffer[i] = b
                param[i] -= lr * (d + momentum * b if nesterov else b)
