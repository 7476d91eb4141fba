"""Handwritten digits that come with scikit-learn: nothing to download."""

from __future__ import annotations

import numpy as np

from .dataset import Dataset
from .random import permutation, stream


def digits(size: int = 8, seed: int = 0) -> tuple[Dataset, Dataset]:
    """1,797 grey handwritten digits, split into a training and a test set.

    Images are (N, size, size, 1); the original 8 x 8 ones are resized where ``size`` is another.
    The values 0 .. 16 are scaled to 0 .. 255. A fifth of each class, drawn by ``seed``, is the
    test set; a seed gives the same split on every machine. Both sets keep the original order.
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    Raises ValueError for a size below 1 or a negative seed, TypeError where they are no integers.
    """
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = target.astype(np.int64)
    everything = Dataset("digits", images, labels, tuple("0123456789"))
    test = _fifth_of_each_class(labels, seed)
    if size != 8:
        everything = everything.resized(size)
    return everything.subset(np.flatnonzero(~test)), everything.subset(np.flatnonzero(test))


def _fifth_of_each_class(labels: np.ndarray, seed: int) -> np.ndarray:
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = permutation(len(members), stream(seed, int(label)))
        chosen[members[order[: (len(members) + 2) // 5]]] = True
    return chosen
