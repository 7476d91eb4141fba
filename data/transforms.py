"""Preprocessing and augmentation of batches of images.

A transform takes (images, rng) and returns new images: (N, H, W, C), pixel values 0 .. 255 in
uint8 or float. The same generator state gives the same result. ``to_json`` gives a dictionary
for a run's config, from which ``from_json`` makes the same transform again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from .dataset import Dataset


class Transform(Protocol):
    """What ``Loader`` and ``Compose`` call."""

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """New images from ``images`` (N, H, W, C)."""
        ...

    def to_json(self) -> dict[str, Any]:
        """What ``from_json`` needs, in JSON's types."""
        ...


@dataclass(frozen=True)
class Normalize:
    """y = (x / 255 - mean) / std for each channel, float32; ``rng`` is not used.

    ``mean`` and ``std`` are those of x / 255, one number a channel.
    Raises ValueError where their lengths differ, std is not positive, or (when called) the
    images have another number of channels.
    """

    kind: ClassVar[str] = "normalize"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(m) for m in self.mean))
        object.__setattr__(self, "std", tuple(float(s) for s in self.std))
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"Normalize: mean {self.mean} and std {self.std} must hold one number a channel"
            )
        if not np.isfinite(self.mean).all() or not all(0 < s < np.inf for s in self.std):
            raise ValueError(
                f"Normalize: mean {self.mean} must be finite and std {self.std} positive"
            )

    @classmethod
    def of(cls, dataset: Dataset) -> Normalize:
        """With the mean and standard deviation of all pixels of ``dataset``, channel by channel.

        A channel that is constant gets std 1, so that it becomes 0.
        """
        values = np.arange(256) / 255
        counts = np.zeros((dataset.images.shape[3], 256))
        for first in range(0, len(dataset), 1024):  # bincount copies to int64: a part at a time
            part = dataset.images[first : first + 1024]
            for channel, count in enumerate(counts):
                count += np.bincount(part[..., channel].ravel(), minlength=256)
        shares = counts / counts.sum(axis=1, keepdims=True)
        mean = shares @ values
        std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
        std[np.count_nonzero(counts, axis=1) == 1] = 1
        return cls(tuple(mean), tuple(std))

    def __call__(self, images: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """float32, C-contiguous, from pixel values 0 .. 255."""
        n, height, width, channels = _shape(images, "Normalize")
        if channels != len(self.mean):
            raise ValueError(
                f"Normalize: images {images.shape} have {channels} channels but mean has "
                f"{len(self.mean)}; make it with Normalize.of(dataset) of the same data"
            )
        # Row by row: NumPy's inner loop is then W * C long, not C.
        offset = np.tile((255 * np.array(self.mean)).astype(np.float32), width)
        scale = np.tile((1 / (255 * np.array(self.std))).astype(np.float32), width)
        rows = images.reshape(n * height, width * channels)
        result = np.subtract(rows, offset, dtype=np.float32)
        result *= scale
        return result.reshape(images.shape)

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "normalize", "mean": [...], "std": [...]}``."""
        return {"kind": self.kind, "mean": list(self.mean), "std": list(self.std)}


@dataclass(frozen=True)
class RandomCrop:
    """Pads with ``padding`` black pixels on every side and cuts a random H x W window, image by
    image. Raises ValueError for a negative padding, TypeError for one that is no integer.
    """

    kind: ClassVar[str] = "random_crop"
    padding: int

    def __post_init__(self) -> None:
        if not isinstance(self.padding, int):
            raise TypeError(f"RandomCrop: padding must be an integer, it is {self.padding!r}")
        if self.padding < 0:
            raise ValueError(f"RandomCrop: padding must be 0 or more, it is {self.padding}")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The dtype of ``images``."""
        n, height, width, _ = _shape(images, "RandomCrop")
        border = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), border, border, (0, 0)))
        corner = rng.integers(0, 2 * self.padding, size=(2, n), endpoint=True)
        row = corner[0, :, None] + np.arange(height)
        column = corner[1, :, None] + np.arange(width)
        return padded[np.arange(n)[:, None, None], row[:, :, None], column[:, None, :]]

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "random_crop", "padding": ...}``."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class RandomFlip:
    """Mirrors each image left to right with probability one half."""

    kind: ClassVar[str] = "random_flip"

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The dtype of ``images``."""
        n, *_ = _shape(images, "RandomFlip")
        mirrored = rng.integers(0, 2, size=n, dtype=np.uint8).astype(bool)
        result = images.copy()
        result[mirrored] = images[mirrored, :, ::-1]
        return result

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "random_flip"}``."""
        return {"kind": self.kind}


@dataclass(frozen=True)
class Compose:
    """The ``transforms`` one after the other, drawing from one generator."""

    kind: ClassVar[str] = "compose"
    transforms: Sequence[Transform]

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What the last transform gives."""
        for transform in self.transforms:
            images = transform(images, rng)
        return images

    def to_json(self) -> dict[str, Any]:
        """``{"kind": "compose", "transforms": [...]}``."""
        return {"kind": self.kind, "transforms": [t.to_json() for t in self.transforms]}


KINDS = {kind.kind: kind for kind in (Normalize, RandomCrop, RandomFlip, Compose)}


def from_json(value: Mapping[str, Any]) -> Transform:
    """The transform whose ``to_json`` gave ``value``.

    Raises ValueError for an unknown kind, or fields that are not those of the kind.
    """
    fields = dict(value)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"transforms: unknown kind {kind!r}; there are {', '.join(KINDS)}")
    try:
        if kind == Compose.kind:
            fields["transforms"] = [from_json(part) for part in fields["transforms"]]
        return KINDS[kind](**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"transforms: cannot make {kind!r} from {dict(value)}: {error}") from error


def _shape(images: np.ndarray, name: str) -> tuple[int, ...]:
    if images.ndim != 4:
        raise ValueError(f"{name}: images must be (N, H, W, C), they are {images.shape}")
    return images.shape
