"""How a correlation is laid out over register tiles: a pure function of sizes, types and the CPU.

The output is cut into regions, pairs of a vertical and a horizontal run (``phases``), in which all
pixels have the same taps. A region is a grid of tiles; the rows of a tile are pixels that follow
each other along one axis, which is the image's row where that is long enough, else its column or
the batch. The activations are read where they lie: nothing is padded or gathered. The filters are
packed: [phase][tile of columns][tap][channel][columns of the tile].

All strides and offsets are in bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from ..cpu.assemble import address
from ..cpu.machine import cache_bytes
from ..cpu.tiles import Shape, Tile, Transpose, half_rows, tile_shape
from . import Conv2dSize
from .phases import NONE, Phase, Run, blocks, dgrad_phases, fprop_phases

REGION = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("outer", "middle", "run", "a_outer", "a_middle", "a_row", "a_half", "a_first"),
            *("y_outer", "y_middle", "y_row", "y_half", "y_first", "columns", "b_first"),
            *("taps", "last_taps", "tap_count", "steps", "rows", "lines", "tiles_in_line", "tiles"),
            *("tile", "last_tile", "k_bytes", "long", "short_tile", "short_last_tile"),
            *("short_a_half", "short_y_half"),
        )
    ]
)
"""A region: ``outer x middle`` lines of ``run`` pixels, ``rows // lines`` of them a tile.

Of the tiles in a line the first, ``long``, have ``rows`` rows and the others one less.
"""

PACK = np.dtype(
    [(name, np.int64) for name in ("to", "first", "width", "columns", "group", "taps", "tap_count")]
)
"""Filters of one phase, group and tile of columns: where to, and the taps in their order."""

FACTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("itemsize", "groups", "a_group", "y_group", "b_group", "width", "k_tiles"),
            *("tiles", "parts", "k_parts", "tile_outer", "block", "channels", "outputs"),
            *("w_output", "w_channel", "w_tap", "transposes", "transpose", "lanes", "a_k"),
            "joined",
        )
    ]
)

PAGE = 4096  # bytes: rows so far apart fall into one set of the first cache
ROWS_IN_SET = 8  # that fit beside the filters
TASKS_PER_THREAD = 8
PLANS = 256  # kept
MOST_ZERO = 8  # times more phases than taps: then those without a tap are zeros beforehand
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
    zero_first: bool = False  # most of y is touched by no tap, and by no region


@dataclass(frozen=True, slots=True)
class Axis:
    """Pixels along one axis and their distances, in bytes, in a and in y."""

    count: int
    a: int
    y: int


@lru_cache(maxsize=PLANS)
def fprop_plan(size: Conv2dSize, dtype: str, threads: int) -> Plan:
    """Return the plan of fprop."""
    vertical = fprop_phases(size.p, size.r, size.stride_h, size.pad_top, size.dilation_h)
    horizontal = fprop_phases(size.q, size.s, size.stride_w, size.pad_left, size.dilation_w)
    channels, outputs = size.c // size.groups, size.k // size.groups
    images = _Images(size.n, size.h, size.w, size.p, size.q)
    filters = _Filters(size.groups, channels, outputs, size.r * size.s, size.s, fprop=True)
    return _Builder(images, filters, dtype).plan(vertical, horizontal, threads)


@lru_cache(maxsize=PLANS)
def dgrad_plan(size: Conv2dSize, dtype: str, threads: int) -> Plan:
    """Return the plan of dgrad: grad_y correlated with the rotated filters, phase by phase."""
    vertical = dgrad_phases(size.h, size.r, size.stride_h, size.pad_top, size.dilation_h)
    horizontal = dgrad_phases(size.w, size.s, size.stride_w, size.pad_left, size.dilation_w)
    mostly_zero = len(vertical) * len(horizontal) > MOST_ZERO * size.r * size.s
    if mostly_zero:
        vertical, horizontal = (
            tuple(phase for phase in phases if phase.offsets) for phases in (vertical, horizontal)
        )
    channels, outputs = size.k // size.groups, size.c // size.groups
    images = _Images(size.n, size.p, size.q, size.h, size.w)
    filters = _Filters(size.groups, channels, outputs, size.r * size.s, size.s, fprop=False)
    plan = _Builder(images, filters, dtype).plan(vertical, horizontal, threads)
    return replace(plan, zero_first=mostly_zero)


@dataclass(frozen=True, slots=True)
class _Images:
    n: int
    in_h: int
    in_w: int
    out_h: int
    out_w: int


@dataclass(frozen=True, slots=True)
class _Filters:
    """Channels are of one group, outputs too; both as the correlation sees them."""

    groups: int
    channels: int
    outputs: int
    taps: int
    width: int  # of a filter: taps in a row
    fprop: bool

    @property
    def depthwise(self) -> bool:
        return self.channels == self.outputs == 1 < self.groups

    def w_strides(self) -> tuple[int, int, int]:
        """Return the distances in w, in numbers, of (outputs, channels, taps)."""
        if self.fprop:
            return self.taps * self.channels, 1, self.channels
        return 1, self.taps * self.outputs, self.outputs


class _Builder:
    """Collects the tables of a plan."""

    def __init__(self, images: _Images, filters: _Filters, dtype: str) -> None:
        self.images, self.filters, self.dtype = images, filters, dtype
        self.itemsize = np.dtype(dtype).itemsize
        self.shape = tile_shape(dtype)
        self.kind = "channels" if filters.depthwise else "rows"
        self.most_rows = self.shape.rows_beside if filters.depthwise else self.shape.rows
        # A depthwise convolution is one group whose lanes are the groups.
        self.groups = 1 if filters.depthwise else filters.groups
        self.outputs = filters.groups if filters.depthwise else filters.outputs
        self.channels, self.joined = filters.channels, 1
        if self.groups > 1:
            self.joined = joined(filters.groups, filters.outputs, self.shape.lanes)
            self.groups //= self.joined
            self.outputs *= self.joined
            self.channels *= self.joined
        self.pixel = filters.groups * filters.channels * self.itemsize
        self.y_pixel = filters.groups * filters.outputs * self.itemsize
        self.adjacent = self.groups == 1 and not filters.depthwise  # pixels, as a tile reads them
        self.regions: list[tuple[int, ...]] = []
        self.taps: list[tuple[int, int]] = []
        self.packs: list[tuple[int, ...]] = []
        self.filter_taps: list[int] = []
        self.packed = 0  # bytes, of one group

    def plan(
        self, vertical: tuple[Phase, ...], horizontal: tuple[Phase, ...], threads: int
    ) -> Plan:
        shape, filters, itemsize = self.shape, self.filters, self.itemsize
        few = filters.groups == 1 and len(horizontal) > 0
        self.block = _block(horizontal, self.outputs, shape) if few else 1
        if self.block > 1:
            horizontal = (blocks(horizontal, self.images.out_w, self.block),)
        columns = self.block * self.outputs
        self.width = min(shape.width, _whole(columns, shape.lanes))
        self.k_tiles = -(-columns // self.width)
        self.last = columns - (self.k_tiles - 1) * self.width
        self.last_width = _whole(self.last, shape.lanes)
        if filters.depthwise:
            self._pack(filters.taps, range(filters.taps))
        for down in vertical:
            for across in horizontal:
                self._add_phase(down, across)
        regions = np.array(self.regions, REGION)
        packs = np.array(self.packs, PACK)
        packs["to"] += packs["group"] * self.packed
        tiles = int(regions["tiles"].sum())
        a_bytes = self.images.n * self.images.in_h * self.images.in_w * self.pixel // self.groups
        tile_outer, parts, k_parts = _tasks(
            tiles, self.k_tiles, self.packed, a_bytes, self.groups, threads
        )
        strides = filters.w_strides()
        plain = self.block == self.joined == 1
        transposes = filters.depthwise or (plain and strides[1] == 1)
        facts = np.zeros(1, FACTS)
        facts[0] = (
            *(itemsize, self.groups, self.channels * itemsize, self.outputs * itemsize),
            *(self.packed, self.width, self.k_tiles, tiles, parts, k_parts, tile_outer),
            *(self.block, self.channels, self.outputs, *strides, transposes),
            address(Transpose(shape.lanes, self.dtype)) if transposes else 0,
            shape.lanes,
            *(self.width * itemsize if filters.depthwise else 0, self.joined),
        )
        return Plan(
            facts,
            regions,
            np.array(self.taps, np.int64).reshape(-1, 2),
            packs,
            np.array(self.filter_taps, np.int64),
            packed_shape=(self.packed * self.groups // itemsize,),
            block=self.block,
            width_bytes=self.width * itemsize,
            zeros=np.zeros(shape.width, self.dtype),
        )

    def _pack(self, taps: int, filter_taps: Iterable[int]) -> None:
        """Have the filters of these taps packed, for every tile of columns and group."""
        step = taps * self.channels * self.itemsize  # of one column
        for k in range(self.k_tiles):
            last = k == self.k_tiles - 1
            for group in range(self.groups):
                self.packs.append(
                    (
                        *(self.packed + k * step * self.width, k * self.width),
                        *(self.last_width if last else self.width,),
                        *(self.last if last else self.width, group, len(self.filter_taps), taps),
                    )
                )
        self.filter_taps.extend(filter_taps)
        self.packed += step * ((self.k_tiles - 1) * self.width + self.last_width)

    def _add_phase(self, down: Phase, across: Phase) -> None:
        """Add the regions of a pair of phases."""
        start, taps = self.packed, len(down.offsets) * len(across.offsets)
        if self.filters.depthwise:
            start, taps = 0, self.filters.taps
        else:
            self._pack(
                taps,
                (
                    NONE if tap[j] == NONE else r * self.filters.width + tap[j]
                    for r in down.taps[0]
                    for j in range(len(across.offsets))
                    for tap in across.taps
                ),
            )
        k_bytes = taps * self.channels * self.width * self.itemsize
        for rows in down.runs(self.images.in_h):
            for cols in across.runs(self.images.in_w):
                self._add_region(down, rows, across, cols, start, k_bytes)

    def _reads(
        self, down: Phase, rows: Run, across: Phase, cols: Run
    ) -> tuple[list[tuple[int, int]], int]:
        """Return (bytes from a, bytes from b a column) of each tap, and the steps of a tap.

        Taps whose channels follow each other in memory are one.
        """
        channels, width = self.channels, len(across.offsets)
        places = [(v, h) for v in range(rows.lo, rows.hi) for h in range(cols.lo, cols.hi)]
        near = across.offsets[cols.lo : cols.hi]
        steps = channels
        if self.adjacent and near and near[-1] - near[0] == len(near) - 1:
            places = [(v, h) for v, h in places if h == cols.lo]
            steps *= len(near)
        reads = []
        for v, h in places:
            tap = v * width + h
            if self.filters.depthwise:
                tap = down.taps[0][v] * self.filters.width + across.taps[0][h]
            a = (down.offsets[v] * self.images.in_w + across.offsets[h]) * self.pixel
            reads.append((a, tap * channels * self.itemsize))
        return reads, steps

    def _add_region(
        self, down: Phase, rows: Run, across: Phase, cols: Run, b_first: int, k_bytes: int
    ) -> None:
        images, pixel, y_pixel = self.images, self.pixel, self.y_pixel
        row, y_row = images.in_w * pixel, images.out_w * y_pixel
        axes = merged(
            (
                Axis(cols.count, across.in_step * pixel, across.step * y_pixel),
                Axis(rows.count, down.in_step * row, down.step * y_row),
                Axis(images.n, images.in_h * row, images.out_h * y_row),
            )
        )
        a_first = rows.first * down.in_step * row + cols.first * across.in_step * pixel
        y_first = (down.first + rows.first * down.step) * y_row
        y_first += (across.first + cols.first * across.step) * y_pixel
        height, lines, run = _rows(axes, self.most_rows)
        others = [axis for axis in axes if axis is not run]
        others += [Axis(1, 0, 0)] * (2 - len(others))
        middle, outer = others
        if middle.count == 1:
            middle, outer = outer, middle
        half = half_rows(height)
        a_half, y_half = (middle.a, middle.y) if lines == 2 else (half * run.a, half * run.y)
        reads, steps = self._reads(down, rows, across, cols)
        starts = []
        for width in (self.width, self.last_width):
            starts.append(len(self.taps))
            self.taps.extend((a, b * width) for a, b in reads)
        tiles_in_line = -(-run.count // (height // lines))
        long, short = tiles_in_line, max(1, height - 1)
        if lines == 1:
            long = run.count - tiles_in_line * (height - 1)
        self.regions.append(
            (
                *(outer.count, middle.count, run.count, outer.a, middle.a, run.a, a_half, a_first),
                *(outer.y, middle.y, run.y, y_half, y_first, cols.outputs * self.outputs),
                *(b_first, *starts, len(reads), steps, height, lines, tiles_in_line),
                outer.count * -(-middle.count // lines) * tiles_in_line,
                self._tile(height, self.width),
                self._tile(height, self.last),
                *(k_bytes, long, self._tile(short, self.width), self._tile(short, self.last)),
                *(half_rows(short) * run.a, half_rows(short) * run.y),
            )
        )

    def _tile(self, rows: int, columns: int) -> int:
        shape = self.shape
        partial = self.kind == "channels" and columns % shape.lanes != 0
        vectors = -(-columns // shape.lanes)
        return address(
            Tile(self.kind, rows, vectors, shape.lanes, self.dtype, shape.fused, partial)
        )


def joined(groups: int, outputs: int, lanes: int) -> int:
    """Return how many groups are computed as one, with zeros between them, to fill a vector."""
    most = max(1, lanes // outputs)
    return max(count for count in range(1, min(most, groups) + 1) if groups % count == 0)


def _whole(count: int, lanes: int) -> int:
    """Return ``count`` rounded up to whole vectors."""
    return -(-count // lanes) * lanes


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


def _rows(axes: tuple[Axis, ...], most: int) -> tuple[int, int, Axis]:
    """Return the rows of a tile, the lines of pixels that they are of, and the axis they run along.

    The inner axis, whose pixels lie near each other, unless half of a tile would be empty.
    """
    choices = []
    for run in axes:
        fit = min(most, ROWS_IN_SET) if run.a % PAGE == 0 else most
        rows, lines = even(run.count, fit), 1
        others = any(axis.count > 1 for axis in axes if axis is not run)
        if others and 2 * run.count <= fit and half_rows(2 * run.count) == run.count:
            rows, lines = 2 * run.count, 2
        choices.append((rows, lines, run))
    good = [choice for choice in choices if 2 * choice[0] >= most]
    return good[0] if good else max(choices, key=lambda choice: choice[0])


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


@cache
def l2_bytes() -> int:
    """Return the size of the second cache, asked for once."""
    return cache_bytes()[1]


def _tasks(
    tiles: int, k_tiles: int, filter_bytes: int, a_bytes: int, groups: int, threads: int
) -> tuple[bool, int, int]:
    """Return (whether each tile meets all filters at once, parts of tiles, of filters).

    Filters that stay in the second cache are read there for every tile of pixels, which then
    stays in the first. Larger ones are taken a tile of columns at a time, for as many pixels as
    stay in the second cache.
    """
    l2 = l2_bytes()
    wanted = -(-TASKS_PER_THREAD * threads // groups)
    if filter_bytes <= l2 // 4 or k_tiles == 1:
        return True, max(1, min(tiles, wanted)), 1
    fit = max(LEAST_TILES, tiles * (l2 // 4) // max(1, a_bytes))
    parts = max(1, -(-tiles // fit))
    return False, parts, min(k_tiles, -(-wanted // parts))
