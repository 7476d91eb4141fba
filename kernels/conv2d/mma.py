"""Convolutions on tensor cores by mma.sync, sm_80 and up: bfloat16, or float32 rounded to tf32."""

from dataclasses import replace

from ..cuda.gemm import tiles
from ..cuda.gpu import Gpu
from ..cuda.launch import Kernel, ceil_div
from . import channels
from .algorithm import (
    ACTIVATIONS,
    ALIGNMENT,
    Algorithm,
    Problem,
    empty_sums,
    step_back,
)
from .cost import splits
from .simt import add_parts, parts_of

Tile = tuple[int, int]  # TILE_M, TILE_N

_WIDE, _NARROW, _SHORT, _SMALL = (128, 128), (128, 64), (64, 128), (64, 64)
_ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}
_STAGES, _DEPTH_BYTES = 4, 64  # of the ring, and of a line of a chunk, as in mma_tile.cuh
_LEAST_DEPTH = 512  # pixels of one part of a split sum


def _kernels(verb: str, *shapes: Tile) -> dict[Tile, Kernel]:
    """Return the entry point for each tile; the middle one also takes packs of 8 bytes."""
    return {
        (m, n): Kernel(
            *(__file__, f"conv2d_{verb}_mma.cu", f"conv2d_{verb}_mma"),
            block=256 if (m, n) == _WIDE else 128,
            shared_bytes=_STAGES * (m + n) * _DEPTH_BYTES,
            STORAGE=tuple(_ELEMENT_BYTES),
            PACK_BYTES=(16, 8) if (m, n) in (_NARROW, _SHORT) else (16,),
            TILE_M=m,
            TILE_N=n,
        )
        for m, n in shapes
    }


_FPROP = _kernels("fprop", _WIDE, _NARROW, _SMALL)
_DGRAD = _kernels("dgrad", _WIDE, _NARROW, _SMALL)
_WGRAD = _kernels("wgrad", _WIDE, _SHORT, _SMALL)


def runs_on(gpu: Gpu) -> bool:
    """Whether a GPU has the instructions."""
    return gpu.capability >= 80


def algorithms(problem: Problem) -> tuple[Algorithm, ...]:
    """Return those for a problem.

    None for float64, for float32 in its own precision, and for depthwise convolutions.
    """
    if problem.depthwise or not problem.on_tensor_cores:
        return ()
    verb, itemsize = problem.verb, _ELEMENT_BYTES[problem.dtype]
    padded = channels.padded_size(verb, problem.size, itemsize)
    if not channels.is_indexed(padded):
        return ()
    shapes = {"fprop": _FPROP, "dgrad": _DGRAD, "wgrad": _WGRAD}[verb]
    if channels.pack_bytes(verb, padded, itemsize) < ALIGNMENT:
        shapes = [_SHORT if verb == "wgrad" else _NARROW]
    return tuple(_algorithm(problem, tile) for tile in shapes)


def fprop(algorithm, x, w, bias, y, size, moments=None, residual=None, activation=None):
    """Compute y = activation(rounded(x * w + bias) + residual).

    Args:
        algorithm: One of ``algorithms``.
        x, w, bias, y, size: As ``on_cuda.fprop`` takes them.
        moments: ``empty_moments(algorithm, y)``, to be filled with those of rounded(x * w + bias).
        residual: Of the shape of y, or None.
        activation: ``"relu"`` or None.
    """
    whole, constants = _padded("fprop", size, x)
    kernel, grid = fprop_configuration(algorithm, whole)
    x = channels.padded(x, channels.x_shape(size), channels.x_shape(whole))
    w = channels.padded(w, channels.w_shape(size), channels.w_shape(whole))
    means, squares = (moments.means, moments.squares) if moments else (None, None)
    arrays = x, w, bias, residual, y, means, squares
    kernel.launch(grid, *arrays, ACTIVATIONS[activation], whole, **constants)


def dgrad(algorithm, grad_y, w, grad_x, size, addend=None, below=None):
    """Compute grad_x + addend, and go a step back below where channels are whole packs.

    Args:
        algorithm: One of ``algorithms``.
        grad_y, w, grad_x, size, addend, below: As ``on_cuda.dgrad`` takes them.

    Returns:
        The sums of g, if it is g that grad_x holds; else None.
    """
    whole, constants = _padded("dgrad", size, grad_y)
    kernel, grid = dgrad_configuration(algorithm, whole)
    grad_y = channels.padded(grad_y, channels.y_shape(size), channels.y_shape(whole))
    w = channels.padded(w, channels.w_shape(size), channels.w_shape(whole))
    x_shape, whole_shape = channels.x_shape(size), channels.x_shape(whole)
    result = channels.place(grad_x, x_shape, whole_shape)
    if addend is not None:
        addend = channels.padded(addend, x_shape, whole_shape)
    if result is not grad_x or constants["PACK_BYTES"] < ALIGNMENT:
        below = None
    across = ceil_div(whole.c // whole.groups, algorithm.tile_n) * whole.groups
    sums = empty_sums(below, grid // across)
    kernel.launch(grid, grad_y, w, *step_back(addend, below, result, sums), whole, **constants)
    channels.unpad(result, grad_x, x_shape)
    return sums


def wgrad(algorithm, grad_y, x, grad_w, size):
    whole, constants = _padded("wgrad", size, x)
    kernel, (blocks, parts) = wgrad_configuration(algorithm, whole)
    grad_y = channels.padded(grad_y, channels.y_shape(size), channels.y_shape(whole))
    x = channels.padded(x, channels.x_shape(size), channels.x_shape(whole))
    result = channels.place(grad_w, channels.w_shape(size), channels.w_shape(whole))
    partial = parts_of(result, parts)
    kernel.launch((blocks, parts), grad_y, x, result, partial, whole, parts, **constants)
    add_parts(partial, result)
    channels.unpad(result, grad_w, channels.w_shape(size))


def fprop_configuration(algorithm: Algorithm, size) -> tuple[Kernel, int]:
    """Return the kernel and the blocks of a forward convolution."""
    tile = algorithm.tile_m, algorithm.tile_n
    return _FPROP[tile], size.groups * tiles(tile, size.n * size.p * size.q, size.k // size.groups)


def dgrad_configuration(algorithm: Algorithm, size) -> tuple[Kernel, int]:
    """Return the kernel and the blocks of a gradient with respect to x.

    Every phase of the strides has as many blocks as the first, which is the largest.
    """
    phases = min(size.stride_h, size.h) * min(size.stride_w, size.w)
    pixels = size.n * ceil_div(size.h, size.stride_h) * ceil_div(size.w, size.stride_w)
    tile = algorithm.tile_m, algorithm.tile_n
    return _DGRAD[tile], phases * size.groups * tiles(tile, pixels, size.c // size.groups)


def wgrad_configuration(algorithm: Algorithm, size) -> tuple[Kernel, tuple[int, int]]:
    """Return the kernel, its blocks, and the parts that the sum over pixels is cut into."""
    taps = size.r * size.s * size.c // size.groups
    tile = algorithm.tile_m, algorithm.tile_n
    return _WGRAD[tile], (
        size.groups * tiles(tile, size.k // size.groups, taps),
        algorithm.splits,
    )


def _algorithm(problem: Problem, tile: Tile) -> Algorithm:
    algorithm = Algorithm("mma", *tile, _DEPTH_BYTES // _ELEMENT_BYTES[problem.dtype])
    if problem.verb != "wgrad":
        return algorithm
    return replace(algorithm, splits=splits(problem, algorithm, _LEAST_DEPTH))


def _padded(verb, size, array):
    """Return the size that kernels compute, and their constants."""
    whole = channels.padded_size(verb, size, array.itemsize)
    pack_bytes = channels.pack_bytes(verb, whole, array.itemsize)
    return whole, {"STORAGE": array.dtype, "PACK_BYTES": pack_bytes}
