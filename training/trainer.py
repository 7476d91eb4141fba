"""Training that can be killed at any moment and resumed as if nothing had happened.

A checkpoint holds everything that later steps depend on, and the rows of ``metrics.csv``; what
else a run leaves (``metrics.csv``, which epoch is best, whether to stop early) follows from it.
So the order of writes at the end of an epoch is free of gaps: ``best.safetensors`` (of an epoch
that ``last`` does not know yet: the resumed run writes the same bytes again), then
``last.safetensors``, then the tables, which a resumed run writes again.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Loader
from ..engine import Tensor, stack
from ..engine.random import default_generator
from ..layers import Module
from ..optim import Optimizer
from .checkpoint import CheckpointError, load, save
from .evaluation import Sums, evaluate, to_tensor, to_tensors
from .files import StrPath, remove_temporary_files, write_atomically
from .progress import Epoch, Lines, Timing, progress_for

LAST, BEST = "last.safetensors", "best.safetensors"
METRICS, TIMES = "metrics.csv", "times.csv"
CHECKPOINT_EVERY = 100  # steps


class DivergedError(ArithmeticError):
    """The loss or a weight is no longer finite; the message says where and what to try."""


@dataclass(frozen=True)
class Result:
    """What a finished training amounts to."""

    best: Epoch  # on the test set; its weights are in best.safetensors
    last: Epoch
    epochs: int  # trained
    stopped_early: bool
    seconds: float  # of the epochs, also those before a resume


class Trainer:
    """Trains ``model`` epoch by epoch and keeps its state in the folder ``output``.

    Writes there ``last.safetensors`` (every ``checkpoint_every`` steps and after each epoch),
    ``best.safetensors`` (the whole state after the epoch with the highest test accuracy; of
    equal ones the lowest test loss, then the earliest), ``metrics.csv`` (a row an epoch, the same
    whether a run was interrupted or not) and ``times.csv`` (seconds, images/s and the share of
    waiting for data, of each epoch).

    Args:
        model: Called on (N, C, H, W) float32, gives logits (N, classes).
        optimizer: Over the model's parameters.
        loss: Called on (logits, labels (N,) int64), gives the mean over the batch, 0-d.
        train: Batches to train on.
        test: Batches to validate on after each epoch.
        output: A folder, made if missing; one process trains in it at a time.
        epochs: How many at most.
        schedule: Its ``step()`` is called after each step of the optimizer.
        patience: Stop after so many epochs without a better one; None never stops early.
        checkpoint_every: Steps between two checkpoints within an epoch.
        progress: Where to show what goes on; standard error unless given.

    Raises:
        ValueError: ``epochs``, ``patience`` or ``checkpoint_every`` is below 1.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Any,
        train: Loader,
        test: Loader,
        output: StrPath,
        *,
        epochs: int,
        schedule: Any = None,
        patience: int | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
        progress: Lines | None = None,
    ) -> None:
        numbers = {"epochs": epochs, "patience": patience, "checkpoint_every": checkpoint_every}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise ValueError(f"Trainer: {name} must be 1 or more, it is {number}")
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.train = train
        self.test = test
        self.output = Path(output)
        self.epochs = epochs
        self.schedule = schedule
        self.patience = patience
        self.checkpoint_every = checkpoint_every
        self.progress = progress or progress_for(epochs)

        self.epoch = 0  # how many are complete
        self.step = 0  # how many of the running epoch are done
        self.sums = Sums()  # of the running epoch
        self.rows: list[Epoch] = []
        self.timings: list[Timing] = []
        self._unread: list[Tensor] = []  # losses not yet looked at
        self._started_s = 0.0
        self._images_before = 0

    @property
    def best(self) -> Epoch | None:
        """The row of the best epoch so far."""
        ranked = ((row.test_accuracy, -row.test_loss, -row.epoch, row) for row in self.rows)
        return max(ranked, default=(None,))[-1]

    @property
    def stopped_early(self) -> bool:
        """Whether ``patience`` has run out."""
        best = self.best
        return bool(best and self.patience and self.epoch - best.epoch >= self.patience)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch >= self.epochs or self.stopped_early

    def run(self, *, resume: bool = False) -> Result:
        """Train to the end.

        ``resume`` goes on from ``last.safetensors``, or starts where there is none; the model,
        optimizer and loaders must have been made as for the first run.

        Raises:
            DivergedError: A loss or weight is not finite; the last checkpoint stays.
            CheckpointError: A checkpoint cannot be read or written; the previous one stays.
            FileExistsError: There is a ``last.safetensors``, and ``resume`` was not asked for.
            OSError: A table cannot be written.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(self.output)
        if (self.output / LAST).exists():
            if not resume:
                raise FileExistsError(
                    f"{self.output / LAST} is there already; resume that run, or train in "
                    "another folder"
                )
            self._restore()
        # What is not finite is found and explained by _check_losses, not by NumPy's warnings.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"), self.progress:
            while not self.finished:
                self._run_epoch()
        assert self.best is not None  # at least one epoch is complete
        seconds = math.fsum(timing.seconds for timing in self.timings)
        return Result(self.best, self.rows[-1], self.epoch, self.stopped_early, seconds)

    def _run_epoch(self) -> None:
        self._started_s = time.perf_counter()
        self._images_before = self.sums.images
        learning_rate = self._train_epoch()
        self._check_losses()
        timing = self._timing()
        train = self.sums.scores()
        test = evaluate(self.model, self.loss, self.test)
        if not math.isfinite(test.loss):
            raise self._diverged(f"the test loss is {test.loss}")
        row = Epoch(
            self.epoch + 1, train.loss, train.accuracy, test.loss, test.accuracy, learning_rate
        )
        self.rows.append(row)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, Sums()
        seconds = time.perf_counter() - self._started_s
        self.timings.append(Timing(seconds, timing.images_per_s, timing.data_wait_share))
        if self.best is row:
            self._save(BEST)
        self._save(LAST)
        self._write_tables()
        self.progress.end(row, self.timings[-1], self.best is row)

    def _train_epoch(self) -> float:
        """Train what is left of the epoch and return the learning rate of its last step."""
        steps = len(self.train)
        self.model.train()
        self.progress.begin(self.epoch + 1, steps, self.step)
        learning_rate = math.nan
        with (
            closing(self.train.batches(self.epoch, self.step)) as batches,
            closing(to_tensors(batches)) as tensors,
        ):
            for images, labels in tensors:
                learning_rate = float(self.optimizer.param_groups[0]["lr"])
                self._train_step(images, labels)
                if self.progress.due():
                    self._check_losses()
                    self.progress.show(self.step, *self.sums.scores(), self._timing())
                if self.step % self.checkpoint_every == 0 and self.step < steps:
                    self._save(LAST)
        return learning_rate

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = self.loss(logits, labels)
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.sums.add(loss, logits, labels)
        self._unread.append(loss.detach())
        self.step += 1

    def _timing(self) -> Timing:
        seconds = time.perf_counter() - self._started_s
        images = self.sums.images - self._images_before
        return Timing(seconds, images / seconds, self.train.wait_s / seconds)

    # What is not finite

    def _check_losses(self) -> None:
        """Read the losses since the last call, all at once."""
        if not self._unread:
            return
        losses = stack(self._unread).numpy()
        self._unread.clear()
        for number, loss in enumerate(losses, start=self.step - len(losses) + 1):
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", number)

    def _diverged(self, what: str, step: int | None = None) -> DivergedError:
        where = f"{self.output}, where no checkpoint was saved yet"
        if (self.output / LAST).exists():
            where = f"another folder: {self.output / LAST} is from before, with finite weights"
        return DivergedError(
            f"training diverged: epoch {self.epoch + 1}, step {step or self.step} of "
            f"{len(self.train)}: {what}. Train again with a lower learning rate (now "
            f"{float(self.optimizer.param_groups[0]['lr']):g}) in {where}"
        )

    # Files

    def _loader_facts(self) -> dict[str, int]:
        """What must be the same in a resumed run for the position in the epoch to mean the same."""
        train = self.train
        return {"images": len(train.dataset), "batch_size": train.batch_size, "seed": train.seed}

    def _save(self, name: str) -> None:
        self._check_losses()
        arrays = {f"model.{key}": value.numpy() for key, value in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        for index, entry in optimizer["state"].items():
            arrays.update(
                {f"optimizer.{index}.{key}": np.asarray(value) for key, value in entry.items()}
            )
        for key, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise self._diverged(f"{key} is not finite")
        arrays["sums.loss"] = self.sums.loss.numpy()
        arrays["sums.correct"] = self.sums.correct.numpy()
        meta = {
            "epoch": self.epoch,
            "step": self.step,
            "images": self.sums.images,
            "rows": [asdict(row) for row in self.rows],
            "optimizer": optimizer["param_groups"],
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "random": list(default_generator.get_state()),
            "loader": self._loader_facts(),
        }
        save(self.output / name, arrays, meta)

    def _restore(self) -> None:
        path = self.output / LAST
        try:
            arrays, meta = load(path)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}. {BEST} holds a whole state too: copied over {LAST}, the run goes on "
                "from there"
            ) from error
        if meta["loader"] != self._loader_facts():
            raise CheckpointError(
                f"{path}: this run was trained with other data or batches: {meta['loader']}, now "
                f"{self._loader_facts()}; resume with the same settings"
            )
        if (meta["schedule"] is None) != (self.schedule is None):
            raise CheckpointError(
                f"{path}: this run was trained {'without' if self.schedule else 'with'} a "
                "learning-rate schedule; resume with the same settings"
            )
        state: dict[str, dict[str, Any]] = {}
        for key, array in arrays_below("optimizer.", arrays).items():
            index, name = key.split(".", 1)
            state.setdefault(index, {})[name] = array
        try:
            self.model.load_state_dict(arrays_below("model.", arrays))
            self.optimizer.load_state_dict({"state": state, "param_groups": meta["optimizer"]})
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path}: does not fit this model: {error}") from error
        if self.schedule is not None:
            self.schedule.load_state_dict(meta["schedule"])
        default_generator.set_state(meta["random"])
        self.epoch, self.step = meta["epoch"], meta["step"]
        self.sums.images = meta["images"]
        self.sums.loss = to_tensor(arrays["sums.loss"])
        self.sums.correct = to_tensor(arrays["sums.correct"])
        self.rows = [Epoch(**row) for row in meta["rows"]]
        self.timings = self._read_timings()[: self.epoch]
        if self.rows:
            self._write_tables()

    def _write_tables(self) -> None:
        write_atomically(self.output / METRICS, _table(Epoch, self.rows))
        write_atomically(self.output / TIMES, _table(Timing, self.timings))

    def _read_timings(self) -> list[Timing]:
        try:
            lines = (self.output / TIMES).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [Timing(*(float(x) for x in row)) for row in csv.reader(lines[1:])]


def arrays_below(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _table(kind: type, rows: Iterable[Any]) -> bytes:
    """CSV with a header; floats with all the digits they have."""
    names = [field.name for field in fields(kind)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    return text.getvalue().encode()
