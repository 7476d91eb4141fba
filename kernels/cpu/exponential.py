"""exp by arithmetic alone, so that a loop around it is vectorized: it calls no library.

exp(t) = 2^k exp(r), t = k ln 2 + r, |r| <= ln 2 / 2, and exp(r) - 1 by its Taylor series.
"""

from math import factorial, log
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from .jit import jit
from .vector import intrinsic

HALF = np.float32(0.5)


def _constants(dtype: Any, least: float, high: float, low: float, terms: int) -> tuple[Any, ...]:
    """Return what ``exp_parts`` reduces t by, then 1/n! for n = terms .. 1.

    ln 2 is high + low, where high has so few bits that its products with integers are exact. To
    add ``shift`` rounds to an integer. With the exponent's bias too, the last bits of the sum are
    those of the exponent of a power of two.
    """
    fraction_bits, bias = np.finfo(dtype).nmant, int(np.finfo(dtype).maxexp) - 1
    shift = 1.5 * 2.0**fraction_bits
    reduction = [least, 1 / log(2), shift, shift + bias, high, low]
    return tuple(np.array(reduction + [1 / factorial(n) for n in range(terms, 0, -1)], dtype))


# exp(least) rounds to 0; the first term that is left out is below half a unit in the last place.
CONSTANTS = {
    "float32": _constants(np.float32, -104, 0.693115234375, log(2) - 0.693115234375, 7),
    "float64": _constants(np.float64, -746, 0.6931471803691238, 1.9082149292705877e-10, 13),
}
"""Of each dtype, the second argument of ``exp_parts``."""


@jit
def exp_parts(t, constants):
    """Return (a, b, e), exp(t) = a * b * (1 + e), where a and b are powers of two, for t <= 0.

    With a and b apart, a small result loses digits only where the dtype has none for them.
    """
    least, per_ln2, shift, biased, high, low = constants[:6]
    t = least if t < least else t
    k = (t * per_ln2 + shift) - shift
    half = (k * HALF + shift) - shift
    r = multiply_add(-k, low, multiply_add(-k, high, t))
    e = constants[6]
    for term in constants[7:]:
        e = multiply_add(e, r, term)
    return _power_of_two(half + biased), _power_of_two(k - half + biased), e * r


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c of one dtype, rounded once where the CPU has an instruction for it."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = context.get_value_type(a)
        name = "llvm.fmuladd." + ("f32" if a == types.float32 else "f64")
        signature = ir.FunctionType(kind, [kind] * 3)
        function = cgutils.get_or_insert_function(builder.module, signature, name)
        return builder.call(function, values)

    return a(a, a, a), emit


@intrinsic
def _power_of_two(typing: Any, biased: Any) -> Any:
    """Return the power of two whose exponent, with its bias, is in the last bits of ``biased``."""
    bits, fraction_bits = (32, 23) if biased == types.float32 else (64, 52)
    word = ir.IntType(bits)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        exponent = builder.shl(builder.bitcast(values[0], word), word(fraction_bits))
        return builder.bitcast(exponent, context.get_value_type(biased))

    return biased(biased), emit
