"""Bugs planted into small kernels: each is found, and the kernels without them pass.

``bugs/*.cu`` are compiled with -DPLANT=n; n = 0 is right. A bug counts as found when the emulator
reports it, naming thread, file and line, when the result differs from NumPy's, or when a counter
shows it. In mode fast that depends on the schedule; mode check sees most of it in any schedule.
"""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from convolt.kernels import emulator
from convolt.kernels.cuda import tensor_map

BUGS = Path(__file__).with_name("bugs")

FAST = (
    {"order": "forward", "asynchronous": "lazy"},
    {"order": "reverse", "asynchronous": "eager"},
    {"order": "unfair", "asynchronous": "random", "seed": 0},
    {"order": "unfair", "asynchronous": "lazy", "seed": 1},
    {"order": "unfair", "asynchronous": "eager", "seed": 2},
    {"order": "unfair", "asynchronous": "random", "seed": 3},
)
CHECK = (
    {"order": "forward", "asynchronous": "lazy"},
    {"order": "unfair", "asynchronous": "eager", "seed": 0},
    {"order": "unfair", "asynchronous": "random", "seed": 1},
)


class WrongResultError(Exception):
    """The kernel ended, and its result differs from NumPy's."""


def expect(got, reference):
    if not np.array_equal(got, reference):
        raise WrongResultError(
            f"{(got != reference).sum()} of {got.size}, {np.isnan(got).sum()} NaN"
        )


# ---- One launch of each kernel on fresh data; sums of small integers, exact in any order ---------


def integers(*shape, low=-4):
    return np.random.default_rng(sum(shape)).integers(low, 5, shape).astype(np.float32)


def given(x):
    return emulator.guarded(x)


def result(*shape):
    return emulator.guarded(np.full(shape, np.nan, np.float32))


def bfloat16(x):
    import ml_dtypes

    return given(x.astype(ml_dtypes.bfloat16))


def gemm_pipeline(program):
    m, n, k = 40, 30, 100
    a, b, y = integers(m, k), integers(n, k), result(m, n)
    size, ring_bytes = {"m": m, "n": n, "k": k}, 3 * 2 * 32 * 16 * 4
    counters = program.launch(
        "gemm", (2, 1), 64, given(a), given(b), y, size, shared_bytes=ring_bytes
    )
    expect(y, a @ b.T)
    return counters


def mma_fragments(program):
    a, b, y = integers(16, 32), integers(32, 16), result(16, 16)
    counters = program.launch("multiply", 1, 32, bfloat16(a), bfloat16(b), y)
    expect(y, a @ b)
    return counters


def channel_sums(program):
    x, partial = integers(300, 3), result(2, 2, 3)
    counters = program.launch("channel_sums", (3, 2), 128, given(x), partial, *x.shape)
    expect(partial.sum(1), np.stack([x.sum(0), (x * x).sum(0)]))
    return counters


def rounded_sums(program):
    x, partial = np.random.default_rng(0).random((1024, 1), np.float32), result(2, 1, 1)
    program.launch("channel_sums", (1, 1), 128, given(x), partial, *x.shape)
    return partial.tobytes()


def transpose(program):
    x, y = integers(60, 70), result(70, 60)
    counters = program.launch("transpose", 6, 256, given(x), y, *x.shape)
    expect(y, x.T)
    return counters


def max_pool(program):
    n, h, w, c = 2, 9, 7, 8
    p, q = 5, 4
    x, y = integers(n, h, w, c), result(n, p, q, c)
    size = {"n": n, "h": h, "w": w, "c": c, "p": p, "q": q}
    frozen = given(x)
    counters = program.launch(
        "max_pool", -(-y.size // 128), 128, frozen, y, 2**31 // (h * w * c), size
    )
    expect(frozen, x)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    expect(y, padded.reshape(n, p, 2, q, 2, c).max((2, 4)))
    return counters


def histogram(program, log2_bins=5):
    x = np.random.default_rng(0).integers(0, 256, 300).astype(np.uint8)
    bins = 1 << log2_bins
    counts = emulator.guarded(np.zeros(bins, np.int32))
    counters = program.launch("histogram", 3, 128, given(x), counts, x.size, log2_bins)
    expect(counts, np.bincount(x >> max(0, 8 - log2_bins), minlength=bins))
    return counters


def many_bins(program):
    return histogram(program, log2_bins=9)


def warp_scan(program):
    x, y = integers(2, 32), result(2, 32)
    counters = program.launch("scan", 1, 64, given(x), y)
    expect(y, x.cumsum(1))
    return counters


def tma_pipeline(program):
    tiles = 5
    x, y = integers(tiles * 32 - 5, 32), result(tiles * 32 - 5, 32)
    maps = [tensor_map.tiled(v, (16, 32)) for v in (given(x), y)]
    counters = program.launch("twice", 1, 160, *maps, tiles, shared_bytes=3 * 4096 + 128)
    expect(y, 2 * x)
    return counters


def wgmma_loop(program):
    steps = 5
    a, b, y = integers(64, 64 * steps), integers(64, 64 * steps)[::-1], result(64, 64)
    maps = [tensor_map.tiled(bfloat16(v), (64, 64), swizzle_bytes=128) for v in (a, b)]
    counters = program.launch("multiply", 1, 128, *maps, y, steps, shared_bytes=4 * 8192 + 1024)
    expect(y, a @ b.T)
    return counters


def handoff(program):
    x, y = integers(7, 64), result(7, 64)
    counters = program.launch("twice", 1, 128, given(x), y, 7)
    expect(y, 2 * x[:, ::-1])
    return counters


def sgd_step(program):
    p, g = integers(1001), integers(1001, low=-2)
    got, rate = given(p), np.float32([0.5])
    ticket = np.zeros(1, np.int32)
    counters = program.launch("sgd_step", 2, 128, got, given(g), given(rate), ticket, p.size)
    expect(got, p - rate * g)
    return counters


# ---- The bugs ------------------------------------------------------------------------------------

WRONG = "wrong result"
RACE = r"(data race on|read of uninitialised) \w+ shared memory"
TIMEOUT = "timeout"
GLOBAL_RACE = r"data race on '\w+'"


@dataclass(frozen=True)
class Plant:
    """A bug: where, what, in which mode it has to be found, and how it shows there."""

    run: Callable
    number: int
    what: str
    mode: str
    found: str  # WRONG, a pattern of the error, or a bound on a counter
    file: str = ""

    @property
    def source(self):
        return self.file or self.run.__name__


PLANTS = [
    Plant(gemm_pipeline, 1, "no barrier before reading what others have copied", "check", RACE),
    Plant(gemm_pipeline, 2, "no wait for cp.async", "check", "has not been waited for"),
    Plant(gemm_pipeline, 3, "wait one group short", "fast", WRONG),
    Plant(gemm_pipeline, 4, "stage refilled before the barrier", "fast", WRONG),
    Plant(gemm_pipeline, 5, "off by one at the edge, reading", "fast", "out of bounds: read"),
    Plant(
        gemm_pipeline,
        6,
        "off by one at the edge, storing",
        "check",
        "out of bounds: write|data race",
    ),
    Plant(gemm_pipeline, 8, "dynamic shared memory used past its end", "check", "shared memory"),
    Plant(gemm_pipeline, 9, "overlapping regions of shared memory", "fast", WRONG),
    Plant(gemm_pipeline, 10, "last row of a tile not written", "fast", WRONG),
    Plant(mma_fragments, 1, "wrong lane layout of a result", "fast", WRONG),
    Plant(mma_fragments, 2, "ldmatrix: matrices in the wrong order", "fast", WRONG),
    Plant(mma_fragments, 3, "ldmatrix without .trans", "fast", WRONG),
    Plant(mma_fragments, 4, "no __syncwarp before ldmatrix", "check", RACE),
    Plant(mma_fragments, 5, "bank conflicts of ldmatrix", "check", "bank_conflicts > 20"),
    Plant(mma_fragments, 6, "uninitialised accumulators", "fast", WRONG),
    Plant(channel_sums, 1, "no barrier before reading the warps' sums", "fast", WRONG),
    Plant(channel_sums, 2, "shuffle whose mask does not name its callers", "fast", "mask"),
    Plant(channel_sums, 3, "full-mask shuffle in a branch", "fast", "deadlock|divergent"),
    Plant(channel_sums, 4, "static shared array used past its end", "fast", "bounds|index"),
    Plant(channel_sums, 6, "reduction over half of a warp", "fast", WRONG),
    Plant(channel_sums, 7, "no barrier before the next use of shared memory", "check", RACE),
    Plant(channel_sums, 8, "sum of all blocks in one place, not atomic", "check", GLOBAL_RACE),
    Plant(channel_sums, 9, "two blocks write one element", "check", GLOBAL_RACE),
    Plant(transpose, 1, "uncoalesced writes", "check", "global_write_sectors > 2000"),
    Plant(transpose, 2, "bank conflicts", "check", "bank_conflicts > 1000"),
    Plant(transpose, 3, "no barrier between writing and reading a tile", "check", RACE),
    Plant(transpose, 4, "off by one at the edge, reading", "check", "out of bounds: read"),
    Plant(transpose, 5, "tiles of the last columns not covered", "fast", WRONG),
    Plant(max_pool, 1, "window runs past the bottom of the image", "check", "out of bounds: read"),
    Plant(max_pool, 2, "index overflows int", "check", "out of bounds: read"),
    Plant(max_pool, 3, "negative results not written", "fast", WRONG),
    Plant(max_pool, 4, "write through a pointer to const", "check", "const"),
    Plant(max_pool, 5, "last block of the grid does nothing", "fast", WRONG),
    Plant(histogram, 1, "shared counter incremented without an atomic", "check", RACE),
    Plant(histogram, 2, "shared memory read before it is written", "check", "uninitialised"),
    Plant(histogram, 3, "no barrier between clearing and counting", "fast", WRONG),
    Plant(histogram, 4, "two threads of a block add to one element", "check", GLOBAL_RACE),
    Plant(histogram, 5, "barrier after some threads have left", "fast", "exited"),
    Plant(histogram, 6, "barrier in a branch", "fast", "divergent"),
    Plant(many_bins, 7, "shift by a negative number", "check", "shift", "histogram"),
    Plant(many_bins, 8, "division by zero", "check", "divi", "histogram"),
    Plant(warp_scan, 1, "no __syncwarp before reading a neighbour's sum", "check", RACE),
    Plant(warp_scan, 2, "shuffle used as if it ordered memory", "check", RACE),
    Plant(warp_scan, 3, "no __syncwarp before overwriting", "check", RACE),
    Plant(tma_pipeline, 1, "no wait for an empty slot", "fast", WRONG + "|more arrivals|deadlock"),
    Plant(
        tma_pipeline,
        2,
        "parity of the full barrier inverted",
        "fast",
        WRONG + "|deadlock|more arrivals",
    ),
    Plant(tma_pipeline, 3, "slot released before it was read", "fast", WRONG),
    Plant(tma_pipeline, 4, "fewer bytes expected than come", "fast", WRONG),
    Plant(tma_pipeline, 5, "staging tile rewritten before its store has read it", "fast", WRONG),
    Plant(tma_pipeline, 6, "no barrier between writing a tile and storing it", "fast", WRONG),
    Plant(tma_pipeline, 7, "more bytes expected than come", "fast", "deadlock"),
    Plant(tma_pipeline, 8, "too few arrivals free a slot", "check", RACE + "|not been waited for"),
    Plant(tma_pipeline, 9, "exit without waiting for stores", "fast", "never waited for"),
    Plant(wgmma_loop, 1, "result of wgmma read before its wait", "fast", WRONG),
    Plant(wgmma_loop, 2, "slot refilled before wgmma has read it", "check", "not been waited for"),
    Plant(wgmma_loop, 3, "wrong step of a descriptor", "fast", WRONG),
    Plant(handoff, 1, "arrive instead of sync at a named barrier", "fast", "deadlock"),
    Plant(handoff, 2, "no wait for an empty buffer", "fast", WRONG + "|deadlock"),
    Plant(handoff, 3, "named barrier with two thread counts", "fast", "is used with"),
    Plant(sgd_step, 1, "misaligned vector access", "check", "align"),
    Plant(sgd_step, 2, "vectors run over the end of the array", "check", "out of bounds"),
    Plant(sgd_step, 3, "two threads of a block write one element", "check", GLOBAL_RACE),
    Plant(sgd_step, 4, "wait for something that never happens", "fast", TIMEOUT),
]


@cache
def program(source, plant):
    return emulator.load(BUGS / f"{source}.cu", PLANT=plant)


def outcome(plant):
    """What came of running the plant once: an error's text, or "" when all is well."""
    try:
        counters = plant.run(program(plant.source, plant.number))
    except WrongResultError as error:
        return f"{WRONG}: {error}"
    except emulator.EmulatorError as error:
        return str(error)
    if match := re.fullmatch(r"(\w+) > (\d+)", plant.found):
        return plant.found if getattr(counters, match[1]) > int(match[2]) else ""
    return ""


@pytest.mark.parametrize("plant", PLANTS, ids=lambda p: f"{p.source}-{p.number}")
def test_planted_bug_is_found(plant):
    seen = []
    for options in FAST if plant.mode == "fast" else CHECK:
        seconds = 0.3 if plant.found == TIMEOUT else 10
        with emulator.options(mode=plant.mode, timeout_s=seconds, threads=1, **options):
            seen.append(outcome(plant))
        if seen[-1] == plant.found or re.search(plant.found, seen[-1]):
            break
    else:
        pytest.fail(f"{plant.what}: not found as {plant.found!r}, but {seen}")
    if plant.mode == "check" and not re.match(WRONG + r"|\w+ >", seen[-1]):
        assert re.search(r"block \(\d+,\d+,\d+\) thread \(\d+,\d+,\d+\)", seen[-1]), seen[-1]
        assert re.search(r"\.cuh?:\d+", seen[-1]), seen[-1]


def test_float_atomics_depend_on_the_schedule():
    results = set()
    for seed in range(20):
        with emulator.options(order="unfair", seed=seed):
            results.add(rounded_sums(program("channel_sums", 5)))
    assert len(results) > 1
    with ExitStack() as stack:
        right = set()
        for seed in range(20):
            stack.enter_context(emulator.options(order="unfair", seed=seed))
            right.add(rounded_sums(program("channel_sums", 0)))
    assert len(right) == 1


KERNELS = sorted({p.run.__name__: p for p in PLANTS}.values(), key=lambda p: p.run.__name__)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda p: p.run.__name__)
def test_without_a_plant_every_schedule_is_right(kernel):
    right = program(kernel.source, 0)
    for mode, seeds in (("fast", range(100)), ("check", range(4))):
        for seed in seeds:
            times = ("lazy", "eager", "random")[seed % 3]
            with emulator.options(
                mode=mode, order="unfair", seed=seed, asynchronous=times, timeout_s=20, threads=1
            ):
                counters = kernel.run(right)
    for plant in (p for p in PLANTS if p.run is kernel.run):
        if match := re.fullmatch(r"(\w+) > (\d+)", plant.found):
            assert getattr(counters, match[1]) <= int(match[2]), plant.what


def test_every_file_has_its_numbers():
    """Each PLANT in a file is in the list, each in the list in its file."""
    assert len(PLANTS) >= 34
    for path in BUGS.glob("*.cu"):
        planted = {int(n) for n in re.findall(r"PLANT [!=]= (\d+)", path.read_text())} - {0}
        listed = {p.number for p in PLANTS if p.source == path.stem}
        if path.stem == "channel_sums":
            listed.add(5)  # test_float_atomics_depend_on_the_schedule
        assert planted == listed, path.name


@pytest.mark.parametrize("path", sorted(BUGS.glob("*.cu")), ids=lambda p: p.stem)
def test_kernels_are_valid_cuda(path):
    pytest.importorskip("cupy")
    from convolt.kernels.cuda import compile as compiler

    assert compiler.cubin(path, {"PLANT": "0"}, "sm_90a").code
