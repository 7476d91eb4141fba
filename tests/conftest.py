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
