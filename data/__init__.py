"""Image data sets, transforms and the loader: NumPy on the host, no tensors.

Images lie in memory as (N, H, W, C). A batch shows them as (N, C, H, W), the transposed view.
"""

from __future__ import annotations

import os

from .dataset import Dataset
from .digits import digits
from .image import read_image, resize
from .loader import Loader
from .transforms import Compose, Normalize, RandomCrop, RandomFlip, Transform, from_json

__all__ = [
    "NAMES",
    "Compose",
    "Dataset",
    "Loader",
    "Normalize",
    "RandomCrop",
    "RandomFlip",
    "Transform",
    "digits",
    "from_json",
    "load",
    "read_image",
    "resize",
]

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10")


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    size: int | None = None,
    seed: int = 0,
) -> tuple[Dataset, Dataset]:
    """The training and the test set called ``name``, one of ``NAMES``.

    ``root`` is a folder that holds the files (for cifar10 also the .tar.gz itself); nothing is
    downloaded then. Without it the files come from the cache, downloaded there when missing.
    ``digits`` needs no files and takes no ``root``. ``size`` resizes the images to ``size`` x
    ``size`` pixels. ``seed`` splits ``digits``; the others come with a split.

    Raises ValueError for an unknown name, a bad size or seed, a malformed file, a root of digits;
    FileNotFoundError where ``root`` lacks a file; ConnectionError when no mirror answers.
    """
    if name == "digits":
        if root is not None:
            raise ValueError(
                "digits come with scikit-learn and are not read from a folder; leave --data-dir "
                "(root= in Python) out"
            )
        return digits(8 if size is None else size, seed)
    if name in ("mnist", "fashion-mnist"):
        from .idx import load_idx

        train, test = load_idx(name, root)
    elif name == "cifar10":
        from .cifar10 import load_cifar10

        train, test = load_cifar10(root)
    else:
        raise ValueError(f"data: no data set {name!r}; there are {', '.join(NAMES)}")
    if size is None:
        return train, test
    return train.resized(size), test.resized(size)
