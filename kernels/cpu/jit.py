"""How the ``on_numba.py`` files use Numba: where code is cached, how it is run.

Numba's own cache looks only at the file of the jitted function, so code inlined from another
file goes stale. The cache folder is therefore keyed by a hash of all kernel sources and of the
versions of Python, Numba, llvmlite and NumPy.
"""

import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config

from ..paths import cache_root


@cache
def cache_dir() -> Path:
    """Return the folder for machine code compiled from exactly these sources and versions."""
    digest = sha256()
    for versions in (sys.version, numba.__version__, llvmlite.__version__, np.__version__):
        digest.update(versions.encode())
    here = Path(__file__).parents[1]
    for source in sorted(here.rglob("*.py")):
        digest.update(str(source.relative_to(here)).encode())
        digest.update(source.read_bytes())
    return cache_root() / f"numba-{platform.machine()}-{digest.hexdigest()[:16]}"


def is_cold() -> bool:
    """Say whether nothing is compiled yet, so that first calls will take seconds."""
    return not any(cache_dir().rglob("*.nbc"))


_settings: Any = config

# Numba's OpenMP layer spins when idle; the workqueue layer sleeps, but it aborts the process
# when two threads enter parallel code: hence the lock. The layer is the whole process's, so
# whoever chose another one keeps it.
if _settings.THREADING_LAYER == "default":
    _settings.THREADING_LAYER = "workqueue"
parallel_region = RLock()


@cache
def _made_cache_dir() -> str:
    """Make the folder: where it cannot be written, Numba would quietly use its own, stale one.

    Raises:
        RuntimeError: It cannot be made or written.
    """
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RuntimeError(
            f"compiled kernels cannot be kept in {folder}: {error.strerror}; set "
            "CONVOLT_CACHE_DIR to a folder that can be written"
        ) from error
    return str(folder)


@contextmanager
def _our_cache() -> Iterator[None]:
    """Have what is decorated here cached in our folder; other users of Numba keep theirs."""
    previous = _settings.CACHE_DIR
    _settings.CACHE_DIR = _made_cache_dir()
    try:
        yield
    finally:
        _settings.CACHE_DIR = previous


# Only explicit ``prange`` loops run in parallel, and neighbours stay apart: Numba fuses loops
# whose dependence it does not see, and turns array assignments inside a loop into nested ones.
_ONLY_PRANGE: Any = dict.fromkeys(
    ("comprehension", "fusion", "inplace_binop", "numpy", "reduction", "setitem"), False
)


def jit(function: Callable) -> Any:
    """Compile a function that one thread runs, or that parallel loops call."""
    with _our_cache():
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


def parallel_jit(function: Callable) -> Any:
    """Compile a function with ``prange`` loops; one caller at a time runs any of them.

    The index of ``prange`` is unsigned: cast it with ``np.int64`` before mixing it with others.
    """
    options: Any = {"cache": True, "nogil": True, "error_model": "numpy", "parallel": _ONLY_PRANGE}
    with _our_cache():
        compiled = numba.njit(**options)(function)

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
            with _our_cache():
                ufuncs[dtypes] = numba.vectorize(cache=True)(function)
        ufuncs[dtypes](*arrays, out=out)

    return apply
