"""Devices that kernels written for a test run on."""

import numpy as np
import pytest

from convolt.kernels import emulator
from convolt.kernels.backend import why_not


class Emulator:
    """NumPy arrays on the emulator. No architecture: it has all instructions."""

    arch = None

    def array(self, x):
        return np.array(x)

    def numpy(self, x):
        return x


class Gpu:
    """CuPy arrays on the GPU."""

    def __init__(self):
        import cupy

        self._cupy = cupy
        self.arch = int(cupy.cuda.Device().compute_capability)

    def array(self, x):
        return self._cupy.asarray(x)

    def numpy(self, x):
        return self._cupy.asnumpy(x)


def pytest_generate_tests(metafunc):
    """Give the fixture ``device`` its names: ``cuda`` with a GPU, or where one is required."""
    if "device" in metafunc.fixturenames:
        on_gpu = metafunc.config.getoption("--require-cuda") or not why_not("cuda")
        names = ["emulator", "emulator-check"] + ["cuda"] * on_gpu
        metafunc.parametrize("device", names, indirect=True)


@pytest.fixture
def device(request):
    """Run a test of a kernel on the emulator, in both modes, and on the GPU where there is one."""
    name, _, mode = request.param.partition("-")
    if reason := why_not(name):
        if name == "cuda":
            pytest.fail(f"--require-cuda, but {reason}")
        pytest.skip(reason)
    if name == "cuda":
        yield Gpu()
    else:
        with emulator.options(mode=mode or "fast"):
            yield Emulator()
