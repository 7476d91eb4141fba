"""conv2d and linear by mma.sync: parity, schedules, bank conflicts, the epilogue, machine code."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conv2d_shapes import ALL, NETWORKS
from sass import disassemble
from tolerance import assert_within

from convolt.kernels import conv2d, emulator, linear
from convolt.kernels.backend import use_backend
from convolt.kernels.conv2d import Conv2dSize, mma
from convolt.kernels.conv2d import channels as packs
from convolt.kernels.conv2d.algorithm import VERBS, Problem, empty_moments
from convolt.kernels.conv2d.choice import candidates, use_algorithm
from convolt.kernels.cuda.gpu import GPUS
from convolt.kernels.cuda.launch import Kernel
from convolt.kernels.precision import use_precision

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [BFLOAT16, np.dtype(np.float32)]
TENSOR_CORES = {f"conv2d_{verb}": "mma" for verb in VERBS}


def to_tf32(x):
    """Round to 10 bits of mantissa, ties away from zero."""
    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


def operands(size, dtype, rng, integers):
    """x, w, bias, grad_y."""
    shapes = size.x_shape, size.w_shape, (size.k,), size.y_shape
    if integers:
        return [rng.integers(-4, 5, s).astype(dtype) for s in shapes]
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def definition(verb, size, x, w, bias, grad_y):
    with use_backend("numpy"):
        if verb == "fprop":
            return conv2d.fprop(x, w, bias, size)
        if verb == "dgrad":
            return conv2d.dgrad(grad_y, w, size)
        return conv2d.wgrad(grad_y, x, size)


def run(algorithm, verb, size, x, w, bias, grad_y):
    """The result of an algorithm, its place filled with NaN before."""
    shape = {"fprop": size.y_shape, "dgrad": size.x_shape, "wgrad": size.w_shape}[verb]
    inputs = {"fprop": (x, w, bias), "dgrad": (grad_y, w), "wgrad": (grad_y, x)}[verb]
    result = np.full(shape, np.nan, x.dtype)
    with use_backend("emulator"):
        getattr(mma, verb)(algorithm, *inputs, result, size)
    return result


def algorithms(verb, size, dtype):
    """All of the family; where the sum over pixels can be split, also split in three."""
    found = mma.algorithms(Problem(verb, size, dtype.name, "tf32"))
    assert found
    if verb == "wgrad" and size.n * size.p * size.q > 2 * found[0].tile_k:
        found += (replace(found[-1], splits=3),)
    return found


def counters_of(verb, launches):
    """Of the product's launch; others pad channels or add the parts of a sum."""
    return next(x.counters for x in launches if x.entry == f"conv2d_{verb}_mma")


def size_of(name):
    x_shape, w_shape, window = ALL[name]
    return Conv2dSize.of(x_shape, w_shape, **window)


# ---- Parity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_integers_give_equal_bits(name, dtype, rng):
    size = size_of(name)
    arrays = operands(size, dtype, rng, integers=True)
    wide = [a.astype(np.float32) for a in arrays]
    for verb in VERBS:
        expected = definition(verb, size, *wide).astype(dtype)
        for algorithm in algorithms(verb, size, dtype):
            got = run(algorithm, verb, size, *arrays)
            np.testing.assert_array_equal(got, expected, f"{verb} {algorithm}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_random_numbers_are_rounded_once_and_summed_in_float32(name, dtype, rng):
    """float32 is compared with the definition on operands rounded to tf32."""
    size = size_of(name)
    arrays = operands(size, dtype, rng, integers=False)
    rounded = arrays if dtype == BFLOAT16 else [to_tf32(a) for a in arrays]
    rounded[2] = arrays[2]  # the bias is added in float32
    wide = [a.astype(np.float64) for a in rounded]
    pixels = size.n * size.p * size.q
    taps = size.r * size.s
    lengths = taps * size.c // size.groups + 1, taps * size.k // size.groups, pixels
    for verb, length in zip(VERBS, lengths, strict=True):
        got = run(algorithms(verb, size, dtype)[-1], verb, size, *arrays)
        expected = definition(verb, size, *wide)
        assert_within(got, expected, definition(verb, size, *map(abs, wide)), length)


CHECKED = [
    *("lenet5_first", "resnet_stem", "resnet_3x3_stride", "resnext", "inception_1x7"),
    *("odd_channels", "dilation_and_stride", "stride_larger_than_kernel", "tiles_cut_off"),
]


def check_without_conflicts(name, dtype, rng):
    size = size_of(name)
    arrays = operands(size, dtype, rng, integers=True)
    for verb in VERBS:
        expected = definition(verb, size, *(a.astype(np.float32) for a in arrays)).astype(dtype)
        for algorithm in algorithms(verb, size, dtype):
            with emulator.options(mode="check"), emulator.record() as launches:
                got = run(algorithm, verb, size, *arrays)
            np.testing.assert_array_equal(got, expected, f"{verb} {algorithm}")
            counters = counters_of(verb, launches)
            assert counters.shared_requests > 0
            assert counters.bank_conflicts == 0, f"{verb} {algorithm}"
            counted = counters.mma_m16n8k16_bf16, counters.mma_m16n8k8_tf32
            assert counted[dtype != BFLOAT16] > 0
            assert counted[dtype == BFLOAT16] == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CHECKED)
def test_every_access_is_right_and_meets_no_bank_twice(name, dtype, rng):
    check_without_conflicts(name, dtype, rng)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n in ALL if n not in CHECKED and n != "empty_batch"])
def test_every_access_of_all_shapes_is_right_and_meets_no_bank_twice(name, dtype, rng):
    check_without_conflicts(name, dtype, rng)


def test_arrays_may_begin_anywhere(rng):
    """Contiguous, but not on a multiple of 16 bytes: packs cannot be copied."""
    size = size_of("groups_of_packs")
    arrays = operands(size, BFLOAT16, rng, integers=True)
    shifted = [np.append(BFLOAT16.type(0), a)[1:].reshape(a.shape) for a in arrays]
    x, w, bias, grad_y = shifted
    assert all(a.ctypes.data % 16 for a in shifted)
    with use_backend("emulator"), use_algorithm(**TENSOR_CORES), emulator.options(mode="check"):
        got = conv2d.fprop(x, w, bias, size), conv2d.dgrad(grad_y, w, size)
        got += (conv2d.wgrad(grad_y, x, size),)
    for verb, result in zip(VERBS, got, strict=True):
        expected = definition(verb, size, *(a.astype(np.float32) for a in arrays))
        np.testing.assert_array_equal(result, expected.astype(BFLOAT16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_coordinates_beyond_int32_are_outside_the_image(dtype):
    window = {"stride": (2**30, 1), "padding": (2**30, 0)}
    size = Conv2dSize.of((1, 1, 1, 8), (8, 1, 1, 8), **window)
    x, w, bias = np.full(size.x_shape, 2, dtype), np.full(size.w_shape, 3, dtype), None
    grad_y = np.repeat([5, 7, 11], 8).reshape(size.y_shape).astype(dtype)
    with emulator.options(mode="check"):
        y, grad_x, grad_w = (
            run(algorithms(verb, size, dtype)[-1], verb, size, x, w, bias, grad_y) for verb in VERBS
        )
    assert y[0, :, 0, 0].tolist() == [0, 48, 0]
    assert (grad_x[0, 0, 0, 0], grad_w[0, 0, 0, 0]) == (168, 14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinities_and_nans_reach_those_that_read_them(dtype, rng):
    """And nobody else, though their rows and depth do not fill the tiles."""
    size = Conv2dSize.of((1, 5, 5, 8), (8, 3, 3, 8))
    for value in (np.inf, np.nan):
        for verb, place in (("fprop", 0), ("fprop", 1), ("dgrad", 3), ("wgrad", 0), ("wgrad", 3)):
            arrays = operands(size, dtype, rng, integers=True)
            arrays[place].flat[-1] = value
            expected = definition(verb, size, *(a.astype(np.float32) for a in arrays))
            assert not np.isfinite(expected).all()
            for algorithm in algorithms(verb, size, dtype):
                got = run(algorithm, verb, size, *arrays)
                np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))


# ---- The pipeline --------------------------------------------------------------------------------

LONG = {  # more chunks of the depth than the ring has stages, twice over
    "packed": ((1, 17, 15, 32), (40, 3, 3, 32), {"padding": 1}),
    "elements": ((1, 17, 15, 31), (33, 3, 3, 31), {"padding": 1}),
}


def attempt(dtype, problem, rng, **options):
    size = Conv2dSize.of(*problem[:2], **problem[2])
    arrays = operands(size, dtype, rng, integers=True)
    for verb in VERBS:
        expected = definition(verb, size, *(a.astype(np.float32) for a in arrays)).astype(dtype)
        smallest = replace(algorithms(verb, size, dtype)[-1], splits=1)
        with emulator.options(order="unfair", threads=1, **options):
            np.testing.assert_array_equal(run(smallest, verb, size, *arrays), expected, verb)


@pytest.mark.parametrize("asynchronous", ["lazy", "eager", "random"])
@pytest.mark.parametrize("seed", range(20))
def test_no_schedule_changes_a_bit(seed, asynchronous, rng):
    dtype, mode = DTYPES[seed % 2], ("fast", "check")[seed % 4 == 0]
    problem = list(LONG.values())[seed // 2 % 2]
    attempt(dtype, problem, rng, seed=seed, asynchronous=asynchronous, mode=mode)


TILE, FPROP = "cuda/mma_tile.cuh", "conv2d/conv2d_fprop_mma.cu"
BUGS = {
    "waits_for_one_stage_less": (TILE, "wait<STAGES - 2>()", "wait<STAGES - 1>()"),
    "no_barrier": (TILE, "__syncthreads();  // this chunk", "// this chunk"),
    "fills_the_stage_that_is_read": (TILE, "(chunk + STAGES - 1) % STAGES", "chunk % STAGES"),
    "results_before_the_last_reads": (TILE, "  cp_async_wait<0>();\n  __syncthreads();", ""),
    "rows_before_the_results": (FPROP, ".put(results);\n  __syncthreads();", ".put(results);"),
    "no_exchange": (TILE, "? line / 2 % 4 :", "? 0 :"),
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Plant a bug into a copy of the sources, which launches then use."""

    def plant(file, old, new):
        kernels = Path(mma.__file__).parent.parent
        for folder in ("cuda", "conv2d"):
            shutil.copytree(kernels / folder, tmp_path / folder, ignore=lambda *_: {"__pycache__"})
        text = (tmp_path / file).read_text()
        assert text.count(old) == 1
        (tmp_path / file).write_text(text.replace(old, new))
        for table in (mma._FPROP, mma._DGRAD, mma._WGRAD):
            kernel = table[64, 64]
            bad = Kernel(
                *(str(tmp_path / "conv2d" / "mma.py"), kernel.path.name, kernel.entry),
                block=kernel.block,
                shared_bytes=kernel.shared_bytes,
                STORAGE=("bfloat16",),
                PACK_BYTES=(16,),
                TILE_M=64,
                TILE_N=64,
            )
            monkeypatch.setitem(table, (64, 64), bad)

    return plant


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(planted, bug, rng):
    planted(*BUGS[bug])
    problem = LONG["packed"]
    if bug == "no_exchange":
        with emulator.record() as launches:
            attempt(BFLOAT16, problem, rng, mode="check")
        assert counters_of("fprop", launches).bank_conflicts > 0
        return

    def some_schedules():
        for seed in range(3):
            attempt(BFLOAT16, problem, rng, seed=seed, mode="check")

    with pytest.raises((AssertionError, emulator.EmulatorError)):
        some_schedules()


# ---- The epilogue --------------------------------------------------------------------------------

EPILOGUES = {
    "whole_tiles": ((2, 8, 16, 16), (64, 1, 1, 16), {}),
    "cut_off": ((1, 13, 11, 16), (72, 3, 3, 16), {"padding": 1}),
    "odd": ((3, 7, 9, 5), (37, 3, 3, 5), {"stride": 2}),
    "groups": ((1, 9, 9, 16), (80, 1, 1, 8), {"groups": 2}),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", EPILOGUES.values(), ids=EPILOGUES)
def test_the_epilogue_equals_the_separate_ops(problem, dtype, rng):
    size = Conv2dSize.of(*problem[:2], **problem[2])
    x, w, bias, residual = operands(size, dtype, rng, integers=False)
    bias += dtype.type(3)  # a mean that the deviations from it must not drown in
    for algorithm in algorithms("fprop", size, dtype):
        plain = run(algorithm, "fprop", size, x, w, bias, None)
        moments = empty_moments(algorithm, plain)
        moments.means[...] = moments.squares[...] = np.nan
        y = np.full_like(plain, np.nan)
        with use_backend("emulator"), emulator.options(mode="check"), emulator.record() as launches:
            mma.fprop(algorithm, x, w, bias, y, size, moments, residual, "relu")
        assert counters_of("fprop", launches).bank_conflicts == 0
        total = plain.astype(np.float32) + residual.astype(np.float32)
        np.testing.assert_array_equal(y, np.maximum(total, 0).astype(dtype))

        rows = plain.astype(np.float64).reshape(-1, size.k)
        for i, (mean, square) in enumerate(zip(moments.means, moments.squares, strict=True)):
            part = rows[moments.rows * i : moments.rows * (i + 1)]
            assert len(part)
            np.testing.assert_allclose(mean, part.mean(0), rtol=1e-6, atol=1e-6)
            expected = ((part - part.mean(0)) ** 2).sum(0)
            np.testing.assert_allclose(square, expected, rtol=1e-5, atol=1e-6)
        assert moments.rows * (len(moments.means) - 1) < len(rows)


def test_relu_keeps_nan(rng):
    size = Conv2dSize.of((1, 1, 1, 8), (8, 1, 1, 8))
    x, w, _, _ = operands(size, BFLOAT16, rng, integers=True)
    x[0, 0, 0, 0] = np.nan
    y = np.zeros(size.y_shape, BFLOAT16)
    algorithm = algorithms("fprop", size, BFLOAT16)[0]
    with use_backend("emulator"):
        mma.fprop(algorithm, x, w, None, y, size, activation="relu")
    assert np.isnan(y).all()


# ---- linear --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("m", "c", "k"), [(70, 40, 72), (33, 17, 10), (1, 8, 1), (600, 24, 16)])
def test_linear_uses_the_same_cores(m, c, k, dtype, rng):
    x, w, grad_y = (rng.integers(-4, 5, s).astype(dtype) for s in ((m, c), (k, c), (m, k)))
    bias = rng.integers(-4, 5, k).astype(dtype)
    with use_precision("tf32"), use_backend("emulator"), use_algorithm(**TENSOR_CORES):
        with emulator.record() as launches:
            got = linear.fprop(x, w, bias), linear.dgrad(grad_y, w), linear.wgrad(grad_y, x)
        turned = linear.fprop(x, np.asfortranarray(w), bias[::-1])
    entries = [launch.entry for launch in launches if "layout" not in launch.entry]
    assert entries == [f"conv2d_{verb}_mma" for verb in VERBS]
    x, w, bias, grad_y = (a.astype(np.float64) for a in (x, w, bias, grad_y))
    for g, e in zip(got, (x @ w.T + bias, grad_y @ w, grad_y.T @ x), strict=True):
        np.testing.assert_array_equal(g, e.astype(dtype))
    np.testing.assert_array_equal(turned, (x @ w.T + bias[::-1]).astype(dtype))


# ---- What is offered -----------------------------------------------------------------------------


def offered(name, verb="fprop", dtype="bfloat16", precision="ieee"):
    problem = Problem(verb, size_of(name), dtype, precision)
    return [(a.tile_m, a.tile_n) for a in mma.algorithms(problem)]


def test_tiles_are_offered_where_they_compute_the_problem():
    wide = [(128, 128), (128, 64), (64, 64)]
    assert offered("vgg") == offered("vgg", dtype="float32", precision="tf32") == wide
    assert offered("vgg", "dgrad") == wide
    assert offered("vgg", "wgrad") == [(128, 128), (64, 128), (64, 64)]
    assert offered("vgg", dtype="float32") == offered("vgg", dtype="float64") == []
    assert offered("vgg_first") == offered("channels_4") == [(128, 64)]  # packs of 8 bytes
    assert offered("vgg_first", "wgrad") == [(64, 128)]
    assert offered("vgg_first", dtype="float32", precision="tf32") == wide
    depthwise = Conv2dSize.of((1, 5, 5, 8), (8, 3, 3, 1), groups=8)
    assert mma.algorithms(Problem("fprop", depthwise, "bfloat16")) == ()
    t4, h100 = (candidates(Problem("fprop", size_of("vgg"), "bfloat16"), GPUS[g])
                for g in ("t4", "h100"))  # fmt: skip
    assert {a.family for a in t4} == {"simt"}
    assert "mma" in {a.family for a in h100}


@pytest.mark.parametrize(("dtype", "channels", "padded", "pack_bytes"), [
    ("bfloat16", 1, 4, 8), ("bfloat16", 3, 4, 8), ("bfloat16", 5, 8, 16), ("bfloat16", 12, 12, 8),
    ("bfloat16", 17, 24, 16), ("bfloat16", 41, 48, 16), ("bfloat16", 64, 64, 16),
    ("float32", 1, 2, 8), ("float32", 3, 4, 16), ("float32", 6, 6, 8), ("float32", 33, 36, 16),
])  # fmt: skip
def test_channels_are_padded_to_packs(dtype, channels, padded, pack_bytes):
    itemsize = {"bfloat16": 2, "float32": 4}[dtype]
    size = Conv2dSize.of((1, 5, 5, 2 * channels), (6, 3, 3, channels), groups=2)
    whole = packs.padded_size("fprop", size, itemsize)
    assert (whole.c, whole.k, whole.groups) == (2 * padded, 6, 2)
    assert packs.pack_bytes("fprop", whole, itemsize) == pack_bytes
    assert packs.padded_size("dgrad", size, itemsize).k == 2 * 4


def test_what_grows_beyond_an_index_is_left_to_others():
    size = Conv2dSize.of((1024, 1024, 1024, 1), (1, 1, 1, 1))
    assert mma.algorithms(Problem("fprop", size, "bfloat16")) == ()
    assert candidates(Problem("fprop", size, "bfloat16"), GPUS["h100"])


def test_launch_configurations():
    size = Conv2dSize.of((256, 14, 14, 256), (256, 3, 3, 128), stride=2, padding=1, groups=2)
    found = {}
    for verb in VERBS:
        algorithm = mma.algorithms(Problem(verb, size, "bfloat16"))[0]
        kernel, grid = getattr(mma, f"{verb}_configuration")(algorithm, size)
        found[verb] = kernel.block, kernel.shared_bytes, grid
    # 256 * 7 * 7 = 98 * 128 pixels, four phases of them; 9 * 128 taps.
    parts = mma.algorithms(Problem("wgrad", size, "bfloat16"))[0].splits
    assert 1 < parts <= 98 * 128 // 512
    assert found == {
        "fprop": (256, 4 * 256 * 64, 2 * 98),
        "dgrad": (256, 4 * 256 * 64, 4 * 2 * 98),
        "wgrad": (256, 4 * 256 * 64, (2 * 9, parts)),
    }


# ---- Machine code --------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "dtype", "instructions"), [
    ("fprop", "bfloat16", ("HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128")),
    ("dgrad", "bfloat16", ("HMMA.16816.F32.BF16", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128")),
    ("wgrad", "bfloat16", ("HMMA.16816.F32.BF16", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128")),
    ("fprop", "float32", ("HMMA.1688.F32.TF32", "LDSM.16.M88.4", "LDGSTS.E.BYPASS.128")),
    ("wgrad", "float32", ("HMMA.1688.F32.TF32", "LDGSTS.E.BYPASS.128")),
])  # fmt: skip
def test_machine_code_has_the_instructions(verb, dtype, instructions, tmp_path):
    pytest.importorskip("cupy")
    from convolt.kernels.cuda import compile as compiler

    kernel = getattr(mma, f"_{verb.upper()}")[128, 128]
    code = compiler.cubin(kernel.path, kernel.defines(STORAGE=dtype, PACK_BYTES=16), "sm_80").code
    text = disassemble(code, tmp_path)
    found = Counter(re.findall(r"\*/\s+(?:@!?U?P\d+\s+)?([A-Z][\w.]*)", text))
    for instruction in instructions:
        assert any(f.startswith(instruction) for f in found), f"{instruction}: {sorted(found)}"


def test_networks_are_many():
    assert len(NETWORKS) >= 40
    assert len(ALL) >= 60
