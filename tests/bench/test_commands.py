import csv
import json
import math
import os
from importlib.util import find_spec

import pytest

ROW = {
    *(
        "network",
        "name",
        "n",
        "c",
        "h",
        "w",
        "k",
        "r",
        "s",
        "stride",
        "padding",
        "dilation",
        "groups",
    ),
    *("count", "verb", "ours_s", "peer_s", "ratio", "gflops"),
    *("compute_floor_s", "memory_floor_s", "share_of_peak"),
}
WHERE = {"date", "commit", "cpu", "threads", "python", "convolt", "numpy", "numba", "torch"}
SMALL = ("--network", "lenet5", "--batch", "1", "--repeats", "1")


def test_conv2d_prints_json_and_nothing_else(run):
    result = run("bench.conv2d", "--backend", "numpy", "--peer", "numpy", *SMALL, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["machine"].keys() >= WHERE
    rows = report["results"]
    assert [(row["name"], row["verb"]) for row in rows] == [
        (name, verb) for name in ("conv1", "conv2") for verb in ("fprop", "dgrad", "wgrad")
    ]
    for row in rows:
        assert set(row) == ROW
        assert row["ratio"] == pytest.approx(row["peer_s"] / row["ours_s"])
        flops = 2 * row["k"] * row["h"] * row["w"] * row["c"] * row["r"] * row["s"]
        assert row["gflops"] == pytest.approx(flops / row["ours_s"] / 1e9)
        assert row["share_of_peak"] == pytest.approx(row["compute_floor_s"] / row["ours_s"])
        moved = row["memory_floor_s"] * report["copy_gigabytes_per_s"] * 1e9
        image = row["h"] * row["w"]
        weights = row["k"] * row["c"] * row["r"] * row["s"]
        assert moved == pytest.approx(4 * (image * (row["c"] + row["k"]) + weights))
    taps = 5 * 28 - 2 * (1 + 2)  # of 28 windows of 5, those on the image
    flops = rows[0]["compute_floor_s"] * report["fma_gflops"] * 1e9
    assert flops == pytest.approx(2 * 20 * taps * taps)
    product = 1.0
    for row in rows:
        product *= row["ratio"]
    assert report["geomean_ratio"] == pytest.approx(product ** (1 / 6))
    assert set(report["geomean_ratio_by_verb"]) == {"fprop", "dgrad", "wgrad"}
    assert report["geomean_ratio_by_network"] == {"lenet5": report["geomean_ratio"]}
    ratios = sorted(row["ratio"] for row in rows)
    assert [row["ratio"] for row in report["worst"]] == ratios[:5]


def test_conv2d_takes_several_networks_each_once(run):
    options = ("--backend", "numpy", "--batch", "1", "--repeats", "1", "--verb", "fprop", "--json")
    layers = ("--layer", "conv1", "--layer", "quick_conv1")
    result = run(
        "bench.conv2d", "--network", "lenet5,cifar", "--network", "lenet5", *options, *layers
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["network"] == "lenet5,cifar"
    rows = report["results"]
    found = [(row["network"], row["name"]) for row in rows]
    assert found == [("lenet5", "conv1"), ("cifar", "quick_conv1")]
    assert report["worst"] == []  # no peer


def test_all_cpu_is_four_networks(run):
    result = run("bench.conv2d", "--network", "all-cpu,alexnet", "--layer", "no")
    assert result.returncode == 1
    assert "--layer no: resnet50, vgg16, cifar, lenet5, alexnet has" in result.stderr


def test_conv2d_prints_a_table_and_writes_rows(run, tmp_path):
    path = tmp_path / "rows.csv"
    options = ("--backend", "numpy", "--verb", "wgrad", "--output", str(path))
    result = run("bench.conv2d", *SMALL, *options)
    assert result.returncode == 0, result.stderr
    assert "wgrad" in result.stdout
    assert "GFLOP/s" in result.stdout
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["name"] for row in rows] == ["conv1", "conv2"]
    assert set(rows[0]) >= ROW | WHERE
    assert rows[0]["ratio"] == ""  # no peer


def test_conv2d_rejects_what_it_cannot_do(run, monkeypatch):
    assert "invalid choice: 'lenet6'" in run("bench.conv2d", "--network", "lenet6").stderr
    assert "must be >= 1" in run("bench.conv2d", "--network", "lenet5", "--batch", "0").stderr
    result = run("bench.conv2d", *SMALL, "--layer", "conv3")
    assert result.returncode == 1
    assert "--layer conv3: lenet5 has conv1, conv2" in result.stderr
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = run("bench.conv2d", *SMALL, "--backend", "cuda")
    assert result.returncode == 1
    assert "'cuda' cannot be used" in result.stderr
    result = run("bench.conv2d", *SMALL, "--output", "table.txt")
    assert result.returncode == 1
    assert ".json or .csv" in result.stderr


def test_conv2d_outputs_that_differ_end_the_run(run, tmp_path, monkeypatch):
    # sitecustomize is imported when Python starts: here it spoils the result of one backend.
    (tmp_path / "sitecustomize.py").write_text(
        "from convolt.kernels.conv2d import on_numba\n"
        "right = on_numba.fprop\n"
        "def wrong(x, w, bias, y, size, **options):\n"
        "    right(x, w, bias, y, size, **options)\n"
        "    y[0, 0, 0, 0] += 1\n"
        "on_numba.fprop = wrong\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    result = run("bench.conv2d", "--backend", "numba", *SMALL, "--verb", "fprop", "--json")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "lenet5 conv1 fprop: the outputs differ" in result.stderr


def test_training_step_prints_json_and_nothing_else(run):
    options = ("--backend", "numpy", "--batch", "2", "--steps", "1", "--json")
    result = run("bench.training_step", "--model", "lenet5", *options)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["machine"].keys() >= WHERE
    assert report["ratio"] is None
    assert report["images_per_s"] == pytest.approx(2 / report["ours_s"])
    weights_bytes = 4 * 1_256_080
    assert report["peak_memory_bytes"] >= report["base_memory_bytes"] > weights_bytes


def test_training_step_takes_all_models(run, tmp_path):
    path = tmp_path / "rows.csv"
    options = ("--backend", "numpy", "--batch", "2", "--steps", "1", "--output", str(path))
    result = run("bench.training_step", "--model", "all", *options)
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["model"] for row in rows] == ["lenet5", "resnet20", "vgg11_cifar"]
    assert all(float(row["images_per_s"]) > 0 for row in rows)
    assert all(row["model"] in result.stdout for row in rows)


def test_memory_bound_reports_every_op_beside_a_copy(run):
    options = ("--shape", "2x3x5x6", "--repeats", "1", "--backend", "numpy")
    result = run("bench.memory_bound", *options, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["machine"].keys() >= WHERE
    rows = {row["op"]: row for row in report["results"]}
    assert rows["relu"]["bytes"] == 2 * 4 * 2 * 3 * 5 * 6
    assert rows["max_pool2d_2x2"]["bytes"] == 4 * (180 + 36) + 36
    assert rows["cast"]["bytes"] == 180 * (4 + 8)
    for row in rows.values():
        speed = row["bytes"] / row["ours_s"] / 1e9
        assert row["gigabytes_per_s"] == pytest.approx(speed)
        assert row["share_of_copy"] == pytest.approx(speed / row["copy_gigabytes_per_s"])


def test_memory_bound_takes_some_ops(run):
    options = ("--backend", "numpy", "--repeats", "1", "--shape", "1x2x3x4", "--dtype", "float64")
    result = run("bench.memory_bound", *options, "--op", "add", "--op", "sgd")
    assert result.returncode == 0, result.stderr
    assert "add" in result.stdout
    assert "relu" not in result.stdout
    assert "must be NxCxHxW" in run("bench.memory_bound", "--shape", "3x4").stderr


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed")
@pytest.mark.parametrize(
    "command",
    [("bench.conv2d", "--network", "lenet5"), ("bench.training_step",), ("bench.memory_bound",)],
)
def test_the_torch_peer_asks_for_torch(run, command):
    result = run(*command, "--peer", "torch")
    assert result.returncode == 1
    assert "pip install torch" in result.stderr


def test_scaling_tells_how_time_and_the_roofline_grow(run):
    options = ("--backend", "numpy", "--vary", "batch", "--points", "2", "--repeats", "1", "--json")
    result = run("bench.scaling", *options)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    rows = report["results"]
    assert [(row["of"], row["batch"]) for row in rows] == [
        *((verb, images) for images in (1, 2) for verb in ("fprop", "dgrad", "wgrad")),
        *(("training_step", images) for images in (1, 2)),
    ]
    for row in rows:
        assert row["share_of_roofline"] == pytest.approx(row["floor_s"] / row["ours_s"])
        expected = None if row["batch"] == 1 else pytest.approx(1, abs=0.2)  # weights move once
        assert row["floor_exponent"] == expected
    ours = {row["batch"]: row["ours_s"] for row in rows if row["of"] == "fprop"}
    assert rows[3]["exponent"] == pytest.approx(math.log2(ours[2] / ours[1]))
