"""Batches on their way to the GPU: what arrives, and who waits for whom.

The double of CuPy does a stream's work as late as it may, so that a wait that is missing shows: the
batch would hold NaN, or another batch.
"""

import host_cupy
import numpy as np
import pytest

from convolt.kernels.cuda.upload import uploaded


def batches(count, rng, sizes=(4,)):
    """Images as a loader makes them, a view of N H W C memory, and labels."""
    for i in range(count):
        n = sizes[i % len(sizes)]
        images = rng.standard_normal((n, 5, 7, 3)).astype(np.float32).transpose(0, 3, 1, 2)
        yield images, rng.integers(0, 10, n)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("sizes", [(4,), (1, 6, 3)])
@pytest.mark.parametrize("late", [False, True])
def test_what_arrives_is_what_was_sent(cupy, rng, count, sizes, late):
    sent = list(batches(count, rng, sizes))
    with cupy.cuda.Stream(non_blocking=True) if late else cupy.cuda.get_current_stream():
        received = list(uploaded(sent))
        assert len(received) == count
        for there, here in zip(received, sent, strict=True):
            for a, b in zip(there, here, strict=True):
                assert isinstance(a, cupy.ndarray)
                assert (a.dtype, a.strides) == (b.dtype, b.strides)
                np.testing.assert_array_equal(a.get(), b)


def test_a_batch_can_be_used_at_once(cupy, rng):
    sent = list(batches(5, rng))
    for (images, _), (here, _) in zip(uploaded(sent), sent, strict=True):
        np.testing.assert_array_equal(images.get(), here)


def test_arrays_with_gaps_and_without_elements(cupy, rng):
    sent = [(rng.random((6, 4))[::2, 1:], np.zeros((0, 3)), np.array(2.5))]
    for a, b in zip(next(uploaded(sent)), sent[0], strict=True):
        np.testing.assert_array_equal(a.get(), b)


def test_the_next_batch_is_begun_before_this_one_is_handed_out(cupy, rng):
    asked = []

    def source():
        for i, batch in enumerate(batches(4, rng)):
            asked.append(i)
            yield batch

    arriving = uploaded(source())
    assert asked == []
    for i in range(4):
        next(arriving)
        assert asked == list(range(min(i + 2, 4)))
    arriving.close()


def test_a_source_may_reuse_its_memory(cupy):
    memory = np.zeros(3)

    def source():
        for i in range(5):
            memory[:] = i
            yield (memory,)

    assert [a.get().tolist() for (a,) in uploaded(source())] == [[i] * 3 for i in range(5)]


def test_a_failing_source_is_heard_of(cupy, rng):
    def source():
        yield from batches(3, rng)
        raise OSError("the disk is gone")

    arriving = uploaded(source())
    next(arriving)
    next(arriving)
    with pytest.raises(OSError, match="the disk is gone"):
        next(arriving)


def test_copies_run_on_their_own_stream_between_two_waits(cupy, rng, monkeypatch):
    if not host_cupy.is_installed(cupy):
        pytest.skip("a GPU keeps no record")
    events = []

    class Stream(cupy.cuda.Stream):
        name = "copies"

        def wait_event(self, event):
            events.append((self.name, "waits for", event.stream.name))
            super().wait_event(event)

    class Compute(Stream):
        name = "kernels"

    monkeypatch.setattr(host_cupy, "_current", [Compute()])
    monkeypatch.setattr(cupy.cuda, "Stream", Stream)
    for _ in uploaded(batches(2, rng)):
        events.append("step")
    assert events == [
        ("copies", "waits for", "kernels"),
        ("copies", "waits for", "kernels"),
        ("kernels", "waits for", "copies"),
        "step",
        ("kernels", "waits for", "copies"),
        "step",
    ]
