"""What a run is asked to be: the options of ``convolt train``, their defaults, what they build."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .. import models
from ..data import NAMES, Compose, RandomCrop, RandomFlip, Transform
from ..kernels.precision import NAMES as PRECISIONS
from ..layers import Module
from ..optim import (
    SGD,
    Adam,
    AdamW,
    CosineAnnealingLR,
    ExponentialLR,
    InverseTimeLR,
    Optimizer,
    Schedule,
    StepLR,
    WarmUp,
)
from .trainer import CHECKPOINT_EVERY

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "exponential", "inverse-time", "cosine")

INPUT_SIZE = {"lenet5": 28}  # pixels; the other models take the images as they are
EPOCHS = {"digits": 15, "mnist": 5, "fashion-mnist": 10, "cifar10": 30}
LEARNING_RATE = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
WEIGHT_DECAY = {"sgd": 5e-4, "adam": 0.0, "adamw": 0.01}
MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a run. None stands for a default that depends on the others.

    Raises:
        ValueError: A name is unknown, or options do not go together.
    """

    model: str
    data: str
    data_dir: str | None = None
    epochs: int | None = None
    batch_size: int = 64
    lr: float | None = None
    optimizer: str = "sgd"
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str = "cosine"
    warm_up: float = 0.0  # epochs
    augment: bool = True
    seed: int = 0
    backend: str = "numba"
    precision: str | None = None
    limit: int | None = None
    patience: int | None = None
    checkpoint_every: int = CHECKPOINT_EVERY

    def __post_init__(self) -> None:
        models.check(self.model)
        _check("data", self.data, NAMES)
        _check("optimizer", self.optimizer, OPTIMIZERS)
        _check("schedule", self.schedule, SCHEDULES)
        if self.precision is not None:
            _check("precision", self.precision, PRECISIONS)
            if self.precision != "ieee" and self.backend not in ("cuda", "emulator"):
                raise ValueError(
                    f"precision {self.precision} needs backend cuda or emulator; backend "
                    f"{self.backend} has ieee only: use that, or leave --precision and "
                    "CONVOLT_PRECISION out"
                )
        if self.momentum is not None and self.optimizer != "sgd":
            raise ValueError(f"momentum belongs to sgd; {self.optimizer} has its own two")
        defaults: dict[str, Any] = {
            "epochs": EPOCHS[self.data],
            "lr": LEARNING_RATE[self.optimizer],
            "momentum": MOMENTUM if self.optimizer == "sgd" else None,
            "weight_decay": WEIGHT_DECAY[self.optimizer],
        }
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name in ("epochs", "batch_size", "limit", "patience", "checkpoint_every"):
            self._check_least(name, 1)
        for name in ("lr", "momentum", "weight_decay", "seed"):
            self._check_least(name, 0)
        if not 0 <= self.warm_up <= self.total_epochs:
            raise ValueError(f"warm-up must lie in 0 .. {self.epochs} epochs, it is {self.warm_up}")

    def _check_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name.replace('_', '-')} must be {least} or more, it is {value}")

    @property
    def total_epochs(self) -> int:
        """``epochs``, which is an int by now."""
        assert self.epochs is not None
        return self.epochs

    @property
    def input_size(self) -> int | None:
        """To how many pixels images are resized; None leaves them as they are."""
        return INPUT_SIZE.get(self.model)

    def augmentation(self, height: int) -> Transform | None:
        """What training images of ``height`` pixels go through; digits are not mirrored."""
        if not self.augment:
            return None
        shift = RandomCrop(height // (8 if self.data == "cifar10" else 14))
        mirrored = self.data in ("fashion-mnist", "cifar10")
        return Compose((shift, RandomFlip())) if mirrored else shift

    def differences(self, given: dict[str, Any]) -> list[str]:
        """A line for each of the ``given`` options that is another one here."""
        own = asdict(self)
        return [
            f"--{name.replace('_', '-')}: {own[name]} in the run, {value} now"
            for name, value in given.items()
            if value != own[name]
        ]

    def with_data_dir(self, data_dir: str) -> Settings:
        """The same, with the data elsewhere."""
        return replace(self, data_dir=data_dir)

    def build_optimizer(self, model: Module) -> Optimizer:
        """The optimizer over all parameters of ``model``; its options' errors."""
        assert self.lr is not None
        assert self.weight_decay is not None
        if self.optimizer == "sgd":
            assert self.momentum is not None
            return SGD(model.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay)
        kind = Adam if self.optimizer == "adam" else AdamW
        return kind(model.parameters(), self.lr, weight_decay=self.weight_decay)

    def build_schedule(self, optimizer: Optimizer, steps_per_epoch: int) -> Schedule | None:
        """The learning rate over all steps, after a linear warm-up of ``warm_up`` epochs.

        constant; step: a tenth after each third; exponential: down to a hundredth;
        inverse-time: 1/t, down to a tenth; cosine: down to zero.
        """
        warm_up = round(self.warm_up * steps_per_epoch)
        steps = max(self.total_epochs * steps_per_epoch - warm_up, 1)
        after: Schedule | None = None
        if self.schedule == "step":
            after = StepLR(optimizer, -(-steps // 3), 0.1)
        elif self.schedule == "exponential":
            after = ExponentialLR(optimizer, 0.01 ** (1 / steps))
        elif self.schedule == "inverse-time":
            after = InverseTimeLR(optimizer, 9 / steps)
        elif self.schedule == "cosine":
            after = CosineAnnealingLR(optimizer, steps)
        return WarmUp(optimizer, warm_up, after) if warm_up else after

    @classmethod
    def names(cls) -> list[str]:
        """The names of all options."""
        return [field.name for field in fields(cls)]


def build_model(name: str, image_shape: tuple[int, int, int], classes: int) -> Module:
    """The model ``name`` for images (C, H, W).

    Raises ValueError for a name that is unknown, or a size that the model cannot take.
    """
    models.check(name)
    channels, height, width = image_shape
    if min(image_shape) < 1:
        raise ValueError(f"{name}: images must be (C, H, W), all 1 or more, they are {image_shape}")
    size = INPUT_SIZE.get(name)
    if size and (height, width) != (size, size):
        raise ValueError(
            f"{name}: images must be {size} x {size} pixels, they are {height} x {width}"
        )
    if name == "mlp":
        return models.build(name, in_features=channels * height * width, num_classes=classes)
    return models.build(name, in_channels=channels, num_classes=classes)


def _check(what: str, name: str, names: Any) -> None:
    if name not in names:
        raise ValueError(f"there is no {what} {name!r}; there are {', '.join(names)}")
