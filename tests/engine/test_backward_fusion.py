"""Gradients of chains of conv_bn_act, whose steps back share passes over memory."""

from contextlib import contextmanager

import numpy as np
import pytest

import convolt
from convolt import functional as F
from convolt import models, use_backend, use_precision
from convolt.engine import autograd
from convolt.kernels import emulator
from convolt.kernels.conv2d.choice import use_algorithm
from convolt.models.resnet import BasicBlock, Bottleneck, ResNet

# As in test_conv_bn_act.py; twice as long chains of three.
TOLERANCE = {"float64": 2.0**-53 * 1000, "float32": 2.0**-24 * 1000, "bfloat16": 2.0**-6}
KERNELS = {  # on the emulator: algorithm, precision, multiple of channels, tolerance
    "wgmma": ("bf16", 8, TOLERANCE["bfloat16"]),
    "mma": ("bf16", 8, TOLERANCE["bfloat16"]),
    "mma, padded": ("bf16", 3, TOLERANCE["bfloat16"]),
    "mma, tf32": ("tf32", 8, TOLERANCE["float32"]),
    "simt": ("ieee", 5, TOLERANCE["float32"]),
}


def parameters(rng, channels, dtype=np.float32):
    """Of four convolutions with their batch-norms, the second one of a shortcut."""
    shapes = [(2, 1, 3), (2, 2, 1), (2, 2, 3), (2, 2, 3)]
    found = {"x": rng.standard_normal((2, channels, 7, 6))}
    for i, (k, c, r) in enumerate(shapes):
        found[f"w{i}"] = rng.standard_normal((k * channels, c * channels, r, r)) / 3
        found[f"scale{i}"] = rng.uniform(0.5, 2, k * channels)
        found[f"shift{i}"] = rng.normal(size=k * channels)
    return {name: a.astype(dtype) for name, a in found.items()}


def conv_bn_act(x, w, scale, shift, residual=None, activation="relu", **window):
    return F.conv_bn_act(
        x, w, None, None, scale, shift, residual, activation, training=True, **window
    )


def composition(x, w, scale, shift, residual=None, activation="relu", **window):
    y = F.batch_norm(F.conv2d(x, w, **window), None, None, scale, shift, training=True)
    y = y if residual is None else y + residual
    return F.relu(y) if activation else y


def gradients(arrays, layer, stride, retained=(), walks=1):
    """Of a loss of a residual block behind a convolution, whose result has three users more.

    Without a stride the shortcut is the input itself.
    """
    t = {name: convolt.tensor(a, requires_grad=True) for name, a in arrays.items()}

    def at(i):
        return t[f"w{i}"], t[f"scale{i}"], t[f"shift{i}"]

    a = layer(t["x"], *at(0), padding=1)
    shortcut = layer(a, *at(1), activation=None, stride=stride) if stride else a
    b = layer(a, *at(2), padding=1, stride=stride or 1)
    c = layer(b, *at(3), shortcut, padding=1)
    d = layer(c, *at(2), padding=1)
    e = layer(d, *at(3), c, padding=1) + c
    middle = {"a": a, "b": b, "c": c, "d": d}
    for name in retained:
        middle[name].retain_grad()
    weights = np.random.default_rng(5).standard_normal(e.shape)
    for walk in range(walks):
        for x in (*t.values(), *middle.values()):
            x.grad = None
        e.backward(convolt.tensor(weights.astype(e.dtype)), retain_graph=walk < walks - 1)
    wanted = t | {name: middle[name] for name in retained}
    return {name: x.grad.numpy() for name, x in wanted.items() if x.grad is not None}


@contextmanager
def unfused(monkeypatch):
    """Let no vjp add to what there is, nor go a step further: as all ops do."""
    with monkeypatch.context() as patch:
        patch.setattr(
            autograd.Node,
            "_added",
            lambda self, parent, vjp, grad, *_: autograd._Share(parent, vjp(grad, None, None)),
        )
        yield


def assert_alike(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for name, a in got.items():
        a, b = a.astype(np.float64), expected[name].astype(np.float64)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [2, None])
def test_it_is_the_composition(backend, rng, stride, dtype):
    arrays = parameters(rng, 3, dtype)
    run = stride, ("a", "c")
    got = gradients(arrays, conv_bn_act, *run, walks=2)
    assert_alike(got, gradients(arrays, composition, *run), TOLERANCE[dtype])


@pytest.mark.parametrize(("stride", "retained"), [(1, ()), (2, ("a", "c")), (None, ("b", "d"))])
@pytest.mark.parametrize("kernels", KERNELS)
def test_every_kernel_gives_what_the_steps_give(rng, monkeypatch, kernels, stride, retained):
    precision, channels, tolerance = KERNELS[kernels]
    family = kernels.partition(",")[0]
    arrays = parameters(rng, channels)
    run = conv_bn_act, stride, retained
    names = {f"conv2d_{verb}": family for verb in ("fprop", "dgrad", "wgrad")}
    with use_backend("emulator"), use_precision(precision), use_algorithm(**names):
        with emulator.record() as launches:
            got = gradients(arrays, *run)
        with unfused(monkeypatch), emulator.record() as more:
            expected = gradients(arrays, *run)
    assert_alike(got, expected, tolerance)
    passes, passes_unfused = (count(x, "batch_norm_backward_sums") for x in (launches, more))
    fused = family != "simt" and kernels != "mma, padded"
    assert (passes < passes_unfused) == fused


def count(launches, entry):
    return sum(launch.entry == entry for launch in launches)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_residual_networks_need_no_passes_for_sums_in_its_chain(rng, block):
    """Only where a gradient comes from pooling, or through a shortcut's batch-norm."""
    with use_backend("emulator"), use_precision("bf16"), use_algorithm(conv2d_dgrad="mma"):
        net = ResNet(block, (2, 2), 8, False, 8, 10, False)
        x = convolt.tensor(rng.standard_normal((2, 8, 8, 8)).astype(np.float32))
        loss = F.cross_entropy(net(x), convolt.tensor(np.arange(2)))
        with emulator.record() as launches:
            loss.backward()
    projected = sum(name.endswith("downsample.1") for name, _ in net.named_modules())
    assert projected == (1 if block is BasicBlock else 2)
    assert count(launches, "batch_norm_backward_sums") == 1 + projected
    assert count(launches, "elementwise_add") == 0
    assert count(launches, "batch_norm_backward_combine") > 8


def test_a_second_walk_is_as_the_first(rng):
    with use_backend("emulator"), use_precision("bf16"), use_algorithm(conv2d_dgrad="mma"):
        arrays = parameters(rng, 8)
        once, twice = (gradients(arrays, conv_bn_act, 2, ("a",), walks) for walks in (1, 2))
    for name, grad in once.items():
        np.testing.assert_array_equal(grad, twice[name], name)


def test_gradients_of_a_whole_network(rng, monkeypatch):
    x = rng.standard_normal((2, 3, 12, 12)).astype(np.float32)

    def run():
        with use_backend("emulator"), use_precision("tf32"):
            convolt.manual_seed(3)
            net = models.resnet20(width=8)
            F.cross_entropy(net(convolt.tensor(x)), convolt.tensor(np.arange(2))).backward()
            return {name: p.grad.numpy() for name, p in net.named_parameters()}

    got = run()
    with unfused(monkeypatch):
        assert_alike(got, run(), 2.0**-24 * 2000)
