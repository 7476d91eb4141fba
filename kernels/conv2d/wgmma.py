"""Convolutions of bfloat16 on Hopper's tensor cores: wgmma, operands brought by TMA.

conv2d_wgmma.cuh has the index maps, cuda/wgmma_pipeline.cuh the main loop.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from ..cuda import tensor_map
from ..cuda.gemm import Tile
from ..cuda.gpu import Gpu, gpu_of
from ..cuda.launch import Kernel, ceil_div
from ..cuda.tensor_map import TensorMap
from . import Conv2dSize
from .algorithm import ACTIVATIONS, Algorithm, Problem, empty_sums, step_back
from .cost import splits
from .phases import Phase, dgrad_phases, fprop_phases
from .simt import add_parts, parts_of

_BOX = 64  # rows, and channels, of the boxes that operands consist of; depth of a stage
_BOX_BYTES = 2 * _BOX * _BOX
_ALIGNMENT = 1024  # of a box in shared memory
_CHANNELS = 8  # are 16 bytes, in which TMA counts
_LEAST_DEPTH = 8 * _BOX  # pixels of one part of a split sum
PHASES = 4  # of the strides of a dgrad, at most, in a launch


@dataclass(frozen=True, slots=True)
class Plan:
    """How a block computes tiles.

    Attributes:
        stages: Of the ring in shared memory.
        ping_pong: Whether its two warpgroups take turns at whole tiles, or halve each tile.
        staged: Whether results go through shared memory.
    """

    stages: int
    ping_pong: bool
    staged: bool

    def shared_bytes(self, tile: Tile) -> int:
        """Dynamic shared memory of a block."""
        m, n = tile
        stage = (m + n) // _BOX * _BOX_BYTES
        results = 2 * m * n * (2 if self.ping_pong else 1) if self.staged else 0
        return self.stages * stage + results + _ALIGNMENT - 16


# Ping-pong multiplies one tile while the one before is stored; the larger tiles ask less of shared
# memory and L2.
_PIXEL_TILES = {
    (128, 128): Plan(4, ping_pong=True, staged=True),
    (128, 64): Plan(6, ping_pong=True, staged=True),
    (128, 256): Plan(3, ping_pong=False, staged=True),
    (256, 128): Plan(3, ping_pong=False, staged=True),
}
_FILTER_TILES = {
    (128, 128): Plan(6, ping_pong=True, staged=False),
    (64, 256): Plan(5, ping_pong=True, staged=False),
    (128, 256): Plan(4, ping_pong=False, staged=False),
}


def _kernels(verb: str, tiles: dict[Tile, Plan]) -> dict[Tile, Kernel]:
    return {
        tile: Kernel(
            *(__file__, f"conv2d_{verb}_wgmma.cu", f"conv2d_{verb}_wgmma"),
            block=384,
            shared_bytes=plan.shared_bytes(tile),
            STORAGE="bfloat16",
            TILE_M=tile[0],
            TILE_N=tile[1],
            STAGES=plan.stages,
            PING_PONG=plan.ping_pong,
        )
        for tile, plan in tiles.items()
    }


_FPROP = _kernels("fprop", _PIXEL_TILES)
_DGRAD = _kernels("dgrad", _PIXEL_TILES)
_WGRAD = _kernels("wgrad", _FILTER_TILES)


def runs_on(gpu: Gpu) -> bool:
    """Whether a GPU has what these kernels need: Hopper alone does."""
    return gpu.capability == 90


def algorithms(problem: Problem) -> tuple[Algorithm, ...]:
    """Return the algorithms for a problem, if TMA can bring its operands."""
    size = problem.size
    if problem.dtype != "bfloat16" or not problem.aligned or not _fits(problem.verb, size):
        return ()
    if problem.verb != "wgrad":
        return tuple(Algorithm("wgmma", *tile, _BOX) for tile in _PIXEL_TILES)
    whole = [Algorithm("wgmma", *tile, _BOX) for tile in _FILTER_TILES]
    return tuple(replace(a, splits=splits(problem, a, _LEAST_DEPTH)) for a in whole)


def _fits(verb: str, size: Conv2dSize) -> bool:
    """Whether sizes are within TMA's limits."""
    if size.groups > 1 or size.c % _CHANNELS or size.k % _CHANNELS or 0 in size.x_shape:
        return False
    if max(size.stride_h, size.stride_w) > 8:
        return False
    rows, columns = (_dgrad_axes if verb == "dgrad" else _fprop_axes)(size)
    return all(axis.within_reach for axis in (*rows, *columns))


# ---- Index maps: the structs of conv2d_wgmma.cuh -------------------------------------------------


@dataclass(frozen=True, slots=True)
class WindowAxis:
    """One axis of an index map; see the struct.

    Attributes:
        operand: Pixels of the operand along the axis.
    """

    count: int
    walk: int
    lower: int
    taps: int
    reach: int
    first_tap: int
    tap_step: int
    first: int
    step: int
    length: int
    operand: int

    @classmethod
    def of(cls, phase: Phase, length: int, operand: int) -> "WindowAxis":
        """Describe a phase of a result of ``length`` pixels."""
        taps, offsets = phase.taps[0], phase.offsets
        return cls(
            count=phase.units,
            walk=phase.in_step,
            lower=offsets[0] if taps else 0,
            taps=len(taps),
            reach=offsets[1] - offsets[0] if len(taps) > 1 else 0,
            first_tap=taps[0] if taps else 0,
            tap_step=taps[1] - taps[0] if len(taps) > 1 else 0,
            first=phase.first,
            step=phase.step,
            length=length,
            operand=operand,
        )

    @property
    def upper(self) -> int:
        """Where the last window begins, counted from the operand's last pixel."""
        return self.lower + self.walk * (self.count - 1) + 1 - self.operand

    def met(self) -> set[int]:
        """Pixels of the operand that some tap meets."""
        starts = range(self.lower, self.lower + self.count * self.walk, self.walk)
        places = {start + j * self.reach for start in starts for j in range(self.taps)}
        return {place for place in places if 0 <= place < self.operand}

    @property
    def within_reach(self) -> bool:
        """Whether TMA's im2col mode has bits enough; without taps nothing is loaded."""
        corners = all(-128 <= corner <= 127 for corner in (self.lower, self.upper))
        return not self.taps or (corners and (self.taps - 1) * self.reach <= 255)


_Axes = tuple[WindowAxis, ...]


@lru_cache(maxsize=1024)
def _fprop_axes(size: Conv2dSize) -> tuple[_Axes, _Axes]:
    """The vertical and the horizontal axis, one phase each."""
    vertical = fprop_phases(size.p, size.r, size.stride_h, size.pad_top, size.dilation_h)
    horizontal = fprop_phases(size.q, size.s, size.stride_w, size.pad_left, size.dilation_w)
    return (
        tuple(WindowAxis.of(phase, size.p, size.h) for phase in vertical),
        tuple(WindowAxis.of(phase, size.q, size.w) for phase in horizontal),
    )


@lru_cache(maxsize=1024)
def _dgrad_axes(size: Conv2dSize) -> tuple[_Axes, _Axes]:
    """All phases of the vertical and of the horizontal stride."""
    vertical = dgrad_phases(size.h, size.r, size.stride_h, size.pad_top, size.dilation_h)
    horizontal = dgrad_phases(size.w, size.s, size.stride_w, size.pad_left, size.dilation_w)
    return (
        tuple(WindowAxis.of(phase, size.h, size.p) for phase in vertical),
        tuple(WindowAxis.of(phase, size.w, size.q) for phase in horizontal),
    )


@dataclass(frozen=True, slots=True)
class PixelPhase:
    """Pixels of the result that meet the same taps; see the struct."""

    gemm_m: int
    all_taps: int
    rows: WindowAxis
    columns: WindowAxis

    @classmethod
    def of(cls, images: int, rows: WindowAxis, columns: WindowAxis) -> "PixelPhase":
        """Describe the phase of two axes' phases."""
        return cls(images * rows.count * columns.count, rows.taps * columns.taps, rows, columns)


_NO_AXIS = WindowAxis(*[0] * 11)
_NO_PHASE = PixelPhase(0, 0, _NO_AXIS, _NO_AXIS)


@dataclass(frozen=True, slots=True)
class PixelProduct:
    """Products whose rows are pixels, of one launch; see the struct."""

    gemm_n: int
    depth: int
    filter_s: int
    tiles_m: int
    tiles_n: int
    phases: int
    pixels_read: int
    phase: tuple[PixelPhase, ...]

    @classmethod
    def of(
        cls, tile: Tile, size: Conv2dSize, n: int, depth: int, phases: tuple[PixelPhase, ...]
    ) -> "PixelProduct":
        """Describe products with ``n`` channels of the result, each a sum over ``depth`` others."""
        return cls(
            gemm_n=n,
            depth=depth,
            filter_s=size.s,
            tiles_m=ceil_div(max(phase.gemm_m for phase in phases), tile[0]),
            tiles_n=ceil_div(n, tile[1]),
            phases=len(phases),
            pixels_read=size.n * _pixels_met(phases),
            phase=phases + (_NO_PHASE,) * (PHASES - len(phases)),
        )

    @property
    def tiles(self) -> int:
        """Of the launch."""
        return self.tiles_m * self.tiles_n * self.phases


@dataclass(frozen=True, slots=True)
class TapProduct:
    """A product whose rows are filters and whose columns are taps; see the struct."""

    gemm_m: int
    channels: int
    all_taps: int
    filter_s: int
    pixels: int
    splits: int
    tiles_m: int
    tiles_n: int
    pixels_read: int
    rows: WindowAxis
    columns: WindowAxis

    @property
    def tiles(self) -> int:
        """Of the launch."""
        return self.tiles_m * self.tiles_n * self.splits


@lru_cache(maxsize=1024)
def fprop_product(algorithm: Algorithm, size: Conv2dSize) -> PixelProduct:
    """Return what the launch of a forward convolution multiplies."""
    tile = algorithm.tile_m, algorithm.tile_n
    (rows,), (columns,) = _fprop_axes(size)
    return PixelProduct.of(tile, size, size.k, size.c, (PixelPhase.of(size.n, rows, columns),))


@lru_cache(maxsize=1024)
def dgrad_products(algorithm: Algorithm, size: Conv2dSize) -> tuple[PixelProduct, ...]:
    """Return what the launches of a gradient with respect to x multiply."""
    tile = algorithm.tile_m, algorithm.tile_n
    vertical, horizontal = _dgrad_axes(size)
    phases = tuple(PixelPhase.of(size.n, *axes) for axes in product(vertical, horizontal))
    return tuple(
        PixelProduct.of(tile, size, size.c, size.k, phases[first : first + PHASES])
        for first in range(0, len(phases), PHASES)
    )


@lru_cache(maxsize=1024)
def wgrad_product(algorithm: Algorithm, size: Conv2dSize) -> TapProduct:
    """Return what the launch of a gradient with respect to w multiplies."""
    (rows,), (columns,) = _fprop_axes(size)
    return TapProduct(
        gemm_m=size.k,
        channels=size.c,
        all_taps=size.r * size.s,
        filter_s=size.s,
        pixels=size.n * size.p * size.q,
        splits=algorithm.splits,
        tiles_m=ceil_div(size.k, algorithm.tile_m),
        tiles_n=ceil_div(_boxes(size), algorithm.tile_n // _BOX),
        pixels_read=size.n * len(rows.met()) * len(columns.met()),
        rows=rows,
        columns=columns,
    )


def _pixels_met(phases: tuple[PixelPhase, ...]) -> int:
    """Pixels of an image of the operand that are read."""
    met = [(p.rows.met(), p.columns.met()) for p in phases if p.all_taps]
    rows, columns = zip(*met, strict=True) if met else ((), ())
    return len(set().union(*rows)) * len(set().union(*columns))


def _boxes(size: Conv2dSize) -> int:
    """Columns of a wgrad, in boxes of channels of one tap."""
    return size.r * size.s * ceil_div(size.c, _BOX)


# ---- Launches ------------------------------------------------------------------------------------


def fprop(algorithm, x, w, bias, y, size, moments=None, residual=None, activation=None):
    """Compute y = activation(rounded(x * w + bias) + residual).

    Args:
        algorithm: One of ``algorithms``.
        x, w, bias, y, size: As ``on_cuda.fprop`` takes them.
        moments: ``empty_moments(algorithm, y)``, to be filled with those of rounded(x * w + bias).
        residual: Of the shape of y, or None.
        activation: ``"relu"`` or None.
    """
    multiplied, tile = fprop_product(algorithm, size), (algorithm.tile_m, algorithm.tile_n)
    filters = tensor_map.tiled(_by_tap(w), (tile[1], 1, _BOX), swizzle_bytes=128)
    maps = _windows(x, tile[0], multiplied.phase[0]), filters, _results(y, tile)
    means, squares = (moments.means, moments.squares) if moments else (None, None)
    arrays = bias, residual, y, means, squares
    blocks = _blocks(multiplied, x)
    _FPROP[tile].launch(blocks, *maps, *arrays, ACTIVATIONS[activation], multiplied)


def dgrad(algorithm, grad_y, w, grad_x, size, addend=None, below=None):
    """Compute grad_x + addend, and go a step back below.

    Args:
        algorithm: One of ``algorithms``.
        grad_y, w, grad_x, size, addend, below: As ``on_cuda.dgrad`` takes them.

    Returns:
        The sums of g, if it is g that grad_x holds; else None.
    """
    tile = algorithm.tile_m, algorithm.tile_n
    filters = tensor_map.tiled(_by_tap(w), (_BOX, 1, _BOX), swizzle_bytes=128)
    results = _results(grad_x, tile)
    products = dgrad_products(algorithm, size)
    sums, part = empty_sums(below, sum(p.tiles_m * p.phases for p in products)), 0
    for multiplied in products:
        # A phase without taps loads nothing: any map will do.
        windows = [
            _windows(grad_y, tile[0], phase) if phase.all_taps else filters
            for phase in multiplied.phase
        ]
        maps = {"of": windows}, filters, results
        arrays = step_back(addend, below, grad_x, sums and sums.parts(part))
        _DGRAD[tile].launch(_blocks(multiplied, grad_y), *maps, *arrays, multiplied)
        part += multiplied.tiles_m * multiplied.phases
    return sums


def wgrad(algorithm, grad_y, x, grad_w, size):
    multiplied, tile = wgrad_product(algorithm, size), (algorithm.tile_m, algorithm.tile_n)
    pixels = tensor_map.tiled(grad_y.reshape(-1, size.k), (_BOX, _BOX), swizzle_bytes=128)
    maps = pixels, _windows(x, _BOX, multiplied)
    partial = parts_of(grad_w, multiplied.splits)
    _WGRAD[tile].launch(_blocks(multiplied, x), *maps, grad_w, partial, multiplied)
    add_parts(partial, grad_w)


def _blocks(multiplied: PixelProduct | TapProduct, array) -> int:
    """One for each multiprocessor: a block fills it, and goes from tile to tile."""
    return min(multiplied.tiles, gpu_of(array).sms)


def _windows(image, pixels: int, of: PixelPhase | TapProduct) -> TensorMap:
    """What fetches the pixels that a tap meets, ``pixels`` at a time."""
    rows, columns = of.rows, of.columns
    return tensor_map.im2col(
        image,
        _BOX,
        pixels,
        lower=(rows.lower, columns.lower),
        upper=(rows.upper, columns.upper),
        stride=(rows.walk, columns.walk),
        swizzle_bytes=128,
    )


def _by_tap(w):
    """(K, R * S, C): behind the last channel of a tap come zeros, not the next tap."""
    return w.reshape(w.shape[0], -1, w.shape[3])


def _results(y, tile: Tile) -> TensorMap:
    """What stores the rows of a tile, 64 channels at a time."""
    return tensor_map.tiled(y.reshape(-1, y.shape[3]), (tile[0], _BOX), swizzle_bytes=128)
