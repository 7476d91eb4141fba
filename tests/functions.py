"""Every differentiable function on Tensors, for tests that go over all of them."""

import convolt
from convolt import functional as F

IMAGES, FILTERS, MATRIX, CLASSES = (2, 3, 9, 9), (4, 3, 3, 3), (5, 7), (6,)


def batch_norm(x, w, b):
    if x.dtype.name == "bfloat16":
        w, b = w.float(), b.float()  # as the contract asks
    return F.batch_norm(x, None, None, w, b, training=True)


def conv_bn(x, w, scale, shift, residual):
    if x.dtype.name == "bfloat16":
        scale, shift = scale.float(), shift.float()
    return F.conv_bn_act(x, w, None, None, scale, shift, residual, None, training=True)


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
    "batch_norm": (lambda x, w, b: batch_norm(x, w, b),
                   [IMAGES, (3,), (3,)]),
    "conv_bn_act": (conv_bn, [IMAGES, FILTERS, (4,), (4,), (2, 4, 7, 7)]),
    "dropout": (lambda x: F.dropout(x, 0.3), [IMAGES]),
    "softmax": (lambda x: F.softmax(x, 1), [MATRIX]),
    "cross_entropy": (lambda x: F.cross_entropy(x, convolt.tensor([0, 3, 6, 1, 2])), [MATRIX]),
    "cross_entropy of each": (
        lambda x: F.cross_entropy(x, convolt.tensor([0, 3, 6, 1, 2]), reduction="none"), [MATRIX]),
    "mse_loss": (F.mse_loss, [MATRIX, MATRIX]),
}  # fmt: skip
