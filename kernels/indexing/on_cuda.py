"""indexing on CUDA: views are copied into; of arrays of indices, runs of equal cells are summed."""

import numpy as np

from .. import layout
from ..arrays import full
from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div

_RUNS = Kernel(__file__, "indexing.cu", "indexing_backward_runs", block=256, STORAGE=FLOAT_TYPES)


def backward(grad_y, index, grad_x):
    layout.fill(grad_x, full(grad_x, 0, ()))
    parts = index if isinstance(index, tuple) else (index,)
    if all(_makes_a_view(part) for part in parts):
        if not any(part is Ellipsis for part in parts):
            parts = (*parts, Ellipsis)  # one element is then a 0-d view, not a scalar
        layout.fill(grad_x[parts], grad_y)
    else:
        _sum_runs(grad_y, index, grad_x)


def _makes_a_view(part):
    if part is None or part is Ellipsis or isinstance(part, slice):
        return True
    return isinstance(part, int | np.integer) and not isinstance(part, bool)


def _sum_runs(grad_y, index, grad_x):
    cells = np.arange(grad_x.size, like=grad_x).reshape(grad_x.shape)[index].reshape(-1)
    places = np.argsort(cells, kind="stable")
    grid = ceil_div(cells.size, _RUNS.block)
    operands = layout.contiguous(grad_y), cells[places], places, grad_x
    _RUNS.launch(grid, *operands, cells.size, STORAGE=grad_y.dtype)
