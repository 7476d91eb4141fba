"""Vectors in LLVM's language, for all who write it: ``tiles``, ``pixels``, ``fold`` and others.

A vector holds as many numbers as it has lanes. ``builder`` is llvmlite's; what is emitted goes
where it stands.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

Value = Any  # of llvmlite.ir, whose own types say None for what its builder returns
I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
POINTER = I8.as_pointer()
VOID = ir.VoidType()
LINE_BYTES = 64  # of a cache: what one prefetch brings

_EVERY_CACHE, _DATA = I32(3), I32(1)  # of llvm.prefetch


def call_intrinsic(builder: Any, name: str, result: ir.Type, arguments: Sequence[Value]) -> Value:
    """Call a function that LLVM has, by its whole name, and return its result of this type."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.module.declare_intrinsic(name, fnty=kind), arguments)


def suffix(vector: ir.VectorType) -> str:
    """Return how the names of intrinsics on such vectors end: ``v16f32``."""
    element: Any = vector.element
    return f"v{vector.count}{element.intrinsic_name}"


def splat(builder: Any, number: Value, lanes: int) -> Value:
    """Return a vector with ``number`` in each lane."""
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, number, I32(0))
    every_lane = ir.Constant(ir.VectorType(I32, lanes), None)
    return builder.shuffle_vector(first, undefined, every_lane)


def counted(kind: ir.IntType, lanes: int, first: int = 0) -> ir.Constant:
    """Return the vector (first, first + 1, ...)."""
    return ir.Constant(ir.VectorType(kind, lanes), list(range(first, first + lanes)))


def load_vector(builder: Any, pointer: Value, vector: ir.VectorType, align: int) -> Value:
    """Load a vector from an address of any type that is a multiple of ``align``."""
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=align)


def load_masked(builder: Any, pointer: Value, mask: Value, otherwise: Value, align: int) -> Value:
    """Load the lanes of the mask; the others, whose memory is not touched, are ``otherwise``."""
    vector = otherwise.type
    pointer = builder.bitcast(pointer, vector.as_pointer())
    name = f"llvm.masked.load.{suffix(vector)}.p0"
    return call_intrinsic(builder, name, vector, [pointer, I32(align), mask, otherwise])


def store_vector(builder: Any, vector: Value, pointer: Value, align: int) -> None:
    """Store a vector to an address of any type that is a multiple of ``align``."""
    builder.store(vector, builder.bitcast(pointer, vector.type.as_pointer()), align=align)


def store_streaming(builder: Any, vector: Value, pointer: Value) -> None:
    """Store a vector past the caches, to an address that is a multiple of its size."""
    kind = vector.type
    size_bytes = kind.count * (8 if isinstance(kind.element, ir.DoubleType) else 4)
    pointer = builder.bitcast(pointer, kind.as_pointer())
    store = builder.store(vector, pointer, align=size_bytes)
    store.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))


def store_masked(builder: Any, vector: Value, pointer: Value, mask: Value, align: int) -> None:
    """Store the lanes of the mask; the memory of the others is not touched."""
    pointer = builder.bitcast(pointer, vector.type.as_pointer())
    name = f"llvm.masked.store.{suffix(vector.type)}.p0"
    call_intrinsic(builder, name, VOID, [vector, pointer, I32(align), mask])


def prefetch(builder: Any, pointer: Value, write: bool = False) -> None:
    """Ask the line of ``pointer``, which may point anywhere, into the caches."""
    pointer = builder.bitcast(pointer, POINTER)
    arguments = [pointer, I32(int(write)), _EVERY_CACHE, _DATA]
    call_intrinsic(builder, "llvm.prefetch.p0", VOID, arguments)
