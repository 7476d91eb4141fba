"""Which algorithm computes a convolution on CUDA: by cost, by the table, by the user."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from convolt.kernels import conv2d
from convolt.kernels.backend import use_backend
from convolt.kernels.conv2d import Conv2dSize, choice, cost
from convolt.kernels.conv2d.algorithm import VERBS, Algorithm, Problem
from convolt.kernels.conv2d.choice import FAMILIES, candidates, choose, use_algorithm
from convolt.kernels.conv2d.cost import predict
from convolt.kernels.cuda import tuner
from convolt.kernels.cuda.gpu import GPUS, like
from convolt.kernels.cuda.tuner import TunedTable, quickest, use_tuning

H100 = GPUS["h100"]
INSTALLED = replace(H100, driver=13000)
SIZES = {
    "3x3": Conv2dSize.of((8, 14, 14, 64), (64, 3, 3, 64), padding=1),
    "1x1 stride 2": Conv2dSize.of((2, 28, 28, 64), (128, 1, 1, 64), stride=2),
    "first layer": Conv2dSize.of((4, 32, 32, 3), (16, 7, 7, 3), stride=2, padding=3),
    "odd": Conv2dSize.of((3, 9, 7, 5), (7, 3, 3, 5)),
    "groups": Conv2dSize.of((2, 9, 9, 24), (36, 3, 3, 6), groups=4),
    "depthwise": Conv2dSize.of((2, 9, 9, 24), (24, 3, 3, 1), groups=24),
    "empty": Conv2dSize.of((0, 9, 9, 8), (8, 3, 3, 8)),
}
PROBLEMS = [
    Problem(verb, size, dtype, precision, aligned)
    for size in SIZES.values()
    for verb in VERBS
    for dtype, precision in [
        ("float32", "ieee"),
        ("float32", "tf32"),
        ("float64", "ieee"),
        ("bfloat16", "ieee"),
    ]
    for aligned in (True, False)
]
PROBLEM = Problem("fprop", Conv2dSize.of((64, 56, 56, 64), (64, 1, 1, 64)), "bfloat16")
WORDS = "use_algorithm", "CONVOLT_ALGORITHM"


class TwoTiles:
    """A family of two algorithms; for this problem the larger tile is the cheaper one."""

    LARGE, SMALL = Algorithm("two", 64, 64, 16), Algorithm("two", 16, 16, 16)

    def __init__(self):
        self.ran = []

    def runs_on(self, gpu):
        return True

    def algorithms(self, problem):
        return (self.SMALL, self.LARGE)

    def fprop(self, algorithm, x, w, bias, y, size):
        self.ran.append(algorithm)
        assert (x.shape, w.shape, y.shape) == (size.x_shape, size.w_shape, size.y_shape)


@pytest.fixture
def two(monkeypatch):
    """Make this the only family."""
    family = TwoTiles()
    monkeypatch.setitem(cost.STEPS, "two", cost.STEPS["simt"])
    monkeypatch.setattr(choice, "FAMILIES", {"two": family})
    return family


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch, tmp_path):
    def forget():
        for cached in (candidates, choice._choice, choice._table):
            cached.cache_clear()

    monkeypatch.setattr(tuner, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(choice, "_asked", {})
    monkeypatch.setattr(tuner, "_mode", "cached")
    forget()
    yield
    forget()


# ---- By cost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_the_choice_is_the_cheapest_that_a_family_offers(gpu):
    for problem in PROBLEMS:
        found = candidates(problem, gpu)
        offered = [
            algorithm
            for module in set(FAMILIES.values())
            if module.runs_on(gpu)
            for algorithm in module.algorithms(problem)
        ]
        assert set(found) == set(offered)
        assert choose(problem, gpu) == min(found, key=lambda a: predict(problem, a, gpu).time_s)


def test_algorithms_of_a_problem_have_names_of_their_own():
    for problem in PROBLEMS:
        names = [a.name for a in candidates(problem, H100)]
        assert len(names) == len(set(names))
        assert {a.family for a in candidates(problem, H100)} <= FAMILIES.keys()


def test_the_same_problem_has_the_same_algorithm_in_every_process():
    code = (
        "from convolt.kernels.conv2d import Conv2dSize;"
        "from convolt.kernels.conv2d.choice import *;"
        "from convolt.kernels.cuda.gpu import GPUS;"
        "size = Conv2dSize.of((64, 56, 56, 64), (64, 1, 1, 64));"
        "print([choose(Problem(v, size, 'bfloat16'), GPUS['h100']) for v in VERBS])"
    )
    here = str([choose(replace(PROBLEM, verb=verb), H100) for verb in VERBS])
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        found = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == here


def test_each_choice_is_explained_once_to_who_listens(two, caplog):
    choose(PROBLEM, H100)
    assert not caplog.records, "nobody asked"
    with caplog.at_level("INFO", "convolt.choice"):
        for _ in range(2):
            choose(replace(PROBLEM, verb="dgrad"), H100)
    (record,) = caplog.records
    large, small = (
        predict(replace(PROBLEM, verb="dgrad"), a, H100).time_s * 1e6
        for a in (two.LARGE, two.SMALL)
    )
    assert record.getMessage().endswith(
        "bfloat16 ieee aligned: two_64x64: the cheapest of 2 by the model of cost; "
        f"two_64x64 {large:.1f} us, two_16x16 {small:.1f} us"
    )


# ---- By the user ---------------------------------------------------------------------------------


def test_the_user_names_an_algorithm_or_a_family(two):
    assert choose(PROBLEM, H100) == two.LARGE
    with use_algorithm(conv2d_fprop="two_16x16"):
        assert choose(PROBLEM, H100) == two.SMALL
        assert choice.choice(PROBLEM, H100).why == "the user asks for it"
        assert choose(replace(PROBLEM, verb="dgrad"), H100) == two.LARGE
        with use_algorithm(conv2d_dgrad="two_16x16", conv2d_fprop="two"):
            assert choose(replace(PROBLEM, verb="dgrad"), H100) == two.SMALL
            assert choose(PROBLEM, H100) == two.LARGE
        assert choose(PROBLEM, H100) == two.SMALL
    assert choose(PROBLEM, H100) == two.LARGE
    assert "cheapest of 2" in choice.choice(PROBLEM, H100).why


def test_the_environment_names_algorithms(two, monkeypatch):
    monkeypatch.setattr(choice, "_asked", None)
    monkeypatch.setenv("CONVOLT_ALGORITHM", "conv2d_fprop=two_16x16, conv2d_wgrad=two")
    assert choose(PROBLEM, H100) == two.SMALL
    assert choose(replace(PROBLEM, verb="dgrad"), H100) == two.LARGE


@pytest.mark.parametrize("source", WORDS)
@pytest.mark.parametrize(
    ("op", "name", "message"),
    [
        ("conv2d_forward", "simt", "unknown op 'conv2d_forward'; the ops are conv2d_fprop, "),
        ("conv2d_fprop", "direct_8x8", "unknown algorithm 'direct_8x8'; the families are .*simt"),
        ("conv2d_fprop", "", "unknown algorithm ''; the families are .*simt"),
    ],
)
def test_unknown_names_are_errors(source, op, name, message, monkeypatch):
    monkeypatch.setattr(choice, "_asked", None)
    if source == "use_algorithm":
        with pytest.raises(ValueError, match=f"{source}.*{message}"):
            use_algorithm(**{op: name})
    else:
        monkeypatch.setenv(source, f"{op}={name}")
        with pytest.raises(ValueError, match=f"{source}={op}={name}: {message}"):
            choose(PROBLEM, H100)
    monkeypatch.delenv("CONVOLT_ALGORITHM", raising=False)
    assert choose(PROBLEM, H100) in candidates(PROBLEM, H100)


def test_an_algorithm_that_does_not_compute_the_problem_lists_those_that_do():
    rng = np.random.default_rng(1)
    size = SIZES["odd"]
    x, w = (rng.standard_normal(shape) for shape in (size.x_shape, size.w_shape))
    with use_backend("emulator"):
        y = conv2d.fprop(x, w, None, size)
        with (
            use_algorithm(conv2d_fprop="simt_128x512"),
            pytest.raises(
                ValueError,
                match=r"conv2d_fprop: simt_128x512 does not compute .*float64.*"
                r"the candidates are simt_64x16",
            ),
        ):
            conv2d.fprop(x, w, None, size)
        assert np.array_equal(conv2d.fprop(x, w, None, size), y)


# ---- By the table --------------------------------------------------------------------------------


@pytest.fixture
def timed(two, monkeypatch):
    """Stand for a GPU that takes longer for the algorithm that is cheaper by the model."""
    monkeypatch.setattr(choice, "operands", lambda problem: shaped(problem.size))
    monkeypatch.setattr(choice, "is_capturing", lambda: False)

    def time_s(run, gpu):
        run()
        return 2e-3 if two.ran[-1] == two.LARGE else 1e-3

    monkeypatch.setattr(tuner, "time_s", time_s)
    return two


def shaped(size):
    x, w, y = (np.empty(shape) for shape in (size.x_shape, size.w_shape, size.y_shape))
    return [x, w, None, y]


def test_what_was_timed_goes_before_the_model_and_is_kept(timed):
    with use_tuning("on"):
        assert choose(PROBLEM, INSTALLED) == timed.SMALL
        runs = len(timed.ran)
        assert runs > 0
        assert choose(PROBLEM, INSTALLED) == timed.SMALL
    assert len(timed.ran) == runs, "it was timed twice"
    choice._table.cache_clear()  # as another process finds it
    choice._choice.cache_clear()
    assert choose(PROBLEM, INSTALLED) == timed.SMALL
    assert "when timed on h100" in choice.choice(PROBLEM, INSTALLED).why
    assert choose(replace(PROBLEM, dtype="float32"), INSTALLED) == timed.LARGE
    assert choose(PROBLEM, replace(INSTALLED, driver=12000)) == timed.LARGE
    assert choose(PROBLEM, H100) == timed.LARGE, "the emulated one has no times"
    with use_tuning("off"):
        assert choose(PROBLEM, INSTALLED) == timed.LARGE
    with use_algorithm(conv2d_fprop="two_64x64"):
        assert choose(PROBLEM, INSTALLED) == timed.LARGE
    assert len(timed.ran) == runs


@pytest.mark.parametrize("mode", ["off", "cached"])
def test_nothing_is_timed_unless_asked(timed, mode):
    with use_tuning(mode):
        assert choose(PROBLEM, INSTALLED) == timed.LARGE
    assert not timed.ran


def test_nothing_is_timed_in_a_capture_nor_on_the_emulator(timed, monkeypatch):
    monkeypatch.setattr(choice, "is_capturing", lambda: True)
    with use_tuning("on"):
        assert choose(PROBLEM, INSTALLED) == timed.LARGE
        assert choose(PROBLEM, H100) == timed.LARGE
        assert not timed.ran
        monkeypatch.setattr(choice, "is_capturing", lambda: False)
        assert choose(PROBLEM, INSTALLED) == timed.SMALL, "after the capture it can be timed"


def test_a_name_in_the_table_that_no_family_offers_is_passed_over(two):
    choice._table(INSTALLED).put(choice._key(PROBLEM), "two_8x8")
    assert choose(PROBLEM, INSTALLED) == two.LARGE


def test_a_table_of_other_kernels_is_another_table(tmp_path):
    source = tmp_path / "a.cu"
    source.write_text("one")
    TunedTable(INSTALLED, [source]).put("key", "name")
    assert TunedTable(INSTALLED, [source]).get("key") == "name"
    source.write_text("two")
    assert TunedTable(INSTALLED, [source]).get("key") is None


def test_a_damaged_table_is_an_empty_one(tmp_path):
    table = TunedTable(INSTALLED, [])
    table.put("key", "name")
    (file,) = (tmp_path / "tuned").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-3], whole[:20] + b"?" + whole[21:]):
        file.write_bytes(damaged)
        assert TunedTable(INSTALLED, []).get("key") is None
    TunedTable(INSTALLED, []).put("other", "name")
    assert TunedTable(INSTALLED, []).get("other") == "name"


def test_two_processes_fill_one_table():
    ours, theirs = TunedTable(INSTALLED, []), TunedTable(INSTALLED, [])
    ours.put("ours", "a")
    theirs.put("theirs", "b")
    table = TunedTable(INSTALLED, [])
    assert (table.get("ours"), table.get("theirs")) == ("a", "b")


def test_a_table_that_cannot_be_kept_says_what_to_do(tmp_path):
    (tmp_path / "tuned").write_text("a file where the folder should be")
    with pytest.raises(RuntimeError, match="set CONVOLT_CACHE_DIR"):
        TunedTable(INSTALLED, []).put("key", "name")


def test_a_shipped_table_is_read_and_goes_after_what_was_timed_here(tmp_path, monkeypatch):
    monkeypatch.setattr(tuner, "_SHIPPED", tmp_path)
    (tmp_path / "h100.json").write_text(json.dumps({"a": "shipped", "b": "shipped"}))
    TunedTable(INSTALLED, []).put("b", "timed")
    assert [TunedTable(INSTALLED, []).get(key) for key in "ab"] == ["shipped", "timed"]
    assert TunedTable(H100, []).get("b") == "shipped"


# ---- CONVOLT_TUNE --------------------------------------------------------------------------------


def test_how_algorithms_are_chosen(monkeypatch):
    monkeypatch.setattr(tuner, "_mode", None)
    monkeypatch.delenv("CONVOLT_TUNE", raising=False)
    assert tuner.tuning_mode() == "cached"
    for mode in tuner.MODES:
        monkeypatch.setattr(tuner, "_mode", None)
        monkeypatch.setenv("CONVOLT_TUNE", mode)
        assert tuner.tuning_mode() == mode
    with pytest.raises(ValueError, match=r"use_tuning\('always'\): must be one of off, cached, on"):
        use_tuning("always")
    monkeypatch.setattr(tuner, "_mode", None)
    monkeypatch.setenv("CONVOLT_TUNE", "yes")
    with pytest.raises(ValueError, match="CONVOLT_TUNE=yes: must be one of off, cached, on"):
        choose(PROBLEM, H100)


# ---- Timing --------------------------------------------------------------------------------------


def test_the_quickest_has_the_least_median_and_takes_turns(monkeypatch):
    times_s = {"a": [9, 1, 1, 1], "b": [2, 2, 2, 2], "c": [3, 3, 9, 3]}
    order = []

    def time_s(run, gpu):
        name = run()
        order.append(name)
        return times_s[name][order.count(name) - 1] * 1e-3

    monkeypatch.setattr(tuner, "time_s", time_s)
    monkeypatch.setattr(tuner, "BUDGET_S", 0.0)
    assert quickest({name: lambda name=name: name for name in times_s}, INSTALLED) == "a"
    assert order == list("abc") * tuner.LEAST_TURNS


# ---- GPUs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full_name", "capability", "sms", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 90, 132, "h100"),
        ("NVIDIA H200", 90, 132, "h200"),
        ("NVIDIA A100-SXM4-80GB", 80, 108, "a100"),
        ("Tesla T4", 75, 40, "t4"),
        ("NVIDIA GeForce RTX 4090", 89, 128, "rtx-4090"),
    ],
)
def test_a_gpu_at_hand_is_known_by_its_name(full_name, capability, sms, expected):
    assert like(full_name, capability, sms, 13000) == replace(GPUS[expected], driver=13000)


@pytest.mark.parametrize(
    ("full_name", "capability", "sms", "nearest"),
    [
        ("NVIDIA H100 PCIe", 90, 114, "h100"),
        ("NVIDIA B200", 100, 148, "h100"),
        ("NVIDIA A10G", 86, 80, "a100"),
        ("Quadro GV100", 70, 80, "t4"),
    ],
)
def test_another_gpu_is_like_the_nearest_one(full_name, capability, sms, nearest):
    gpu = like(full_name, capability, sms, 1)
    assert (gpu.sms, gpu.capability) == (sms, capability)
    assert gpu.name not in GPUS
    assert gpu.dram_bytes_s == GPUS[nearest].dram_bytes_s
