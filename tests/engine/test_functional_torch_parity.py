"""functional against torch.nn.functional, where PyTorch is installed: values and gradients."""

import itertools
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from convolt import Tensor  # noqa: E402
from convolt import functional as F  # noqa: E402

T = torch.nn.functional


def compare(ours, theirs, *arrays, tolerance=1e-10):
    """Hold a function's value and the gradients of all its array arguments against PyTorch's."""
    inputs = [Tensor(a.copy(), requires_grad=a.dtype.kind == "f") for a in arrays]
    peers = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    y = ours(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's remarks on padding="same"
        z = theirs(*peers)
    assert y.shape == tuple(z.shape)
    np.testing.assert_allclose(y.detach(), z.detach().numpy(), rtol=tolerance, atol=tolerance)
    if not z.requires_grad:
        return
    grad = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(grad)
    z.backward(torch.tensor(grad))
    for x, p in zip(inputs, peers, strict=True):
        if x.requires_grad:
            np.testing.assert_allclose(x.grad, p.grad.numpy(), rtol=tolerance, atol=tolerance)


CONVOLUTIONS = list(
    itertools.product([1, 2, (3, 1)], [0, 1, (2, 0), "same", "valid"], [1, 2, (1, 3)], [1, 2])
)


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_conv2d(rng, stride, padding, dilation, groups):
    if padding == "same" and stride != 1:
        with pytest.raises(ValueError, match="stride 1"):
            F.conv2d(
                Tensor(np.ones((1, 1, 3, 3))), Tensor(np.ones((1, 1, 1, 1))), None, stride, "same"
            )
        return
    arrays = [rng.standard_normal(s) for s in ((2, 4, 9, 8), (6, 4 // groups, 3, 2), (6,))]
    arguments = (stride, padding, dilation, groups)
    compare(
        lambda x, w, b: F.conv2d(x, w, b, *arguments),
        lambda x, w, b: T.conv2d(x, w, b, *arguments),
        *arrays,
    )


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5), (2, 0, 5)])
@pytest.mark.parametrize("weight", [(4, 5), (5,)])
def test_linear(rng, shape, weight):
    arrays = [rng.standard_normal(s) for s in (shape, weight, weight[:-1])]
    if len(weight) == 1 and (len(shape) == 2 or 0 in shape):  # PyTorch fails on these
        x, w, b = arrays
        np.testing.assert_allclose(F.linear(Tensor(x), Tensor(w), Tensor(b)), x @ w + b)
        return
    compare(F.linear, T.linear, *arrays)


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (3, 9, 8)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pooling(rng, shape, ceil_mode):
    x = rng.standard_normal(shape)
    compare(
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil_mode),
        lambda x: T.max_pool2d(x, 3, 2, 1, ceil_mode=ceil_mode),
        x,
    )
    y, indices = F.max_pool2d(Tensor(x), (2, 3), 2, (1, 1), 2, ceil_mode, True)
    z, places = T.max_pool2d(torch.tensor(x), (2, 3), 2, (1, 1), 2, ceil_mode, True)
    np.testing.assert_array_equal(y, z.numpy())
    np.testing.assert_array_equal(indices, places.numpy())
    for include, divisor in itertools.product([False, True], [None, 5]):
        compare(
            lambda x, i=include, d=divisor: F.avg_pool2d(x, (2, 3), 2, 1, ceil_mode, i, d),
            lambda x, i=include, d=divisor: T.avg_pool2d(x, (2, 3), 2, 1, ceil_mode, i, d),
            x,
        )
    for size in (1, (4, 3), (None, 5), (11, 1)):
        compare(
            lambda x, size=size: F.adaptive_avg_pool2d(x, size),
            lambda x, size=size: T.adaptive_avg_pool2d(x, size),
            x,
        )


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 2)])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(rng, shape, training):
    arrays = [rng.standard_normal(s) for s in (shape, (3,), (3,))]
    mean, var = rng.standard_normal(3), rng.random(3) + 0.5
    running = [Tensor(mean.copy()), Tensor(var.copy())]
    peers = [torch.tensor(mean), torch.tensor(var)]
    compare(
        lambda x, w, b: F.batch_norm(x, *running, w, b, training, 0.3, 1e-3),
        lambda x, w, b: T.batch_norm(x, *peers, w, b, training, 0.3, 1e-3),
        *arrays,
    )
    for r, p in zip(running, peers, strict=True):
        np.testing.assert_allclose(r, p.numpy(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 5, 2), (2, 5, 3, 4)])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(rng, shape, reduction, smoothing):
    logits, weight = rng.standard_normal(shape), rng.random(5) + 0.5
    target = rng.integers(0, 5, shape[:0] if len(shape) == 1 else (shape[0], *shape[2:]))
    ignored = np.where(rng.random(target.shape) < 0.3, 2, target)
    for weights, t, index in ((None, target, -100), (weight, target, -100), (weight, ignored, 2)):
        if np.all(t == index):
            continue

        def call(module, x, t, w, index=index):
            return module.cross_entropy(
                x, t, w, ignore_index=index, reduction=reduction, label_smoothing=smoothing
            )

        w = None if weights is None else Tensor(weights)
        v = None if weights is None else torch.tensor(weights)
        compare(
            lambda x, t=t, w=w, call=call: call(F, x, Tensor(t), w),
            lambda x, t=t, v=v, call=call: call(T, x, torch.tensor(t), v),
            logits,
        )
    probabilities = rng.random(shape)
    compare(
        lambda x: F.cross_entropy(
            x, Tensor(probabilities), Tensor(weight), reduction=reduction, label_smoothing=smoothing
        ),
        lambda x: T.cross_entropy(
            x,
            torch.tensor(probabilities),
            torch.tensor(weight),
            reduction=reduction,
            label_smoothing=smoothing,
        ),
        logits,
    )


ELEMENTWISE = {
    "relu": ((3, 4), F.relu, T.relu),
    "leaky_relu": ((3, 4), lambda x: F.leaky_relu(x, 0.3), lambda x: T.leaky_relu(x, 0.3)),
    "sigmoid": ((3, 4), F.sigmoid, torch.sigmoid),
    "tanh": ((3, 4), F.tanh, torch.tanh),
    "softmax": ((3, 4, 2), lambda x: F.softmax(x, 1), lambda x: T.softmax(x, 1)),
    "log_softmax": ((3, 4), lambda x: F.log_softmax(x, -1), lambda x: T.log_softmax(x, -1)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations(backend, rng, name):
    shape, ours, theirs = ELEMENTWISE[name]
    compare(ours, theirs, rng.standard_normal(shape))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_mse_loss(rng, reduction):
    x, t = rng.standard_normal((2, 3, 4))
    compare(
        lambda x, t: F.mse_loss(x, t, reduction=reduction),
        lambda x, t: T.mse_loss(x, t, reduction=reduction),
        x,
        t,
    )


def test_nan_and_ties_in_max_pool2d():
    x = np.array([[[1.0, 1.0, np.nan, 2.0], [1.0, 1.0, 3.0, np.nan]]])
    y, indices = F.max_pool2d(Tensor(x), 2, return_indices=True)
    z, places = T.max_pool2d(torch.tensor(x), 2, return_indices=True)
    np.testing.assert_array_equal(y, z.numpy())
    np.testing.assert_array_equal(indices, places.numpy())
