"""Memory that results share one after the other, and never at a time."""

import copy
import gc
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import convolt
from convolt.kernels import arrays
from convolt.kernels.cpu import memory

FLOAT = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def _nothing_unused():
    gc.collect()
    memory.empty_cache()
    yield
    memory.empty_cache()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(4096,), (5000, 1), (3, 67, 129), (1, 1 << 23)])
def test_an_array_is_aligned_and_dense(shape, dtype):
    for _ in range(2):  # fresh, then again
        y = memory.empty(shape, np.dtype(dtype))
        assert arrays.address(y) % memory.ALIGNMENT_BYTES == 0
        assert type(y) is np.ndarray
        assert (y.shape, y.dtype) == (shape, dtype)
        assert y.flags.c_contiguous
        assert y.flags.writeable
        y.fill(1)
        assert y.all()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (7, 9)])
def test_small_and_empty_arrays(shape):
    y = memory.empty(shape, FLOAT)
    y.fill(2)
    assert (y.shape, y.dtype) == (shape, FLOAT)
    assert y.tolist() == np.full(shape, 2).tolist()


def test_the_memory_of_a_dropped_array_is_used_again():
    y = memory.empty((100, 100), FLOAT)
    first = arrays.address(y)
    assert memory.unused_bytes() == 0
    del y
    assert memory.unused_bytes() >= 40_000
    z = memory.empty((99, 101), FLOAT)  # of about that size
    assert arrays.address(z) == first
    assert memory.unused_bytes() == 0


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y[3:4],
        lambda y: y.T[::2].reshape(50, 2, 50)[1:],
        lambda y: memoryview(y)[1:2],
        lambda y: np.frombuffer(y, np.uint8),
        lambda y: np.from_dlpack(y),
        lambda y: np.broadcast_to(y[0, :1], (5, 5)),
        lambda y: y.base,
        lambda y: iter(y),
    ],
    ids=[
        "slice",
        "view-of-view",
        "memoryview",
        "buffer",
        "dlpack",
        "broadcast",
        "base",
        "iterator",
    ],
)
def test_whoever_sees_the_memory_keeps_it(view):
    y = memory.empty((100, 100), FLOAT)
    seen = view(y)
    del y
    assert memory.unused_bytes() == 0
    del seen
    assert memory.unused_bytes() >= 40_000


def test_the_memory_dropped_last_is_used_first():
    many = [memory.empty((2000,), FLOAT) for _ in range(5)]
    many.pop(1)
    last = arrays.address(many[2])
    many.pop(2)
    assert arrays.address(memory.empty((2000,), FLOAT)) == last


def test_no_more_is_kept_than_twice_what_was_ever_in_use():
    in_use = most = 0
    for elements in (100_000, 70_000, 50_000, 30_000, 20_000, 200_000, 90_000, 10_000):
        many = [memory.empty((elements // 5,), FLOAT) for _ in range(5)]
        in_use = sum(array.base.nbytes for array in many)
        most = max(most, in_use)
        assert memory.unused_bytes() + in_use <= memory.KEPT * most
        del many
    assert memory.unused_bytes() > most  # it is kept, though


def test_memory_is_given_back_when_asked_for():
    kept, dropped = (memory.empty((100_000,), FLOAT) for _ in range(2))
    kept.fill(3)
    del dropped
    assert memory.unused_bytes() > 0
    convolt.empty_cache()
    assert memory.unused_bytes() == 0
    assert (kept == 3).all()
    del kept
    assert memory.unused_bytes() > 0


def test_live_arrays_never_overlap(rng):
    """Each thread marks its arrays, drops some in any order, and finds the others as they were."""
    faults = []

    def work(seed):
        rng, mine = np.random.default_rng(seed), []
        for step in range(400):
            y = memory.empty((int(rng.integers(1000, 4000)),), FLOAT)
            mark = seed * 1000 + step
            y.fill(mark)
            mine.append((mark, y[1:-1]))
            if len(mine) > 8:
                mark, y = mine.pop(int(rng.integers(len(mine))))
                if not (y == mark).all():
                    faults.append(mark)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_an_array_may_die_while_another_thread_is_in_the_pool():
    dying = [memory.empty((2000,), FLOAT)]
    with memory._lock:
        thread = threading.Thread(target=dying.clear)
        thread.start()
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert memory.unused_bytes() > 0


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_forked_child_has_memory_of_its_own():
    """Also when another thread was in the pool at that moment."""
    program = """
import os, threading, warnings
warnings.simplefilter("ignore")  # Python's about fork and threads
import numpy as np
from convolt.kernels.cpu import memory
y = memory.empty((5000,), np.dtype(np.float32))
y.fill(1)
inside, leave = threading.Event(), threading.Event()
def hold():
    with memory._lock:
        inside.set()
        leave.wait()
thread = threading.Thread(target=hold)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    y.fill(2)
    memory.empty((9000,), np.dtype(np.float32)).fill(3)
    os._exit(0)
_, status = os.waitpid(child, 0)
leave.set()
thread.join()
assert status == 0 and (y == 1).all()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_copies_and_pickles_are_plain_arrays():
    y = memory.empty((5000,), FLOAT)
    y[:] = np.arange(5000)
    for twin in (copy.copy(y), copy.deepcopy(y), pickle.loads(pickle.dumps(y)), y + 0):
        assert type(twin) is np.ndarray
        assert not np.shares_memory(twin, y)
        assert (twin == y).all()


@pytest.mark.parametrize("scale", [1, 40], ids=["small", "large"])
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a.transpose(0, 3, 1, 2),
        lambda a: a.T,
        lambda a: a[::-1, :, 1:, ::2],
        lambda a: a[:, 1:2].transpose(2, 0, 1, 3),
        lambda a: np.broadcast_to(a[:, :1, 0], (6, *a[:, :1, 0].shape)),
        lambda a: a[:0],
    ],
    ids=["C", "channels-first", "F", "gaps", "length-1", "broadcast", "empty"],
)
def test_empty_lies_in_memory_as_numpys(view, scale):
    like = view(np.zeros((4, 5, 6 * scale, 8), np.float32))
    for dtype in (None, np.float64, "uint8"):
        y, twin = arrays.empty(like, None, dtype), np.empty_like(like, dtype=dtype)
        assert (y.shape, y.dtype, y.strides) == (twin.shape, twin.dtype, twin.strides)
    assert arrays.empty(like, (3, 50, 40)).flags.c_contiguous
    assert arrays.empty(like, ()).shape == ()


def test_bits_do_not_depend_on_what_lay_in_the_memory(backend, rng):
    x = rng.standard_normal((4, 3, 20, 20), np.float32)
    w = rng.standard_normal((8, 3, 3, 3), np.float32)

    def step():
        a, b = convolt.Tensor(x, requires_grad=True), convolt.Tensor(w, requires_grad=True)
        y = convolt.functional.conv2d(a, b, padding=1)
        y = convolt.functional.max_pool2d(convolt.functional.relu(y), 2)
        y = convolt.functional.batch_norm(y, None, None, training=True)
        loss = convolt.functional.cross_entropy(y.flatten(1), np.array([1, 2, 3, 0]))
        loss.backward()
        return [t.data.tobytes() for t in (y, loss, a.grad, b.grad)]

    fresh = step()
    for blocks in memory._unused.values():
        for block in blocks:
            block.fill(0xFF)  # NaN
    assert step() == fresh
