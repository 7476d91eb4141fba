"""How wgrad is laid out over register tiles: a pure function of sizes, types and the CPU.

A tile holds sums for some filters and some (tap, channel) pairs and runs over pixels. The pixels
are cut into the regions of ``phases``, in which the same taps meet the image, so that no padding
occurs; the taps side by side in a region's row are one run of channels. x and grad_y are read
where they lie. The rows of a tile, single numbers, are filters and its columns, vectors, are
channels; the other way round where that fills the vectors better (few channels).

The pixels are added in ``parts``, whose number and bounds depend on the sizes alone; then the
parts are added in order. All strides and offsets are in bytes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..cpu.assemble import address
from ..cpu.machine import cache_bytes
from ..cpu.tiles import Tile, tile_shape
from . import Conv2dSize
from .phases import fprop_phases
from .plan import Axis, merged

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
            *("vectors", "most_rows", "parts", "slices", "chunks", "by_channel", "filters"),
            *("length", "filter_group"),
        )
    ]
)

TASKS = 16  # that there shall be at least, for any number of threads
LEAST_STEPS = 4  # of a line of pixels that lie near each other
PIECE = 64  # pixels of a row at most: some of them make a chunk


@dataclass(frozen=True)
class WgradPlan:
    """What the jitted loops need."""

    facts: np.ndarray  # FACTS, one
    jobs: np.ndarray  # JOB
    taps: np.ndarray  # int64 pairs (bytes from a, bytes from b), one for each line of pixels
    tiles: np.ndarray  # int64 [rows - 1, vectors - 1]: machine code
    sums_shape: tuple[int]
    by_channel: bool


@lru_cache(maxsize=512)
def wgrad_plan(size: Conv2dSize, dtype: str) -> WgradPlan:
    """Return the plan of wgrad."""
    item, shape = np.dtype(dtype).itemsize, tile_shape(dtype)
    channels, filters = size.c // size.groups, size.k // size.groups
    (down,) = fprop_phases(size.p, size.r, size.stride_h, size.pad_top, size.dilation_h)
    (across,) = fprop_phases(size.q, size.s, size.stride_w, size.pad_left, size.dilation_w)
    row_length = channels * (size.s if size.dilation_w == 1 and size.groups == 1 else 1)
    by_channel = _filled(filters, shape.lanes) > 1.1 * _filled(row_length, shape.lanes)
    length = size.r * size.s * channels
    filter_row = -(-filters // shape.lanes) * shape.lanes * item  # of sums by channel

    x_pixel, y_pixel = size.c * item, size.k * item
    x_row, y_row = size.w * x_pixel, size.q * y_pixel
    jobs: list[tuple[int, ...]] = []
    taps: list[tuple[int, int]] = []
    for rows in down.runs(size.h):
        for cols in across.runs(size.w):
            axes = (
                Axis(cols.count, y_pixel, size.stride_w * x_pixel),
                Axis(rows.count, y_row, size.stride_h * x_row),
                Axis(size.n, size.p * y_row, size.h * x_row),
            )
            for steps, a_step, b_step, lines in _pixels(axes):
                start = len(taps)
                taps.extend((b, a) if by_channel else (a, b) for a, b in lines)
                for r in range(rows.lo, rows.hi):
                    for s, run in _tap_runs(across.offsets, cols.lo, cols.hi, size.groups):
                        y_first = (r * size.s + s) * channels
                        a = rows.first * y_row + cols.first * y_pixel
                        b = (rows.first * size.stride_h + down.offsets[r]) * x_row
                        b += (cols.first * size.stride_w + across.offsets[s]) * x_pixel
                        lines_at = (steps, start, len(lines))
                        if by_channel:
                            places = (b, a, y_first * filter_row, b_step, a_step)
                            jobs.append((*places, *lines_at, run * channels, filters))
                        else:
                            places = (a, b, y_first * item, a_step, b_step)
                            jobs.append((*places, *lines_at, filters, run * channels))
    sums = length * filter_row if by_channel else filters * length * item
    x_bytes = size.n * size.h * size.w * channels * item
    row_tiles = 1 if by_channel else -(-filters // shape.rows)
    slices, parts = _split(row_tiles, sums, x_bytes, size.groups, size.n * size.p)
    read_bytes = x_bytes + size.n * size.p * size.q * filters * item
    chunks = -(-read_bytes // (cache_bytes()[1] // 2 * parts))
    facts = np.zeros(1, FACTS)
    a_group, b_group = filters * item, channels * item
    if by_channel:
        a_group, b_group = b_group, a_group
    facts[0] = (
        *(item, size.groups, a_group, b_group, sums),
        *(filter_row if by_channel else length * item, sums * size.groups, shape.lanes),
        *(shape.vectors, shape.rows, parts, slices, chunks, by_channel, filters),
        *(length, filters * length),
    )
    table = np.array(jobs, JOB)
    return WgradPlan(
        facts,
        table,
        np.array(taps, np.int64).reshape(-1, 2),
        _tiles(table, dtype, slices),
        sums_shape=(parts * sums * size.groups // item,),
        by_channel=by_channel,
    )


def _split(row_tiles: int, sums: int, x_bytes: int, groups: int, lines: int) -> tuple[int, int]:
    """Return the slices of filters and parts of pixels that move the fewest bytes.

    Each slice reads all of x; each part has sums of its own, which are written and read.
    """
    choices = []
    for slices in range(1, row_tiles + 1):
        parts = min(max(1, lines), -(-TASKS // (slices * groups)))
        choices.append((slices * x_bytes + 2 * (parts - 1) * sums, slices, parts))
    return min(choices)[1:]


def _filled(count: int, lanes: int) -> float:
    """Return the share of lanes in use."""
    return count / (-(-count // lanes) * lanes)


def _tap_runs(offsets: tuple[int, ...], lo: int, hi: int, groups: int) -> list[tuple[int, int]]:
    """Return (first tap, taps) of each run of taps whose channels lie side by side in x."""
    if lo == hi:
        return []
    if groups == 1 and offsets[hi - 1] - offsets[lo] == hi - 1 - lo:
        return [(lo, hi - lo)]
    return [(s, 1) for s in range(lo, hi)]


def _pixels(axes: tuple[Axis, ...]) -> list[tuple[int, int, int, list[tuple[int, int]]]]:
    """Return (steps, strides of a and b, lines) that cover all pixels of a region, each once.

    The steps run along the image's row where it is long enough, else along the longest axis; a
    long axis is cut into pieces, so that a chunk can be some of them.
    """
    axes = merged(axes)
    near = [axis for axis in axes[:2] if axis.count >= LEAST_STEPS]
    run = near[0] if near else max(axes, key=lambda axis: axis.count)
    others = [axis for axis in axes if axis is not run]
    lines = [(0, 0)]
    for axis in others:
        lines = [(a + i * axis.a, b + i * axis.y) for i in range(axis.count) for a, b in lines]
    piece = -(-run.count // -(-run.count // PIECE)) if run.count else 1
    whole, rest = divmod(run.count, piece)
    found = []
    if whole:
        starts = range(0, whole * piece, piece)
        cut = [(a + i * run.a, b + i * run.y) for a, b in lines for i in starts]
        found.append((piece, run.a, run.y, sorted(cut)))
    if rest:
        i = whole * piece
        found.append((rest, run.a, run.y, sorted((a + i * run.a, b + i * run.y) for a, b in lines)))
    return found


def _tiles(jobs: np.ndarray, dtype: str, slices: int) -> np.ndarray:
    """Return the machine code of the tiles that the jobs need; 0 for the others."""
    shape = tile_shape(dtype)
    found = np.zeros((shape.rows, shape.vectors), np.int64)
    rows_needed, vectors_needed = set(), set()
    for rows, columns in {(int(j["rows"]), int(j["columns"])) for j in jobs}:
        for part in range(slices):
            own = rows * (part + 1) // slices - rows * part // slices
            count = -(-own // shape.rows)
            rows_needed |= {own * (i + 1) // count - own * i // count for i in range(count)}
        if columns >= shape.width:
            vectors_needed.add(shape.vectors)
        if rest := columns % shape.width:
            vectors_needed.add(-(-rest // shape.lanes))
    for rows in rows_needed:
        for vectors in vectors_needed:
            tile = Tile("columns", rows, vectors, shape.lanes, dtype, shape.fused)
            found[rows - 1, vectors - 1] = address(tile)
    return found
