"""How many threads the CPU backend uses: ``CONVOLT_NUM_THREADS`` and ``set_num_threads``."""

import os
from typing import Any

from .machine import cpu_limit

MOST = 256  # threads: what the pool has room for
_count: int | None = None  # None: not yet asked


def get_num_threads() -> int:
    """Return the number of threads that kernels on the CPU use.

    It is ``CONVOLT_NUM_THREADS``, else one a core that this process may use, within the quota
    of its container. No result depends on it.

    Raises:
        ValueError: ``CONVOLT_NUM_THREADS`` is no number from 1 to 256.
    """
    global _count
    if _count is None:
        _count = _default()[0]
    return _count


def set_num_threads(count: int) -> None:
    """Have kernels on the CPU use ``count`` threads from now on, in all of this process.

    More than there are CPUs are allowed, and of no use.

    Raises:
        TypeError: ``count`` is no integer.
        ValueError: It is not in 1 to 256.
    """
    global _count
    _count = _checked(count, f"set_num_threads({count!r})")


def why_count() -> str:
    """Return, in words, what the number of threads rests on."""
    count, why = _default()
    return why if _count in (None, count) else "set_num_threads asks for it"


def _default() -> tuple[int, str]:
    if asked := os.environ.get("CONVOLT_NUM_THREADS"):
        source = f"CONVOLT_NUM_THREADS={asked}"
        count = int(asked) if asked.isdecimal() else 0
        return _checked(count, source), "CONVOLT_NUM_THREADS asks for it"
    limit = cpu_limit()
    return min(limit.threads, MOST), limit.why


def _checked(count: Any, source: str) -> int:
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"{source}: the number of threads must be an integer")
    if not 1 <= count <= MOST:
        raise ValueError(f"{source}: the number of threads must be from 1 to {MOST}")
    return int(count)
