"""The table of parameters in flat buffers that ``sgd`` and ``adam`` step over.

A table is an int64 array (S, 5), a row for each parameter: START and SIZE, its elements in the
flat buffers; GROUP, its row in the table of hyper-parameters; ACTIVE, 1 when it takes part in a
step; STEP, how many steps it has taken. STEP is the only column that kernels write. Parameters
start on multiples of 256 bytes; the gaps between them are never touched.
"""

import math
from functools import lru_cache

import numpy as np

from .arrays import Array, check_floats, check_layout

START, SIZE, GROUP, ACTIVE, STEP = range(5)
COLUMNS = 5

ALIGNMENT_BYTES = 256
CHUNK = 16384  # elements that one thread updates at a time
CHUNK_BYTES = 16384  # of each buffer, that one block of a GPU updates


def check_buffers(op: str, **buffers: Array) -> None:
    """Raise unless all ``buffers`` (Nones skipped) are 1-D, contiguous, of one length and dtype.

    Raises:
        TypeError: dtypes differ, or are not float32 or float64.
        ValueError: Shapes differ, or one is not flat.
    """
    check_floats(op, **buffers)
    length = next(iter(buffers.values())).size
    for name, buffer in buffers.items():
        check_layout(op, name, buffer, (length,))


def check_tables(op: str, segments: Array, hyper: Array, columns: int) -> None:
    """Raise unless ``segments`` is int64 (S, 5) and ``hyper`` float64 (G, columns), in C order.

    Raises:
        TypeError: A dtype differs.
        ValueError: A shape or the order differs.
    """
    tables = (("segments", segments, np.int64, COLUMNS), ("hyper", hyper, np.float64, columns))
    for name, table, dtype, width in tables:
        if getattr(table, "dtype", None) != dtype:
            raise TypeError(
                f"{op}: {name} must be an array of {np.dtype(dtype)}, "
                f"got {getattr(table, 'dtype', type(table).__name__)}"
            )
        if table.ndim != 2 or table.shape[1] != width or not table.flags.c_contiguous:
            raise ValueError(
                f"{op}: {name} must be C-contiguous of shape (rows, {width}), got {table.shape}"
            )


def check_segments(op: str, segments: np.ndarray, groups: int, buffer: Array) -> None:
    """Raise unless the rows are sound: apart, aligned, inside ``buffer`` and of a known group.

    Raises:
        ValueError: Naming the first row that is not.
    """
    _check_places(op, segments[:, :STEP].tobytes(), groups, buffer.size, buffer.itemsize)
    if segments[:, STEP].min(initial=0) < 0:
        _check_rows(op, segments, segments[:, STEP] < 0, "has a negative step")


@lru_cache(maxsize=64)  # the steps alone change from one call to the next
def _check_places(op: str, places: bytes, groups: int, length: int, itemsize: int) -> None:
    segments = _places(places)
    start, size, group, active = segments.T
    _check_rows(op, segments, size < 0, "has a negative size")
    outside = (start < 0) | (size > length) | (start > length - size)
    _check_rows(op, segments, outside, f"leaves the buffers of {length} elements")
    misaligned = start % (ALIGNMENT_BYTES // itemsize) != 0
    _check_rows(op, segments, misaligned, f"does not start on {ALIGNMENT_BYTES} bytes")
    unknown = (group < 0) | (group >= groups)
    _check_rows(op, segments, unknown, f"is of a group that hyper, of {groups} rows, does not have")
    _check_rows(op, segments, (active != 0) & (active != 1), "must have active 0 or 1")
    order = np.lexsort((size, start))
    overlaps = np.zeros(len(segments), bool)
    overlaps[order[1:]] = (start + size)[order[:-1]] > start[order[1:]]
    _check_rows(op, segments, overlaps, "overlaps another one")


def _places(places: bytes) -> np.ndarray:
    """Return the table, without the steps, whose bytes these are."""
    return np.frombuffer(places, np.int64).reshape(-1, STEP)


def _check_rows(op: str, segments: np.ndarray, bad: np.ndarray, fault: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        columns = ("start", "size", "group", "active", "step")[: segments.shape[1]]
        raise ValueError(
            f"{op}: segment {row}, ({', '.join(columns)}) = "
            f"{tuple(segments[row].tolist())}, {fault}"
        )


def check_hyper(op: str, name: str, values: np.ndarray, *, least: float, below: float) -> None:
    """Raise unless this column of hyper-parameters, a value a group, is in [least, below).

    Raises:
        ValueError: Naming the op, the hyper-parameter, its group and value.
    """
    for group, value in enumerate(values.tolist()):
        if not (math.isfinite(value) and least <= value < below):
            limits = "finite" if math.isinf(below) else f"< {below:g}"
            limits = limits if math.isinf(least) else f">= {least:g} and {limits}"
            raise ValueError(f"{op}: {name} must be {limits}, got {value} in group {group}")


def check_flags(op: str, **columns: np.ndarray) -> None:
    """Raise unless these columns of hyper-parameters hold nothing but 0 and 1.

    Raises:
        ValueError: Naming the op, the hyper-parameter, its group and value.
    """
    for name, values in columns.items():
        for group, value in enumerate(values.tolist()):
            if value not in (0, 1):
                raise ValueError(f"{op}: {name} must be 0 or 1, got {value} in group {group}")


def chunks(segments: np.ndarray) -> np.ndarray:
    """Cut the active segments into (row, first element, end), int64, at most CHUNK elements each.

    The cut is a function of the table alone, not of the number of threads.
    """
    return _chunks(segments[:, :STEP].tobytes())


@lru_cache(maxsize=64)
def _chunks(places: bytes) -> np.ndarray:
    segments = _places(places)
    active = np.flatnonzero(segments[:, ACTIVE])
    pieces = -(-segments[active, SIZE] // CHUNK)
    row = np.repeat(active, pieces)
    piece = np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = segments[row, START] + piece * CHUNK
    end = segments[row, START] + segments[row, SIZE]
    return np.stack([row, start, np.minimum(start + CHUNK, end)], axis=1)
