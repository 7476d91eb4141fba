"""How a correlation is laid out over register tiles: a pure function of sizes, types and the CPU.

The output is cut into regions, pairs of a vertical and a horizontal run (``phases``), in which all
pixels have the same taps. A region is a grid of tiles (drawn in ``cpu.tables.Region``); the rows of
a tile are pixels that follow each other along one axis, which is the image's row where that is long
enough, else its column or the batch. The activations are read where they lie: nothing is padded or
gathered. The filters are packed: [phase][tile of columns][tap][channel][columns of the tile].

As everywhere below, a is what is read (x of fprop, grad_y of dgrad), b the packed filters and y
what is written. All strides and offsets are in bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from ..cpu.assemble import address
from ..cpu.machine import cache_bytes
from ..cpu.tables import Facts, Pack, Region, table
from ..cpu.tiles import Shape, Tile, Transpose, half_rows, tile_shape
from . import Conv2dSize
from .phases import NONE, Phase, Run, blocks, dgrad_phases, fprop_phases

PAGE = 4096  # bytes: rows so far apart fall into one set of the first cache
ROWS_IN_SET = 8  # that fit beside the filters
TASKS_PER_THREAD = 8
PLANS = 256  # kept
MOST_ZERO = 8  # times more phases than taps: then those without a tap are zeros beforehand
LEAST_TILES = 8  # of a task that reads a tile of filters anew


@dataclass(frozen=True)
class Plan:
    """What the jitted loops need."""

    facts: np.ndarray  # one of tables.Facts
    regions: np.ndarray  # tables.Region
    taps: np.ndarray  # int64 pairs (bytes from a, bytes from b)
    packs: np.ndarray  # tables.Pack
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
    return _plan(images, filters, vertical, horizontal, dtype, threads)


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
    plan = _plan(images, filters, vertical, horizontal, dtype, threads)
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """Groups, channels and outputs as the tiles see them.

    A row of a tile is a pixel and its columns are outputs of one group, at best whole vectors of
    them. Where a group has too few, the problem is turned into one that has more:

    - depthwise (a channel and an output a group): the groups are the outputs of one group with one
      channel; the tile multiplies vectors of a and b lane by lane;
    - groups with few outputs: ``joined`` groups side by side are one, and its filters have zeros
      where an output and a channel are of different ones;
    - a single group with few outputs: ``block`` pixels side by side are one, with the outputs of
      all (``phases.blocks``), and its filters have zeros where one of them does not read an input.

    Of these at most one holds; else ``joined`` and ``block`` are 1.
    """

    groups: int
    channels: int  # of a group
    outputs: int  # of a group and pixel
    depthwise: bool = False
    joined: int = 1
    block: int = 1

    @property
    def columns(self) -> int:
        return self.block * self.outputs


def _seen(filters: _Filters, horizontal: tuple[Phase, ...], shape: Shape) -> _Seen:
    groups, channels, outputs = filters.groups, filters.channels, filters.outputs
    if filters.depthwise:
        return _Seen(1, 1, groups, depthwise=True)
    if groups > 1:
        count = joined(groups, outputs, shape.lanes)
        return _Seen(groups // count, channels * count, outputs * count, joined=count)
    block = _block(horizontal, outputs, shape) if horizontal else 1
    return _Seen(1, channels, outputs, block=block)


def _plan(
    images: _Images,
    filters: _Filters,
    vertical: tuple[Phase, ...],
    horizontal: tuple[Phase, ...],
    dtype: str,
    threads: int,
) -> Plan:
    shape = tile_shape(dtype)
    seen = _seen(filters, horizontal, shape)
    if seen.block > 1:
        horizontal = (blocks(horizontal, images.out_w, seen.block),)
    builder = _Builder(images, filters, seen, shape, dtype)
    if seen.depthwise:
        builder.pack(filters.taps, range(filters.taps))
    for down in vertical:
        for across in horizontal:
            builder.add_phase(down, across)
    return builder.plan(threads)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The tiles of a region, as ``tables.Region`` draws them."""

    outer: Axis
    middle: Axis
    run: Axis
    rows: int
    lines: int

    @property
    def tiles_in_line(self) -> int:
        return -(-self.run.count // (self.rows // self.lines))

    @property
    def tiles(self) -> int:
        return self.outer.count * -(-self.middle.count // self.lines) * self.tiles_in_line

    @property
    def long(self) -> int:
        """Tiles in a line that have all rows: one less in each other."""
        if self.lines == 2:
            return self.tiles_in_line
        return self.run.count - self.tiles_in_line * (self.rows - 1)

    @property
    def short_rows(self) -> int:
        return max(1, self.rows - 1)

    def halves(self) -> tuple[Axis, int]:
        """Return the axis along which the halves of a long tile's rows lie apart, and how far."""
        return (self.middle, 1) if self.lines == 2 else (self.run, half_rows(self.rows))


class _Builder:
    """Collects the tables of a plan."""

    def __init__(
        self, images: _Images, filters: _Filters, seen: _Seen, shape: Shape, dtype: str
    ) -> None:
        self.images, self.filters, self.seen = images, filters, seen
        self.shape, self.dtype = shape, dtype
        self.itemsize = np.dtype(dtype).itemsize
        self.pixel = filters.groups * filters.channels * self.itemsize
        self.y_pixel = filters.groups * filters.outputs * self.itemsize
        self.width = min(shape.width, _whole(seen.columns, shape.lanes))
        self.k_tiles = -(-seen.columns // self.width)
        self.last = seen.columns - (self.k_tiles - 1) * self.width  # columns of the last tile
        self.last_width = _whole(self.last, shape.lanes)
        self.regions: list[Region] = []
        self.taps: list[tuple[int, int]] = []
        self.packs: list[Pack] = []
        self.filter_taps: list[int] = []
        self.packed = 0  # bytes, of one group

    def plan(self, threads: int) -> Plan:
        """Return the plan of all that was added."""
        seen, itemsize = self.seen, self.itemsize
        packs = table(Pack, self.packs)
        packs["to"] += packs["group"] * self.packed
        return Plan(
            table(Facts, [self._facts(threads)]),
            table(Region, self.regions),
            np.array(self.taps, np.int64).reshape(-1, 2),
            packs,
            np.array(self.filter_taps, np.int64),
            packed_shape=(self.packed * seen.groups // itemsize,),
            block=seen.block,
            width_bytes=self.width * itemsize,
            zeros=np.zeros(self.shape.width, self.dtype),
        )

    def _facts(self, threads: int) -> Facts:
        seen, itemsize, lanes, images = self.seen, self.itemsize, self.shape.lanes, self.images
        tiles = sum(region.tiles for region in self.regions)
        a_bytes = images.n * images.in_h * images.in_w * self.pixel // seen.groups
        tile_outer, parts, k_parts = _tasks(
            tiles, self.k_tiles, self.packed, a_bytes, seen.groups, threads
        )
        w_output, w_channel, w_tap = self.filters.w_strides()
        plain = seen.block == seen.joined == 1
        transposes = seen.depthwise or (plain and w_channel == 1)
        return Facts(
            itemsize=itemsize,
            lanes=lanes,
            groups=seen.groups,
            a_group=seen.channels * itemsize,
            b_group=self.packed,
            y_group=seen.outputs * itemsize,
            width=self.width,
            k_tiles=self.k_tiles,
            a_k=self.width * itemsize if seen.depthwise else 0,
            tiles=tiles,
            parts=parts,
            k_parts=k_parts,
            tile_outer=tile_outer,
            channels=seen.channels,
            outputs=seen.outputs,
            block=seen.block,
            joined=seen.joined,
            w_output=w_output,
            w_channel=w_channel,
            w_tap=w_tap,
            transposes=transposes,
            transpose=address(Transpose(lanes, self.dtype)) if transposes else 0,
        )

    def pack(self, taps: int, filter_taps: Iterable[int]) -> None:
        """Have the filters of these taps packed, for every tile of columns and group."""
        step = taps * self.seen.channels * self.itemsize  # of one column
        for k in range(self.k_tiles):
            last = k == self.k_tiles - 1
            for group in range(self.seen.groups):
                self.packs.append(
                    Pack(
                        to=self.packed + k * step * self.width,
                        first=k * self.width,
                        columns=self.last if last else self.width,
                        width=self.last_width if last else self.width,
                        group=group,
                        taps=len(self.filter_taps),
                        tap_count=taps,
                    )
                )
        self.filter_taps.extend(filter_taps)
        self.packed += step * ((self.k_tiles - 1) * self.width + self.last_width)

    def add_phase(self, down: Phase, across: Phase) -> None:
        """Add the regions of a pair of phases, and have its filters packed."""
        if self.seen.depthwise:  # all filters are packed already, and few: all phases share them
            start, taps = 0, self.filters.taps
        else:
            start, taps = self.packed, len(down.offsets) * len(across.offsets)
            self.pack(
                taps,
                (
                    NONE if tap[j] == NONE else r * self.filters.width + tap[j]
                    for r in down.taps[0]
                    for j in range(len(across.offsets))
                    for tap in across.taps
                ),
            )
        k_bytes = taps * self.seen.channels * self.width * self.itemsize
        for rows in down.runs(self.images.in_h):
            for cols in across.runs(self.images.in_w):
                self._add_region(down, rows, across, cols, start, k_bytes)

    def _reads(
        self, down: Phase, rows: Run, across: Phase, cols: Run
    ) -> tuple[list[tuple[int, int]], int]:
        """Return (bytes from a, bytes from b a column) of each tap, and the steps of a tap.

        Taps whose channels follow each other in memory are one.
        """
        seen, width = self.seen, len(across.offsets)
        places = [(v, h) for v in range(rows.lo, rows.hi) for h in range(cols.lo, cols.hi)]
        near = across.offsets[cols.lo : cols.hi]
        steps = seen.channels
        adjacent = seen.groups == 1 and not seen.depthwise  # a pixel's channels end at the next's
        if adjacent and near and near[-1] - near[0] == len(near) - 1:
            places = [(v, h) for v, h in places if h == cols.lo]
            steps *= len(near)
        reads = []
        for v, h in places:
            tap = v * width + h
            if seen.depthwise:
                tap = down.taps[0][v] * self.filters.width + across.taps[0][h]
            a = (down.offsets[v] * self.images.in_w + across.offsets[h]) * self.pixel
            reads.append((a, tap * seen.channels * self.itemsize))
        return reads, steps

    def _add_region(
        self, down: Phase, rows: Run, across: Phase, cols: Run, b_first: int, k_bytes: int
    ) -> None:
        grid = self._grid(down, rows, across, cols)
        reads, steps = self._reads(down, rows, across, cols)
        starts = []
        for width in (self.width, self.last_width):
            starts.append(len(self.taps))
            self.taps.extend((a, b * width) for a, b in reads)
        a_row, y_row = self.images.in_w * self.pixel, self.images.out_w * self.y_pixel
        y_down = down.first + rows.first * down.step
        y_across = across.first + cols.first * across.step
        axis, half = grid.halves()
        short_half = half_rows(grid.short_rows)
        self.regions.append(
            Region(
                outer=grid.outer.count,
                middle=grid.middle.count,
                run=grid.run.count,
                rows=grid.rows,
                lines=grid.lines,
                tiles_in_line=grid.tiles_in_line,
                long=grid.long,
                tiles=grid.tiles,
                a_first=rows.first * down.in_step * a_row
                + cols.first * across.in_step * self.pixel,
                a_outer=grid.outer.a,
                a_middle=grid.middle.a,
                a_row=grid.run.a,
                a_half=half * axis.a,
                short_a_half=short_half * grid.run.a,
                y_first=y_down * y_row + y_across * self.y_pixel,
                y_outer=grid.outer.y,
                y_middle=grid.middle.y,
                y_row=grid.run.y,
                y_half=half * axis.y,
                short_y_half=short_half * grid.run.y,
                columns=cols.outputs * self.seen.outputs,
                taps=starts[0],
                last_taps=starts[1],
                tap_count=len(reads),
                steps=steps,
                b_first=b_first,
                k_bytes=k_bytes,
                tile=self._tile(grid.rows, self.width),
                last_tile=self._tile(grid.rows, self.last),
                short_tile=self._tile(grid.short_rows, self.width),
                short_last_tile=self._tile(grid.short_rows, self.last),
            )
        )

    def _grid(self, down: Phase, rows: Run, across: Phase, cols: Run) -> _Grid:
        images, pixel, y_pixel = self.images, self.pixel, self.y_pixel
        row, y_row = images.in_w * pixel, images.out_w * y_pixel
        axes = merged(
            (
                Axis(cols.count, across.in_step * pixel, across.step * y_pixel),
                Axis(rows.count, down.in_step * row, down.step * y_row),
                Axis(images.n, images.in_h * row, images.out_h * y_row),
            )
        )
        most = self.shape.rows_beside if self.seen.depthwise else self.shape.rows
        height, lines, run = _rows(axes, most)
        others = [axis for axis in axes if axis is not run]
        others += [Axis(1, 0, 0)] * (2 - len(others))
        middle, outer = others
        if middle.count == 1:
            middle, outer = outer, middle
        return _Grid(outer, middle, run, height, lines)

    def _tile(self, rows: int, columns: int) -> int:
        """Return the machine code of a tile."""
        shape, kind = self.shape, "channels" if self.seen.depthwise else "rows"
        partial = self.seen.depthwise and columns % shape.lanes != 0
        vectors = -(-columns // shape.lanes)
        return address(Tile(kind, rows, vectors, shape.lanes, self.dtype, shape.fused, partial))


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
