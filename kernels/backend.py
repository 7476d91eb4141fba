"""Which implementation serves these arrays: ``CONVOLT_BACKEND`` and ``use_backend``.

CuPy arrays run on ``cuda``. NumPy arrays run on the current host backend: ``numba``, ``numpy``
or ``emulator``. Nothing falls back to another backend: what cannot run is an error.
"""

import os
import sys
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from .cpu import memory
from .precision import pinned as pinned_precision

NAMES = ("cuda", "numba", "numpy", "emulator")

_chosen: str | None = None  # by CONVOLT_BACKEND or use_backend; None: not yet asked
_pinned: ContextVar[str | None] = ContextVar("backend of the running backward", default=None)
_modules: dict[tuple[str, str], "_Quiet"] = {}
_NUMPY = {np.ndarray, type(None)}


def why_not(name: str) -> str | None:
    """Return why backend ``name`` cannot be used on this machine, or None when it can."""
    if name == "numpy":
        return None
    if name == "numba":
        return None if find_spec("numba") else "Numba is not installed: pip install numba"
    if name == "emulator":
        return import_module(".emulator.build", __package__).why_not()
    if name == "cuda":
        return _why_not_cuda()
    return "there is no backend of this name"


def _why_not_cuda() -> str | None:
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'convolt[cuda13]' (or [cuda12])"
    runtime = import_module("cupy").cuda.runtime
    try:
        runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        return f"CuPy finds no usable GPU: {error}"
    return None


def table() -> str:
    """Return one line a backend: its name and whether it is usable here, or why not."""
    return "\n".join(f"  {name:<9} {why_not(name) or 'usable'}" for name in NAMES)


def check_usable(name: str, source: str) -> str:
    """Return ``name`` when this machine has a backend of this name that can be used.

    Raises:
        ValueError: There is no backend of this name.
        RuntimeError: It cannot be used here; the message says why. Both begin with ``source``.
    """
    if name not in NAMES:
        raise ValueError(f"{source}: unknown backend {name!r}; the backends are\n{table()}")
    if reason := why_not(name):
        raise RuntimeError(
            f"{source}: backend {name!r} cannot be used: {reason}; the backends are\n{table()}"
        )
    return name


def _choose() -> str:
    """Choose once, from the environment, else the default of this machine."""
    global _chosen
    if _chosen is None:
        if asked := os.environ.get("CONVOLT_BACKEND"):
            _chosen = check_usable(asked, f"CONVOLT_BACKEND={asked}")
        else:
            _chosen = check_usable(_default(), "the default backend")
    return _chosen


def _default() -> str:
    return "numba" if why_not("cuda") else "cuda"


def current_backend() -> str:
    """Return the backend that new arrays are made for.

    Raises:
        ValueError: ``CONVOLT_BACKEND`` names no backend.
        RuntimeError: It names one that cannot be used here; the message says why.
    """
    return _pinned.get() or _chosen or _choose()


def why_chosen() -> str:
    """Return, in words, what the current choice of backend rests on."""
    chosen = _choose()
    if os.environ.get("CONVOLT_BACKEND") == chosen:
        return "CONVOLT_BACKEND asks for it"
    if chosen != _default():
        return "use_backend asks for it"
    if chosen == "cuda":
        return "the default where a GPU works"
    return f"the default without a usable GPU (cuda: {why_not('cuda')})"


class use_backend:
    """Choose the backend: at once when called, until the block ends in a ``with`` statement.

    Args:
        name: ``"cuda"``, ``"numba"``, ``"numpy"`` or ``"emulator"``.

    Raises:
        ValueError: There is no backend of this name.
        RuntimeError: The backend cannot be used on this machine; the message says why.
    """

    def __init__(self, name: str) -> None:
        global _chosen
        check_usable(name, f"use_backend({name!r})")
        self._previous, _chosen = _chosen, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        global _chosen
        _chosen = self._previous


class pinned:
    """Run a backward pass on the backend, and in the precision, of the forward one.

    In this thread only.
    """

    __slots__ = ("_backend", "_name", "_precision", "_precisions")

    def __init__(self, name: str, precision: str | None) -> None:
        self._name = name
        self._precision = (precision,)

    def __enter__(self) -> None:
        self._backend = _pinned.set(self._name)
        self._precisions = pinned_precision.set(self._precision)

    def __exit__(self, *exception: object) -> None:
        _pinned.reset(self._backend)
        pinned_precision.reset(self._precisions)


def is_cupy(array: Any) -> bool:
    """Return whether ``array`` is CuPy's, without importing CuPy."""
    return type(array).__module__.partition(".")[0] == "cupy" and hasattr(array, "strides")


def _host_backend() -> str:
    name = current_backend()
    return "numba" if name == "cuda" else name


def backend_of(array: Any) -> str:
    """Return the backend that serves ``array``: ``cuda`` for CuPy, the host backend for NumPy."""
    if isinstance(array, np.ndarray):
        return _host_backend()
    if not is_cupy(array):
        raise TypeError(f"an array is needed, got {type(array).__name__}: {array!r:.60}")
    return "cuda"


def empty_cache() -> None:
    """Give back the memory of dropped arrays, which is kept for those to come.

    The host's, and on a GPU what CuPy's memory pool keeps. Arrays in use are not touched.
    """
    memory.empty_cache()
    if "cupy" in sys.modules and not why_not("cuda"):
        sys.modules["cupy"].get_default_memory_pool().free_all_blocks()


def array_module() -> ModuleType:
    """Return the module that makes arrays for the current backend: ``cupy`` or ``numpy``."""
    return import_module("cupy") if current_backend() == "cuda" else np


class _Quiet:
    """An implementation whose functions give no floating-point warnings.

    Infinities and NaNs are results, on the CPU as on a GPU.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        function = np.errstate(all="ignore")(getattr(self._module, name))
        setattr(self, name, function)  # found at once from now on
        return function


def implementation(op: str, *arrays: Any) -> Any:
    """Return the functions that implement package ``op`` for ``arrays`` (Nones skipped).

    Raises:
        TypeError: The arrays live on different backends.
    """
    if _NUMPY.issuperset(map(type, arrays)):
        name = _host_backend()  # as below, found sooner
    else:
        names = {backend_of(array) for array in arrays if array is not None}
        if len(names) != 1:
            raise TypeError(
                f"{op.rpartition('.')[2]}: NumPy arrays mixed with CuPy arrays; "
                "move all inputs to one backend first: tensor.cuda(), tensor.cpu()"
            )
        name = names.pop()
    found = _modules.get((op, name))
    if found is None:
        file = "on_cuda" if name == "emulator" else f"on_{name}"
        found = _modules[op, name] = _Quiet(import_module(f"{op}.{file}"))
    return found
