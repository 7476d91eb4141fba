"""Arrays between pages that may not be touched, for mode ``fast``, which checks no access."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

_PAGE = mmap.PAGESIZE
_NO_ACCESS = 0  # PROT_NONE


def guarded(array: np.ndarray, side: str = "end") -> np.ndarray:
    """Return a C-contiguous copy that a kernel cannot leave without an error.

    Args:
        array: Any array.
        side: ``"end"``: the byte after the last one (but for 16-byte alignment) may not be
            touched; ``"start"``: the byte before the first one.

    Raises:
        ValueError: ``side`` is neither.
        OSError: The system gives no memory.
    """
    if side not in ("start", "end"):
        raise ValueError(f"guarded: side must be 'start' or 'end', got {side!r}")
    array = np.asarray(array, order="C")
    body = -(-max(array.nbytes, 1) // _PAGE) * _PAGE
    pages = mmap.mmap(-1, body + 2 * _PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for guard in (base, base + _PAGE + body):
        _forbid(guard)
    offset = _PAGE + ((body - array.nbytes) // 16 * 16 if side == "end" else 0)
    bytes_ = np.frombuffer(pages, np.uint8, array.nbytes, offset)
    copy = bytes_.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _forbid(address: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), _NO_ACCESS):
        raise OSError(ctypes.get_errno(), "mprotect failed")
