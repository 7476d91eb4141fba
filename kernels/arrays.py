"""What every contract asks of its arrays: dtypes, contiguity, index range."""

from functools import lru_cache
from typing import Any

import numpy as np

from .backend import backend_of
from .cpu import memory

Array = Any  # numpy.ndarray, or cupy.ndarray on the cuda backend
Shape = tuple[int, ...]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
BFLOAT16 = "bfloat16"  # ml_dtypes' dtype, by name: it need not be imported to be recognized
INDEX_LIMIT = 2**31 - 1  # kernels count elements of one array in int32


def is_float(array: Array) -> bool:
    """Return whether kernels compute with ``array``: float32, float64, and bfloat16 on CUDA.

    bfloat16 runs on the backends ``cuda`` and ``emulator`` only: it is a type of memory, summed
    in float32, and neither NumPy nor Numba can do that.
    """
    return array.dtype in FLOATS or (
        is_bfloat16(array.dtype) and backend_of(array) in ("cuda", "emulator")
    )


def is_floating(dtype: np.dtype) -> bool:
    """Return whether ``dtype`` is one of floating-point numbers, bfloat16 among them."""
    return dtype.kind == "f" or is_bfloat16(dtype)


def is_bfloat16(dtype: np.dtype) -> bool:
    """Return whether ``dtype`` is bfloat16."""
    return dtype.kind == "V" and dtype.name == BFLOAT16  # NumPy makes the name up at each asking


def dtype_of(dtype: Any) -> np.dtype:
    """Return NumPy's dtype for whatever names one, also for ``"bfloat16"``."""
    if isinstance(dtype, str) and dtype == BFLOAT16:
        from ml_dtypes import bfloat16

        return np.dtype(bfloat16)
    return np.dtype(dtype)


def memory_order(array: Array) -> tuple[int, ...]:
    """Return the axes as they lie in memory, outermost first; the public order if it has gaps."""
    return _memory_order(array.shape, array.strides, array.itemsize)


@lru_cache(maxsize=1024)
def _memory_order(shape: Shape, strides: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    order = tuple(sorted(range(len(shape)), key=lambda axis: -strides[axis]))
    for axis in reversed(order):
        if shape[axis] != 1 and strides[axis] != itemsize and 0 not in shape:
            return tuple(range(len(shape)))
        itemsize *= shape[axis]
    return order


def address(array: Array) -> int:
    """Return the address of the first element, in host or device memory."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def empty(like: Array, shape: Shape | None = None, dtype: Any = None) -> Array:
    """Return an array to be filled in, where ``like`` lives.

    On the host it is aligned, and may lie where a dropped array lay (``kernels/cpu/memory.py``).

    Args:
        like: Gives what is not given: dtype, shape and memory order.
        shape: Of an array in C order; None for one that lies in memory as ``like``, without gaps.
        dtype: Any; None for that of ``like``.
    """
    if not isinstance(like, np.ndarray):
        if shape is None:
            return np.empty_like(like, dtype=dtype, order="K")
        # CuPy takes the shape () for none given.
        return np.empty_like(like, dtype=dtype, shape=shape or (1,), order="C").reshape(shape)
    dtype = like.dtype if dtype is None else np.dtype(dtype)
    if shape is not None or like.flags.c_contiguous:
        return memory.empty(like.shape if shape is None else shape, dtype)
    return memory.empty(like.shape, dtype, _dense(like.shape, like.strides, dtype.itemsize))


@lru_cache(maxsize=1024)
def _dense(shape: Shape, strides: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides of an array in the memory order of these, without gaps or repeats."""
    dense = list(strides)
    for axis in sorted(range(len(shape)), key=lambda axis: -abs(strides[axis]))[::-1]:
        dense[axis], itemsize = itemsize, itemsize * shape[axis]
    return tuple(dense)


def full(like: Array, value: float, shape: Shape, dtype: Any = None) -> Array:
    """Return a C-contiguous array of one value, where ``like`` lives."""
    array = empty(like, shape, dtype)
    with np.errstate(over="ignore"):
        array.fill(value)
    return array


def check_floats(op: str, **arrays: Array) -> None:
    """Raise unless all ``arrays`` (Nones skipped) have one dtype that kernels compute with.

    That is float32 or float64 and, on the backends ``cuda`` and ``emulator``, bfloat16.

    Raises:
        TypeError: Naming the op, the argument and its dtype.
    """
    first: tuple[str, np.dtype] | None = None
    for name, array in arrays.items():
        if array is None or (first is not None and getattr(array, "dtype", None) == first[1]):
            continue
        if not hasattr(array, "dtype"):
            raise TypeError(f"{op}: {name} is {type(array).__name__}, not an array")
        if not is_float(array):
            also = " (bfloat16 on the backends cuda and emulator)"
            raise TypeError(
                f"{op}: {name} has dtype {array.dtype}; float32 or float64"
                f"{also if is_bfloat16(array.dtype) else ''} is needed: "
                f"convert it first, {name}.astype('float32')"
            )
        if first is None:
            first = (name, array.dtype)
        elif array.dtype != first[1]:
            raise TypeError(
                f"{op}: {name} has dtype {array.dtype} but {first[0]} has {first[1]}; "
                "convert one of them"
            )


def check_layout(op: str, name: str, array: Array | None, shape: Shape) -> None:
    """Raise unless ``array`` (if there is one) is C-contiguous and has this shape.

    Raises:
        ValueError: Naming the op, the argument, its shape and strides.
    """
    if array is None or (array.shape == shape and array.flags.c_contiguous):
        return
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{op}: {name} has shape {tuple(array.shape)}, expected {tuple(shape)}")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{op}: {name} of shape {array.shape} is not C-contiguous (strides {array.strides}); "
            "kernels take channels-last memory, see layout.contiguous"
        )


def check_rank(op: str, rank: int, **arrays: Array) -> None:
    """Raise unless each of ``arrays`` has ``rank`` axes.

    Raises:
        ValueError: Naming the op, the argument and its shape.
    """
    for name, array in arrays.items():
        if array.ndim != rank:
            raise ValueError(f"{op}: {name} must have {rank} axes, got shape {array.shape}")


def check_index_range(op: str, **elements: int) -> None:
    """Raise when an array would hold more elements than an int32 index can count.

    Raises:
        ValueError: Naming the op, the array and its number of elements.
    """
    for name, count in elements.items():
        if count > INDEX_LIMIT:
            raise ValueError(
                f"{op}: {name} would have {count:,} elements, more than an int32 index can "
                f"count ({INDEX_LIMIT:,}); use a smaller batch"
            )


def pair(op: str, name: str, value: Any, *, least: int) -> tuple[int, int]:
    """Return ``value`` as (vertical, horizontal), both ints from ``least`` to 2**31 - 1.

    Raises:
        TypeError: ``value`` is neither an int nor a pair of ints.
        ValueError: It is out of range, or a tuple of another length.
    """
    if type(value) is tuple and tuple(map(type, value)) == (int, int):
        if least <= value[0] <= INDEX_LIMIT and least <= value[1] <= INDEX_LIMIT:
            return value
    elif type(value) is int and least <= value <= INDEX_LIMIT:
        return value, value
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) == 1:
        values = values * 2
    if len(values) != 2:
        raise ValueError(f"{op}: {name} must be an int or a pair of ints, got {value!r}")
    for v in values:
        if isinstance(v, bool) or not isinstance(v, int | np.integer):
            raise TypeError(f"{op}: {name} must be an int or a pair of ints, got {value!r}")
        if v < least:
            raise ValueError(f"{op}: {name} must be >= {least}, got {value!r}")
        if v > INDEX_LIMIT:
            raise ValueError(f"{op}: {name} must be <= {INDEX_LIMIT:,}, got {value!r}")
    return int(values[0]), int(values[1])
