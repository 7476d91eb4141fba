"""How wgrad is laid out over register tiles: a pure function of sizes, types and the CPU.

A tile holds sums for some filters and some (tap, channel) pairs and runs over pixels. x and
grad_y are read where they lie, and never the padding: a job is a set of taps and the pixels at
which all of them meet the image. There are two ways to cut:

- by tap: one job a tap, whose pixels are a rectangle; the columns of its sums are the channels;
- by region (``phases``): the pixels that have the same taps; those side by side in a region's row
  are one run of channels, which fills vectors better when there are few of them.

And two ways round. A tile takes single numbers of a, for its rows, and vectors of b, for its
columns:

- a is grad_y and b is x: rows are filters, columns channels or runs of (tap, channel) pairs;
- "by channel", for few channels and many filters: a is x and b is grad_y, rows are (tap, channel)
  pairs and columns filters. The sums are then transposed into grad_w.

The least estimated time decides (``_way``). Of a depthwise convolution the rows are taps and the
lanes channels. The pixels are added in parts, whose number and bounds depend on the sizes alone;
then the parts are added in order. The words for how the work is cut (job, line, slice, part, chunk,
task) are defined at ``cpu.tables.Job``. All strides and offsets are in bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from ..cpu.assemble import address
from ..cpu.tables import Job, WgradFacts, table
from ..cpu.tiles import Shape, Tile, tile_shape
from . import Conv2dSize
from .phases import Run, fprop_phases
from .plan import PLANS, Axis, even, joined, l2_bytes, merged

_T = TypeVar("_T")
TASKS = 16  # that there shall be at least, for any number of threads
MOST_BY_CHANNEL = 64 << 10  # numbers: these sums are transposed one by one
REGION_COST = 1.1  # of regions, beside one rectangle a tap: more and shorter runs
IN_FLIGHT = 8  # multiply-adds that a core works on at a time
WIDEST_BY_REGION = 16  # taps in a row: the regions grow with the square of it
LEAST_STEPS = 4  # of a line of pixels that lie near each other
LONGEST_LINE = 64  # pixels: some lines make a chunk


@dataclass(frozen=True, slots=True)
class Seen:
    """Groups, filters and channels as the tiles see them, and how they take them.

    - depthwise (a channel and a filter a group): the groups are the filters of one group with one
      channel; the tile multiplies vectors of a and b lane by lane;
    - groups with few channels: ``joined`` groups side by side are one, and of its sums those count
      whose filter and channel are of the same one of them;
    - else by tap or by region, by channel or not, as ``_way`` says.
    """

    groups: int
    filters: int  # of a group
    channels: int  # of a group
    by_tap: bool
    by_channel: bool
    depthwise: bool = False
    joined: int = 1

    def a_and_b(self, grad_y: _T, x: _T) -> tuple[_T, _T]:
        """Return what belongs to a, the rows of the sums, and to b, their columns."""
        return (x, grad_y) if self.by_channel else (grad_y, x)


@dataclass(frozen=True)
class WgradPlan:
    """What the jitted loops need."""

    facts: np.ndarray  # one of tables.WgradFacts
    jobs: np.ndarray  # tables.Job
    lines: np.ndarray  # int64 pairs (bytes from a, bytes from b)
    tiles: np.ndarray  # int64 [partial, rows - 1, vectors - 1]: machine code
    sums_shape: tuple[int] | None  # None: one part, straight into grad_w
    seen: Seen
    zeros: np.ndarray  # where sums begin


def _seen(size: Conv2dSize, shape: Shape) -> Seen:
    groups, channels, filters = size.groups, size.c // size.groups, size.k // size.groups
    if channels == filters == 1 < groups:
        return Seen(1, groups, 1, by_tap=False, by_channel=True, depthwise=True)
    count = joined(groups, channels, shape.lanes)
    if count > 1:
        joint = groups // count, filters * count, channels * count
        return Seen(*joint, by_tap=True, by_channel=False, joined=count)
    return Seen(groups, filters, channels, *_way(size, shape))


@lru_cache(maxsize=PLANS)
def wgrad_plan(size: Conv2dSize, dtype: str) -> WgradPlan:
    """Return the plan of wgrad."""
    item, shape = np.dtype(dtype).itemsize, tile_shape(dtype)
    seen = _seen(size, shape)
    length = size.r * size.s * seen.channels
    y_row = length * item  # of the sums, whose rows are filters
    if seen.by_channel:  # or (tap, channel) pairs, with filters in whole vectors
        y_row = -(-seen.filters // shape.lanes) * shape.lanes * item
    builder = _Builder(size, seen, item, y_row)
    for rectangle in _rectangles(size, seen.by_tap):
        builder.add(*rectangle)
    jobs = table(Job, builder.jobs)
    whole = not seen.depthwise and not (jobs["columns"] % shape.lanes).any()
    most_rows = shape.rows if whole else shape.rows_beside
    sums = y_row * (length if seen.by_channel else seen.filters)
    row_tiles = 1 if seen.by_channel else -(-seen.filters // most_rows)
    slices, parts, chunks = _shares(size, seen, item, sums, row_tiles)
    a_group, b_group = seen.a_and_b(seen.filters * item, seen.channels * item)
    facts = WgradFacts(
        itemsize=item,
        lanes=shape.lanes,
        groups=seen.groups,
        a_group=a_group,
        b_group=b_group,
        y_group=sums,
        vectors=shape.vectors,
        most_rows=most_rows,
        a_row=size.dilation_w * size.c * item if seen.depthwise else item,
        a_column=item if seen.depthwise else 0,
        y_row=y_row,
        parts=parts,
        slices=slices,
        chunks=chunks,
        y_part=sums * seen.groups,
        filters=seen.filters,
        channels=seen.channels,
        length=length,
        joined=seen.joined,
        by_channel=seen.by_channel,
        by_tap=seen.by_tap,
    )
    straight = parts == seen.joined == 1 and not seen.by_channel
    return WgradPlan(
        table(WgradFacts, [facts]),
        jobs,
        np.ascontiguousarray(np.concatenate(builder.lines)),
        _tiles("channels" if seen.depthwise else "columns", jobs, dtype, slices, most_rows),
        None if straight else (parts * sums * seen.groups // item,),
        seen,
        np.zeros(shape.width, dtype),
    )


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines of ``steps`` pixels each, at equal distances in grad_y and in x."""

    steps: int
    grad_step: int
    x_step: int
    grad_y: np.ndarray  # int64: where they begin, in the order of memory
    x: np.ndarray


class _Builder:
    """Collects jobs, and the lines of pixels that they run over."""

    def __init__(self, size: Conv2dSize, seen: Seen, item: int, y_row: int) -> None:
        self.size, self.seen = size, seen
        self.y_pair = y_row if seen.by_channel else item  # from a (tap, channel) to the next
        self.grad_pixel, self.x_pixel = size.k * item, size.c * item
        self.grad_row, self.x_row = size.q * self.grad_pixel, size.w * self.x_pixel
        self.jobs: list[Job] = []
        self.lines = [np.zeros((0, 2), np.int64)]
        self.known: dict[tuple[Axis, ...], list[tuple[int, _Lines]]] = {}  # number of the first

    def add(self, rows: Run, r_taps: range, cols: Run, s_taps: range) -> None:
        """Add the jobs of a rectangle of pixels: one for each row of its taps and kind of line."""
        size, seen = self.size, self.seen
        grad_first = rows.first * self.grad_row + cols.first * self.grad_pixel
        j = cols.first * size.stride_w + s_taps[0] * size.dilation_w - size.pad_left
        for first_line, lines in self._lines_of(rows.count, cols.count):
            for r in r_taps:
                i = rows.first * size.stride_h + r * size.dilation_h - size.pad_top
                a_first, b_first = seen.a_and_b(grad_first, i * self.x_row + j * self.x_pixel)
                a_step, b_step = seen.a_and_b(lines.grad_step, lines.x_step)
                row_count, columns = seen.a_and_b(seen.filters, len(s_taps) * seen.channels)
                self.jobs.append(
                    Job(
                        rows=row_count,
                        columns=columns,
                        first_line=first_line,
                        line_count=len(lines.x),
                        steps=lines.steps,
                        a_first=a_first,
                        a_step=a_step,
                        b_first=b_first,
                        b_step=b_step,
                        y_first=(r * size.s + s_taps[0]) * seen.channels * self.y_pair,
                    )
                )

    def _lines_of(self, rows: int, columns: int) -> list[tuple[int, _Lines]]:
        """Return (number of the first, lines) of a rectangle; equal rectangles share them."""
        size = self.size
        axes = (
            Axis(columns, self.grad_pixel, size.stride_w * self.x_pixel),
            Axis(rows, self.grad_row, size.stride_h * self.x_row),
            Axis(size.n, size.p * self.grad_row, size.h * self.x_row),
        )
        if axes not in self.known:
            self.known[axes] = []
            for lines in _lines(axes):
                self.known[axes].append((sum(map(len, self.lines)), lines))
                self.lines.append(np.stack(self.seen.a_and_b(lines.grad_y, lines.x), axis=1))
        return self.known[axes]


def _shares(
    size: Conv2dSize, seen: Seen, item: int, sums: int, row_tiles: int
) -> tuple[int, int, int]:
    """Return into how many slices, parts, and chunks of a part the work is cut (``tables.Job``)."""
    grad_bytes = size.n * size.p * size.q * seen.filters * item
    reads = size.n * size.p * size.q * seen.channels * item  # of x by one tap
    x_bytes = min(size.n * size.h * size.w * seen.channels * item, reads * size.r * size.s)
    slices, parts = _split(row_tiles, sums, x_bytes, seen.groups, size.n * size.p)
    return slices, parts, -(-(x_bytes + grad_bytes) // (l2_bytes() // 2 * parts))


def _way(size: Conv2dSize, shape: Shape) -> tuple[bool, bool]:
    """Return (by tap, by channel)."""
    channels, filters = size.c // size.groups, size.k // size.groups

    def cost(count: int, run: int, by_channel: bool) -> float:
        rows, columns = (run, filters) if by_channel else (filters, run)
        return count * _step_cost(rows, columns, shape)

    ways = [(cost(size.s, channels, False), True, False)]
    run = size.s * channels
    side_by_side = size.dilation_w == size.groups == 1 < size.s <= WIDEST_BY_REGION
    if side_by_side:
        ways.append((REGION_COST * cost(1, run, False), False, False))
    if filters * channels * size.r * size.s <= MOST_BY_CHANNEL:
        ways.append((cost(size.s, channels, True), True, True))
        if side_by_side:
            ways.append((REGION_COST * cost(1, run, True), False, True))
    return min(ways)[1:]


def _step_cost(rows: int, columns: int, shape: Shape) -> float:
    """Return about how many instructions of its kind a step takes, over all tiles.

    A core makes as many loads as multiply-adds in a cycle. Half of the vectors cross the lines
    of the cache. With few sums the next step waits for them.
    """
    total = 0.0
    for row in pieces(rows, shape.rows):
        for column in range(0, columns, shape.width):
            vectors = -(-min(shape.width, columns - column) // shape.lanes)
            total += max(row * vectors, row + 1.5 * vectors, IN_FLIGHT)
    return total


def pieces(count: int, most: int) -> list[int]:
    """Return about equal pieces of ``count``, the fewest of at most ``most``."""
    number = -(-count // most)
    return [count * (i + 1) // number - count * i // number for i in range(number)]


def _rectangles(size: Conv2dSize, by_tap: bool) -> Iterator[tuple[Run, range, Run, range]]:
    """Yield (rows of pixels, vertical taps, columns of pixels, horizontal taps side by side).

    These rows and columns, in all images, are a rectangle of y's pixels: all of the taps meet x
    there.
    """
    (down,) = fprop_phases(size.p, size.r, size.stride_h, size.pad_top, size.dilation_h)
    (across,) = fprop_phases(size.q, size.s, size.stride_w, size.pad_left, size.dilation_w)
    if not by_tap:
        for rows in down.runs(size.h):
            for cols in across.runs(size.w):
                if rows.lo < rows.hi and cols.lo < cols.hi:
                    yield rows, range(rows.lo, rows.hi), cols, range(cols.lo, cols.hi)
        return
    vertical, horizontal = list(down.runs(size.h)), list(across.runs(size.w))
    for r in range(size.r):
        for s in range(size.s):
            rows, cols = _meeting(vertical, r), _meeting(horizontal, s)
            yield rows, range(r, r + 1), cols, range(s, s + 1)


def _meeting(runs: list[Run], tap: int) -> Run:
    """Return the outputs at which ``tap`` meets the image: they follow each other."""
    found = [run for run in runs if run.lo <= tap < run.hi]
    first = found[0].first if found else 0
    return Run(first, sum(run.count for run in found), tap, tap + 1, 1)


def _split(row_tiles: int, sums: int, x_bytes: int, groups: int, lines: int) -> tuple[int, int]:
    """Return the slices of filters and parts of pixels that move the fewest bytes.

    Each slice reads all of x; each part has sums of its own, which are written and read.
    """
    choices = []
    for slices in range(1, row_tiles + 1):
        parts = min(max(1, lines), -(-TASKS // (slices * groups)))
        choices.append((slices * x_bytes + 2 * (parts - 1) * sums, slices, parts))
    return min(choices)[1:]


def _lines(axes: tuple[Axis, ...]) -> list[_Lines]:
    """Return lines that cover all pixels of a rectangle, each once. (Axes of grad_y, x as a, y.)

    The steps run along the image's row or column where it is long enough, else along the longest
    axis; a long axis is cut, so that a chunk can be some of its lines.
    """
    if not min(axis.count for axis in axes):
        nowhere = np.zeros(0, np.int64)
        return [_Lines(0, 0, 0, nowhere, nowhere)]
    axes = merged(axes)
    near = [axis for axis in axes[:2] if axis.count >= LEAST_STEPS]
    run = near[0] if near else max(axes, key=lambda axis: axis.count)
    lines = np.zeros((1, 2), np.int64)
    for axis in axes:
        if axis is not run:
            lines = _along(axis, range(axis.count), lines)
    length = even(run.count, LONGEST_LINE)
    whole, rest = divmod(run.count, length)
    found = []
    for steps, starts in ((length, range(0, whole * length, length)), (rest, [whole * length])):
        if steps:
            cut = _along(run, starts, lines)
            cut = cut[np.argsort(cut[:, 0], kind="stable")]
            found.append(_Lines(steps, run.a, run.y, cut[:, 0], cut[:, 1]))
    return found


def _along(axis: Axis, places: Iterable[int], lines: np.ndarray) -> np.ndarray:
    """Return the lines, repeated at places of an axis."""
    moved = np.array(places, np.int64)[:, None, None] * [axis.a, axis.y]
    return (moved + lines).reshape(-1, 2)


def _tiles(kind: str, jobs: np.ndarray, dtype: str, slices: int, most: int) -> np.ndarray:
    """Return the machine code of the tiles that the jobs need; 0 for the others."""
    shape = tile_shape(dtype)
    found = np.zeros((2, shape.rows, shape.vectors), np.int64)
    for rows, columns in {(int(job["rows"]), int(job["columns"])) for job in jobs}:
        widths = {min(shape.width, columns - at) for at in range(0, columns, shape.width)}
        for number in range(slices):
            own = rows * (number + 1) // slices - rows * number // slices
            for row in set(pieces(own, most)):
                for width in widths:
                    partial, vectors = width % shape.lanes != 0, -(-width // shape.lanes)
                    tile = Tile(kind, row, vectors, shape.lanes, dtype, shape.fused, partial)
                    found[int(partial), row - 1, vectors - 1] = address(tile)
    return found
