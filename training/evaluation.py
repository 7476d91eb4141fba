"""Loss and accuracy over batches, summed on the device and read once."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

import numpy as np

from ..data import Dataset, Loader, Transform
from ..engine import Tensor, no_grad
from ..kernels.backend import current_backend
from ..kernels.transfer import to_gpu
from ..layers import Module

BATCH_SIZE = 200  # of every evaluation: another one could round the sums differently


class Scores(NamedTuple):
    """Means over images: the loss, and the share whose largest logit is the label."""

    loss: float
    accuracy: float


class Sums:
    """Running sums over images that stay where the logits are until ``scores`` reads them."""

    def __init__(self) -> None:
        self.images = 0
        self.loss = to_tensor(np.zeros((), np.float64))
        self.correct = to_tensor(np.zeros((), np.int64))

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add one batch: ``loss`` is the mean over its images, ``logits`` (N, C), labels (N,)."""
        with no_grad():
            self.images += len(labels)
            self.loss = self.loss + loss.detach().double() * len(labels)
            self.correct = self.correct + (logits.detach().argmax(1) == labels).sum()

    def scores(self) -> Scores:
        """Read the means; waits for the device. Raises ZeroDivisionError without images."""
        return Scores(self.loss.item() / self.images, self.correct.item() / self.images)


def to_tensor(array: np.ndarray) -> Tensor:
    """A Tensor on the current backend; it shares memory with ``array`` where it can."""
    return Tensor(to_gpu(array) if current_backend() == "cuda" else array)


def to_tensors(
    batches: Iterable[tuple[np.ndarray, ...]],
) -> Generator[tuple[Tensor, ...], None, None]:
    """Batches as Tensors on the current backend; to a GPU they are copied while it computes."""
    arrays: Any = batches
    if current_backend() == "cuda":
        from ..kernels.cuda.upload import uploaded

        arrays = uploaded(batches)
    for batch in arrays:
        yield tuple(map(Tensor, batch))


def evaluation_loader(dataset: Dataset, normalize: Transform | None) -> Loader:
    """Batches of ``dataset`` in its order, not augmented."""
    return Loader(dataset, BATCH_SIZE, shuffle=False, seed=0, normalize=normalize)


def evaluate(model: Module, loss: Any, loader: Loader) -> Scores:
    """Mean loss and accuracy of ``model`` over all images of ``loader``, in evaluation mode.

    ``loss(logits, labels)`` is the mean over a batch. The model is in the mode it was in
    afterwards.
    """
    was_training = model.training
    model.eval()
    sums = Sums()
    try:
        with no_grad():
            for images, labels in to_tensors(loader.batches(0)):
                logits = model(images)
                sums.add(loss(logits, labels), logits, labels)
    finally:
        model.train(was_training)
    return sums.scores()
