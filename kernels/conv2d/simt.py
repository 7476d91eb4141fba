"""Convolutions in the arithmetic of the dtype: tiles of products, or direct loops if depthwise."""

import numpy as np

from ..arrays import Array
from ..cuda.gemm import (
    SHORT_M,
    SHORT_N,
    SUM_BLOCK,
    TILE_DEPTH,
    WIDE,
    splits,
    tile_for,
    tiled_kernels,
    tiles,
)
from ..cuda.gpu import Gpu
from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from .algorithm import Algorithm, Problem

_FPROP = tiled_kernels(__file__, "conv2d_fprop.cu", "conv2d_fprop_tiled", WIDE, SHORT_N)
_DGRAD = tiled_kernels(__file__, "conv2d_dgrad.cu", "conv2d_dgrad_tiled", WIDE, SHORT_N)
_WGRAD = tiled_kernels(__file__, "conv2d_wgrad.cu", "conv2d_wgrad_tiled", WIDE, SHORT_M)
WGRAD_SUM = Kernel(
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


def runs_on(gpu: Gpu) -> bool:
    """Whether a GPU has what these kernels need: every one has."""
    return True


def algorithms(problem: Problem) -> tuple[Algorithm, ...]:
    """Return the one algorithm for a problem; it is never less exact than the problem asks."""
    size, (m, n, depth) = problem.size, problem.gemm
    wgrad = problem.verb == "wgrad"
    if problem.depthwise:
        family, depth_step = "depthwise", 1
        tile = (_LANES, _TAPS) if wgrad else (_PIXELS, _LANES)
        blocks = ceil_div(size.k, _LANES) * ceil_div(n, _TAPS)
    else:
        family, depth_step = "simt", TILE_DEPTH
        tile = tile_for({"fprop": _FPROP, "dgrad": _DGRAD, "wgrad": _WGRAD}[problem.verb], m, n)
        blocks = size.groups * tiles(tile, m, n)
    return (Algorithm(family, *tile, depth_step, splits(blocks, depth) if wgrad else 1),)


def fprop(algorithm, x, w, bias, y, size):
    kernel, grid = fprop_configuration(algorithm, size)
    kernel.launch(grid, x, w, bias, y, size, STORAGE=x.dtype)


def dgrad(algorithm, grad_y, w, grad_x, size):
    kernel, grid = dgrad_configuration(algorithm, size)
    kernel.launch(grid, grad_y, w, grad_x, size, STORAGE=grad_y.dtype)


def wgrad(algorithm, grad_y, x, grad_w, size):
    kernel, (blocks, parts) = wgrad_configuration(algorithm, size)
    partial = parts_of(grad_w, parts)
    kernel.launch((blocks, parts), grad_y, x, grad_w, partial, size, parts, STORAGE=x.dtype)
    add_parts(partial, grad_w)


def parts_of(grad_w: Array, parts: int) -> Array | None:
    """Return an array for sums of grad_w in parts (parts, |grad_w|); None where there is one."""
    if parts == 1:
        return None
    dtype = np.float64 if grad_w.dtype == np.float64 else np.float32
    return np.empty_like(grad_w, shape=(parts, grad_w.size), dtype=dtype)


def add_parts(partial: Array | None, grad_w: Array) -> None:
    """Fill grad_w with the sum of its parts, in ascending order; None: it is there already."""
    if partial is not None:
        grid, count = ceil_div(grad_w.size, SUM_BLOCK), grad_w.size
        WGRAD_SUM.launch(grid, partial, grad_w, count, len(partial), STORAGE=grad_w.dtype)


def fprop_configuration(algorithm: Algorithm, size) -> tuple[Kernel, int]:
    """Return the kernel and the blocks of a forward convolution."""
    pixels = size.n * size.p * size.q
    if algorithm.family == "depthwise":
        return _DEPTHWISE["fprop"], ceil_div(pixels, _PIXELS) * ceil_div(size.k, _LANES)
    tile = algorithm.tile_m, algorithm.tile_n
    return _FPROP[tile], size.groups * tiles(tile, pixels, size.k // size.groups)


def dgrad_configuration(algorithm: Algorithm, size) -> tuple[Kernel, int]:
    """Return the kernel and the blocks of a gradient with respect to x.

    Every phase of the strides has as many blocks as the first, which is the largest.
    """
    if algorithm.family == "depthwise":
        pixels = size.n * size.h * size.w
        return _DEPTHWISE["dgrad"], ceil_div(pixels, _PIXELS) * ceil_div(size.c, _LANES)
    phases = min(size.stride_h, size.h) * min(size.stride_w, size.w)
    pixels = size.n * ceil_div(size.h, size.stride_h) * ceil_div(size.w, size.stride_w)
    tile = algorithm.tile_m, algorithm.tile_n
    return _DGRAD[tile], phases * size.groups * tiles(tile, pixels, size.c // size.groups)


def wgrad_configuration(algorithm: Algorithm, size) -> tuple[Kernel, tuple[int, int]]:
    """Return the kernel, its blocks, and the parts that the sum over pixels is cut into."""
    taps = size.r * size.s * size.c // size.groups
    if algorithm.family == "depthwise":
        blocks = ceil_div(size.k, _LANES) * ceil_div(taps, _TAPS)
        return _DEPTHWISE["wgrad"], (blocks, algorithm.splits)
    tile = algorithm.tile_m, algorithm.tile_n
    blocks = size.groups * tiles(tile, size.k // size.groups, taps)
    return _WGRAD[tile], (blocks, algorithm.splits)
