"""scikit-learn's digits and their split."""

import zlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from convolt.data import digits, load


def checksum(dataset):
    return zlib.crc32(dataset.images.tobytes() + dataset.labels.astype("<i8").tobytes())


def test_holds_every_digit_once():
    train, test = digits()
    assert train.images.shape == (1438, 8, 8, 1)
    assert test.images.shape == (359, 8, 8, 1)
    assert train.classes == tuple("0123456789")
    source = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    both = np.concatenate([train.images, test.images]).reshape(-1, 64)
    assert sorted(map(bytes, both)) == sorted(map(bytes, source.reshape(-1, 64)))
    assert (both.min(), both.max()) == (0, 255)


def test_split_is_stratified():
    train, test = digits(seed=3)
    for label in range(10):
        in_train, in_test = (np.count_nonzero(s.labels == label) for s in (train, test))
        assert abs(in_test - (in_train + in_test) / 5) <= 0.5


def test_both_sets_keep_the_original_order():
    source = np.rint(load_digits().images * 255 / 16).astype(np.uint8).reshape(-1, 64)
    position = {bytes(image): i for i, image in enumerate(source)}
    assert len(position) == 1797
    for dataset in digits(seed=1):
        positions = [position[bytes(image)] for image in dataset.images.reshape(-1, 64)]
        assert positions == sorted(positions)


def test_seed_decides_the_split():
    assert checksum(digits(seed=5)[1]) == checksum(digits(seed=5)[1])
    assert checksum(digits(seed=5)[1]) != checksum(digits(seed=6)[1])


def test_split_is_the_same_on_every_machine():
    train, test = digits(seed=0)
    assert test.labels[:20].tolist() == [4, 6, 8, 0, 5, 9, 0, 7, 0, 6, 3, 4, 2, 0, 1, 6, 2, 1, 6, 3]
    assert (checksum(train), checksum(test)) == (2633925123, 2795452822)


def test_other_sizes_have_the_same_split():
    train, test = load("digits", size=28, seed=2)
    small_train, small_test = digits(8, seed=2)
    assert train.images.shape == (1438, 28, 28, 1)
    np.testing.assert_array_equal(train.labels, small_train.labels)
    np.testing.assert_array_equal(test.labels, small_test.labels)
    # Bilinear with half-pixel centres: the mean of an image is kept but for its edges.
    means = test.images.mean((1, 2, 3)), small_test.images.mean((1, 2, 3))
    assert np.abs(means[0] - means[1]).max() < 6
    assert np.corrcoef(*means)[0, 1] > 0.99


@pytest.mark.parametrize("bad", [{"size": 0}, {"size": -8}, {"seed": -1}])
def test_bad_numbers(bad):
    with pytest.raises(ValueError, match="or more"):
        digits(**bad)


@pytest.mark.parametrize("bad", [{"size": 8.5}, {"seed": None}, {"seed": 0.5}])
def test_bad_types(bad):
    with pytest.raises(TypeError):
        digits(**bad)
