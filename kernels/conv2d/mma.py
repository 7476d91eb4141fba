"""Convolutions on tensor cores by mma.sync, sm_80 and up: bfloat16, or float32 rounded to tf32."""

from dataclasses import replace

from ..cuda.gemm import tiles
from ..cuda.gpu import Gpu
from ..cuda.launch import Kernel, ceil_div
from .algorithm import Algorithm, Problem
from .cost import splits
from .simt import add_parts, parts_of

Tile = tuple[int, int]  # TILE_M, TILE_N

_WIDE, _NARROW, _SHORT, _SMALL = (128, 128), (128, 64), (64, 128), (64, 64)
_ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}
_STAGES, _DEPTH_BYTES = 4, 64  # of the ring, and of a line of a chunk, as in mma_tile.cuh
_PACK_BYTES = 16
_LEAST_DEPTH = 512  # pixels of one part of a split sum
_ACTIVATIONS = {None: 0, "relu": 1}  # as in epilogue.cuh


def _kernels(verb: str, *shapes: Tile) -> dict[Tile, Kernel]:
    """Return the entry point for each tile; the smallest also takes what is no whole packs."""
    return {
        (m, n): Kernel(
            *(__file__, f"conv2d_{verb}_mma.cu", f"conv2d_{verb}_mma"),
            block=256 if (m, n) == _WIDE else 128,
            shared_bytes=_STAGES * (m + n) * _DEPTH_BYTES,
            STORAGE=tuple(_ELEMENT_BYTES),
            PACKED=(True, False) if (m, n) == _SMALL else (True,),
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
    shapes = {"fprop": _FPROP, "dgrad": _DGRAD, "wgrad": _WGRAD}[problem.verb]
    if not _in_packs(problem):
        shapes = [_SMALL]
    return tuple(_algorithm(problem, tile) for tile in shapes)


def fprop(algorithm, x, w, bias, y, size, moments=None, residual=None, activation=None):
    """Compute y = activation(rounded(x * w + bias) + residual).

    Args:
        algorithm: One of ``algorithms``.
        x, w, bias, y, size: As ``on_cuda.fprop`` takes them.
        moments: ``Moments.of(algorithm, y)``, to be filled with those of rounded(x * w + bias).
        residual: Of the shape of y, or None.
        activation: ``"relu"`` or None.
    """
    kernel, grid = fprop_configuration(algorithm, size)
    means, squares = (moments.means, moments.squares) if moments else (None, None)
    arrays = x, w, bias, residual, y, means, squares
    constants = _constants("fprop", size, x, w, y)
    kernel.launch(grid, *arrays, _ACTIVATIONS[activation], size, **constants)


def dgrad(algorithm, grad_y, w, grad_x, size):
    kernel, grid = dgrad_configuration(algorithm, size)
    constants = _constants("dgrad", size, grad_y, w, grad_x)
    kernel.launch(grid, grad_y, w, grad_x, size, **constants)


def wgrad(algorithm, grad_y, x, grad_w, size):
    kernel, (blocks, parts) = wgrad_configuration(algorithm, size)
    constants = _constants("wgrad", size, grad_y, x, grad_w)
    partial = parts_of(grad_w, parts)
    kernel.launch((blocks, parts), grad_y, x, grad_w, partial, size, parts, **constants)
    add_parts(partial, grad_w)


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


def _in_packs(problem: Problem) -> bool:
    """Whether the lines of both operands in memory are whole packs."""
    size, pack = problem.size, _PACK_BYTES // _ELEMENT_BYTES[problem.dtype]
    lines = [size.c] if problem.verb == "fprop" else [size.c, size.k]
    return problem.aligned and not any(line // size.groups % pack for line in lines)


def _constants(verb, size, *arrays):
    packed = _in_packs(Problem.of(verb, size, *arrays))
    return {"STORAGE": arrays[0].dtype, "PACKED": packed}
