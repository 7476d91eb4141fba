"""sgd on CUDA: one launch of sgd.cu over the flat buffers, and one that counts the step."""

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..segments import CHUNK_BYTES

_BLOCK = 256
_SHAPE = {"block": _BLOCK, "CHUNK_BYTES": CHUNK_BYTES}

_STEP = Kernel(__file__, "sgd.cu", "sgd_step_flat", STORAGE=FLOAT_TYPES, **_SHAPE)
_COUNT = Kernel(__file__, "sgd.cu", "sgd_count_steps", block=_BLOCK)


def step(param, grad, momentum_buffer, segments, hyper):
    rows = len(segments)
    grid = ceil_div(param.nbytes, CHUNK_BYTES)
    tables = (segments, rows, hyper)
    _STEP.launch(grid, param, grad, momentum_buffer, *tables, STORAGE=param.dtype)
    _COUNT.launch(ceil_div(rows, _BLOCK), segments, rows)
