"""Philox4x32-10 in vector registers, and dropout, which uses the words up where they arise.

A lane of 64 bits holds one word of one counter, in its lower half: so the CPU multiplies 32 x 32
bits. The upper half holds what the rounds leave there: nothing that counts depends on it.

Dropout compares the words in registers, and has what the next elements need fetched meanwhile:
so its arithmetic takes no longer than memory does. A vector holds words that its elements need in
their order: of flat memory those of counters that follow each other, interleaved; of channels-last
memory, where the words of a channel follow each other, those of a counter for each channel.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .lanes import (
    I32,
    I64,
    Value,
    counted,
    load_masked,
    load_vector,
    prefetch,
    splat,
    store_masked,
    store_vector,
)
from .machine import vector_bytes
from .vector import intrinsic

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
ROUNDS, WORDS = 10, 4
TOGETHER = 2  # vectors of counters whose rounds take turns
LOW = 0xFFFFFFFF


class _Philox:
    """Emits the blocks of one key for vectors of ``lanes`` counters of 64 bits."""

    def __init__(self, builder: Any, lanes: int, key: Value, high: Value) -> None:
        self.builder, self.lanes = builder, lanes
        self.high, keys = self._halves(high), [self._halves(key)]
        for _ in range(ROUNDS - 1):
            steps = zip(keys[-1], map(self.constant, (W0, W1)), strict=True)
            keys.append([builder.add(part, step) for part, step in steps])
        self.keys = keys

    def words(self, *counters: Value) -> list[list[Value]]:
        """Return the four words of each of the counters, in vectors of 32 bits a lane.

        The rounds of the counters take turns, since each round waits for the one before.
        """
        builder = self.builder
        half, low, m0, m1 = map(self.constant, (32, LOW, M0, M1))
        blocks = [[some, builder.lshr(some, half), *self.high] for some in counters]
        for k0, k1 in self.keys:
            for i, (c0, c1, c2, c3) in enumerate(blocks):
                left = builder.mul(builder.and_(c0, low), m0)
                right = builder.mul(builder.and_(c2, low), m1)
                c0 = builder.xor(builder.xor(builder.lshr(right, half), c1), k0)
                c2 = builder.xor(builder.xor(builder.lshr(left, half), c3), k1)
                blocks[i] = [c0, right, c2, left]
        kind = ir.VectorType(I32, self.lanes)
        return [[builder.trunc(word, kind) for word in block] for block in blocks]

    def run(self, counter: Value) -> list[Value]:
        """Return vectors of the words of ``counter`` and those after it, in order."""
        firsts = [self.builder.add(counter, I64(i * self.lanes)) for i in range(TOGETHER)]
        blocks = self.words(*map(self.count_up, firsts))
        return [words for block in blocks for words in self._in_order(block)]

    def constant(self, number: int) -> Value:
        """Return a vector of one number of 64 bits."""
        return ir.Constant(ir.VectorType(I64, self.lanes), [number] * self.lanes)

    def count_up(self, first: Value) -> Value:
        """Return the vector first, first + 1, ..."""
        return self.builder.add(self.splat(first), counted(I64, self.lanes))

    def splat(self, number: Value) -> Value:
        """Return a vector of one number."""
        return splat(self.builder, number, self.lanes)

    def _in_order(self, words: Sequence[Value]) -> list[Value]:
        """Return vectors of the words of the first counter, the second one, and so on."""
        lanes = self.lanes
        pairs = [i // 2 + lanes * (i % 2) for i in range(2 * lanes)]
        halves = [
            ir.Constant(ir.VectorType(I32, lanes), half) for half in (pairs[:lanes], pairs[lanes:])
        ]
        for _ in range(2):
            words = [
                self.builder.shuffle_vector(a, b, half)
                for a, b in zip(words[:2], words[2:], strict=True)
                for half in halves
            ]
        return list(words)

    def _halves(self, number: Value) -> list[Value]:
        return [self.splat(number), self.splat(self.builder.lshr(number, I64(32)))]


@intrinsic
def philox_words(typing: Any, key: Any, low: Any, high: Any, out: Any) -> Any:
    """Fill ``out`` (4 B words, uint32) with the blocks of counters low, low + 1, ..., B of them.

    high: the upper half of each counter. All but ``out`` uint64.
    """
    lanes = vector_bytes() // 4

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        philox = _Philox(builder, lanes, values[0], values[2])
        array = context.make_array(out)(context, builder, values[3])
        group = TOGETHER * WORDS * lanes
        room = cgutils.alloca_once(builder, ir.ArrayType(I32, group))
        room = builder.bitcast(room, I32.as_pointer())
        with cgutils.for_range_slice(builder, I64(0), array.nitems, I64(group), I64) as (i, _):
            first = builder.add(values[1], builder.udiv(i, I64(WORDS)))
            left = builder.sub(array.nitems, i)
            whole = builder.icmp_unsigned(">=", left, I64(group))
            place = builder.gep(array.data, [i])
            to = builder.select(whole, place, room)
            for part, words in enumerate(philox.run(first)):
                store_vector(builder, words, builder.gep(to, [I64(part * lanes)]), align=4)
            with builder.if_then(builder.not_(whole), likely=False):
                cgutils.raw_memcpy(builder, place, room, left, 4, align=4)
        return context.get_dummy_value()

    nothing: Any = types.void
    return nothing(types.uint64, types.uint64, types.uint64, out), emit


class _Drop:
    """Emits y = x * scale where a word is kept, x * 0 elsewhere, a vector at a time."""

    def __init__(
        self, context: Any, builder: Any, arrays: Any, ticket: Any, keep: Any, ahead: Value
    ) -> None:
        self.builder, self.ahead = builder, ahead
        (x_kind, y_kind), (x, y) = arrays
        self.x, self.y = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in ((x_kind, x), (y_kind, y))
        )
        self.itemsize = x_kind.dtype.bitwidth // 8
        self.lanes = vector_bytes() // self.itemsize
        self.philox = _Philox(builder, self.lanes, ticket[0], I64(0))
        self.threshold, self.scale = map(self.philox.splat, keep)

    def apply(self, words: Value, at: Value, mask: Value = None) -> None:
        """Compute the elements of y from ``at`` on, those of the mask."""
        builder = self.builder
        bits = builder.lshr(words, ir.Constant(words.type, [8] * self.lanes))
        kept = builder.icmp_signed(">=", bits, self.threshold)
        factor = builder.select(kept, self.scale, ir.Constant(self.scale.type, None))
        x, y = (builder.gep(array, [at]) for array in (self.x, self.y))
        if mask is None:
            loaded = load_vector(builder, x, factor.type, self.itemsize)
            store_vector(builder, builder.fmul(loaded, factor), y, self.itemsize)
        else:
            nothing = ir.Constant(factor.type, None)
            loaded = load_masked(builder, x, mask, nothing, self.itemsize)
            store_masked(builder, builder.fmul(loaded, factor), y, mask, self.itemsize)

    def fetch(self, at: Value) -> None:
        """Have the line of x that lies ahead of ``at`` brought into the caches."""
        place = self.builder.add(at, self.ahead)
        prefetch(self.builder, self.builder.gep(self.x, [place], inbounds=False))

    def below(self, count: Value) -> Value:
        """Return the mask of the first ``count`` lanes."""
        numbers = counted(I64, self.lanes)
        return self.builder.icmp_signed("<", numbers, self.philox.splat(count))


@intrinsic
def drop_run(
    typing: Any, x: Any, y: Any, ticket: Any, keep: Any, ahead: Any, first: Any, count: Any
) -> Any:
    """Drop the elements first, ..., first + count - 1 of flat arrays, whose words are as many.

    Args:
        x, y: Of one dtype; they may be one array.
        ticket: (seed, offset), uint64.
        keep: (threshold, scale): an element with word w stays where w >> 8 >= threshold.
        ahead: How many elements ahead memory is fetched.
        first: A multiple of 4.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        ticket, keep = (cgutils.unpack_tuple(builder, value) for value in values[2:4])
        ahead, first, count = values[4:]
        drop = _Drop(context, builder, ((x, y), values[:2]), ticket, keep, ahead)
        philox, lanes = drop.philox, drop.lanes
        group = I64(TOGETHER * WORDS * lanes)
        with cgutils.for_range_slice(builder, I64(0), count, group, I64) as (i, _):
            at, left = builder.add(first, i), builder.sub(count, i)
            counter = builder.add(ticket[1], builder.udiv(at, I64(WORDS)))
            words = philox.run(counter)
            places = [builder.add(at, I64(part * lanes)) for part in range(len(words))]
            with builder.if_else(builder.icmp_signed(">=", left, group), likely=True) as either:
                with either[0]:
                    for some, place in zip(words, places, strict=True):
                        drop.fetch(place)
                        drop.apply(some, place)
                with either[1]:
                    for part, (some, place) in enumerate(zip(words, places, strict=True)):
                        mask = drop.below(builder.sub(left, I64(part * lanes)))
                        drop.apply(some, place, mask)
        return context.get_dummy_value()

    nothing: Any = types.void
    return nothing(x, y, ticket, keep, types.intp, types.intp, types.intp), emit


@intrinsic
def drop_pixels(
    typing: Any, x: Any, y: Any, ticket: Any, keep: Any, ahead: Any, first: Any, size: Any
) -> Any:
    """Drop elements of some pixels, whose words follow each other in each channel.

    Args:
        x, y: Flat channels-last memory; not the same.
        ticket, keep, ahead: As of ``drop_run``.
        first: (place, word) of the first element.
        size: (pixels here, pixels of an image, channels).
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        ticket, keep, first, size = (cgutils.unpack_tuple(builder, values[i]) for i in (2, 3, 5, 6))
        drop = _Drop(context, builder, ((x, y), values[:2]), ticket, keep, values[4])
        channels, lanes = size[2], I64(drop.lanes)
        with builder.if_else(builder.icmp_signed("<", channels, lanes)) as (few, many):
            with few:
                mask = drop.below(channels)
                _emit_pixels(drop, ticket[1], first, size, I64(0), mask)
            with many, cgutils.for_range_slice(builder, I64(0), channels, lanes, I64) as (c, _):
                last = builder.sub(channels, lanes)  # may begin in the vector before it
                c = builder.select(builder.icmp_signed(">", c, last), last, c)
                _emit_pixels(drop, ticket[1], first, size, c)
        return context.get_dummy_value()

    nothing: Any = types.void
    return nothing(x, y, ticket, keep, types.intp, first, size), emit


def _emit_pixels(
    drop: _Drop, offset: Value, first: Any, size: Any, channel: Value, mask: Value = None
) -> None:
    """Emit the loop of ``drop_pixels`` over pixels, for a vector of channels from ``channel`` on.

    The words of a channel may begin within a block. So each turn makes the blocks that the next
    turn begins with, and each lane skips its first words, up to three.
    """
    builder, philox, constant = drop.builder, drop.philox, drop.philox.constant
    (place, word), (count, pixels, channels) = first, size
    begin = builder.mul(philox.count_up(channel), philox.splat(pixels))
    begin = builder.add(begin, philox.splat(word))
    skips = []
    for bit in (1, 2):
        tested = builder.and_(begin, constant(bit))
        skips.append((bit, builder.icmp_unsigned("==", tested, constant(bit))))
    block = builder.lshr(begin, constant(2))
    block = builder.add(block, philox.splat(offset))
    counters = cgutils.alloca_once_value(builder, block)
    kept = [cgutils.alloca_once_value(builder, word) for word in philox.words(block)[0]]
    start = builder.add(place, channel)
    group = I64(TOGETHER * WORDS)
    with cgutils.for_range_slice(builder, I64(0), count, group, I64) as (pixel, _):
        block = builder.load(counters)
        blocks = [builder.add(block, constant(i)) for i in range(1, TOGETHER + 1)]
        builder.store(blocks[-1], counters)
        following = philox.words(*blocks)
        words = [builder.load(variable) for variable in kept]
        words += [word for block in following for word in block]
        for variable, value in zip(kept, following[-1], strict=True):
            builder.store(value, variable)
        for count_skipped, skip in skips:
            pairs = zip(words[count_skipped:], words, strict=False)
            words = [builder.select(skip, *pair) for pair in pairs]
        at = builder.add(start, builder.mul(pixel, channels))
        _emit_rows(drop, words, at, channels, builder.sub(count, pixel), mask)


def _emit_rows(
    drop: _Drop, words: list[Value], at: Value, step: Value, left: Value, mask: Value
) -> None:
    """Emit what is done to a vector of each of several pixels, of those ``left``."""
    builder, count = drop.builder, TOGETHER * WORDS
    places = [builder.add(at, builder.mul(step, I64(i))) for i in range(count)]
    whole = builder.icmp_signed(">=", left, I64(count))
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            for some, place in zip(words, places, strict=False):
                drop.fetch(place)
                drop.apply(some, place, mask)
        with otherwise:
            for i in range(count - 1):
                with builder.if_then(builder.icmp_signed("<", I64(i), left)):
                    drop.apply(words[i], places[i], mask)
