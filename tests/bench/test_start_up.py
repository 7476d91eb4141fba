"""``python -m bench.start_up``: a cold and a warm start, each a process of its own."""

import json

import pytest


@pytest.mark.parametrize("backend", ["numpy", pytest.param("numba", marks=pytest.mark.slow)])
def test_a_cold_and_a_warm_start(run, backend, tmp_path):
    output = tmp_path / "start_up.csv"
    options = ("--batch", "2", "--repeats", "1", "--json", "--output", str(output))
    result = run("bench.start_up", "--backend", backend, *options)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["benchmark"], report["model"], report["batch"]) == ("start_up", "lenet5", 2)
    cold, warm = report["results"]
    assert (cold["start"], warm["start"]) == ("cold", "warm")
    for row in (cold, warm):
        assert 0 < row["step_s"] < row["process_s"]
        assert row["import_s"] + row["first_step_s"] < row["process_s"]
    if backend == "numba":
        assert cold["compiled"] > 10
        assert 0 < cold["compile_s"] < cold["first_step_s"]
        assert (warm["compiled"], warm["compile_s"]) == (0, 0)
    else:
        assert (cold["compiled"], cold["compile_s"]) == (None, None)
    assert len(output.read_text().splitlines()) == 3


def test_a_table(run):
    result = run("bench.start_up", "--backend", "numpy", "--batch", "1", "--repeats", "1")
    assert result.returncode == 0, result.stderr
    header, cold, warm, _ = result.stdout.splitlines()
    assert header.split()[:3] == ["start", "process_s", "import_s"]
    assert (cold.split()[0], warm.split()[0]) == ("cold", "warm")


def test_a_model_that_there_is_not(run):
    assert "invalid choice: 'lenet6'" in run("bench.start_up", "--model", "lenet6").stderr
