"""Learning rates that change from step to step: torch.optim.lr_scheduler's interface.

Each class states lr(t) of a schedule that is alone; t counts the calls of ``step`` (a batch or an
epoch each, as the user decides), lr0 is what the group's "lr" was when it first met a schedule,
kept as its "initial_lr" and thus in the optimizer's state_dict. What a ``step`` does is to go from
the rate that is there, lr(t - 1), to lr(t). So several schedules of one optimizer multiply when
each is stepped, and what a user sets by hand is scheduled on from there: PyTorch's chaining.
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
        last_epoch: -1 starts, at t = 0. Otherwise t is ``last_epoch`` + 1 and the rates stay: the
            optimizer's state has those of that t. (PyTorch's name: t may count batches.)

    Raises:
        TypeError: ``optimizer`` is no Optimizer.
        ValueError: ``last_epoch`` is below -1.
        KeyError: ``last_epoch`` is not -1 and a group has no "initial_lr".
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{name}: needs an Optimizer, got {type(optimizer).__name__}")
        _check_count(self, "last_epoch", last_epoch, least=-1)
        groups = optimizer.param_groups
        if last_epoch >= 0 and not all("initial_lr" in group for group in groups):
            raise KeyError(
                f"{name}: last_epoch={last_epoch} goes on with a schedule, but a group has no "
                '"initial_lr"; load the optimizer\'s state_dict first, or leave last_epoch out'
            )
        self.optimizer = optimizer
        self.last_epoch = last_epoch + 1
        for group in groups:
            group.setdefault("initial_lr", group["lr"])
        started = self.last_epoch > 0
        self._set([group["lr"] if started else self.start(group["lr"]) for group in groups])

    def start(self, lr: float) -> float:
        """Return lr(0), a multiple of ``lr``, the rate before this schedule."""
        return lr

    @abstractmethod
    def next_lr(self, t: int, lr: float, lr0: float) -> float:
        """Return lr(t), t >= 1, of a group with rate ``lr`` at t - 1 and initial rate ``lr0``."""

    @property
    def base_lrs(self) -> list[float]:
        """Initial rate of each group; that of a group added later is its own "lr"."""
        groups = self.optimizer.param_groups
        return [group.setdefault("initial_lr", group["lr"]) for group in groups]

    def step(self) -> None:
        """Count one step and change the learning rates; call it after the optimizer's ``step``."""
        self.last_epoch += 1
        groups = zip(self.optimizer.param_groups, self.base_lrs, strict=True)
        self._set([self.next_lr(self.last_epoch, group["lr"], lr0) for group, lr0 in groups])

    def _set(self, lrs: list[float]) -> None:
        self._last_lr = lrs
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
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

    def next_lr(self, t: int, lr: float, lr0: float) -> float:
        """Return lr(t), t >= 1, of a group with rate ``lr`` at t - 1 and initial rate ``lr0``."""
        return lr * self.gamma if t % self.step_size == 0 else lr


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

    def next_lr(self, t: int, lr: float, lr0: float) -> float:
        """Return lr(t), t >= 1, of a group with rate ``lr`` at t - 1 and initial rate ``lr0``."""
        return lr * self.gamma


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

    def next_lr(self, t: int, lr: float, lr0: float) -> float:
        """Return lr(t), t >= 1, of a group with rate ``lr`` at t - 1 and initial rate ``lr0``."""
        return lr * (1 + self.decay * (t - 1)) / (1 + self.decay * t)


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

    def next_lr(self, t: int, lr: float, lr0: float) -> float:
        """Return lr(t), t >= 1, of a group with rate ``lr`` at t - 1 and initial rate ``lr0``."""
        before, now = self._share(t - 1), self._share(t)
        if before == 0:  # from the bottom only lr0 says how high it was
            return lr + (lr0 - self.eta_min) * now
        return self.eta_min + (lr - self.eta_min) * now / before

    def _share(self, t: int) -> float:
        return (1 + math.cos(math.pi * t / self.T_max)) / 2


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

    def start(self, lr: float) -> float:
        """Return lr(0), a multiple of ``lr``, the rate before this schedule."""
        return lr * self.start_factor

    def next_lr(self, t: int, lr: float, lr0: float) -> float:
        """Return lr(t), t >= 1, of a group with rate ``lr`` at t - 1 and initial rate ``lr0``."""
        return lr if t > self.total_iters else lr * self._factor(t) / self._factor(t - 1)

    def _factor(self, t: int) -> float:
        return self.start_factor + (self.end_factor - self.start_factor) * (t / self.total_iters)


class WarmUp(Schedule):
    """lr(t) = lr0 * (t + 1) / (warmup_steps + 1) while t < warmup_steps; then ``after``.

    Gradual warm-up (Goyal et al. 2017). ``after`` starts at its own t = 0 when the warm-up is
    over; step this schedule only. Without ``after`` the rate stays lr0.

    Args:
        optimizer: The optimizer of ``after`` too.
        warmup_steps: Steps below lr0.
        after: Any schedule, for example ``CosineAnnealingLR(optimizer, 90)``.
        last_epoch: As in ``Schedule``.

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
        if after is not None and after.last_epoch == 0:  # it has started: undo that
            self._set([lr / after.start(1.0) for lr in self._last_lr])

    def start(self, lr: float) -> float:
        """Return lr(0), a multiple of ``lr``, the rate before this schedule."""
        if self.warmup_steps == 0 and self.after is not None:
            return self.after.start(lr)
        return lr / (self.warmup_steps + 1)

    def next_lr(self, t: int, lr: float, lr0: float) -> float:
        """Return lr(t), t >= 1, of a group with rate ``lr`` at t - 1 and initial rate ``lr0``."""
        if t <= self.warmup_steps:
            lr = lr * (t + 1) / t
        if self.after is None or t < self.warmup_steps:
            return lr
        after_t = t - self.warmup_steps
        return self.after.start(lr) if after_t == 0 else self.after.next_lr(after_t, lr, lr0)


def _check_count(schedule: Schedule, name: str, value: Any, *, least: int) -> None:
    where = f"{type(schedule).__name__}: {name}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{where} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{where} must be >= {least}, got {value}")
