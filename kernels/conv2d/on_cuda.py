"""conv2d on CUDA: implicit products of matrices, tile by tile; direct loops where depthwise."""

import numpy as np

from ..cuda.gemm import (
    SHORT_M,
    SHORT_N,
    SUM_BLOCK,
    WIDE,
    Tile,
    splits,
    tile_for,
    tiled_kernels,
    tiles,
)
from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div

_FPROP = tiled_kernels(__file__, "conv2d_fprop.cu", "conv2d_fprop_tiled", WIDE, SHORT_N)
_DGRAD = tiled_kernels(__file__, "conv2d_dgrad.cu", "conv2d_dgrad_tiled", WIDE, SHORT_N)
_WGRAD = tiled_kernels(__file__, "conv2d_wgrad.cu", "conv2d_wgrad_tiled", WIDE, SHORT_M)
_WGRAD_SUM = Kernel(
    __file__, "conv2d_wgrad.cu", "conv2d_wgrad_sum", block=SUM_BLOCK, STORAGE=FLOAT_TYPES
)

_LANES, _PIXELS, _TAPS = 32, 32, 4  # of a depthwise block: channels, pixels; taps of its wgrad
_DEPTHWISE = {
    verb: Kernel(
        *(__file__, "conv2d_depthwise.cu", f"conv2d_{verb}_depthwise"),
        block=256,
        STORAGE=FLOAT_TYPES,
    )
    for verb in ("fprop", "dgrad", "wgrad")
}


def fprop(x, w, bias, y, size):
    kernel, grid = fprop_configuration(size)
    kernel.launch(grid, x, w, bias, y, size, STORAGE=x.dtype)


def dgrad(grad_y, w, grad_x, size):
    kernel, grid = dgrad_configuration(size)
    kernel.launch(grid, grad_y, w, grad_x, size, STORAGE=grad_y.dtype)


def wgrad(grad_y, x, grad_w, size):
    kernel, (blocks, parts) = wgrad_configuration(size)
    partial = None
    if parts > 1:
        dtype = np.float64 if x.dtype == np.float64 else np.float32
        partial = np.empty_like(x, shape=(parts, grad_w.size), dtype=dtype)
    arrays = grad_y, x, grad_w, partial
    kernel.launch((blocks, parts), *arrays, size, parts, STORAGE=x.dtype)
    if parts > 1:
        grid = ceil_div(grad_w.size, SUM_BLOCK)
        _WGRAD_SUM.launch(grid, partial, grad_w, grad_w.size, parts, STORAGE=x.dtype)


def fprop_configuration(size) -> tuple[Kernel, int]:
    """Return the kernel and the blocks of a forward convolution."""
    pixels = size.n * size.p * size.q
    if _depthwise(size):
        return _DEPTHWISE["fprop"], ceil_div(pixels, _PIXELS) * ceil_div(size.k, _LANES)
    return _tiled(_FPROP, pixels, size.k // size.groups, size.groups)


def dgrad_configuration(size) -> tuple[Kernel, int]:
    """Return the kernel and the blocks of a gradient with respect to x.

    Every phase of the strides has as many blocks as the first, which is the largest.
    """
    if _depthwise(size):
        pixels = size.n * size.h * size.w
        return _DEPTHWISE["dgrad"], ceil_div(pixels, _PIXELS) * ceil_div(size.c, _LANES)
    phases = min(size.stride_h, size.h) * min(size.stride_w, size.w)
    pixels = size.n * ceil_div(size.h, size.stride_h) * ceil_div(size.w, size.stride_w)
    return _tiled(_DGRAD, pixels, size.c // size.groups, phases * size.groups)


def wgrad_configuration(size) -> tuple[Kernel, tuple[int, int]]:
    """Return the kernel, its blocks, and the parts that the sum over pixels is cut into."""
    taps = size.r * size.s * size.c // size.groups
    if _depthwise(size):
        kernel = _DEPTHWISE["wgrad"]
        blocks = ceil_div(size.k, _LANES) * ceil_div(taps, _TAPS)
    else:
        kernel, blocks = _tiled(_WGRAD, size.k // size.groups, taps, size.groups)
    return kernel, (blocks, splits(blocks, size.n * size.p * size.q))


def _depthwise(size) -> bool:
    """Whether one channel goes to a group: a tile of a product would be empty for the most part."""
    return size.groups > 1 and size.c == size.groups


def _tiled(kernels: dict[Tile, Kernel], m: int, n: int, products: int) -> tuple[Kernel, int]:
    tile = tile_for(kernels, m, n)
    return kernels[tile], products * tiles(tile, m, n)
