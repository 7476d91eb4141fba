import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")


def test_conv2d_agrees_with_torch_on_every_kind_of_problem(run):
    for network in ("lenet5", "alexnet"):  # alexnet: stride, groups, no padding
        options = ("--batch", "1", "--repeats", "1", "--peer", "torch", "--backend", "numba")
        result = run("bench.conv2d", "--network", network, *options, "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["geomean_ratio"] > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_step_agrees_with_torch(run, dtype):
    options = ("--batch", "4", "--steps", "1", "--peer", "torch", "--dtype", dtype, "--json")
    result = run("bench.training_step", "--model", "all", "--backend", "numpy", *options)
    assert result.returncode == 0, result.stderr
    for report in json.loads(result.stdout)["results"]:
        assert report["ratio"] == pytest.approx(report["peer_s"] / report["ours_s"])
        assert report["peer_peak_memory_bytes"] >= report["peer_base_memory_bytes"] > 0


COMPARE = """
import sys
from bench.measure import require_torch
from bench.memory_bound import OPS, Operands, compare
from convolt import use_backend
backend, dtype = sys.argv[1:]
use_backend(backend)
torch = require_torch()
on = Operands((3, 5, 9, 8), dtype)
for name, prepare in OPS.items():
    case = prepare(on)
    compare(name, case, case.ours(), case.theirs(torch)())
"""


@pytest.mark.parametrize(
    ("backend", "dtype"), [("numpy", "float64"), ("numba", "float32"), ("emulator", "float32")]
)
def test_memory_bound_ops_agree_with_torch(repository, backend, dtype):
    command = (sys.executable, "-c", COMPARE, backend, dtype)
    result = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr


def test_memory_bound_tells_the_ratio_to_torch(run):
    options = ("--shape", "3x5x9x8", "--repeats", "1", "--peer", "torch", "--op", "add", "--json")
    result = run("bench.memory_bound", "--backend", "numpy", *options)
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout)["results"][0]
    assert row["ratio"] == pytest.approx(row["peer_s"] / row["ours_s"])


def test_memory_bound_outputs_that_differ_end_the_run(run, tmp_path, monkeypatch):
    # sitecustomize is imported when Python starts: here it spoils the result of one op.
    (tmp_path / "sitecustomize.py").write_text(
        "from convolt.kernels.activation import on_numpy\n"
        "right = on_numpy.tanh\n"
        "def wrong(x, y):\n"
        "    right(x, y)\n"
        "    y += 1e-4\n"
        "on_numpy.tanh = wrong\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    options = ("--shape", "3x5x9x8", "--repeats", "1", "--peer", "torch", "--op", "tanh")
    result = run("bench.memory_bound", "--backend", "numpy", *options)
    assert result.returncode == 1
    assert "tanh: the outputs differ" in result.stderr
