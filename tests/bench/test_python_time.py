import json

import pytest


def test_python_time_prints_json_and_nothing_else(run):
    result = run("bench.python_time", "--backend", "numpy", "--steps", "3", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["batch"], report["backend"]) == (1, "numpy")
    assert report["ops"] == 2 * 11 + 1  # 10 layers and the loss, there and back, and SGD
    assert 0 < report["python_s"] < report["step_s"]
    assert report["python_us_per_op"] == pytest.approx(1e6 * report["python_s"] / report["ops"])
    calls = {row["kernel"]: row["calls"] for row in report["results"]}
    assert calls["conv2d.fprop"] == calls["conv2d.wgrad"] == 2
    assert calls["conv2d.dgrad"] == 1  # not of the images
    assert calls["sgd.step"] == 1
    assert all(row["us_per_call"] > 0 for row in report["results"])


def test_python_time_prints_a_table(run):
    result = run("bench.python_time", "--backend", "numpy", "--steps", "2", "--batch", "2")
    assert result.returncode == 0, result.stderr
    assert "batch 2, numpy, float32" in result.stdout
    assert "us for each of 23 ops" in result.stdout
