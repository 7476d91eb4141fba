"""Batches in a reproducible order, made one step ahead of their use."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from .dataset import Dataset
from .random import permutation, stream
from .transforms import Normalize, Transform

Batch = tuple[np.ndarray, np.ndarray]

AHEAD = 2  # batches prepared while one is in use
ORDER, AUGMENT = 0, 1  # what a random stream is for


class Loader:
    """Cuts ``dataset`` into batches: epoch by epoch, shuffled, augmented and normalized.

    ``augment`` sees the uint8 images, ``normalize`` what comes of them; without ``normalize``
    pixels are divided by 255. ``drop_last`` leaves out a last batch that is not full.
    Which images are in a batch, in what order, and how they are augmented depends on nothing
    but (seed, epoch, batch index): a run resumed within an epoch sees the batches it had left.

    ``wait_s`` is the time in seconds for which the running or last epoch waited for data.

    Raises ValueError for a batch size below 1, one that with ``drop_last`` leaves no batch, or a
    negative seed; TypeError where they are no integers.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        augment: Transform | None = None,
        normalize: Transform | None = None,
        drop_last: bool = False,
    ) -> None:
        if operator.index(batch_size) < 1:
            raise ValueError(f"Loader: batch_size must be 1 or more, it is {batch_size}")
        if drop_last and batch_size > len(dataset):
            raise ValueError(
                f"Loader: drop_last leaves no batch of {batch_size} from {len(dataset)} images; "
                f"take batch_size <= {len(dataset)}"
            )
        stream(seed)  # checks it
        channels = dataset.images.shape[3]
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.augment = augment
        self.normalize = normalize or Normalize((0.0,) * channels, (1.0,) * channels)
        self.drop_last = drop_last
        self.wait_s = 0.0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def batches(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """Batches ``start``, ``start + 1``, ... of ``epoch``.

        Each is (images float32 (N, C, H, W), labels int64 (N,)); the images are a transposed
        view of C-contiguous (N, H, W, C) memory of their own. A thread prepares two batches
        ahead; it ends with the generator, also one that is closed early, and an exception
        in it is raised here.

        Raises ValueError for a negative epoch or a start outside 0 .. len(loader).
        """
        if operator.index(epoch) < 0:
            raise ValueError(f"Loader: epoch must be 0 or more, it is {epoch}")
        if not 0 <= operator.index(start) <= len(self):
            raise ValueError(f"Loader: start must lie in 0 .. {len(self)} batches, it is {start}")
        self.wait_s = 0.0
        return self._ahead(epoch, start)

    def _ahead(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        order = self._order(epoch)
        waiting: deque[Future[Batch]] = deque()
        worker = ThreadPoolExecutor(1, thread_name_prefix="convolt-loader")
        try:
            for index in range(start, len(self) + AHEAD):
                if index < len(self):
                    waiting.append(worker.submit(self._batch, epoch, index, order))
                if index >= start + AHEAD:
                    yield self._wait(waiting.popleft())
        finally:
            worker.shutdown(cancel_futures=True)

    def _wait(self, batch: Future[Batch]) -> Batch:
        started_s = time.perf_counter()
        try:
            return batch.result()
        finally:
            self.wait_s += time.perf_counter() - started_s

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return permutation(len(self.dataset), stream(self.seed, epoch, ORDER))

    def _batch(self, epoch: int, index: int, order: np.ndarray) -> Batch:
        """Runs in the thread: NumPy only."""
        members = order[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.dataset.images[members]
        rng = stream(self.seed, epoch, AUGMENT, index)
        if self.augment is not None:
            images = self.augment(images, rng)
        images = np.ascontiguousarray(self.normalize(images, rng), dtype=np.float32)
        return images.transpose(0, 3, 1, 2), self.dataset.labels[members]
