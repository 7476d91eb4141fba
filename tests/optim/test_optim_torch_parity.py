"""Five steps with mixed groups, and schedules, against PyTorch."""

import numpy as np
import pytest

from convolt import Parameter, Tensor, optim

torch = pytest.importorskip("torch")

SHAPES = [(4, 3, 5, 5), (4,), (), (7, 2), (3,)]

OPTIMIZERS = {
    "plain": ("SGD", {"lr": 0.1}, {"lr": 0.01}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.0}),
    "dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}, {"maximize": True}),
    "nesterov": (
        "SGD",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"nesterov": False, "dampening": 0.5},
    ),
    "adam": ("Adam", {"lr": 0.1, "weight_decay": 0.1}, {"betas": (0.5, 0.8), "eps": 1e-3}),
    "amsgrad": ("Adam", {"lr": 0.1, "amsgrad": True}, {"amsgrad": False, "maximize": True}),
    "adamw": ("AdamW", {"lr": 0.1}, {"weight_decay": 0.5, "amsgrad": True}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps(name, dtype, rng, backend):
    rule, defaults, second_group = OPTIMIZERS[name]
    start = [rng.normal(size=shape).astype(dtype) for shape in SHAPES]
    ours = [Parameter(np.array(w, order="F")) for w in start]
    theirs = [torch.nn.Parameter(torch.tensor(w)) for w in start]

    def make(module, ps):
        groups = [{"params": ps[:3]}, {"params": ps[3:], **second_group}]
        return getattr(module, rule)(groups, **defaults)

    optimizer, reference = make(optim, ours), make(torch.optim, theirs)
    ours[1].requires_grad_(False)
    theirs[1].requires_grad_(False)
    for t in range(5):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = q.grad = None
            if i == 1 or (i == 3 and t in (0, 2)):  # frozen; without a gradient at times
                continue
            grad = rng.normal(size=SHAPES[i]).astype(dtype)
            p.grad, q.grad = Tensor(grad), torch.tensor(grad)
        optimizer.param_groups[0]["lr"] *= 0.9
        reference.param_groups[0]["lr"] *= 0.9
        optimizer.step()
        reference.step()
        # float32: 5 steps of a few operations, each within 2^-24 of values up to about 4
        for p, q in zip(ours, theirs, strict=True):
            expected = q.detach().numpy()
            atol = 1e-5 if dtype == np.float32 else 1e-13
            np.testing.assert_allclose(p.data, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pytorchs_state_is_taken_over(name, rng):
    rule, defaults, _ = OPTIMIZERS[name]
    start = [rng.normal(size=shape) for shape in SHAPES]
    theirs = [torch.nn.Parameter(torch.tensor(w)) for w in start]
    reference = getattr(torch.optim, rule)(theirs, **defaults)

    def step(optimizer, ps, as_tensor, grads):
        for p, grad in zip(ps, grads, strict=True):
            p.grad = as_tensor(grad)
        optimizer.step()

    draws = [[rng.normal(size=shape) for shape in SHAPES] for _ in range(4)]
    for grads in draws[:2]:
        step(reference, theirs, torch.tensor, grads)
    ours = [Parameter(q.detach().numpy().copy()) for q in theirs]
    optimizer = getattr(optim, rule)(ours, **defaults)
    optimizer.load_state_dict(reference.state_dict())
    for grads in draws[2:]:
        step(reference, theirs, torch.tensor, grads)
        step(optimizer, ours, Tensor, grads)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pytorch_takes_our_state_over(name, rng):
    rule, defaults, _ = OPTIMIZERS[name]
    ours = [Parameter(rng.normal(size=shape)) for shape in SHAPES]
    optimizer = getattr(optim, rule)(ours, **defaults)

    def step(optimizer, ps, as_tensor, grads):
        for p, grad in zip(ps, grads, strict=True):
            p.grad = as_tensor(grad)
        optimizer.step()

    draws = [[rng.normal(size=shape) for shape in SHAPES] for _ in range(4)]
    for grads in draws[:2]:
        step(optimizer, ours, Tensor, grads)
    theirs = [torch.nn.Parameter(torch.tensor(p.data)) for p in ours]
    reference = getattr(torch.optim, rule)(theirs, **defaults)
    saved = optimizer.state_dict()
    for entry in saved["state"].values():
        arrays = {k: torch.tensor(v) for k, v in entry.items() if isinstance(v, np.ndarray)}
        assert set(entry) - set(arrays) == {"step"}
        entry.update(arrays)
    reference.load_state_dict(saved)
    for grads in draws[2:]:
        step(optimizer, ours, Tensor, grads)
        step(reference, theirs, torch.tensor, grads)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
def test_defaults_are_pytorchs(rule):
    ours = getattr(optim, rule)([Parameter(np.ones(2, np.float32))]).defaults
    theirs = getattr(torch.optim, rule)([torch.nn.Parameter(torch.ones(2))]).defaults
    assert ours.items() <= theirs.items()


SCHEDULES = {
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}),
    "exponential": ("ExponentialLR", {"gamma": 0.9}),
    "cosine": ("CosineAnnealingLR", {"T_max": 8, "eta_min": 0.01}),
    "linear": ("LinearLR", {}),
}


@pytest.fixture
def optimizers():
    """Return ours and PyTorch's, with the same two groups."""
    lrs = (0.8, 0.3)
    ours = [{"params": [Parameter(np.ones(2, np.float32))], "lr": lr} for lr in lrs]
    theirs = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in lrs]
    return optim.SGD(ours), torch.optim.SGD(theirs)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name, optimizers):
    kind, options = SCHEDULES[name]
    ours, theirs = optimizers
    schedule = getattr(optim, kind)(ours, **options)
    reference = getattr(torch.optim.lr_scheduler, kind)(theirs, **options)
    theirs.step()
    for _ in range(20):
        np.testing.assert_allclose(schedule.get_last_lr(), reference.get_last_lr(), rtol=1e-10)
        schedule.step()
        reference.step()


CHAINS = [
    [("LinearLR", {"start_factor": 0.1, "total_iters": 4}), ("ExponentialLR", {"gamma": 0.9})],
    [("StepLR", {"step_size": 3}), ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.001})],
    [("CosineAnnealingLR", {"T_max": 4}), ("LinearLR", {"end_factor": 0.5, "total_iters": 7})],
    [("ExponentialLR", {"gamma": 0.9}), ("StepLR", {"step_size": 2}), ("LinearLR", {})],
]


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(kind for kind, _ in chain))
def test_chained_schedules(chain, by_hand, optimizers):
    ours, theirs = optimizers
    schedules = [getattr(optim, kind)(ours, **options) for kind, options in chain]
    references = [
        getattr(torch.optim.lr_scheduler, kind)(theirs, **options) for kind, options in chain
    ]
    theirs.step()
    for t in range(20):
        for optimizer in optimizers:
            if by_hand and t in (2, 9):
                optimizer.param_groups[1]["lr"] = 0.25
        lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        np.testing.assert_allclose(*lrs, rtol=1e-10)
        for schedule, reference in zip(schedules, references, strict=True):
            schedule.step()
            reference.step()
            np.testing.assert_allclose(schedule.get_last_lr(), reference.get_last_lr(), rtol=1e-10)


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # SequentialLR's own
def test_warm_up_is_linear_then_the_other(optimizers):
    ours, theirs = optimizers
    schedule = optim.WarmUp(ours, 4, optim.StepLR(ours, 3, 0.5))
    torch_schedules = torch.optim.lr_scheduler
    reference = torch_schedules.SequentialLR(
        theirs,
        [
            torch_schedules.LinearLR(theirs, 1 / 5, 1.0, 4),
            torch_schedules.StepLR(theirs, 3, 0.5),
        ],
        milestones=[4],
    )
    theirs.step()
    for _ in range(14):
        np.testing.assert_allclose(schedule.get_last_lr(), reference.get_last_lr(), rtol=1e-10)
        schedule.step()
        reference.step()
