"""crop_flip_normalize: definition against loops and the transforms, backends, errors."""

import ml_dtypes
import numpy as np
import pytest
from launches import record_launches
from threads import results_by_threads

from convolt.data.transforms import Compose, Normalize, RandomCrop, RandomFlip
from convolt.kernels import crop_flip_normalize
from convolt.kernels.backend import use_backend
from convolt.kernels.crop_flip_normalize import on_cuda

LAYOUTS = {
    "channels last": lambda x: x,
    "channels first": np.ascontiguousarray,
    "every other row": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
}


def draw(rng, shape, dtype=np.float32, reach=5):
    """x, placement, offset, scale; windows up to ``reach`` pixels away from the corner."""
    n, c, h, w = shape
    x = np.moveaxis(rng.integers(0, 256, (n, h, w, c), np.uint8), -1, 1)
    placement = rng.integers(-reach, reach + 1, (n, 3)).astype(np.int32)
    placement[:, crop_flip_normalize.FLIP] = np.arange(n) % 2
    return x, placement, rng.normal(100, 9, c).astype(dtype), rng.uniform(0.01, 2, c).astype(dtype)


def by_hand(x, placement, offset, scale, size):
    n, c, h, w = x.shape
    y = np.empty((n, c, *size), offset.dtype)
    for index in np.ndindex(y.shape):
        image, channel, i, j = index
        top, left, flip = placement[image].tolist()
        row, column = top + i, left + (size[1] - 1 - j if flip else j)
        inside = 0 <= row < h and 0 <= column < w
        pixel = offset.dtype.type(x[image, channel, row, column] if inside else 0)
        y[index] = (pixel - offset[channel]) * scale[channel]
    return y


# Digits, colours, more channels than lanes, one pixel, odd windows, none.
SHAPES = [
    *(((3, 1, 8, 8), (8, 8)), ((4, 3, 7, 5), (7, 5)), ((2, 37, 3, 4), (3, 4))),
    *(((1, 1, 1, 1), (1, 1)), ((3, 3, 6, 6), (4, 9)), ((0, 3, 4, 4), (4, 4))),
    *(((2, 0, 4, 4), (4, 4)), ((2, 4, 5, 33), (2, 33))),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_windows_are_the_definition_bit_by_bit(backend, rng, nan_results, shape, size, dtype):
    operands = draw(rng, shape, dtype)
    with nan_results(crop_flip_normalize):
        y = crop_flip_normalize.forward(*operands, size)
    expected = by_hand(*operands, size)
    assert y.dtype == dtype
    assert y.shape == expected.shape
    assert np.ascontiguousarray(y).tobytes() == expected.tobytes()
    assert np.moveaxis(y, 1, -1).flags.c_contiguous


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_does_not_matter(backend, rng, layout):
    x, *rest = draw(rng, (3, 3, 6, 5))
    y = crop_flip_normalize.forward(x, *rest)
    laid_out = LAYOUTS[layout](x)
    before = laid_out.copy()
    got = crop_flip_normalize.forward(laid_out, *rest)
    assert got.tobytes() == y.tobytes()
    assert got.strides == y.strides
    assert np.array_equal(laid_out, before)


def test_the_bits_are_those_of_the_transforms(backend, rng):
    images = rng.integers(0, 256, (16, 9, 11, 3), np.uint8)
    augment, normalize = Compose([RandomCrop(2), RandomFlip()]), Normalize.of(Images(images))
    expected = normalize(augment(images, np.random.default_rng(5)))
    again = np.random.default_rng(5)
    corner = again.integers(0, 4, size=(2, 16), endpoint=True)
    flip = again.integers(0, 2, size=16, dtype=np.uint8)
    placement = np.stack([*(corner - 2), flip], axis=1).astype(np.int32)
    offset = (255 * np.array(normalize.mean)).astype(np.float32)
    scale = (1 / (255 * np.array(normalize.std))).astype(np.float32)
    y = crop_flip_normalize.forward(images.transpose(0, 3, 1, 2), placement, offset, scale)
    assert np.moveaxis(y, 1, -1).tobytes() == expected.tobytes()


class Images:
    """As much of a Dataset as Normalize looks at."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)


def test_windows_far_away_are_black(backend, rng):
    x, _, offset, scale = draw(rng, (5, 3, 4, 4))
    least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    corners = [[least, 0, 0], [0, least, 1], [most, most, 1], [4, 0, 0], [0, -4, 1]]
    y = crop_flip_normalize.forward(x, np.array(corners, np.int32), offset, scale)
    black = ((0 - offset) * scale)[:, None, None]
    assert np.array_equal(y, np.broadcast_to(black, y.shape))


def test_integers_are_exact(backend):
    x = np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4)
    offset, scale = np.array([1, 2], np.float32), np.array([4, -8], np.float32)
    y = crop_flip_normalize.forward(x, np.array([[1, 1, 1]], np.int32), offset, scale, 2)
    window = x[:, :, 1:3, 1:3][..., ::-1].astype(int)
    assert np.array_equal(y, (window - [[[1]], [[2]]]) * [[[4]], [[-8]]])


def test_bfloat16_is_rounded_from_float32(backend, rng, nan_results):
    operands = draw(rng, (3, 3, 5, 16))
    if backend != "emulator":
        with pytest.raises(TypeError, match="crop_flip_normalize: result has dtype bfloat16"):
            crop_flip_normalize.forward(*operands, dtype=ml_dtypes.bfloat16)
        return
    with nan_results(crop_flip_normalize):
        y = crop_flip_normalize.forward(*operands, dtype=ml_dtypes.bfloat16)
    wide = crop_flip_normalize.forward(*operands)
    assert y.strides == tuple(s // 2 for s in wide.strides)
    assert y.tobytes() == wide.astype(ml_dtypes.bfloat16).tobytes()


def test_any_number_of_threads_gives_the_same_bytes(rng):
    operands = draw(rng, (9, 3, 30, 30))
    with use_backend("numba"):
        results = results_by_threads(lambda: crop_flip_normalize.forward(*operands).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "x must be a uint8 array, got float32", {"x": np.zeros((2, 3, 4, 5), "f4")}),
        (TypeError, "x must be a uint8 array, got list", {"x": [1, 2]}),
        (ValueError, r"x must be \(N, C, H, W\)", {"x": np.zeros((3, 4, 5), np.uint8)}),
        (ValueError, "with pixels", {"x": np.zeros((2, 3, 0, 5), np.uint8)}),
        (TypeError, "placement must be an int32", {"placement": np.zeros((2, 3), np.int64)}),
        (ValueError, r"placement has shape \(3, 3\)", {"placement": np.zeros((3, 3), np.int32)}),
        (ValueError, "not C-contiguous", {"placement": np.zeros((3, 2), np.int32).T}),
        (TypeError, "offset has dtype int64", {"offset": np.zeros(3, int)}),
        (TypeError, "scale has dtype float64 but offset", {"scale": np.ones(3)}),
        (ValueError, r"scale has shape \(4,\)", {"scale": np.ones(4, "f4")}),
        (ValueError, r"offset has shape \(1,\)", {"offset": np.ones(1, "f4")}),
        (ValueError, "size must be >= 1", {"size": 0}),
        (TypeError, "size must be an int", {"size": 2.5}),
        (ValueError, "int32 index", {"size": 2**16}),
        (TypeError, "result of float64 needs offset and scale of float64", {"dtype": "f8"}),
        (TypeError, "result has dtype int64", {"dtype": int}),
    ],
)
def test_bad_input_is_an_error_and_the_next_call_is_right(backend, error, message, change):
    good = {"x": np.full((2, 3, 4, 5), 9, np.uint8), "placement": np.zeros((2, 3), np.int32)}
    good |= {"offset": np.ones(3, "f4"), "scale": np.full(3, 2, "f4")}
    with pytest.raises(error, match=f"crop_flip_normalize: .*{message}"):
        crop_flip_normalize.forward(**good | change)
    assert np.all(crop_flip_normalize.forward(**good) == 16)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((0, 4, 4, 3), 0), ((1, 1, 4, 3), 1), ((3, 8, 4, 1), 3), ((3, 9, 4, 1), 4), ((2, 9, 4, 0), 0)],
)
def test_a_warp_makes_a_row(monkeypatch, shape, grid):
    launches = record_launches(monkeypatch)
    y = np.empty(shape, np.float32)
    on_cuda.forward(np.empty(shape, np.uint8), None, None, None, y)
    assert launches == [("crop_flip_normalize_forward_rows", grid, {"STORAGE": y.dtype})]
