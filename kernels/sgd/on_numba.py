"""sgd in Numba: one pass over fixed chunks of the active segments."""

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
        row, start, end = pieces[piece]
        numbers = hyper[segments[row, GROUP]]
        lr, momentum = number(numbers[LR]), number(numbers[MOMENTUM])
        gain, decay = number(1 - numbers[DAMPENING]), number(numbers[WEIGHT_DECAY])
        decays, maximize = numbers[WEIGHT_DECAY] != 0, numbers[MAXIMIZE] != 0
        first, nesterov = segments[row, STEP] == 0, numbers[NESTEROV] != 0
        w, grads = param[start:end], grad[start:end]
        if numbers[MOMENTUM] == 0:
            for i in range(len(w)):
                d = -grads[i] if maximize else grads[i]
                if decays:
                    d += decay * w[i]
                w[i] -= lr * d
        else:
            b = momentum_buffer[start:end]
            for i in range(len(w)):
                d = -grads[i] if maximize else grads[i]
                if decays:
                    d += decay * w[i]
                b[i] = d if first else momentum * b[i] + gain * d
                w[i] -= lr * (d + momentum * b[i] if nesterov else b[i])
