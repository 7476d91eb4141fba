"""What the benchmarks of a GPU share, with CuPy's arrays in host memory and on the emulator."""

import csv
import json
import math
from types import SimpleNamespace

import host_cupy
import numpy as np
import pytest

from convolt.kernels.backend import use_backend, why_not


@pytest.fixture(scope="module")
def gpu(load):
    return load("gpu")


@pytest.fixture
def cupy(monkeypatch):
    """CuPy without a GPU; the backend is ``cuda``."""
    pytest.importorskip("cupy")
    if reason := why_not("emulator"):
        pytest.skip(reason)
    with host_cupy.installed(monkeypatch) as module, use_backend("cuda"):
        yield module


# ---- Times ---------------------------------------------------------------------------------------


def test_sides_take_turns_with_l2_overwritten_and_operands_that_change(gpu, cupy, monkeypatch):
    order = []
    monkeypatch.setattr(gpu, "_overwrite_l2", lambda _: order.append("l2"))
    ours = [lambda i=i: order.append(f"ours{i}") for i in range(2)]
    times_s = gpu.medians_s([ours, [lambda: order.append("peer")]], repeats=3)
    warm = ["ours0"] * 2 + ["ours1"] * 2 + ["peer"] * 2
    turns = [name for i in (0, 1, 0) for name in ("l2", f"ours{i}", "l2", "peer")]
    assert order == warm + turns
    assert all(time_s >= 0 for time_s in times_s)


def test_the_time_is_that_between_the_events(gpu, cupy, monkeypatch):
    elapsed_ms = iter([5, 1, 3])
    monkeypatch.setattr(gpu, "_overwrite_l2", lambda _: None)
    monkeypatch.setattr(cupy.cuda, "get_elapsed_time", lambda begin, end: next(elapsed_ms))
    assert gpu.medians_s([[lambda: None]], repeats=3) == [pytest.approx(3e-3)]


def test_more_than_l2_is_written_for_as_long_as_a_launch_takes(gpu, cupy, monkeypatch):
    gpu._other_memory.cache_clear()
    assert gpu._other_memory().nbytes >= 2 * gpu.gpu().l2_bytes
    written = []
    data = SimpleNamespace(memset_async=lambda value, size, stream: written.append(size))
    monkeypatch.setattr(gpu, "_other_memory", lambda: SimpleNamespace(nbytes=100, data=data))
    gpu._overwrite_l2(0)
    assert written == [100]
    gpu._overwrite_l2(10.5 * 100 / gpu.gpu().dram_bytes_s / 1.5)
    assert written == [100] * (1 + 11)


def test_operands_are_random_and_of_the_gpu(gpu, cupy):
    a, b, again = (gpu.operand((40, 50), "bfloat16", seed) for seed in (0, 1, 0))
    assert isinstance(a, cupy.ndarray)
    assert a.dtype.name == "bfloat16"
    a, b, again = (array.get().astype(np.float64) for array in (a, b, again))
    assert np.array_equal(a, again)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1
    assert a.std() == pytest.approx(1, abs=0.1)


def test_as_many_sets_as_memory_allows(gpu, cupy, monkeypatch):
    monkeypatch.setattr(gpu, "free_bytes", lambda: 1000)
    assert [gpu.sets_that_fit(size) for size in (1, 100, 150, 399, 4000)] == [4, 4, 2, 1, 1]


# ---- Comparing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "precision", "unit"),
    [("float32", "ieee", 2.0**-24), ("float32", "tf32", 2.0**-11), ("bfloat16", "ieee", 2.0**-8)],
)
def test_rounding_is_allowed_and_a_product_that_is_missing_is_not(gpu, dtype, precision, unit):
    rng = np.random.default_rng(0)
    length = 64
    a, b = rng.standard_normal((2, 1000, length))
    right = (a * b).sum(-1)
    rounded = right * (1 + unit * rng.uniform(-1, 1, right.shape))
    assert gpu.worst_error(rounded, right, length, dtype, precision) < 1
    missing = right - a[:, 0] * b[:, 0]
    assert gpu.worst_error(missing, right, length, dtype, precision) > 1
    assert math.isnan(gpu.worst_error(right * np.nan, right, length, dtype, precision))


def test_of_large_results_blocks_are_compared_from_end_to_end(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "BLOCK", 4)
    monkeypatch.setattr(gpu, "BLOCKS", 3)
    assert gpu.sampled(np.arange(12).reshape(3, 4)).tolist() == list(range(12))
    assert gpu.sampled(np.arange(20)).tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]


# ---- Commands, with the emulator in the place of a GPU -------------------------------------------


@pytest.fixture
def emulator():
    if reason := why_not("emulator"):
        pytest.skip(reason)


TINY = ("--backend", "emulator", "--network", "lenet5", "--batch", "1", "--repeats", "1")
ON_GPU = {"time_us", "tflops", "gigabytes_per_s", "floor_us", "roofline_share", "predicted_us"}
ON_GPU |= {"predicted_share", "algorithm", "splits", "peer_us", "ratio", "limited_by"}


@pytest.mark.parametrize(
    ("options", "precision"),
    [((), "ieee"), (("--precision", "tf32"), "tf32"), (("--dtype", "bfloat16"), "ieee")],
    ids=["float32", "tf32", "bfloat16"],
)
def test_a_row_of_conv2d_has_floors_and_a_prediction(run, emulator, options, precision):
    result = run("bench.conv2d", *TINY, "--layer", "conv2", "--json", *options)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [row["verb"] for row in report["results"]] == ["fprop", "dgrad", "wgrad"]
    for row in report["results"]:
        assert row.keys() >= ON_GPU
        assert row["precision"] == precision
        flops = 2 * 14 * 14 * 20 * 50 * 25
        itemsize = 2 if "bfloat16" in options else 4
        moved = itemsize * (14 * 14 * (20 + 50) + 50 * 20 * 25)
        speed = 54.5 if not options else 400 if precision == "tf32" else 800  # TFLOP/s of the h100
        floors_us = {"compute": flops / speed / 1e6, "memory": moved / 3.0e6}
        assert row["floor_us"] == pytest.approx(max(floors_us.values()), rel=0.01)
        assert row["limited_by"] == max(floors_us, key=floors_us.get)
        assert row["roofline_share"] == pytest.approx(row["floor_us"] / row["time_us"])
        assert row["predicted_share"] == pytest.approx(row["predicted_us"] / row["time_us"])
        assert row["tflops"] == pytest.approx(flops / row["time_us"] / 1e6)
        assert row["gigabytes_per_s"] == pytest.approx(moved / row["time_us"] / 1e3)
        assert 0 <= row["worst_error"] <= 1


def test_conv2d_prints_a_line_a_shape_and_writes_rows(run, emulator, tmp_path):
    path = tmp_path / "rows.csv"
    options = ("--verb", "fprop", "--ceilings", "measured", "--output", str(path))
    result = run("bench.conv2d", *TINY, *options)
    assert result.returncode == 0, result.stderr
    assert "simt_" in result.stdout
    assert "ceilings (measured, h100)" in result.stdout
    assert "say nothing" in result.stdout
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["name"] for row in rows] == ["conv1", "conv2"]
    assert rows[0].keys() >= ON_GPU
    assert rows[0]["ratio"] == ""  # no peer


def test_images_have_no_gradient_on_a_gpu(run, emulator):
    result = run("bench.conv2d", *TINY, "--layer", "conv1", "--json")
    assert [row["verb"] for row in json.loads(result.stdout)["results"]] == ["fprop", "wgrad"]


def test_results_that_differ_end_the_run(run, emulator, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "from convolt.kernels.conv2d import mma\n"
        "right = mma.fprop\n"
        "def wrong(algorithm, x, w, bias, y, size, **options):\n"
        "    right(algorithm, x, w, bias, y, size, **options)\n"
        "    y[0, 0, 0, 0] += 1\n"
        "mma.fprop = wrong\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CONVOLT_ALGORITHM", "conv2d_fprop=mma")
    words = ("--verb", "fprop", "--layer", "conv2", "--dtype", "bfloat16")
    result = run("bench.conv2d", *TINY, *words)
    assert result.returncode == 1
    assert "lenet5 conv2 fprop: the outputs differ" in result.stderr
    assert not result.stdout


def test_what_is_right_is_timed_beside_what_is_not(run, emulator, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "from convolt.kernels.conv2d import mma\n"
        "def wrong(algorithm, x, w, bias, y, size, **options):\n"
        "    y[...] = 0\n"
        "mma.fprop = wrong\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CONVOLT_ALGORITHM", "conv2d_fprop=mma")
    words = ("--layer", "conv2", "--dtype", "bfloat16", "--json")
    result = run("bench.conv2d", *TINY, *words)
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert [row["verb"] for row in report["results"]] == ["dgrad", "wgrad"]
    assert len(report["faults"]) == 1
    assert report["faults"][0] in result.stderr


def test_bfloat16_and_tf32_are_for_a_gpu(run):
    for options in (("--dtype", "bfloat16"), ("--precision", "tf32")):
        words = ("--backend", "numpy", "--network", "lenet5", *options)
        result = run("bench.conv2d", *words)
        assert result.returncode == 1
        assert "are a GPU's" in result.stderr


def test_a_training_step_in_bfloat16_is_close_to_the_peers(run, emulator):
    pytest.importorskip("torch")
    options = ("--batch", "2", "--image", "28", "--steps", "1", "--dtype", "bfloat16", "--json")
    words = ("--backend", "emulator", "--model", "lenet5", "--peer", "torch")
    result = run("bench.training_step", *words, *options)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["precision"] == "bf16"
    assert report["largest_loss_difference"] < 0.02
    assert report["compiled_ratio"] is None


def test_training_steps_refuse_options_that_do_not_go_together(run):
    words = ("bench.training_step", "--backend", "numpy")
    assert "are a GPU's" in run(*words, "--precision", "tf32").stderr
    assert "--peer torch" in run(*words, "--compile").stderr


# ---- Families of kernels -------------------------------------------------------------------------


ONE_CASE = ("bench.families", "--backend", "emulator", "--family", "mma", "--case", "odd_channels")


def test_each_algorithm_of_a_family_is_checked(run, emulator):
    result = run(*ONE_CASE, "--repeats", "2", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["results"]
    assert {row["verb"] for row in rows} == {"fprop", "dgrad", "wgrad"}
    assert {(row["dtype"], row["precision"]) for row in rows} == {
        ("bfloat16", "ieee"),
        ("float32", "tf32"),
    }
    assert all(row["algorithm"].startswith("mma_") for row in rows)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("y[0, 0, 0, 0] += 1", "elements differ, the first at (0, 0, 0, 0)"),
        ("y[0, 0, 0, 0] = numpy.nan", "elements differ, the first at (0, 0, 0, 0)"),
        ("y[0, 0, 0, 0] += calls == 2", "result 1 of 3 has other bytes than the first"),
    ],
    ids=["wrong", "not_written", "changes"],
)
def test_a_family_with_a_fault_is_found(run, emulator, tmp_path, monkeypatch, fault, said):
    (tmp_path / "sitecustomize.py").write_text(
        "import numpy\n"
        "from convolt.kernels.conv2d import mma\n"
        "right, calls = mma.fprop, -1\n"
        "def wrong(algorithm, x, w, bias, y, size):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    right(algorithm, x, w, bias, y, size)\n"
        f"    {fault}\n"
        "mma.fprop = wrong\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = run(*ONE_CASE, "--repeats", "3")
    assert result.returncode == 1
    assert "odd_channels fprop" in result.stderr
    assert said in result.stderr


def test_families_are_kernels(run):
    result = run("bench.families", "--backend", "numpy")
    assert result.returncode == 1
    assert "cuda or emulator" in result.stderr
