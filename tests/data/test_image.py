"""Resizing, and reading pictures for `convolt predict`."""

import io

import numpy as np
import pytest
from PIL import Image

from convolt.data import read_image, resize


def bilinear(image, height, width):
    """Enlarging, from the definition: pixel centres at i + 1/2, edges repeated."""
    result = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y = (i + 0.5) * image.shape[0] / height - 0.5
            x = (j + 0.5) * image.shape[1] / width - 0.5
            top, left = int(np.floor(y)), int(np.floor(x))
            value = 0.0
            for r, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
                row = min(max(top + r, 0), image.shape[0] - 1)
                column = min(max(left + c, 0), image.shape[1] - 1)
                value += image[row, column] * (1 - abs(y - top - r)) * (1 - abs(x - left - c))
            result[i, j] = value
    return result


@pytest.mark.parametrize("channels", [1, 3])
def test_enlarging_is_bilinear(rng, channels):
    images = rng.integers(0, 256, (2, 5, 7, channels), dtype=np.uint8)
    result = resize(images, (11, 16))
    assert result.shape == (2, 11, 16, channels)
    assert result.dtype == np.uint8
    for n in range(2):
        for c in range(channels):
            expected = bilinear(images[n, ..., c].astype(float), 11, 16)
            # Pillow rounds to whole grey levels after each of its two passes.
            assert np.abs(result[n, ..., c] - expected).max() <= 1.01


def test_shrinking_averages():
    stripes = np.zeros((1, 64, 64, 1), np.uint8)
    stripes[:, :, ::2] = 255
    assert np.abs(resize(stripes, 8).astype(int) - 127).max() < 12


@pytest.mark.parametrize(
    ("images", "size", "error"),
    [
        (np.zeros((1, 4, 4, 1)), 8, TypeError),
        (np.zeros((1, 4, 4, 2), np.uint8), 8, ValueError),
        (np.zeros((4, 4), np.uint8), 8, ValueError),
        (np.zeros((1, 4, 4, 1), np.uint8), 0, ValueError),
        (np.zeros((1, 4, 4, 1), np.uint8), (8, -1), ValueError),
    ],
)
def test_resize_checks(images, size, error):
    with pytest.raises(error, match="resize"):
        resize(images, size)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tiff"])
def test_grey_is_read_exactly(tmp_path, rng, suffix):
    pixels = rng.integers(0, 256, (9, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(
        read_image(tmp_path / f"a.{suffix}", (9, 6), 1), pixels[..., None]
    )


def test_rgb_and_grey_of_the_same_picture(tmp_path, rng):
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png"), 8, 3), pixels)
    grey = read_image(tmp_path / "a.png", 8, 1)
    expected = pixels @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert np.abs(grey[..., 0] - expected).max() <= 1
    assert read_image(tmp_path / "a.png", 28, 3).shape == (28, 28, 3)


def test_grey_read_as_rgb_has_three_equal_channels(tmp_path):
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 4, 3) == 77).all()


def test_palette(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode=None).convert("P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 2, 3)
    assert image[0].tolist() == [[10, 20, 30], [200, 100, 50]]


def test_sixteen_bits_become_eight(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", (1, 4), 1)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparent_is_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, :, 3] = 255  # black above, transparent below
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 2, 1)[..., 0].tolist() == [[0, 0], [255, 255]]


def test_turned_as_exif_says(tmp_path):
    picture = Image.fromarray(np.array([[0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise for viewing
    picture.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", (2, 1), 1)[:, 0, 0].tolist() == [0, 255]


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.png"):
        read_image(tmp_path / "none.png", 8, 1)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path, 8, 1)


@pytest.mark.parametrize("contents", [b"", b"hello, I am text", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_not_an_image(tmp_path, contents):
    (tmp_path / "a.png").write_bytes(contents)
    with pytest.raises(ValueError, match=r"a\.png is not an image that Pillow can read"):
        read_image(tmp_path / "a.png", 8, 1)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own, of what it skips
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damaged_images_are_value_errors(tmp_path, rng, kind):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, kind)
    whole = buffer.getvalue()
    path = tmp_path / "a"
    failed = 0
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        try:
            read_image(path, 8, 3)
        except ValueError:
            failed += 1
    assert failed > 0


@pytest.mark.parametrize(("size", "channels"), [(0, 1), (8, 2), (8, 4), ((3, 0), 1)])
def test_bad_arguments(tmp_path, size, channels):
    with pytest.raises(ValueError, match=r"read_image: (size|channels) must be"):
        read_image(tmp_path / "none.png", size, channels)
