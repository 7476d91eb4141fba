"""How a correlation is laid out over register tiles: a pure function of sizes, types and the CPU.

The output is cut into regions, pairs of a vertical and a horizontal run (``phases``), in which all
pixels have the same taps. A region is a grid of tiles; the rows of a tile are pixels that follow
each other along one axis, which is the image's row where that is long enough, else its column or
the batch. The activations are read where they lie: nothing is padded or gathered. The filters are
packed: [phase][tile of columns][tap][channel][columns of the tile].

All strides and offsets are in bytes.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ..cpu.assemble import address
from ..cpu.machine import cache_bytes
from ..cpu.tiles import Shape, Tile, Transpose, half_rows, tile_shape
from . import Conv2dSize
from .phases import NONE, Phase, blocks, dgrad_phases, fprop_phases

REGION = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("outer", "middle", "run", "a_outer", "a_middle", "a_row", "a_half", "a_first"),
            *("y_outer", "y_middle", "y_row", "y_half", "y_first", "columns", "b_first"),
            *("taps", "last_taps", "tap_count", "steps", "rows", "lines", "tiles_in_line", "tiles"),
            *("tile", "last_tile", "k_bytes"),
        )
    ]
)
"""A region: ``outer x middle`` lines of ``run`` pixels, ``rows // lines`` of them a tile."""

PACK = np.dtype(
    [(name, np.int64) for name in ("to", "width", "first", "columns", "group", "taps", "tap_count")]
)
"""Filters of one phase, group and tile of columns: where to, and the taps in their order."""

FACTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("itemsize", "groups", "a_group", "y_group", "b_group", "width", "k_tiles"),
            *("tiles", "parts", "k_parts", "tile_outer", "block", "channels", "outputs"),
            *("w_output", "w_channel", "w_tap", "transposes", "transpose", "lanes"),
        )
    ]
)

PAGE = 4096  # bytes: rows so far apart fall into one set of the first cache
ROWS_IN_SET = 8  # that fit beside the filters
TASKS_PER_THREAD = 8
LEAST_TILES = 8  # of a task that reads a tile of filters anew


@dataclass(frozen=True)
class Plan:
    """What the jitted loops need."""

    facts: np.ndarray  # FACTS, one
    regions: np.ndarray  # REGION
    taps: np.ndarray  # int64 pairs (bytes from a, bytes from b)
    packs: np.ndarray  # PACK
    filter_taps: np.ndarray  # int64: r * S + s, or NONE, for each tap and output of a unit
    packed_shape: tuple[int]
    block: int
    width_bytes: int
    zeros: np.ndarray  # where sums begin without a bias


@dataclass(frozen=True, slots=True)
class Axis:
    """Pixels along one axis and their distances, in bytes, in a and in y."""

    count: int
    a: int
    y: int


@dataclass
class _Builder:
    """Collects the tables of a plan."""

    shape: Shape
    dtype: str
    itemsize: int
    regions: list[tuple[int, ...]] = field(default_factory=list)
    taps: list[tuple[int, int]] = field(default_factory=list)
    packs: list[tuple[int, ...]] = field(default_factory=list)
    filter_taps: list[int] = field(default_factory=list)

    def tile(self, rows: int, columns: int) -> int:
        vectors = -(-columns // self.shape.lanes)
        return address(Tile("rows", rows, vectors, self.shape.lanes, self.dtype, self.shape.fused))


def fprop_plan(size: Conv2dSize, dtype: str, threads: int) -> Plan:
    """Return the plan of fprop."""
    vertical = fprop_phases(size.p, size.r, size.stride_h, size.pad_top, size.dilation_h)
    horizontal = fprop_phases(size.q, size.s, size.stride_w, size.pad_left, size.dilation_w)
    taps = size.r * size.s
    channels, outputs = size.c // size.groups, size.k // size.groups
    strides = (taps * channels, 1, channels)  # of w: output, channel, tap
    images = ((size.n, size.h, size.w), (size.n, size.p, size.q))
    return _correlation(
        *(vertical, horizontal, images, channels, outputs, size.groups),
        *(strides, dtype, threads, size.s),
    )


def dgrad_plan(size: Conv2dSize, dtype: str, threads: int) -> Plan:
    """Return the plan of dgrad: grad_y correlated with the rotated filters, phase by phase."""
    vertical = dgrad_phases(size.h, size.r, size.stride_h, size.pad_top, size.dilation_h)
    horizontal = dgrad_phases(size.w, size.s, size.stride_w, size.pad_left, size.dilation_w)
    taps = size.r * size.s
    channels, outputs = size.k // size.groups, size.c // size.groups
    strides = (1, taps * outputs, outputs)
    images = ((size.n, size.p, size.q), (size.n, size.h, size.w))
    return _correlation(
        *(vertical, horizontal, images, channels, outputs, size.groups),
        *(strides, dtype, threads, size.s),
    )


Images = tuple[tuple[int, int, int], tuple[int, int, int]]  # (N, height, width) of input, output


@lru_cache(maxsize=512)
def _correlation(
    vertical: tuple[Phase, ...],
    horizontal: tuple[Phase, ...],
    images: Images,
    channels: int,
    outputs: int,
    groups: int,
    w_strides: tuple[int, int, int],
    dtype: str,
    threads: int,
    filter_width: int,
) -> Plan:
    """Return the plan; ``channels`` and ``outputs`` are of one group."""
    itemsize = np.dtype(dtype).itemsize
    shape = tile_shape(dtype)
    (n, in_h, in_w), (_, out_h, out_w) = images
    block = _block(horizontal, outputs, shape) if groups == 1 else 1
    if block > 1:
        horizontal = (blocks(horizontal, out_w, block),)
    builder = _Builder(shape, dtype, itemsize)
    pixel, y_pixel = groups * channels * itemsize, groups * outputs * itemsize
    columns = block * outputs
    width = min(shape.width, -(-columns // shape.lanes) * shape.lanes)
    k_tiles = -(-columns // width)
    last = columns - (k_tiles - 1) * width
    last_width = -(-last // shape.lanes) * shape.lanes
    packed = 0
    for down in vertical:
        for across in horizontal:
            taps = len(down.offsets) * len(across.offsets)
            for k in range(k_tiles):
                own = last_width if k == k_tiles - 1 else width
                builder.packs.extend(
                    (
                        *(packed + k * taps * channels * width * itemsize, own, k * width),
                        *(last if k == k_tiles - 1 else width, group),
                        *(len(builder.filter_taps), taps),
                    )
                    for group in range(groups)
                )
            for r in down.taps[0]:
                for j in range(len(across.offsets)):
                    tap_of = [across.taps[i][j] for i in range(block)]
                    builder.filter_taps.extend(
                        NONE if s == NONE else r * filter_width + s for s in tap_of
                    )
            for rows in down.runs(in_h):
                for cols in across.runs(in_w):
                    axes = (
                        Axis(cols.count, across.in_step * pixel, across.step * y_pixel),
                        Axis(
                            *(rows.count, down.in_step * in_w * pixel),
                            down.step * out_w * y_pixel,
                        ),
                        Axis(n, in_h * in_w * pixel, out_h * out_w * y_pixel),
                    )
                    first = Axis(
                        0,
                        (rows.first * down.in_step * in_w + cols.first * across.in_step) * pixel,
                        (
                            (down.first + rows.first * down.step) * out_w
                            + across.first
                            + cols.first * across.step
                        )
                        * y_pixel,
                    )
                    reads = [
                        (v, h) for v in range(rows.lo, rows.hi) for h in range(cols.lo, cols.hi)
                    ]
                    near = across.offsets[cols.lo : cols.hi]
                    steps = channels
                    if groups == 1 and near and near[-1] - near[0] == len(near) - 1:
                        reads = [(v, h) for v, h in reads if h == cols.lo]
                        steps *= len(near)
                    _add_region(
                        builder,
                        axes,
                        first,
                        reads=[
                            (
                                (down.offsets[v] * in_w + across.offsets[h]) * pixel,
                                (v * len(across.offsets) + h) * channels * itemsize,
                            )
                            for v, h in reads
                        ],
                        steps=steps,
                        widths=(width, last_width),
                        columns=cols.outputs * outputs,
                        b_first=packed,
                        k_bytes=taps * channels * width * itemsize,
                    )
            packed += taps * channels * ((k_tiles - 1) * width + last_width) * itemsize
    regions = np.array(builder.regions, REGION)
    tiles = int(regions["tiles"].sum())
    group_bytes = packed
    a_bytes = n * in_h * in_w * channels * itemsize
    tile_outer, parts, k_parts = _tasks(tiles, k_tiles, group_bytes, a_bytes, groups, threads)
    packs = np.array(builder.packs, PACK)
    packs["to"] += packs["group"] * group_bytes
    transposes = block == 1 and w_strides[1] == 1
    facts = np.zeros(1, FACTS)
    facts[0] = (
        *(itemsize, groups, channels * itemsize, outputs * itemsize, group_bytes),
        *(width, k_tiles, tiles, parts, k_parts, tile_outer, block, channels, outputs),
        *w_strides,
        transposes,
        address(Transpose(shape.lanes, dtype)) if transposes else 0,
        shape.lanes,
    )
    return Plan(
        facts,
        regions,
        np.array(builder.taps, np.int64).reshape(-1, 2),
        packs,
        np.array(builder.filter_taps, np.int64),
        packed_shape=(group_bytes * groups // itemsize,),
        block=block,
        width_bytes=width * itemsize,
        zeros=np.zeros(shape.width, dtype),
    )


def _block(horizontal: tuple[Phase, ...], outputs: int, shape: Shape) -> int:
    """Return how many adjacent outputs share a vector, so that few channels fill its lanes."""
    step = horizontal[0].step

    def share(block: int) -> float:
        """Multiply-adds that count, of those a block computes."""
        if block == 1:
            taps = sum(len(phase.offsets) for phase in horizontal)
            reads, made = taps, taps
        else:
            phase = blocks(horizontal, block, block)
            reads = sum(tap != NONE for row in phase.taps for tap in row)
            made = len(phase.offsets) * block
        lanes = -(-block * outputs // shape.lanes) * shape.lanes
        return block * outputs / lanes * reads / max(1, made)

    most = shape.width // outputs
    choices = [1, *(b for b in range(step, most + 1, step) if b > 1)]
    return max(choices, key=lambda block: (round(share(block), 3), -block))


def _add_region(
    builder: _Builder,
    axes: tuple[Axis, ...],
    first: Axis,
    *,
    reads: list[tuple[int, int]],
    steps: int,
    widths: tuple[int, int],
    columns: int,
    b_first: int,
    k_bytes: int,
) -> None:
    axes = merged(axes)
    most = builder.shape.rows
    choices = [_rows(axis, axes, most) for axis in axes]
    good = [choice for choice in choices if 2 * choice[0] >= most]
    rows, lines, run = good[0] if good else max(choices, key=lambda choice: choice[0])
    others = [axis for axis in axes if axis is not run]
    others += [Axis(1, 0, 0)] * (2 - len(others))
    middle, outer = others
    if middle.count == 1:
        middle, outer = outer, middle
    half = half_rows(rows)
    starts = []
    for width in widths:
        starts.append(len(builder.taps))
        builder.taps.extend((a, b * width) for a, b in reads)
    tiles_in_line = -(-run.count // (rows // lines))
    builder.regions.append(
        (
            *(outer.count, middle.count, run.count, outer.a, middle.a, run.a),
            *(middle.a if lines == 2 else half * run.a, first.a),
            *(outer.y, middle.y, run.y, middle.y if lines == 2 else half * run.y, first.y),
            *(columns, b_first, *starts, len(reads), steps, rows, lines, tiles_in_line),
            outer.count * -(-middle.count // lines) * tiles_in_line,
            *(builder.tile(rows, width) for width in widths),
            k_bytes,
        )
    )


def _rows(run: Axis, axes: tuple[Axis, ...], most: int) -> tuple[int, int, Axis]:
    """Return the rows of a tile along ``run``, the lines that they are of, and ``run``."""
    if run.a % PAGE == 0:
        most = min(most, ROWS_IN_SET)
    two = 2 * run.count
    pairs = any(axis.count > 1 for axis in axes if axis is not run)
    if pairs and two <= most and half_rows(two) == run.count:
        return two, 2, run
    return even(run.count, most), 1, run


def merged(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Return the axes, inner first, with those made one that follow each other without a gap."""
    result = [axes[0]]
    for axis in axes[1:]:
        inner = result[-1]
        if axis.count == 1:
            continue
        if inner.count == 1:
            result[-1] = axis
        elif (axis.a, axis.y) == (inner.count * inner.a, inner.count * inner.y):
            result[-1] = Axis(inner.count * axis.count, inner.a, inner.y)
        else:
            result.append(axis)
    return tuple(result)


def even(count: int, most: int) -> int:
    """Return the size of the fewest equal pieces, none larger than ``most``, that cover count."""
    return -(-count // -(-count // most))


def _tasks(
    tiles: int, k_tiles: int, filter_bytes: int, a_bytes: int, groups: int, threads: int
) -> tuple[bool, int, int]:
    """Return (whether each tile meets all filters at once, parts of tiles, of filters).

    Filters that stay in the second cache are read there for every tile of pixels, which then
    stays in the first. Larger ones are taken a tile of columns at a time, for as many pixels as
    stay in the second cache.
    """
    l2 = cache_bytes()[1]
    wanted = -(-TASKS_PER_THREAD * threads // groups)
    if filter_bytes <= l2 // 4 or k_tiles == 1:
        return True, max(1, min(tiles, wanted)), 1
    fit = max(LEAST_TILES, tiles * (l2 // 4) // max(1, a_bytes))
    parts = max(1, -(-tiles // fit))
    return False, parts, min(k_tiles, -(-wanted // parts))
