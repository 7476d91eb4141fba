"""The choice of a backend: what is usable, what is said when it is not."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from convolt.kernels import backend, layout


def run(code, **environment):
    environment = {k: v for k, v in os.environ.items() if k != "CONVOLT_BACKEND"} | environment
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_use_backend_sets_at_once_and_a_block_restores():
    with backend.use_backend("numpy"):
        assert backend.current_backend() == "numpy"
        with backend.use_backend("numba"):
            assert backend.current_backend() == "numba"
        assert backend.current_backend() == "numpy"
        backend.use_backend("numba")
        assert backend.current_backend() == "numba"


def test_what_the_choice_rests_on(monkeypatch):
    monkeypatch.delenv("CONVOLT_BACKEND", raising=False)
    monkeypatch.setattr(backend, "_why_not_cuda", lambda: "no GPU in this test")
    with backend.use_backend("numpy"):
        assert backend.why_chosen() == "use_backend asks for it"
        monkeypatch.setenv("CONVOLT_BACKEND", "numpy")
        assert backend.why_chosen() == "CONVOLT_BACKEND asks for it"
    with backend.use_backend("numba"):
        assert (
            backend.why_chosen() == "the default without a usable GPU (cuda: no GPU in this test)"
        )


def test_the_choice_holds_in_other_threads():
    seen = []
    with backend.use_backend("numpy"):
        thread = threading.Thread(target=lambda: seen.append(backend.current_backend()))
        thread.start()
        thread.join()
    assert seen == ["numpy"]


@pytest.mark.parametrize("name", backend.NAMES)
def test_an_unknown_backend_is_an_error_that_lists_the_backends(name):
    with pytest.raises(ValueError, match=rf"(?s)unknown backend 'banana'.*{name}"):
        backend.use_backend("banana")
    assert backend.current_backend() in backend.NAMES


def test_an_unusable_backend_is_an_error_that_says_why(monkeypatch):
    monkeypatch.setattr(backend, "_why_not_cuda", lambda: "no GPU in this test")
    with pytest.raises(
        RuntimeError, match=r"(?s)'cuda' cannot be used: no GPU in this test.*numpy"
    ):
        backend.use_backend("cuda")


@pytest.mark.parametrize("value", ["banana", "emulator"])
def test_the_environment_variable_is_checked_when_first_needed(value):
    code = "import convolt; convolt.tensor([1.0]) + 1"
    result = run(code, CONVOLT_BACKEND=value, CXX="no-such-compiler")
    assert result.returncode != 0
    assert f"CONVOLT_BACKEND={value}" in result.stderr
    for name in backend.NAMES:
        assert name in result.stderr


@pytest.mark.parametrize("value", ["numpy", "numba", "emulator"])
def test_the_environment_variable_chooses(value):
    result = run("import convolt; print(convolt.tensor([1.0]).backend)", CONVOLT_BACKEND=value)
    assert (result.stdout.strip(), result.stderr) == (value, "")


def test_arrays_of_two_backends_do_not_mix():
    class Foreign:  # stands for a CuPy array
        dtype, shape, strides = np.dtype(np.float32), (2,), (4,)

    Foreign.__module__ = "cupy"

    with pytest.raises(TypeError, match="mixed"):
        backend.implementation("convolt.kernels.layout", np.ones(2, np.float32), Foreign())
    np.testing.assert_array_equal(layout.copy(np.ones(2)), np.ones(2))


def test_importing_convolt_loads_neither_numba_nor_cupy_nor_the_heavy_libraries():
    heavy = [
        "numba",
        "cupy",
        "scipy",
        "sklearn",
        "PIL",
        "rich",
        "typer",
        "pooch",
        "safetensors",
        "torch",
    ]
    result = run(f"import convolt, sys; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr
