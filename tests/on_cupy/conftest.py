"""CuPy for this folder: over host memory everywhere, and on a GPU where there is one."""

import host_cupy
import pytest

from convolt import manual_seed, use_backend
from convolt.kernels.backend import why_not


def pytest_generate_tests(metafunc):
    if "cupy" in metafunc.fixturenames:
        on_gpu = metafunc.config.getoption("--require-cuda") or not why_not("cuda")
        metafunc.parametrize("cupy", ["host"] + ["gpu"] * on_gpu, indirect=True)


@pytest.fixture
def cupy(request, monkeypatch):
    """The module, with backend ``cuda`` in use."""
    if request.param == "gpu":
        if reason := why_not("cuda"):
            pytest.fail(f"--require-cuda, but {reason}")
        with use_backend("cuda"):
            yield pytest.importorskip("cupy")
    else:
        pytest.importorskip("cupy")
        if reason := why_not("emulator"):
            pytest.skip(reason)
        with host_cupy.installed(monkeypatch) as module, use_backend("cuda"):
            yield module
        manual_seed(0)  # whose state must not stay behind in this memory
