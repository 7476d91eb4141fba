"""Losses, as modules."""

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
        ValueError (when called): An option that is gone or out of range, shapes do not fit, or a
            target is no class.
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
        self.size_average, self.reduce = size_average, reduce
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
            self.size_average,
            self.ignore_index,
            self.reduce,
            self.reduction,
            self.label_smoothing,
        )


class MSELoss(Module):
    """Mean (or "sum", or "none") of (x - target) ** 2; see ``functional.mse_loss``.

    Raises (when called):
        ValueError: An option that is gone, the shapes differ, or ``reduction`` is unknown.
    """

    def __init__(
        self, size_average: None = None, reduce: None = None, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.size_average, self.reduce = size_average, reduce
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss; the shapes are equal."""
        return functional.mse_loss(input, target, self.size_average, self.reduce, self.reduction)
