"""adam on CUDA: one launch of adam.cu over the flat buffers, and one that counts the step."""

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..segments import CHUNK_BYTES

_BLOCK = 256
_SHAPE = {"block": _BLOCK, "CHUNK_BYTES": CHUNK_BYTES}

_STEP = Kernel(__file__, "adam.cu", "adam_step_flat", STORAGE=FLOAT_TYPES, **_SHAPE)
_COUNT = Kernel(__file__, "adam.cu", "adam_count_steps", block=_BLOCK)


def step(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, segments, hyper):
    rows = len(segments)
    buffers = (param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq)
    grid = ceil_div(param.nbytes, CHUNK_BYTES)
    _STEP.launch(grid, *buffers, segments, rows, hyper, STORAGE=param.dtype)
    _COUNT.launch(ceil_div(rows, _BLOCK), segments, rows)
