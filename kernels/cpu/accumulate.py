"""The loops of wgrad over its jobs, which ``conv2d.plan_wgrad`` lays out, on all threads.

A task adds one part of the pixels to the sums of one slice of the rows, chunk by chunk. What jobs,
lines, slices, parts and chunks are, ``tables.Job`` says. The plan fixes the order of the additions.
"""

import numpy as np
from numba import prange

from .correlate import WORTH_BYTES, address
from .jit import jit, parallel_jit
from .tiles import half_rows
from .vector import call_tile, carray, float_pointer, zero_bytes

_half_rows = jit(half_rows)


@parallel_jit(worth_bytes=WORTH_BYTES)
def accumulate(a, b, sums, zeros, facts, jobs, lines, tiles):
    """sums = products of a and b over pixels, a copy of them for each part of the pixels."""
    fact = facts[0]
    chunks = fact.parts * fact.chunks
    for task in prange(fact.groups * fact.parts * fact.slices):
        rest, of_slice = np.int64(task) // fact.slices, np.int64(task) % fact.slices
        group, part = rest // fact.parts, rest % fact.parts
        y = address(sums) + part * fact.y_part + group * fact.y_group
        if not fact.by_tap:
            first = fact.filters * of_slice // fact.slices
            end = fact.filters * (of_slice + 1) // fact.slices
            if fact.by_channel:  # in one slice
                first, end = 0, fact.length
            zero_bytes(y + first * fact.y_row, (end - first) * fact.y_row)
        a_group = address(a) + group * fact.a_group
        b_group = address(b) + group * fact.b_group
        for chunk in range(part * fact.chunks, (part + 1) * fact.chunks):
            # By tap, the first job of a tap writes its sums, in the first chunk, and others add.
            writes = fact.by_tap and chunk == part * fact.chunks
            before = -1  # where the sums of the job before are
            for i in range(len(jobs)):
                job = jobs[i]
                first = job.line_count * chunk // chunks
                end = job.line_count * (chunk + 1) // chunks
                starts = writes and job.y_first != before
                before = job.y_first
                if first < end or starts:
                    some = address(lines) + 16 * (job.first_line + first)
                    start = address(zeros) if starts else 0
                    _add(a_group, b_group, y, start, fact, job, some, end - first, tiles, of_slice)


@jit
def _add(a, b, y, start, fact, job, lines, line_count, tiles, of_slice):
    """Add the products of some lines of pixels to the sums of a slice, tile by tile.

    The sums begin at ``start``, zeros; or, where that is 0, at what they are.
    """
    item, width, y_row = fact.itemsize, fact.vectors * fact.lanes, fact.y_row
    top, bottom = job.rows * of_slice // fact.slices, job.rows * (of_slice + 1) // fact.slices
    count = -(-(bottom - top) // fact.most_rows)
    a_first, b_first, y_first = a + job.a_first, b + job.b_first, y + job.y_first
    a_step, b_step, steps, lanes = job.a_step, job.b_step, job.steps, fact.lanes
    job_columns, a_row, a_column = job.columns, fact.a_row, fact.a_column
    depthwise = a_column != 0
    for column in range(0, job_columns, width):
        columns = min(width, job_columns - column)
        vectors, partial = -(-columns // lanes), int(columns % lanes != 0)
        for i in range(count):
            row = top + (bottom - top) * i // count
            rows = top + (bottom - top) * (i + 1) // count - row
            half = _half_rows(rows)
            place = y_first + row * y_row + column * item
            y_ahead = rows * y_row if i + 1 < count else (top - row) * y_row + width * item
            call_tile(
                tiles[partial, rows - 1, vectors - 1],
                a_first + row * a_row + column * a_column,
                b_first + column * item,
                place,
                lines,
                line_count,
                steps,
                a_row,
                half * a_row if depthwise else y_ahead,  # a_half of channels, y_ahead of columns
                a_step,
                b_step,
                y_row,
                half * y_row,
                columns,
                start if start else place,
                0 if start else y_row,
            )


@parallel_jit
def add_parts(sums, grad_w, facts):
    """grad_w = the parts of the sums added in order, filter by filter."""
    fact = facts[0]
    own_channels = fact.channels // fact.joined
    length = fact.length // fact.joined
    for turn in prange(fact.groups * fact.filters):
        k = np.int64(turn)
        group, own = k // fact.filters, k % fact.filters
        start = address(sums) + group * fact.y_group
        out = grad_w[k * length : (k + 1) * length]
        for part in range(fact.parts):
            place = start + part * fact.y_part
            if fact.by_channel:
                _add_every(place + own * fact.itemsize, fact.y_row // fact.itemsize, part, out)
            elif fact.joined == 1:
                _add_every(place + own * fact.y_row, 1, part, out)
            else:
                place += own * fact.y_row
                place += own // (fact.filters // fact.joined) * own_channels * fact.itemsize
                for i in range(0, length, own_channels):
                    some = out[i : i + own_channels]
                    _add_every(place + i * fact.joined * fact.itemsize, 1, part, some)


@jit
def _add_every(place, stride, part, out):
    """Add every ``stride``-th number from the address ``place`` on; the first part begins."""
    length, step = np.uint64(len(out)), np.uint64(stride)
    values = carray(float_pointer(place, out), (length * step,))
    if part == 0:
        for i in range(length):
            out[i] = values[i * step]
    else:
        for i in range(length):
            out[i] += values[i * step]
