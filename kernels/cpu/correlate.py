"""The loops that walk the tiles of a correlation, which ``conv2d.plan`` lays out, on all threads.

``tables.Region`` draws what lines, long and short tiles and tiles of two lines are. The tasks write
different outputs, or the same numbers to the same outputs, and the sum of an output is one chain in
one order: no bit depends on who takes which.
"""

import numpy as np
from numba import prange

from .jit import jit, parallel_jit
from .vector import call_tile, call_transpose, carray, copy_bytes, float_pointer

WORTH_BYTES = 96 << 10  # of activations and filters: some 10 us of multiply-adds


@jit
def address(array):
    """Return where the numbers of ``array`` begin, signed as all other offsets are."""
    return np.int64(array.ctypes.data)


@parallel_jit(worth_bytes=WORTH_BYTES)
def correlate(x, start, start_step, y, packed, facts, regions, taps):
    """y = x correlated with the packed filters.

    The sums begin at ``start``, which lies ``start_step`` bytes further for each column of tiles.
    """
    fact = facts[0]
    group_tasks = fact.parts * fact.k_parts
    for turn in prange(fact.groups * group_tasks):
        group, task = np.int64(turn) // group_tasks, np.int64(turn) % group_tasks
        part, k_part = task // fact.k_parts, task % fact.k_parts
        first, end = fact.tiles * part // fact.parts, fact.tiles * (part + 1) // fact.parts
        k = fact.k_tiles * k_part // fact.k_parts
        k_end = fact.k_tiles * (k_part + 1) // fact.k_parts
        a = address(x) + group * fact.a_group
        b = address(packed) + group * fact.b_group
        to = address(y) + group * fact.y_group
        begin = address(start)
        if start_step:
            begin += group * fact.y_group
        together = k_end - k if fact.tile_outer else 1
        for some in range(k, k_end, together):
            _walk(
                a, b, to, begin, start_step, fact, regions, taps, first, end, some, some + together
            )


@jit
def _walk(a, b, to, start, start_step, fact, regions, taps, first, end, k, k_end):
    """Compute tiles ``first`` to ``end``, numbered through all regions, for columns k to k_end.

    a, b, to (y) and start are addresses for the group; k counts tiles of columns.
    """
    before = 0
    for i in range(len(regions)):
        region = regions[i]
        tile, stop = max(first - before, 0), min(end - before, region.tiles)
        before += region.tiles
        if tile < stop:
            _walk_region(a, b, to, start, start_step, fact, region, taps, tile, stop, k, k_end)


@jit
def _walk_region(a, b, to, start, start_step, fact, region, taps, tile, stop, k, k_end):
    """Compute tiles ``tile`` to ``stop`` of a region, for columns k to k_end.

    The next tile is the one at ``place`` of its line, or lines, which are line ``middle`` of
    ``outer``, counted in lines that tiles begin with.
    """
    # Locals: the compiler must believe that a tile overwrites the tables.
    last_k, width, width_bytes = fact.k_tiles - 1, fact.width, fact.width * fact.itemsize
    a_k, table = fact.a_k, address(taps)
    lines_of_tile, in_line, long = region.lines, region.tiles_in_line, region.long
    pixels = region.rows // lines_of_tile  # of each of its lines
    last_line = region.middle - lines_of_tile  # that a tile may begin with
    middles = -(-region.middle // lines_of_tile)  # tiles along the middle axis
    a_first, a_outer, a_middle = a + region.a_first, region.a_outer, region.a_middle
    y_first, y_outer, y_middle = to + region.y_first, region.y_outer, region.y_middle
    a_row, a_half, short_a_half = region.a_row, region.a_half, region.short_a_half
    y_row, y_half, short_y_half = region.y_row, region.y_half, region.short_y_half
    code, last_code = region.tile, region.last_tile
    short_code, short_last_code = region.short_tile, region.short_last_tile
    places, last_places = table + 16 * region.taps, table + 16 * region.last_taps
    tap_count, steps, columns = region.tap_count, region.steps, region.columns
    b_first, k_bytes = b + region.b_first, region.k_bytes
    a_ahead = region.rows * a_row // max(steps, 1)  # a step, to the next tile after all
    line, place = tile // in_line, tile % in_line
    outer, middle = line // middles, line % middles
    for _ in range(tile, stop):
        row = min(middle * lines_of_tile, last_line)  # the last may repeat a line
        pixel = place * pixels - max(place - long, 0)  # short tiles have one less
        a_tile = a_first + outer * a_outer + row * a_middle + pixel * a_row
        y_tile = y_first + outer * y_outer + row * y_middle + pixel * y_row
        tile_code, tile_last_code = code, last_code
        tile_a_half, tile_y_half = a_half, y_half
        if place >= long:
            tile_code, tile_last_code = short_code, short_last_code
            tile_a_half, tile_y_half = short_a_half, short_y_half
        for some in range(k, k_end):
            last = some == last_k
            call_tile(
                tile_last_code if last else tile_code,
                a_tile + some * a_k,
                b_first + some * k_bytes,
                y_tile + some * width_bytes,
                last_places if last else places,
                tap_count,
                steps,
                a_row,
                tile_a_half,
                a_ahead,  # (of channels, a_step: there is one step)
                0,
                y_row,
                tile_y_half,
                columns - some * width,
                start + some * start_step,
                0,
            )
        place += 1
        if place == in_line:
            place, middle = 0, middle + 1
            if middle == middles:
                middle, outer = 0, outer + 1


@parallel_jit
def pack(w, packed, facts, packs, filter_taps):
    """Lay the filters out as the tiles read them."""
    fact = facts[0]
    for turn in prange(len(packs)):
        one = packs[turn]
        first = one.group * fact.outputs + one.first // fact.block
        if fact.transposes:
            length = one.tap_count * fact.channels
            source = address(w) + first * length * fact.itemsize
            to = address(packed) + one.to
            _pack_transposed(w, source, length, to, one.columns, one.width, fact)
        elif fact.joined > 1:
            _pack_joined(w, packed, one, fact, filter_taps)
        elif fact.block == 1:
            _pack_rows(w, packed, one, fact, filter_taps)
        else:
            _pack_blocks(w, packed, one, fact, filter_taps)


@jit
def _pack_transposed(w, source, length, to, columns, width, fact):
    """Rows of ``length`` numbers, one a column, become columns: lanes x lanes at a time."""
    lanes, item = fact.lanes, fact.itemsize
    whole = length // lanes * lanes
    for column in range(0, columns, lanes):
        place = to + column * item
        begin = whole
        if column + lanes > columns:
            begin = 0
        for row in range(0, begin, lanes):
            call_transpose(
                fact.transpose,
                place + row * width * item,
                width * item,
                source + (column * length + row) * item,
                length * item,
                0,
            )
        some = min(lanes, columns - column)
        out = carray(float_pointer(place, w), (length * width,))
        rows = carray(float_pointer(source + column * length * item, w), (some * length,))
        for row in range(np.uint64(begin), np.uint64(length)):
            for i in range(np.uint64(some)):
                out[row * np.uint64(width) + i] = rows[i * np.uint64(length) + row]


@jit
def _pack_rows(w, packed, pack, fact, filter_taps):
    """The columns lie side by side already: copy them, channel by channel of each tap."""
    item = fact.itemsize
    to = address(packed) + pack.to
    source = address(w) + (pack.group * fact.channels * fact.w_channel + pack.first) * item
    for i in range(pack.tap_count):
        tap = source + filter_taps[pack.taps + i] * fact.w_tap * item
        for channel in range(fact.channels):
            copy_bytes(to, tap + channel * fact.w_channel * item, pack.columns * item)
            to += pack.width * item


@jit
def _pack_blocks(w, packed, pack, fact, filter_taps):
    """Column i * outputs + k is filter k as output i of a block meets it; there is one group."""
    out = carray(
        float_pointer(address(packed) + pack.to, w),
        (pack.tap_count, fact.channels, pack.width),
    )
    for j in range(pack.tap_count):
        for i in range(fact.block):
            tap = filter_taps[pack.taps + j * fact.block + i]
            for k in range(fact.outputs):
                place = k * fact.w_output + tap * fact.w_tap
                for channel in range(fact.channels):
                    value = w[0] * 0
                    if tap >= 0:
                        value = w[place + channel * fact.w_channel]
                    out[j, channel, i * fact.outputs + k] = value


@jit
def _pack_joined(w, packed, pack, fact, filter_taps):
    """Several groups side by side: a filter meets the channels of its own, and zeros elsewhere."""
    channels, outputs = fact.channels // fact.joined, fact.outputs // fact.joined
    shape = (pack.tap_count, fact.channels, pack.width)
    out = carray(float_pointer(address(packed) + pack.to, w), shape)
    of_group = max(outputs * fact.w_output, channels * fact.w_channel)
    for i in range(pack.tap_count):
        for channel in range(fact.channels):
            for k in range(pack.columns):
                value = w[0] * 0
                if channel // channels == k // outputs:
                    place = (pack.group * fact.joined + k // outputs) * of_group
                    place += k % outputs * fact.w_output + channel % channels * fact.w_channel
                    value = w[place + filter_taps[pack.taps + i] * fact.w_tap]
                out[i, channel, k] = value
