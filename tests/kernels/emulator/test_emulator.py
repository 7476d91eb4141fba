"""The emulator's own face: launches, options, counters, errors, the cache of compiled kernels."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from convolt.kernels import emulator
from convolt.kernels.backend import table
from convolt.kernels.emulator import build

PATTERNS = Path(__file__).with_name("patterns.cu")
ORDINARY = Path(__file__).with_name("ordinary.cu")
MODES = ["fast", "check"]
ORDERS = ["forward", "reverse", "unfair"]


@pytest.fixture(scope="module")
def program():
    if reason := build.why_not():
        pytest.skip(reason)
    return emulator.load(PATTERNS)


@pytest.fixture(params=MODES)
def mode(request):
    with emulator.options(mode=request.param):
        yield request.param


def checked(program, entry, grid, block, *arguments, **options):
    with emulator.options(mode="check"):
        return program.launch(entry, grid, block, *arguments, **options)


# ---- What runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_scalars_structs_and_arrays_arrive(program, mode, order, rng):
    x = rng.standard_normal(1000).astype(np.float32)
    y = np.full_like(x, np.nan)
    with emulator.options(order=order, seed=4):
        program.launch("axpb", 4, 256, x, y, {"n": 1000, "a": 2.0, "b": -0.5})
    assert np.array_equal(y, 2 * x - np.float32(0.5))


def test_threads_know_where_they_are(program, mode):
    out = np.full(2 * 3 * 2 * 4 * 3 * 5, -1, np.int32)
    program.launch("coordinates", (2, 3, 2), (4, 3, 5), out)
    expected = [1000 * block + thread for block in range(12) for thread in range(60)]
    assert out.tolist() == expected


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_order_shared_memory(program, mode, order, rng):
    x = rng.standard_normal(96).astype(np.float32)
    y = np.full_like(x, np.nan)
    with emulator.options(order=order, seed=1):
        program.launch("reverse_in_shared", 1, 96, x, y, shared_bytes=4 * 96)
    assert np.array_equal(y, x[::-1])


def test_warp_functions_are_cudas(program, mode):
    x = np.arange(32, dtype=np.int32)
    y = np.full((13, 32), -1, np.int32)
    program.launch("warp_functions", 1, 32, x, y)
    lane = np.arange(32)
    bits = [  # popc + clz + ffs
        v.bit_count() + 32 - v.bit_length() + (v & -v).bit_length() for v in x.tolist()
    ]
    expected = [
        np.full(32, 5),
        np.where(lane >= 3, lane - 3, lane),
        np.where(lane < 29, lane + 3, lane),
        lane ^ 7,
        np.where(lane % 8 < 6, lane + 2, lane),
        lane // 4 * 4 + 1,
        np.full(32, np.uint32(sum(1 << i for i in range(0, 32, 3))).astype(np.int32)),
        np.full(32, 3),
        np.full(32, 496),
        np.full(32, 31),
        bits,
        np.full(32, 116),
        np.zeros(32),
    ]
    assert np.array_equal(y, np.array(expected).astype(np.int32))


def test_atomics_count_once(program, mode, rng):
    x = rng.integers(0, 7, 5000).astype(np.int32)
    counts = np.zeros(7, np.int32)
    counters = program.launch("histogram", 1, 256, x, counts, x.size)
    assert np.array_equal(counts, np.bincount(x, minlength=7))
    assert counters.atomics == 5000


def test_many_blocks_on_many_os_threads(program, rng):
    x = rng.standard_normal(100_000).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        y = np.full_like(x, np.nan)
        with emulator.options(mode="fast", threads=threads):
            program.launch("axpb", 400, 256, x, y, {"n": x.size, "a": 1.0, "b": 3.0})
        results.append(y)
    assert np.array_equal(results[0], x + 3)
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


# ---- Counters --------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (0, 1)])
def test_a_warp_asks_for_sectors(program, stride, sectors):
    x, y = np.ones(32 * 8, np.float32), np.empty(32, np.float32)
    c = checked(program, "strided_read", 1, 32, x, y, stride)
    assert (c.global_read_bytes, c.global_read_sectors) == (128, sectors)
    assert (c.global_write_bytes, c.global_write_sectors) == (128, 4)
    distinct = 4 if stride == 0 else 128
    assert (c.distinct_read_bytes, c.distinct_read_sectors) == (distinct, sectors)


def test_two_warps_that_read_the_same_are_two_requests(program):
    x, y = np.ones(64, np.float32), np.empty(64, np.float32)
    c = checked(program, "strided_read", 1, 64, x, y, 0)
    assert (c.global_read_sectors, c.distinct_read_sectors) == (2, 1)


def test_a_vector_access_is_one_request(program):
    x, y = np.ones(128, np.float32), np.empty(128, np.float32)
    c = checked(program, "packed_copy", 1, 32, x, y)
    assert (c.global_read_bytes, c.global_read_sectors) == (512, 16)
    assert (c.global_write_bytes, c.global_write_sectors) == (512, 16)


@pytest.mark.parametrize(
    ("stride", "conflicts"), [(0, 0), (1, 0), (2, 1), (8, 7), (31, 0), (32, 31)]
)
def test_bank_conflicts(program, stride, conflicts):
    y = np.empty(32, np.float32)
    c = checked(program, "strided_shared", 1, 32, y, stride)
    assert c.bank_conflicts == conflicts
    assert c.shared_write_bytes == 4096
    assert c.shared_read_bytes == 128


def test_special_functions_and_barriers_are_counted(program):
    x, y = np.ones(64, np.float32), np.empty(64, np.float32)
    assert checked(program, "special", 1, 64, x, y).special_functions == 64
    assert checked(program, "reverse_in_shared", 1, 64, x, y, shared_bytes=256).barriers == 1


# ---- Errors ----------------------------------------------------------------------------------


def line_of(text):
    lines = PATTERNS.read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if text in line)
    return f"patterns.cu:{number}"


def test_an_access_past_the_end_names_thread_buffer_and_line(program):
    x, y = np.ones(4, np.float32), np.empty(32, np.float32)
    with pytest.raises(emulator.EmulatorError) as error:
        checked(program, "past_the_end", 1, 32, x, y, 1)
    message = str(error.value)
    assert "past_the_end: block (0,0,0) thread (31,0,0)" in message
    assert "4 bytes past the end of 'y' (128 bytes)" in message
    assert line_of("threadIdx.x) + n] = x[0]") in message


@pytest.mark.parametrize("side", ["start", "end"])
def test_guard_pages_stop_what_fast_mode_does_not_check(program, side):
    x = np.ones(4, np.float32)
    y = emulator.guarded(np.zeros(32, np.float32), side)
    with (
        emulator.options(mode="fast"),
        pytest.raises(emulator.EmulatorError, match=r"invalid memory access.*'y'"),
    ):
        program.launch("past_the_end", 1, 32, x, y, 1 if side == "end" else -1)


def test_a_guarded_copy_is_an_array_like_any_other(rng):
    for shape in [(), (0,), (3, 5), (1000, 7)]:
        array = rng.standard_normal(shape)
        assert np.array_equal(emulator.guarded(array), array)
    with pytest.raises(ValueError, match="side"):
        emulator.guarded(array, "middle")


def test_a_deadlock_is_told_by_groups_of_threads(program, mode):
    with (
        emulator.options(strict=False),
        pytest.raises(emulator.EmulatorError, match=r"divergent barrier|deadlock") as error,
    ):
        program.launch("deadlock", 1, 64, np.zeros(1, np.float32))
    assert "patterns.cu:" in str(error.value)


def test_a_kernel_that_never_ends_is_stopped(program, mode):
    x, y = np.zeros(1, np.float32), np.zeros(1, np.float32)
    with (
        emulator.options(timeout_s=0.3),
        pytest.raises(emulator.EmulatorError, match="timeout"),
    ):
        program.launch("never_ends", 1, 1, x, y)


def test_after_an_error_the_next_launch_is_right(program, mode):
    x = np.ones(32, np.float32)
    y = np.zeros(32, np.float32)
    with pytest.raises(emulator.EmulatorError):
        checked(program, "past_the_end", 1, 32, x, y, 1)
    program.launch("strided_read", 1, 32, x, y, 1)
    assert np.array_equal(x, y)


def test_ctrl_c_ends_a_launch(program, mode):
    x, y = np.zeros(1, np.float32), np.zeros(1, np.float32)
    program.launch("strided_read", 1, 1, x, y, 0)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with emulator.options(timeout_s=30), pytest.raises(KeyboardInterrupt):
        program.launch("never_ends", 1, 1, x, y)


def test_a_trap_and_a_stack_overflow_are_errors(program, mode):
    y = np.arange(32, dtype=np.int32)
    with pytest.raises(emulator.EmulatorError, match=r"thread \(5,0,0\): __trap at .*\.cu:"):
        program.launch("traps", 1, 32, y)
    program.launch("recurses", 1, 2, y, 10)
    assert y[:2].tolist() == [55, 55]
    with pytest.raises(emulator.EmulatorError, match="stack overflow"):
        program.launch("recurses", 1, 2, y, 100_000)


RACES = [
    (
        "reads_then_another_block_writes",
        2,
        2,
        np.float32,
        2,
        "in the same launch",
    ),
    ("syncs_a_warp_not_the_block", 1, 64, np.float32, 1, "data race on static shared memory"),
    ("bytes_of_a_word", 1, 64, np.uint8, 1, "data race on static shared memory"),
    ("reads_what_others_add_to", 1, 64, np.int32, 2, "data race on 'count'"),
    ("reads_anothers_variable", 1, 2, np.float32, 1, "a local variable of another thread"),
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("entry", "grid", "block", "dtype", "arrays", "found"), RACES)
def test_races_that_the_last_access_does_not_show(
    program, entry, grid, block, dtype, arrays, found, order
):
    given = [np.zeros(64, dtype) for _ in range(arrays)]
    with emulator.options(order=order), pytest.raises(emulator.EmulatorError, match=found) as error:
        checked(program, entry, grid, block, *given)
    assert re.search(r"patterns\.cu:\d+", str(error.value))


def test_addresses_that_belong_to_no_array_are_named(program):
    x, y = np.zeros(32, np.int32), np.zeros(32, np.float32)
    with pytest.raises(emulator.EmulatorError, match="__device__ variable"):
        checked(program, "writes_a_variable", 1, 32, x)
    with pytest.raises(emulator.EmulatorError, match="null pointer"):
        checked(program, "strided_read", 1, 32, None, y, 1)


# ---- CUDA files of others --------------------------------------------------------------------


def test_an_ordinary_file_runs_as_it_is(mode, rng):
    import ml_dtypes

    program = emulator.load(ORDINARY)
    x, y = rng.integers(-9, 9, (2, 64)).astype(np.float32)
    expected = 2 * x + y
    program.launch("saxpy", [2], [32], x.size, 2.0, x, y)
    assert np.array_equal(y, expected)
    program.launch("reversed", 1, 64, x, y, shared_bytes=256)
    assert np.array_equal(y, x[::-1])
    program.launch("tree_sum", 1, 64, x, y, shared_bytes=256)
    assert y[0] == x.sum()
    a, b = rng.integers(-4, 5, (2, 16, 16)).astype(np.float32)
    c = np.full_like(a, np.nan)
    program.launch("multiply", (2, 2), (8, 8), a, b, c, 16)
    assert np.array_equal(c, a @ b)
    program.launch("halves", 1, 64, x.astype(np.float16), x.astype(ml_dtypes.bfloat16), y)
    assert np.array_equal(y, 3 * x)
    program.launch("copies", 1, 64, x, y, 60)
    assert np.array_equal(y[:60], x[:60])
    assert not y[60:].any()
    flag, seen = np.zeros(1, np.int32), np.full(64, -1, np.int32)
    program.launch("waits_for_a_flag", 1, 64, flag, seen)
    assert flag == 1
    assert not seen.any()
    lock = np.zeros(1, np.uint16)
    program.launch("loads", 1, 32, x, y, lock)
    assert np.array_equal(y[:32], x[:32] + x[31::-1])
    assert lock == 32


def test_its_mistakes_are_found():
    program = emulator.load(ORDINARY)
    x, y, i = np.ones(8, np.float32), np.zeros(64, np.float32), np.zeros(9, np.int32)
    with pytest.raises(emulator.EmulatorError, match="read of 36 bytes, 4 bytes past the end"):
        checked(program, "copies", 1, 64, x, y, 9)
    with pytest.raises(emulator.EmulatorError, match=r"thread \(7,0,0\): assert\(threadIdx"):
        program.launch("asserts", 1, 9, i)
    with pytest.raises(emulator.EmulatorError, match="shared_bytes=0"):
        program.launch("tree_sum", 1, 8, x, y)
    with pytest.raises(emulator.EmulatorError, match=r"ordinary\.cu:\d+"):
        checked(program, "loads", 1, 32, x, y, np.zeros(1, np.uint16))
    with pytest.raises(emulator.EmulatorError, match=r"undefined .*defined_elsewhere"):
        emulator.load(ORDINARY, UNDEFINED=1).launch("asserts", 1, 1, i)
    with pytest.raises(ValueError, match="a template has no name"):
        program.launch("not_launched_by_name", 1, 1, y)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("__global__ void f(int* y) {}\nint main() { f<<<1, 1>>>(0); }", "no host code"),
        ('__global__ void f(int* y) { asm volatile("bar.sync 0;"); }', "no inline PTX"),
        ("#include <cub/cub.cuh>\n__global__ void f(int* y) {}", "no CUDA libraries"),
        ("extern __shared__ int s[];\n__global__ void f(int* y) {}", "inside the kernel"),
    ],
)
def test_what_cannot_run_says_what_to_do(tmp_path, text, says):
    source = tmp_path / "foreign.cu"
    source.write_text(text)
    with pytest.raises(emulator.EmulatorError, match=says):
        emulator.load(source).launch("f", 1, 1, np.zeros(1, np.int32))


def test_wrong_arguments_are_refused_before_anything_runs(program):
    x, y = np.ones(32, np.float32), np.zeros(32, np.float32)
    with pytest.raises(TypeError, match="2 arguments given, 3 needed"):
        program.launch("strided_read", 1, 32, x, y)
    with pytest.raises(TypeError, match="float32, got float64"):
        program.launch("strided_read", 1, 32, x.astype(np.float64), y, 1)
    with pytest.raises(TypeError, match="takes an int"):
        program.launch("strided_read", 1, 32, x, y, 1.5)
    with pytest.raises(ValueError, match="no entry point"):
        program.launch("stride_read", 1, 32, x, y, 1)
    with pytest.raises(ValueError, match="cannot be launched"):
        program.launch("strided_read", 1, 2048, x, y, 1)
    with pytest.raises(ValueError, match="one to three ints"):
        program.launch("strided_read", (1, 1, 1, 1), 32, x, y, 1)
    with pytest.raises(ValueError, match="cannot be launched"):
        program.launch("strided_read", (1, 65536), 32, x, y, 1)
    with pytest.raises(ValueError, match="shared_bytes"):
        program.launch("strided_read", 1, 32, x, y, 1, shared_bytes=1 << 20)
    assert not y.any()


def test_options_name_what_they_allow():
    for option in ({"mode": "slow"}, {"order": "random"}, {"asynchronous": "late"}):
        with pytest.raises(ValueError, match="must be one of"), emulator.options(**option):
            pass
    with pytest.raises(TypeError), emulator.options(speed=1):
        pass


def test_record_keeps_what_ran(program):
    x, y = np.ones(32, np.float32), np.zeros(32, np.float32)
    with emulator.record() as launches:
        program.launch("strided_read", 1, 32, x, y, 1)
    (launch,) = launches
    assert (launch.entry, launch.grid, launch.block) == ("strided_read", (1, 1, 1), (32, 1, 1))
    assert launch.path == PATTERNS
    assert [a.parameter.name for a in launch.arguments] == ["x", "y", "stride"]


def test_records_may_be_nested(program):
    x, y = np.ones(32, np.float32), np.zeros(32, np.float32)
    with emulator.record() as outer:
        with emulator.record() as inner:
            program.launch("strided_read", 1, 32, x, y, 1)
        program.launch("strided_read", 1, 32, x, y, 1)
    assert (len(inner), len(outer)) == (1, 2)


# ---- Compilation -----------------------------------------------------------------------------


def test_a_compile_error_has_file_and_line(tmp_path):
    source = tmp_path / "broken.cu"
    source.write_text('extern "C" __global__ void f(float* y) {\n  y[0] = undeclared;\n}\n')
    with pytest.raises(emulator.EmulatorError, match=r"broken\.cu:2:.*undeclared"):
        emulator.load(source).launch("f", 1, 1, np.zeros(1, np.float32))


def test_without_a_compiler_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "apt install g++" in build.why_not()
    assert "no-such-compiler" in table()


COMPILE_AND_RUN = """
import sys
import numpy as np
from convolt.kernels import emulator
from convolt.kernels.emulator import build
if sys.argv[2] == "again":
    def refuse(*_):
        raise AssertionError("compiles again")
    build._run = refuse
x, y = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
emulator.load(sys.argv[1]).launch("strided_read", 1, 32, x, y, 1)
assert (x == y).all()
"""


def test_a_second_process_compiles_nothing(tmp_path):
    environment = os.environ | {"CONVOLT_CACHE_DIR": str(tmp_path)}
    for when in ("first", "again"):
        command = [sys.executable, "-c", COMPILE_AND_RUN, str(PATTERNS), when]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_an_unknown_mode_in_the_environment_is_an_error():
    environment = os.environ | {"CONVOLT_EMULATOR": "thorough"}
    command = [sys.executable, "-c", COMPILE_AND_RUN, str(PATTERNS), "first"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "CONVOLT_EMULATOR" in done.stderr
    assert "fast, check" in done.stderr


def test_portable_switching_gives_the_same(tmp_path):
    """Without the assembler for x86-64: by ucontext."""
    patch = 'build._COMMON = (*build._COMMON, "-DEMULATOR_UCONTEXT")\n'
    code = COMPILE_AND_RUN.replace("x, y =", patch + "x, y =")
    code = code.replace(
        'launch("strided_read", 1, 32, x, y, 1)',
        'launch("reverse_in_shared", 1, 32, x, y, shared_bytes=128)',
    )
    code = code.replace("(x == y)", "(x[::-1] == y)")
    environment = os.environ | {"CONVOLT_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(PATTERNS), "first"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
