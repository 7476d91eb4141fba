"""ConvBnAct and conv_bn_act: the single layers one by one, their state, hooks, folded weights."""

import numpy as np
import pytest

import convolt
from convolt import Tensor, functional, layers, no_grad
from convolt.layers import BatchNorm2d, Conv2d, ConvBnAct, Sequential, conv_bn_act

KEYS = [
    "conv.weight",
    *(f"bn.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    "bn.num_batches_tracked",
]


@pytest.fixture
def unit():
    unit = ConvBnAct(3, 4, 3, padding=1, momentum=0.3)
    unit.bn.weight.copy_(Tensor(np.array([0.5, 1, 2, 3], np.float32)))
    unit.bn.bias.copy_(Tensor(np.array([0.1, -1, 2, 0], np.float32)))
    return unit


def images(n=5):
    return Tensor(np.random.default_rng(n).standard_normal((n, 3, 6, 5)).astype(np.float32))


def one_by_one(unit, x, residual=None):
    y = unit.bn(unit.conv(x))
    y = y if residual is None else y + residual
    return functional.relu(y) if unit.activation else y


def test_state_and_text(unit):
    assert list(unit.state_dict()) == KEYS
    assert repr(unit).startswith("ConvBnAct(\n  activation='relu'\n  (conv): Conv2d(3, 4, ")
    assert "bias=False" in repr(unit.conv)


@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("with_residual", [True, False])
def test_a_call_is_the_layers_one_by_one(backend, unit, activation, with_residual):
    unit.activation = activation
    other = ConvBnAct(3, 4, 3, padding=1, momentum=0.3, activation=activation)
    other.load_state_dict(unit.state_dict())
    residual = convolt.randn(5, 4, 6, 5) if with_residual else None
    for _ in range(2):  # training, and evaluation with the statistics of training
        got, expected = unit(images(), residual), one_by_one(other, images(), residual)
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=2e-5)
        for name, value in unit.state_dict().items():
            np.testing.assert_allclose(
                value.numpy(), other.state_dict()[name].numpy(), rtol=1e-5, atol=1e-6
            )
        assert unit.bn.num_batches_tracked.item() == 1
        unit.eval(), other.eval()
    got.sum().backward()  # evaluation, recorded
    expected.sum().backward()
    for a, b in zip(unit.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_momentum_none_means_the_mean_of_all_batches():
    unit = ConvBnAct(3, 4, 3, momentum=None)
    means = [unit.conv(images(n)).mean((0, 2, 3)).numpy() for n in (4, 5, 6)]
    for n in (4, 5, 6):
        unit(images(n))
    expected = np.mean(means, axis=0)
    np.testing.assert_allclose(unit.bn.running_mean.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_without_running_statistics_evaluation_takes_the_batch(unit):
    bn = BatchNorm2d(4, track_running_stats=False).eval()
    with no_grad():
        got = conv_bn_act(unit.conv, bn, images())
        expected = functional.relu(bn(unit.conv(images())))
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


class TestFoldedWeights:
    """Made once, and anew when what they are made of has changed."""

    @pytest.fixture
    def folds(self, monkeypatch):
        calls = []
        fold = functional.fold_batch_norm
        monkeypatch.setattr(functional, "fold_batch_norm", lambda *a: calls.append(1) or fold(*a))
        return calls

    def check(self, unit):
        with no_grad():
            got, expected = unit(images()), one_by_one(unit, images())
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)

    def test_they_are_kept(self, unit, folds):
        unit.eval()
        for _ in range(3):
            self.check(unit)
        assert len(folds) == 1

    def test_changes_are_noticed(self, unit, folds):
        unit.eval()
        rng = np.random.default_rng(2)
        changes = [
            lambda: unit.conv.weight.copy_(Tensor(rng.standard_normal((4, 3, 3, 3)))),
            lambda: unit.bn.weight.copy_(Tensor(rng.standard_normal(4))),
            lambda: unit.bn.bias.copy_(Tensor(rng.standard_normal(4))),
            lambda: unit.bn.running_mean.copy_(Tensor(rng.standard_normal(4))),
            lambda: unit.bn.running_var.copy_(Tensor(rng.uniform(0.5, 2, 4))),
            lambda: setattr(unit.bn, "eps", 0.5),
            lambda: setattr(unit.bn, "bias", convolt.Parameter(convolt.ones(4))),
            lambda: unit.load_state_dict(ConvBnAct(3, 4, 3).state_dict()),
            lambda: (unit.train()(images()), unit.eval()),
            lambda: step(unit),
        ]
        self.check(unit)
        for i, change in enumerate(changes):
            change()
            self.check(unit)
            assert len(folds) == i + 2

    def test_batch_norms_that_share_a_convolution(self, unit):
        """As often changed as each other, so that only their arrays tell them apart."""
        rng = np.random.default_rng(2)
        norms = [BatchNorm2d(4).eval() for _ in range(2)]
        for bn in norms:
            bn.running_mean.copy_(Tensor(rng.standard_normal(4)))
        for bn in norms * 2:
            with no_grad():
                got = conv_bn_act(unit.conv, bn, images())
                expected = functional.relu(bn(unit.conv(images())))
            np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)

    def test_nobody_keeps_a_dropped_layer_s(self, folds):
        from convolt.layers import fused

        before = len(fused._folded)
        unit = ConvBnAct(3, 4, 3).eval()
        with no_grad():
            unit(images())
        assert len(fused._folded) == before + 1
        del unit
        assert len(fused._folded) == before


def step(unit):
    optimizer = convolt.optim.SGD(unit.parameters(), lr=0.1)
    unit(images()).sum().backward()
    optimizer.step()


def test_hooks_see_the_layers_called_one_by_one(unit):
    seen = []
    handles = [
        unit.conv.register_forward_hook(lambda _, args, y: seen.append(("conv", y.shape))),
        unit.bn.register_forward_pre_hook(lambda _, args: seen.append(("bn", args[0].shape))),
    ]
    for mode in (True, False):
        unit.train(mode)
        expected = one_by_one(unit, images()) if not mode else None
        seen.clear()
        got = unit(images())
        assert seen == [("conv", (5, 4, 6, 5)), ("bn", (5, 4, 6, 5))]
    np.testing.assert_array_equal(got.numpy(), expected.numpy())
    for handle in handles:
        handle.remove()
    unit(images())
    assert len(seen) == 2


def test_a_derived_class_and_a_bias_are_respected(unit):
    class Doubled(Conv2d):
        def forward(self, input):
            return super().forward(input) * 2

    bn = BatchNorm2d(4).eval()
    for conv in (Doubled(3, 4, 3, bias=False), Conv2d(3, 4, 3)):
        y = conv_bn_act(conv, bn, images(), None)
        np.testing.assert_allclose(y.numpy(), bn(conv(images())).numpy())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_layers_one_by_one_refuse_what_the_one_op_refuses(bias, recorded):
    conv, bn = Conv2d(3, 4, 3, bias=bias), BatchNorm2d(4)
    with convolt.set_grad_enabled(recorded):
        for mode in (True, False):
            bn.train(mode)
            with pytest.raises(ValueError, match="residual has shape"):  # not broadcast
                conv_bn_act(conv, bn, images(), residual=convolt.randn(5, 4, 1, 1))
            with pytest.raises(ValueError, match="activation must be 'relu' or None, got 'gelu'"):
                conv_bn_act(conv, bn, images(), "gelu")
    assert bn.num_batches_tracked.item() == 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_bad_input_names_the_layer_and_counts_no_batch(training, recorded):
    net = Sequential(ConvBnAct(3, 4, 3)).train(training)
    with (
        pytest.raises(ValueError, match="x has 2 channels") as error,
        convolt.set_grad_enabled(recorded),
    ):
        net(convolt.randn(1, 2, 5, 5))
    assert 'in layer "0" (ConvBnAct' in error.value.__notes__[0]
    with pytest.raises(ValueError, match="residual has shape"), convolt.set_grad_enabled(recorded):
        net[0](convolt.randn(1, 3, 5, 5), convolt.randn(1, 4, 2, 3))
    assert net[0].bn.num_batches_tracked.item() == 0
    with pytest.raises(ValueError, match="activation must be 'relu' or None, got 'gelu'"):
        ConvBnAct(3, 4, 3, activation="gelu")
    assert layers.ConvBnAct is ConvBnAct
