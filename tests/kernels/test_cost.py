"""The model of cost: what it counts is what is launched; what it predicts hangs together."""

from dataclasses import fields, replace

import ml_dtypes
import numpy as np
import pytest

from convolt.kernels.conv2d import Conv2dSize, wgmma
from convolt.kernels.conv2d.algorithm import VERBS, Algorithm, Problem
from convolt.kernels.conv2d.choice import FAMILIES, candidates
from convolt.kernels.conv2d.cost import floors_s, least_bytes, predict, products, splits, work
from convolt.kernels.cuda.cost import PARTS
from convolt.kernels.cuda.gpu import GPUS
from convolt.kernels.cuda.launch import Kernel

H100 = GPUS["h100"]
DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": ml_dtypes.bfloat16}


def problem(verb, x, w, dtype="bfloat16", precision="ieee", **window):
    return Problem(verb, Conv2dSize.of(x, w, **window), dtype, precision)


def square(size):
    """A product of square matrices, as a convolution."""
    return problem("fprop", (size, 1, 1, size), (size, 1, 1, size))


# ---- Calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "algorithm", "teraflops"),
    [
        # fast.cu, on an H100: https://github.com/pranjalssh/fast.cu
        (4096, Algorithm("wgmma", 128, 256, 64), 763),
        (8192, Algorithm("wgmma", 128, 256, 64), 808),
        # What kernels with mma.sync reach there.
        (4096, Algorithm("mma", 128, 128, 32), 400),
        (8192, Algorithm("mma", 128, 128, 32), 400),
    ],
)
def test_products_of_matrices_take_the_published_times(size, algorithm, teraflops):
    time_s = predict(square(size), algorithm, H100).time_s
    assert 2 * size**3 / time_s / 1e12 == pytest.approx(teraflops, rel=0.15)


# ---- What is counted -----------------------------------------------------------------------------

LAUNCHED = {
    "3x3": ((4, 14, 14, 64), (128, 3, 3, 64), {"padding": 1}),
    "1x1": ((4, 28, 28, 128), (256, 1, 1, 128), {}),
    "1x1 stride 2": ((4, 28, 28, 128), (64, 1, 1, 128), {"stride": 2}),
    "3x3 stride 2": ((4, 28, 28, 64), (128, 3, 3, 64), {"stride": 2, "padding": 1}),
    "few channels": ((2, 30, 30, 3), (64, 5, 5, 3), {"stride": 2, "padding": 2}),
    "no packs": ((2, 14, 14, 37), (50, 3, 3, 37), {"padding": 1}),
    "groups": ((2, 14, 14, 64), (128, 3, 3, 16), {"groups": 4, "padding": 1}),
    "depthwise": ((2, 14, 14, 64), (64, 3, 3, 1), {"groups": 64, "padding": 1}),
}


@pytest.fixture
def launches(monkeypatch):
    """Collect (kernel, grid, arguments, constants) of what is launched; nothing runs."""
    collected = []

    def launch(self, grid, *arguments, shared_bytes=None, **constants):
        collected.append((self, grid, arguments, constants))

    monkeypatch.setattr(Kernel, "launch", launch)
    return collected


def operands(asked):
    size = asked.size
    x, w, y = (np.empty(s, DTYPES[asked.dtype]) for s in (size.x_shape, size.w_shape, size.y_shape))
    return {"fprop": (x, w, None, y), "dgrad": (y, w, x), "wgrad": (y, x, w)}[asked.verb]


def all_launched():
    for name, (x, w, window) in LAUNCHED.items():
        for verb in VERBS:
            for dtype, precision in [
                ("bfloat16", "ieee"),
                ("float32", "tf32"),
                ("float64", "ieee"),
            ]:
                asked = problem(verb, x, w, dtype, precision, **window)
                for algorithm in candidates(asked, H100):
                    yield pytest.param(
                        asked, algorithm, id=f"{name}-{verb}-{dtype}-{algorithm.name}"
                    )


@pytest.mark.parametrize(("asked", "algorithm"), list(all_launched()))
def test_counts_are_those_of_the_launches(asked, algorithm, launches):
    counted = work(asked, algorithm)
    family = FAMILIES[algorithm.family]
    getattr(family, asked.verb)(algorithm, *operands(asked), asked.size)
    adding = launches.pop() if algorithm.splits > 1 else None
    assert len(launches) == len(counted.tiles)
    tiles = [made(grid, arguments) for _, grid, arguments, _ in launches]
    assert tuple(tiles) == counted.tiles

    def traffic(launched, **options):
        kernel, grid, arguments, constants = launched
        return np.array(kernel.traffic(grid, *arguments, **constants, **options))

    reads, _ = sum(map(traffic, launches))
    assert counted.l2_bytes == pytest.approx(reads, rel=0.1)
    added_up = 0
    if adding:
        partial_bytes, added_up = traffic(adding)
        assert counted.partial_bytes == partial_bytes
    else:
        assert not counted.partial_bytes
    if all(kernel.entry_point.formula("dram_reads") for kernel, *_ in launches):
        moved = sum(sum(traffic(launched, dram=True)) for launched in launches)
        dram_bytes = moved - counted.partial_bytes + added_up
        assert counted.dram_bytes <= 1.1 * dram_bytes
        if least_bytes(asked) == asked.size.bytes(operands(asked)[0].itemsize):
            assert counted.dram_bytes >= 0.9 * dram_bytes  # else some formulas count all of x


def made(grid, arguments):
    """Tiles of a launch: of its blocks one each, if its argument does not say how many."""
    said = [argument.tiles for argument in arguments if hasattr(argument, "tiles")]
    return said[0] if said else int(np.prod(grid))


def test_tiles_that_wgmma_computes_in_turns_hide_their_ends():
    for tiles, verb in ((wgmma._PIXEL_TILES, "fprop"), (wgmma._FILTER_TILES, "wgrad")):
        for tile, plan in tiles.items():
            counted = work(problem(verb, *LAUNCHED["1x1"][:2]), Algorithm("wgmma", *tile, 64))
            assert (counted.exposed < 1) == plan.ping_pong, tile


def test_phases_of_a_dgrad_have_all_taps_and_pixels_between_them():
    for x, w, window in LAUNCHED.values():
        asked = problem("dgrad", x, w, **window)
        size, found = asked.size, list(products(asked))
        assert sum(p.m for p in found) == size.n * size.h * size.w
        assert sum(p.taps for p in found) == size.r * size.s


def test_least_bytes_leave_out_pixels_that_no_tap_meets():
    x, w = (2, 28, 28, 64), (32, 1, 1, 64)
    image, filters, result = 2 * 28 * 28 * 64, 32 * 64, 2 * 14 * 14 * 32
    fprop, dgrad = (problem(verb, x, w, stride=2) for verb in ("fprop", "dgrad"))
    assert least_bytes(fprop) == 2 * (image // 4 + filters + result)
    assert least_bytes(dgrad) == 2 * (image + filters + result) == dgrad.size.bytes(2)
    whole = problem("wgrad", x, (32, 3, 3, 64), stride=2, padding=1)
    assert least_bytes(whole) == whole.size.bytes(2)


# ---- What is predicted ---------------------------------------------------------------------------


def predictions():
    for _, (x, w, window) in LAUNCHED.items():
        for verb in VERBS:
            asked = problem(verb, x, w, **window)
            for algorithm in candidates(asked, H100):
                yield asked, algorithm, predict(asked, algorithm, H100)


def test_the_parts_explain_the_time():
    for _, _, found in predictions():
        parts = found.parts
        assert tuple(parts) == PARTS == tuple(f.name for f in fields(found))
        assert all(part >= 0 for part in parts.values())
        assert max(parts.values()) == parts[found.bound] <= found.time_s
        assert found.time_s <= sum(parts.values())
        core = max(found.mma, found.shared, found.issue) + found.fill + found.epilogue + found.tail
        overlapping = max(core, found.l2)
        longest = max(overlapping, found.dram)
        rest = found.time_s - found.launch - found.copies - found.sums
        assert longest * (1 - 1e-9) <= rest <= min(1.19 * longest, overlapping + found.dram) + 1e-12


def test_no_time_is_below_the_floors():
    for asked, _, found in predictions():
        assert found.time_s >= max(floors_s(asked, H100))


def test_more_operations_never_take_less_time():
    shapes = [(n, c, k) for n in (1, 4, 64) for c in (16, 64, 256) for k in (16, 64, 256)]
    for family, tile in [
        ("simt", (64, 64, 16)),
        ("mma", (128, 128, 32)),
        ("wgmma", (128, 128, 64)),
    ]:
        for verb in VERBS:
            times_s = {}
            for n, c, k in shapes:
                asked = problem(verb, (n, 14, 14, c), (k, 3, 3, c), padding=1)
                times_s[n, c, k] = predict(asked, Algorithm(family, *tile), H100).time_s
            for small in shapes:
                for large in shapes:
                    if all(a <= b for a, b in zip(small, large, strict=True)):
                        assert times_s[small] <= times_s[large], (family, verb, small, large)


@pytest.mark.parametrize(
    "better",
    [
        "dram_bytes_s",
        "l2_bytes_s",
        "clock_hz",
        "shared_bytes_cycle",
        "wgmma_flops_cycle",
        "l2_bytes",
    ],
)
def test_a_better_gpu_is_never_slower(better):
    gpu = replace(H100, **{better: 2 * getattr(H100, better)})
    for asked, algorithm, found in predictions():
        assert predict(asked, algorithm, gpu).time_s <= found.time_s


def test_more_dram_bandwidth_helps_what_it_bounds():
    asked = problem("fprop", (256, 56, 56, 64), (256, 1, 1, 64))
    algorithm = Algorithm("wgmma", 128, 128, 64)
    here, there = (predict(asked, algorithm, GPUS[name]) for name in ("h100", "h200"))
    assert here.bound == "dram"
    assert there.time_s < 0.8 * here.time_s


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_every_gpu_has_floors_and_a_time_for_every_dtype(gpu):
    for dtype, precision in [("bfloat16", "ieee"), ("float32", "tf32"), ("float64", "ieee")]:
        asked = problem("fprop", (8, 14, 14, 64), (64, 3, 3, 64), dtype, precision, padding=1)
        for algorithm in candidates(asked, gpu):
            found = predict(asked, algorithm, gpu)
            assert 0 < max(floors_s(asked, gpu)) < found.time_s < 1


def test_sums_are_split_where_that_takes_less_time():
    x, w = (256, 14, 14, 256), (256, 3, 3, 256)
    whole = Algorithm("mma", 128, 128, 32)
    asked = problem("wgrad", x, w, padding=1)
    parts = splits(asked, whole, 512)
    tiles = 2 * 18
    assert parts * tiles / H100.sms % 1 > 0.9 or parts * tiles % H100.sms == 0
    split_s, whole_s = (predict(asked, replace(whole, splits=n), H100).time_s for n in (parts, 1))
    assert split_s < 0.5 * whole_s
    assert splits(problem("wgrad", (1, 14, 14, 256), w, padding=1), whole, 512) == 1
    assert splits(problem("wgrad", (0, 14, 14, 256), w, padding=1), whole, 512) == 1


def test_an_empty_batch_costs_its_launches():
    for verb in VERBS:
        asked = problem(verb, (0, 14, 14, 64), (64, 3, 3, 64))
        for algorithm in candidates(asked, H100):
            assert predict(asked, algorithm, H100).time_s < 1e-3
