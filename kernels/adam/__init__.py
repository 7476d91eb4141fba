"""Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019): the contract of every backend.

    t = t + 1
    d = -grad if maximize else grad
    d = d + weight_decay * param                    Adam: the decay enters the moments
    param = param * (1 - lr * weight_decay)         AdamW: it does not (decoupled)
    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d * d
    s = running maximum of v if amsgrad else v      (Reddi, Kale, Kumar 2018)
    param = param - lr / (1 - beta1^t) * m / (sqrt(s / (1 - beta2^t)) + eps)

This is torch.optim.Adam and AdamW. All parameters lie in flat buffers and are stepped in one
call; ``segments`` says where each lies, whether it takes part and its t, ``hyper`` holds the
numbers of each group. m, v and the maximum start at zero.
"""

from functools import lru_cache

import numpy as np

from ..arrays import Array
from ..backend import implementation
from ..segments import check_buffers, check_flags, check_hyper, check_segments, check_tables

LR, BETA1, BETA2, EPS, WEIGHT_DECAY, DECOUPLED, AMSGRAD, MAXIMIZE = range(8)
COLUMNS = 8


def step(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None,
    segments: Array,
    hyper: Array,
) -> None:
    """Update ``param``, its moments and the STEP of each active segment in place.

    A segment that is not active stays as it is: not decayed, its step not counted.

    Args:
        param: Flat parameters, (L,), float32 or float64, C-contiguous. Also bfloat16 on the
            backends cuda and emulator: computed in float32, then rounded, moments too.
        grad: (L,), dtype and backend of ``param``.
        exp_avg: m, (L,), dtype and backend of ``param``.
        exp_avg_sq: v, (L,), dtype and backend of ``param``.
        max_exp_avg_sq: s, (L,), dtype and backend of ``param``, or None when no group has
            amsgrad; the segments of groups without it are not touched.
        segments: int64 (S, 5), columns of ``kernels.segments``.
        hyper: float64 (G, 8), columns LR, BETA1, BETA2, EPS, WEIGHT_DECAY, DECOUPLED, AMSGRAD,
            MAXIMIZE (the last three 0 or 1). What the tables hold is checked on the host backends
            only: to read a table on the GPU would stop it.

    Raises:
        TypeError: A dtype is not as above, or backends differ.
        ValueError: A shape is not as above; segments overlap, leave the buffers, do not start on
            256 bytes or name no row of ``hyper``; a hyper-parameter is out of range (lr, eps,
            weight_decay >= 0; 0 <= beta < 1); a group has amsgrad but there is no buffer for it.
    """
    check_buffers(
        "adam",
        param=param,
        grad=grad,
        exp_avg=exp_avg,
        exp_avg_sq=exp_avg_sq,
        max_exp_avg_sq=max_exp_avg_sq,
    )
    check_tables("adam", segments, hyper, COLUMNS)
    buffers = (param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq)
    kernel = implementation(__name__, *buffers, segments, hyper)
    if isinstance(segments, np.ndarray):
        check_segments("adam", segments, len(hyper), param)
        _check_hyper(hyper.tobytes(), max_exp_avg_sq is not None)
    kernel.step(*buffers, segments, hyper)


@lru_cache(maxsize=64)
def _check_hyper(rows: bytes, has_buffer: bool) -> None:
    hyper = np.frombuffer(rows).reshape(-1, COLUMNS)
    lr, beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize = hyper.T
    check_hyper("adam", "lr", lr, least=0, below=np.inf)
    check_hyper("adam", "beta1", beta1, least=0, below=1)
    check_hyper("adam", "beta2", beta2, least=0, below=1)
    check_hyper("adam", "eps", eps, least=0, below=np.inf)
    check_hyper("adam", "weight_decay", weight_decay, least=0, below=np.inf)
    check_flags("adam", decoupled=decoupled, amsgrad=amsgrad, maximize=maximize)
    if not has_buffer and amsgrad.any():
        raise ValueError("adam: amsgrad is 1 but max_exp_avg_sq is None; pass a buffer")
