"""Learning rates as functions of the number of steps: torch.optim.lr_scheduler's interface.

Every schedule is a closed form lr(t) of a group's initial rate lr0 and of t alone; t counts the
calls of ``step`` (a batch or an epoch each, as the user decides). lr0 is what the group's "lr" was
when it first met a schedule, kept as its "initial_lr" and thus in the optimizer's state_dict. A
rate set by hand lasts until the next ``step``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from .optimizer import Optimizer, check_number


class Schedule(ABC):
    """What all schedules share: the count of steps, and the walk over the groups.

    Args:
        optimizer: The optimizer whose groups' "lr" is set, at once and at every ``step``.
        last_epoch: t to go on from; -1 starts. (PyTorch's name: t may count batches.)

    Raises:
        TypeError: ``optimizer`` is no Optimizer.
        ValueError: ``last_epoch`` is below -1.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: needs an Optimizer, got {type(optimizer).__name__}"
            )
        _check_count(self, "last_epoch", last_epoch, least=-1)
        self.optimizer = optimizer
        self.last_epoch = last_epoch
        self.step()

    @abstractmethod
    def lr_at(self, t: int, lr0: float) -> float:
        """Return lr(t) for a group with initial rate ``lr0``."""

    @property
    def base_lrs(self) -> list[float]:
        """Initial rate of each group; a group added later starts from its own "lr"."""
        groups = self.optimizer.param_groups
        return [group.setdefault("initial_lr", group["lr"]) for group in groups]

    def step(self) -> None:
        """Count one step and set the learning rates; call it after the optimizer's ``step``."""
        self.last_epoch += 1
        self._last_lr = [self.lr_at(self.last_epoch, lr0) for lr0 in self.base_lrs]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def get_last_lr(self) -> list[float]:
        """Return the learning rate of each group as last set here."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return the count, the last rates and the schedule's own numbers."""
        return {
            name: value.state_dict() if isinstance(value, Schedule) else value
            for name, value in vars(self).items()
            if name != "optimizer"
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``. The optimizer's own holds the rates: load that too.

        Raises:
            ValueError: It has other entries than this schedule's; nothing has been changed then.
        """
        self._check_entries(state_dict)
        for name, value in state_dict.items():
            inner = getattr(self, name)
            if isinstance(inner, Schedule):
                inner.load_state_dict(value)
            else:
                setattr(self, name, list(value) if isinstance(value, list) else value)

    def _check_entries(self, state_dict: dict[str, Any]) -> None:
        here = self.state_dict()
        if set(state_dict) != set(here):
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: got {', '.join(sorted(state_dict))}; "
                f"expected {', '.join(sorted(here))}"
            )
        for name, value in state_dict.items():
            inner = getattr(self, name)
            if isinstance(inner, Schedule) != isinstance(value, dict):
                raise ValueError(
                    f"{type(self).__name__}.load_state_dict: {name} was "
                    f"{'a schedule' if isinstance(value, dict) else value}, here it is "
                    f"{type(inner).__name__}"
                )
            if isinstance(inner, Schedule):
                inner._check_entries(value)


class StepLR(Schedule):
    """lr(t) = lr0 * gamma ** (t // step_size): a drop every ``step_size`` steps.

    As AlexNet was trained (Krizhevsky, Sutskever, Hinton 2012), which divided by 10.

    Raises:
        TypeError: ``step_size`` is no int, or ``gamma`` no number.
        ValueError: ``step_size`` < 1 or ``gamma`` < 0.
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        _check_count(self, "step_size", step_size, least=1)
        check_number("StepLR: gamma", gamma, least=0)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr0: float) -> float:
        """Return lr(t) for a group with initial rate ``lr0``."""
        return lr0 * self.gamma ** (t // self.step_size)


class ExponentialLR(Schedule):
    """lr(t) = lr0 * gamma ** t.

    Raises:
        TypeError: ``gamma`` is no number.
        ValueError: ``gamma`` < 0.
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        check_number("ExponentialLR: gamma", gamma, least=0)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr0: float) -> float:
        """Return lr(t) for a group with initial rate ``lr0``."""
        return lr0 * self.gamma**t


class InverseTimeLR(Schedule):
    """lr(t) = lr0 / (1 + decay * t): the 1/t decay (Robbins and Monro 1951).

    The sum of lr(t) diverges while that of lr(t) ** 2 converges, as their proof asks.

    Raises:
        TypeError: ``decay`` is no number.
        ValueError: ``decay`` < 0.
    """

    def __init__(self, optimizer: Optimizer, decay: float, last_epoch: int = -1) -> None:
        check_number("InverseTimeLR: decay", decay, least=0)
        self.decay = decay
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr0: float) -> float:
        """Return lr(t) for a group with initial rate ``lr0``."""
        return lr0 / (1 + self.decay * t)


class CosineAnnealingLR(Schedule):
    """lr(t) = eta_min + (lr0 - eta_min) * (1 + cos(pi * t / T_max)) / 2.

    Loshchilov and Hutter 2017, equation 5, without restarts: after ``T_max`` steps it rises
    again, as PyTorch's does.

    Raises:
        TypeError: ``T_max`` is no int, or ``eta_min`` no number.
        ValueError: ``T_max`` < 1 or ``eta_min`` < 0.
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        _check_count(self, "T_max", T_max, least=1)
        check_number("CosineAnnealingLR: eta_min", eta_min, least=0)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr0: float) -> float:
        """Return lr(t) for a group with initial rate ``lr0``."""
        return self.eta_min + (lr0 - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class LinearLR(Schedule):
    """lr(t) = lr0 * (start_factor + (end_factor - start_factor) * min(t / total_iters, 1)).

    Raises:
        TypeError: ``total_iters`` is no int, or a factor no number.
        ValueError: ``total_iters`` < 1, or not 0 < start_factor <= 1, 0 <= end_factor <= 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        for name, factor in (("start_factor", start_factor), ("end_factor", end_factor)):
            check_number(f"LinearLR: {name}", factor, least=0)
            if factor > 1:
                raise ValueError(f"LinearLR: {name} must be <= 1, got {factor}")
        if start_factor == 0:
            raise ValueError("LinearLR: start_factor must be > 0: the first steps would be lost")
        _check_count(self, "total_iters", total_iters, least=1)
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr0: float) -> float:
        """Return lr(t) for a group with initial rate ``lr0``."""
        done = min(t / self.total_iters, 1.0)
        return lr0 * (self.start_factor + (self.end_factor - self.start_factor) * done)


class WarmUp(Schedule):
    """lr(t) = lr0 * (t + 1) / (warmup_steps + 1) while t < warmup_steps; then ``after``.

    Gradual warm-up (Goyal et al. 2017). ``after`` starts at its own t = 0 when the warm-up is
    over; step this schedule only. Without ``after`` the rate stays lr0.

    Args:
        optimizer: The optimizer of ``after`` too.
        warmup_steps: Steps below lr0.
        after: Any schedule, for example ``CosineAnnealingLR(optimizer, 90)``.
        last_epoch: t to go on from; -1 starts.

    Raises:
        TypeError: ``warmup_steps`` is no int, or ``after`` no schedule.
        ValueError: ``warmup_steps`` < 0, or ``after`` belongs to another optimizer.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        after: Schedule | None = None,
        last_epoch: int = -1,
    ) -> None:
        _check_count(self, "warmup_steps", warmup_steps, least=0)
        if after is not None and not isinstance(after, Schedule):
            raise TypeError(f"WarmUp: after must be a schedule, got {type(after).__name__}")
        if after is not None and after.optimizer is not optimizer:
            raise ValueError("WarmUp: after belongs to another optimizer")
        self.warmup_steps, self.after = warmup_steps, after
        super().__init__(optimizer, last_epoch)

    def lr_at(self, t: int, lr0: float) -> float:
        """Return lr(t) for a group with initial rate ``lr0``."""
        if t < self.warmup_steps:
            return lr0 * (t + 1) / (self.warmup_steps + 1)
        return lr0 if self.after is None else self.after.lr_at(t - self.warmup_steps, lr0)


def _check_count(schedule: Schedule, name: str, value: Any, *, least: int) -> None:
    where = f"{type(schedule).__name__}: {name}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{where} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{where} must be >= {least}, got {value}")
