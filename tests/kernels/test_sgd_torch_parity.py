from itertools import product

import numpy as np
import pytest
from flat_buffers import buffer, table
from tolerance import assert_within

from convolt.kernels import sgd
from convolt.kernels.segments import ACTIVE, GROUP, STEP

torch = pytest.importorskip("torch")

STEPS = 7
SIZES = (5, 70, 3)  # the last is in a group of its own

OPTIONS = [
    {"weight_decay": decay, "maximize": bool(maximize)} | momentum
    for momentum, decay, maximize in product(
        (
            {"momentum": 0, "dampening": 0, "nesterov": False},
            {"momentum": 0, "dampening": 0.4, "nesterov": False},
            {"momentum": 0.9, "dampening": 0, "nesterov": False},
            {"momentum": 0.9, "dampening": 0.4, "nesterov": False},
            {"momentum": 0.9, "dampening": 0, "nesterov": True},
        ),
        (0, 0.1),
        (0, 1),
    )
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(map(str, o.values())))
def test_every_option_is_torchs(backend, rng, dtype, options):
    segments, length = table(SIZES, [0, 0, 1], [1] * 3, [0] * 3, dtype)
    slices = [slice(start, start + size) for start, size in segments[:, :2]]
    param, b = buffer(segments, length, dtype, rng.standard_normal), np.zeros(length, dtype)
    tensors = [torch.tensor(param[here].astype(np.float64), requires_grad=True) for here in slices]
    groups = [dict(params=tensors[:2], **options), {"params": tensors[2:], "momentum": 0.5}]
    peer = torch.optim.SGD(groups, lr=0.1)
    size = np.abs(param)
    for step in range(STEPS):
        grad = buffer(segments, length, dtype, rng.standard_normal)
        segments[0, ACTIVE] = step not in (0, 3)  # its gradient is None: torch leaves it out
        hyper = np.zeros((2, sgd.COLUMNS))
        for group, numbers in zip(peer.param_groups, hyper, strict=True):
            group["lr"] = 0.1 / (1 + step)
            numbers[:] = [
                *(group["lr"], group["momentum"], group["dampening"]),
                *(group["weight_decay"], group["nesterov"], group["maximize"]),
            ]
        for tensor, here, active in zip(tensors, slices, segments[:, ACTIVE], strict=True):
            tensor.grad = torch.tensor(grad[here].astype(np.float64)) if active else None
        peer.step()
        sgd.step(param, grad, b, segments, hyper)
        # One step adds at most lr * (d + momentum * b), and |b| <= 10 max |d| here.
        size = size + hyper[0, sgd.LR] * 10 * (np.abs(grad) + np.abs(param))
    assert segments[:, STEP].tolist() == [STEPS - 2, STEPS, STEPS]
    assert segments[:, GROUP].tolist() == [0, 0, 1]
    for tensor, here in zip(tensors, slices, strict=True):
        assert_within(param[here], tensor.detach().numpy(), size[here], 8 * STEPS)
