"""Where compiled code is kept, so that the second start compiles nothing.

Numba's own cache looks only at the file of the jitted function, so code inlined from another
file goes stale. The folder is therefore keyed by a hash of all kernel sources, of the versions of
Python, Numba, llvmlite and NumPy, and of the CPU compiled for.
"""

import logging
import os
import pickle
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config, serialize

from ..paths import cache_root, keep, kept
from .machine import cpu_features, cpu_name, vector_bytes

KEPT_S = 7 * 24 * 3600  # a folder of other sources, from its last use on

COMPILING = (
    "compiling the kernels, which takes a while this first time; they are kept in %s and later "
    "runs start at once"
)
announced = False  # in this process, that the kernels are going to be compiled
_log = logging.getLogger("convolt")  # prints on standard error where the program sets up nothing


@cache
def cache_dir() -> Path:
    """Return the folder for machine code compiled from exactly these sources, for this CPU."""
    digest = sha256()
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    cpu = (cpu_name(), *sorted(cpu_features()), str(vector_bytes()))
    for text in versions + cpu:
        digest.update(f"{text}\0".encode())
    here = Path(__file__).parents[1]
    for source in sorted(here.rglob("*.py")):
        digest.update(f"{source.relative_to(here)}\0".encode())
        digest.update(source.read_bytes())
    return cache_root() / f"numba-{platform.machine()}-{digest.hexdigest()[:16]}"


def is_cold() -> bool:
    """Say whether nothing is compiled yet, so that first calls will take seconds."""
    return not any(cache_dir().rglob("*.nbc"))


def _announce_if_cold() -> None:
    global announced
    if not announced and is_cold():
        _log.warning(COMPILING, cache_root())
    announced = True


@cache
def _made_cache_dir() -> str:
    """Make the folder: where it cannot be written, Numba would quietly use its own, stale one.

    Raises:
        RuntimeError: It cannot be made or written.
    """
    _announce_if_cold()
    folder = cache_dir()
    try:
        is_first = not folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        os.utime(folder)  # it is in use
    except OSError as error:
        raise RuntimeError(
            f"compiled kernels cannot be kept in {folder}: {error.strerror}; set "
            "CONVOLT_CACHE_DIR to a folder that can be written"
        ) from error
    if is_first:
        _remove_unused(folder)
    return str(folder)


def _remove_unused(folder: Path) -> None:
    """Remove the folders of other sources and CPUs that nobody has used for KEPT_S."""
    for other in folder.parent.glob("numba-*"):
        try:
            unused = other != folder and time.time() - other.stat().st_mtime > KEPT_S
        except OSError:  # another process was quicker
            continue
        if unused:
            shutil.rmtree(other, ignore_errors=True)


def keep_if_possible(path: Path, code: bytes) -> None:
    """Keep compiled code for the next process; warn where it cannot be: this one has it."""
    try:
        keep(path, code)
    except OSError as error:
        _log.warning("compiled kernels are not kept: %s", error)


@contextmanager
def in_our_cache() -> Iterator[None]:
    """Have what is decorated here cached in our folder; other users of Numba keep theirs."""
    settings: Any = config
    previous = settings.CACHE_DIR
    settings.CACHE_DIR = _made_cache_dir()
    try:
        yield
    finally:
        settings.CACHE_DIR = previous


def njit(function: Callable, **options: Any) -> Any:
    """Compile a function, or find it compiled, whenever it is called with other types."""
    with in_our_cache():
        compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    keep_whole_files(compiled._cache)
    return compiled


def keep_whole_files(numba_cache: Any) -> None:
    """Have a cache of Numba's keep one file for each combination of types.

    Numba keeps an index beside its files. Two processes that compile at once can leave one that
    names the code of the other, and an index or file cut short raises at every start.
    """
    numba_cache._cache_file = _WholeFiles(numba_cache._cache_file)


class _WholeFiles:
    """``save`` and ``load`` of Numba's ``IndexDataCacheFile``, without an index."""

    def __init__(self, replaced: Any) -> None:
        self._stem = replaced._index_path.removesuffix(".nbi")

    def _path(self, key: Any) -> Path:
        return Path(f"{self._stem}.{sha256(repr(key).encode()).hexdigest()[:16]}.nbc")

    def save(self, key: Any, data: Any) -> None:
        keep_if_possible(self._path(key), serialize.dumps((repr(key), data)))

    def load(self, key: Any) -> Any:
        """Return what was saved; None, which has it compiled, where that is not whole."""
        if (whole := kept(self._path(key))) is None:
            return None
        saved, data = pickle.loads(whole)
        return data if saved == repr(key) else None
