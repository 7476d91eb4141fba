"""How the ``on_numba.py`` files use Numba."""

import ast
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numba
import numpy as np

from .cache import cache_dir, in_our_cache, is_cold, keep_whole_files, njit
from .pool import run_in_parts, team

__all__ = ["cache_dir", "elementwise", "is_cold", "jit", "parallel_jit"]


_INNER: Any = dict.fromkeys(("no_cpython_wrapper", "no_cfunc_wrapper"), True)
WORTH_BYTES = 256 << 10  # of the arrays of a loop: one thread passes over them in some 10 us


def jit(function: Callable) -> Any:
    """Compile a function that one thread runs, or that parallel loops call."""
    return njit(function)


def parallel_jit(function: Callable | None = None, *, worth_bytes: int = WORTH_BYTES) -> Any:
    """Compile a function that ends in a ``prange`` loop, whose turns the threads share.

    Every thread runs what stands before the loop, then its parts of it: so what stands before
    may only read the arrays. The turns must not depend on each other. One compiled function
    serves all threads and a single one, so that results cannot depend on their number; small
    work stays on the calling thread. The index is unsigned, as Numba's own: cast it with
    ``np.int64`` before mixing it with others.

    Args:
        function: All arguments are positional.
        worth_bytes: Of all array arguments together, for each thread more than the calling one.

    Raises:
        TypeError: The function does not end in its only ``prange`` loop.
    """
    if function is None:
        return lambda function: parallel_jit(function, worth_bytes=worth_bytes)
    kernel = numba.njit(nogil=True, error_model="numpy", **_INNER)(_of_a_part(function))
    in_parts = njit(_caller(function, kernel, worth_bytes), no_cfunc_wrapper=True)

    @wraps(function)
    def run(*arguments: Any) -> None:
        in_parts(team(), *arguments)

    return run


def _of_a_part(function: Callable) -> Callable:
    """Return ``function`` with two more arguments, the number of a part of its loop and of all.

    Its syntax tree is rewritten, ``prange(n)`` to ``_range_of_part(n, _part, _parts)``, so that a
    kernel is written as one plain loop, and what stands before that is shared by the turns of a
    part. Numba's own way, ``parallel=True``, compiles more, fuses loops and brings its own threads
    (docs/design.md, "Threads" and "Parallel loops").

    The new function must have the module's globals, not a copy: it may call what is defined
    further down. So the one name that it needs besides is put there.
    """
    definition = _definition(function)
    ranges = _pranges(definition)
    last = definition.body[-1]
    if not (isinstance(last, ast.For) and ranges == [last.iter]):
        raise TypeError(
            f"parallel_jit: {function.__module__}.{function.__name__} must end in its only prange "
            "loop; make a function of each loop, and of what follows it"
        )
    names = [ast.Name(name, ast.Load()) for name in ("_part", "_parts")]
    definition.args.args += [ast.arg(name.id) for name in names]
    ranges[0].func = ast.Name("_range_of_part", ast.Load())
    ranges[0].args += names
    function.__globals__["_range_of_part"] = _range_of_part
    return _executed(definition, function, function.__globals__)


def _pranges(definition: ast.FunctionDef) -> list[ast.Call]:
    calls = (node for node in ast.walk(definition) if isinstance(node, ast.Call))
    return [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "prange"]


@numba.njit
def _range_of_part(count, part, parts):
    count = np.int64(count)
    first, end = count * part // parts, count * (part + 1) // parts
    return range(np.uint64(first), np.uint64(end))


def _caller(function: Callable, kernel: Any, worth_bytes: int) -> Callable:
    """Return a function that has all parts of ``kernel`` run: what Python calls."""
    definition = _definition(function)
    names = [argument.arg for argument in definition.args.args]
    definition.args.args.insert(0, ast.arg("_team"))
    run = f"_run_in_parts(_kernel, {worth_bytes}, _team, ({', '.join(names)},))"
    definition.body = ast.parse(run).body
    known = {"_kernel": kernel, "_run_in_parts": run_in_parts, "__name__": function.__module__}
    return _executed(definition, function, known)


def _definition(function: Callable) -> ast.FunctionDef:
    lines, first = inspect.getsourcelines(function)
    indent = len(lines[0]) - len(lines[0].lstrip())
    tree = ast.parse("".join(line[indent:] or "\n" for line in lines))
    ast.increment_lineno(tree, first - 1)
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    return definition


def _executed(definition: ast.FunctionDef, function: Callable, known: dict[str, Any]) -> Callable:
    """Return the function so defined: errors show its file, and Numba caches it as that file's."""
    ast.fix_missing_locations(definition)
    made: dict[str, Any] = {}
    tree = ast.Module([definition], [])
    exec(compile(tree, function.__code__.co_filename, "exec"), known, made)
    return made[function.__name__]


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
            with in_our_cache():
                ufuncs[dtypes] = numba.vectorize(cache=True)(function)
            keep_whole_files(ufuncs[dtypes]._dispatcher.cache)
        ufuncs[dtypes](*arrays, out=out)

    return apply
