"""linear on CUDA: launches of linear.cu, by tiles of the result."""

import numpy as np

from ..cuda.gemm import SHORT_M, SHORT_N, SUM_BLOCK, WIDE, splits, tile_for, tiled_kernels, tiles
from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div

_FPROP = tiled_kernels(__file__, "linear.cu", "linear_fprop_tiled", WIDE, SHORT_N)
_DGRAD = tiled_kernels(__file__, "linear.cu", "linear_dgrad_tiled", WIDE, SHORT_N)
_WGRAD = tiled_kernels(__file__, "linear.cu", "linear_wgrad_tiled", WIDE, SHORT_M)
_WGRAD_SUM = Kernel(__file__, "linear.cu", "linear_wgrad_sum", block=SUM_BLOCK, STORAGE=FLOAT_TYPES)


def fprop(x, w, bias, y):
    size = {"m": x.shape[0], "c": x.shape[1], "k": w.shape[0]}
    if bias is not None and not bias.flags.c_contiguous:
        bias = bias.copy()
    tile = tile_for(_FPROP, *y.shape)
    grid = tiles(tile, *y.shape)
    strides = _strides(x), _strides(w)
    _FPROP[tile].launch(grid, x, w, bias, y, size, *strides, STORAGE=x.dtype)


def dgrad(grad_y, w, grad_x):
    size = {"m": grad_y.shape[0], "c": w.shape[1], "k": w.shape[0]}
    tile = tile_for(_DGRAD, *grad_x.shape)
    grid = tiles(tile, *grad_x.shape)
    strides = _strides(grad_y), _strides(w)
    _DGRAD[tile].launch(grid, grad_y, w, grad_x, size, *strides, STORAGE=grad_y.dtype)


def wgrad(grad_y, x, grad_w):
    m, c = x.shape
    k = grad_y.shape[1]
    tile, blocks, parts = wgrad_configuration(m, c, k)
    partial = None
    if parts > 1:
        dtype = np.float64 if x.dtype == np.float64 else np.float32
        partial = np.empty_like(x, shape=(parts, k, c), dtype=dtype, order="C")
    arrays = grad_y, x, grad_w, partial
    sizes = {"m": m, "c": c, "k": k}, _strides(grad_y), _strides(x), parts
    _WGRAD[tile].launch((blocks, parts), *arrays, *sizes, STORAGE=x.dtype)
    if parts > 1:
        grid = ceil_div(k * c, SUM_BLOCK)
        _WGRAD_SUM.launch(grid, partial, grad_w, k * c, parts, STORAGE=x.dtype)


def wgrad_configuration(m: int, c: int, k: int) -> tuple[tuple[int, int], int, int]:
    """Return the tile, the number of tiles, and the parts that the sum over m is cut into."""
    tile = tile_for(_WGRAD, k, c)
    blocks = tiles(tile, k, c)
    return tile, blocks, splits(blocks, m)


def _strides(matrix):
    """In elements: of rows, and along the depth of a product, which in memory is a row here."""
    row, depth = (stride // matrix.itemsize for stride in matrix.strides)
    return {"row": row, "depth": depth}
