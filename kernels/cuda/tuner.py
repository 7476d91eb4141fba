"""Which of several algorithms is quickest on a GPU: timed there, and kept on disk.

``CONVOLT_TUNE`` says how algorithms are chosen:

    off      by the model of cost alone
    cached   by what was timed before, else by the model; the default. Nothing is timed
    on       what was not timed before is timed when it is first met, but not inside a capture
"""

import hashlib
import json
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np

from .. import layout, random
from ..arrays import Array, Shape
from ..paths import cache_root, keep, kept
from .gpu import Gpu

MODES = ("off", "cached", "on")

BUDGET_S = 0.1  # of a GPU, to time the candidates for one shape; each is run LEAST_TURNS times
LEAST_TURNS, MOST_TURNS = 3, 20

_SHIPPED = Path(__file__).parent / "tuned"  # <GPU>.json, of GPUs that we met
_FORMAT = 1  # of the files, and of their keys

_mode: str | None = None  # by CONVOLT_TUNE or use_tuning


def tuning_mode() -> str:
    """Return how algorithms are chosen.

    Raises:
        ValueError: ``CONVOLT_TUNE`` is not one of ``MODES``.
    """
    global _mode
    if _mode is None:
        asked = os.environ.get("CONVOLT_TUNE")
        _mode = _check(asked, f"CONVOLT_TUNE={asked}") if asked else "cached"
    return _mode


class use_tuning:
    """Choose how algorithms are chosen: at once when called, in a ``with`` block until it ends.

    Args:
        mode: One of ``MODES``.

    Raises:
        ValueError: It is none of them.
    """

    def __init__(self, mode: str) -> None:
        global _mode
        _check(mode, f"use_tuning({mode!r})")
        self._previous, _mode = tuning_mode(), mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        global _mode
        _mode = self._previous


def _check(mode: str, source: str) -> str:
    if mode not in MODES:
        raise ValueError(f"{source}: must be one of {', '.join(MODES)}")
    return mode


class TunedTable:
    """The names of the quickest algorithms on one GPU, with its driver and these sources.

    What was timed on this machine goes before what the package ships.

    Args:
        gpu: Whose. One that is only named has what the package ships and takes nothing in.
        sources: Files that decide what an algorithm's name stands for.
    """

    def __init__(self, gpu: Gpu, sources: Iterable[Path]) -> None:
        digest = hashlib.sha256()
        for path in sorted(sources):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        name = f"{gpu.name}-{gpu.driver}-{_FORMAT}-{digest.hexdigest()[:16]}.bin"
        self._file = cache_root() / "tuned" / name if gpu.driver is not None else None
        shipped = _SHIPPED / f"{gpu.name}.json"
        self._names: dict[str, str] = json.loads(shipped.read_text()) if shipped.exists() else {}
        self._names |= self._kept()

    @property
    def entries(self) -> dict[str, str]:
        """Key -> name of an algorithm, all of them."""
        return dict(self._names)

    def get(self, key: str) -> str | None:
        """Return the name of the algorithm for what ``key`` describes; None: it was not timed."""
        return self._names.get(key)

    def put(self, key: str, name: str) -> None:
        """Keep the name of an algorithm, beside what other processes have kept meanwhile.

        Raises:
            RuntimeError: It cannot be written; the message says what to do.
        """
        assert self._file is not None
        self._names[key] = name
        entries = self._kept() | {key: name}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            keep(self._file, json.dumps(entries, indent=1).encode())
        except OSError as error:
            raise RuntimeError(
                f"the table of tuned kernels cannot be kept in {self._file.parent}: "
                f"{error.strerror}; set CONVOLT_CACHE_DIR to a folder that can be written"
            ) from error

    def _kept(self) -> dict[str, str]:
        data = kept(self._file) if self._file else None
        return json.loads(data) if data else {}


def is_capturing() -> bool:
    """Whether CuPy's current stream is being captured as a graph, where nothing can be timed."""
    return import_module("cupy").cuda.get_current_stream().is_capturing()


def random_array(shape: Shape, dtype: str) -> Array:
    """Return normally distributed numbers on the GPU: how fast it computes depends on the bits."""
    ticket = import_module("cupy").asarray(np.array([0, 0], np.uint64))
    return layout.cast(random.normal(ticket, shape), dtype)


def quickest(runs: Mapping[str, Callable[[], object]], gpu: Gpu) -> str:
    """Time what each name runs on CuPy's current stream; return the name with the least median.

    They run in turns, each with its operands in DRAM: L2 is overwritten before.
    """
    times_s: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # compiles
    for turn in range(MOST_TURNS):
        for name, run in runs.items():
            times_s[name].append(time_s(run, gpu))
        if turn + 1 >= LEAST_TURNS and sum(map(sum, times_s.values())) > BUDGET_S:
            break
    return min(times_s, key=lambda name: statistics.median(times_s[name]))


def time_s(run: Callable[[], object], gpu: Gpu) -> float:
    """Return the time between events before and after ``run``, L2 overwritten before."""
    cupy = import_module("cupy")
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    flushed = _other_memory(cupy.cuda.Device().id, 2 * gpu.l2_bytes)
    flushed.data.memset_async(0, flushed.nbytes, cupy.cuda.get_current_stream())
    begin.record()
    run()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) / 1e3


@cache
def _other_memory(device_id: int, size_bytes: int):
    return import_module("cupy").empty(size_bytes, "uint8")
