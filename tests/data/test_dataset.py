"""Dataset and load."""

import numpy as np
import pytest

from convolt.data import Dataset, load


def make(images=None, labels=None, classes=("a", "b", "c")):
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1) if images is None else images
    labels = np.array([0, 1, 2, 1, 0]) if labels is None else labels
    return Dataset("some", images, labels, classes)


def test_first_images():
    dataset = make()
    first = dataset.subset(3)
    assert len(first) == 3
    assert first.name == "some"
    assert first.classes == dataset.classes
    np.testing.assert_array_equal(first.images, dataset.images[:3])
    np.testing.assert_array_equal(first.labels, [0, 1, 2])
    assert len(dataset.subset(np.int64(5))) == 5


def test_chosen_images():
    dataset = make()
    chosen = dataset.subset([4, 0, 4])
    np.testing.assert_array_equal(chosen.images, dataset.images[[4, 0, 4]])
    np.testing.assert_array_equal(chosen.labels, [0, 0, 0])
    np.testing.assert_array_equal(dataset.subset(np.array([1])).labels, [1])


@pytest.mark.parametrize("count", [0, -1, 6])
def test_count_out_of_range(count):
    with pytest.raises(ValueError, match=rf"first {count} of 5 images; take 1 \.\. 5"):
        make().subset(count)


@pytest.mark.parametrize("indices", [[], [[1]], [5], [-1], [0, 99]])
def test_indices_out_of_range(indices):
    with pytest.raises(ValueError, match="some: indices"):
        make().subset(np.array(indices, dtype=np.int64))


@pytest.mark.parametrize("indices", [[True, False, True, False, True], [0.5]])
def test_indices_of_another_type(indices):
    with pytest.raises(TypeError, match="indices must be integers"):
        make().subset(indices)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": np.zeros((5, 2, 3, 1), np.float32)}, TypeError, "uint8"),
        ({"labels": np.zeros(5, np.int32)}, TypeError, "int64"),
        ({"images": np.zeros((5, 2, 3), np.uint8)}, ValueError, r"\(N, H, W, C\)"),
        ({"images": np.zeros((0, 2, 3, 1), np.uint8)}, ValueError, "without zeros"),
        ({"images": np.zeros((5, 3, 2, 4), np.uint8)[..., ::2]}, ValueError, "C-contiguous"),
        ({"labels": np.zeros(4, np.int64)}, ValueError, r"shape \(5,\), they have \(4,\)"),
        ({"labels": np.array([0, 1, 3, 0, 0])}, ValueError, "label 3 of image 2 is out of range"),
        ({"labels": np.array([0, 1, 0, -1, 0])}, ValueError, "label -1 of image 3"),
    ],
)
def test_checks(changed, error, message):
    with pytest.raises(error, match=message):
        make(**changed)


def test_its_repr_is_short():
    assert repr(make()) == "Dataset('some', images (5, 2, 3, 1), labels (5,), 3 classes)"


def test_is_frozen():
    with pytest.raises(AttributeError):
        make().name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_digits_are_not_read_from_a_folder(tmp_path):
    with pytest.raises(ValueError, match="digits come with scikit-learn and are not read from"):
        load("digits", root=tmp_path)


def test_unknown_name():
    with pytest.raises(ValueError, match="'cifar'; there are digits, mnist, fashion-mnist, cifar"):
        load("cifar")
