"""Sums and extrema of rows, in vector registers and in a fixed order.

LLVM does not turn a loop that adds floats into vectors, since that changes the order. Here the
order is written down: lane i holds elements i, i + LANES, ..., and then halves of the vector are
put together, 16 lanes, 8, 4, 2, until one is left.

``softmax.py`` is made of the same parts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .lanes import I32, I64, counted, load_masked, load_vector, store_masked, store_vector
from .lanes import splat as splat_over
from .vector import intrinsic

RUN = 64  # elements
LANES = 16

Combine = Callable[[Any, Any], Any]


@intrinsic
def run_sum(typing: Any, array: Any, at: Any, count: Any) -> Any:
    """Sum of ``count`` <= RUN elements of a C-contiguous 1-D array, in float64 or int64."""
    is_float = isinstance(array.dtype, types.Float)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = address(context, builder, array, arguments[0], arguments[1])
        count = builder.trunc(arguments[2], I32)
        nothing = ir.Constant(ir.VectorType(start.type.pointee, LANES), None)
        places = [I32(i) for i in range(0, RUN, LANES)]
        with builder.if_else(builder.icmp_signed(">=", count, I32(RUN))) as (whole, part):
            with whole:  # not masked: the CPU fetches ahead of common loads only
                loaded = load_all(builder, start, places, None, nothing)
                loading = builder.block
            with part:
                masked = load_all(builder, start, places, count, nothing)
                masking = builder.block
        values = [builder.phi(nothing.type) for _ in places]
        for value, *either in zip(values, loaded, masked, strict=True):
            for incoming, block in zip(either, (loading, masking), strict=True):
                value.add_incoming(incoming, block)
        values = [widened(builder, value, array.dtype) for value in values]
        add = builder.fadd if is_float else builder.add
        return across(builder, tree(values, add), add)

    return (types.float64 if is_float else types.int64)(array, types.intp, types.intp), emit


@intrinsic
def largest(typing: Any, array: Any, at: Any, count: Any) -> Any:
    """Largest of ``count`` >= 1 elements of a C-contiguous 1-D array; any NaN wins."""
    return _extremum(array, ">")


@intrinsic
def smallest(typing: Any, array: Any, at: Any, count: Any) -> Any:
    """Smallest of ``count`` >= 1 elements of a C-contiguous 1-D array; any NaN wins."""
    return _extremum(array, "<")


def _extremum(array: Any, order: str) -> Any:
    dtype = array.dtype
    is_float = isinstance(dtype, types.Float)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = address(context, builder, array, arguments[0], arguments[1])
        first = splat(builder, builder.load(start))
        variables = [cgutils.alloca_once_value(builder, first) for _ in range(RUN // LANES)]
        nans = cgutils.alloca_once_value(builder, ir.Constant(first.type, None))
        choose = partial(chosen, builder, dtype, order)

        def body(places: list[Any], left: Any) -> None:
            values = load_all(builder, start, places, left, first)
            for value, variable in zip(values, variables, strict=False):
                builder.store(choose(value, builder.load(variable)), variable)
            if is_float:
                nan = ir.Constant(first.type, [float("nan")] * LANES)
                for pair in zip(values[::2], values[1::2] or values, strict=True):
                    has_nan = builder.fcmp_unordered("uno", *pair)
                    builder.store(builder.select(has_nan, nan, builder.load(nans)), nans)

        over(builder, arguments[2], RUN, body)
        result = across(builder, tree([builder.load(v) for v in variables], choose), choose)
        if is_float:
            nan = across(builder, builder.load(nans), builder.fadd)
            result = builder.select(builder.fcmp_unordered("uno", nan, nan), nan, result)
        return result

    return dtype(array, types.intp, types.intp), emit


def chosen(builder: Any, dtype: Any, order: str, a: Any, b: Any) -> Any:
    """Return a where it is in this order with b, elsewhere b: also where one is NaN."""
    if isinstance(dtype, types.Float):
        compare = builder.fcmp_ordered
    else:
        compare = builder.icmp_signed if dtype.signed else builder.icmp_unsigned
    return builder.select(compare(order, a, b), a, b)


def over(builder: Any, length: Any, step: int, body: Callable[[list[Any], Any], None]) -> None:
    """Emit ``body(places, left)`` for all vectors of ``length`` elements.

    For each whole ``step``, places are where its vectors begin, left is None. What is left after
    them comes vector by vector: there are ``left`` elements from the only place on.
    """
    kind = length.type
    whole = builder.sub(length, builder.urem(length, kind(step)))
    loop = partial(cgutils.for_range_slice, builder, intp=kind)
    with loop(kind(0), whole, kind(step)) as (i, _):
        body([builder.add(i, kind(lane)) for lane in range(0, step, LANES)], None)
    with loop(whole, length, kind(LANES)) as (i, _):
        body([i], builder.trunc(builder.sub(length, i), I32))


def tree(values: list[Any], combine: Combine) -> Any:
    """Put vectors together two by two, until one is left."""
    while len(values) > 1:
        values = [combine(*pair) for pair in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def across(builder: Any, value: Any, combine: Combine) -> Any:
    """Put halves of a vector together, halves of what comes out, until one element is left."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        value = combine(*(_part(builder, value, first, lanes) for first in (0, lanes)))
    return builder.extract_element(value, I32(0))


def address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Return where element ``at`` of a C-contiguous 1-D array lies."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [at])


def splat(builder: Any, number: Any) -> Any:
    """Return a vector of one number."""
    return splat_over(builder, number, LANES)


def load_all(builder: Any, start: Any, places: list[Any], left: Any, rest: Any) -> list[Any]:
    """Load the vectors at ``places`` from ``start`` on.

    Where only ``left`` elements are left from the first place on, ``rest`` stands for the others.
    """
    pointers = [builder.gep(start, [place]) for place in places]
    if left is None:
        return [load_vector(builder, pointer, rest.type, align=1) for pointer in pointers]
    return [
        load_masked(builder, pointer, _present(builder, left, i * LANES), rest, align=1)
        for i, pointer in enumerate(pointers)
    ]


def store(builder: Any, value: Any, pointer: Any, left: Any) -> None:
    """Store a vector, or its first ``left`` elements."""
    if left is None:
        store_vector(builder, value, pointer, align=1)
    else:
        store_masked(builder, value, pointer, _present(builder, left, 0), align=1)


def _present(builder: Any, left: Any, first: int) -> Any:
    """Return the mask of lanes, numbered from ``first``, that are below ``left``."""
    return builder.icmp_signed("<", counted(I32, LANES, first), splat(builder, left))


def widened(builder: Any, value: Any, dtype: Any) -> Any:
    """Return a vector of ``dtype`` as one of float64 or int64."""
    is_float = isinstance(dtype, types.Float)
    kind = ir.VectorType(ir.DoubleType() if is_float else I64, LANES)
    if value.type == kind:
        return value
    if is_float:
        return builder.fpext(value, kind)
    return (builder.sext if dtype.signed else builder.zext)(value, kind)


def _part(builder: Any, value: Any, first: int, lanes: int) -> Any:
    return builder.shuffle_vector(value, value, counted(I32, lanes, first))
