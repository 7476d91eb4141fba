"""conv2d by wgmma: parity, the pipeline under unfair schedules, what it refuses, machine code."""

import re
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import staged
from conv2d_shapes import ALL
from sass import disassemble
from tolerance import assert_within

from convolt.kernels import conv2d, emulator
from convolt.kernels.backend import use_backend, why_not
from convolt.kernels.conv2d import Conv2dSize, wgmma
from convolt.kernels.conv2d.algorithm import VERBS, Algorithm, Problem, empty_moments
from convolt.kernels.cuda import compile as compiler
from convolt.kernels.cuda.gpu import GPUS
from convolt.kernels.cuda.launch import Kernel
from convolt.kernels.cuda.signature import read

KERNELS = {"fprop": wgmma._FPROP, "dgrad": wgmma._DGRAD, "wgrad": wgmma._WGRAD}
FOLDER = Path(wgmma.__file__).resolve().parent.parent

# Beside those that all tensor cores are tested with: name: (x, w, window)
OWN = {
    "stem_of_8": ((1, 17, 17, 8), (64, 7, 7, 8), {"stride": 2, "padding": 3}),
    "alexnet_of_8": ((1, 19, 19, 8), (64, 11, 11, 8), {"stride": 4, "padding": 2}),
    "resnet_128_stride": ((2, 9, 9, 128), (128, 3, 3, 128), {"stride": 2, "padding": 1}),
    "dilation_2": ((1, 11, 10, 64), (64, 3, 3, 64), {"padding": 2, "dilation": 2}),
    # Channels that fill boxes in part
    "24_40": ((5, 5, 7, 24), (40, 3, 3, 24), {"padding": 1}),
    "72_136": ((3, 7, 7, 72), (136, 3, 3, 72), {"padding": 1}),
    "136_8": ((2, 6, 6, 136), (8, 3, 3, 136), {"padding": 1}),
    "200_264": ((1, 6, 7, 200), (264, 1, 1, 200), {}),
    # Windows
    "one_pixel": ((1, 1, 1, 8), (8, 1, 1, 8), {}),
    "even_window": ((3, 6, 7, 16), (24, 4, 2, 16), {}),
    "dilations_differ": ((1, 9, 9, 8), (8, 3, 2, 8), {"dilation": (2, 3), "padding": 2}),
    "last_corners": ((1, 2, 130, 8), (8, 1, 3, 8), {"padding": (0, 128), "dilation": (1, 127)}),
    "batch_of_13": ((13, 3, 5, 16), (8, 2, 2, 16), {}),
}


def is_for_tma(x_shape, w_shape, window):
    return x_shape[0] > 0 and not (x_shape[3] % 8 or w_shape[0] % 8 or "groups" in window)


CASES = {name: case for name, case in ALL.items() if is_for_tma(*case)} | OWN


@pytest.fixture(autouse=True)
def _few_multiprocessors(monkeypatch):
    """A block has several tiles, so that it comes round the ring and to the next tile."""
    if reason := why_not("emulator"):
        pytest.skip(reason)
    few(monkeypatch, 3)


def few(monkeypatch, sms):
    name = f"h100-{sms}"
    monkeypatch.setitem(GPUS, name, replace(GPUS["h100"], name=name, sms=sms))
    monkeypatch.setenv("CONVOLT_EMULATED_GPU", name)


def on_hopper():
    """Whether there is a GPU with these instructions."""
    if why_not("cuda"):
        return False
    return import_module("cupy").cuda.Device().compute_capability == "90"


@pytest.fixture(params=["emulator"] + ["cuda"] * on_hopper())
def device(request, monkeypatch):
    """Run a test on the emulator, and on the GPU where it can."""
    if request.param == "cuda":
        staged.on_gpu(monkeypatch)


def size_of(case):
    x_shape, w_shape, window = case
    return Conv2dSize.of(x_shape, w_shape, **window)


def bfloat16(a):
    return np.asarray(a).astype(ml_dtypes.bfloat16)


def operands(size, rng, *, integers):
    """x, w, bias, grad_y."""
    shapes = size.x_shape, size.w_shape, (size.k,), size.y_shape
    draw = (lambda s: rng.integers(-3, 4, s)) if integers else rng.standard_normal
    return [bfloat16(draw(s)) for s in shapes]


def definition(verb, size, x, w, bias, grad_y):
    wide = [a.astype(np.float64) for a in (x, w, bias, grad_y)]
    with use_backend("numpy"):
        if verb == "fprop":
            return conv2d.fprop(*wide[:3], size)
        return (
            conv2d.dgrad(wide[3], wide[1], size)
            if verb == "dgrad"
            else conv2d.wgrad(wide[3], wide[0], size)
        )


def length(verb, size):
    """Terms of one sum."""
    taps = size.r * size.s
    return {"fprop": taps * size.c + 1, "dgrad": taps * size.k, "wgrad": size.n * size.p * size.q}[
        verb
    ]


def run(algorithm, verb, size, x, w, bias, grad_y, **more):
    result = {"fprop": size.y_shape, "dgrad": size.x_shape, "wgrad": size.w_shape}[verb]
    out = np.full(result, np.nan, ml_dtypes.bfloat16)
    if verb == "fprop":
        wgmma.fprop(algorithm, x, w, bias, out, size, **more)
    elif verb == "dgrad":
        wgmma.dgrad(algorithm, grad_y, w, out, size)
    else:
        wgmma.wgrad(algorithm, grad_y, x, out, size)
    return out


def algorithms(verb, size):
    return wgmma.algorithms(Problem(verb, size, "bfloat16"))


def one_algorithm(verb, size, i):
    found = algorithms(verb, size)
    assert found, "TMA can do this"
    return found[i % len(found)]


def check_integers(algorithm, verb, size, rng, **options):
    """Sums of small integers are exact in float, so that only the last rounding is left."""
    arrays = operands(size, rng, integers=True)
    with emulator.options(**options):
        got = run(algorithm, verb, size, *arrays)
    expected = bfloat16(definition(verb, size, *arrays))
    np.testing.assert_array_equal(got.view(np.uint16), expected.view(np.uint16))


def check_floats(algorithm, verb, size, rng, **options):
    arrays = operands(size, rng, integers=False)
    with emulator.options(**options):
        got = run(algorithm, verb, size, *arrays)
    expected = definition(verb, size, *arrays)
    magnitude = definition(verb, size, *map(abs, arrays))
    assert_within(got, expected, magnitude, length(verb, size))


# ---- Parity --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_definition(name, verb, rng):
    """Each case by one of the tiles; all of them come up."""
    size, i = size_of(CASES[name]), [*CASES].index(name)
    check_integers(one_algorithm(verb, size, i), verb, size, rng)
    check_floats(one_algorithm(verb, size, i + 1), verb, size, rng)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "check"])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", CASES)
def test_every_tile_equals_the_definition(name, verb, mode, rng):
    size = size_of(CASES[name])
    for algorithm in algorithms(verb, size):
        check_integers(algorithm, verb, size, rng, mode=mode)
        check_floats(algorithm, verb, size, rng, mode=mode)


CHECKED = ["72_136", "resnet_3x3", "resnet_downsample", "stride_3", "dilation_and_stride"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", CHECKED)
def test_no_access_is_wrong_or_races(name, verb, rng):
    size, i = size_of(CASES[name]), CHECKED.index(name)
    with emulator.record() as launches:
        check_integers(one_algorithm(verb, size, i), verb, size, rng, mode="check")
    assert launches
    assert not any(launch.counters.bank_conflicts for launch in launches)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("tile", wgmma._FPROP, ids=str)
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_residual_activation_and_moments(tile, mode, rng):
    size = size_of(CASES["72_136"])
    x, w, bias, _ = arrays = operands(size, rng, integers=True)
    algorithm, residual = Algorithm("wgmma", *tile, 64), bfloat16(rng.standard_normal(size.y_shape))
    moments = empty_moments(algorithm, residual)
    with emulator.options(mode=mode):
        plain = run(algorithm, "fprop", size, *arrays, moments=moments)
        added = run(algorithm, "fprop", size, *arrays, residual=residual)
        fused = run(algorithm, "fprop", size, *arrays, residual=residual, activation="relu")
        relu = run(algorithm, "fprop", size, x, w, None, None, activation="relu")
    rounded = bfloat16(definition("fprop", size, *arrays)).astype(np.float32)
    np.testing.assert_array_equal(plain.astype(np.float32), rounded)
    total = bfloat16(rounded + residual.astype(np.float32))
    np.testing.assert_array_equal(added, total)
    np.testing.assert_array_equal(fused, np.maximum(total, 0))
    unbiased = definition("fprop", size, x, w, 0 * bias, bias)
    np.testing.assert_array_equal(relu, np.maximum(bfloat16(unbiased), 0))
    rows = rounded.reshape(-1, size.k).astype(np.float64)
    for part, first in enumerate(range(0, len(rows), moments.rows)):
        members = rows[first : first + moments.rows]
        close = {"rtol": 1e-5, "atol": 1e-5 * np.abs(members).max()}
        np.testing.assert_allclose(moments.means[part], members.mean(0), **close)
        squares = ((members - members.mean(0)) ** 2).sum(0)
        np.testing.assert_allclose(moments.squares[part], squares, rtol=1e-4)


def test_infinities_do_not_reach_other_taps_and_filters(rng):
    """Boxes reach beyond the last channel of a tap, where the next tap begins."""
    size = Conv2dSize.of((1, 4, 4, 8), (8, 1, 2, 8))
    x, w, bias, _ = arrays = operands(size, rng, integers=True)
    w[3, 0, 1, 5] = np.inf
    got = run(one_algorithm("fprop", size, 0), "fprop", size, *arrays)
    others = np.arange(8) != 3
    w[3] = 0
    expected = definition("fprop", size, x, w, bias, bias)
    np.testing.assert_array_equal(got[..., others].astype(np.float64), expected[..., others])
    assert not np.isfinite(got[..., 3].astype(np.float64)).any()


# ---- The pipeline --------------------------------------------------------------------------------

PIPELINES = {  # verb, tile, case
    "fprop ping-pong": ("fprop", (128, 64), ((5, 7, 8, 136), (72, 2, 2, 136), {"padding": 1})),
    "fprop cooperative": ("fprop", (128, 256), ((5, 7, 8, 136), (8, 2, 2, 136), {"padding": 1})),
    "dgrad phases": ("dgrad", (128, 64), ((5, 11, 11, 72), (24, 3, 3, 72), {"stride": 2})),
    "wgrad splits": ("wgrad", (64, 256), ((7, 9, 9, 72), (72, 2, 2, 72), {})),
}
TIMES = ("lazy", "eager", "random")


def pipeline(name):
    verb, tile, case = PIPELINES[name]
    splits = 3 if verb == "wgrad" else 1
    return Algorithm("wgmma", *tile, 64, splits), verb, size_of(case)


@pytest.mark.parametrize("name", PIPELINES)
def test_any_schedule_gives_the_same(name, rng, monkeypatch):
    few(monkeypatch, 2)
    algorithm, verb, size = pipeline(name)
    arrays = operands(size, rng, integers=True)
    expected = bfloat16(definition(verb, size, *arrays))
    for seed in range(20):
        with emulator.options(order="unfair", seed=seed, asynchronous=TIMES[seed % 3]):
            got = run(algorithm, verb, size, *arrays)
        np.testing.assert_array_equal(got, expected, f"seed {seed}")


# What may be wrong with a pipeline: (file, text, text in its place).
RING, TILES = "cuda/wgmma_pipeline.cuh", "conv2d/conv2d_wgmma.cuh"
BUGS = {
    "no wait for an empty stage": (
        RING, "mbarrier_wait(&barriers_.empty[slot_], parity_ ^ 1);", ""),
    "a stage is given back before it was read": (
        RING, "wgmma_wait<1>();\n    if (step > 0) ring.give_back(1);",
        "if (step > 0) ring.give_back(0);\n    wgmma_wait<1>();"),
    "results are read before the wait": (RING, "wgmma_wait<0>();", ""),
    "no turns": (RING, "if (PING_PONG) mbarrier_wait(", "if (0) mbarrier_wait("),
    "results are replaced before they were stored": (
        TILES, "if (Team::thread() == 0) tma_store_wait_read<0>();  // of the tile before", ""),
    "no barrier between results and their store": (
        TILES, "fence_proxy_async();\n    Team::sync();", "fence_proxy_async();"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug, rng, monkeypatch, tmp_path):
    few(monkeypatch, 2)
    algorithm, verb, size = pipeline("fprop ping-pong")
    plant(bug, verb, (algorithm.tile_m, algorithm.tile_n), monkeypatch, tmp_path)
    arrays = operands(size, rng, integers=True)
    expected = bfloat16(definition(verb, size, *arrays))

    def caught(seed):
        options = {"order": "unfair", "seed": seed, "asynchronous": TIMES[seed % 3]}
        try:
            with emulator.options(timeout_s=20, **options):
                return not np.array_equal(run(algorithm, verb, size, *arrays), expected)
        except emulator.EmulatorError:
            return True

    assert any(caught(seed) for seed in range(20))


def plant(bug, verb, tile, monkeypatch, folder):
    """Put a kernel with a bug in the place of one of wgmma's."""
    for room in ("cuda", "conv2d"):
        (folder / room).mkdir()
        for file in (FOLDER / room).glob("*.cu*"):
            shutil.copy(file, folder / room)
    file, right, wrong = BUGS[bug]
    text = (folder / file).read_text()
    assert right in text
    (folder / file).write_text(text.replace(right, wrong))
    sound = KERNELS[verb][tile]
    (constants,) = sound.combinations()
    block = int(constants.pop("BLOCK"))
    constants = {k: int(v) if v.isdigit() else v for k, v in constants.items()}
    broken = Kernel(
        str(folder / "conv2d" / "wgmma.py"), sound.path.name, sound.entry,
        block=block, shared_bytes=sound.shared_bytes, **constants,
    )  # fmt: skip
    monkeypatch.setitem(KERNELS[verb], tile, broken)


# ---- What is offered -----------------------------------------------------------------------------


def test_only_hopper_has_wgmma():
    assert [gpu.name for gpu in GPUS.values() if wgmma.runs_on(gpu)] == [
        gpu.name for gpu in GPUS.values() if gpu.capability == 90
    ]


REFUSED = {  # (x, w, window), verbs
    "channels_4": (((1, 5, 5, 4), (8, 3, 3, 4), {}), VERBS),
    "filters_12": (((1, 5, 5, 8), (12, 3, 3, 8), {}), VERBS),
    "empty_batch": (((0, 5, 5, 8), (8, 3, 3, 8), {}), VERBS),
    "stride_9": (((1, 19, 19, 8), (8, 3, 3, 8), {"stride": 9}), VERBS),
    "corner_129": (((1, 5, 5, 8), (8, 3, 3, 8), {"padding": 129}), ("fprop", "wgrad")),
    "offset_256": (((1, 5, 300, 8), (8, 1, 3, 8), {"dilation": 128}), ("fprop", "wgrad")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tma_cannot_do_is_not_offered(name):
    case, verbs = REFUSED[name]
    for verb in verbs:
        assert algorithms(verb, size_of(case)) == ()


def test_other_types_and_addresses_are_not_offered():
    size = size_of(CASES["resnet_3x3"])
    assert wgmma.algorithms(Problem("fprop", size, "float32", "tf32")) == ()
    assert wgmma.algorithms(Problem("fprop", size, "bfloat16", aligned=False)) == ()
    groups = Conv2dSize.of((1, 5, 5, 64), (64, 3, 3, 32), groups=2)
    assert wgmma.algorithms(Problem("fprop", groups, "bfloat16")) == ()


def test_launch_configurations():
    size = Conv2dSize.of((256, 56, 56, 64), (64, 3, 3, 64), padding=1, stride=2)
    fprop = wgmma.fprop_product(Algorithm("wgmma", 128, 64, 64), size)
    assert (fprop.tiles_m, fprop.tiles_n, fprop.tiles) == (256 * 28 * 28 // 128, 1, 1568)
    rows = fprop.phase[0].rows
    assert (rows.lower, rows.upper, rows.walk, rows.taps) == (-1, -2, 2, 3)
    (dgrad,) = wgmma.dgrad_products(Algorithm("wgmma", 128, 64, 64), size)
    assert [phase.all_taps for phase in dgrad.phase] == [1, 2, 2, 4]
    assert dgrad.tiles == 4 * 1568
    assert dgrad.pixels_read == 256 * 28 * 28
    wgrad = wgmma.wgrad_product(Algorithm("wgmma", 64, 256, 64, 44), size)
    assert (wgrad.tiles_m, wgrad.tiles_n, wgrad.tiles) == (1, 3, 3 * 44)


def test_a_split_sum_fills_the_gpu_and_its_parts_are_not_short():
    def parts(tile, x_shape, *w_shape, **window):
        found = algorithms("wgrad", size_of((x_shape, w_shape, window)))
        return next(a.splits for a in found if (a.tile_m, a.tile_n) == tile)

    assert parts((64, 256), (256, 56, 56, 64), 64, 3, 3, 64, padding=1) % 44 == 0  # of 3 tiles each
    assert (
        parts((128, 256), (256, 7, 7, 512), 512, 3, 3, 512, padding=1) <= 4
    )  # 72 tiles, large parts
    assert parts((128, 128), (1, 8, 8, 64), 64, 3, 3, 64, padding=1) == 1  # one box of pixels


# ---- Compilation, without a GPU ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "instructions"),
    [
        ("fprop", ("HGMMA", "UTMALDG.4D.IM2COL", "UTMALDG.3D", "UTMASTG.2D", "USETMAXREG")),
        ("dgrad", ("HGMMA", "UTMALDG.4D.IM2COL", "UTMALDG.3D", "UTMASTG.2D", "USETMAXREG")),
        ("wgrad", ("HGMMA", "UTMALDG.4D.IM2COL", "UTMALDG.2D", "USETMAXREG")),
    ],
)
def test_machine_code(verb, instructions, tmp_path, monkeypatch):
    """The compiler is not asked to keep the matrix instructions in order: it would say so."""
    pytest.importorskip("cupy")
    logs, resources = [], compiler._resources
    monkeypatch.setattr(compiler, "_resources", lambda log: logs.append(log) or resources(log))
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path))
    some = [*KERNELS[verb].items()][::2]  # the first is by ping-pong, the last is not
    for tile, kernel in some:
        (constants,) = kernel.combinations()
        compiled = compiler.cubin(read(kernel.path).path, constants, "sm_90a")
        found = compiled.resources[kernel.entry]
        assert (found.spill_bytes, found.stack_bytes) == (0, 0), tile
        code = disassemble(compiled.code, tmp_path)
        for instruction in instructions:
            assert instruction in code, (tile, instruction)
        assert f"HGMMA.64x{tile[1]}x16.F32.BF16" in code
    assert len(logs) == len(some)
    assert not re.search("serializ|setmaxnreg|warning", "".join(logs))
