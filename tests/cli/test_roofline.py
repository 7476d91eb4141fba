"""convolt roofline and convolt tune-kernels: what they print, and how they exit."""

import json
import math
import subprocess
import sys

import pytest

from convolt.cli import main
from convolt.cli.roofline import DTYPES
from convolt.kernels.conv2d import choice
from convolt.kernels.conv2d.choice import use_algorithm
from convolt.kernels.cuda import tuner
from convolt.kernels.cuda.cost import PARTS
from convolt.kernels.cuda.gpu import GPUS

LAYER = ["conv2d", 256, 64, 56, 56, 256, 1, 1]


@pytest.fixture(autouse=True)
def _no_wishes(monkeypatch, tmp_path):
    monkeypatch.setattr(tuner, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(choice, "_asked", {})
    monkeypatch.setattr(tuner, "_mode", "cached")


@pytest.fixture
def convolt_(capsys):
    """Run the command in this process: (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return exit_.value.code or 0, out, err

    return run


def test_one_convolution_as_json(convolt_):
    code, out, err = convolt_("roofline", *LAYER, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert list(report)[-1] == "geomean_of_bound"
    assert (report["gpu"], report["dtype"]) == ("h100", "bf16")
    assert [row["verb"] for row in report["rows"]] == ["fprop", "dgrad", "wgrad"]
    for row in report["rows"]:
        assert row["bound_s"] == max(row["compute_floor_s"], row["memory_floor_s"])
        times_s = [candidate["time_s"] for candidate in row["candidates"]]
        assert times_s == sorted(times_s)
        assert row["algorithm"] == row["candidates"][0]["algorithm"]
        for candidate in row["candidates"]:
            assert candidate["share"] == pytest.approx(row["bound_s"] / candidate["time_s"])
            assert tuple(candidate["parts_s"]) == PARTS
            assert max(candidate["parts_s"], key=candidate["parts_s"].get) == candidate["bound_by"]
    # 256 x 56 x 56 x (64 + 256) elements and the filters, of 2 bytes, at 3.0 TB/s
    assert report["rows"][0]["memory_floor_s"] == pytest.approx(171e-6, rel=0.01)
    assert report["rows"][0]["compute_floor_s"] == pytest.approx(26.3e9 / 800e12, rel=0.01)


def test_a_network_as_json(convolt_):
    arguments = ["--network", "resnet50", "--batch", 256, "--dtype", "bf16", "--gpu", "h100"]
    code, out, _ = convolt_("roofline", *arguments, "--json")
    assert code == 0
    assert out.splitlines()[-2].startswith('  "geomean_of_bound": 0.')
    report = json.loads(out)
    rows = report["rows"]
    assert len(rows) == 23 * 3 - 1, "the gradient with respect to images is nobody's"
    assert sum(row["count"] for row in rows if row["verb"] == "fprop") == 53
    shares = [row["share"] for row in rows]
    expected = math.exp(sum(map(math.log, shares)) / len(shares))
    assert report["geomean_of_bound"] == pytest.approx(expected)
    assert 0 < report["geomean_of_bound"] < 1
    assert [row["share"] for row in report["worst"]] == sorted(shares)[:5]
    assert report["time_s"] == pytest.approx(sum(r["count"] * r["time_s"] for r in rows))
    assert "candidates" not in rows[0]
    explained = json.loads(convolt_("roofline", *arguments, "--json", "--explain")[1])
    assert all(row["candidates"] and row["why"] for row in explained["rows"])


def test_as_text_and_why(convolt_):
    code, out, _ = convolt_("roofline", *LAYER)
    assert code == 0
    assert "fprop: at least compute 32.9 us, memory 171.3 us" in out
    assert "by the model of cost" in out
    assert out.splitlines()[-1].startswith("geomean_of_bound 0.")
    with use_algorithm(conv2d_fprop="simt"):
        assert "simt_64x64: the user asks for it" in convolt_("roofline", *LAYER)[1]
    code, out, _ = convolt_("roofline", "--network", "lenet5", "--dtype", "float32", "--gpu", "t4")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        *("layer", "conv1", "conv1", "conv2", "conv2", "conv2", "all"),
        *(["worst:"] * 5),
        "geomean_of_bound",
    ]
    assert "worst: conv1 fprop (simt_" in out
    _, out, _ = convolt_("roofline", "--network", "lenet5", "--dtype", "float32", "--explain")
    assert "conv1 fprop: at least compute" in out


@pytest.mark.parametrize("gpu", GPUS)
def test_every_gpu_and_dtype_has_a_report(gpu, convolt_):
    assert gpu in "".join(convolt_("roofline", "--help")[1].split())
    for dtype in DTYPES:
        options = ["--network", "alexnet", "--dtype", dtype, "--gpu", gpu, "--json"]
        code, out, _ = convolt_("roofline", *options)
        assert code == 0
        assert 0 < json.loads(out)["geomean_of_bound"] < 1


def test_windows_reach_the_sizes(convolt_):
    options = ["--stride", "2,1", "--padding", "1", "--dilation", "1,2", "--groups", "2"]
    _, out, _ = convolt_("roofline", "conv2d", 2, 8, 9, 9, 4, 3, 3, *options, "--json")
    assert json.loads(out)["conv2d"] == {
        **dict(zip("NCHWKRS", (2, 8, 9, 9, 4, 3, 3), strict=True)),
        "stride": [2, 1],
        "padding": [1, 1],
        "dilation": [1, 2],
        "groups": 2,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one convolution"),
        ([*LAYER, "--network", "resnet50"], "name one convolution"),
        (["conv2d", 1, 2, 3], "seven numbers"),
        (["conv3d", *LAYER[1:]], "seven numbers"),
        ([*LAYER, "--gpu", "h300"], "unknown GPU 'h300'; known are h100, h200"),
        ([*LAYER, "--dtype", "fp8"], "choose among bf16, tf32, float32, float64"),
        ([*LAYER, "--stride", "x"], "--stride must be a number or vertical,horizontal"),
        ([*LAYER, "--stride", "0"], "stride"),
        ([*LAYER, "--groups", "5"], "--groups 5: 64 channels are not divisible by it"),
        (["--network", "resnet5"], "the networks are lenet5, cifar"),
        (["--network", "resnet50", "--batch", "0"], "batch must be >= 1"),
        (["--network", "resnet50", "--stride", "2"], "--groups are of one convolution"),
        (["--network", "resnet50", "--groups", "2"], "--groups are of one convolution"),
        (["conv2d", "a"], "Invalid value for 'N C H W K R S'"),
    ],
)
def test_what_is_asked_wrongly_exits_with_2(arguments, message, convolt_):
    code, out, err = convolt_("roofline", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_roofline_says_when_an_algorithm_does_not_compute_this(convolt_):
    with use_algorithm(conv2d_fprop="simt_7x7"):
        code, _, err = convolt_("roofline", *LAYER)
    assert code == 2
    assert "simt_7x7 does not compute" in err


def test_explained_choices_go_to_standard_error():
    code = (
        "from convolt.cli.backend import explain_choices; explain_choices();"
        "from convolt.kernels.conv2d import Conv2dSize;"
        "from convolt.kernels.conv2d.choice import *;"
        "from convolt.kernels.cuda.gpu import GPUS;"
        "size = Conv2dSize.of((2, 5, 5, 8), (8, 3, 3, 8));"
        "choose(Problem('fprop', size, 'float64'), GPUS['t4'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == ""
    assert "float64 ieee aligned: simt_64x16: the cheapest of 1 by the model" in found.stderr


@pytest.mark.parametrize("backend", ["emulator", "numpy"])
def test_tune_kernels_needs_a_gpu(backend, convolt_):
    code, out, err = convolt_("tune-kernels", "lenet5", "--backend", backend)
    assert (code, out) == (2, "")
    assert f"times of backend {backend} say nothing" in err


def test_tune_kernels_checks_what_is_asked(convolt_):
    assert convolt_("tune-kernels", "lenet5", "--batch", "0")[0] == 2
    assert convolt_("tune-kernels", "lenet5", "--dtype", "fp8")[0] == 2
