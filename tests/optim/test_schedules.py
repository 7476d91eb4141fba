"""Learning rates against their equations, several groups, composition, state."""

import math

import numpy as np
import pytest

from convolt import Parameter, Tensor
from convolt.optim import (
    SGD,
    CosineAnnealingLR,
    ExponentialLR,
    InverseTimeLR,
    LinearLR,
    StepLR,
    WarmUp,
)


def sgd(*lrs):
    groups = [{"params": [Parameter(np.ones(2, np.float32))], "lr": lr} for lr in lrs]
    return SGD(groups)


def rates(optimizer, schedule, steps):
    """Return the rates of the first group at t = 0, ..., steps - 1."""
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        schedule.step()
    return seen


SCHEDULES = {
    "step": (lambda o, **k: StepLR(o, 3, 0.5, **k), [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2]),
    "exponential": (lambda o, **k: ExponentialLR(o, 0.5, **k), [0.8, 0.4, 0.2, 0.1]),
    "inverse time": (lambda o, **k: InverseTimeLR(o, 1, **k), [0.8, 0.4, 0.8 / 3, 0.2]),
    "cosine": (
        lambda o, **k: CosineAnnealingLR(o, 4, eta_min=0.2, **k),
        [0.8, 0.5 + 0.3 / math.sqrt(2), 0.5, 0.5 - 0.3 / math.sqrt(2), 0.2],
    ),
    "linear": (lambda o, **k: LinearLR(o, 0.5, 1.0, 4, **k), [0.4, 0.5, 0.6, 0.7, 0.8, 0.8]),
    "warm-up": (lambda o, **k: WarmUp(o, 3, **k), [0.2, 0.4, 0.6, 0.8, 0.8]),
    "no warm-up": (lambda o, **k: WarmUp(o, 0, **k), [0.8, 0.8]),
    "warm-up, then exponential": (
        lambda o, **k: WarmUp(o, 3, ExponentialLR(o, 0.5), **k),
        [0.2, 0.4, 0.6, 0.8, 0.4, 0.2],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_equation(name):
    make, expected = SCHEDULES[name]
    optimizer = sgd(0.8)
    np.testing.assert_allclose(
        rates(optimizer, make(optimizer), len(expected)), expected, rtol=1e-12
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_group_goes_from_its_own_rate(name):
    make, expected = SCHEDULES[name]
    optimizer, single = sgd(0.3, 0.8), sgd(0.8)
    schedule, other = make(optimizer), make(single)
    assert schedule.base_lrs == [0.3, 0.8]
    for _ in expected:
        assert optimizer.param_groups[1]["lr"] == single.param_groups[0]["lr"]
        schedule.step()
        other.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_restored_schedule_continues_equal(name):
    make, _ = SCHEDULES[name]
    optimizer = sgd(0.8)
    schedule = make(optimizer)
    rates(optimizer, schedule, 2)
    saved = schedule.state_dict(), optimizer.state_dict()
    assert saved[0]["last_epoch"] == 2
    expected = rates(optimizer, schedule, 4)

    other = sgd(0.1)
    restored = make(other)
    restored.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    assert rates(other, restored, 4) == expected


@pytest.mark.parametrize("name", SCHEDULES)
def test_last_epoch_goes_on_from_the_rates_of_the_optimizer(name):
    make, _ = SCHEDULES[name]
    optimizer = sgd(0.8)
    schedule = make(optimizer)
    rates(optimizer, schedule, 2)
    other = sgd(0.1)
    other.load_state_dict(optimizer.state_dict())
    resumed = make(other, last_epoch=1)
    assert resumed.last_epoch == 2
    assert rates(other, resumed, 4) == rates(optimizer, schedule, 4)


def test_last_epoch_needs_the_initial_rates():
    with pytest.raises(KeyError, match="a group has no"):
        ExponentialLR(sgd(0.8), 0.5, last_epoch=1)


def test_schedules_of_one_optimizer_multiply():
    optimizer = sgd(0.8)
    schedules = [LinearLR(optimizer, 0.5, 1.0, 2), ExponentialLR(optimizer, 0.5)]
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        for schedule in schedules:
            schedule.step()
    np.testing.assert_allclose(seen, [0.4, 0.3, 0.2, 0.1], rtol=1e-12)


def test_warm_up_over_another_schedule_multiplies():
    optimizer = sgd(0.8)
    outer = ExponentialLR(optimizer, 0.5)
    inner = WarmUp(optimizer, 1, LinearLR(optimizer, 0.5, 1.0, 2))
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        outer.step()
        inner.step()
    np.testing.assert_allclose(seen, [0.4, 0.2, 0.15, 0.1], rtol=1e-12)


def test_a_rate_set_by_hand_is_scheduled_on():
    optimizer = sgd(0.8)
    schedule = StepLR(optimizer, 2, 0.5)
    optimizer.param_groups[0]["lr"] = 0.6
    assert [schedule.step() or optimizer.param_groups[0]["lr"] for _ in range(4)] == [
        0.6,
        0.3,
        0.3,
        0.15,
    ]


def test_cosine_of_many_periods_keeps_to_its_equation():
    optimizer = sgd(0.8)
    schedule = CosineAnnealingLR(optimizer, 7, eta_min=0.1)
    expected = [0.1 + 0.35 * (1 + math.cos(math.pi * t / 7)) for t in range(500)]
    np.testing.assert_allclose(rates(optimizer, schedule, 500), expected, rtol=1e-9)


def test_linear_ends_at_zero():
    optimizer = sgd(0.8)
    seen = rates(optimizer, LinearLR(optimizer, 0.7, 0.0, 3), 6)
    assert seen[3:] == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(seen[:3], np.multiply(0.56, [1, 2 / 3, 1 / 3]), rtol=1e-12)


def test_a_group_added_later_is_scheduled_on_from_its_own_rate():
    optimizer = sgd(0.8)
    schedule = ExponentialLR(optimizer, 0.5)
    schedule.step()
    optimizer.add_param_group({"params": [Parameter(np.ones(2, np.float32))], "lr": 0.4})
    schedule.step()
    assert schedule.get_last_lr() == [0.2, 0.2]
    assert schedule.base_lrs == [0.8, 0.4]


def test_the_optimizer_steps_by_the_scheduled_rate(backend):
    optimizer = sgd(1.0)
    p = optimizer.param_groups[0]["params"][0]
    p.grad = Tensor(np.ones(2, np.float32))
    schedule = ExponentialLR(optimizer, 0.5)
    for expected in (0.0, -0.5, -0.75):
        optimizer.step()
        schedule.step()
        np.testing.assert_array_equal(p.data, np.full(2, expected))


def test_errors():
    optimizer = sgd(0.8)
    with pytest.raises(TypeError, match="StepLR: needs an Optimizer, got list"):
        StepLR([], 3)
    with pytest.raises(ValueError, match="step_size must be >= 1, got 0"):
        StepLR(optimizer, 0)
    with pytest.raises(TypeError, match="step_size must be an int"):
        StepLR(optimizer, 2.5)
    with pytest.raises(ValueError, match="gamma"):
        ExponentialLR(optimizer, -1)
    with pytest.raises(ValueError, match="decay"):
        InverseTimeLR(optimizer, -1)
    with pytest.raises(ValueError, match="T_max"):
        CosineAnnealingLR(optimizer, 0)
    with pytest.raises(ValueError, match="start_factor must be > 0"):
        LinearLR(optimizer, 0.0)
    with pytest.raises(ValueError, match="end_factor must be <= 1"):
        LinearLR(optimizer, 0.5, 2.0)
    with pytest.raises(ValueError, match="warmup_steps"):
        WarmUp(optimizer, -1)
    with pytest.raises(ValueError, match="another optimizer"):
        WarmUp(optimizer, 3, StepLR(sgd(0.1), 3))
    with pytest.raises(TypeError, match="after must be a schedule"):
        WarmUp(optimizer, 3, 4)
    with pytest.raises(ValueError, match="last_epoch"):
        StepLR(optimizer, 3, last_epoch=-2)


def test_loading_what_does_not_fit_changes_nothing():
    optimizer = sgd(0.8)
    warm_up = WarmUp(optimizer, 3, StepLR(optimizer, 3))
    before = warm_up.state_dict()
    plain = WarmUp(sgd(0.8), 3)
    for bad in (
        StepLR(sgd(0.8), 3).state_dict(),
        plain.state_dict(),
        WarmUp(optimizer, 3, ExponentialLR(optimizer, 0.5)).state_dict(),
    ):
        with pytest.raises(ValueError, match="load_state_dict"):
            warm_up.load_state_dict(bad)
        assert warm_up.state_dict() == before
    with pytest.raises(ValueError, match="after was a schedule, here it is NoneType"):
        plain.load_state_dict(before)
