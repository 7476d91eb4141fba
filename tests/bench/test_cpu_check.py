import json
import subprocess
import sys

import pytest


@pytest.fixture
def python(repository):
    """Return ``python(script, *words)``: run it where ``bench`` can be imported."""

    def run(script, *words):
        command = [sys.executable, "-c", script, *map(str, words)]
        return subprocess.run(
            command, cwd=repository, capture_output=True, text=True, timeout=300, check=False
        )

    return run


SEE = """
import json
from bench import cpu_check as check
shapes = [("fprop", 2.0), ("dgrad", 0.5), ("wgrad", 1.0)]
conv = [
    {"network": "net", "name": "conv", "verb": verb, "ratio": str(ratio), "share_of_peak": "0.5"}
    for verb, ratio in shapes
]
bytes = {"peak_memory_bytes": "100", "peer_peak_memory_bytes": "80"}
step = [{"model": "a", "ratio": "1.2", **bytes}]
step.append({"model": "b", "ratio": "", "peak_memory_bytes": "1"})
ops = [{"op": "relu", "ratio": "3", "share_of_copy": "0.9"}]
ops.append({"op": "add", "ratio": "0.9", "share_of_copy": "0.7"})
found = {"conv2d": check.see_conv2d(conv), "training_step": check.see_training_step(step)}
found["python_time"] = check.see_python_time([{"python_us_per_op": "16.04"}])
start = {"import_s": "0.1", "first_step_s": "1", "process_s": "30", "compiled": "7"}
found["start_up"] = check.see_start_up([{"start": "cold", **start}, {"start": "warm", **start}])
print(json.dumps(found | {"memory_bound": check.see_memory_bound(ops)}))
"""


def test_goals_that_are_missed_are_named(python):
    result = python(SEE)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    summary, missed = found["conv2d"]
    assert summary["geomean_ratio"] == pytest.approx(1)
    assert summary["lowest"][0] == {
        "network": "net",
        "name": "conv",
        "verb": "dgrad",
        "share_of_peak": 0.5,
        "ratio": 0.5,
    }
    assert missed == [
        "geomean_ratio 1.00 < 1.05",
        "dgrad 0.50 < 1",
        "net conv dgrad 0.50 < 0.8",
    ]
    summary, missed = found["training_step"]
    assert [row["ratio"] for row in summary["steps"]] == [1.2, None]
    assert missed == ["peak memory of a 0.80 < 1"]
    assert found["python_time"][1] == ["python_us_per_op 16.0 > 15"]
    missed = ["cold process_s 30.0 > 20", "a warm start compiled 7 functions"]
    assert found["start_up"][1] == missed
    assert found["start_up"][0]["warm process_s"] == 30
    assert found["memory_bound"][1] == ["add 0.90 < 1", "share_of_copy of add 0.70 < 0.8"]


MAIN = """
import sys
from bench import cpu_check as check
check.CPU_BATCH = {"lenet5": 1}
check.find_spec = lambda name: None  # no peer, no pictures
raise SystemExit(check.main())
"""


def test_files_are_written_by_the_commands(python, tmp_path):
    words = ("--output", tmp_path, "--name", "mine", "--phase", "conv2d")
    result = python(MAIN, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "conv2d       passed" in result.stdout
    report = json.loads((tmp_path / "cpu_check.json").read_text())
    assert report["finished"]
    assert report["phases"]["conv2d"]["summary"]["missed goals"] == 0
    assert len((tmp_path / "mine-conv2d-lenet5.csv").read_text().splitlines()) == 1 + 6
