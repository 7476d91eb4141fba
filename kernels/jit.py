"""The one door of the ``on_numba.py`` files to Numba: where code is cached, how it is run.

Numba's own cache looks only at the file of the jitted function, so code inlined from another
file goes stale. The cache folder is therefore keyed by a hash of all kernel sources and of the
versions of Python, Numba, llvmlite and NumPy.
"""

import os
import platform
import sys
from collections.abc import Callable
from functools import cache, wraps
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config


def cache_root() -> Path:
    """Return the folder of everything compiled: ``CONVOLT_CACHE_DIR``, else the user's cache."""
    if root := os.environ.get("CONVOLT_CACHE_DIR"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convolt"


@cache
def cache_dir() -> Path:
    """Return the folder for machine code compiled from exactly these sources and versions."""
    digest = sha256()
    for versions in (sys.version, numba.__version__, llvmlite.__version__, np.__version__):
        digest.update(versions.encode())
    here = Path(__file__).parent
    for source in sorted(here.rglob("*.py")):
        digest.update(str(source.relative_to(here)).encode())
        digest.update(source.read_bytes())
    return cache_root() / f"numba-{platform.machine()}-{digest.hexdigest()[:16]}"


def is_cold() -> bool:
    """Say whether nothing is compiled yet, so that first calls will take seconds."""
    return not any(cache_dir().rglob("*.nbc"))


_settings: Any = config
_settings.CACHE_DIR = str(cache_dir())

# Numba's OpenMP layer spins when idle; the workqueue layer sleeps, but it aborts the process
# when two threads enter parallel code: hence the lock.
_settings.THREADING_LAYER = "workqueue"
parallel_region = RLock()


# Only explicit ``prange`` loops run in parallel, and neighbours stay apart: Numba fuses loops
# whose dependence it does not see, and turns array assignments inside a loop into nested ones.
_ONLY_PRANGE: Any = dict.fromkeys(
    ("comprehension", "fusion", "inplace_binop", "numpy", "reduction", "setitem"), False
)


def jit(function: Callable) -> Any:
    """Compile a function that one thread runs, or that parallel loops call."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


def parallel_jit(function: Callable) -> Any:
    """Compile a function with ``prange`` loops; one caller at a time runs any of them.

    The index of ``prange`` is unsigned: cast it with ``np.int64`` before mixing it with others.
    """
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", parallel=_ONLY_PRANGE)(
        function
    )

    @wraps(function)
    def locked(*arguments: Any) -> Any:
        with parallel_region:
            return compiled(*arguments)

    return locked


def elementwise(function: Callable) -> Any:
    """Compile a function of scalars to ``f(*arrays, out=)``, for any strides and broadcasting.

    One ufunc for each combination of dtypes: a shared one would run float32 arrays in its
    float64 loop, if that was compiled first, and results would depend on history.
    """
    ufuncs: dict[tuple[np.dtype, ...], Any] = {}

    @wraps(function)
    def apply(*arrays: np.ndarray, out: np.ndarray) -> None:
        dtypes = tuple(array.dtype for array in arrays)
        if dtypes not in ufuncs:
            ufuncs[dtypes] = numba.vectorize(cache=True)(function)
        ufuncs[dtypes](*arrays, out=out)

    return apply
