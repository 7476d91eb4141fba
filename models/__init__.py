"""The networks, by name."""

from collections.abc import Callable
from typing import Any

from ..layers import Module
from .lenet5 import lenet5
from .mlp import mlp
from .resnet import resnet20, resnet50
from .summary import LayerSummary as LayerSummary
from .summary import Summary as Summary
from .summary import summarize as summarize

_MODELS: dict[str, Callable[..., Module]] = {
    "lenet5": lenet5,
    "mlp": mlp,
    "resnet20": resnet20,
    "resnet50": resnet50,
}

MADE_FOR: dict[str, tuple[tuple[int, int, int], int]] = {
    "lenet5": ((1, 28, 28), 10),
    "mlp": ((1, 28, 28), 10),
    "resnet20": ((3, 32, 32), 10),
    "resnet50": ((3, 224, 224), 1000),
}
"""The images (C, H, W) and the number of classes that a network is meant for."""


def names() -> list[str]:
    """Return the names that ``build`` knows."""
    return sorted(_MODELS)


def check(name: str) -> None:
    """Raise ValueError when ``build`` does not know ``name``."""
    if name not in _MODELS:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(names())}")


def build(name: str, **options: Any) -> Module:
    """Return a new network.

    Args:
        name: One of ``names()``.
        options: Arguments of the function of that name.

    Raises:
        ValueError: There is no such network.
        TypeError: It has no such option, or needs one that is not given.
    """
    check(name)
    return _MODELS[name](**options)
