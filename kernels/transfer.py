"""Arrays from one memory to another: the host's (NumPy) and the GPU's (CuPy).

No op moves an array by itself; whoever calls these functions asks for it.
"""

from importlib import import_module
from typing import Any

import numpy as np

from .arrays import Array, memory_order

_DLPACK_CUDA = (2, 13)  # device memory, managed memory


def to_host(array: Array) -> np.ndarray:
    """Return NumPy's array of these values: itself, or a copy, which waits for the GPU."""
    return array if isinstance(array, np.ndarray) else array.get()


def to_gpu(array: Array) -> Array:
    """Return CuPy's array of these values: itself, or a copy with the same order in memory.

    The copy goes to the current stream and is not waited for.
    """
    if not isinstance(array, np.ndarray):
        return array
    order = memory_order(array)
    memory = import_module("cupy").asarray(np.asarray(array.transpose(order), order="C"))
    return memory.transpose(np.argsort(order).tolist())


def to_memory_of(other: Array, array: Array) -> Array:
    """Return the values of ``array`` where ``other`` lives."""
    return to_host(array) if isinstance(other, np.ndarray) else to_gpu(array)


def is_on_gpu(data: Any) -> bool:
    """Say whether ``data``, of any library, exports memory of a GPU."""
    device = getattr(data, "__dlpack_device__", None)
    if device is not None:
        return device()[0] in _DLPACK_CUDA
    return hasattr(data, "__cuda_array_interface__")


def shared(data: Any) -> Array:
    """Return CuPy's array on the memory of another library's, by DLPack or, without it, by the
    CUDA array interface. The current stream waits for what the other library has begun.

    Raises:
        BufferError, RuntimeError: The other library does not export it, as PyTorch a tensor that
            requires a gradient.
    """
    cupy = import_module("cupy")
    return cupy.from_dlpack(data) if hasattr(data, "__dlpack__") else cupy.asarray(data)
