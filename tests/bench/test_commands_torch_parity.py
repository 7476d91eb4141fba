import json

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


@pytest.mark.parametrize(("backend", "dtype"), [("numpy", "float64"), ("numba", "float32")])
def test_memory_bound_ops_agree_with_torch(run, backend, dtype):
    options = ("--shape", "3x5x9x8", "--repeats", "1", "--peer", "torch", "--dtype", dtype)
    result = run("bench.memory_bound", "--backend", backend, *options, "--json")
    assert result.returncode == 0, result.stderr
    assert all(row["ratio"] > 0 for row in json.loads(result.stdout)["results"])
