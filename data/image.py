"""Single images: reading a picture, resizing."""

from __future__ import annotations

import operator
import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = {1: "L", 3: "RGB"}


def resize(images: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Images (N, H, W, C) uint8, C 1 or 3, bilinearly resized to ``size`` (an edge, or (H, W)).

    Shrinking averages over all pixels that fall into a new one, as Pillow does.
    Raises ValueError for other shapes or a size below 1, TypeError for another dtype.
    """
    from PIL import Image

    if images.dtype != np.uint8:
        raise TypeError(f"resize: images must be uint8, they are {images.dtype}")
    if images.ndim != 4 or images.shape[3] not in MODES:
        raise ValueError(f"resize: images must be (N, H, W, 1 or 3), they are {images.shape}")
    height, width = _height_width(size, "resize")
    resized = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    pillow_shaped = images[..., 0] if images.shape[3] == 1 else images
    for result, image in zip(resized, pillow_shaped, strict=True):
        picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        result[...] = np.asarray(picture).reshape(result.shape)
    return resized


def read_image(
    path: str | os.PathLike[str], size: int | tuple[int, int], channels: int
) -> np.ndarray:
    """The picture at ``path`` as (H, W, channels) uint8, grey (1) or RGB (3), resized to ``size``.

    ``size`` is an edge or (H, W). The picture is turned as its EXIF data say, and what is
    transparent becomes white, as a viewer shows it.
    Raises FileNotFoundError; ValueError for a file that is no readable image, for other
    ``channels`` and for a size below 1.
    """
    from PIL import Image, ImageOps

    if channels not in MODES:
        raise ValueError(f"read_image: channels must be 1 (grey) or 3 (RGB), it is {channels}")
    height_width = _height_width(size, "read_image")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"read_image: there is no file {os.fspath(path)}")
    try:
        with Image.open(path) as picture:
            picture = _opaque(ImageOps.exif_transpose(picture)).convert(MODES[channels])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"read_image: {os.fspath(path)} is not an image that Pillow can read "
            f"(a complete PNG, JPEG, BMP, GIF, ... is expected): {error}"
        ) from error
    pixels = np.asarray(picture).reshape(1, picture.height, picture.width, channels)
    return resize(pixels, height_width)[0]


def _opaque(picture: Image) -> Image:
    """Laid over white; 16-bit grey brought to 8 bits, which Pillow would clip instead."""
    from PIL import Image

    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _height_width(size: int | tuple[int, int], op: str) -> tuple[int, int]:
    height, width = size if isinstance(size, tuple) else (size, size)
    if operator.index(height) < 1 or operator.index(width) < 1:
        raise ValueError(f"{op}: size must be 1 or more, it is {size}")
    return height, width
