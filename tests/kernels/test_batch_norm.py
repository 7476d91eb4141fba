"""batch_norm: definition against brute force, backends against each other, stability, errors."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from threads import results_by_threads
from tolerance import UNIT, assert_within

from convolt.kernels import batch_norm
from convolt.kernels.arrays import dtype_of
from convolt.kernels.backend import use_backend
from convolt.kernels.batch_norm.on_cuda import Slabs

EPS, MOMENTUM = 1e-5, 0.3
SHAPES = {
    "two_rows": (2, 3),
    "one_channel": (7, 1),
    "images": (3, 5, 2, 3),
    "prime": (131, 5),
    "wider_than_the_lanes": (37, 67),
    "several_blocks": (2003, 17),
    "several_blocks_of_one_channel": (40009, 1),
    "several_blocks_of_wide_rows": (67, 521),
    "packs": (5, 4, 24),
    "packs_of_several_slabs_and_splits": (270, 256),
}
DTYPES = [np.float32, np.float64]


def draw(rng, shape, dtype=np.float64):
    """x, grad_y, weight, bias, running_mean, running_var; channels of unlike mean and deviation."""
    c = shape[-1]
    x = rng.standard_normal(shape) * rng.uniform(0.5, 3, c) + rng.uniform(-4, 4, c)
    channels = [rng.uniform(0.5, 2, c), rng.standard_normal(c), rng.standard_normal(c)]
    arrays = [x, rng.standard_normal(shape), *channels, rng.uniform(0.5, 2, c)]
    return [a.astype(dtype) for a in arrays]


def run(x, grad_y, weight, bias, running_mean, running_var):
    """All results by name; the running statistics are copied first."""
    r = {"running_mean": running_mean.copy(), "running_var": running_var.copy()}
    r["y_eval"] = batch_norm.forward_eval(x, weight, bias, running_mean, running_var, EPS)
    names = ("grad_x_eval", "grad_weight_eval", "grad_bias_eval")
    *gradients, grad_residual = batch_norm.backward_eval(
        grad_y, x, weight, running_mean, running_var, EPS
    )
    assert grad_residual is grad_y
    r |= dict(zip(names, gradients, strict=True))
    r["y"], r["mean"], r["inv_std"] = batch_norm.forward(
        x, weight, bias, r["running_mean"], r["running_var"], MOMENTUM, EPS
    )
    *gradients, grad_residual = batch_norm.backward(grad_y, x, r["mean"], r["inv_std"], weight)
    assert grad_residual is grad_y
    return r | dict(zip(("grad_x", "grad_weight", "grad_bias"), gradients, strict=True))


def by_hand(x, grad_y, weight, bias, running_mean, running_var):
    """The results, and the same sums over absolute values, channel by channel in float64."""
    shape, c = x.shape, x.shape[-1]
    m = x.size // c
    ref = {name: np.empty(c) for name in ("mean", "inv_std", "running_mean", "running_var")}
    ref |= {f"grad_{p}{s}": np.empty(c) for p in ("weight", "bias") for s in ("", "_eval")}
    ref |= {name + s: np.empty((m, c)) for name in ("y", "grad_x") for s in ("", "_eval")}
    size = {name: np.empty_like(a) for name, a in ref.items()}
    for j in range(c):
        xs, gs = ([float(v) for v in a.reshape(m, c)[:, j]] for a in (x, grad_y))
        w, b, old_mean, old_var = (float(a[j]) for a in (weight, bias, running_mean, running_var))
        mean, mean_size = math.fsum(xs) / m, math.fsum(map(abs, xs)) / m
        var = math.fsum((v - mean) ** 2 for v in xs) / m
        var_size = math.fsum((abs(v) + mean_size) ** 2 for v in xs) / m
        ref["mean"][j], size["mean"][j] = mean, mean_size
        ref["inv_std"][j] = 1 / math.sqrt(var + EPS)
        size["inv_std"][j] = ref["inv_std"][j] * (1 + var_size / (var + EPS))
        ref["running_mean"][j] = (1 - MOMENTUM) * old_mean + MOMENTUM * mean
        size["running_mean"][j] = (1 - MOMENTUM) * abs(old_mean) + MOMENTUM * mean_size
        ref["running_var"][j] = (1 - MOMENTUM) * old_var + MOMENTUM * var * m / (m - 1)
        size["running_var"][j] = (1 - MOMENTUM) * old_var + MOMENTUM * var_size * m / (m - 1)
        for s, center, center_size, inv_std in (
            ("", mean, mean_size, 1 / math.sqrt(var + EPS)),
            ("_eval", old_mean, abs(old_mean), 1 / math.sqrt(old_var + EPS)),
        ):
            hat = [(v - center) * inv_std for v in xs]
            hat_size = [(abs(v) + center_size) * inv_std for v in xs]
            sum_g, sum_gx = math.fsum(gs), math.fsum(g * h for g, h in zip(gs, hat, strict=True))
            size_g = math.fsum(map(abs, gs))
            size_gx = math.fsum(abs(g) * h for g, h in zip(gs, hat_size, strict=True))
            ref["grad_bias" + s][j], size["grad_bias" + s][j] = sum_g, size_g
            ref["grad_weight" + s][j], size["grad_weight" + s][j] = sum_gx, size_gx
            through = 0 if s else 1  # the statistics of evaluation are constants
            for i, (g, h, h_size) in enumerate(zip(gs, hat, hat_size, strict=True)):
                ref["y" + s][i, j], size["y" + s][i, j] = w * h + b, abs(w) * h_size + abs(b)
                ref["grad_x" + s][i, j] = w * inv_std * (g - through * (sum_g + h * sum_gx) / m)
                size["grad_x" + s][i, j] = (
                    w * inv_std * (abs(g) + through * (size_g + h_size * size_gx) / m)
                )
    for results in (ref, size):
        for name in results:
            if results[name].ndim == 2:
                results[name] = results[name].reshape(shape)
    return ref, size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_results_are_those_of_the_equations(backend, rng, nan_results, shape, dtype):
    arrays = draw(rng, shape, dtype)
    ref, size = by_hand(*arrays)
    with nan_results(batch_norm):
        got = run(*arrays)
    assert got.keys() == ref.keys()
    for name in ref:
        statistic = name in ("mean", "inv_std")
        assert got[name].dtype == (np.float64 if statistic else dtype), name
        # Sums are float64 for both dtypes: a float32 result is rounded once, at the end.
        rounded_once = got[name].dtype == np.float32
        length = 1 if rounded_once else math.prod(shape[:-1])
        assert_within(got[name], ref[name], size[name], length)


def test_y_of_a_batch_has_mean_0_and_deviation_1(backend, rng):
    x = rng.standard_normal((4, 8, 8, 3)) * 7 + 2
    y, _, _ = batch_norm.forward(x, None, None, None, None, 0.1, 1e-12)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-14)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "mean"), [(np.float32, 1e4), (np.float64, 1e8)])
def test_variance_survives_a_mean_much_larger_than_the_deviation(backend, rng, dtype, mean):
    """sum(x^2)/M - mean^2 is off by 1 in float32, and by more than 1 at 1e8 in float64."""
    x = (rng.standard_normal((4001, 3)) + mean).astype(dtype)
    y, _, inv_std = batch_norm.forward(x, None, None, None, None, 0.1, EPS)
    for j in range(3):
        xs = [float(v) for v in x[:, j]]
        center = math.fsum(xs) / len(xs)
        std = math.sqrt(math.fsum((v - center) ** 2 for v in xs) / len(xs) + EPS)
        u = UNIT["float64"]
        assert abs(inv_std[j] * std - 1) <= 4 * u * math.sqrt(len(xs)) * mean / std
        ref = np.array([(v - center) / std for v in xs])
        size, length = (abs(ref), 1) if dtype == np.float32 else (mean / std, len(xs))
        assert_within(y[:, j], ref, size, length)


@pytest.mark.parametrize("argument", ["x", "weight", "bias"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_directional_derivatives(backend, rng, training, argument):
    x, grad_y, weight, bias, running_mean, running_var = draw(rng, (3, 4, 5, 3))
    r = run(x, grad_y, weight, bias, running_mean, running_var)
    gradient = r[f"grad_{argument}" if training else f"grad_{argument}_eval"]
    at = {"x": x, "weight": weight, "bias": bias}
    direction = rng.standard_normal(gradient.shape)

    def loss(step):
        moved = at | {argument: at[argument] + step * direction}
        if training:
            y, _, _ = batch_norm.forward(**moved, **dict.fromkeys(STATISTICS), momentum=0, eps=EPS)
        else:
            y = batch_norm.forward_eval(
                **moved, running_mean=running_mean, running_var=running_var, eps=EPS
            )
        return (grad_y * y).sum()

    h = 1e-5  # error h^2 of the difference, u / h of its rounding
    slope = (loss(h) - loss(-h)) / (2 * h)
    terms = np.abs(gradient * direction).sum()
    assert abs(slope - (gradient * direction).sum()) <= 1e-7 * max(terms, 1)


STATISTICS = ("running_mean", "running_var")


@pytest.mark.parametrize("shape", [(64, 3), (4096, 17), (2, 8, 8, 67), (600, 136)])
def test_integers_are_exact_on_every_backend(backend, rng, shape):
    """Running mean -3, deviation 1/2: sums of small integers, halves and doubles are exact."""
    x, grad_y = (rng.integers(-8, 9, shape).astype(np.float32) for _ in range(2))
    c = shape[-1]
    weight, bias = (rng.integers(1, 5, c).astype(np.float32) for _ in range(2))
    running_mean, running_var = np.full(c, -3, np.float32), np.full(c, 0.25, np.float32)
    axes = tuple(range(len(shape) - 1))
    y = batch_norm.forward_eval(x, weight, bias, running_mean, running_var, 0.0)
    grad_x, grad_weight, grad_bias, _ = batch_norm.backward_eval(
        grad_y, x, weight, running_mean, running_var, 0.0
    )
    _, mean, inv_std = batch_norm.forward(x, weight, bias, None, None, 0.1, EPS)
    _, _, grad_bias_training, _ = batch_norm.backward(grad_y, x, mean, inv_std, weight)
    np.testing.assert_array_equal(y, weight * (x + 3) * 2 + bias)
    np.testing.assert_array_equal(grad_x, weight * 2 * grad_y)
    np.testing.assert_array_equal(grad_weight, (grad_y * (x + 3) * 2).sum(axis=axes))
    np.testing.assert_array_equal(grad_bias, grad_y.sum(axis=axes))
    np.testing.assert_array_equal(grad_bias_training, grad_y.sum(axis=axes))


def fused(x, grad_y, weight, bias, running_mean, running_var, residual, activation):
    """All results with a residual and an activation, by name."""
    r = {}
    more = {"residual": residual, "activation": activation}
    y, mean, inv_std = batch_norm.forward(x, weight, bias, None, None, 0.1, EPS, **more)
    r["y"], needed = y, None if residual is None else y
    gradients = batch_norm.backward(grad_y, x, mean, inv_std, weight, bias, needed, activation)
    names = ("grad_x", "grad_weight", "grad_bias", "grad_residual")
    r |= dict(zip(names, gradients, strict=True))
    statistics = running_mean, running_var, EPS
    y = batch_norm.forward_eval(x, weight, bias, *statistics, **more)
    r["y_eval"], needed = y, None if residual is None else y
    gradients = batch_norm.backward_eval(grad_y, x, weight, *statistics, bias, needed, activation)
    return r | {f"{n}_eval": g for n, g in zip(names, gradients, strict=True)}


FUSED_SHAPES = [(2, 3), (131, 5), (3, 5, 2, 40), (37, 67), (2003, 17), (270, 136)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", FUSED_SHAPES, ids=str)
def test_residual_and_activation_in_the_same_pass(
    backend, rng, nan_results, shape, with_residual, activation, dtype
):
    """The results are those of the steps one by one, of which ``by_hand`` does the first."""
    x, grad_y, *channels = draw(rng, shape, np.float32 if dtype == ml_dtypes.bfloat16 else dtype)
    residual = rng.standard_normal(shape).astype(dtype) if with_residual else None
    x, grad_y = x.astype(dtype), grad_y.astype(dtype)
    if dtype == ml_dtypes.bfloat16 and backend != "emulator":
        with pytest.raises(TypeError, match="batch_norm: x has dtype bfloat16"):
            fused(x, grad_y, *channels, residual, activation)
        return
    with nan_results(batch_norm):
        got = fused(x, grad_y, *channels, residual, activation)
    for s in ("", "_eval"):
        ref, size = by_hand(x, grad_y, *channels)
        before = ref["y" + s] + (0 if residual is None else residual.astype(np.float64))
        magnitude = size["y" + s] + (0 if residual is None else abs(residual.astype(np.float64)))
        y = np.maximum(before, 0) if activation else before
        # one rounding more than without: that of the sum with the residual
        assert_within(got["y" + s], y, magnitude, math.prod(shape[:-1]))
        positive = np.ones(shape, bool)
        if activation:
            assert 0.1 < np.mean(before > 0) < 0.9
            unsure = np.abs(before) <= 1e-5 * magnitude  # the result's own sign counts there
            assert np.mean(unsure) < 1e-3
            positive = np.where(unsure, got["y" + s] > 0, before > 0)
        g = np.where(positive, grad_y, np.zeros_like(grad_y))
        ref, size = by_hand(x, g, *channels)
        length = 1 if dtype != np.float64 else math.prod(shape[:-1])
        for name in ("grad_x", "grad_weight", "grad_bias"):
            assert_within(got[name + s], ref[name + s], size[name + s], length)
        grad_residual = got["grad_residual" + s]
        if activation is None:
            assert grad_residual is grad_y
        elif with_residual:
            np.testing.assert_array_equal(grad_residual, g)
        else:
            assert grad_residual is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_moments_of_parts_are_those_of_the_whole(backend, rng, nan_results, dtype):
    """Those of a convolution are float32, and statistics from them as exact as that."""
    x, _, weight, bias, mean, var = draw(rng, (131, 5))
    rows = 50
    parts = [x[i : i + rows] for i in range(0, len(x), rows)]
    means = np.stack([part.mean(axis=0) for part in parts]).astype(dtype)
    squares = np.stack([part.var(axis=0) * len(part) for part in parts]).astype(dtype)
    results = []
    for moments in (None, batch_norm.moments_of(x), batch_norm.Moments(means, squares, rows)):
        running = mean.copy(), var.copy()
        with nan_results(batch_norm):
            r = batch_norm.forward(x, weight, bias, *running, MOMENTUM, EPS, moments=moments)
        results.append((*r, *running))
    for other, u in zip(results[1:], (UNIT["float64"], UNIT[np.dtype(dtype).name]), strict=True):
        for got, expected in zip(other, results[0], strict=True):
            np.testing.assert_allclose(got, expected, rtol=200 * u, atol=200 * u)


@pytest.mark.parametrize("with_residual", [False, True])
def test_integers_after_a_residual_and_relu_are_exact(backend, rng, with_residual):
    """Sums that are exactly 0 have no gradient, on every backend."""
    shape = (600, 24)
    x, grad_y, residual = (rng.integers(-8, 9, shape).astype(np.float32) for _ in range(3))
    residual = residual if with_residual else None
    weight, bias = np.full(24, 2, np.float32), rng.integers(-4, 5, 24).astype(np.float32)
    running_mean, running_var = np.full(24, -3, np.float32), np.full(24, 0.25, np.float32)
    more = {"residual": residual, "activation": "relu"}
    y = batch_norm.forward_eval(x, weight, bias, running_mean, running_var, 0.0, **more)
    before = 4 * (x + 3) + bias + (0 if residual is None else residual)
    np.testing.assert_array_equal(y, np.maximum(before, 0))
    assert (before == 0).any()
    grad_x, _, grad_bias, grad_residual = batch_norm.backward_eval(
        grad_y,
        x,
        weight,
        running_mean,
        running_var,
        0.0,
        bias,
        y if with_residual else None,
        "relu",
    )
    g = np.where(before > 0, grad_y, 0)
    np.testing.assert_array_equal(grad_x, 4 * g)
    np.testing.assert_array_equal(grad_bias, g.sum(axis=0))
    np.testing.assert_array_equal(g if grad_residual is None else grad_residual, g)


@pytest.mark.parametrize("shape", [(2, 3), (131, 5), (3, 5, 2, 40), (300, 17), (270, 136)])
def test_bfloat16_has_float32_parameters_and_float64_statistics(backend, rng, nan_results, shape):
    x, grad_y, *channels = draw(rng, shape, np.float32)
    x, grad_y = x.astype(ml_dtypes.bfloat16), grad_y.astype(ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match="batch_norm: x has dtype bfloat16"):
            run(x, grad_y, *channels)
        return
    ref, size = by_hand(x, grad_y, *channels)
    with nan_results(batch_norm):
        got = run(x, grad_y, *channels)
    for name in ref:
        per_element = ref[name].ndim > 1
        statistic = name in ("mean", "inv_std")
        dtype = x.dtype if per_element else np.float64 if statistic else np.float32
        assert got[name].dtype == dtype, name
        assert_within(got[name], ref[name], size[name], math.prod(shape[:-1]) if statistic else 1)
    weight = channels[0].astype(ml_dtypes.bfloat16)
    with pytest.raises(TypeError, match="weight has dtype bfloat16, expected float32"):
        run(x, grad_y, weight, *channels[1:])


def test_memory_at_any_address(backend, rng):
    """Kernels that move packs of 16 bytes get none here."""
    arrays = draw(rng, (37, 24), np.float32)
    shifted = []
    for array in arrays:
        shifted.append(np.empty(array.size + 1, np.float32)[1:].reshape(array.shape))
        shifted[-1][...] = array
    ref, size = by_hand(*arrays)
    got = run(*shifted)
    for name in ref:
        length = 37 if got[name].dtype == np.float64 else 1
        assert_within(got[name], ref[name], size[name], length)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_signs_of_the_result(rng, dtype):
    """A bit each, whatever the address of what is read."""
    x, residual = (rng.standard_normal((37, 24)).astype(dtype_of(dtype)) for _ in range(2))
    shifted = np.empty(x.size + 1, x.dtype)[1:].reshape(x.shape)
    shifted[...] = residual
    pack = 16 // x.itemsize
    with use_backend("emulator"):
        for added in (residual, shifted):
            signs = batch_norm.empty_signs(x)
            call = x, None, None, None, None, 0.1, 1e-5, added, "relu", None
            y, *_ = batch_norm.forward(*call, signs)
            np.testing.assert_array_equal(y, batch_norm.forward(*call)[0])
            bits = np.unpackbits(signs[..., None], axis=-1, count=pack, bitorder="little")
            np.testing.assert_array_equal(bits.reshape(x.shape) == 1, y > 0)
            assert (signs >> pack == 0).all() or pack == 8
        assert batch_norm.empty_signs(x[:, :-1]) is None


def bits_of_all(residual, *arrays):
    """The bytes of every result, with and without a residual and an activation."""
    results = [run(*arrays)]
    results += [fused(*arrays, r, a) for r in (None, residual) for a in (None, "relu")]
    return [
        (name, None if array is None else array.tobytes())
        for result in results
        for name, array in result.items()
    ]


def test_bits_do_not_depend_on_the_address(rng):
    arrays = [rng.standard_normal((301, 20)).astype(np.float32), *draw(rng, (301, 20), np.float32)]
    shifted = [np.empty(a.size + 1, np.float32)[1:].reshape(a.shape) for a in arrays]
    for to, array in zip(shifted, arrays, strict=True):
        to[...] = array
    with use_backend("numba"):
        for got, moved in zip(bits_of_all(*arrays), bits_of_all(*shifted), strict=True):
            assert got == moved, got[0]


def test_blocks_cover_the_rows_and_channels_once():
    for m, c, pack in itertools.product(
        (1, 2, 63, 64, 1568, 25088, 401408), (8, 24, 64, 136, 264, 2048, 2**20), (1, 2, 4, 8)
    ):
        cut = Slabs.of(m, c, pack)
        channels = cut.columns * pack
        assert channels <= 256  # a thread for each
        assert (cut.slabs - 1) * channels < c <= cut.slabs * channels
        assert (cut.splits - 1) * cut.rows < m <= cut.splits * cut.rows
        assert cut.slabs == 1 or cut.columns % 2 == 0
        assert cut.slabs * cut.splits <= max(1024, cut.slabs)
        assert cut.grid == (cut.slabs, cut.splits)
        assert (cut.combine_grid - 1) * 8 < c <= cut.combine_grid * 8


@pytest.mark.parametrize("shape", [(2003, 17), (40009, 1), (67, 521)])
def test_results_do_not_depend_on_the_number_of_threads(rng, shape):
    residual, *arrays = rng.standard_normal(shape).astype(np.float32), *draw(rng, shape, np.float32)
    with use_backend("numba"):
        first, *others = results_by_threads(lambda: bits_of_all(residual, *arrays))
    for other in others:
        for got, same in zip(first, other, strict=True):
            assert got == same, got[0]


@pytest.mark.parametrize("with_weight", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_no_weight_means_ones_and_no_bias_zeros(backend, rng, with_weight, with_bias):
    x, grad_y, weight, bias, mean, var = draw(rng, (6, 5, 3), np.float32)
    w, b = weight if with_weight else None, bias if with_bias else None
    full_w = weight if with_weight else np.ones_like(weight)
    full_b = bias if with_bias else np.zeros_like(bias)
    y, m, s = batch_norm.forward(x, w, b, None, None, 0.1, EPS)
    pairs = [
        (y, batch_norm.forward(x, full_w, full_b, None, None, 0.1, EPS)[0]),
        (
            batch_norm.forward_eval(x, w, b, mean, var, EPS),
            batch_norm.forward_eval(x, full_w, full_b, mean, var, EPS),
        ),
    ]
    for f, statistics in ((batch_norm.backward, (m, s)), (batch_norm.backward_eval, (mean, var))):
        place = (*statistics, w) if f is batch_norm.backward else (w, *statistics, EPS)
        full = (*statistics, full_w) if f is batch_norm.backward else (full_w, *statistics, EPS)
        pairs += zip(f(grad_y, x, *place), f(grad_y, x, *full), strict=True)
    for got, ref in pairs:
        np.testing.assert_array_equal(got, ref)


@pytest.mark.parametrize(
    "momentum",
    [0.25, np.array(0.25), np.array([0.25]), np.array(0.25, np.float32), np.float32(0.25)],
    ids=["float", "0d", "one_element", "0d_float32", "scalar"],
)
def test_running_statistics_are_updated_in_place(backend, rng, momentum):
    x, _, weight, bias, mean, var = draw(rng, (10, 3), np.float32)
    memory = np.full((2, 5), 9, np.float32)  # views of a larger buffer, as the engine's are
    running_mean, running_var = memory[0, 1:4], memory[1, 1:4]
    running_mean[...], running_var[...] = mean, var
    batch_norm.forward(x, weight, bias, running_mean, running_var, momentum, EPS)
    x = x.astype(np.float64)
    np.testing.assert_allclose(memory[0, 1:4], 0.75 * mean + 0.25 * x.mean(axis=0), rtol=1e-5)
    unbiased = x.var(axis=0, ddof=1)
    np.testing.assert_allclose(memory[1, 1:4], 0.75 * var + 0.25 * unbiased, rtol=1e-5)
    np.testing.assert_array_equal(memory[:, [0, 4]], 9)


def test_evaluation_leaves_the_running_statistics_alone_and_takes_one_row(backend, rng):
    x, grad_y, weight, bias, mean, var = draw(rng, (1, 3))
    before = mean.copy(), var.copy()
    y = batch_norm.forward_eval(x, weight, bias, mean, var, EPS)
    batch_norm.backward_eval(grad_y, x, weight, mean, var, EPS)
    np.testing.assert_allclose(y, weight * (x - mean) / np.sqrt(var + EPS) + bias, rtol=1e-13)
    np.testing.assert_array_equal((mean, var), before)


def test_a_constant_channel_becomes_the_bias(backend):
    x = np.full((5, 2), 3, np.float32)
    bias = np.array([1, -2], np.float32)
    y, mean, inv_std = batch_norm.forward(x, None, bias, None, None, 0.1, EPS)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, (5, 2)))
    np.testing.assert_array_equal(mean, 3)
    np.testing.assert_allclose(inv_std, 1 / math.sqrt(EPS), rtol=1e-15)


def test_nan_and_infinity_stay_in_their_channel_and_are_no_warnings(backend, rng):
    x, grad_y, weight, bias, *_ = draw(rng, (50, 3), np.float32)
    x[3, 0], x[4, 1] = np.nan, np.inf
    y, mean, inv_std = batch_norm.forward(x, weight, bias, None, None, 0.1, EPS)
    grad_x, *_ = batch_norm.backward(grad_y, x, mean, inv_std, weight)
    for result in (y, grad_x):
        assert np.isnan(result[:, 0]).all()
        assert np.isnan(result[4, 1])
        assert np.isfinite(result[:, 2]).all()


@pytest.mark.parametrize("shape", [(0, 3), (0, 4, 4, 3), (2, 0, 4, 3), (5, 0)])
def test_an_empty_batch_gives_empty_results_and_zero_gradients(backend, shape):
    x, c = np.empty(shape, np.float32), shape[-1]
    weight = np.full(c, 2, np.float32)
    mean, var = np.full(c, 3, np.float32), np.full(c, 4, np.float32)
    y, m, s = batch_norm.forward(x, weight, None, mean, var, 0.5, EPS)
    np.testing.assert_array_equal(mean, 3)
    np.testing.assert_array_equal(var, 4)
    y_eval = batch_norm.forward_eval(x, weight, None, mean, var, EPS)
    assert y.shape == y_eval.shape == shape
    for gradients in (
        batch_norm.backward(x, x, m, s, weight),
        batch_norm.backward_eval(x, x, weight, mean, var, EPS),
    ):
        assert gradients[0].shape == shape
        np.testing.assert_array_equal(gradients[1:3], np.zeros((2, c)))


def good():
    return {
        "x": np.ones((4, 3), np.float32),
        "weight": np.ones(3, np.float32),
        "bias": np.ones(3, np.float32),
        "running_mean": np.zeros(3, np.float32),
        "running_var": np.ones(3, np.float32),
        "momentum": 0.1,
        "eps": EPS,
    }


FAULTS = {
    "one_row": ({"x": np.ones((1, 3), np.float32)}, ValueError, "more than 1 value per channel"),
    "one_pixel": ({"x": np.ones((1, 1, 1, 3), np.float32)}, ValueError, "more than 1 value"),
    "one_axis": ({"x": np.ones(3, np.float32)}, ValueError, "at least 2 axes"),
    "transposed": ({"x": np.ones((3, 4), np.float32).T}, ValueError, "not C-contiguous"),
    "weight_shape": ({"weight": np.ones(4, np.float32)}, ValueError, "weight has shape"),
    "bias_shape": ({"bias": np.ones((3, 1), np.float32)}, ValueError, "bias has shape"),
    "running_shape": ({"running_var": np.ones(2, np.float32)}, ValueError, "running_var has"),
    "one_running": ({"running_var": None}, ValueError, "both"),
    "int": ({"x": np.ones((4, 3), int)}, TypeError, "int64"),
    "half": ({"x": np.ones((4, 3), np.float16)}, TypeError, "float16"),
    "mixed": ({"running_mean": np.ones(3)}, TypeError, "running_mean has dtype float64"),
    "eps": ({"eps": 0.0}, ValueError, "eps must be > 0"),
    "nan_eps": ({"eps": float("nan")}, ValueError, "eps must be > 0"),
    "momentum_shape": ({"momentum": np.ones(3)}, ValueError, "momentum must be one number"),
    "residual_shape": ({"residual": np.ones((4, 2), np.float32)}, ValueError, "residual has shape"),
    "residual_dtype": ({"residual": np.ones((4, 3))}, TypeError, "residual has dtype float64"),
    "activation": ({"activation": "tanh"}, ValueError, "activation must be 'relu' or None"),
    "momentum_dtype": ({"momentum": np.array(1)}, TypeError, "momentum has dtype int64"),
}


@pytest.mark.parametrize(("change", "error", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_bad_input_is_an_error_and_changes_nothing(backend, change, error, message):
    arguments = good()
    with pytest.raises(error, match=f"batch_norm: .*{message}"):
        batch_norm.forward(**arguments | change)
    np.testing.assert_array_equal(arguments["running_mean"], 0)
    y, _, _ = batch_norm.forward(**arguments)
    np.testing.assert_array_equal(y, 1)


def test_gradients_check_their_input(backend):
    x, channel = np.ones((4, 3), np.float32), np.ones(3, np.float32)
    statistic = np.ones(3)
    with pytest.raises(ValueError, match=r"grad_y has shape \(4, 2\), expected \(4, 3\)"):
        batch_norm.backward(np.ones((4, 2), np.float32), x, statistic, statistic, channel)
    with pytest.raises(TypeError, match="mean has dtype float32, expected float64"):
        batch_norm.backward(x, x, channel, statistic, channel)
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected \(4, 3\)"):
        batch_norm.backward(x, x, statistic, statistic, channel, None, channel, "relu")
    with pytest.raises(ValueError, match="evaluation needs running_mean"):
        batch_norm.backward_eval(x, x, channel, None, channel, EPS)
    with pytest.raises(ValueError, match="evaluation needs running_mean"):
        batch_norm.forward_eval(x, channel, None, channel, None, EPS)
    _, _, grad_bias, _ = batch_norm.backward(x, x, statistic, statistic, channel)
    np.testing.assert_array_equal(grad_bias, 4)
