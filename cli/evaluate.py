"""``convolt evaluate`` and ``convolt predict``: what a run has learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from .backend import announce_compilation, choose_backend

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Checkpoint = Annotated[str, Option(help="best or last.")]
Backend = Annotated[
    str | None,
    Option(help="cuda, numba, numpy, emulator. [default: CONVOLT_BACKEND, else the best]"),
]
Json = Annotated[bool, Option("--json", help="Print JSON.")]


def evaluate(
    run: RunFolder,
    data: Annotated[str | None, Option(help="Data set. [default: that of the run]")] = None,
    data_dir: Annotated[str | None, Option(help="Folder that holds its files.")] = None,
    checkpoint: Checkpoint = "best",
    backend: Backend = None,
    as_json: Json = False,
) -> None:
    """Measure loss and accuracy of a run on a test set."""
    from ..training import Run

    opened = Run(run)
    used = choose_backend(backend)
    announce_compilation()
    scores = opened.evaluate(data, data_dir, checkpoint)
    if as_json:
        report = {
            "test_accuracy": scores.accuracy,
            "test_loss": scores.loss,
            "data": data or opened.settings.data,
            "checkpoint": checkpoint,
            "backend": used,
        }
        print(json.dumps(report, indent=2))
    else:
        print(f"test accuracy: {scores.accuracy:.4f} (loss {scores.loss:.4f})")


def predict(
    run: RunFolder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, ...")],
    top: Annotated[int, Option(help="So many classes for each image.")] = 1,
    checkpoint: Checkpoint = "best",
    backend: Backend = None,
    as_json: Json = False,
) -> None:
    """Say what is on each IMAGE: the most probable classes and their probabilities.

    Images are turned grey where the run's are, and resized. The digits of digits and mnist are
    white on black.
    """
    from ..training import Run

    opened = Run(run)
    choose_backend(backend)
    announce_compilation()
    predictions = opened.predict(images, top, checkpoint)
    if as_json:
        report = [
            {
                "image": str(image),
                "predictions": [{"class": p.name, "probability": p.probability} for p in ranked],
            }
            for image, ranked in zip(images, predictions, strict=True)
        ]
        print(json.dumps(report, indent=2))
        return
    for image, ranked in zip(images, predictions, strict=True):
        print(f"{image}: " + ", ".join(f"{p.name} {p.probability:.4f}" for p in ranked))
