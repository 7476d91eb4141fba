"""How TMA sees an array: what a kernel takes as a ``TensorMap`` (ptx.cuh), for GPU and emulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from ..arrays import Array, address

_SWIZZLES = (0, 32, 64, 128)
_CUDA_TYPES = {"bfloat16": "BFLOAT16", "float32": "FLOAT32", "float64": "FLOAT64"}

# The emulator's own encoding: TensorMapFields in kernels/emulator/shim/ptx_models.h.
_FIELDS = np.dtype(
    [
        ("base", "u8"),
        ("tag", "u4"),
        ("rank", "u1"),
        ("element_bytes", "u1"),
        ("swizzle_bytes", "u1"),
        ("is_im2col", "u1"),
        ("size", "u4", 5),
        ("box", "u4", 5),
        ("step", "u4", 5),
        ("padding", "u4"),
        ("stride", "u8", 4),
        ("lower", "i4", 2),
        ("upper", "i4", 2),
    ]
)
_TAG = 0x544D4150


@dataclass(slots=True, eq=False)  # not frozen: launches keep frozen arguments, and so the array
class TensorMap:
    """An argument for a parameter ``const __grid_constant__ TensorMap``.

    Attributes:
        array: What it describes; it must live as long as a kernel uses the map.
        opaque: The 128 bytes, as 16 uint64.
    """

    array: Array
    opaque: np.ndarray


def tiled(array: Array, box: Sequence[int], *, swizzle_bytes: int = 0) -> TensorMap:
    """Return the map of boxes of an array, for ``tma_load`` and ``tma_store``.

    Args:
        array: Of 2 to 4 axes, the last one contiguous, the others' strides and the address
            multiples of 16 bytes. bfloat16, float32 or float64.
        box: Size of a box in elements, one for each axis of the array, at most 256.
        swizzle_bytes: 0, or how wide a row of the box is at most: 32, 64 or 128 bytes, whose
            16-byte units are exchanged in shared memory so that columns meet all banks.

    Raises:
        TypeError: The dtype is another.
        ValueError: One of the rules above is broken.
    """
    return TensorMap(array, _tiled(_View.of(array), tuple(box), swizzle_bytes))


def im2col(
    array: Array,
    channels: int,
    pixels: int,
    *,
    lower: tuple[int, int],
    upper: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    swizzle_bytes: int = 0,
) -> TensorMap:
    """Return the map of rows of an implicit GEMM, for ``tma_load_im2col``.

    A row is a pixel. Pixels walk over the columns, then the rows, then the images of the pixel
    box, which reaches from pixel ``lower`` to pixel (H - 1, W - 1) + ``upper``. For a convolution
    of R x S taps that is lower = -padding, upper = padding - dilation * (R - 1, S - 1).

    Args:
        array: (N, H, W, C), as for ``tiled``.
        channels: Elements of a row, at most 256.
        pixels: Rows of a box, at most 1,024.
        lower: First (row, column) of the pixel box.
        upper: Last one, counted from the last pixel of the image.
        stride: Steps of the walk, (rows, columns), 1 to 8.
        swizzle_bytes: As for ``tiled``.

    Raises:
        TypeError: The dtype is another.
        ValueError: One of the rules above is broken, or a corner is outside -128..127.
    """
    window = (lower, upper, stride)
    return TensorMap(array, _im2col(_View.of(array), channels, pixels, window, swizzle_bytes))


def extent(opaque: np.ndarray) -> tuple[int, int]:
    """Return the first address of the array in an emulator's map, and the one behind the last."""
    map_ = np.ascontiguousarray(opaque).view(_FIELDS).reshape(())
    sizes = map_["size"][: map_["rank"]].astype(int)
    strides = [int(map_["element_bytes"]), *map_["stride"][: map_["rank"] - 1].astype(int)]
    begin, last = int(map_["base"]), sum((s - 1) * t for s, t in zip(sizes, strides, strict=True))
    return begin, begin + (int(last) + strides[0] if all(sizes) else 0)


@dataclass(frozen=True, slots=True)
class _View:
    """What a map says of its array."""

    on_gpu: bool
    dtype: np.dtype
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, array: Array) -> _View:
        on_gpu = not isinstance(array, np.ndarray)
        return cls(on_gpu, array.dtype, address(array), array.shape, array.strides)


# The same arrays come again in every step, and the driver takes its time.
@lru_cache(maxsize=4096)
def _tiled(view: _View, box: tuple[int, ...], swizzle_bytes: int) -> np.ndarray:
    _check(view, swizzle_bytes)
    rank = len(view.shape)
    if len(box) != rank or not all(1 <= b <= 256 for b in box):
        raise ValueError(f"tiled: box must be {rank} sizes of 1 to 256, got {box}")
    _check_row("tiled", box[-1] * view.dtype.itemsize, swizzle_bytes)
    if not view.on_gpu:
        return _fields(view, swizzle_bytes, box=box[::-1])
    return _encode("cuTensorMapEncodeTiled", view, swizzle_bytes, [box[::-1]], [1] * rank)


@lru_cache(maxsize=4096)
def _im2col(
    view: _View, channels: int, pixels: int, window: tuple[tuple[int, int], ...], swizzle_bytes: int
) -> np.ndarray:
    lower, upper, stride = window
    _check(view, swizzle_bytes)
    if len(view.shape) != 4:
        raise ValueError(f"im2col: array must have axes N H W C, got shape {view.shape}")
    if not (1 <= channels <= 256 and 1 <= pixels <= 1024):
        raise ValueError(f"im2col: {channels} channels (1..256), {pixels} pixels (1..1024)")
    if not all(-128 <= v <= 127 for v in (*lower, *upper)):
        raise ValueError(f"im2col: corners {lower}, {upper} must be in -128..127")
    if not all(1 <= s <= 8 for s in stride):
        raise ValueError(f"im2col: stride must be 1 to 8, got {stride}")
    _check_row("im2col", channels * view.dtype.itemsize, swizzle_bytes)
    corners, step = (lower[::-1], upper[::-1]), (1, stride[1], stride[0], 1)
    if not view.on_gpu:
        return _fields(
            view, swizzle_bytes, (channels, pixels), step, True, lower=corners[0], upper=corners[1]
        )
    what = [*map(list, corners), channels, pixels]
    return _encode("cuTensorMapEncodeIm2col", view, swizzle_bytes, what, step)


def _check(view: _View, swizzle_bytes: int) -> None:
    if view.dtype.name not in _CUDA_TYPES:
        raise TypeError(f"tensor map: dtype must be one of {[*_CUDA_TYPES]}, got {view.dtype}")
    if not 2 <= len(view.shape) <= 4 or 0 in view.shape:
        raise ValueError(f"tensor map: array must have 2 to 4 axes, none empty, got {view.shape}")
    *outer, last = view.strides
    if last != view.dtype.itemsize or any(s % 16 or s <= 0 for s in outer):
        raise ValueError(
            "tensor map: the last axis must be contiguous and the other strides multiples of "
            f"16 bytes, got strides {view.strides}; pad the last axis"
        )
    if view.address % 16:
        raise ValueError("tensor map: the array must start on a multiple of 16 bytes")
    if swizzle_bytes not in _SWIZZLES:
        raise ValueError(f"tensor map: swizzle_bytes must be in {_SWIZZLES}, got {swizzle_bytes}")


def _check_row(what: str, row_bytes: int, swizzle_bytes: int) -> None:
    if row_bytes % 16 or (swizzle_bytes and row_bytes > swizzle_bytes):
        raise ValueError(
            f"{what}: a row of the box has {row_bytes} bytes: it must be a multiple of 16"
            + (f", at most the swizzle's {swizzle_bytes}" if swizzle_bytes else "")
        )


def _fields(
    view: _View,
    swizzle_bytes: int,
    box: Sequence[int],
    step: Sequence[int] = (),
    is_im2col: bool = False,
    **corners: Sequence[int],
) -> np.ndarray:
    fields = np.zeros((), _FIELDS)
    values = {
        "base": view.address,
        "tag": _TAG,
        "rank": len(view.shape),
        "element_bytes": view.dtype.itemsize,
        "swizzle_bytes": swizzle_bytes,
        "is_im2col": is_im2col,
        **corners,
    }
    for name, value in values.items():
        fields[name] = value
    lists = {"size": view.shape[::-1], "box": box, "step": step, "stride": view.strides[-2::-1]}
    for name, numbers in lists.items():
        fields[name][: len(numbers)] = numbers
    return fields.reshape(1).view(np.uint64)


def _encode(
    function: str,
    view: _View,
    swizzle_bytes: int,
    what: Sequence[Any],
    step: Sequence[int],
) -> np.ndarray:
    """The driver's encoding: ``what`` is between the strides and the element strides."""
    driver = import_module("cuda.bindings.driver")
    dtype, swizzle = _CUDA_TYPES[view.dtype.name], f"{swizzle_bytes}B" if swizzle_bytes else "NONE"
    uint64, uint32 = driver.cuuint64_t, driver.cuuint32_t
    converted = [[uint32(v) for v in w] if function.endswith("Tiled") else w for w in what]
    status, encoded = getattr(driver, function)(
        getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{dtype}"),
        len(view.shape),
        view.address,
        [uint64(v) for v in view.shape[::-1]],
        [uint64(v) for v in view.strides[-2::-1]],
        *converted,
        [uint32(v) for v in step],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{swizzle}"),
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    if status != driver.CUresult.CUDA_SUCCESS:
        raise ValueError(f"{function} of {view.dtype}{view.shape}: {status.name}")
    return np.array([int(v) for v in encoded.opaque], np.uint64)
