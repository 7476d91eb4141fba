"""Rows of a softmax in vector registers: their sums, their gradients."""

from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from . import fold
from .exponential import SPARE, emit_exp, emit_scaled_exp
from .lanes import I64, prefetch
from .vector import intrinsic

AHEAD = 3072  # elements; the CPU itself fetches ahead too little for what a row is summed in


@intrinsic
def sum_of_exp(
    typing: Any, logits: Any, start: Any, classes: Any, most: Any, following: Any
) -> Any:
    """Return the sum of exp(x - most) over a row x, and the largest of the row at ``following``.

    So the next row is in the L1 cache when its turn comes. Exponentials are added in their dtype by
    fours, then in float64. Of the next row, NaN are passed over: its sum will be NaN anyway.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flat, start, length, most, following = values
        row, after = (fold.address(context, builder, logits, flat, at) for at in (start, following))
        most = fold.splat(builder, most)
        none = ir.Constant(most.type, [float("-inf")] * fold.LANES)
        wide = ir.VectorType(ir.DoubleType(), fold.LANES)
        total = cgutils.alloca_once_value(builder, ir.Constant(wide, None))
        next_most = cgutils.alloca_once_value(builder, none)
        larger = partial(fold.chosen, builder, logits.dtype, ">")

        def body(places: list[Any], left: Any) -> None:
            load = partial(fold.load_all, builder, places=places, left=left, rest=none)
            for place in places:
                ahead = builder.add(place, I64(AHEAD))
                prefetch(builder, builder.gep(after, [ahead], inbounds=False))
            terms = [emit_scaled_exp(builder, builder.fsub(x, most)) for x in load(row)]
            term = fold.widened(builder, fold.tree(terms, builder.fadd), logits.dtype)
            builder.store(builder.fadd(builder.load(total), term), total)
            found = fold.tree(load(after), larger)
            builder.store(larger(found, builder.load(next_most)), next_most)

        fold.over(builder, length, fold.RUN, body)
        scaled = fold.across(builder, builder.load(total), builder.fadd)
        found = fold.across(builder, builder.load(next_most), larger)
        result = builder.fmul(scaled, ir.Constant(ir.DoubleType(), 2.0**-SPARE)), found
        return context.make_tuple(builder, signature.return_type, result)

    result = types.Tuple((types.float64, logits.dtype))
    return result(logits, types.intp, types.intp, logits.dtype, types.intp), emit


@intrinsic
def gradient(
    typing: Any,
    logits: Any,
    weight: Any,
    target: Any,
    start: Any,
    classes: Any,
    high: Any,
    low: Any,
    softmax_factor: Any,
    factor: Any,
    kept: Any,
    rest: Any,
    grad_logits: Any,
) -> Any:
    """Fill one row of ``grad_logits``: softmax_factor * softmax - factor * weight * q.

    softmax = exp(logits - high - low); q = kept * target + rest where targets are probabilities,
    else q = rest.
    """
    dtype = logits.dtype

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place, begin = partial(fold.address, context, builder), I64(0)
        start, length = values[3:5]
        x, to = place(logits, values[0], start), place(grad_logits, values[-1], start)
        weights = place(weight, values[1], begin)
        numbers = [fold.splat(builder, value) for value in values[5:-1]]
        high, low, softmax_factor, factor, kept, rest = numbers

        def body(places: list[Any], left: Any) -> None:
            nothing = ir.Constant(high.type, None)
            load = partial(fold.load_all, builder, places=places, left=left, rest=nothing)
            (here,), (share,), q = load(x), load(weights), rest
            if target.dtype == dtype:
                (probability,) = load(place(target, values[2], start))
                q = builder.fadd(builder.fmul(kept, probability), rest)
            softmax = emit_exp(builder, builder.fsub(builder.fsub(here, high), low))
            taken = builder.fmul(factor, builder.fmul(share, q))
            grad = builder.fsub(builder.fmul(softmax_factor, softmax), taken)
            fold.store(builder, grad, builder.gep(to, places), left)

        fold.over(builder, length, fold.LANES, body)
        return context.get_dummy_value()

    index: Any = types.intp
    return types.void(logits, weight, target, index, index, *[dtype] * 6, grad_logits), emit
