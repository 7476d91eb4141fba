"""Stochastic gradient descent with momentum: the contract that every backend implements.

    d = -grad if maximize else grad
    d = d + weight_decay * param
    b = d at the first step, else momentum * b + (1 - dampening) * d     where momentum > 0
    d = d + momentum * b if nesterov else b                              where momentum > 0
    param = param - lr * d

This is torch.optim.SGD: the learning rate multiplies the momentum buffer b, not the gradient
that enters it. All parameters lie in flat buffers and are stepped in one call; ``segments`` says
where each lies and whether it takes part, ``hyper`` holds the numbers of each group.
"""

from functools import lru_cache

import numpy as np

from ..arrays import Array
from ..backend import implementation
from ..segments import check_buffers, check_flags, check_hyper, check_segments, check_tables

LR, MOMENTUM, DAMPENING, WEIGHT_DECAY, NESTEROV, MAXIMIZE = range(6)
COLUMNS = 6


def step(
    param: Array, grad: Array, momentum_buffer: Array | None, segments: Array, hyper: Array
) -> None:
    """Update ``param``, ``momentum_buffer`` and the STEP of each active segment in place.

    A segment that is not active stays as it is: not decayed, its step not counted. A segment's
    first step is the one at STEP 0; where momentum is switched on later, the buffer is taken as
    it stands.

    Args:
        param: Flat parameters, (L,), float32 or float64, C-contiguous. Also bfloat16 on the
            backends cuda and emulator: computed in float32, then rounded.
        grad: (L,), dtype and backend of ``param``.
        momentum_buffer: (L,), dtype and backend of ``param``, or None when no group has momentum.
        segments: int64 (S, 5), columns of ``kernels.segments``.
        hyper: float64 (G, 6), columns LR, MOMENTUM, DAMPENING, WEIGHT_DECAY, NESTEROV (0 or 1),
            MAXIMIZE (0 or 1). What the tables hold is checked on the host backends only: to read
            a table on the GPU would stop it.

    Raises:
        TypeError: A dtype is not as above, or backends differ.
        ValueError: A shape is not as above; segments overlap, leave the buffers, do not start on
            256 bytes or name no row of ``hyper``; a hyper-parameter is out of range (lr,
            momentum, weight_decay >= 0; nesterov needs momentum > 0 and dampening 0); a group
            has momentum but there is no buffer for it.
    """
    check_buffers("sgd", param=param, grad=grad, momentum_buffer=momentum_buffer)
    check_tables("sgd", segments, hyper, COLUMNS)
    kernel = implementation(__name__, param, grad, momentum_buffer, segments, hyper)
    if isinstance(segments, np.ndarray):
        check_segments("sgd", segments, len(hyper), param)
        _check_hyper(hyper.tobytes(), momentum_buffer is not None)
    kernel.step(param, grad, momentum_buffer, segments, hyper)


@lru_cache(maxsize=64)
def _check_hyper(rows: bytes, has_buffer: bool) -> None:
    hyper = np.frombuffer(rows).reshape(-1, COLUMNS)
    lr, momentum, dampening, weight_decay, nesterov, maximize = hyper.T
    check_hyper("sgd", "lr", lr, least=0, below=np.inf)
    check_hyper("sgd", "momentum", momentum, least=0, below=np.inf)
    check_hyper("sgd", "dampening", dampening, least=-np.inf, below=np.inf)
    check_hyper("sgd", "weight_decay", weight_decay, least=0, below=np.inf)
    check_flags("sgd", nesterov=nesterov, maximize=maximize)
    for group in np.flatnonzero((nesterov == 1) & ((momentum == 0) | (dampening != 0))):
        raise ValueError(
            f"sgd: nesterov needs momentum > 0 and dampening 0, got momentum {momentum[group]} "
            f"and dampening {dampening[group]} in group {group}"
        )
    if not has_buffer and momentum.any():
        raise ValueError(
            f"sgd: momentum is {momentum.max()} but momentum_buffer is None; pass a buffer"
        )
