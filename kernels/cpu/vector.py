"""What Numba has no words for: raw addresses, tiles called by address.

Buffers are plain addresses here; the Python function that calls the jitted code keeps the arrays
alive.
"""

from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.np import numpy_support

from .lanes import I1, I8, I64, POINTER, VOID, call_intrinsic
from .tiles import PARAMETER_COUNT

carray: Any = numpy_support.carray  # an array over a pointer: see float_pointer
intrinsic: Any = extending.intrinsic  # callers do not pass the first argument, the typing context


@intrinsic
def call_tile(typing: Any, code: Any, *arguments: Any) -> Any:
    """Call the tile whose machine code is at ``code`` with its ``tiles.parameters``."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind: Any = ir.FunctionType(VOID, [I64] * PARAMETER_COUNT)
        rest: Any = cgutils.unpack_tuple(builder, values[1])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), rest)
        return context.get_dummy_value()

    packed = types.StarArgTuple.from_types(arguments)
    kind: Any = types.void
    return kind(types.intp, packed), emit


@intrinsic
def call_transpose(
    typing: Any, code: Any, to: Any, to_stride: Any, source: Any, source_stride: Any, ahead: Any
) -> Any:
    """Call the block transposition whose machine code is at ``code``, see ``tiles.Transpose``."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(VOID, [I64] * 5)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), emit


@intrinsic
def copy_bytes(typing: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` bytes from one address to another (memcpy)."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointers = [builder.inttoptr(value, POINTER) for value in values[:2]]
        arguments = [*pointers, values[2], I1(0)]
        call_intrinsic(builder, "llvm.memcpy.p0.p0.i64", VOID, arguments)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), emit


@intrinsic
def zero_bytes(typing: Any, to: Any, count: Any) -> Any:
    """Set ``count`` bytes from an address on to zero."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arguments = [builder.inttoptr(values[0], POINTER), I8(0), values[1], I1(0)]
        call_intrinsic(builder, "llvm.memset.p0.i64", VOID, arguments)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit


@intrinsic
def float_pointer(typing: Any, address: Any, like: Any) -> Any:
    """Return ``address`` as a pointer to numbers of the dtype of the array ``like``."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.intp, like), emit
