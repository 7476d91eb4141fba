"""conv_bn_act is the composition of its steps, on every backend; precision bf16."""

import numpy as np
import pytest
from gradients import assert_directional

import convolt
from convolt import Tensor, use_backend, use_precision
from convolt import functional as F
from convolt.engine.functional import fold_batch_norm
from convolt.kernels.arrays import dtype_of

BFLOAT16 = dtype_of("bfloat16")
SIZES = {  # x, w, options of the convolution
    "3x3": ((3, 4, 6, 5), (8, 4, 3, 3), {"padding": 1}),
    "1x1, strided": ((2, 3, 7, 5), (5, 3, 1, 1), {"stride": 2}),
    "groups, dilation": ((2, 4, 9, 9), (6, 2, 3, 3), {"groups": 2, "dilation": 2}),
}
NAMES = ("x", "weight", "bn_weight", "bn_bias", "residual")
# Two ways to the same result differ by the rounding of a few steps, of which convolution, with its
# sums of up to 36 products, and statistics are the longest: u, the square root of a sum's length
# and a factor of 4, as in tolerance.py, of the largest number; bfloat16 as in test_bfloat16.py.
TOLERANCE = {"float64": 2.0**-53 * 4 * 36, "float32": 2.0**-24 * 4 * 36, "bfloat16": 2.0**-5}


def draw(rng, size, dtype, with_residual, training=True):
    """Operands by name, running statistics, options; sums with a residual are far from 0.

    Where they are not, rounding decides what relu lets through.
    """
    x_shape, w_shape, options = SIZES[size]
    k = w_shape[0]
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    arrays = {
        "x": x,
        "weight": w,
        "bn_weight": rng.uniform(0.5, 2, k),
        "bn_bias": rng.normal(size=k),
    }
    statistics = [rng.standard_normal(k), rng.uniform(0.5, 2, k)]
    if with_residual:
        with use_backend("numpy"):
            given = (*statistics, arrays["bn_weight"], arrays["bn_bias"])
            tensors = (Tensor(a.copy()) for a in (x, w, *given))
            y = composition(*tensors, None, None, options, training).numpy()
        residual = rng.standard_normal(y.shape)
        arrays["residual"] = residual + 0.1 * np.sign(y + residual)
    channels = np.float32 if dtype == BFLOAT16 else dtype
    images = ("x", "weight", "residual")
    arrays = {n: a.astype(dtype if n in images else channels) for n, a in arrays.items()}
    return arrays, [s.astype(channels) for s in statistics], options


def composition(x, weight, mean, var, bn_weight, bn_bias, residual, activation, options, training):
    y = F.conv2d(x, weight, **options)
    y = F.batch_norm(y, mean, var, bn_weight, bn_bias, training, 0.3, 1e-3)
    y = y if residual is None else y + residual
    return F.relu(y) if activation else y


def fused(x, weight, mean, var, bn_weight, bn_bias, residual, activation, options, training):
    return F.conv_bn_act(
        *(x, weight, mean, var, bn_weight, bn_bias, residual, activation),
        **options,
        training=training,
        momentum=0.3,
        eps=1e-3,
    )


def results(function, arrays, statistics, activation, options, training, requires_grad=True):
    """y, the gradients and the running statistics of a function, by name."""
    inputs = {n: convolt.tensor(a, requires_grad=requires_grad) for n, a in arrays.items()}
    mean, var = (convolt.tensor(s) for s in statistics)
    given = {"residual": None} | inputs
    y = function(
        mean=mean, var=var, **given, activation=activation, options=options, training=training
    )
    if requires_grad:
        weights = np.random.default_rng(5).standard_normal(y.shape)
        y.backward(convolt.tensor(weights.astype(y.dtype)))
    found = {"y": y.numpy(), "mean": mean.numpy(), "var": var.numpy()}
    return found | {f"grad_{n}": x.grad.numpy() for n, x in inputs.items() if requires_grad}


def assert_alike(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for name, a in got.items():
        b = expected[name]
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        a, b = a.astype(np.float64), b.astype(np.float64)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_composition(backend, rng, size, training, with_residual, activation, dtype):
    arrays, statistics, options = draw(rng, size, dtype_of(dtype), with_residual, training)
    run = (arrays, statistics, activation, options, training)
    if dtype == "bfloat16" and backend != "emulator":
        with pytest.raises(TypeError, match="bfloat16"):
            results(fused, *run)
        return
    got, expected = results(fused, *run), results(composition, *run)
    assert (np.abs(got["mean"] - statistics[0]).max() > 0) == training
    assert_alike(got, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_without_gradients_evaluation_folds(backend, rng, size, with_residual, dtype, monkeypatch):
    if dtype == "bfloat16" and backend != "emulator":
        pytest.skip("test_it_is_the_composition says how these refuse it")
    arrays, statistics, options = draw(rng, size, dtype_of(dtype), with_residual)
    run = (arrays, statistics, "relu", options, False, False)
    expected = results(composition, *run)
    monkeypatch.setattr(F, "batch_norm", None)  # nothing of it is needed
    got = results(fused, *run)
    assert_alike(got, expected, TOLERANCE[dtype])


def test_folded_weights_are_those_of_the_one_convolution(rng):
    arrays, statistics, options = draw(rng, "3x3", np.float64, False)
    x, w = Tensor(arrays["x"]), Tensor(arrays["weight"], requires_grad=True)
    mean, var = map(Tensor, statistics)
    scale, shift = Tensor(arrays["bn_weight"]), Tensor(arrays["bn_bias"])
    for bn_weight in (scale, None):
        for bn_bias in (shift, None):
            folded = fold_batch_norm(w, mean, var, bn_weight, bn_bias, 1e-3)
            assert not any(t.requires_grad for t in folded)
            y = F.conv2d(x, *folded, **options)
            given = (bn_weight, bn_bias, None, None, options, False)
            expected = composition(x, w, mean, var, *given)
            np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-12, atol=1e-12)


def test_folding_checks_what_it_is_given(rng):
    """Filters are not broadcast over channels of a batch-norm, nor the other way round."""
    w, zeros = Tensor(rng.standard_normal((1, 3, 2, 2))), np.zeros(1)
    good = {"running_mean": zeros, "running_var": zeros + 1, "bn_weight": None, "bn_bias": None}
    for name in good:
        with pytest.raises(ValueError, match=rf"fold_batch_norm: {name} has shape \(8,\)"):
            fold_batch_norm(w, **good | {name: np.ones(8)}, eps=1e-3)
        with pytest.raises(TypeError, match=f"fold_batch_norm: {name} has dtype float32"):
            fold_batch_norm(w, **good | {name: np.ones(1, np.float32)}, eps=1e-3)
    weight, bias = fold_batch_norm(w, **good, eps=1.0)
    np.testing.assert_allclose(weight.numpy(), w.numpy() / np.sqrt(2), rtol=1e-15)
    np.testing.assert_array_equal(bias.numpy(), [0])


@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_directional_derivatives(rng, training, activation):
    arrays, (mean, var), options = draw(rng, "3x3", np.float64, True)

    def function(x, weight, bn_weight, bn_bias, residual):
        statistics = (None, None) if training else (Tensor(mean), Tensor(var))
        return fused(
            *(x, weight, *statistics, bn_weight, bn_bias, residual),
            *(activation, options, training),
        )

    with use_backend("numpy"):
        assert_directional(function, *arrays.values())


@pytest.mark.parametrize("activation", ["relu", None])
def test_conv_act(backend, rng, activation):
    """With a bias, and gradients: the steps one by one."""
    arrays, _, options = draw(rng, "3x3", np.float64, True)
    arrays["bn_bias"] *= 0.1
    names = ("x", "weight", "bn_bias", "residual")

    def run(function):
        tensors = [convolt.tensor(arrays[n], requires_grad=True) for n in names]
        y = function(*tensors)
        y.backward(convolt.tensor(np.random.default_rng(5).standard_normal(y.shape)))
        return {"y": y.numpy()} | {n: t.grad.numpy() for n, t in zip(names, tensors, strict=True)}

    def steps(x, w, bias, residual):
        y = F.conv2d(x, w, bias, **options) + residual
        return F.relu(y) if activation else y

    got = run(lambda *tensors: F.conv_act(*tensors, activation, **options))
    assert_alike(got, run(steps), TOLERANCE["float64"])


def test_one_image_is_a_batch_of_one(rng):
    arrays, (mean, var), options = draw(rng, "3x3", np.float64, True)
    batch = fused(*map(Tensor, (arrays["x"], arrays["weight"], mean, var)),
                  None, None, Tensor(arrays["residual"]), "relu", options, False)  # fmt: skip
    one = fused(*map(Tensor, (arrays["x"][1], arrays["weight"], mean, var)),
                None, None, Tensor(arrays["residual"][1]), "relu", options, False)  # fmt: skip
    np.testing.assert_allclose(one.numpy(), batch.numpy()[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"residual": np.ones((3, 8, 6, 4), np.float32)}, ValueError, "residual has shape"),
        ({"residual": np.ones((3, 8, 6, 5))}, TypeError, "float64"),
        ({"activation": "tanh"}, ValueError, "activation must be 'relu' or None, got 'tanh'"),
        ({"weight": np.ones((8, 3, 3, 3), np.float32)}, ValueError, "x has 4 channels"),
        ({"weight": np.ones((8, 3), np.float32)}, ValueError, r"conv_bn_act: weight must be \(K"),
        ({"running_mean": None}, ValueError, "running_mean and running_var are needed"),
        ({"bn_weight": np.ones(7, np.float32)}, ValueError, "7"),
        ({"input": np.ones(3, np.float32)}, ValueError, r"conv_bn_act: input must be \(N, C, H"),
        ({"momentum": None, "training": True}, TypeError, "momentum must be a number"),
    ],
)
def test_bad_input(backend, rng, change, error, message, requires_grad):
    arrays, (mean, var), options = draw(rng, "3x3", np.float32, True)
    good = {"input": arrays["x"], "weight": arrays["weight"], "running_mean": mean}
    good |= {"running_var": var, "bn_weight": arrays["bn_weight"]}

    def call(**given):
        tensors = {
            n: Tensor(a, requires_grad=requires_grad and "running" not in n)
            if hasattr(a, "dtype")
            else a
            for n, a in given.items()
        }
        return F.conv_bn_act(**tensors, **options)

    with pytest.raises(error, match=message):
        call(**good | change)
    assert np.isfinite(call(**good).numpy()).all()


def test_a_result_changed_in_place_is_noticed(rng):
    arrays, _, options = draw(rng, "3x3", np.float32, True)
    x, w, r = (Tensor(arrays[n], requires_grad=True) for n in ("x", "weight", "residual"))
    y = F.conv_bn_act(x, w, None, None, None, None, r, training=True, **options)
    loss = y.sum()
    y.data[...] = 0
    y._version.count += 1
    with pytest.raises(RuntimeError, match="the result was changed in place"):
        loss.backward()


class TestPrecision:
    def test_products_are_bfloat16_and_gradients_of_masters_float32(self, rng):
        arrays, statistics, options = draw(rng, "3x3", np.float32, True)
        run = (arrays, statistics, "relu", options, True)
        with use_backend("numpy"):
            expected = results(fused, *run)
        with use_backend("emulator"), use_precision("bf16"):
            got = results(fused, *run)
        assert got.pop("y").dtype == BFLOAT16
        expected.pop("y")
        assert_alike(got, expected, TOLERANCE["bfloat16"])

    @pytest.mark.parametrize("function", [F.linear, lambda x, w, b: F.conv2d(
        x[:, :, None, None], w[:, :, None, None], b)])  # fmt: skip
    def test_linear_and_conv2d(self, rng, function):
        arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((5, 8), (4, 8), (4,))]
        weights = rng.standard_normal((5, 4)).astype(np.float32)

        def run():
            x, w, b = (convolt.tensor(a, requires_grad=True) for a in arrays)
            y = function(x, w, b).flatten(1)
            (y.float() * convolt.tensor(weights)).sum().backward()
            return {
                "y": y.float().numpy(),
                **{n: t.grad.numpy() for n, t in zip("xwb", (x, w, b), strict=True)},
            }

        with use_backend("numpy"):
            expected = run()
        with use_backend("emulator"), use_precision("bf16"):
            assert function(*map(convolt.tensor, arrays)).dtype == BFLOAT16
            assert_alike(run(), expected, TOLERANCE["bfloat16"])
            double = [convolt.tensor(a.astype(np.float64)) for a in arrays]
            assert function(*double).dtype == np.float64

    def test_cross_entropy_of_bfloat16_is_computed_in_float32(self, rng):
        logits = rng.standard_normal((6, 5)).astype(BFLOAT16)
        target = np.arange(6) % 5
        with use_backend("numpy"):
            expected = F.cross_entropy(Tensor(logits.astype(np.float32)), Tensor(target))
        with use_backend("emulator"), use_precision("bf16"):
            x = convolt.tensor(logits, requires_grad=True)
            loss = F.cross_entropy(x, convolt.tensor(target))
            loss.backward()
            assert (loss.dtype, x.grad.dtype) == (np.float32, BFLOAT16)
            np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-6)
            target = np.exp(logits.astype(np.float32)).astype(BFLOAT16)  # a bf16 teacher's
            with use_backend("numpy"):
                given = (Tensor(a.astype(np.float32)) for a in (logits, target))
                expected = F.cross_entropy(*given)
            with use_precision("ieee"):
                assert F.cross_entropy(x, convolt.tensor(target)).dtype == BFLOAT16
            soft = F.cross_entropy(x, convolt.tensor(target))
            assert soft.dtype == np.float32
            np.testing.assert_allclose(soft.numpy(), expected.numpy(), rtol=1e-6)

    @pytest.mark.parametrize("name", ["numpy", "numba"])
    def test_other_backends_say_that_they_have_none(self, rng, name):
        x, w = Tensor(np.ones((1, 2, 3, 3), np.float32)), Tensor(np.ones((2, 2, 1, 1), np.float32))
        mean, var = Tensor(np.zeros(2, np.float32)), Tensor(np.ones(2, np.float32))
        calls = {
            "conv2d": lambda: F.conv2d(x, w),
            "linear": lambda: F.linear(mean, var),
            "conv_bn_act": lambda: F.conv_bn_act(x, w, mean, var, training=True),
        }
        for op, call in calls.items():
            message = (
                f"{op}: precision bf16 needs backend cuda or emulator, .* of backend {name}; .* "
                "by use_precision or CONVOLT_PRECISION"
            )
            with use_backend(name), use_precision("bf16"), pytest.raises(ValueError, match=message):
                call()
            with use_backend(name):
                call()

    def test_the_gradient_of_a_master_lands_in_its_place(self, rng):
        """In the optimizer's flat buffer, without a copy."""
        with use_backend("emulator"), use_precision("bf16"):
            p = convolt.Parameter(convolt.tensor(rng.standard_normal((4, 3)).astype(np.float32)))
            optimizer = convolt.optim.SGD([p], lr=0.5)
            optimizer.zero_grad()
            F.linear(convolt.ones(2, 3), p).sum().backward()
            assert np.shares_memory(p.grad.data, p._grad_slot)
            np.testing.assert_array_equal(p.grad.numpy(), 2)
