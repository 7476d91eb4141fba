"""What a person sees of a running training: a live bar on a terminal, else a line an epoch."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any, Self, TextIO

REFRESH_S = 0.25


@dataclass(frozen=True)
class Epoch:
    """One row of ``metrics.csv``: nothing in it depends on how long anything took."""

    epoch: int  # from 1
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    learning_rate: float  # of the last step


@dataclass(frozen=True)
class Timing:
    """How long an epoch took, validation included."""

    seconds: float
    images_per_s: float
    data_wait_share: float  # of the time spent on training steps


class Lines:
    """One line an epoch. Also what ``Bar`` is to the Trainer: ``with progress: ...``."""

    def __init__(self, epochs: int, file: TextIO | None = None) -> None:
        self.epochs = epochs
        self.file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def begin(self, epoch: int, steps: int, done: int) -> None:
        """Epoch ``epoch`` (from 1) of ``steps`` steps begins, after ``done`` of them."""

    def due(self) -> bool:
        """Whether ``show`` should be called after this step; it costs reading the metrics."""
        return False

    def show(self, step: int, loss: float, accuracy: float, timing: Timing) -> None:
        """Show where the epoch stands after ``step`` steps."""

    def end(self, row: Epoch, timing: Timing, best: bool) -> None:
        """The epoch is over."""
        self.print(
            f"epoch {row.epoch}/{self.epochs}: "
            f"train loss {row.train_loss:.4f}, accuracy {row.train_accuracy:.4f}; "
            f"test loss {row.test_loss:.4f}, accuracy {row.test_accuracy:.4f}"
            f"{' (best)' if best else ''}; {timing.seconds:.1f} s, "
            f"{timing.images_per_s:,.0f} images/s, {timing.data_wait_share:.0%} waiting for data"
        )

    def print(self, line: str) -> None:
        """Print a line."""
        print(line, file=self.file or sys.stderr, flush=True)


class Bar(Lines):
    """The lines, and below them a bar for the running epoch."""

    def __init__(self, epochs: int, file: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        super().__init__(epochs, file)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True),
            console=Console(file=file, stderr=file is None, highlight=False),
            transient=True,
        )
        self.task: Any = None
        self.shown_s = 0.0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def begin(self, epoch: int, steps: int, done: int) -> None:
        """See ``Lines``."""
        if self.task is not None:
            self.progress.remove_task(self.task)
        description = f"epoch {epoch}/{self.epochs}"
        self.task = self.progress.add_task(description, total=steps, completed=done, facts="")

    def due(self) -> bool:
        """See ``Lines``."""
        return time.perf_counter() - self.shown_s > REFRESH_S

    def show(self, step: int, loss: float, accuracy: float, timing: Timing) -> None:
        """See ``Lines``."""
        self.shown_s = time.perf_counter()
        facts = (
            f"loss {loss:.4f}  accuracy {accuracy:.4f}  {timing.images_per_s:,.0f} images/s  "
            f"{timing.data_wait_share:.0%} waiting for data"
        )
        self.progress.update(self.task, completed=step, facts=facts)

    def print(self, line: str) -> None:
        """See ``Lines``."""
        self.progress.console.print(line, markup=False, soft_wrap=True)


def progress_for(epochs: int, file: TextIO | None = None) -> Lines:
    """A bar when ``file`` (standard error, unless given) is a terminal, else lines."""
    return (Bar if (file or sys.stderr).isatty() else Lines)(epochs, file)
