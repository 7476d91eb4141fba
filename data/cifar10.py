"""CIFAR-10 from its binary version, a folder or the .tar.gz.

A file is a row of records: one byte of label, then the 32 x 32 red, green and blue planes, 3,072
bytes. Source: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html. The Python version is pickled and is not read.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np

from .dataset import Dataset
from .download import cache_folder, fetch

NAME = "cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
)
PLANES = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32
FILE_RECORDS = 10_000  # in each of the published files; a smaller set may have fewer


def load_cifar10(root: str | os.PathLike[str] | None) -> tuple[Dataset, Dataset]:
    """The training and the test set: (N, 32, 32, 3), 10 classes.

    ``root`` is the .tar.gz, or a folder that holds it or the six .bin files (these also in
    ``cifar-10-batches-bin``), or that does in a folder ``cifar10``; without ``root`` the archive
    is downloaded. Archives are read in memory, nothing is unpacked to disk.
    Raises FileNotFoundError where ``root`` lacks a file, ValueError for a malformed one,
    ConnectionError for a failed download.
    """
    if root is None:
        files = _from_archive(fetch(ARCHIVE, SHA256, MIRRORS, cache_folder(NAME)))
    else:
        files = _from_root(Path(root))
    parts = {name: _records(data, path) for name, (path, data) in files.items()}
    train_images, train_labels = zip(*(parts[name] for name in TRAIN), strict=True)
    test_images, test_labels = parts[TEST]
    return (
        Dataset(NAME, np.concatenate(train_images), np.concatenate(train_labels), CLASSES),
        Dataset(NAME, test_images, test_labels, CLASSES),
    )


def _records(data: bytes, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 and labels (N,) int64."""
    count, rest = divmod(len(data), RECORD_BYTES)
    if rest or not 1 <= count <= FILE_RECORDS:
        raise ValueError(
            f"{path}: truncated, or with trailing bytes: expected 1 .. {FILE_RECORDS} records of "
            f"{RECORD_BYTES} bytes, found {len(data)} bytes: {count} records and {rest} bytes"
        )
    records = np.frombuffer(data, np.uint8).reshape(count, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    wrong = np.flatnonzero(labels >= len(CLASSES))
    if wrong.size:
        raise ValueError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]} is out of range; "
            f"expected 0 .. {len(CLASSES) - 1}"
        )
    planes = records[:, 1:].reshape(count, *PLANES)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _from_root(root: Path) -> dict[str, tuple[str, bytes]]:
    """By name: a path for messages, and the contents."""
    if root.is_file():
        return _from_archive(root)
    for base in (root / NAME, root):
        for folder in (base, base / FOLDER):
            present = [name for name in (*TRAIN, TEST) if (folder / name).is_file()]
            if len(present) == len(TRAIN) + 1:
                return {n: (str(folder / n), (folder / n).read_bytes()) for n in present}
            if present:
                missing = sorted({*TRAIN, TEST} - {*present})
                raise FileNotFoundError(
                    f"cifar10: {folder} lacks {', '.join(missing)}; found {', '.join(present)}. "
                    f"All six files of {ARCHIVE} are needed."
                )
        if (base / ARCHIVE).is_file():
            return _from_archive(base / ARCHIVE)
    found = sorted(p.name for p in root.iterdir())[:10] if root.is_dir() else "no such folder"
    raise FileNotFoundError(
        f"cifar10: expected {ARCHIVE}, or {TRAIN[0]} .. {TRAIN[-1]} and {TEST}, in {root}, "
        f"{root / FOLDER} or {root / NAME}; found in {root}: {found or 'nothing'}. Put the binary "
        f"version there (--data-dir, root= in Python; the Python version is pickled and is not "
        f"read), or leave --data-dir out to download it."
    )


def _from_archive(path: Path) -> dict[str, tuple[str, bytes]]:
    """As ``_from_root``; only the expected members are read, by their names, in memory."""
    expected = {f"{FOLDER}/{name}": name for name in (*TRAIN, TEST)}
    files, others = {}, []
    try:
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = expected.get(member.name)
                if name is None:
                    others.append(member.name)
                    continue
                if not member.isreg() or member.size > FILE_RECORDS * RECORD_BYTES:
                    raise ValueError(
                        f"{path}: expected {member.name} to be a file of at most "
                        f"{FILE_RECORDS * RECORD_BYTES} bytes, found "
                        f"{member.size if member.isreg() else 'a link, folder or device'}"
                    )
                data = archive.extractfile(member)
                assert data is not None  # it is a regular file
                files[name] = (f"{path}: {member.name}", data.read())
            while stream.read(1 << 20):  # to the end, where gzip compares its checksum
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: expected a complete .tar.gz, found: {error}") from error
    missing = [member for member, name in expected.items() if name not in files]
    if missing:
        raise ValueError(f"{path}: expected members {missing}, found others: {others[:10]}")
    return files
