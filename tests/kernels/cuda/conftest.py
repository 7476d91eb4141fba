"""Devices that kernels written for a test run on."""

import numpy as np
import pytest

from convolt.kernels import emulator


class Emulator:
    """NumPy arrays on the emulator. No architecture: it has all instructions."""

    arch = None

    def array(self, x):
        return np.array(x)

    def numpy(self, x):
        return x


class Gpu:
    """CuPy arrays on the GPU."""

    def __init__(self, cupy):
        self._cupy = cupy
        self.arch = int(cupy.cuda.Device().compute_capability)

    def array(self, x):
        return self._cupy.asarray(x)

    def numpy(self, x):
        return self._cupy.asnumpy(x)


def _gpu(config):
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        if config.getoption("--require-cuda", default=False):
            pytest.fail(f"--require-cuda: no GPU can be used: {error}")
        pytest.skip(f"no GPU: {error}")
    return Gpu(cupy)


@pytest.fixture(params=["emulator", "emulator-check", "cuda"])
def device(request):
    """Run a test of a kernel on the emulator, in both modes, and on the GPU where there is one."""
    if request.param == "cuda":
        yield _gpu(request.config)
        return
    mode = "check" if request.param.endswith("check") else "fast"
    with emulator.options(mode=mode):
        yield Emulator()
