"""A labelled set of images in memory."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex

import numpy as np

from .image import resize


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images (N, H, W, C) uint8, C-contiguous, with labels (N,) int64 in 0 .. len(classes) - 1.

    Raises TypeError for other dtypes; ValueError for other shapes, memory that is not
    C-contiguous, no images at all, lengths that differ, or a label out of range.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or labels.dtype != np.int64:
            raise TypeError(
                f"{self.name}: images must be uint8 and labels int64, "
                f"they are {images.dtype} and {labels.dtype}"
            )
        if images.ndim != 4 or images.size == 0:
            raise ValueError(
                f"{self.name}: images must have the shape (N, H, W, C) without zeros, "
                f"they have {images.shape}"
            )
        if not images.flags.c_contiguous:
            raise ValueError(
                f"{self.name}: images must be C-contiguous; pass np.ascontiguousarray(images)"
            )
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"{self.name}: {len(images)} images need labels of the shape ({len(images)},), "
                f"they have {labels.shape}"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.classes)))
        if wrong.size:
            raise ValueError(
                f"{self.name}: label {labels[wrong[0]]} of image {wrong[0]} is out of range; "
                f"there are {len(self.classes)} classes, 0 .. {len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shapes = f"images {self.images.shape}, labels {self.labels.shape}"
        return f"Dataset({self.name!r}, {shapes}, {len(self.classes)} classes)"

    def subset(self, which: SupportsIndex | Sequence[int] | np.ndarray) -> Dataset:
        """The first ``which`` images (an integer), or the images at the indices ``which``.

        Raises ValueError for a count outside 1 .. N, an index outside 0 .. N - 1 or no index;
        TypeError for indices that are not integers.
        """
        if isinstance(which, SupportsIndex) and not isinstance(which, np.ndarray):
            count = operator.index(which)
            if not 1 <= count <= len(self):
                raise ValueError(
                    f"{self.name}: cannot take the first {count} of {len(self)} images; "
                    f"take 1 .. {len(self)}"
                )
            return replace(self, images=self.images[:count], labels=self.labels[:count])
        indices = np.asarray(which)
        if indices.ndim != 1 or indices.size == 0:
            raise ValueError(
                f"{self.name}: indices must have the shape (M,), M > 0, they have {indices.shape}"
            )
        if indices.dtype.kind not in "iu":
            raise TypeError(f"{self.name}: indices must be integers, they are {indices.dtype}")
        if indices.min() < 0 or indices.max() >= len(self):
            raise ValueError(
                f"{self.name}: indices must lie in 0 .. {len(self) - 1}, "
                f"they lie in {indices.min()} .. {indices.max()}"
            )
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def resized(self, size: int) -> Dataset:
        """The same set with images of ``size`` x ``size`` pixels (see ``image.resize``)."""
        return replace(self, images=resize(self.images, size))
