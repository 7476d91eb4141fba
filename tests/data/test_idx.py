"""MNIST and Fashion-MNIST: files in the real format, good and malformed."""

import gzip
import struct

import numpy as np
import pytest

from convolt.data import load
from convolt.data.idx import PARTS, SOURCES, read_idx

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = PARTS


def idx(values):
    """The contents of an IDX file of unsigned bytes."""
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def arrays(rng):
    """Images and labels by file name: 12 for training, 7 for testing."""
    return {
        TRAIN_IMAGES: rng.integers(0, 256, (12, 28, 28)),
        TRAIN_LABELS: rng.integers(0, 10, 12),
        TEST_IMAGES: rng.integers(0, 256, (7, 28, 28)),
        TEST_LABELS: rng.integers(0, 10, 7),
    }


def write(folder, arrays, compressed):
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (folder / name).write_bytes(idx(values))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("name", "subfolder"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "."),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_reads_a_folder(tmp_path, arrays, name, subfolder, compressed):
    write(tmp_path / subfolder, arrays, compressed)
    train, test = load(name, root=tmp_path)
    for dataset, images, labels in (
        (train, TRAIN_IMAGES, TRAIN_LABELS),
        (test, TEST_IMAGES, TEST_LABELS),
    ):
        assert dataset.name == name
        assert dataset.images.dtype == np.uint8
        assert dataset.labels.dtype == np.int64
        np.testing.assert_array_equal(dataset.images[..., 0], arrays[images])
        np.testing.assert_array_equal(dataset.labels, arrays[labels])
    assert train.classes[9] == ("9" if name == "mnist" else "Ankle boot")


def test_own_folder_of_a_data_set_comes_first(tmp_path, arrays):
    write(tmp_path, {**arrays, TRAIN_LABELS: np.zeros(12)}, compressed=True)
    write(tmp_path / "mnist", {**arrays, TRAIN_LABELS: np.ones(12)}, compressed=True)
    assert load("mnist", root=str(tmp_path))[0].labels.tolist() == [1] * 12


def test_what_is_compressed_shows_in_the_contents(tmp_path, arrays):
    write(tmp_path, arrays, compressed=False)
    (tmp_path / TRAIN_IMAGES).rename(tmp_path / f"{TRAIN_IMAGES}.gz")  # as a browser unpacks
    assert len(load("mnist", root=tmp_path)[0]) == 12


def test_other_size(tmp_path, arrays):
    write(tmp_path, arrays, compressed=True)
    train, test = load("mnist", root=tmp_path, size=32)
    assert train.images.shape == (12, 32, 32, 1)
    assert test.images.shape == (7, 32, 32, 1)


IMAGES = idx(np.zeros((12, 28, 28)))
LABELS = idx(np.zeros(12))


@pytest.mark.parametrize(
    ("part", "contents", "message"),
    [
        (TRAIN_IMAGES, b"", "begins with 00 00 08 03; found no bytes"),
        (TRAIN_IMAGES, b"\0\0", "begins with 00 00 08 03; found 00 00$"),
        (TRAIN_IMAGES, b"<html>404</html>", "found 3c 68 74 6d"),
        (TRAIN_IMAGES, LABELS, "in 3 dimensions.*found 00 00 08 01"),
        (TRAIN_LABELS, IMAGES, "in 1 dimensions.*found 00 00 08 03"),
        (TRAIN_IMAGES, b"\0\0\x0d\x03" + IMAGES[4:], "found 00 00 0d 03"),
        (TRAIN_IMAGES, IMAGES[:11], "truncated: expected a header of 16 bytes, found 11"),
        (TRAIN_IMAGES, IMAGES[:-1], "truncated: expected 9408 bytes .* found 9407"),
        (TRAIN_IMAGES, IMAGES + b"\0", "trailing bytes: expected 9408 bytes .* found 9409"),
        (TRAIN_IMAGES, idx(np.zeros((12, 28, 27))), r"\(N, 28, 28\).*found \(12, 28, 27\)"),
        (TRAIN_IMAGES, idx(np.zeros((0, 28, 28))), r"N > 0, found \(0, 28, 28\)"),
        (TRAIN_IMAGES, b"\0\0\x08\x03" + b"\xff" * 12, r"found \(4294967295, 4294967295, "),
        (TRAIN_IMAGES, b"\0\0\x08\x03\xff\xff\xff\xff" + IMAGES[8:], "truncated: expected 33672"),
        (TRAIN_IMAGES, idx(np.zeros((11, 28, 28))), "holds 11 images but .* holds 12 labels"),
        (TRAIN_LABELS, idx(np.zeros(13)), "holds 12 images but .* holds 13 labels"),
        (TRAIN_LABELS, idx(np.arange(12)), r"label 10 of image 10 is out of range.*0 \.\. 9"),
        (TEST_IMAGES, IMAGES[:-1], "truncated"),
        (TEST_LABELS, idx(np.full(7, 255)), "label 255 of image 0"),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_malformed_contents(tmp_path, arrays, part, contents, message, compressed):
    write(tmp_path, arrays, compressed)
    path = tmp_path / (f"{part}.gz" if compressed else part)
    path.write_bytes(gzip.compress(contents) if compressed else contents)
    with pytest.raises(ValueError, match=f"(?s){message}") as raised:
        load("mnist", root=tmp_path)
    assert str(path) in str(raised.value)
    write(tmp_path, arrays, compressed)
    assert len(load("mnist", root=tmp_path)[0]) == 12


def damaged(compressed):
    middle = len(compressed) // 2
    return compressed[:middle] + bytes((compressed[middle] ^ 0xFF,)) + compressed[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda z: z[:-1], lambda z: z[:30], lambda z: z[:5], damaged, lambda z: z + b"trailing"],
)
def test_malformed_gzip(tmp_path, arrays, damage):
    write(tmp_path, arrays, compressed=True)
    path = tmp_path / f"{TEST_IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{TEST_IMAGES}\.gz: expected a complete gzip file"):
        load("mnist", root=tmp_path)


def test_missing_file(tmp_path, arrays):
    write(tmp_path, arrays, compressed=True)
    (tmp_path / f"{TEST_LABELS}.gz").unlink()
    with pytest.raises(FileNotFoundError) as raised:
        load("mnist", root=tmp_path)
    message = str(raised.value)
    assert f"mnist: expected {TEST_LABELS} or {TEST_LABELS}.gz in {tmp_path}" in message
    assert f"{TRAIN_IMAGES}.gz" in message.split("found in")[1]
    assert "--data-dir" in message


def test_empty_or_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found in .*: nothing"):
        load("fashion-mnist", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"found in .*none: no such folder"):
        load("fashion-mnist", root=tmp_path / "none")


def test_another_rank(tmp_path):
    values = np.arange(24).reshape(2, 3, 2, 2)
    (tmp_path / "a").write_bytes(idx(values))
    np.testing.assert_array_equal(read_idx(tmp_path / "a", (None, 3, None, 2)), values)


def test_every_source_is_complete():
    assert set(SOURCES) == {"mnist", "fashion-mnist"}
    digests = [digest for source in SOURCES.values() for digest in source.sha256]
    assert len(set(digests)) == 8
    for source in SOURCES.values():
        assert len(source.classes) == 10
        assert len(source.mirrors) >= 2
        assert all(m.startswith("http") and m.endswith("/") for m in source.mirrors)
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)
