"""The tables that the loops of convolution read: records of int64, filled in by name.

``correlate`` reads Region, Pack and Facts, which ``conv2d.plan`` fills in; ``accumulate`` reads
Job and WgradFacts, which ``conv2d.plan_wgrad`` fills in. A tile (``tiles``) computes sums of
products of a, whose numbers go to its rows, and b, whose vectors go to its columns; the sums are y.

Names begin with the array that they are of: ``a_row`` is the distance of two rows in a. All
distances and offsets are in bytes unless said otherwise; ``first`` is where something begins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np


@cache
def _dtype(kind: type) -> np.dtype:
    """Return the dtype of a ``kind`` below, one object: Numba knows it again at each call."""
    return np.dtype([(field.name, np.int64) for field in fields(kind)])


def table(kind: type, records: Sequence[Any]) -> np.ndarray:
    """Return records of a ``kind`` below as an array, which jitted code reads by the same names."""
    dtype = _dtype(kind)
    names = dtype.names or ()
    return np.array([tuple(getattr(record, n) for n in names) for record in records], dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Pixels of y that read the same taps, as a grid of tiles.

    The pixels lie along three axes: ``outer x middle`` lines of ``run`` pixels each. Which axis of
    the images is which differs; here the outer are images, the middle rows and the run columns::

        image 0   row 0   [ tile 0    ][ tile 1    ][ tile 2   ]    a line
                  row 1   [ tile 3    ][ tile 4    ][ tile 5   ]
        image 1   row 0   [ tile 6    ][ tile 7    ][ tile 8   ]
                  ...

    Of the tiles in a line the first, ``long``, have ``rows`` pixels; the others, short ones, have
    one less: so a line is cut evenly. Where lines are so short that two fill a tile, it takes two
    (``lines``); of an odd number of lines, the last tile takes one that the tile before has taken
    too, and writes the same numbers there again::

        image 0   row 0   [ tile 0 ]
                  row 1   [ tile 0 ][ tile 1 ]
                  row 2             [ tile 1 ]
        image 1   row 0   [ tile 2 ]
                  ...

    Each of these tiles of pixels meets all columns of y, the outputs, a tile of columns at a time:
    the last one is often narrower.
    """

    # The grid
    outer: int
    middle: int
    run: int
    rows: int  # of a long tile
    lines: int  # of a tile: 1 or 2
    tiles_in_line: int
    long: int  # of these
    tiles: int  # in all

    # Where a tile reads pixels. From the first of its rows to the first of the second half of them
    # it is a_half (of a long tile) or short_a_half: the second line, where it takes two.
    a_first: int
    a_outer: int
    a_middle: int
    a_row: int
    a_half: int
    short_a_half: int

    # Where it writes sums, in the same way
    y_first: int
    y_outer: int
    y_middle: int
    y_row: int
    y_half: int
    short_y_half: int
    columns: int  # of y: less than in other regions where a block reaches over the edge

    # What it sums up
    taps: int  # number of the first tap, a pair (bytes from a, bytes from b) of the plan
    last_taps: int  # the same for the last tile of columns, whose filters are packed closer
    tap_count: int
    steps: int  # of each tap: numbers that follow each other in a
    b_first: int
    k_bytes: int  # in b, from one tile of columns to the next

    # The machine code of the tiles
    tile: int
    last_tile: int  # of the last columns
    short_tile: int
    short_last_tile: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Filters to be packed: those that a tile of columns of one group needs, of some taps."""

    to: int  # in the packed filters
    first: int  # column
    columns: int
    width: int  # columns with the padding to whole vectors
    group: int
    taps: int  # number of the first in the plan's filter_taps
    tap_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of a whole correlation. Groups, channels and outputs are those that the tiles see."""

    itemsize: int
    lanes: int
    groups: int
    a_group: int
    b_group: int
    y_group: int

    # Columns
    width: int  # of a tile
    k_tiles: int
    a_k: int  # in a, from one tile of columns to the next: 0 unless depthwise

    # Tasks: parts of the tiles of pixels, k_parts of the tiles of columns
    tiles: int
    parts: int
    k_parts: int
    tile_outer: int  # 1: a tile of pixels meets all columns, then the next; 0: the other way round

    # Packing the filters; distances in w are in numbers
    channels: int
    outputs: int
    block: int  # pixels whose outputs are the columns
    joined: int  # groups that are one here
    w_output: int
    w_channel: int
    w_tap: int
    transposes: int  # the filter of an output is a row in w, and a column of the packed ones
    transpose: int  # machine code of that


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Some sums of wgrad and the pixels that they are over, which do not touch the padding.

    ``rows x columns`` sums, filters by (tap, channel) pairs or the other way round ("by channel"),
    are over ``line_count`` lines of ``steps`` pixels. To a tile, a line is what a tap is in a
    correlation: a pair (bytes from a, bytes from b). How the work is cut:

    - a *tile* holds up to 14 x 32 sums in registers while it runs over the pixels of some lines;
    - a *slice* is a share of the rows of every job, for which the pixels are read anew;
    - a *part* is a share of the lines of every job, with sums of its own, that are added up later;
    - a *chunk* is a share of the lines of a part: what it reads stays in the second cache while
      the jobs, one after the other, add it to their sums;
    - a *task*, which one thread does, is a slice and a part of one group.
    """

    rows: int
    columns: int
    first_line: int  # number of it in the plan's lines
    line_count: int
    steps: int
    a_first: int
    a_step: int
    b_first: int
    b_step: int
    y_first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WgradFacts:
    """Of a whole wgrad. Groups, filters and channels are those that the tiles see."""

    itemsize: int
    lanes: int
    groups: int
    a_group: int
    b_group: int
    y_group: int

    # Tiles
    vectors: int  # at most
    most_rows: int
    a_row: int
    a_column: int  # 0 unless depthwise
    y_row: int

    # Tasks
    parts: int
    slices: int
    chunks: int  # of each part
    y_part: int

    # What rows and columns of the sums are
    filters: int
    channels: int
    length: int  # (tap, channel) pairs of a filter
    joined: int  # groups that are one here
    by_channel: int  # 1: rows are (tap, channel) pairs and columns filters
    by_tap: int  # 1: each sum belongs to one job, or to jobs that follow each other
