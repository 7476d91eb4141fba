import json

import numpy as np
import pytest

from convolt import Tensor, functional
from convolt.engine.random import default_generator
from convolt.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
)
from convolt.models import summarize


def test_the_lectures_convolution():
    """CS231n: ten 5x5 filters with pad 2 on 32x32x3 have 760 parameters."""
    summary = summarize(Conv2d(3, 10, 5, padding=2), (3, 32, 32))
    (row,) = summary.layers
    assert row.output_shape == (10, 32, 32)
    assert summary.parameters == row.parameters == 760
    assert summary.multiply_adds == row.multiply_adds == 768_000


def test_strides_groups_and_rows():
    conv = Conv2d(4, 6, (3, 2), stride=2, groups=2, bias=False)
    summary = summarize(Sequential(conv, Linear(5, 7)), (4, 9, 11))
    assert summary.layers[0].output_shape == (6, 4, 5)
    assert summary.layers[0].multiply_adds == 4 * 5 * 6 * 2 * 3 * 2
    assert summary.layers[1].output_shape == (6, 4, 7)
    assert summary.layers[1].multiply_adds == 6 * 4 * 5 * 7


def test_activation_bytes_grow_with_the_batch_and_the_dtype():
    net = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten())
    one = summarize(net, (1, 5, 5))
    assert [row.activation_bytes for row in one.layers] == [72, 72, 72]
    assert one.activation_bytes == 216
    assert summarize(net, (1, 5, 5), batch=10).activation_bytes == 2160
    assert summarize(net.double(), (1, 5, 5)).activation_bytes == 432


def test_names_are_paths_and_shared_parameters_count_once():
    layer = Linear(4, 4)
    net = Sequential(layer, Sequential(ReLU(), layer))
    net[1].append(Linear(4, 4))
    net[1][2].weight = layer.weight
    summary = summarize(net, (4,))
    assert [(r.name, r.parameters, r.multiply_adds) for r in summary.layers] == [
        ("0", 20, 16),
        ("1.0", 0, 0),
        ("0", 0, 16),
        ("1.2", 4, 16),
    ]
    assert summary.parameters == 24
    assert summary.multiply_adds == 48


def test_it_leaves_the_model_as_it_was():
    net = Sequential(Conv2d(1, 2, 3), BatchNorm2d(2), Dropout(0.5), Flatten(), Linear(18, 2))
    net[1].eval()
    before = {name: t.numpy().copy() for name, t in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    random_state = default_generator.get_state()
    tracked = []
    handle = net[4].register_forward_hook(lambda _, args, y: tracked.append(y.requires_grad))
    summarize(net, (1, 5, 5), 3)
    handle.remove()
    assert tracked == [False]
    assert default_generator.get_state() == random_state
    assert [module.training for module in net.modules()] == modes
    for name, t in net.state_dict().items():
        assert (t.numpy() == before[name]).all()
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_a_failing_model_is_left_as_it_was_too():
    net = Sequential(ReLU(), Linear(3, 2))
    with pytest.raises(ValueError, match="linear"):
        summarize(net, (4,))
    assert net[1].training
    assert not any(module._forward_hooks for module in net.modules())
    assert summarize(net, (3,)).parameters == 8
    with pytest.raises(ValueError, match="batch must be >= 1"):
        summarize(net, (3,), batch=0)


def test_randomness_in_evaluation_does_not_move_the_stream():
    class Noisy(Module):
        def forward(self, x):
            return functional.dropout(x, 0.5, training=True)

    state = default_generator.get_state()
    Noisy()(Tensor(np.ones(3, np.float32)))
    assert default_generator.get_state() != state
    state = default_generator.get_state()
    summarize(Noisy(), (3,))
    assert default_generator.get_state() == state


def test_it_becomes_json():
    net = Sequential(MaxPool2d(2, return_indices=True))
    assert summarize(net, (1, 4, 4)).layers[0].output_shape == (1, 2, 2)
    facts = summarize(Sequential(Flatten(), Linear(4, 2)), (1, 2, 2), 8).to_dict()
    again = json.loads(json.dumps(facts))
    assert (again["parameters"], again["multiply_adds"]) == (10, 8)
    assert again["activation_bytes"] == 8 * 4 * (4 + 2)
    assert (again["input_shape"], again["batch"]) == ([1, 2, 2], 8)
    assert again["layers"][1] == {
        "name": "1",
        "kind": "Linear",
        "output_shape": [2],
        "parameters": 10,
        "multiply_adds": 8,
        "activation_bytes": 64,
    }
