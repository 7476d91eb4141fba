from collections import OrderedDict

import numpy as np
import pytest

from convolt import Tensor
from convolt.layers import Flatten, Linear, Module, ModuleList, ReLU, Sequential, Tanh


def kinds(modules):
    return [type(module).__name__ for module in modules]


def test_sequential_calls_one_after_the_other():
    net = Sequential(Linear(2, 3), ReLU(), Linear(3, 1))
    x = Tensor(np.ones((4, 2), np.float32))
    assert (net(x).numpy() == net[2](net[1](net[0](x))).numpy()).all()
    assert Sequential()(x) is x


def test_sequential_takes_names():
    net = Sequential(OrderedDict(first=Linear(2, 3), act=ReLU()))
    assert list(net.state_dict()) == ["first.weight", "first.bias"]
    assert net.first is net[0]
    assert list(net[1:].named_children()) == [("act", net.act)]
    net.append(Tanh())
    assert [name for name, _ in net.named_children()] == ["first", "act", "2"]


@pytest.mark.parametrize("kind", [lambda *m: Sequential(*m), lambda *m: ModuleList(m)])
def test_they_are_lists(kind):
    net = kind(Linear(1, 1), ReLU(), Tanh())
    assert len(net) == 3
    assert kinds(net) == ["Linear", "ReLU", "Tanh"]
    assert type(net[-1]) is Tanh
    assert type(net[:2]) is type(net)
    assert kinds(net[:2]) == ["Linear", "ReLU"]
    assert net[:2][0] is net[0]
    with pytest.raises(IndexError):
        net[3]
    net[1] = Flatten()
    assert net.append(ReLU()) is net
    assert net.extend([Tanh()]) is net
    assert net.insert(0, Tanh()) is net
    assert kinds(net) == ["Tanh", "Linear", "Flatten", "Tanh", "ReLU", "Tanh"]
    assert list(net.state_dict()) == ["1.weight", "1.bias"]
    del net[0]
    assert kinds(net) == ["Linear", "Flatten", "Tanh", "ReLU", "Tanh"]
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    del net[1:4]
    assert kinds(net) == ["Linear", "Tanh"]
    for bad in (3, np.tanh, ReLU):
        with pytest.raises(TypeError, match="must be a Module"):
            net.append(bad)
    net.extend(net)
    assert kinds(net) == ["Linear", "Tanh", "Linear", "Tanh"]


def test_a_module_used_twice_counts_twice_in_the_length():
    layer = Linear(2, 2)
    assert len(Sequential(layer, layer)) == 2
    assert len(list(Sequential(layer, layer).parameters())) == 2


def test_module_list_registers_but_is_not_called():
    class Net(Module):
        def __init__(self):
            super().__init__()
            self.steps = ModuleList(Linear(2, 2) for _ in range(2))

    assert list(Net().state_dict()) == [
        "steps.0.weight",
        "steps.0.bias",
        "steps.1.weight",
        "steps.1.bias",
    ]
    with pytest.raises(NotImplementedError):
        ModuleList()(1)


def test_sequential_rejects_functions():
    with pytest.raises(TypeError, match="'1' must be a Module, got function"):
        Sequential(ReLU(), lambda x: x)
