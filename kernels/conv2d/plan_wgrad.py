"""How wgrad is laid out over register tiles: a pure function of sizes, types and the CPU.

A tile holds sums for some filters and some (tap, channel) pairs and runs over pixels. x and
grad_y are read where they lie, and never the padding: a job is a set of taps and the pixels at
which all of them meet the image. There are two ways to cut:

- by tap: one job a tap, whose pixels are a rectangle; the columns of its sums are the channels;
- by region (``phases``): the pixels that have the same taps; those side by side in a region's row
  are one run of channels, which fills vectors better when there are few of them.

And two ways round: rows of a tile, single numbers, are filters and its columns, vectors, are
channels, or the other way ("by channel": few channels, many filters). The least estimated time
decides. Of a depthwise convolution the rows are taps and the lanes channels. The pixels are
added in ``parts``, whose number and bounds depend on the sizes alone; then the parts are added
in order. All strides and offsets are in bytes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..cpu.assemble import address
from ..cpu.tiles import Shape, Tile, tile_shape
from . import Conv2dSize
from .phases import Run, fprop_phases
from .plan import PLANS, Axis, joined, l2_bytes, merged

JOB = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("a_first", "b_first", "y_first", "a_step", "b_step", "steps", "taps", "tap_count"),
            *("rows", "columns"),
        )
    ]
)
"""Sums of ``rows x columns`` over ``tap_count x steps`` pixels."""

FACTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("itemsize", "groups", "a_group", "b_group", "y_group", "y_row", "sums", "lanes"),
            *("vectors", "most_rows", "parts", "slices", "chunks", "by_channel", "by_tap"),
            *("filters", "length", "a_row", "a_column", "joined", "channels"),
        )
    ]
)

TASKS = 16  # that there shall be at least, for any number of threads
MOST_BY_CHANNEL = 64 << 10  # numbers: these sums are transposed one by one
REGION_COST = 1.1  # of regions, beside one rectangle a tap: more and shorter runs
IN_FLIGHT = 8  # multiply-adds that a core works on at a time
WIDEST_BY_REGION = 16  # taps in a row: the regions grow with the square of it
LEAST_STEPS = 4  # of a line of pixels that lie near each other
PIECE = 64  # pixels of a line at most: some of them make a chunk


@dataclass(frozen=True)
class WgradPlan:
    """What the jitted loops need."""

    facts: np.ndarray  # FACTS, one
    jobs: np.ndarray  # JOB
    taps: np.ndarray  # int64 pairs (bytes from a, bytes from b), one for each line of pixels
    tiles: np.ndarray  # int64 [partial, rows - 1, vectors - 1]: machine code
    sums_shape: tuple[int] | None  # None: one part, straight into grad_w
    by_channel: bool
    zeros: np.ndarray  # where sums begin


@lru_cache(maxsize=PLANS)
def wgrad_plan(size: Conv2dSize, dtype: str) -> WgradPlan:
    """Return the plan of wgrad."""
    item, shape = np.dtype(dtype).itemsize, tile_shape(dtype)
    groups, channels, filters = size.groups, size.c // size.groups, size.k // size.groups
    depthwise = channels == filters == 1 < groups
    together = 1  # groups computed as one, of whose sums those of a filter's own group count
    if depthwise:
        groups, filters = 1, size.k
        by_tap, by_channel = False, True
    elif (together := joined(groups, channels, shape.lanes)) > 1:
        groups, filters, channels = groups // together, filters * together, channels * together
        by_tap, by_channel = True, False
    else:
        by_tap, by_channel = _way(size, shape)
    length = size.r * size.s * channels
    filter_row = -(-filters // shape.lanes) * shape.lanes * item  # of sums by channel
    jobs: list[tuple[int, ...]] = []
    tables = [np.zeros((0, 2), np.int64)]  # of lines of pixels
    known: dict[tuple[Axis, ...], list[tuple[int, ...]]] = {}
    for rows, r_taps, cols, s_taps in _rectangles(size, by_tap):
        y_pixel, x_pixel = size.k * item, size.c * item
        y_row, x_row = size.q * y_pixel, size.w * x_pixel
        axes = (
            Axis(cols.count, y_pixel, size.stride_w * x_pixel),
            Axis(rows.count, y_row, size.stride_h * x_row),
            Axis(size.n, size.p * y_row, size.h * x_row),
        )
        if axes not in known:
            known[axes] = []
            for steps, y_step, x_step, lines in _lines(axes):
                start = sum(map(len, tables))
                known[axes].append((steps, y_step, x_step, start, len(lines)))
                tables.append(lines[:, ::-1] if by_channel else lines)
        for steps, y_step, x_step, start, count in known[axes]:
            for r in r_taps:
                y = rows.first * y_row + cols.first * y_pixel
                i = rows.first * size.stride_h + r * size.dilation_h - size.pad_top
                j = cols.first * size.stride_w + s_taps[0] * size.dilation_w - size.pad_left
                x = i * x_row + j * x_pixel
                place, run = (r * size.s + s_taps[0]) * channels, len(s_taps) * channels
                pixels = (steps, start, count)
                if by_channel:
                    jobs.append((x, y, place * filter_row, x_step, y_step, *pixels, run, filters))
                else:
                    jobs.append((y, x, place * item, y_step, x_step, *pixels, filters, run))
    table = np.array(jobs, JOB)
    whole = not depthwise and not (table["columns"] % shape.lanes).any()
    most_rows = shape.rows if whole else shape.rows_beside
    sums = length * filter_row if by_channel else filters * length * item
    x_bytes = size.n * size.p * size.q * channels * item
    x_bytes = min(size.n * size.h * size.w * channels * item, x_bytes * size.r * size.s)
    row_tiles = 1 if by_channel else -(-filters // most_rows)
    slices, parts = _split(row_tiles, sums, x_bytes, groups, size.n * size.p)
    read_bytes = x_bytes + size.n * size.p * size.q * filters * item
    chunks = -(-read_bytes // (l2_bytes() // 2 * parts))
    strides = (filters * item, channels * item)
    facts = np.zeros(1, FACTS)
    facts[0] = (
        *(item, groups, *(strides[::-1] if by_channel else strides), sums),
        *(filter_row if by_channel else length * item, sums * groups, shape.lanes),
        *(shape.vectors, most_rows, parts, slices, chunks, by_channel, by_tap),
        *(filters, length),
        *((size.dilation_w * size.c * item, 1) if depthwise else (item, 0)),
        *(together, channels),
    )
    straight = parts == together == 1 and not by_channel
    return WgradPlan(
        facts,
        table,
        np.ascontiguousarray(np.concatenate(tables)),
        _tiles("channels" if depthwise else "columns", table, dtype, slices, most_rows),
        None if straight else (parts * sums * groups // item,),
        by_channel,
        np.zeros(shape.width, dtype),
    )


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
    """Yield (rows of pixels, vertical taps, columns of pixels, horizontal taps side by side)."""
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


def _lines(axes: tuple[Axis, ...]) -> list[tuple[int, int, int, np.ndarray]]:
    """Return (steps, strides of both, lines) that cover all pixels of a rectangle, each once.

    The steps run along the image's row or column where it is long enough, else along the longest
    axis; a long axis is cut into pieces, so that a chunk can be some of them. The lines are where
    they begin, int64 (lines, 2), in the order of memory.
    """
    if not min(axis.count for axis in axes):
        return [(0, 0, 0, np.zeros((0, 2), np.int64))]
    axes = merged(axes)
    near = [axis for axis in axes[:2] if axis.count >= LEAST_STEPS]
    run = near[0] if near else max(axes, key=lambda axis: axis.count)
    lines = np.zeros((1, 2), np.int64)
    for axis in axes:
        if axis is not run:
            lines = _along(axis, range(axis.count), lines)
    piece = -(-run.count // -(-run.count // PIECE))
    whole, rest = divmod(run.count, piece)
    found = []
    for steps, starts in ((piece, range(0, whole * piece, piece)), (rest, [whole * piece])):
        if steps:
            cut = _along(run, starts, lines)
            found.append((steps, run.a, run.y, cut[np.argsort(cut[:, 0], kind="stable")]))
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
        for part in range(slices):
            own = rows * (part + 1) // slices - rows * part // slices
            for row in set(pieces(own, most)):
                for width in widths:
                    partial, vectors = width % shape.lanes != 0, -(-width // shape.lanes)
                    tile = Tile(kind, row, vectors, shape.lanes, dtype, shape.fused, partial)
                    found[int(partial), row - 1, vectors - 1] = address(tile)
    return found
