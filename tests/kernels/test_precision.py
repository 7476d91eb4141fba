"""The precision of float32 products: names, environment, defaults of ops, what a backward keeps."""

import os
import subprocess
import sys

import numpy as np
import pytest

import convolt
from convolt import functional
from convolt.kernels import conv2d, emulator, precision
from convolt.kernels.backend import use_backend
from convolt.kernels.conv2d import Conv2dSize
from convolt.kernels.conv2d import algorithm as algorithms
from convolt.kernels.conv2d.algorithm import Problem

SIZE = Conv2dSize.of((2, 5, 6, 64), (64, 3, 3, 64), padding=1)


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.setattr(precision, "_chosen", None)
    monkeypatch.setattr(precision, "_asked", True)


@pytest.fixture
def on_gpu(monkeypatch):
    """Take every array for one on a GPU where a problem's precision is chosen."""
    monkeypatch.setattr(algorithms, "is_cupy", lambda array: True)


def arrays(dtype=np.float32):
    return [np.ones(s, dtype) for s in (SIZE.x_shape, SIZE.w_shape, SIZE.y_shape)]


def chosen(dtype=np.float32, **options):
    return Problem.of("fprop", SIZE, *arrays(dtype), **options).precision


def test_use_precision_sets_at_once_and_a_block_restores():
    assert precision.current_precision() is None
    with convolt.use_precision("tf32"):
        assert precision.current_precision() == "tf32"
        with convolt.use_precision("ieee"):
            assert precision.current_precision() == "ieee"
        assert precision.current_precision() == "tf32"
        convolt.use_precision("bf16")
        assert precision.current_precision() == "bf16"
    assert precision.current_precision() is None


@pytest.mark.parametrize("name", ["tf16", "TF32", "", None])
def test_an_unknown_precision_is_an_error_that_lists_the_names(name):
    with pytest.raises(ValueError, match=r"use_precision\(.*must be one of ieee, tf32, bf16"):
        convolt.use_precision(name)
    assert precision.current_precision() is None


def test_the_environment_variable_is_asked_once_and_code_overrides_it(monkeypatch):
    monkeypatch.setattr(precision, "_asked", False)
    monkeypatch.setenv("CONVOLT_PRECISION", "tf32")
    with convolt.use_precision("ieee"):
        assert precision.current_precision() == "ieee"
    assert precision.current_precision() == "tf32"
    monkeypatch.setenv("CONVOLT_PRECISION", "ieee")
    assert precision.current_precision() == "tf32"


def test_the_environment_variable_is_checked_when_first_needed():
    code = "import convolt; from convolt.kernels.precision import current_precision as c; c()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"CONVOLT_PRECISION": "half"},
        check=False,
    )
    assert result.returncode != 0
    assert "CONVOLT_PRECISION=half: precision must be one of ieee, tf32, bf16" in result.stderr


def test_float32_convolutions_are_tf32_on_a_gpu_and_ieee_on_the_emulator(on_gpu, monkeypatch):
    assert chosen() == "tf32"
    assert chosen(gpu_precision="ieee") == "ieee"  # linear asks so
    monkeypatch.undo()
    assert chosen() == "ieee"


@pytest.mark.parametrize(("name", "expected"), [("ieee", "ieee"), ("tf32", "tf32")])
def test_the_choice_overrides_the_defaults_of_float32_alone(on_gpu, name, expected):
    with convolt.use_precision(name):
        assert chosen() == chosen(gpu_precision="ieee") == expected
        assert chosen(np.float64) == "ieee"
        assert chosen("bfloat16") == "ieee"


def entries(launches):
    return {launch.entry for launch in launches}


def test_the_choice_reaches_the_kernels():
    x, w, _ = arrays()
    with use_backend("emulator"), emulator.record() as launches:
        conv2d.fprop(x, w, None, SIZE)
        assert entries(launches) == {"conv2d_fprop_tiled"}
        with convolt.use_precision("tf32"):
            conv2d.fprop(x, w, None, SIZE)
    assert entries(launches) == {"conv2d_fprop_tiled", "conv2d_fprop_mma"}


@pytest.mark.parametrize(("forward", "backward"), [("tf32", "ieee"), (None, "tf32")])
def test_backward_keeps_the_precision_of_forward(forward, backward):
    x, w = (convolt.tensor(np.ones(s, np.float32)) for s in ((2, 64, 5, 6), (64, 64, 3, 3)))
    x.requires_grad = w.requires_grad = True
    with use_backend("emulator"):
        if forward:
            convolt.use_precision(forward)
        y = functional.conv2d(x, w).sum()
        convolt.use_precision(backward)
        with emulator.record() as launches:
            y.backward()
        assert precision.current_precision() == backward
    suffix = "mma" if forward == "tf32" else "tiled"
    assert {f"conv2d_dgrad_{suffix}", f"conv2d_wgrad_{suffix}"} <= entries(launches)
