"""exp and log by arithmetic alone: Numba's loops around them become vectors.

exp(t) = 2^k (1 + e), t = k ln 2 + r, |r| <= ln 2 / 2, and e = exp(r) - 1 by its Taylor series.
log(2^k m) = k ln 2 + 2 artanh(s), s = (m - 1) / (m + 1), m next to 1: its series has odd powers.
"""

from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from .lanes import I64, call_intrinsic, suffix
from .vector import intrinsic

SPARE = 64  # 2^(k + SPARE) is normal for every k
LAST = 19  # power of s in log: the next term is below half a unit in the last place


@dataclass(frozen=True, slots=True)
class _Reduction:
    """How t becomes k and r, for one dtype."""

    dtype: Any
    least: float  # whose exp rounds to 0
    high: float  # of ln 2, so few bits that the products with integers are exact
    low: float  # the rest of ln 2
    terms: int  # the first one left out is below half a unit in the last place


_REDUCTIONS = {
    ir.FloatType(): _Reduction(np.float32, -104, 0.693115234375, 3.1946184945e-5, 7),
    ir.DoubleType(): _Reduction(np.float64, -746, 0.6931471803691238, 1.9082149292705877e-10, 13),
}


@intrinsic
def exp(typing: Any, t: Any) -> Any:
    """Return exp(t) for t below 1."""
    return t(t), lambda context, builder, signature, values: emit_exp(builder, values[0])


@intrinsic
def exp_and_less_one(typing: Any, t: Any) -> Any:
    """Return exp(t) and exp(t) - 1, which keeps its digits where it is small, for t below 1."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        scale, e = _scale_and_e(builder, values[0])
        scale = builder.fmul(scale, _constant(scale.type, 2.0**-SPARE))
        less = builder.fsub(scale, _constant(scale.type, 1.0))
        both = [_multiply_add(builder, scale, e, addend) for addend in (scale, less)]
        return context.make_tuple(builder, signature.return_type, both)

    return types.UniTuple(t, 2)(t), emit


@intrinsic
def log(typing: Any, x: Any) -> Any:
    """Return log(x) of a float64, normal, or NaN."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (x,) = values
        real, word, to = x.type, I64, _REDUCTIONS[x.type]
        root = int(np.float64(0.5**0.5).view(np.int64))  # the least m
        k = builder.ashr(builder.sub(builder.bitcast(x, word), word(root)), word(52))
        bits = builder.sub(builder.bitcast(x, word), builder.shl(k, word(52)))
        m, k = builder.bitcast(bits, real), builder.sitofp(k, real)
        s = builder.fdiv(builder.fsub(m, real(1)), builder.fadd(m, real(1)))
        square, series = builder.fmul(s, s), real(2 / LAST)
        for n in range(LAST - 2, 0, -2):
            series = _multiply_add(builder, series, square, real(2 / n))
        small = _multiply_add(builder, k, real(to.low), builder.fmul(series, s))
        result = _multiply_add(builder, k, real(to.high), small)
        return builder.select(builder.fcmp_unordered("uno", x, x), x, result)

    return types.float64(types.float64), emit


def emit_exp(builder: Any, t: Any) -> Any:
    """Emit exp of a number, or of each in a vector, below 1; a small one is rounded once."""
    return builder.fmul(emit_scaled_exp(builder, t), _constant(t.type, 2.0**-SPARE))


def emit_scaled_exp(builder: Any, t: Any) -> Any:
    """Emit 2^SPARE exp(t), as ``emit_exp``: never 0, for sums in which the least is lost."""
    scale, e = _scale_and_e(builder, t)
    return _multiply_add(builder, scale, e, scale)


def _scale_and_e(builder: Any, t: Any) -> tuple[Any, Any]:
    """Emit 2^(k + SPARE) and e."""
    kind = t.type
    to = _REDUCTIONS[_element(kind)]
    info = np.finfo(to.dtype)
    word = ir.IntType(info.bits)
    words = word if kind == _element(kind) else ir.VectorType(word, kind.count)
    # To add it rounds to an integer. The last bits of the sum are the exponent, with its bias,
    # of the power of two.
    shift = _constant(kind, 1.5 * 2.0**info.nmant + int(info.maxexp) - 1 + SPARE)

    least = _constant(kind, to.least)
    t = builder.select(builder.fcmp_ordered("<", t, least), least, t)
    shifted = _multiply_add(builder, t, _constant(kind, 1 / np.log(2)), shift)
    minus_k = builder.fneg(builder.fsub(shifted, shift))
    r = _multiply_add(builder, minus_k, _constant(kind, to.high), t)
    r = _multiply_add(builder, minus_k, _constant(kind, to.low), r)
    bits = builder.shl(builder.bitcast(shifted, words), _constant(words, int(info.nmant)))
    return builder.bitcast(bits, kind), _series(builder, r, to.terms)


def _series(builder: Any, r: Any, terms: int) -> Any:
    """Emit r + r^2/2! + ... + r^terms/terms!, terms odd: in powers of r^2, half the chain."""
    over = [_constant(r.type, 1 / factorial(n)) for n in range(terms + 1)]
    pairs = [_multiply_add(builder, over[n + 1], r, over[n]) for n in range(2, terms, 2)]
    square = builder.fmul(r, r)
    e = pairs.pop()
    for addend in [*reversed(pairs), r]:
        e = _multiply_add(builder, e, square, addend)
    return e


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Emit a * b + c, rounded once where the CPU has an instruction for it."""
    kind = a.type
    name = suffix(kind) if hasattr(kind, "count") else kind.intrinsic_name
    return call_intrinsic(builder, f"llvm.fmuladd.{name}", kind, [a, b, c])


def _constant(kind: Any, number: float) -> Any:
    return ir.Constant(kind, [number] * kind.count if hasattr(kind, "count") else number)


def _element(kind: Any) -> Any:
    return getattr(kind, "element", kind)
