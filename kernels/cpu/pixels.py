"""Pixels gathered in whole vectors of channels, for pooling.

A pixel may have few channels, or no multiple of a vector's: Numba's loops would spend most of
their time on what is left over. What is gathered is the inner loop, so that the result stays in
registers and is stored once.

Arrays are flat, offsets are in elements. A table (K, 2) holds the offset and a number of each row
of an image that is gathered from; another one those of columns. A pixel has the sums of both.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from .lanes import (
    I32,
    I64,
    LINE_BYTES,
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

GROUP = 4  # vectors that are gathered side by side


class _Pixels:
    """Emits the loops of one intrinsic, for vectors as wide as those of the dtype of ``like``."""

    def __init__(self, context: Any, builder: Any, like: Any) -> None:
        self.context, self.builder = context, builder
        self.kind = context.get_data_type(like.dtype)
        self.lanes = vector_bytes() // context.get_abi_sizeof(self.kind)
        self.mask: Any = None  # of the lanes that exist, in the rest

    def memory(self, kind: Any, value: Any) -> Any:
        """Return the address of an array."""
        return self.context.make_array(kind)(self.context, self.builder, value).data

    def vector(self, number: Any) -> Any:
        """Return a vector of one number."""
        return splat(self.builder, number, self.lanes)

    def of(self, number: float) -> Any:
        """Return a vector of one number of the dtype."""
        return ir.Constant(ir.VectorType(self.kind, self.lanes), [number] * self.lanes)

    def variable(self, vector: Any) -> Any:
        """Return a variable, which starts as ``vector`` and will be a register."""
        return cgutils.alloca_once_value(self.builder, vector)

    def over(self, channels: Any, body: Callable[[list[Any]], None]) -> None:
        """Emit ``body(cs)`` for all channels: the vectors from each c of cs on.

        The last vector ends with the last channel, and may begin in the one before it.
        """
        builder, lanes = self.builder, I64(self.lanes)
        group = I64(GROUP * self.lanes)
        grouped = builder.sub(channels, builder.urem(channels, group))
        with cgutils.for_range_slice(builder, I64(0), grouped, group, I64) as (c, _):
            body([builder.add(c, I64(i * self.lanes)) for i in range(GROUP)])
        few = builder.icmp_signed("<", channels, lanes)
        with builder.if_else(few) as (masked, whole):
            with masked:
                count = self.vector(builder.trunc(channels, I32))
                self.mask = builder.icmp_unsigned("<", counted(I32, self.lanes), count)
                body([I64(0)])
                self.mask = None
            with whole:
                last = builder.sub(channels, lanes)
                with cgutils.for_range_slice(builder, grouped, channels, lanes, I64) as (c, _):
                    body([builder.select(builder.icmp_signed(">", c, last), last, c)])

    def gather(self, rows: Any, columns: Any, body: Callable[[Any, Any], None]) -> None:
        """Emit ``body(offset, number)`` for each pixel of some rows and columns.

        Each of both is (address of a table, first entry, the one past the last).
        """
        with self._entries(*rows) as row, self._entries(*columns) as column:
            body(*(self.builder.add(r, c) for r, c in zip(row, column, strict=True)))

    def first_number(self, rows: Any, columns: Any) -> Any:
        """Return the number of the first pixel."""
        builder = self.builder
        places = (
            builder.gep(t, [builder.add(builder.mul(i, I64(2)), I64(1))])
            for t, i, _ in (rows, columns)
        )
        return builder.add(*map(builder.load, places))

    def narrow(self, number: Any, like: Any) -> Any:
        """Return a vector of a number, of the integers at the address ``like``."""
        kind = like.type.pointee
        return self.vector(number if kind == number.type else self.builder.trunc(number, kind))

    @contextmanager
    def _entries(self, table: Any, first: Any, end: Any) -> Iterator[list[Any]]:
        builder = self.builder
        with cgutils.for_range_slice(builder, first, end, I64(1), I64) as (i, _):
            place = builder.mul(i, I64(2))
            yield [builder.load(builder.gep(table, [builder.add(place, I64(k))])) for k in (0, 1)]

    def load(self, memory: Any, index: Any) -> Any:
        """Load a vector; lanes that do not exist are 0."""
        place, kind, align = self._place(memory, index)
        if self.mask is None:
            return load_vector(self.builder, place, kind, align)
        return load_masked(self.builder, place, self.mask, ir.Constant(kind, None), align)

    def store(self, value: Any, memory: Any, index: Any) -> None:
        """Store a vector, the lanes that exist."""
        place, _, align = self._place(memory, index)
        if self.mask is None:
            store_vector(self.builder, value, place, align)
        else:
            store_masked(self.builder, value, place, self.mask, align)

    def _place(self, memory: Any, index: Any) -> tuple[Any, Any, int]:
        kind = memory.type.pointee
        align = self.context.get_abi_sizeof(kind)
        return self.builder.gep(memory, [index]), ir.VectorType(kind, self.lanes), align


def runs(first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (i, n) for each i and each integer n with first[i] <= n < end[i], in this order."""
    counts = end - first
    owner = np.repeat(np.arange(len(first)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts - first, counts)


def _intrinsic(emit: Callable[..., None]) -> Any:
    """Return ``emit(pixels, *arguments)`` as a function that jitted code may call.

    The first argument is an array of the dtype that vectors are made for. ``emit`` gets the
    addresses of arrays; the other arguments are int64, or tuples. Tables are given as tuples
    (table, first entry, the one past the last).
    """

    def given(pixels: _Pixels, kind: Any, value: Any) -> Any:
        if isinstance(kind, types.Array):
            return pixels.memory(kind, value)
        if hasattr(kind, "types"):  # a tuple
            values = cgutils.unpack_tuple(pixels.builder, value)
            return [given(pixels, *pair) for pair in zip(kind.types, values, strict=True)]
        return value

    @intrinsic
    def made(typing: Any, *arguments: Any) -> Any:
        packed: Any = types.StarArgTuple.from_types(arguments)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pixels = _Pixels(context, builder, arguments[0])
            emit(pixels, *given(pixels, packed, values[0]))
            return context.get_dummy_value()

        nothing: Any = types.void
        return nothing(packed), generate

    return made


@_intrinsic
def fetch(pixels, x, first, count):
    """Have x[first : first + count] brought into the caches; beyond the end of x it does nothing.

    The CPU foresees by itself what a loop through memory needs, but not what several rows of an
    image will give: three times the bandwidth.
    """
    builder = pixels.builder
    step = I64(LINE_BYTES // pixels.context.get_abi_sizeof(pixels.kind))
    end = builder.add(first, count)
    with cgutils.for_range_slice(builder, first, end, step, I64) as (i, _):
        prefetch(builder, builder.gep(x, [i], inbounds=False))


@_intrinsic
def largest(pixels, x, first, rows, columns, channels, y, argmax, to):
    """Take the largest of the pixels of x that the tables name, and note its number.

    y[to + c] = max x[first + offset + c], c < channels. Of equal ones the first wins; NaN beats
    all numbers, and the last NaN wins.
    """
    builder = pixels.builder

    def body(cs: list[Any]) -> None:
        # The first wins also where all are -inf.
        begin = pixels.narrow(pixels.first_number(rows, columns), argmax)
        bests = [pixels.variable(pixels.of(float("-inf"))) for _ in cs]
        winners = [pixels.variable(begin) for _ in cs]

        def challenge(offset: Any, number: Any) -> None:
            challenger, place = pixels.narrow(number, argmax), builder.add(first, offset)
            for c, best, winner in zip(cs, bests, winners, strict=True):
                value, before = pixels.load(x, builder.add(place, c)), builder.load(best)
                larger = builder.fcmp_ordered(">", value, before)
                wins = builder.or_(larger, builder.fcmp_unordered("uno", value, value))
                builder.store(builder.select(wins, value, before), best)
                builder.store(builder.select(wins, challenger, builder.load(winner)), winner)

        pixels.gather(rows, columns, challenge)
        for c, best, winner in zip(cs, bests, winners, strict=True):
            pixels.store(builder.load(best), y, builder.add(to, c))
            pixels.store(builder.load(winner), argmax, builder.add(to, c))

    pixels.over(channels, body)


@_intrinsic
def rewarded(pixels, grad_y, argmax, first, rows, columns, channels, grad_x, to):
    """Add up the pixels of grad_y that the tables name, where argmax is their number.

    grad_x[to + c] = sum of grad_y[i] where argmax[i] = number, i = first + offset + c.
    """
    builder = pixels.builder

    def term(offset: Any, number: Any, c: Any) -> Any:
        place = builder.add(builder.add(first, offset), c)
        winner = pixels.load(argmax, place)
        wins = builder.icmp_unsigned("==", winner, pixels.narrow(number, argmax))
        return builder.select(wins, pixels.load(grad_y, place), pixels.of(0.0))

    _sums(pixels, rows, columns, channels, term, grad_x, to)


@_intrinsic
def shared(pixels, grad_y, first, rows, columns, divisors, channels, grad_x, to):
    """Add up the pixels of grad_y that the tables name, each divided by its number's divisor.

    grad_x[to + c] = sum of grad_y[first + offset + c] / divisors[number].
    """
    builder = pixels.builder

    def term(offset: Any, number: Any, c: Any) -> Any:
        grad = pixels.load(grad_y, builder.add(builder.add(first, offset), c))
        return builder.fdiv(grad, pixels.vector(builder.load(builder.gep(divisors, [number]))))

    _sums(pixels, rows, columns, channels, term, grad_x, to)


@_intrinsic
def averaged(pixels, x, first, rows, columns, divisors, number, channels, y, to):
    """Add up the pixels of x that the tables name, and divide the sum by divisors[number].

    y[to + c] = sum of x[first + offset + c] / divisors[number].
    """
    builder = pixels.builder

    def term(offset: Any, _: Any, c: Any) -> Any:
        return pixels.load(x, builder.add(builder.add(first, offset), c))

    def divided(total: Any) -> Any:
        divisor = builder.load(builder.gep(divisors, [number]))
        return builder.fdiv(total, pixels.vector(divisor))

    _sums(pixels, rows, columns, channels, term, y, to, divided)


def _sums(
    pixels: _Pixels,
    rows: Any,
    columns: Any,
    channels: Any,
    term: Callable[[Any, Any, Any], Any],
    result: Any,
    to: Any,
    finish: Callable[[Any], Any] = lambda total: total,
) -> None:
    """Emit result[to + c] = finish(sum of term(offset, number, c)) over what the tables name."""
    builder = pixels.builder

    def body(cs: list[Any]) -> None:
        totals = [pixels.variable(pixels.of(0.0)) for _ in cs]

        def add(offset: Any, number: Any) -> None:
            for c, total in zip(cs, totals, strict=True):
                builder.store(builder.fadd(builder.load(total), term(offset, number, c)), total)

        pixels.gather(rows, columns, add)
        for c, total in zip(cs, totals, strict=True):
            pixels.store(finish(builder.load(total)), result, builder.add(to, c))

    pixels.over(channels, body)
