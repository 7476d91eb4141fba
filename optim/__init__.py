"""Optimizers and learning-rate schedules, with the interface of ``torch.optim``."""

from .adam import Adam as Adam
from .adam import AdamW as AdamW
from .optimizer import Optimizer as Optimizer
from .schedules import CosineAnnealingLR as CosineAnnealingLR
from .schedules import ExponentialLR as ExponentialLR
from .schedules import InverseTimeLR as InverseTimeLR
from .schedules import LinearLR as LinearLR
from .schedules import Schedule as Schedule
from .schedules import StepLR as StepLR
from .schedules import WarmUp as WarmUp
from .sgd import SGD as SGD
