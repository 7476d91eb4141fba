import copy
import pickle

import numpy as np
import pytest

from convolt import Parameter, Tensor, functional, no_grad
from convolt.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, Module, ReLU, Sequential


class Affine(Module):
    """Has a parameter, a buffer that is saved and one that is not."""

    def __init__(self, width=3):
        super().__init__()
        self.scale = Parameter(np.ones(width, np.float32))
        self.register_parameter("absent", None)
        self.register_buffer("shift", Tensor(np.zeros(width, np.float32)))
        self.register_buffer("scratch", Tensor(np.zeros(1, np.float32)), persistent=False)

    def forward(self, x):
        return x * self.scale + self.shift


class Net(Module):
    def __init__(self):
        super().__init__()
        self.body = Sequential(Conv2d(3, 2, 3), BatchNorm2d(2), ReLU(), Flatten())
        self.gain = Parameter(np.ones((), np.float32))
        self.head = Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x)) * self.gain


def ones(*shape):
    return Tensor(np.ones(shape, np.float32))


# Members


def test_assignment_registers_parameters_and_modules_in_order():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == [
        "gain",
        "body.0.weight",
        "body.0.bias",
        "body.1.weight",
        "body.1.bias",
        "head.weight",
        "head.bias",
    ]
    assert [name for name, _ in net.named_children()] == ["body", "head"]
    assert [name for name, _ in net.named_modules()] == [
        "",
        "body",
        "body.0",
        "body.1",
        "body.2",
        "body.3",
        "head",
    ]
    assert next(net.parameters()) is net.gain
    assert [name for name, _ in net.named_parameters(recurse=False)] == ["gain"]
    assert [name for name, _ in net.head.named_parameters(prefix="x")] == ["x.weight", "x.bias"]


def test_buffers_are_walked_and_only_persistent_ones_saved():
    layer = Affine()
    assert [name for name, _ in layer.named_buffers()] == ["shift", "scratch"]
    assert [id(b) for b in layer.buffers()] == [id(layer.shift), id(layer.scratch)]
    assert list(layer.state_dict()) == ["scale", "shift"]
    layer.register_buffer("scratch", layer.scratch, persistent=True)
    assert list(layer.state_dict()) == ["scale", "shift", "scratch"]


def test_plain_tensors_and_values_are_plain_attributes():
    layer = Affine()
    layer.note, layer.extra = "text", ones(2)
    assert list(layer.state_dict()) == ["scale", "shift"]
    assert layer.note == "text"


def test_replacing_a_parameter_keeps_its_place():
    layer = Linear(2, 3)
    layer.weight = Parameter(np.zeros((3, 2), np.float32))
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert not layer.state_dict()["weight"].numpy().any()
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]
    assert layer(ones(1, 2)).shape == (1, 3)
    layer.bias = Parameter(np.ones(3, np.float32))
    assert layer(ones(1, 2)).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", ones(3)),
        ("scale", np.ones(3)),
        ("scale", ReLU()),
        ("absent", ones(3)),
        ("shift", np.ones(3)),
        ("shift", 1.0),
    ],
)
def test_a_member_of_another_kind_is_a_type_error(name, value):
    layer = Affine()
    before = getattr(layer, name)
    with pytest.raises(TypeError, match=f"'{name}' is a "):
        setattr(layer, name, value)
    assert getattr(layer, name) is before
    net = Net()
    with pytest.raises(TypeError, match="'head' is a module"):
        net.head = ones(3)
    net.head = None
    assert "head.weight" not in net.state_dict()


def test_a_member_can_change_its_kind_as_in_pytorch():
    layer = Affine()
    layer.shift = Parameter(np.ones(3, np.float32))
    assert [name for name, _ in layer.named_parameters()] == ["scale", "shift"]
    assert [name for name, _ in layer.named_buffers()] == ["scratch"]
    layer.scratch = ReLU()
    assert [name for name, _ in layer.named_children()] == ["scratch"]
    layer.plain = 3
    layer.plain = Parameter(np.ones(1, np.float32))
    assert list(layer.state_dict()) == ["scale", "shift", "plain"]


def test_deleting_a_member_forgets_it():
    layer = Affine()
    del layer.scale, layer.scratch
    assert not hasattr(layer, "scale")
    assert list(layer.state_dict()) == ["shift"]
    layer.scale = 3  # the names are free again
    assert layer.scale == 3
    layer.scratch = Parameter(np.ones(1, np.float32))
    assert list(layer.state_dict()) == ["scratch", "shift"]  # parameters come first
    with pytest.raises(AttributeError):
        del layer.nothing
    net = Net()
    del net.body
    assert [name for name, _ in net.named_modules()] == ["", "head"]


@pytest.mark.parametrize("member", [Parameter(np.ones(1, np.float32)), ReLU()])
def test_members_before_init_are_an_attribute_error(member):
    class Early(Module):
        def __init__(self):
            self.member = member

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Early()


def test_names_are_checked():
    layer = Affine()
    parameter = Parameter(np.ones(1, np.float32))
    for name in ("", "a.b", "forward", "shift"):
        with pytest.raises(KeyError):
            layer.register_parameter(name, parameter)
    with pytest.raises(KeyError):
        layer.register_buffer("scale", ones(1))
    with pytest.raises(KeyError):
        layer.add_module("scale", ReLU())
    with pytest.raises(KeyError):
        layer.forward = parameter
    with pytest.raises(TypeError, match="must be a str"):
        layer.register_parameter(3, parameter)
    with pytest.raises(TypeError, match="must be a Parameter"):
        layer.register_parameter("new", ones(1))
    with pytest.raises(TypeError, match="must be a Tensor"):
        layer.register_buffer("new", np.ones(1))
    with pytest.raises(TypeError, match="must be a Module"):
        layer.add_module("new", np.tanh)
    assert list(layer.state_dict()) == ["scale", "shift"]


def test_shared_members_are_walked_once_and_saved_under_each_name():
    layer = Linear(2, 2)
    net = Sequential(layer, ReLU(), layer)
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    assert [name for name, _ in net.named_parameters(remove_duplicate=False)] == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    ]
    assert len(list(net.modules())) == 3
    assert len(list(net.children())) == 2
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]

    tied = Sequential(Linear(3, 3), Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert [name for name, _ in tied.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    tied.load_state_dict(tied.state_dict())


def test_a_shared_layer_gets_the_sum_of_its_gradients():
    layer = Linear(1, 1, bias=False)
    layer.load_state_dict({"weight": np.float32([[3]])})
    Sequential(layer, layer)(ones(1, 1)).sum().backward()
    assert layer.weight.grad.item() == 6  # d(w*w)/dw


# State


def test_state_dict_shares_memory_and_has_no_history():
    layer = Linear(2, 2)
    state = layer.state_dict()
    assert not state["weight"].requires_grad
    state["weight"].copy_(5)
    assert (layer.weight.numpy() == 5).all()


def test_load_copies_into_the_memory_there_is():
    net, other = Net(), Net()
    arrays = {name: tensor.data for name, tensor in net.state_dict().items()}
    values = {name: np.full_like(array, 2) for name, array in arrays.items()}
    values["head.bias"] = np.full(3, 2.0)  # float64: converted
    keys = net.load_state_dict(values)
    assert keys == ([], [])
    assert keys.missing_keys == []
    assert keys.unexpected_keys == []
    for name, tensor in net.state_dict().items():
        assert np.may_share_memory(tensor.data, arrays[name])
        assert tensor.dtype == arrays[name].dtype
        assert (tensor.numpy() == 2).all()
    other.load_state_dict(net.state_dict())
    assert (other.head.weight.numpy() == 2).all()
    assert not np.may_share_memory(other.head.weight.data, net.head.weight.data)


def test_loading_between_forward_and_backward_is_noticed():
    layer = Linear(2, 2)
    y = layer(ones(1, 2)).sum()
    layer.load_state_dict(layer.state_dict())
    x = Tensor(np.ones((1, 2), np.float32), requires_grad=True)
    y = layer(x).sum()
    layer.load_state_dict({"weight": np.zeros((2, 2)), "bias": np.zeros(2)})
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_a_state_that_does_not_fit_is_one_error_and_changes_nothing():
    net = Sequential(Conv2d(1, 2, 3), BatchNorm2d(2))
    before = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
    state = {name: np.full_like(array, 7) for name, array in before.items()}
    del state["0.bias"], state["1.running_var"]
    state["0.weight"] = np.ones((2, 3, 3, 3))
    state["1.weight"] = np.ones((1,))  # would broadcast
    state["1.bias"] = "text"
    state["9.weight"] = np.ones(1)
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines == [
        "missing: 0.bias (2,)",
        "missing: 1.running_var (2,)",
        "unexpected: 9.weight",
        "wrong shape: 0.weight is (2, 1, 3, 3) here, (2, 3, 3, 3) in the state",
        "wrong shape: 1.weight is (2,) here, (1,) in the state",
        "no numbers: 1.bias: a Tensor holds numbers, not str: 'text'",
    ]
    with pytest.raises(RuntimeError, match="wrong shape"):
        net.load_state_dict(state, strict=False)
    for name, tensor in net.state_dict().items():
        assert (tensor.numpy() == before[name]).all()


def test_not_strict_loads_what_fits_and_says_what_it_passed_over():
    layer = Linear(2, 2)
    bias = layer.bias.numpy().copy()
    keys = layer.load_state_dict({"weight": np.zeros((2, 2)), "other": 1}, strict=False)
    assert keys == (["bias"], ["other"])
    assert not layer.weight.numpy().any()
    assert (layer.bias.numpy() == bias).all()


def test_copies_and_pickles_are_independent_and_equal(backend):
    net = Net()
    x = Tensor(np.random.default_rng(1).normal(size=(2, 3, 4, 4)).astype(np.float32))
    net(x).sum().backward()
    net.eval()
    y = net(x).numpy()
    copied, pickled = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    assert copied.body[0].weight.data.strides == net.body[0].weight.data.strides
    for other in (copied, pickled):
        assert (other(x).numpy() == y).all()
        weight = other.body[0].weight
        assert isinstance(weight, Parameter)
        assert weight.requires_grad
        with no_grad():
            weight.copy_(0)
        assert net.body[0].weight.numpy().any()


# Types and modes


def test_to_keeps_identity_and_converts_gradients_and_buffers():
    net = Net()
    net(
        Tensor(np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32))
    ).sum().backward()
    identities = [id(p) for p in net.parameters()]
    values = [p.numpy().copy() for p in net.parameters()]
    strides = np.array(net.body[0].weight.data.strides)
    assert net.double() is net
    assert [id(p) for p in net.parameters()] == identities
    assert all(p.dtype == np.float64 and p.grad.dtype == np.float64 for p in net.parameters())
    assert all((p.numpy() == v).all() for p, v in zip(net.parameters(), values, strict=True))
    assert (np.array(net.body[0].weight.data.strides) == 2 * strides).all()
    assert net.body[1].running_mean.dtype == np.float64
    assert net.body[1].num_batches_tracked.dtype == np.int64
    y = net(Tensor(np.ones((2, 3, 4, 4))))
    assert y.dtype == np.float64
    y.sum().backward()
    net.to("float32")
    assert net(ones(2, 3, 4, 4)).dtype == np.float32
    for dtype in (np.int64, np.float16):
        with pytest.raises(TypeError, match="float32 or float64"):
            net.to(dtype)
    assert net.float().head.weight.dtype == np.float32


def test_to_lets_go_of_the_place_in_a_flat_buffer():
    layer = Linear(2, 2)
    layer.weight._grad_slot = np.zeros((2, 2), np.float32)
    layer.double()
    layer(Tensor(np.ones((1, 2)))).sum().backward()
    assert layer.weight.grad.dtype == np.float64


def test_converting_between_forward_and_backward_is_noticed():
    layer = Linear(2, 2)
    y = layer(Tensor(np.ones((1, 2), np.float32), requires_grad=True)).sum()
    layer.double()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_train_and_eval_reach_every_module():
    net = Sequential(Dropout(), Sequential(BatchNorm2d(1)))
    assert all(module.training for module in net.modules())
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net[1].train()
    assert [module.training for module in net.modules()] == [False, False, True, True]
    for mode in (1, None, "eval"):
        with pytest.raises(ValueError, match="must be a bool"):
            net.train(mode)


def test_freezing_and_zero_grad():
    net = Sequential(Linear(2, 2), Linear(2, 1))
    net[0].requires_grad_(False)
    net(ones(1, 2)).sum().backward()
    assert net[0].weight.grad is None
    gradient = net[1].weight.grad
    net.zero_grad(set_to_none=False)
    assert net[1].weight.grad is gradient
    assert not gradient.numpy().any()
    net.zero_grad()
    assert net[1].weight.grad is None


def test_apply_visits_children_before_their_parent():
    net = Sequential(ReLU(), Sequential(Flatten()))
    visited = []
    assert net.apply(visited.append) is net
    assert [id(m) for m in visited] == [id(m) for m in (net[0], net[1][0], net[1], net)]


# The call


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match="Module does not define forward"):
        Module()(1)


def test_hooks_see_replace_and_go():
    layer = ReLU()
    seen = []
    first = layer.register_forward_pre_hook(lambda module, args: seen.append((module, args)))
    double = layer.register_forward_pre_hook(lambda module, args: args[0] * 2)
    pair = layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    after = layer.register_forward_hook(lambda module, args, y: (args, y))
    x = ones(2)
    args, y = layer(x)
    assert seen == [(layer, (x,))]
    assert args[0].tolist() == [3, 3]
    assert y.tolist() == [3, 3]
    for handle in (first, double, after, after):
        handle.remove()
    assert layer(x).tolist() == [2, 2]
    pair.remove()
    assert layer(x).tolist() == [1, 1]
    assert len(seen) == 1


def test_a_hook_may_remove_itself_while_it_runs():
    layer, calls = ReLU(), []

    def once(module, args, output):
        calls.append(1)
        handle.remove()

    handle = layer.register_forward_hook(once)
    layer.register_forward_hook(lambda *_: calls.append(2))
    layer(ones(1))
    layer(ones(1))
    assert calls == [1, 2, 2]


def test_an_error_names_the_layer_it_came_from():
    net = Sequential(Conv2d(3, 4, 3), Sequential(ReLU(), Conv2d(5, 6, 3)))
    with pytest.raises(ValueError, match="4 channels") as error:
        net(ones(2, 3, 8, 8))
    assert error.value.__notes__ == [
        'in layer "1.1" (Conv2d(5, 6, kernel_size=(3, 3), stride=(1, 1)))'
    ]
    with pytest.raises(TypeError) as error:
        net[0](Tensor(np.ones((1, 3, 8, 8))))
    assert error.value.__notes__ == ["in layer Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))"]
    assert net[0](ones(2, 3, 8, 8)).shape == (2, 4, 6, 6)


def test_an_error_in_the_forward_of_a_net_names_the_net_and_keeps_other_notes():
    class Bad(Module):
        def __init__(self):
            super().__init__()
            self.inner = ReLU()

        def forward(self, x):
            error = KeyError("x")
            error.add_note("kept")
            raise error

    with pytest.raises(KeyError) as error:
        Sequential(Bad())(1)
    assert error.value.__notes__ == ["kept", 'in layer "0" (Bad())']


def test_functions_can_be_called_with_keywords():
    class Scaled(Module):
        def forward(self, x, *, by):
            return functional.relu(x) * by

    assert Scaled()(ones(1), by=3).item() == 3


def test_repr_nests():
    class Outer(Module):
        def __init__(self):
            super().__init__()
            self.net = Sequential(Linear(1, 2), ReLU())

        def extra_repr(self):
            return "a=1\nb=2"

    assert repr(Outer()) == (
        "Outer(\n"
        "  a=1\n"
        "  b=2\n"
        "  (net): Sequential(\n"
        "    (0): Linear(in_features=1, out_features=2, bias=True)\n"
        "    (1): ReLU()\n"
        "  )\n"
        ")"
    )
