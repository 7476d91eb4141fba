"""Fixtures of ``pytest bench``: each op runs on every backend usable here, in one table a group."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from convolt.kernels.backend import array_module, use_backend, why_not

BACKENDS = ("cuda", "numba", "numpy")  # how long the emulator takes says nothing


@pytest.fixture(params=[name for name in BACKENDS if why_not(name) is None])
def backend(request: pytest.FixtureRequest) -> Any:
    """Run a benchmark on each backend."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def timed(backend: str, benchmark: Any) -> Callable[..., None]:
    """Return ``run(function, *arguments)``, which times the call on one backend."""
    # On a GPU the time of a call alone, from Python to the end of its kernels.
    wait = import_module("cupy").cuda.Device().synchronize if backend == "cuda" else None

    def run(function: Callable[..., object], *arguments: object) -> None:
        def call() -> None:
            function(*arguments)
            if wait is not None:
                wait()

        call()  # the first call may compile
        benchmark(call)

    return run


@pytest.fixture
def put(backend: str) -> Callable[[np.ndarray], Any]:
    """Return ``put(array)``, which carries an array to where the backend computes."""
    return array_module().asarray


@pytest.fixture
def random(put: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    """Return ``random(*shape)``: normally distributed float32, the same in every run."""
    generator = np.random.default_rng(0)
    return lambda *shape: put(generator.standard_normal(shape, dtype=np.float32))
