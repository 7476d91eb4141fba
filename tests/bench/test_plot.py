import csv

import pytest

WHERE = {"cpu": "a CPU", "threads": 2, "date": "2026-11-21 08:00", "backend": "numba"}
SIDES = {"peer": "torch", "torch": "2.13.0", "dtype": "float32"}


@pytest.fixture
def write(tmp_path):
    """Return ``write(name, rows)``: a CSV file of these rows, where it is."""

    def to_file(name, rows):
        path = tmp_path / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return str(path)

    return to_file


def conv2d_rows():
    verbs = ("fprop", "dgrad", "wgrad")
    return [
        {**WHERE, **SIDES, "benchmark": "conv2d", "network": "lenet5", "name": name}
        | {"verb": verb, "ratio": ratio}
        for name, ratio in (("conv1", 0.5), ("conv2", 8.0))
        for verb in verbs
    ]


def test_ratios_become_a_picture(run, write, tmp_path):
    pytest.importorskip("matplotlib")
    output = tmp_path / "ratios.svg"
    result = run("bench.plot", write("rows.csv", conv2d_rows()), "--output", str(output))
    assert result.returncode == 0, result.stderr
    picture = output.read_text()
    for text in ("lenet5 conv1", "lenet5 conv2", "0.50", "8.00", "wgrad, 2.00", "torch 2.13.0"):
        assert text in picture
    run("bench.plot", write("rows.csv", conv2d_rows()), "--output", str(tmp_path / "again.svg"))
    assert (tmp_path / "again.svg").read_text() == picture


def test_files_without_a_picture_are_an_error(run, write, tmp_path):
    ops = {**WHERE, **SIDES, "benchmark": "memory_bound", "op": "relu", "ratio": 1.0}
    files = (write("a.csv", conv2d_rows()), write("b.csv", [ops]))
    output = ("--output", str(tmp_path / "no.svg"))
    result = run("bench.plot", *files, *output)
    assert result.returncode == 1
    assert "one benchmark at a time" in result.stderr
    result = run("bench.plot", write("c.csv", [ops | {"ratio": ""}]), *output)
    assert result.returncode == 1
    assert "ratios of nothing" in result.stderr
    assert not (tmp_path / "no.svg").exists()


def gpu_rows():
    points = {"fprop": (10.0, 20.0), "dgrad": (300.0, 500.0), "wgrad": (1000.0, 600.0)}
    ceilings = {"ceilings": "known", "ceiling_copy_gigabytes_per_s": 3000, "ceiling_tflops": 800}
    return [
        {**WHERE, **SIDES, **ceilings, "gpu": "a GPU", "benchmark": "conv2d", "verb": verb}
        | {"flops_per_byte": intensity, "tflops": speed, "roofline_share": 0.5}
        for verb, (intensity, speed) in points.items()
    ]


def test_a_roofline_becomes_a_picture(run, write, tmp_path):
    pytest.importorskip("matplotlib")
    output = tmp_path / "roofline.svg"
    result = run("bench.plot", write("g.csv", gpu_rows()), "--roofline", "--output", str(output))
    assert result.returncode == 0, result.stderr
    picture = output.read_text()
    for text in ("50% of the roofline", "a GPU, float32, 2026-11-21", "fprop", "wgrad"):
        assert text in picture


def test_a_roofline_is_of_a_gpu(run, write, tmp_path):
    output = tmp_path / "no.svg"
    words = ("bench.plot", write("c.csv", conv2d_rows()), "--roofline", "--output", str(output))
    result = run(*words)
    assert result.returncode == 1
    assert "roofline_shares of nothing" in result.stderr
