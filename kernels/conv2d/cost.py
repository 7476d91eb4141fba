"""What an algorithm's kernels ask of a GPU to compute a problem, counted; ``cuda/cost.py`` turns
it into a time.
"""

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..cuda.cost import Prediction, Work
from ..cuda.cost import predict as predict_work
from ..cuda.gpu import GPUS, Gpu
from . import channels
from .algorithm import Algorithm, Problem
from .phases import dgrad_phases

# Instructions of a warp beside products and reads from shared memory: in a step, and for a pack
# that it brings there. Counted in the machine code for sm_90a, where loops differ by up to a third.
SIMT_STEP_INSTRUCTIONS, SIMT_PACK_INSTRUCTIONS = 50, 12
MMA_STEP_INSTRUCTIONS, MMA_PACK_INSTRUCTIONS = 85, 15

# Estimates of the same.
DEPTHWISE_INSTRUCTIONS = 10  # for one product and the place of its pixel
WGMMA_INSTRUCTIONS = 10  # of each of four warps, for one wgmma: descriptors, waits

# Estimates: how much of a tile's beginning and end the SM's other tiles do not hide.
RESIDENT_THREADS = 512  # an SM's blocks together have so many: of 1 / n of a tile, with n blocks
PING_PONG_EXPOSED = 0.25  # two warpgroups that take turns

MMA_WARP_COLUMNS = 32  # of a tile by mma.sync, as in conv2d_*_mma.cu

SPLIT_FOR = GPUS["h100"]  # on whatever GPU: into how many parts a sum is cut decides its bits
ROUNDS = 8  # of the tiles of a split sum on its SMs, at most

_ITEMSIZE = {"bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class Product:
    """Products of matrices of one size, which a convolution consists of.

    Attributes:
        count: How many.
        m: Rows.
        n: Columns,
        taps_n: those of so many taps side by side.
        depth: Terms of a sum,
        taps: those of so many taps one after the other.
    """

    count: int
    m: int
    n: int
    taps_n: int
    depth: int
    taps: int


@dataclass(frozen=True, slots=True)
class Step:
    """How a family's block multiplies the parts of two operands that are in shared memory.

    Attributes:
        core: What multiplies.
        shared_bytes: Of shared memory, read and written.
        instructions: Of warps, issued.
        exposed: Share of a tile's beginning and end that other tiles on the SM do not hide.
        box: Channels of a tap come in whole boxes of so many; 1: one tap's after another's.
        phases: Of a dgrad's strides, at most, that are one launch.
    """

    core: str
    shared_bytes: float
    instructions: float
    exposed: float
    box: int = 1
    phases: int = sys.maxsize

    def columns(self, product: Product) -> int:
        """Columns of the product, in whole boxes."""
        return product.taps_n * _round_up(product.n // product.taps_n, self.box)

    def steps(self, product: Product, tile_k: int) -> int:
        """Steps along the depth of a tile, if its sum is not split."""
        taps = max(product.taps, 1)  # a phase without taps has no depth
        return -(-product.taps * _round_up(product.depth // taps, self.box) // tile_k)


@lru_cache(maxsize=4096)
def predict(problem: Problem, algorithm: Algorithm, gpu: Gpu) -> Prediction:
    """Return the time that an algorithm takes on a GPU."""
    return predict_work(work(problem, algorithm), gpu)


def splits(problem: Problem, algorithm: Algorithm, least_depth: int) -> int:
    """Return into how many parts an algorithm had better cut the sums of a wgrad.

    A function of the problem: whatever GPU computes, the model of cost decides for an h100, between
    one part and those numbers whose tiles go round its SMs once, twice, ... with few left over.

    Args:
        problem: Which.
        algorithm: Without splits.
        least_depth: Terms of a part, at least.
    """
    most = max(1, problem.gemm[2] // least_depth)
    tiles = sum(work(problem, algorithm).tiles)
    rounds = range(1, ROUNDS + 1)
    counts = sorted({min(most, max(1, turns * SPLIT_FOR.sms // tiles)) for turns in rounds} | {1})
    return min(
        counts, key=lambda n: predict(problem, replace(algorithm, splits=n), SPLIT_FOR).time_s
    )


def floors_s(problem: Problem, gpu: Gpu) -> tuple[float, float]:
    """Return the least times on a GPU: to compute, taps on the padding counted; to move arrays.

    The operations are ``size.flops``, at the speed of a library's matrix product; the bytes are
    ``least_bytes``, at that of a copy.
    """
    compute_s = problem.size.flops / gpu.ceiling_flops_s(_operands(problem, "mma"))
    return compute_s, least_bytes(problem) / gpu.dram_bytes_s


@lru_cache(maxsize=4096)
def least_bytes(problem: Problem) -> int:
    """Return the bytes of each array, moved once: of an x that is read, the pixels that taps meet.

    Only 1x1 filters with a stride, and the like, leave pixels out.
    """
    size, itemsize = problem.size, _ITEMSIZE[problem.dtype]
    everything = size.bytes(itemsize)
    if problem.verb == "dgrad":
        return everything
    rows = _met(size.h, size.p, size.r, size.stride_h, size.pad_top, size.dilation_h)
    columns = _met(size.w, size.q, size.s, size.stride_w, size.pad_left, size.dilation_w)
    return everything - itemsize * size.n * size.c * (size.h * size.w - rows * columns)


@lru_cache(maxsize=4096)
def work(problem: Problem, algorithm: Algorithm) -> Work:
    """Count what an algorithm asks of a GPU."""
    if algorithm.family == "depthwise":
        return _depthwise(problem, algorithm)
    if algorithm.family == "mma":
        return _in_packs(problem, algorithm)
    return _tiled(problem, algorithm)


def _in_packs(problem: Problem, algorithm: Algorithm) -> Work:
    """Count the work on channels in whole packs, and that of ``channels.py`` to make them so."""
    size, itemsize = problem.size, _ITEMSIZE[problem.dtype]
    whole = channels.padded_size(problem.verb, size, itemsize)
    assert whole is not None, "such a problem is not offered"
    read, written = _arrays(problem.verb)
    copied_bytes = copies = 0
    for name in read:  # written with zeros, then read and written
        own, padded = (math.prod(getattr(s, name)) for s in (size, whole))
        if own != padded or not problem.aligned:
            copied_bytes += itemsize * (own + 2 * padded)
            copies += 2
    own, padded = (math.prod(getattr(s, written)) for s in (size, whole))
    if own != padded:  # read and written
        copied_bytes += itemsize * (own + padded)
        copies += 1
    counted = _tiled(replace(problem, size=whole, aligned=True), algorithm)
    return replace(counted, copied_bytes=copied_bytes, copies=copies)


def _arrays(verb: str) -> tuple[tuple[str, str], str]:
    """Return which arrays a verb reads and which it writes, by the attributes of their shapes."""
    return {
        "fprop": (("x_shape", "w_shape"), "y_shape"),
        "dgrad": (("y_shape", "w_shape"), "x_shape"),
        "wgrad": (("y_shape", "x_shape"), "w_shape"),
    }[verb]


def _tiled(problem: Problem, algorithm: Algorithm) -> Work:
    """Count what tiles of the products ask."""
    itemsize = _ITEMSIZE[problem.dtype]
    tile_m, tile_n, tile_k = algorithm.tile_m, algorithm.tile_n, algorithm.tile_k
    step = STEPS[algorithm.family](problem, algorithm)
    tiles: list[int] = []  # of each product
    steps = a_bytes = b_bytes = 0
    for product in products(problem):
        down, across = -(-product.m // tile_m), -(-step.columns(product) // tile_n)
        tiles.append(product.count * down * across * algorithm.splits)
        steps += tiles[-1] * -(-step.steps(product, tile_k) // algorithm.splits)
        a_bytes += itemsize * product.count * product.depth * product.m * across
        b_bytes += itemsize * product.count * product.depth * product.n * down
    m, n, _ = problem.gemm
    return Work(
        core=step.core,
        operands=_operands(problem, step.core),
        tile=(tile_m, tile_n, tile_k),
        tiles=_of_launches(tiles, step.phases),
        steps=steps,
        shared_bytes=step.shared_bytes,
        instructions=step.instructions,
        exposed=step.exposed,
        l2_bytes=a_bytes + b_bytes,
        common_bytes=a_bytes * (n > tile_n) + b_bytes * (m > tile_m),
        dram_bytes=least_bytes(problem),
        partial_bytes=_partial_bytes(problem, algorithm),
    )


def _of_launches(tiles: list[int], phases: int) -> tuple[int, ...]:
    """Tiles of each launch: of its phases, each has as many as the one that has most."""
    launches = (tiles[first : first + phases] for first in range(0, len(tiles), phases))
    return tuple(len(launch) * max(launch) for launch in launches)


def _depthwise(problem: Problem, algorithm: Algorithm) -> Work:
    """conv2d_depthwise.cu: direct loops of one step a tap (wgrad: a pixel), through L1."""
    size, itemsize = problem.size, _ITEMSIZE[problem.dtype]
    taps, pixels = size.r * size.s, size.n * size.p * size.q
    if problem.verb == "wgrad":
        tiles = -(-size.k // algorithm.tile_m) * -(-taps // algorithm.tile_n) * algorithm.splits
        steps = tiles * -(-pixels // algorithm.splits)
        l2_bytes = itemsize * pixels * (size.k * -(-taps // algorithm.tile_n) + size.c * taps)
    else:
        forward = problem.verb == "fprop"
        results, lanes = (pixels, size.k) if forward else (size.n * size.h * size.w, size.c)
        down = -(-results // algorithm.tile_m)
        tiles = down * -(-lanes // algorithm.tile_n)
        steps = tiles * taps * (1 if forward else size.k // size.c)
        l2_bytes = itemsize * taps * (pixels * (size.c if forward else size.k) + size.k * down)
    return Work(
        core="fma",
        operands=_operands(problem, "fma"),
        tile=(algorithm.tile_m, algorithm.tile_n, 1),
        tiles=(tiles,),
        steps=steps,
        shared_bytes=0,
        instructions=algorithm.tile_m * algorithm.tile_n / 32 * DEPTHWISE_INSTRUCTIONS,
        exposed=256 / RESIDENT_THREADS,
        l2_bytes=l2_bytes,
        common_bytes=0,
        dram_bytes=least_bytes(problem),
        partial_bytes=_partial_bytes(problem, algorithm),
    )


def products(problem: Problem) -> Iterator[Product]:
    """Yield the products of matrices that a problem is: of a dgrad, one for each stride phase."""
    size = problem.size
    groups, taps = size.groups, size.r * size.s
    group_c, group_k, pixels = size.c // groups, size.k // groups, size.n * size.p * size.q
    if problem.verb == "fprop":
        yield Product(groups, pixels, group_k, 1, taps * group_c, taps)
    elif problem.verb == "wgrad":
        yield Product(groups, group_k, taps * group_c, taps, pixels, 1)
    else:
        vertical = dgrad_phases(size.h, size.r, size.stride_h, size.pad_top, size.dilation_h)
        horizontal = dgrad_phases(size.w, size.s, size.stride_w, size.pad_left, size.dilation_w)
        for rows, columns in itertools.product(vertical, horizontal):
            pixels = size.n * rows.units * columns.units
            taps = len(rows.offsets) * len(columns.offsets)
            yield Product(groups, pixels, group_c, 1, taps * group_k, taps)


def _simt(problem: Problem, algorithm: Algorithm) -> Step:
    """gemm_tile.cuh: a thread sums 4 x 4 results; operands are float or double in shared memory."""
    m, n, k = algorithm.tile_m, algorithm.tile_n, algorithm.tile_k
    itemsize = 8 if problem.dtype == "float64" else 4
    threads = m * n / 16
    warps = threads / 32
    reads = warps * k * 32 * (4 + 4) * itemsize / 2  # half the lanes of a warp read what others do
    writes = (m + n) * k * itemsize
    reads_and_products = warps * k * (16 + itemsize / 2)
    packs = (m + n) * k / _pack(problem, 16 // itemsize)
    loads = warps * SIMT_STEP_INSTRUCTIONS + packs / 32 * SIMT_PACK_INSTRUCTIONS
    instructions = reads_and_products + loads
    return Step("fma", reads + writes, instructions, exposed=threads / RESIDENT_THREADS)


def _mma(problem: Problem, algorithm: Algorithm) -> Step:
    """cp.async into shared memory, ldmatrix, mma.sync; two blocks or more to an SM."""
    m, n, k = algorithm.tile_m, algorithm.tile_n, algorithm.tile_k
    itemsize = _ITEMSIZE[problem.dtype]
    warps = 8 if m * n > 128 * 64 else 4
    warp_m = m * n / (warps * MMA_WARP_COLUMNS)
    reads = warps * (warp_m + MMA_WARP_COLUMNS) * k * itemsize
    writes = (m + n) * k * itemsize
    multiplied = m * n * k * itemsize / (16 * 8 * 32)  # m16n8k16 of 2 bytes, m16n8k8 of 4
    pack_bytes = channels.pack_bytes(problem.verb, problem.size, itemsize)
    copies = warps * MMA_STEP_INSTRUCTIONS + writes / pack_bytes / 32 * MMA_PACK_INSTRUCTIONS
    instructions = multiplied + reads / 512 + copies
    return Step("mma", reads + writes, instructions, exposed=32 * warps / RESIDENT_THREADS)


def _wgmma(problem: Problem, algorithm: Algorithm) -> Step:
    """TMA into shared memory, which wgmma reads by itself; blocks take tile after tile.

    A warpgroup multiplies 64 rows by all columns of a tile. Where two warpgroups have a tile each,
    as registers allow up to 128 x 128 results, one multiplies while the other stores.
    """
    m, n, k = algorithm.tile_m, algorithm.tile_n, algorithm.tile_k
    itemsize = _ITEMSIZE[problem.dtype]
    reads = m / 64 * (64 + n) * k * itemsize
    writes = (m + n) * k * itemsize
    warps_products = 4 * m / 64 * k * itemsize / 32
    return Step(
        core="wgmma",
        shared_bytes=reads + writes,
        instructions=warps_products * WGMMA_INSTRUCTIONS,
        exposed=PING_PONG_EXPOSED if m * n <= 128 * 128 else 1.0,
        box=k,
        phases=4,
    )


STEPS: dict[str, Callable[[Problem, Algorithm], Step]] = {
    "simt": _simt,
    "mma": _mma,
    "wgmma": _wgmma,
}


def _pack(problem: Problem, most: int) -> int:
    """Elements that one instruction loads: single ones, where a group's channels are no packs."""
    size = problem.size
    lines = (size.c, size.k)[: 1 + (problem.verb != "fprop")]
    whole = problem.aligned and not any(line // size.groups % most for line in lines)
    return most if whole else 1


def _operands(problem: Problem, core: str) -> str:
    """What a core multiplies: ordinary units turn bfloat16 into float32 first."""
    if core == "fma":
        return "float64" if problem.dtype == "float64" else "float32"
    return problem.dtype if problem.precision == "ieee" else problem.precision


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _partial_bytes(problem: Problem, algorithm: Algorithm) -> int:
    """Bytes that a split sum's parts have together."""
    if algorithm.splits == 1:
        return 0
    shape = getattr(problem.size, _arrays(problem.verb)[1])
    return max(4, _ITEMSIZE[problem.dtype]) * algorithm.splits * math.prod(shape)


def _met(length: int, windows: int, taps: int, stride: int, pad: int, dilation: int) -> int:
    """Places of an axis that a tap of some window meets."""
    at = np.arange(windows)[:, None] * stride - pad + np.arange(taps) * dilation
    return len(np.unique(at[(at >= 0) & (at < length)]))
