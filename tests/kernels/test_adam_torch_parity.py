from itertools import product

import numpy as np
import pytest
from flat_buffers import buffer, table
from tolerance import assert_within

from convolt.kernels import adam
from convolt.kernels.segments import ACTIVE, STEP

torch = pytest.importorskip("torch")

STEPS = 7
SIZES = (5, 70, 3)  # the last is in a group of its own

OPTIONS = [
    {"weight_decay": decay, "amsgrad": bool(amsgrad), "maximize": bool(maximize)}
    for decay, amsgrad, maximize in product((0, 0.1), (0, 1), (0, 1))
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decoupled", [False, True], ids=["Adam", "AdamW"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(map(str, o.values())))
def test_every_option_is_torchs(backend, rng, dtype, decoupled, options):
    segments, length = table(SIZES, [0, 0, 1], [1] * 3, [0] * 3, dtype)
    slices = [slice(start, start + size) for start, size in segments[:, :2]]
    param = buffer(segments, length, dtype, rng.standard_normal)
    m, v, largest = np.zeros((3, length), dtype)
    tensors = [torch.tensor(param[here].astype(np.float64), requires_grad=True) for here in slices]
    other = {"params": tensors[2:], "betas": (0.5, 0.8), "eps": 0.1, "weight_decay": 0}
    groups = [dict(params=tensors[:2], **options), other]
    peer = (torch.optim.AdamW if decoupled else torch.optim.Adam)(groups, lr=0.1)
    size = np.abs(param)
    for step in range(STEPS):
        # Shrinking gradients let amsgrad's maximum differ from v.
        grad = buffer(segments, length, dtype, rng.standard_normal) / dtype(1 + step)
        segments[0, ACTIVE] = step not in (0, 3)  # its gradient is None: torch leaves it out
        hyper = np.zeros((2, adam.COLUMNS))
        for group, numbers in zip(peer.param_groups, hyper, strict=True):
            group["lr"] = 0.1 / (1 + step)
            numbers[:] = [
                *(group["lr"], *group["betas"], group["eps"], group["weight_decay"]),
                *(decoupled, group["amsgrad"], group["maximize"]),
            ]
        for tensor, here, active in zip(tensors, slices, segments[:, ACTIVE], strict=True):
            tensor.grad = torch.tensor(grad[here].astype(np.float64)) if active else None
        peer.step()
        adam.step(param, grad, m, v, largest, segments, hyper)
        # One step moves an element by lr times a number of order 1, and decays it.
        size = size + hyper[0, adam.LR] * (4 + np.abs(param))
    assert segments[:, STEP].tolist() == [STEPS - 2, STEPS, STEPS]
    for tensor, here in zip(tensors, slices, strict=True):
        assert_within(param[here], tensor.detach().numpy(), size[here], 12 * STEPS)
