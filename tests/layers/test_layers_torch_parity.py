"""The same nets as PyTorch's: names, shapes, text, results and gradients."""

import inspect

import numpy as np
import pytest
from tolerance import UNIT

import convolt
from convolt import layers

torch = pytest.importorskip("torch")


def net(nn):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2, padding="valid"),
        nn.BatchNorm2d(6, momentum=None, eps=1e-3),
        nn.LeakyReLU(0.2),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Linear(12, 7),
        nn.BatchNorm1d(7, affine=False),
        nn.Tanh(),
        nn.Sequential(nn.Sigmoid(), nn.Dropout(0.0), nn.Identity(), nn.Linear(7, 5, bias=False)),
        nn.LogSoftmax(1),
    )


@pytest.fixture
def nets():
    """Ours and PyTorch's in float64 with equal weights."""
    theirs = net(torch.nn).double()
    ours = net(layers).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_the_state_has_the_same_keys_order_shapes_and_dtypes(nets):
    ours, theirs = nets
    facts = [(k, v.shape, str(v.dtype)) for k, v in ours.state_dict().items()]
    assert facts == [
        (k, tuple(v.shape), str(v.dtype).removeprefix("torch."))
        for k, v in theirs.state_dict().items()
    ]
    assert [k for k, _ in ours.named_parameters()] == [k for k, _ in theirs.named_parameters()]
    assert [k for k, _ in ours.named_buffers()] == [k for k, _ in theirs.named_buffers()]
    assert [k for k, _ in ours.named_modules()] == [k for k, _ in theirs.named_modules()]


def test_the_text_is_the_same(nets):
    assert repr(nets[0]) == repr(nets[1])
    for make in (
        lambda nn: nn.Conv2d(1, 1, 1, dilation=2, bias=False),
        lambda nn: nn.ReLU(inplace=True),
        lambda nn: nn.LeakyReLU(inplace=True),
        lambda nn: nn.Softmax(dim=1),
        lambda nn: nn.Dropout(inplace=True),
        lambda nn: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        lambda nn: nn.AvgPool2d((3, 2), padding=1),
        lambda nn: nn.BatchNorm1d(3, track_running_stats=False),
        lambda nn: nn.BatchNorm2d(3, affine=False),
        lambda nn: nn.BatchNorm2d(3, bias=False),
        lambda nn: nn.CrossEntropyLoss(),
        lambda nn: nn.MSELoss(),
        lambda nn: nn.ModuleList([nn.Linear(1, 2), nn.ReLU()]),
    ):
        assert repr(make(layers)) == repr(make(torch.nn))


def test_training_for_some_steps_is_the_same(nets, rng, backend):
    """Results, gradients and running statistics; then evaluation."""
    ours, theirs = nets
    for _ in range(3):
        x = rng.normal(size=(4, 3, 12, 10))
        target = rng.integers(0, 5, 4)
        a = layers.CrossEntropyLoss()(ours(convolt.Tensor(x)), convolt.Tensor(target))
        b = torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x)), torch.tensor(target))
        ours.zero_grad()
        theirs.zero_grad()
        a.backward()
        b.backward()
        assert_close(a, b)
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert_close(p.grad, q.grad, name)
            with convolt.no_grad():
                p.copy_(p.numpy() - 0.1 * p.grad.numpy())
            with torch.no_grad():
                q -= 0.1 * q.grad
        for (name, p), q in zip(ours.named_buffers(), theirs.buffers(), strict=True):
            assert_close(p, q, name)
    x = rng.normal(size=(2, 3, 12, 10))
    assert_close(ours.eval()(convolt.Tensor(x)), theirs.eval()(torch.tensor(x)))


def assert_close(ours, theirs, name=""):
    """Float64 against float64 through 15 layers: 1e6 roundings of the largest element."""
    a, b = ours.detach().numpy(), theirs.detach().numpy()
    assert a.shape == b.shape, name
    scale = max(np.abs(b).max(initial=0), 1)
    assert np.abs(a - b).max(initial=0) <= 1e6 * UNIT["float64"] * scale, name


@pytest.mark.parametrize(
    "name",
    [
        *("Conv2d", "Linear", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d"),
        *("BatchNorm1d", "BatchNorm2d", "ReLU", "LeakyReLU", "Softmax"),
        *("LogSoftmax", "Dropout", "Identity", "Flatten", "CrossEntropyLoss", "MSELoss"),
    ],
)
def test_constructors_have_the_same_arguments_and_defaults(name):
    def arguments(cls):
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.default) for p in parameters if p.name != "device"]

    assert arguments(getattr(layers, name)) == arguments(getattr(torch.nn, name))


@pytest.mark.parametrize(
    "name",
    [
        *("zeros_", "ones_", "constant_", "uniform_", "normal_", "xavier_uniform_"),
        *("xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "calculate_gain"),
    ],
)
def test_initializers_have_the_same_arguments_and_defaults(name):
    def arguments(function):
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    assert arguments(getattr(layers.init, name)) == arguments(getattr(torch.nn.init, name))


def test_gains_are_the_same():
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert layers.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    slope = layers.init.calculate_gain("leaky_relu", 0.3)
    assert slope == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_pytorch_raises_the_same_kinds_of_errors():
    def misuse(nn, parameter, tensor):
        layer = nn.Linear(2, 2)
        return [
            lambda: setattr(layer, "weight", tensor),
            lambda: setattr(layer, "weight", nn.ReLU()),
            lambda: layer.register_parameter("a.b", parameter),
            lambda: layer.register_parameter("", parameter),
            lambda: layer.register_parameter("forward", parameter),
            lambda: layer.register_parameter("new", tensor),
            lambda: layer.register_buffer("weight", tensor),
            lambda: layer.add_module("new", 3),
            lambda: layer.load_state_dict({}),
            lambda: layer.train("yes"),
            lambda: delattr(layer, "nothing"),
            lambda: nn.Module()(1),
            lambda: nn.Sequential(3),
            lambda: nn.Conv2d(3, 4, 1, groups=2),
            lambda: nn.Dropout(2.0),
            lambda: nn.BatchNorm2d(2)(tensor),
        ]

    array = np.ones((2, 2), np.float32)
    ours = misuse(layers, convolt.Parameter(array), convolt.Tensor(array))
    tensor = torch.tensor(array)
    theirs = misuse(torch.nn, torch.nn.Parameter(tensor), tensor)
    for a, b in zip(ours, theirs, strict=True):
        with pytest.raises(Exception) as error:
            b()
        with pytest.raises(error.type):
            a()
