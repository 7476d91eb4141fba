"""Loops over the channels of a pixel, in whole vectors and one masked rest, for pooling.

A pixel may have few channels, or no multiple of a vector's, and Numba's loops would then spend most of
their time on what is left over. The taps are the inner loop: what is gathered stays in registers.

Arrays are flat; ``first`` and offsets count elements.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .machine import vector_bytes

_I1, _I32, _I64 = (ir.IntType(bits) for bits in (1, 32, 64))
_POINTER = ir.IntType(8).as_pointer()


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
        kind = ir.VectorType(number.type, self.lanes)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)

    def over(self, channels: Any, body: Callable[[Any], None]) -> None:
        """Emit ``body(c)`` for each vector of channels from c on."""
        builder, lanes = self.builder, channels.type(self.lanes)
        rest = builder.urem(channels, lanes)
        whole = builder.sub(channels, rest)
        with cgutils.for_range_slice(builder, _I64(0), whole, lanes, _I64) as (c, _):
            body(c)
        with builder.if_then(builder.icmp_unsigned("!=", rest, _I64(0))):
            numbers = ir.Constant(ir.VectorType(_I32, self.lanes), list(range(self.lanes)))
            count = self.vector(builder.trunc(rest, _I32))
            self.mask = builder.icmp_unsigned("<", numbers, count)
            body(whole)
            self.mask = None

    def load(self, memory: Any, index: Any) -> Any:
        """Load a vector; lanes that do not exist are 0."""
        place, kind, align = self._place(memory, index)
        if self.mask is None:
            return self.builder.load(self.builder.bitcast(place, kind.as_pointer()), align=align)
        arguments = [_POINTER, _I32, self.mask.type, kind]
        function = self._function("load", kind, ir.FunctionType(kind, arguments))
        zero = ir.Constant(kind, None)
        pointer = self.builder.bitcast(place, _POINTER)
        return self.builder.call(function, [pointer, _I32(align), self.mask, zero])

    def store(self, value: Any, memory: Any, index: Any) -> None:
        """Store a vector, the lanes that exist."""
        place, kind, align = self._place(memory, index)
        if self.mask is None:
            place = self.builder.bitcast(place, kind.as_pointer())
            self.builder.store(value, place, align=align)
            return
        arguments = [kind, _POINTER, _I32, self.mask.type]
        function = self._function("store", kind, ir.FunctionType(ir.VoidType(), arguments))
        pointer = self.builder.bitcast(place, _POINTER)
        self.builder.call(function, [value, pointer, _I32(align), self.mask])

    def _place(self, memory: Any, index: Any) -> tuple[Any, Any, int]:
        kind = memory.type.pointee
        align = self.context.get_abi_sizeof(kind)
        return self.builder.gep(memory, [index]), ir.VectorType(kind, self.lanes), align

    def _function(self, verb: str, kind: Any, signature: Any) -> Any:
        element = kind.element
        letter = {ir.FloatType: "f32", ir.DoubleType: "f64"}.get(type(element))
        suffix = letter or f"i{element.width}"
        name = f"llvm.masked.{verb}.v{self.lanes}{suffix}.p0"
        return cgutils.get_or_insert_function(self.builder.module, signature, name)


@intrinsic
def largest(
    typing: Any,
    x: Any,
    first: Any,
    offsets: Any,
    taps: Any,
    count: Any,
    channels: Any,
    y: Any,
    argmax: Any,
    to: Any,
) -> Any:
    """Take the largest of ``count`` pixels of x, those at first + offsets, and note its tap.

    Of equal ones the first wins; NaN beats all numbers and the last NaN wins.
    """
    signature = types.void(x, first, offsets, taps, count, channels, y, argmax, to)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emitted = _Pixels(context, builder, x)
        x_, offsets_, taps_, y_, argmax_ = (
            emitted.memory(signature.args[i], values[i]) for i in (0, 2, 3, 6, 7)
        )
        first_, count_, channels_, to_ = (values[i] for i in (1, 4, 5, 8))
        winner_kind = argmax_.type.pointee

        def tap_of(t: Any) -> Any:
            tap = builder.load(builder.gep(taps_, [t]))
            return emitted.vector(
                builder.trunc(tap, winner_kind) if winner_kind.width < tap.type.width else tap
            )

        def pixel(t: Any, c: Any) -> Any:
            offset = builder.load(builder.gep(offsets_, [t]))
            return emitted.load(x_, builder.add(builder.add(first_, offset), c))

        def body(c: Any) -> None:
            best = cgutils.alloca_once_value(builder, pixel(_I64(0), c))
            winner = cgutils.alloca_once_value(builder, tap_of(_I64(0)))
            with cgutils.for_range_slice(builder, _I64(1), count_, _I64(1), _I64) as (t, _):
                value, before = pixel(t, c), builder.load(best)
                larger = builder.fcmp_ordered(">", value, before)
                wins = builder.or_(larger, builder.fcmp_unordered("uno", value, value))
                builder.store(builder.select(wins, value, before), best)
                builder.store(builder.select(wins, tap_of(t), builder.load(winner)), winner)
            emitted.store(builder.load(best), y_, builder.add(to_, c))
            emitted.store(builder.load(winner), argmax_, builder.add(to_, c))

        emitted.over(channels_, body)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def reward(
    typing: Any,
    grad_y: Any,
    argmax: Any,
    first: Any,
    tap: Any,
    count: Any,
    channels: Any,
    grad_x: Any,
    to: Any,
    step: Any,
) -> Any:
    """Add the pixel of grad_y at ``first`` to those of grad_x at to + t * step, t < count.

    To each where ``argmax`` is tap + t.
    """
    signature = types.void(grad_y, argmax, first, tap, count, channels, grad_x, to, step)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emitted = _Pixels(context, builder, grad_y)
        grad_y_, argmax_, grad_x_ = (
            emitted.memory(signature.args[i], values[i]) for i in (0, 1, 6)
        )
        first_, tap_, count_, channels_, to_, step_ = (values[i] for i in (2, 3, 4, 5, 7, 8))

        def body(c: Any) -> None:
            source = builder.add(first_, c)
            grad, winner = emitted.load(grad_y_, source), emitted.load(argmax_, source)
            zero = ir.Constant(grad.type, None)
            with cgutils.for_range_slice(builder, _I64(0), count_, _I64(1), _I64) as (t, _):
                tap = builder.add(tap_, t)
                kind = winner.type.element
                tap = builder.trunc(tap, kind)
                wins = builder.icmp_unsigned("==", winner, emitted.vector(tap))
                place = builder.add(builder.add(to_, builder.mul(t, step_)), c)
                share = builder.select(wins, grad, zero)
                emitted.store(builder.fadd(emitted.load(grad_x_, place), share), grad_x_, place)

        emitted.over(channels_, body)
        return context.get_dummy_value()

    return signature, emit
