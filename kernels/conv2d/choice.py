"""Which kernels compute a convolution on CUDA.

The algorithm that the user names, else the one that was quickest when it was timed
(``cuda/tuner.py``), else the one that the model of cost predicts to be (``cost.py``).
``CONVOLT_ALGORITHM=conv2d_fprop=mma_128x128,conv2d_wgrad=simt`` names some, and so does
``use_algorithm``. A name is an algorithm's, or a family's for the cheapest that it has.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ..cuda.gpu import Gpu
from ..cuda.tuner import TunedTable, is_capturing, quickest, random_array, tuning_mode
from . import mma, simt, wgmma
from .algorithm import VERBS, Algorithm, Problem
from .cost import predict

# Each module has ``runs_on(gpu)``; ``algorithms(problem)``, those of the family that compute a
# problem right; and fprop, dgrad and wgrad, which take one of them and then what on_cuda's take.
FAMILIES: dict[str, ModuleType] = {
    "wgmma": wgmma,
    "mma": mma,
    "simt": simt,
    "depthwise": simt,
}

OPS = tuple(f"conv2d_{verb}" for verb in VERBS)
TIMED = 6  # candidates, the cheapest by the model, that are timed

_log = logging.getLogger("convolt.choice")  # at level INFO: each choice, once, and why

_asked: Mapping[str, str] | None = None  # op -> name, by CONVOLT_ALGORITHM or use_algorithm


@dataclass(frozen=True, slots=True)
class Choice:
    """What computes a problem, and why."""

    algorithm: Algorithm
    why: str


@lru_cache(maxsize=4096)
def candidates(problem: Problem, gpu: Gpu) -> tuple[Algorithm, ...]:
    """Return all algorithms that compute a problem on a GPU, the cheapest first."""
    modules = dict.fromkeys(FAMILIES.values())
    found = [a for m in modules if m.runs_on(gpu) for a in m.algorithms(problem)]
    return tuple(sorted(found, key=lambda a: predict(problem, a, gpu).time_s))


def choose(problem: Problem, gpu: Gpu) -> Algorithm:
    """Return the algorithm for a problem on a GPU; with ``CONVOLT_TUNE=on`` it may be timed first.

    Raises:
        ValueError: The user asks for an algorithm that does not compute this, or
            ``CONVOLT_ALGORITHM`` or ``CONVOLT_TUNE`` is wrong.
    """
    if tuning_mode() == "on" and gpu.driver is not None and not _name_of(problem):
        _tune_if_new(problem, gpu)
    return choice(problem, gpu).algorithm


def choice(problem: Problem, gpu: Gpu) -> Choice:
    """Return what ``choose`` says without timing anything, and why.

    Raises:
        ValueError: As ``choose``.
    """
    return _choice(problem, gpu, _name_of(problem), tuning_mode() != "off")


@lru_cache(maxsize=4096)
def _choice(problem: Problem, gpu: Gpu, name: str | None, by_table: bool) -> Choice:
    found = candidates(problem, gpu)
    made = _choose_among(found, problem, gpu, name, by_table)
    if _log.isEnabledFor(logging.INFO):
        times = (f"{a.name} {predict(problem, a, gpu).time_s * 1e6:.1f} us" for a in found)
        why = f"{made.algorithm.name}: {made.why}; {', '.join(times)}"
        _log.info("%s: %s", _key(problem), why)
    return made


def _choose_among(
    found: tuple[Algorithm, ...], problem: Problem, gpu: Gpu, name: str | None, by_table: bool
) -> Choice:
    if name:
        return Choice(_called(name, problem, found), "the user asks for it")
    timed = _table(gpu).get(_key(problem)) if by_table else None
    for algorithm in found:
        if algorithm.name == timed:
            return Choice(algorithm, f"the quickest when timed on {gpu.name}")
    return Choice(found[0], f"the cheapest of {len(found)} by the model of cost")


def _called(name: str, problem: Problem, found: tuple[Algorithm, ...]) -> Algorithm:
    """The cheapest of the algorithms that a name stands for."""
    for algorithm in found:
        if name in (algorithm.name, algorithm.family):
            return algorithm
    shapes = f"x {problem.size.x_shape}, weight {problem.size.w_shape}"
    raise ValueError(
        f"{_op(problem)}: {name} does not compute {shapes}, {problem.dtype} ({problem.precision}); "
        f"the candidates are {', '.join(a.name for a in found)}"
    )


# ---- What the user asks for ----------------------------------------------------------------------


class use_algorithm:
    """Name the algorithms of ops: at once when called, in a ``with`` block until it ends.

    Args:
        names: Op -> the name of an algorithm or a family:
            ``use_algorithm(conv2d_fprop="mma_128x128")``. Other ops stay as they are. Linear
            layers on tensor cores are 1x1 convolutions, and go by these names too.

    Raises:
        ValueError: There is no such op, or no such family.
    """

    def __init__(self, **names: str) -> None:
        global _asked
        listed = ", ".join(f"{op}={name}" for op, name in names.items())
        _check(names, f"use_algorithm({listed})")
        self._previous = _names()
        _asked = {**self._previous, **names}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        global _asked
        _asked = self._previous


def _name_of(problem: Problem) -> str | None:
    return _names().get(_op(problem))


def _names() -> Mapping[str, str]:
    global _asked
    if _asked is None:
        text = os.environ.get("CONVOLT_ALGORITHM", "")
        pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
        names = {op.strip(): name.strip() for op, _, name in pairs}
        _check(names, f"CONVOLT_ALGORITHM={text}")
        _asked = names
    return _asked


def _check(names: Mapping[str, str], source: str) -> None:
    for op, name in names.items():
        if op not in OPS:
            raise ValueError(f"{source}: unknown op {op!r}; the ops are {', '.join(OPS)}")
        if name.partition("_")[0] not in FAMILIES:
            raise ValueError(
                f"{source}: unknown algorithm {name!r}; the families are {', '.join(FAMILIES)}, "
                "and an algorithm's name has its tile: simt_64x64"
            )


# ---- What was timed ------------------------------------------------------------------------------


def _tune_if_new(problem: Problem, gpu: Gpu) -> None:
    """Time a problem that is not in the table, unless nothing can be timed now.

    The tuner's arrays are aligned: misaligned ones, which are rare, are left to the model.
    """
    found = candidates(problem, gpu)[:TIMED]
    known = len(found) == 1 or _table(gpu).get(_key(problem))
    if known or not problem.aligned or is_capturing():
        return
    arrays = operands(problem)
    runs = {a.name: partial(_run, a, problem, arrays) for a in found}
    _table(gpu).put(_key(problem), quickest(runs, gpu))
    _choice.cache_clear()


def tuned(gpu: Gpu) -> dict[str, str]:
    """Return all that is known from timing: what was to be computed -> the quickest algorithm."""
    return _table(gpu).entries


def operands(problem: Problem) -> list[Any]:
    """Return the arrays that a family's function takes after the algorithm, on the GPU."""
    size = problem.size
    shapes = {
        "fprop": (size.x_shape, size.w_shape, size.y_shape),
        "dgrad": (size.y_shape, size.w_shape, size.x_shape),
        "wgrad": (size.y_shape, size.x_shape, size.w_shape),
    }
    arrays = [random_array(shape, problem.dtype) for shape in shapes[problem.verb]]
    return [*arrays[:2], None, arrays[2]] if problem.verb == "fprop" else arrays


def _run(algorithm: Algorithm, problem: Problem, arrays: list[Any]) -> None:
    verb: Callable[..., None] = getattr(FAMILIES[algorithm.family], problem.verb)
    verb(algorithm, *arrays, problem.size)


@cache
def _table(gpu: Gpu) -> TunedTable:
    """Of this GPU, as long as kernels, tiles and the model, which cuts sums, are the same."""
    here = Path(__file__).parent
    files = [file for folder in (here, here.parent / "cuda") for file in folder.iterdir()]
    return TunedTable(gpu, [file for file in files if file.suffix in (".cu", ".cuh", ".py")])


def _op(problem: Problem) -> str:
    return f"conv2d_{problem.verb}"


def _key(problem: Problem) -> str:
    """What decides the time of a problem, in words."""
    size = "x".join(map(str, astuple(problem.size)))
    aligned = "aligned" if problem.aligned else "not aligned"
    return f"{_op(problem)} {size} {problem.dtype} {problem.precision} {aligned}"
