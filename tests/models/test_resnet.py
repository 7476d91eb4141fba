"""ResNets: size, cost, torchvision's keys and shapes, blocks against their formula."""

import numpy as np
import pytest

import convolt
from convolt import Tensor, functional, no_grad
from convolt.layers import Conv2d, Linear
from convolt.models import build, summarize
from convolt.models.resnet import BasicBlock, Bottleneck, resnet20, resnet50


@pytest.fixture(scope="module")
def large():
    return resnet50()


def test_resnet50_has_the_published_size(large):
    assert sum(p.numel() for p in large.parameters()) == 25_557_032
    weights = [m for m in large.modules() if isinstance(m, Conv2d | Linear)]
    shortcuts = [k for k in large.state_dict() if k.endswith("downsample.0.weight")]
    assert (len(weights) - len(shortcuts), len(shortcuts)) == (50, 4)


def test_resnet50_has_the_published_cost(large):
    """4.09 billion multiply-adds at 224 x 224, in the table of torchvision."""
    summary = summarize(large, (3, 224, 224))
    assert summary.multiply_adds == 4_089_184_256
    assert summary.parameters == 25_557_032
    outputs = {row.name: row.output_shape for row in summary.layers}
    assert outputs["maxpool"] == (64, 56, 56)
    assert outputs["layer1.2.bn3"] == (256, 56, 56)
    assert outputs["layer2.0.conv1"] == (128, 56, 56)  # the stride is that of the 3x3 convolution
    assert outputs["layer2.0.conv2"] == (128, 28, 28)
    assert outputs["layer4.2.bn3"] == (2048, 7, 7)


def torchvision_shapes():
    """Keys and shapes of torchvision's resnet50, written out from its architecture."""
    shapes = {}

    def norm(name, channels):
        for key in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{key}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    inputs = 64
    for stage, (blocks, planes) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            shapes[f"{at}.conv1.weight"] = (planes, inputs, 1, 1)
            norm(f"{at}.bn1", planes)
            shapes[f"{at}.conv2.weight"] = (planes, planes, 3, 3)
            norm(f"{at}.bn2", planes)
            shapes[f"{at}.conv3.weight"] = (4 * planes, planes, 1, 1)
            norm(f"{at}.bn3", 4 * planes)
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * planes, inputs, 1, 1)
                norm(f"{at}.downsample.1", 4 * planes)
            inputs = 4 * planes
    shapes["fc.weight"], shapes["fc.bias"] = (1000, 2048), (1000,)
    return shapes


def test_a_state_of_torchvision_s_shape_loads(large, rng):
    state = {
        key: rng.standard_normal(shape).astype(np.float32) if shape else np.int64(7)
        for key, shape in torchvision_shapes().items()
    }
    assert list(large.state_dict()) == list(state)
    large.load_state_dict(state)
    for key, tensor in large.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[key])


def by_formula(block, x):
    """The block from single functions, in evaluation."""

    def conv_bn(conv, bn, x):
        y = functional.conv2d(x, conv.weight, None, conv.stride, conv.padding)
        return functional.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    y = functional.relu(conv_bn(block.conv1, block.bn1, x))
    y = conv_bn(block.conv2, block.bn2, y)
    if isinstance(block, Bottleneck):
        y = conv_bn(block.conv3, block.bn3, functional.relu(y))
    shortcut = x if block.downsample is None else conv_bn(*block.downsample, x)
    return functional.relu(y + shortcut)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kind", "channels"), [(BasicBlock, 8), (BasicBlock, 6), (Bottleneck, 2)])
def test_blocks(kind, channels, stride, rng):
    block = kind(8, channels, stride)
    for buffer in block.buffers():
        if buffer.ndim:
            buffer.copy_(Tensor(rng.uniform(0.5, 2, buffer.shape)))
    x = Tensor(rng.standard_normal((2, 8, 7, 5)).astype(np.float32))
    same = stride == 1 and channels * kind.expansion == 8
    assert (block.downsample is None) == same
    for recorded in (True, False):
        with convolt.set_grad_enabled(recorded):
            y, expected = block.eval()(x), by_formula(block, x)
        assert y.requires_grad == recorded
        np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_zero_init_residual_starts_with_the_shortcuts(rng):
    net = resnet20(width=4, zero_init_residual=True).eval()
    x = Tensor(rng.standard_normal((1, 4, 6, 6)).astype(np.float32))
    with no_grad():
        np.testing.assert_array_equal(net.layer1(x).numpy(), np.maximum(x.numpy(), 0))
    zeros = [k for k, t in net.state_dict().items() if k.endswith("weight") and not t.numpy().any()]
    assert zeros == [f"layer{i}.{j}.bn2.weight" for i in (1, 2, 3) for j in (0, 1, 2)]
    zeros = [
        k
        for k, t in resnet20(width=4).state_dict().items()
        if k.endswith("weight") and not t.numpy().any()
    ]
    assert zeros == []


def test_resnet20(rng):
    net = build("resnet20")
    assert sum(p.numel() for p in net.parameters()) == 272_474
    assert summarize(net, (3, 32, 32)).multiply_adds == 40_813_184
    weights = [
        key for key, t in net.state_dict().items() if t.ndim in (2, 4) and "downsample" not in key
    ]
    assert len(weights) == 20
    small = build("resnet20", in_channels=1, num_classes=3, width=2)
    assert small(Tensor(np.ones((2, 1, 9, 8), np.float32))).shape == (2, 3)


def test_weights_start_with_the_variance_of_he(large):
    net = resnet50()
    weight = net.layer3[0].conv2.weight.numpy()
    assert weight.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.01)
    assert abs(weight.mean()) < 1e-3
