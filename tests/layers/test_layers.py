"""Each layer does what its function does, checks its arguments, and starts as PyTorch's does."""

import numpy as np
import pytest

from convolt import Tensor, functional, manual_seed, tensor
from convolt.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Conv2d,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    MSELoss,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)


@pytest.fixture
def x(rng):
    return Tensor(rng.normal(size=(2, 4, 7, 5)).astype(np.float32))


def test_layers_pass_each_argument_to_the_right_place(x):
    conv = Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False)
    pairs = [
        (
            conv(x),
            functional.conv2d(x, conv.weight, None, (2, 1), (1, 0), (1, 2), 2),
        ),
        (
            MaxPool2d((3, 2), (2, 1), (1, 1), (1, 2), False, True)(x),
            functional.max_pool2d(x, (3, 2), (2, 1), (1, 1), (1, 2), ceil_mode=True),
        ),
        (MaxPool2d(2)(x), functional.max_pool2d(x, 2, stride=2)),
        (
            AvgPool2d(3, 2, 1, True, False)(x),
            functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        ),
        (
            AvgPool2d(2, divisor_override=3)(x),
            functional.avg_pool2d(x, 2, divisor_override=3),
        ),
        (AdaptiveAvgPool2d((3, None))(x), functional.adaptive_avg_pool2d(x, (3, 5))),
        (ReLU(inplace=True)(x), functional.relu(x)),
        (LeakyReLU(0.3)(x), functional.leaky_relu(x, 0.3)),
        (Sigmoid()(x), functional.sigmoid(x)),
        (Tanh()(x), functional.tanh(x)),
        (Softmax(2)(x), functional.softmax(x, 2)),
        (LogSoftmax(-1)(x), functional.log_softmax(x, -1)),
        (Flatten()(x), x.reshape(2, -1)),
        (Flatten(2)(x), x.reshape(2, 4, -1)),
        (Flatten(0, 1)(x), x.reshape(8, 7, 5)),
        (Identity(3, anything=4)(x), x),
        (Dropout(0)(x), x),
    ]
    for got, expected in pairs:
        assert got.shape == expected.shape
        assert (got.numpy() == expected.numpy()).all()


def test_max_pool_returns_indices(x):
    y, indices = MaxPool2d(2, return_indices=True)(x)
    flat = x.numpy().reshape(2, 4, -1)
    taken = np.take_along_axis(flat, indices.numpy().reshape(2, 4, -1), -1)
    assert (taken.reshape(y.shape) == y.numpy()).all()


def test_losses_pass_each_argument_to_the_right_place(rng):
    logits = Tensor(rng.normal(size=(4, 3)).astype(np.float32))
    target = tensor([0, 2, 1, 2])
    weight = Tensor(np.float32([1, 2, 3]))
    loss = CrossEntropyLoss(weight, None, 1, None, "sum", 0.1)
    expected = functional.cross_entropy(
        logits, target, weight, ignore_index=1, reduction="sum", label_smoothing=0.1
    )
    assert loss(logits, target).item() == expected.item()
    assert list(loss.state_dict()) == ["weight"]
    assert list(CrossEntropyLoss().state_dict()) == []
    other = logits * 2
    assert MSELoss()(other, logits).item() == functional.mse_loss(other, logits).item()
    summed = MSELoss(reduction="sum")(other, logits)
    assert summed.item() == functional.mse_loss(other, logits, reduction="sum").item()
    for gone in ({"size_average": True}, {"reduce": False}):
        for layer in (CrossEntropyLoss(**gone), MSELoss(**gone)):
            with pytest.raises(ValueError, match="use reduction="):
                layer(logits, target if isinstance(layer, CrossEntropyLoss) else logits)


def test_dropout_follows_the_mode():
    x = Tensor(np.ones((64, 64), np.float32))
    layer = Dropout(0.25)
    manual_seed(1)
    y = layer(x).numpy()
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    manual_seed(1)
    assert (layer(x).numpy() == y).all()
    assert (layer(x).numpy() != y).any()
    assert layer.eval()(x) is x
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="must lie in"):
            Dropout(p)
    for p in ("a", None, True):
        with pytest.raises(TypeError, match="Dropout: p must be a number"):
            Dropout(p)


def test_conv_weight_is_public_over_channels_last_memory():
    layer = Conv2d(4, 6, (3, 5), groups=2)
    assert layer.weight.shape == (6, 2, 3, 5)
    assert np.moveaxis(layer.weight.data, 1, -1).flags.c_contiguous
    assert layer.bias.shape == (6,)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 5), (1, 1), (0, 0))


@pytest.mark.parametrize("layer", [Conv2d(3, 50, 5), Linear(75, 50), Conv2d(6, 50, 5, groups=2)])
def test_default_weights_and_biases_are_uniform_within_one_over_root_fan_in(layer):
    bound = 1 / np.sqrt(75)
    for values, least in ((layer.weight.numpy(), 0.99), (layer.bias.numpy(), 0.8)):
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        assert values.max() > least * bound  # P(fails) < 0.9 ** 50 for the 50 biases
        assert values.min() < -least * bound


def test_float64_layers(rng):
    conv, linear = Conv2d(1, 2, 3, dtype="float64"), Linear(2, 2, dtype=np.float64)
    y = linear(conv(Tensor(rng.normal(size=(1, 1, 3, 3)))).flatten(1))
    assert y.dtype == np.float64
    for layer in (lambda d: Conv2d(1, 1, 1, dtype=d), lambda d: Linear(1, 1, dtype=d)):
        for dtype in (np.int64, np.float16):
            with pytest.raises(TypeError, match="float32 or float64"):
                layer(dtype)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1, 1), ValueError, "in_channels must be >= 1"),
        ((1, -1, 1), ValueError, "out_channels must be >= 1"),
        ((1.0, 1, 1), TypeError, "in_channels must be an int"),
        ((1, 1, 0), ValueError, "kernel_size must be >= 1"),
        ((1, 1, (1, 2, 3)), ValueError, "pair"),
        ((1, 1, 1, 0), ValueError, "stride must be >= 1"),
        ((1, 1, 1, 1, -1), ValueError, "padding must be >= 0"),
        ((1, 1, 1, 1, "full"), ValueError, "'same' or 'valid'"),
        ((1, 1, 1, 2, "same"), ValueError, "needs stride 1"),
        ((1, 1, 1, 1, 0, 0), ValueError, "dilation must be >= 1"),
        ((3, 4, 1, 1, 0, 1, 2), ValueError, "divisible by groups=2"),
        ((4, 3, 1, 1, 0, 1, 2), ValueError, "divisible by groups=2"),
        ((1, 1, 1, 1, 0, 1, 0), ValueError, "groups must be >= 1"),
        ((1, 1, 1, 1, 0, 1, 1, True, "reflect"), ValueError, "padding_mode must be 'zeros'"),
    ],
)
def test_conv_checks_its_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Conv2d(*arguments)


def test_conv_takes_padding_by_name(x):
    assert Conv2d(4, 3, (3, 4), padding="same")(x).shape == (2, 3, 7, 5)
    assert Conv2d(4, 3, 3, padding="valid")(x).shape == (2, 3, 5, 3)


def test_linear_checks_its_arguments():
    with pytest.raises(ValueError, match="in_features must be >= 1"):
        Linear(0, 1)
    with pytest.raises(TypeError, match="out_features must be an int"):
        Linear(1, True)


def test_flatten_checks_its_axes_when_called(x):
    with pytest.raises(IndexError):
        Flatten(4)(x)
    with pytest.raises(ValueError):
        Flatten(3, 1)(x)
    with pytest.raises(ValueError, match="dim is needed"):
        Softmax()(x)
