"""The loader: order, resuming, prefetching, its thread."""

import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import convolt.data.loader as loader_module
from convolt.data import Compose, Dataset, Loader, Normalize, RandomCrop, RandomFlip


def dataset(n=23, channels=3):
    """Each image has its index as the label."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 4, 5, channels), dtype=np.uint8)
    return Dataset("some", images, np.arange(n), tuple(map(str, range(n))))


def loader(data=None, batch_size=4, **options):
    options = {"shuffle": True, "seed": 7, **options}
    return Loader(dataset() if data is None else data, batch_size, **options)


def collected(batches):
    return [(images.copy(), labels.copy()) for images, labels in batches]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for (images, labels), (their_images, their_labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(images, their_images)
        np.testing.assert_array_equal(labels, their_labels)


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("convolt-loader")]


class Counting:
    """An augmentation that counts its calls, and fails at one of them."""

    def __init__(self, fails_at=None):
        self.calls = 0
        self.fails_at = fails_at
        self.third_call = threading.Event()

    def __call__(self, images, rng):
        self.calls += 1
        if self.calls == 3:
            self.third_call.set()
        if self.calls == self.fails_at:
            raise RuntimeError("augmentation failed")
        return images

    def to_json(self):
        return {}


def test_batches_are_channels_first_views_of_channels_last_memory():
    data = dataset()
    for images, labels in loader(data, shuffle=False).batches(0):
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        assert images.shape == (len(labels), 3, 4, 5)
        assert images.transpose(0, 2, 3, 1).flags.c_contiguous
        expected = data.images[labels].transpose(0, 3, 1, 2) / 255
        np.testing.assert_allclose(images, expected, rtol=3e-7)


def test_without_shuffle_the_order_is_that_of_the_data():
    labels = [labels for _, labels in loader(shuffle=False).batches(3)]
    np.testing.assert_array_equal(np.concatenate(labels), np.arange(23))


@pytest.mark.parametrize(
    ("n", "batch_size", "drop_last", "sizes"),
    [
        (23, 4, False, [4, 4, 4, 4, 4, 3]),
        (23, 4, True, [4, 4, 4, 4, 4]),
        (24, 4, True, [4] * 6),
        (3, 4, False, [3]),
        (1, 1, True, [1]),
        (5, 100, False, [5]),
        (5, 1, False, [1] * 5),
    ],
)
def test_number_and_sizes_of_batches(n, batch_size, drop_last, sizes):
    batches = loader(dataset(n), batch_size, drop_last=drop_last)
    assert len(batches) == len(sizes)
    labels = [labels for _, labels in batches.batches(0)]
    assert [len(part) for part in labels] == sizes
    seen = np.concatenate(labels)
    assert len(np.unique(seen)) == len(seen)


def test_order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        return tuple(np.concatenate([y for _, y in loader(seed=seed).batches(epoch)]))

    orders = {(s, e): order(s, e) for s in (0, 1, 2**40) for e in (0, 1, 2)}
    assert len(set(orders.values())) == 9
    assert all(sorted(o) == list(range(23)) for o in orders.values())
    assert orders == {key: order(*key) for key in orders}


def test_order_is_the_same_on_every_machine():
    labels = np.concatenate([y for _, y in loader(seed=7).batches(1)])
    assert labels[:12].tolist() == [3, 6, 14, 8, 22, 7, 15, 19, 4, 21, 1, 0]


@pytest.mark.parametrize("shuffle", [True, False])
def test_resuming_gives_the_batches_that_were_left(shuffle):
    def again():
        data = dataset()
        return loader(
            data,
            shuffle=shuffle,
            augment=Compose([RandomCrop(2), RandomFlip()]),
            normalize=Normalize.of(data),
        )

    whole = collected(again().batches(5))
    for start in range(len(whole) + 1):
        assert_same(collected(again().batches(5, start)), whole[start:])


def test_augmentation_differs_from_epoch_to_epoch_and_batch_to_batch():
    data = Dataset(
        "same", np.tile(dataset(1).images, (8, 1, 1, 1)), np.arange(8), tuple("abcdefgh")
    )
    batches = loader(data, 4, shuffle=False, augment=RandomCrop(3))
    images = [x.tobytes() for epoch in (0, 1) for x, _ in batches.batches(epoch)]
    assert len(set(images)) == 4


def test_each_batch_has_memory_of_its_own():
    first, second = (images for images, _ in loader(batch_size=12).batches(0))
    assert not np.shares_memory(first, second)


def test_data_are_not_changed():
    data = dataset()
    before = data.images.copy()
    for images, labels in loader(data, augment=RandomFlip()).batches(0):
        images[...] = np.nan
        labels[...] = -1
    np.testing.assert_array_equal(data.images, before)
    np.testing.assert_array_equal(data.labels, np.arange(23))


def test_prepares_two_batches_ahead():
    counting = Counting()
    batches = loader(augment=counting).batches(0)
    next(batches)
    assert counting.third_call.wait(timeout=30)
    assert counting.calls == 3
    batches.close()


def test_thread_ends_with_the_epoch():
    batches = loader().batches(0)
    next(batches)
    assert len(threads()) == 1
    assert len(list(batches)) == 5
    assert not threads()


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_closing_early_ends_the_thread(taken):
    batches = loader().batches(0)
    for _ in range(taken):
        next(batches)
    batches.close()
    assert not threads()


def test_leaving_the_loop_ends_the_thread():
    for _ in loader().batches(0):
        break
    assert not threads()


def test_a_generator_that_is_never_started_has_no_thread():
    loader().batches(0)
    assert not threads()


@pytest.mark.parametrize("fails_at", [1, 2, 6])
def test_an_exception_in_the_thread_arrives(fails_at):
    batches = loader(augment=Counting(fails_at)).batches(0)
    for _ in range(fails_at - 1):
        next(batches)
    with pytest.raises(RuntimeError, match="augmentation failed"):
        next(batches)
    assert not threads()
    assert len(list(loader().batches(0))) == 6


def test_two_epochs_at_once_do_not_disturb_each_other():
    one, other = loader(), loader(seed=8)
    together = list(zip(one.batches(0), other.batches(0), strict=True))
    assert_same([a for a, _ in together], collected(loader().batches(0)))
    assert_same([b for _, b in together], collected(loader(seed=8).batches(0)))


def test_wait_is_summed_over_the_epoch(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(
        loader_module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    )
    batches = loader()
    assert batches.wait_s == 0
    for done, _ in enumerate(batches.batches(0), start=1):
        assert batches.wait_s == done  # each wait takes one tick
    assert batches.wait_s == 6
    next(batches.batches(1))
    assert batches.wait_s == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more, it is 0"),
        ({"batch_size": 2.0}, TypeError, "float"),
        ({"batch_size": 24, "drop_last": True}, ValueError, "leaves no batch of 24 from 23"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"seed": None}, TypeError, "NoneType"),
    ],
)
def test_checks(options, error, message):
    with pytest.raises(error, match=message):
        loader(**options)


@pytest.mark.parametrize(
    ("epoch", "start", "error"),
    [(-1, 0, ValueError), (0, 7, ValueError), (0, -1, ValueError), (0.5, 0, TypeError)],
)
def test_checks_of_batches(epoch, start, error):
    with pytest.raises(error):
        loader().batches(epoch, start)
