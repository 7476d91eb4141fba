"""Every differentiable function on CuPy arrays, forward and backward, against the emulator."""

import warnings

import host_cupy
import numpy as np
import pytest

import convolt
from convolt import functional as F
from convolt import use_backend

IMAGES, FILTERS, MATRIX, CLASSES = (2, 3, 9, 9), (4, 3, 3, 3), (5, 7), (6,)

# name: function of Tensors, and the shapes of those that get a gradient
OPS = {
    "add": (lambda a, b: a + b, [MATRIX, (7,)]),
    "add a number": (lambda a: 1.5 + a, [MATRIX]),
    "subtract": (lambda a, b: a - b, [MATRIX, (5, 1)]),
    "multiply": (lambda a, b: a * b, [IMAGES, (3, 1, 1)]),
    "divide": (lambda a, b: a / (b * b + 1), [MATRIX, MATRIX]),
    "power": (lambda a: (a * a + 1) ** 1.5, [MATRIX]),
    "a number to a power": (lambda a: 2.0**a, [MATRIX]),
    "maximum": (convolt.maximum, [MATRIX, MATRIX]),
    "where": (lambda a, b: convolt.where(a < b, a, b), [MATRIX, MATRIX]),
    "functions": (lambda a: (a.abs() + 1).log() - a.exp() * (a * a).sqrt(), [MATRIX]),
    "clamp": (lambda a: a.clamp(-0.5, 0.5), [MATRIX]),
    "activations": (lambda a: a.relu() + a.sigmoid() * a.tanh() + F.leaky_relu(a, 0.1), [IMAGES]),
    "matmul": (lambda a, b: a @ b, [MATRIX, (7, 3)]),
    "sum": (lambda a: a.sum((0, 2)), [IMAGES]),
    "mean": (lambda a: a.mean(1, keepdim=True) + a.mean(), [IMAGES]),
    "var": (lambda a: a.var(0), [MATRIX]),
    "amax": (lambda a: a.amax((2, 3)), [IMAGES]),
    "max over an axis": (lambda a: a.max(1).values, [MATRIX]),
    "view": (lambda a: a[1:, ::2], [MATRIX]),
    "one element": (lambda a: a[1, 2], [MATRIX]),
    "from 0-d": (lambda a: a[None] * 2, [()]),
    "gather": (lambda a: a[convolt.tensor([1, 0, 1])], [MATRIX]),
    "mask": (lambda a: a[a > 0].sum(), [MATRIX]),
    "reshape": (lambda a: a.permute(2, 3, 0, 1).reshape(9, -1).flatten(), [IMAGES]),
    "squeeze": (lambda a: a.unsqueeze(0).expand(2, -1, -1).squeeze(), [MATRIX]),
    "cat and stack": (lambda a, b: convolt.stack([convolt.cat([a, b]), convolt.cat([b, a])]),
                      [MATRIX, MATRIX]),
    "copies": (lambda a: a.permute(0, 2, 3, 1).contiguous().clone(), [IMAGES]),
    "types": (lambda a: a.double().float(), [MATRIX]),
    "linear": (F.linear, [MATRIX, (3, 7), (3,)]),
    "conv2d": (F.conv2d, [IMAGES, FILTERS, (4,)]),
    "conv2d, strided": (lambda x, w: F.conv2d(x, w, stride=2, padding=1, dilation=2),
                        [IMAGES, FILTERS]),
    "conv2d of one image": (F.conv2d, [IMAGES[1:], FILTERS]),
    "depthwise conv2d": (lambda x, w: F.conv2d(x, w, groups=3), [IMAGES, (3, 1, 3, 3)]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), [IMAGES]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), [IMAGES]),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), [IMAGES]),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
                   [IMAGES, (3,), (3,)]),
    "dropout": (lambda x: F.dropout(x, 0.3), [IMAGES]),
    "softmax": (lambda x: F.softmax(x, 1), [MATRIX]),
    "cross_entropy": (lambda x: F.cross_entropy(x, convolt.tensor([0, 3, 6, 1, 2])), [MATRIX]),
    "cross_entropy of each": (
        lambda x: F.cross_entropy(x, convolt.tensor([0, 3, 6, 1, 2]), reduction="none"), [MATRIX]),
    "mse_loss": (F.mse_loss, [MATRIX, MATRIX]),
}  # fmt: skip


def results(function, arrays, weight):
    """The value and the gradients of its weighted sum, as NumPy arrays."""
    convolt.manual_seed(1)
    inputs = [convolt.tensor(array, requires_grad=True) for array in arrays]
    y = function(*inputs)
    y.backward(convolt.tensor(np.resize(weight, y.shape)))
    for t in (y, *(x.grad for x in inputs)):
        assert t.backend == convolt.current_backend()
    assert y.shape == tuple(y.data.shape)
    assert all(x.grad.shape == x.shape for x in inputs)
    return [y.numpy(), *(x.grad.numpy() for x in inputs)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPS)
def test_results_are_the_emulator_s(cupy, rng, name, dtype):
    function, shapes = OPS[name]
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    weight = rng.standard_normal(100).astype(dtype)
    got = results(function, arrays, weight)
    with use_backend("emulator"):
        expected = results(function, arrays, weight)
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if host_cupy.is_installed(cupy):
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(initial=0))


def test_nothing_waits_for_the_gpu_but_a_mask(cupy, rng):
    """A step is launched without reading anything back; only the size of a mask must be known."""
    cupyx = pytest.importorskip("cupyx")
    waits = []
    for name, (function, shapes) in OPS.items():
        inputs = [convolt.tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]
        try:
            with warnings.catch_warnings(action="ignore"), cupyx.allow_synchronize(False):
                y = function(*inputs)
                y.backward(convolt.zeros_like(y))
        except cupyx.DeviceSynchronized:
            waits.append(name)
    assert waits == ["mask"]


def random_numbers():
    convolt.manual_seed(3)
    return [convolt.rand(4, 5), convolt.randn(6, dtype="float64"), convolt.rand(())]


def test_random_numbers_are_those_of_every_backend(cupy):
    got = random_numbers()
    with use_backend("emulator"):
        expected = random_numbers()
        for a, b in zip(got, expected, strict=True):
            assert (a.backend, b.backend, a.shape) == ("cuda", "emulator", b.shape)
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert convolt.rand(3).backend == "cuda"  # the generator's state follows


def test_dropout_of_a_tensor_elsewhere_takes_the_generator_along(cupy):
    here = convolt.tensor(np.ones((4, 50), np.float32))
    convolt.manual_seed(5)
    on_gpu = F.dropout(here)
    convolt.manual_seed(5)
    on_host = F.dropout(here.cpu())
    np.testing.assert_array_equal(on_gpu.numpy(), on_host.numpy())
