"""The threads of the CPU backend: they share loops, nest, fork and fail without harm."""

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from numba import prange, types

from convolt.kernels.cpu.jit import jit, parallel_jit
from convolt.kernels.cpu.thread_count import get_num_threads, set_num_threads

ROWS = 64
_ident = types.ExternalFunction("PyThread_get_thread_ident", types.uintp())


@pytest.fixture(autouse=True)
def _number_of_threads():
    before = get_num_threads()
    yield
    set_num_threads(before)


@parallel_jit(worth_bytes=0)
def running_sums(x, y):
    width = x.shape[1]
    for row in prange(len(x)):
        total = y.dtype.type(0)
        for i in range(width):
            total += x[row, i]
            y[row, i] = total


@parallel_jit
def scale(x, y, factor):
    for row in prange(len(x)):
        _scale_row(x[row], y[row], factor)


@jit
def _scale_row(x, y, factor):
    for i in range(len(x)):
        y[i] = factor * x[i]


@parallel_jit
def who(turns, work):
    """Note the thread of each turn, which takes some 30 us an item of work."""
    for turn in prange(len(turns)):
        x = np.float64(turn)
        for _ in range(10_000 * work):
            x = np.sqrt(x + 2.0)
        turns[turn] = _ident() if x >= 0 else np.uint64(0)


@parallel_jit(worth_bytes=0)
def fill_by_way_of(scratch_size, y):
    for row in prange(len(y)):
        scratch = np.empty(scratch_size)
        scratch[0] = row
        y[row] = scratch[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [0, 1, 2, 13, ROWS])
def test_every_number_of_threads_gives_the_same_bytes(dtype, rows):
    x = np.random.default_rng(0).standard_normal((rows, 1000)).astype(dtype)
    results = []
    for threads in (1, 2, 3, 7):
        set_num_threads(threads)
        for _ in range(20):
            y = np.full_like(x, np.nan)
            running_sums(x, y)
            results.append(y.tobytes())
    assert set(results) == {x.cumsum(axis=1, dtype=dtype).tobytes()}


@pytest.mark.parametrize("size", [1, 100_000])  # below and above what is worth more threads
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_all_turns_are_taken_once(size, threads):
    set_num_threads(threads)
    y = np.zeros(size)
    for _ in range(50):
        add_one(y)
    assert (y == 50).all()


@parallel_jit
def add_one(y):
    for i in prange(len(y)):
        y[i] += 1


def test_large_work_is_shared():
    set_num_threads(2)
    turns = np.zeros(1 << 15, np.uint64)  # 256 KiB
    who(turns, 1)
    assert len(set(turns)) == 2
    assert threading.get_ident() in turns


def test_small_work_stays_on_the_calling_thread():
    set_num_threads(2)
    turns = np.zeros(1000, np.uint64)
    who(turns, 1)
    assert set(turns) == {threading.get_ident()}


def test_each_thread_more_needs_work_of_its_own():
    set_num_threads(7)
    turns = np.zeros(3 << 14, np.uint64)  # 384 KiB: the calling thread and one more
    who(turns, 1)
    assert len(set(turns)) == 2


def test_one_thread_is_the_calling_one():
    set_num_threads(1)
    turns = np.zeros(1 << 15, np.uint64)
    who(turns, 0)
    assert set(turns) == {threading.get_ident()}


def test_many_python_threads_at_once():
    set_num_threads(3)
    wrong = []

    def work(seed):
        x = np.random.default_rng(seed).standard_normal((ROWS, 2000))
        for _ in range(200):
            y = np.full_like(x, np.nan)
            scale(x, y, 3.0)
            if not np.array_equal(y, 3 * x):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_that_a_thread_cannot_get_is_an_error_and_the_next_call_is_right():
    set_num_threads(2)
    y = np.zeros(8)
    for _ in range(3):
        with pytest.raises(MemoryError, match="fill_by_way_of: no memory"):
            fill_by_way_of(1 << 58, y)
        y[:] = np.nan
        fill_by_way_of(10, y)
        assert np.array_equal(y, np.arange(8))


def test_a_function_must_end_in_its_only_loop():
    def two_loops(x):
        for i in prange(len(x)):
            x[i] = 1
        for i in prange(len(x)):
            x[i] += 1

    def goes_on(x):
        for i in prange(len(x)):
            x[i] = 1
        x[0] = 2

    def no_loop(x):
        x[0] = 2

    def nested(x):
        for i in range(2):
            for j in prange(len(x)):
                x[j] = i

    for function in (two_loops, goes_on, no_loop, nested):
        with pytest.raises(TypeError, match=f"{function.__name__} must end in its only prange"):
            parallel_jit(function)


def in_a_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning"],
        input=textwrap.dedent(code),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


FORK = """
    import os, sys, threading
    import numpy as np
    from convolt.kernels import dropout, random
    from convolt.kernels.backend import use_backend
    from convolt.kernels.cpu.thread_count import set_num_threads
    use_backend("numba")
    set_num_threads(3)
    ticket = np.array([1, 2], np.uint64)
    x = np.ones((1000, 1000), np.float32)

    def masked():
        return dropout.forward(x, 0.5, ticket).tobytes()

    expected, stop = masked(), False

    def go_on():
        while not stop:
            masked()

    others = [threading.Thread(target=go_on) for _ in range({others})]
    for other in others:
        other.start()
    codes = []
    for _ in range(10):
        child = os.fork()
        if not child:
            os._exit(0 if all(masked() == expected for _ in range(5)) else 7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert masked() == expected
    stop = True
    for other in others:
        other.join()
    print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("others", [0, 2])
def test_forked_children_have_threads_of_their_own(others):
    result = in_a_process(FORK.format(others=others))
    assert (result.returncode, result.stdout) == (0, f"{[0] * 10}\n"), result.stderr


def test_the_environment_names_the_number_of_threads():
    code = """
        import convolt
        print(convolt.get_num_threads())
        convolt.set_num_threads(3)
        print(convolt.get_num_threads())
    """
    assert in_a_process(code, CONVOLT_NUM_THREADS="7").stdout == "7\n3\n"


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", "257", " "])
def test_another_number_of_threads_is_an_error(asked):
    code = "import convolt; convolt.use_backend('numba'); convolt.tensor([[1.0]]).sum()"
    result = in_a_process(code, CONVOLT_NUM_THREADS=asked)
    assert result.returncode
    message = (
        f"ValueError: CONVOLT_NUM_THREADS={asked}: the number of threads must be from 1 to 256"
    )
    assert message in result.stderr


def test_set_num_threads_refuses_what_is_no_number_of_threads():
    before = get_num_threads()
    for wrong, error in ((0, ValueError), (257, ValueError), (True, TypeError), (1.0, TypeError)):
        with pytest.raises(error, match="number of threads must be"):
            set_num_threads(wrong)
        assert get_num_threads() == before
    set_num_threads(np.int64(2))
    assert get_num_threads() == 2
