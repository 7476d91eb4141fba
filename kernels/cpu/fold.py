"""Sums and extrema of short runs of an array, in vector registers and in a fixed order.

LLVM does not turn a loop that adds floats into vectors, since that changes the order. Here the
order is written down: lane i holds elements i, i + LANES, ..., and then halves of the vector are
put together, 16 lanes, 8, 4, 2, until one is left.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .vector import intrinsic

RUN = 64  # elements
LANES = 16
_I32 = ir.IntType(32)
_MASK = ir.VectorType(ir.IntType(1), LANES)

Combine = Callable[[Any, Any, Any, Any], Any]  # (builder, dtype, a, b) -> value


@intrinsic
def run_sum(typing: Any, array: Any, at: Any, count: Any) -> Any:
    """Sum of ``count`` <= RUN elements of a C-contiguous 1-D array, in float64 or int64."""
    wide = types.float64 if isinstance(array.dtype, types.Float) else types.int64
    return _fold(array, wide, _add)


@intrinsic
def run_max(typing: Any, array: Any, at: Any, count: Any) -> Any:
    """Largest of 1 <= ``count`` <= RUN elements of a C-contiguous 1-D array; any NaN wins."""
    return _fold(array, None, _larger(">"))


@intrinsic
def run_min(typing: Any, array: Any, at: Any, count: Any) -> Any:
    """Smallest of 1 <= ``count`` <= RUN elements of a C-contiguous 1-D array; as ``run_max``."""
    return _fold(array, None, _larger("<"))


def _add(builder: Any, dtype: Any, a: Any, b: Any) -> Any:
    return (builder.fadd if isinstance(dtype, types.Float) else builder.add)(a, b)


def _larger(order: str) -> Combine:
    def combine(builder: Any, dtype: Any, a: Any, b: Any) -> Any:
        if isinstance(dtype, types.Float):
            nan = builder.fcmp_unordered("uno", a, a)
            chosen = builder.or_(builder.fcmp_ordered(order, a, b), nan)
        else:
            chosen = (builder.icmp_signed if dtype.signed else builder.icmp_unsigned)(order, a, b)
        return builder.select(chosen, a, b)

    return combine


def _fold(array: Any, wide: Any, combine: Combine) -> Any:
    """Return signature and code of a fold: elements become ``wide``, or stay and repeat the first.

    With ``wide``, what lies behind the run counts as 0.
    """
    dtype = array.dtype
    result = wide or dtype

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        narrow = context.get_data_type(dtype)
        data = context.make_array(array)(context, builder, arguments[0]).data
        at, count = arguments[1], builder.trunc(arguments[2], _I32)
        start = builder.gep(data, [at])
        vector = ir.VectorType(narrow, LANES)
        places = [builder.gep(start, [_I32(i)]) for i in range(0, RUN, LANES)]
        places = [builder.bitcast(place, vector.as_pointer()) for place in places]
        whole = builder.icmp_signed(">=", count, _I32(RUN))
        with builder.if_else(whole) as (then, otherwise):
            with then:  # not masked: the CPU fetches ahead of common loads only
                loaded = [builder.load(place, align=1) for place in places]
                loading = builder.block
            with otherwise:
                rest = ir.Constant(vector, None)
                if wide is None:
                    rest = _splat(builder, builder.load(start))
                masked = [
                    _masked_load(builder, place, count, i * LANES, rest)
                    for i, place in enumerate(places)
                ]
                masking = builder.block
        values = []
        for either in zip(loaded, masked, strict=True):
            values.append(builder.phi(vector))
            for value, block in zip(either, (loading, masking), strict=True):
                values[-1].add_incoming(value, block)
        if wide is not None:
            values = [_widened(builder, value, dtype, wide) for value in values]
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [combine(builder, result, *pair) for pair in pairs]
        value, lanes = values[0], LANES
        while lanes > 1:
            lanes //= 2
            low, high = (_part(builder, value, first, lanes) for first in (0, lanes))
            value = combine(builder, result, low, high)
        return builder.extract_element(value, _I32(0))

    return result(array, types.intp, types.intp), emit


def _masked_load(builder: Any, pointer: Any, count: Any, first: int, rest: Any) -> Any:
    """Load LANES elements, the first of them element ``first`` of ``count``; else take ``rest``."""
    places = ir.Constant(ir.VectorType(_I32, LANES), list(range(first, first + LANES)))
    mask = builder.icmp_signed("<", places, _splat(builder, count))
    vector = rest.type
    name = f"llvm.masked.load.v{LANES}{_suffix(vector.element)}.p0"
    kind = ir.FunctionType(vector, [vector.as_pointer(), _I32, _MASK, vector])
    load = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(load, [pointer, _I32(1), mask, rest])


def _suffix(element: Any) -> str:
    names = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}
    return names.get(element) or f"i{element.width}"


def _splat(builder: Any, scalar: Any) -> Any:
    vector = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    vector = builder.insert_element(vector, scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, LANES), None)
    return builder.shuffle_vector(vector, vector, zeros)


def _widened(builder: Any, value: Any, dtype: Any, wide: Any) -> Any:
    vector = ir.VectorType(ir.DoubleType() if wide == types.float64 else ir.IntType(64), LANES)
    if value.type == vector:
        return value
    if wide == types.float64:
        return builder.fpext(value, vector)
    return (builder.sext if dtype.signed else builder.zext)(value, vector)


def _part(builder: Any, value: Any, first: int, lanes: int) -> Any:
    chosen = ir.Constant(ir.VectorType(_I32, lanes), list(range(first, first + lanes)))
    return builder.shuffle_vector(value, value, chosen)
