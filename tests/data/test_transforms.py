"""Normalize, RandomCrop, RandomFlip, Compose, and their JSON."""

import json

import numpy as np
import pytest

from convolt.data import Compose, Dataset, Normalize, RandomCrop, RandomFlip, from_json


def pictures(rng, n=6, height=5, width=7, channels=3, dtype=np.uint8):
    return rng.integers(0, 256, (n, height, width, channels)).astype(dtype)


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_normalize_is_its_equation(rng, dtype):
    images = pictures(rng, dtype=dtype)
    normalize = Normalize((0.1, 0.5, 0.9), (0.2, 0.3, 0.04))
    result = normalize(images)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    expected = (images / 255 - np.array(normalize.mean)) / np.array(normalize.std)
    # Three roundings of float32, the first of them of the size of the mean.
    bound = 3 * 2**-24 * (np.abs(expected) + np.array(normalize.mean) / np.array(normalize.std))
    assert (np.abs(result - expected) <= bound).all()


def test_normalize_does_not_change_its_input(rng):
    images = pictures(rng, dtype=np.float32)
    before = images.copy()
    Normalize((0.5,) * 3, (0.5,) * 3)(images)
    np.testing.assert_array_equal(images, before)


def test_normalize_takes_any_strides(rng):
    images = pictures(rng)
    normalize = Normalize((0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    np.testing.assert_array_equal(normalize(images[:, ::-1])[:, ::-1], normalize(images))


def test_normalize_of_a_dataset(rng):
    images = pictures(rng, n=2500, height=3, width=2) // np.array([1, 2, 5], np.uint8)
    dataset = Dataset("some", images, np.zeros(2500, np.int64), ("a",))
    normalize = Normalize.of(dataset)
    np.testing.assert_allclose(normalize.mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(normalize.std, (images / 255).std((0, 1, 2)), rtol=1e-12)
    result = normalize(images).astype(float)
    np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(result.std((0, 1, 2)), 1, atol=1e-6)


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_a_constant_channel_becomes_zero(rng, value):
    images = pictures(rng)
    images[..., 1] = value
    dataset = Dataset("some", images, np.zeros(6, np.int64), ("a",))
    normalize = Normalize.of(dataset)
    assert normalize.std[1] == 1
    assert (normalize(images)[..., 1] == 0).all()


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((), ()),
        ((0.5,), (0.5, 0.5)),
        ((0.5,), (0.0,)),
        ((0.5,), (-1.0,)),
        ((np.nan,), (1.0,)),
        ((0.0,), (np.inf,)),
        ((0.0,), (np.nan,)),
    ],
)
def test_normalize_checks_its_numbers(mean, std):
    with pytest.raises(ValueError, match="Normalize: mean"):
        Normalize(mean, std)


def test_normalize_checks_the_channels(rng):
    with pytest.raises(ValueError, match=r"\(6, 5, 7, 3\) have 3 channels but mean has 1"):
        Normalize((0.5,), (0.5,))(pictures(rng))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("padding", [0, 1, 4, 9])
def test_every_crop_is_a_window_of_the_padded_image(rng, padding, dtype):
    images = pictures(rng, n=40, dtype=dtype) + dtype(1)  # no black but the border's
    result = RandomCrop(padding)(images, generator())
    assert result.shape == images.shape
    assert result.dtype == dtype
    corners = set()
    for image, crop in zip(images, result, strict=True):
        padded = np.zeros((5 + 2 * padding, 7 + 2 * padding, 3), dtype)
        padded[padding : padding + 5, padding : padding + 7] = image
        fits = [
            (i, j)
            for i in range(2 * padding + 1)
            for j in range(2 * padding + 1)
            if np.array_equal(padded[i : i + 5, j : j + 7], crop)
        ]
        assert fits
        corners.update(fits)
    if padding == 1:
        assert len(corners) == 9  # every window is drawn


def test_flip_mirrors_about_half(rng):
    images = pictures(rng, n=400)
    before = images.copy()
    result = RandomFlip()(images, generator())
    np.testing.assert_array_equal(images, before)
    mirrored = (result == images[:, :, ::-1]).all((1, 2, 3))
    kept = (result == images).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("transform", [RandomCrop(3), RandomFlip()])
def test_the_generator_decides(rng, transform):
    images = pictures(rng, n=50)
    np.testing.assert_array_equal(transform(images, generator(1)), transform(images, generator(1)))
    assert (transform(images, generator(1)) != transform(images, generator(2))).any()


def test_compose_applies_in_order(rng):
    images = pictures(rng)
    both = Compose([RandomCrop(2), RandomFlip(), Normalize((0.5,) * 3, (0.5,) * 3)])
    stream = generator(3)
    expected = both.transforms[2](
        both.transforms[1](both.transforms[0](images, stream), stream), stream
    )
    np.testing.assert_array_equal(both(images, generator(3)), expected)
    np.testing.assert_array_equal(Compose([])(images, generator()), images)


@pytest.mark.parametrize("transform", [Normalize((0.5,), (0.5,)), RandomCrop(1), RandomFlip()])
def test_images_of_another_rank(transform):
    with pytest.raises(ValueError, match=r"images must be \(N, H, W, C\), they are \(5, 5\)"):
        transform(np.zeros((5, 5), np.uint8), generator())


@pytest.mark.parametrize("transform", [Normalize((0.5,), (0.5,)), RandomCrop(1), RandomFlip()])
def test_no_images(transform):
    assert transform(np.zeros((0, 5, 4, 1), np.uint8), generator()).shape == (0, 5, 4, 1)


@pytest.mark.parametrize(("padding", "error"), [(-1, ValueError), (1.5, TypeError)])
def test_crop_checks_its_padding(padding, error):
    with pytest.raises(error, match="RandomCrop: padding"):
        RandomCrop(padding)


@pytest.mark.parametrize(
    "transform",
    [
        Normalize((0.1, 1 / 3), (0.2, np.pi)),
        RandomCrop(4),
        RandomFlip(),
        Compose([]),
        Compose([RandomCrop(4), Compose([RandomFlip()]), Normalize((0.1,), (1e-9,))]),
    ],
)
def test_json_gives_the_same_transform(transform):
    assert from_json(json.loads(json.dumps(transform.to_json()))) == transform


def test_json_is_readable():
    both = Compose([RandomCrop(4), Normalize((0.5,), (0.25,))])
    assert both.to_json() == {
        "kind": "compose",
        "transforms": [
            {"kind": "random_crop", "padding": 4},
            {"kind": "normalize", "mean": [0.5], "std": [0.25]},
        ],
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "unknown kind None; there are normalize, random_crop, random_flip, compose"),
        ({"kind": "eval"}, "unknown kind 'eval'"),
        ({"kind": "random_crop"}, "cannot make 'random_crop'"),
        ({"kind": "random_crop", "padding": "4"}, "cannot make 'random_crop'"),
        ({"kind": "random_flip", "p": 1}, "cannot make 'random_flip'"),
        ({"kind": "normalize", "mean": 0.5, "std": 0.5}, "cannot make 'normalize'"),
        ({"kind": "normalize", "mean": [0.5], "std": [0]}, "std"),
        ({"kind": "compose"}, "cannot make 'compose'"),
        ({"kind": "compose", "transforms": [{"kind": "x"}]}, "unknown kind 'x'"),
    ],
)
def test_malformed_json(value, message):
    with pytest.raises(ValueError, match=message):
        from_json(value)
