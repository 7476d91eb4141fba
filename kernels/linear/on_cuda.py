"""linear on CUDA: a 1 x 1 convolution on tensor cores, else launches of linear.cu."""

import numpy as np

from ..conv2d import Conv2dSize
from ..conv2d.algorithm import Algorithm, Problem
from ..conv2d.choice import FAMILIES, choose
from ..cuda.gemm import SHORT_M, SHORT_N, SUM_BLOCK, WIDE, splits, tile_for, tiled_kernels, tiles
from ..cuda.gpu import gpu_of
from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div

_FPROP = tiled_kernels(__file__, "linear.cu", "linear_fprop_tiled", WIDE, SHORT_N)
_DGRAD = tiled_kernels(__file__, "linear.cu", "linear_dgrad_tiled", WIDE, SHORT_N)
_WGRAD = tiled_kernels(__file__, "linear.cu", "linear_wgrad_tiled", WIDE, SHORT_M)
_WGRAD_SUM = Kernel(__file__, "linear.cu", "linear_wgrad_sum", block=SUM_BLOCK, STORAGE=FLOAT_TYPES)


def fprop(x, w, bias, y):
    if bias is not None and not bias.flags.c_contiguous:
        bias = bias.copy()
    if found := convolution("fprop", x, w, x, w, y):
        algorithm, size = found
        x, w, y = x.reshape(size.x_shape), w.reshape(size.w_shape), y.reshape(size.y_shape)
        return FAMILIES[algorithm.family].fprop(algorithm, x, w, bias, y, size)
    size = {"m": x.shape[0], "c": x.shape[1], "k": w.shape[0]}
    tile = tile_for(_FPROP, *y.shape)
    grid = tiles(tile, *y.shape)
    strides = _strides(x), _strides(w)
    _FPROP[tile].launch(grid, x, w, bias, y, size, *strides, STORAGE=x.dtype)


def dgrad(grad_y, w, grad_x):
    if found := convolution("dgrad", grad_x, w, grad_y, w, grad_x):
        algorithm, size = found
        grad_y, w = grad_y.reshape(size.y_shape), w.reshape(size.w_shape)
        grad_x = grad_x.reshape(size.x_shape)
        return FAMILIES[algorithm.family].dgrad(algorithm, grad_y, w, grad_x, size)
    size = {"m": grad_y.shape[0], "c": w.shape[1], "k": w.shape[0]}
    tile = tile_for(_DGRAD, *grad_x.shape)
    grid = tiles(tile, *grad_x.shape)
    strides = _strides(grad_y), _strides(w)
    _DGRAD[tile].launch(grid, grad_y, w, grad_x, size, *strides, STORAGE=grad_y.dtype)


def wgrad(grad_y, x, grad_w):
    if found := convolution("wgrad", x, grad_w, grad_y, x, grad_w):
        algorithm, size = found
        grad_y, x = grad_y.reshape(size.y_shape), x.reshape(size.x_shape)
        grad_w = grad_w.reshape(size.w_shape)
        return FAMILIES[algorithm.family].wgrad(algorithm, grad_y, x, grad_w, size)
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


def convolution(verb, x, w, *arrays) -> tuple[Algorithm, Conv2dSize] | None:
    """Return what computes a product as a 1 x 1 convolution of one image, M pixels wide.

    None where tensor cores do not compute it: for float64 and ieee float32, for matrices with
    gaps, empty ones or turned ones, and where the convolution itself would not use them.

    Args:
        verb: Of the convolution.
        x: (M, C), or an array of that shape.
        w: (K, C), or an array of that shape.
        arrays: Those that the kernels are given.
    """
    if not all(a.size and a.flags.c_contiguous for a in arrays):
        return None
    (m, c), k = x.shape, len(w)
    size = Conv2dSize.of((1, 1, m, c), (k, 1, 1, c))
    problem = Problem.of(verb, size, *arrays, gpu_precision="ieee")
    if not problem.on_tensor_cores:
        return None
    algorithm = choose(problem, gpu_of(x))
    return None if algorithm.family == "simt" else (algorithm, size)


def wgrad_configuration(m: int, c: int, k: int) -> tuple[tuple[int, int], int, int]:
    """Return the tile, the number of tiles, and the parts that the sum over m is cut into."""
    tile = tile_for(_WGRAD, k, c)
    blocks = tiles(tile, k, c)
    return tile, blocks, splits(blocks, m)


def _strides(matrix):
    """In elements: of rows, and along the depth of a product, which in memory is a row here."""
    row, depth = (stride // matrix.itemsize for stride in matrix.strides)
    return {"row": row, "depth": depth}
