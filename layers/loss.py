"""Losses, as modules."""

from typing import Any

from ..engine import Tensor, functional
from .module import Module


class CrossEntropyLoss(Module):
    """Softmax followed by the cross-entropy with the target; see ``functional.cross_entropy``.

    Args:
        weight: Weight of each class, (C,), or None; a buffer.
        size_average: PyTorch's old name for ``reduction``; only None.
        ignore_index: Targets of this value count for nothing.
        reduce: PyTorch's old name for ``reduction``; only None.
        reduction: "none", "sum", or "mean": over the weights of the targets that count.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1].

    Raises:
        TypeError: ``weight`` is no Tensor; when called, dtypes do not fit.
        ValueError: An option that is gone; when called, shapes do not fit, a target is no class,
            or an option is out of range.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: None = None,
        ignore_index: int = -100,
        reduce: None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check_gone("CrossEntropyLoss", size_average, reduce)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, ...) for class indices (N, ...) or probabilities."""
        return functional.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class MSELoss(Module):
    """Mean (or "sum", or "none") of (x - target) ** 2; see ``functional.mse_loss``.

    Raises:
        ValueError: An option that is gone; when called, the shapes differ or ``reduction`` is
            unknown.
    """

    def __init__(
        self, size_average: None = None, reduce: None = None, reduction: str = "mean"
    ) -> None:
        super().__init__()
        _check_gone("MSELoss", size_average, reduce)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; the shapes are equal."""
        return functional.mse_loss(input, target, reduction=self.reduction)


def _check_gone(loss: str, size_average: Any, reduce: Any) -> None:
    if size_average is not None or reduce is not None:
        raise ValueError(f"{loss}: size_average and reduce are gone: use reduction=")
