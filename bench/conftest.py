"""Fixtures of ``pytest bench``: each op runs on every backend usable here, in one table a group."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convolt.kernels.backend import NAMES, use_backend, why_not


@pytest.fixture(params=[name for name in NAMES if why_not(name) is None])
def timed(request: pytest.FixtureRequest, benchmark: Any) -> Any:
    """Return ``run(function, *arguments)``, which times the call on one backend."""

    def run(function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)  # the first call may compile
        benchmark(function, *arguments)

    with use_backend(request.param):
        yield run


@pytest.fixture
def random() -> Callable[..., np.ndarray]:
    """Return ``random(*shape)``: normally distributed float32, the same in every run."""
    generator = np.random.default_rng(0)
    return lambda *shape: generator.standard_normal(shape, dtype=np.float32)
