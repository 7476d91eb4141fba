"""Kernels are timed when a shape is first met, on arrays of the tuner's own."""

import numpy as np
import pytest

from convolt.cli.tune import tune
from convolt.kernels import conv2d
from convolt.kernels.conv2d import Conv2dSize, choice
from convolt.kernels.conv2d.algorithm import Problem
from convolt.kernels.conv2d.choice import candidates, choose, tuned, use_algorithm
from convolt.kernels.cuda import tuner
from convolt.kernels.cuda.gpu import gpu_of
from convolt.kernels.cuda.tuner import use_tuning


@pytest.fixture(autouse=True)
def _own_table(monkeypatch, tmp_path):
    def forget():
        for cached in (choice._choice, choice._table):
            cached.cache_clear()

    monkeypatch.setattr(tuner, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(tuner, "BUDGET_S", 0.0)
    monkeypatch.setattr(choice, "_asked", {})
    forget()
    yield
    forget()


@pytest.fixture
def timings(monkeypatch):
    """Count what is timed."""
    taken, time_s = [], tuner.time_s

    def counting(run, gpu):
        taken.append(time_s(run, gpu))
        return taken[-1]

    monkeypatch.setattr(tuner, "time_s", counting)
    return taken


def test_the_first_call_times_the_candidates_and_the_result_is_right(cupy, timings, rng):
    size = Conv2dSize.of((2, 6, 7, 3), (5, 3, 3, 3), padding=1)
    x = rng.integers(-4, 5, size.x_shape).astype(np.float32)
    w = rng.integers(-4, 5, size.w_shape).astype(np.float32)
    on_gpu = cupy.asarray(x), cupy.asarray(w)
    gpu = gpu_of(on_gpu[0])
    problem = Problem.of("fprop", size, *on_gpu)
    found = candidates(problem, gpu)
    assert len(found) > 1, "there is nothing to be timed"
    y = conv2d.fprop(*on_gpu, None, size).get()
    assert not timings, "nothing is timed unless asked"
    with use_tuning("on"):
        assert np.array_equal(conv2d.fprop(*on_gpu, None, size).get(), y)
        assert len(timings) == tuner.LEAST_TURNS * len(found)
        assert min(timings) > 0
        conv2d.fprop(*on_gpu, None, size)
    assert len(timings) == tuner.LEAST_TURNS * len(found), "it was timed twice"
    ((key, name),) = tuned(gpu).items()
    assert key.startswith("conv2d_fprop 2x6x7x3x5x3x3x1x1x1x1x1x1x1x1x1 float32 tf32")
    assert choose(problem, gpu).name == name
    with use_algorithm(conv2d_fprop=name):
        assert np.array_equal(conv2d.fprop(*on_gpu, None, size).get(), y)


def test_a_model_is_tuned_by_one_training_step(cupy, timings, monkeypatch):
    def first(runs, gpu):
        return next(iter(runs))  # the emulator takes long

    monkeypatch.setattr(choice, "quickest", first)
    entries = tune("lenet5", 2, "tf32", (1, 28, 28), 10)
    layers = {"2x28x28x1x20x5x5": 2, "2x14x14x20x50x5x5": 3}  # the first without dgrad
    for layer, verbs in layers.items():
        assert sum(f" {layer}x" in key for key in entries) == verbs, entries
    assert all("float32 tf32" in key for key in entries)
    assert tune("lenet5", 2, "tf32", (1, 28, 28), 10) == {}
