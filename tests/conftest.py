"""Fixtures of every room."""

import sys
from pathlib import Path

import numpy as np
import pytest

from convolt.kernels.backend import use_backend

sys.path.insert(0, str(Path(__file__).parent))  # for tolerance.py: importlib mode adds no path


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    """Run the test once for each backend that this machine has."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def rng():
    return np.random.default_rng(20261121)


@pytest.fixture
def nan_results(monkeypatch):
    """Fill what a contract allocates with NaN, so that an element left unwritten shows.

    Integers have no NaN: they become their largest value, and bools True.

    ``with nan_results(contract):`` patches ``np.empty_like`` inside that module.
    """
    from contextlib import contextmanager

    class Poisoned:
        def __getattr__(self, name):
            return getattr(np, name)

        @staticmethod
        def empty_like(*args, **kwargs):
            array = np.empty_like(*args, **kwargs)
            kind = array.dtype.kind
            array.fill({"f": np.nan, "b": True}.get(kind) or np.iinfo(array.dtype).max)
            return array

    @contextmanager
    def poison(contract):
        with monkeypatch.context() as patch:
            patch.setattr(contract, "np", Poisoned())
            yield

    return poison
