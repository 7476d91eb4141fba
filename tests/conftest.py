"""Fixtures of every room."""

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from convolt.kernels import emulator
from convolt.kernels.arrays import empty
from convolt.kernels.backend import use_backend, why_not

sys.path.insert(0, str(Path(__file__).parent))  # for tolerance.py: importlib mode adds no path

import kernel_coverage
import staged

BACKENDS = ["numpy", "numba", "emulator", "emulator-check"]


def pytest_addoption(parser):
    parser.addoption(
        "--require-cuda", action="store_true", help="fail, not skip, where a test needs a GPU"
    )
    kernel_coverage.add_option(parser)


def pytest_configure(config):
    config.pluginmanager.register(kernel_coverage.Plugin(config))


def pytest_report_header(config):
    reasons = {name: why_not(name) for name in ("emulator", "cuda")}
    return [f"backend {name} is not tested: {reason}" for name, reason in reasons.items() if reason]


def pytest_generate_tests(metafunc):
    """Give the fixture ``backend`` its names: ``cuda`` with a GPU, or where one is required."""
    own = str([m.args[0] for m in metafunc.definition.iter_markers("parametrize")])
    if "backend" in metafunc.fixturenames and "backend" not in own:
        on_gpu = metafunc.config.getoption("--require-cuda") or not why_not("cuda")
        metafunc.parametrize("backend", BACKENDS + ["cuda"] * on_gpu, indirect=True)


@pytest.fixture
def backend(request, monkeypatch):
    """Run the test once for each backend that this machine has.

    ``emulator-check`` is the emulator in mode ``check``. ``cuda`` stands for the kernels on a GPU:
    the test's NumPy arrays are carried there and back around every launch.
    """
    name, _, mode = request.param.partition("-")
    if reason := why_not(name):
        if name == "cuda":
            pytest.fail(f"--require-cuda, but {reason}")
        pytest.skip(reason)
    with ExitStack() as stack:
        if name == "cuda":
            staged.on_gpu(monkeypatch)
            name = "emulator"
        elif name == "emulator":
            stack.enter_context(emulator.options(mode=mode or "fast"))
        stack.enter_context(use_backend(name))
        yield name


@pytest.fixture
def rng():
    return np.random.default_rng(20261121)


@pytest.fixture
def nan_results(monkeypatch):
    """Fill what a contract allocates with NaN, so that an element left unwritten shows.

    Integers have no NaN: they become their largest value, and bools True.

    ``with nan_results(contract):`` patches ``empty`` inside that module.
    """

    def poisoned(*args):
        array = empty(*args)
        kind = "f" if array.dtype.name == "bfloat16" else array.dtype.kind
        array.fill({"f": np.nan, "b": True}.get(kind) or np.iinfo(array.dtype).max)
        return array

    @contextmanager
    def poison(contract):
        with monkeypatch.context() as patch:
            patch.setattr(contract, "empty", poisoned)
            yield

    return poison
