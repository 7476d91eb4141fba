"""dgrad with an addend, and with a step back through the batch-norm below: what the steps give."""

from dataclasses import replace

import numpy as np
import pytest
from tolerance import assert_within

from convolt.kernels import batch_norm, conv2d, emulator
from convolt.kernels.arrays import dtype_of
from convolt.kernels.backend import use_backend
from convolt.kernels.batch_norm import GradientSums, Normalization
from convolt.kernels.conv2d import Conv2dSize
from convolt.kernels.conv2d.choice import use_algorithm
from convolt.kernels.precision import use_precision

SIZES = {  # x, w, options
    "3x3": ((2, 9, 7, 8), (16, 3, 3, 8), {"padding": 1}),
    "1x1, strided": ((3, 7, 6, 8), (8, 1, 1, 8), {"stride": 2}),
    "3x3, strided": ((2, 13, 12, 72), (8, 3, 3, 72), {"stride": 2, "padding": 1}),
    "several tiles": ((5, 8, 9, 136), (8, 1, 1, 136), {}),
    "stride 3": ((2, 8, 7, 16), (8, 2, 2, 16), {"stride": 3}),
    "groups": ((1, 8, 9, 16), (16, 3, 3, 8), {"groups": 2, "dilation": 2}),
    "odd channels": ((2, 5, 6, 3), (5, 3, 3, 3), {"padding": 1}),
}
IN_PACKS = [name for name in SIZES if name != "odd channels"]
FAMILIES = {  # algorithm, dtype, precision
    "mma_128x128": ("bfloat16", "bf16"),
    "mma_128x64": ("float32", "tf32"),
    "mma_64x64": ("bfloat16", "bf16"),
    "wgmma_128x64": ("bfloat16", "bf16"),
    "wgmma_256x128": ("bfloat16", "bf16"),
}


def draw(rng, name, dtype, integers=False):
    """grad_y, w, an addend, and what a batch-norm below normalized, with its weight and bias."""
    x_shape, w_shape, options = SIZES[name]
    size = Conv2dSize.of(x_shape, w_shape, **options)
    shapes = size.y_shape, w_shape, x_shape, x_shape, x_shape
    if integers:
        images = [rng.integers(-2, 3, s) for s in shapes]
    else:
        images = [rng.standard_normal(s) for s in shapes]
    channels = rng.uniform(0.5, 2, size.c), rng.normal(size=size.c)
    real = np.float32 if dtype == "bfloat16" else dtype
    images = [a.astype(dtype_of(dtype)) for a in images]
    return size, images, [a.astype(real) for a in channels]


def normalization(values, weight, bias, residual, activation="relu"):
    signs = None if residual is None else batch_norm.empty_signs(values)
    y, mean, inv_std = batch_norm.forward(
        values, weight, bias, None, None, 0.1, 1e-5, residual, activation, None, signs
    )
    kept = None if residual is None else y
    return Normalization.of(values, mean, inv_std, weight, bias, kept, activation, signs), y


def by_steps(grad_y, w, size, addend, y, activation):
    """g, of the dtype of y: each step rounded."""
    grad = conv2d.dgrad(grad_y, w, size)
    real = np.float64 if grad.dtype == np.float64 else np.float32
    if addend is not None:
        grad = (grad.astype(real) + addend.astype(real)).astype(grad.dtype)
    return np.where(y > 0, grad, 0).astype(grad.dtype) if activation else grad


def assert_sums(sums, g, below):
    """Of a dgrad's parts, whose rows are not known: together."""
    g, values = (a.astype(np.float64).reshape(-1, a.shape[-1]) for a in (g, below.x))
    centered = values - below.mean
    for got, terms in ((sums.sums, g), (sums.products, g * centered)):
        assert got.dtype == np.float32
        total = got.astype(np.float64).sum(axis=0)
        assert_within(total.astype(np.float32), terms.sum(0), np.abs(terms).sum(0), len(terms))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", SIZES)
def test_an_addend(backend, rng, nan_results, name, dtype):
    size, (grad_y, w, addend, *_), _ = draw(rng, name, dtype)
    if dtype == "bfloat16" and backend != "emulator":
        with pytest.raises(TypeError, match="bfloat16"):
            conv2d.dgrad(grad_y, w, size, addend)
        return
    given = addend.copy()
    with nan_results(conv2d):
        got = conv2d.dgrad(grad_y, w, size, addend)
    np.testing.assert_array_equal(got, by_steps(grad_y, w, size, addend, None, None))
    np.testing.assert_array_equal(addend, given)


@pytest.mark.parametrize("kind", ["addend", "residual", "addend and residual", "no activation"])
@pytest.mark.parametrize("algorithm", FAMILIES)
@pytest.mark.parametrize("name", IN_PACKS)
def test_a_step_back(rng, nan_results, name, algorithm, kind):
    """Bit by bit the gradient that the steps give, and sums of that; no block in another's way."""
    dtype, precision = FAMILIES[algorithm]
    if name == "groups" and algorithm.startswith("wgmma"):
        pytest.skip("wgmma has no groups")
    size, (grad_y, w, addend, values, residual), channels = draw(rng, name, dtype)
    activation = None if kind == "no activation" else "relu"
    addend = addend if "addend" in kind else None
    residual = residual if "residual" in kind else None
    names = use_algorithm(conv2d_dgrad=algorithm)
    with use_backend("emulator"), use_precision(precision), names, emulator.options(mode="check"):
        below, y = normalization(values, *channels, residual, activation)
        with nan_results(conv2d), emulator.record() as launches:
            g, sums = conv2d.dgrad_sums(grad_y, w, size, below, addend)
        assert {x.entry for x in launches} == {f"conv2d_dgrad_{algorithm.partition('_')[0]}"}
        expected = by_steps(grad_y, w, size, addend, y, activation)
    np.testing.assert_array_equal(g, expected)
    assert_sums(sums, g, below)


@pytest.mark.parametrize("name", ["3x3, strided", "several tiles"])
def test_batch_norm_goes_on_from_there(rng, name):
    """With integers: what it makes of the same gradient without the sums."""
    size, (grad_y, w, addend, values, residual), channels = draw(rng, name, "bfloat16", True)
    with use_backend("emulator"):
        for added in (residual, None):
            below, _ = normalization(values, *channels, added)
            g, sums = conv2d.dgrad_sums(grad_y, w, size, below, addend)
            call = below.x, below.mean, below.inv_std, *channels, below.y, "relu"
            got = batch_norm.backward(g, *call, sums)
            expected = batch_norm.backward(conv2d.dgrad(grad_y, w, size, addend), *call)
            assert got[3] is g
            for a, b in zip(got[:3], expected[:3], strict=True):
                a, b = a.astype(np.float64), b.astype(np.float64)
                assert np.abs(a - b).max() <= 2.0**-8 * np.abs(b).max()


def test_what_has_no_kernel_for_it_leaves_the_step_to_batch_norm(backend, rng):
    size, (grad_y, w, addend, values, _), channels = draw(rng, "odd channels", "float32")
    below, _ = normalization(values, *channels, None)
    plain, sums = conv2d.dgrad_sums(grad_y, w, size, below, addend)
    assert sums is None
    np.testing.assert_array_equal(plain, conv2d.dgrad(grad_y, w, size, addend))


@pytest.mark.parametrize("family", ["mma", "wgmma"])
def test_without_the_signs_a_result_with_a_residual_is_left_to_batch_norm(rng, family):
    size, (grad_y, w, addend, values, residual), channels = draw(rng, "3x3", "bfloat16")
    with use_backend("emulator"), use_algorithm(conv2d_dgrad=family):
        below, _ = normalization(values, *channels, residual)
        plain, sums = conv2d.dgrad_sums(grad_y, w, size, replace(below, signs=None), addend)
        assert sums is None
        np.testing.assert_array_equal(plain, conv2d.dgrad(grad_y, w, size, addend))
        with pytest.raises(ValueError, match=r"below\.signs has shape"):
            conv2d.dgrad_sums(grad_y, w, size, replace(below, signs=below.signs[1:]))


def test_mma_pads_an_addend_of_odd_channels(rng):
    size, (grad_y, w, addend, values, _), channels = draw(rng, "odd channels", "bfloat16")
    with use_backend("emulator"), use_algorithm(conv2d_dgrad="mma"):
        below, _ = normalization(values, *channels, None)
        got, sums = conv2d.dgrad_sums(grad_y, w, size, below, addend)
        assert sums is None
        np.testing.assert_array_equal(got, by_steps(grad_y, w, size, addend, None, None))


def test_sums_in_any_parts(backend, rng):
    """batch_norm.backward with sums: those of g, in two parts here, of either dtype."""
    x, g = (rng.standard_normal((37, 5)) for _ in range(2))
    below, _ = normalization(x, np.full(5, 2.0), np.ones(5), None)
    terms = g, g * (x - below.mean)
    parts = [np.stack([a[:20].sum(0), a[20:].sum(0)]) for a in terms]
    call = g, x, below.mean, below.inv_std, below.weight, below.bias
    expected = batch_norm.backward(*call)
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 1e-5)):
        sums = GradientSums(*(a.astype(dtype) for a in parts))
        got = batch_norm.backward(*call, None, "relu", sums)  # g is masked already
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_bad_input(backend, rng):
    size, (grad_y, w, addend, values, _), channels = draw(rng, "3x3", "float32")
    below, _ = normalization(values, *channels, None)
    with pytest.raises(ValueError, match=r"addend has shape .*, expected \(2, 9, 7, 8\)"):
        conv2d.dgrad(grad_y, w, size, addend[:1])
    with pytest.raises(TypeError, match="addend has dtype float64"):
        conv2d.dgrad(grad_y, w, size, addend.astype(np.float64))
    short = Normalization.of(values[:1], below.mean, below.inv_std, *channels, None, "relu")
    with pytest.raises(ValueError, match=r"x has shape .*, expected \(2, 9, 7, 8\)"):
        conv2d.dgrad_sums(grad_y, w, size, short)
    narrow = Normalization.of(values, below.mean[1:], below.inv_std, *channels, None, "relu")
    with pytest.raises(ValueError, match=r"below\.mean has shape"):
        conv2d.dgrad_sums(grad_y, w, size, narrow)
    assert conv2d.dgrad_sums(grad_y, w, size, below)[0].shape == size.x_shape
