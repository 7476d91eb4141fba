"""MNIST and Fashion-MNIST from IDX files, plain or compressed by gzip.

An IDX file is: two zero bytes, a type byte (8: unsigned bytes), the number of dimensions, each
dimension as a big-endian uint32, then the values in C order.
Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits;
H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import Dataset
from .download import cache_folder, fetch

PARTS = tuple(
    f"{split}-{content}"
    for split in ("train", "t10k")
    for content in ("images-idx3-ubyte", "labels-idx1-ubyte")
)
SIZE = 28


@dataclass(frozen=True)
class Source:
    """Where the four files of a data set are, their SHA-256 in the order of ``PARTS``."""

    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: tuple[str, str, str, str]
    torchvision_folder: str


SOURCES = {
    "mnist": Source(
        classes=tuple("0123456789"),
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        sha256=(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        torchvision_folder="MNIST/raw",
    ),
    "fashion-mnist": Source(
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        sha256=(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        torchvision_folder="FashionMNIST/raw",
    ),
}


def load_idx(name: str, root: str | os.PathLike[str] | None) -> tuple[Dataset, Dataset]:
    """The training and the test set of ``name``, a key of ``SOURCES``: (N, 28, 28, 1), 10 classes.

    The four files, plain or .gz, are looked for in ``root``/``name``, where torchvision puts
    them under ``root``, and in ``root`` itself; without ``root`` they are downloaded.
    Raises FileNotFoundError where ``root`` lacks one, ValueError for a malformed one,
    ConnectionError for a failed download.
    """
    source = SOURCES[name]
    if root is None:
        files = [f"{part}.gz" for part in PARTS]
        paths = [
            fetch(file, sha256, source.mirrors, cache_folder(name), files)
            for file, sha256 in zip(files, source.sha256, strict=True)
        ]
    else:
        paths = _local_paths(name, Path(root))
    return _dataset(name, *paths[:2]), _dataset(name, *paths[2:])


def _dataset(name: str, images_path: Path, labels_path: Path) -> Dataset:
    images = read_idx(images_path, (None, SIZE, SIZE))
    labels = read_idx(labels_path, (None,))
    classes = SOURCES[name].classes
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images but {labels_path} holds "
            f"{len(labels)} labels; they must be of the same data set"
        )
    wrong = np.flatnonzero(labels >= len(classes))
    if wrong.size:
        raise ValueError(
            f"{labels_path}: label {labels[wrong[0]]} of image {wrong[0]} is out of range; "
            f"expected 0 .. {len(classes) - 1}"
        )
    return Dataset(name, images[..., None], labels.astype(np.int64), classes)


def read_idx(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """The unsigned bytes of an IDX file of the given shape; None stands for any size above 0.

    Raises ValueError, with the path, what was expected and what was found.
    """
    data = _contents(path)
    magic = bytes((0, 0, 8, len(shape)))
    header = struct.Struct(f">4s{len(shape)}I")
    if data[:4] != magic:
        raise ValueError(
            f"{path}: expected an IDX file of unsigned bytes in {len(shape)} dimensions, plain "
            f"or .gz, which begins with {magic.hex(' ')}; found {data[:4].hex(' ') or 'no bytes'}"
        )
    if len(data) < header.size:
        raise ValueError(
            f"{path}: truncated: expected a header of {header.size} bytes, found {len(data)} bytes"
        )
    _, *found = header.unpack_from(data)
    if any(n == 0 or n != (want or n) for n, want in zip(found, shape, strict=True)):
        expected = ", ".join("N" if want is None else str(want) for want in shape)
        raise ValueError(f"{path}: expected dimensions ({expected}), N > 0, found {tuple(found)}")
    expected_bytes, found_bytes = math.prod(found), len(data) - header.size
    if found_bytes != expected_bytes:
        state = "truncated" if found_bytes < expected_bytes else "has trailing bytes"
        raise ValueError(
            f"{path}: {state}: expected {expected_bytes} bytes of values for the dimensions "
            f"{tuple(found)}, found {found_bytes}"
        )
    return np.frombuffer(data, np.uint8, offset=header.size).reshape(found)


def _contents(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: expected a complete gzip file, found: {error}") from error


def _local_paths(name: str, root: Path) -> list[Path]:
    folders = (root / name, root / SOURCES[name].torchvision_folder, root)
    paths = []
    for part in PARTS:
        candidates = [f / file for f in folders for file in (part, f"{part}.gz")]
        path = next((c for c in candidates if c.is_file()), None)
        if path is None:
            raise FileNotFoundError(_missing(name, part, folders))
        paths.append(path)
    return paths


def _missing(name: str, part: str, folders: tuple[Path, ...]) -> str:
    root = folders[-1]
    found = sorted(p.name for p in root.iterdir())[:10] if root.is_dir() else "no such folder"
    return (
        f"{name}: expected {part} or {part}.gz in {', '.join(map(str, folders))}; found in {root}: "
        f"{found or 'nothing'}. Put {', '.join(f'{p}.gz' for p in PARTS)} there "
        f"(--data-dir, root= in Python), or leave --data-dir out to download them."
    )
