"""``convolt train``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from .backend import announce_compilation, asked_backend, choose_backend, explain_choices

RUNS = Path("runs")
RESUME_HINT = "go on from the last checkpoint by the same command with --resume"


def train(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="lenet5, mlp, resnet20 or resnet50.")
    ],
    data: Annotated[
        str,
        Option(help="digits (nothing to download), mnist, fashion-mnist or cifar10."),
    ],
    data_dir: Annotated[
        str | None, Option(help="Folder that holds the data set's files; else they are downloaded.")
    ] = None,
    epochs: Annotated[
        int | None, Option(help="At most so many. [default: digits 15, mnist 5, ...]")
    ] = None,
    batch_size: Annotated[int | None, Option(help="Images in a step. [default: 64]")] = None,
    lr: Annotated[
        float | None, Option(help="Learning rate. [default: sgd 0.05, adam and adamw 0.001]")
    ] = None,
    optimizer: Annotated[str | None, Option(help="sgd, adam or adamw. [default: sgd]")] = None,
    momentum: Annotated[float | None, Option(help="Of sgd. [default: 0.9]")] = None,
    weight_decay: Annotated[
        float | None, Option(help="[default: sgd 0.0005, adam 0, adamw 0.01]")
    ] = None,
    schedule: Annotated[
        str | None,
        Option(
            help="Learning rate over the run: constant; step (a tenth after each third); "
            "exponential (down to a hundredth); inverse-time (1/t, down to a tenth); cosine "
            "(down to zero). [default: cosine]"
        ),
    ] = None,
    warm_up: Annotated[
        float | None, Option(help="Epochs in which the learning rate rises. [default: 0]")
    ] = None,
    augment: Annotated[
        bool | None,
        Option(
            "--augment/--no-augment",
            help="Shift (fashion-mnist, cifar10: also mirror) training images at random. "
            "[default: augment]",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        Option(help="Of weights, order, augmentation and the split of digits. [default: 0]"),
    ] = None,
    backend: Annotated[
        str | None,
        Option(help="cuda, numba, numpy, emulator. [default: CONVOLT_BACKEND, else the best]"),
    ] = None,
    precision: Annotated[
        str | None,
        Option(
            help="Of products: ieee; tf32 and bf16 (activations too), which need cuda or emulator. "
            "[default: CONVOLT_PRECISION, else tf32 for convolutions on cuda and ieee elsewhere]"
        ),
    ] = None,
    limit: Annotated[int | None, Option(help="Train on the first N training images.")] = None,
    patience: Annotated[
        int | None,
        Option(help="Stop after so many epochs without a better one, by accuracy on the test set."),
    ] = None,
    checkpoint_every: Annotated[
        int | None, Option(help="Steps between checkpoints in an epoch. [default: 100]")
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            help="The run's folder. [default: runs/MODEL-DATA-seedSEED, with -2, -3, ... beside "
            "finished runs; with --resume, that of the one run of MODEL on DATA to resume]"
        ),
    ] = None,
    resume: Annotated[
        bool,
        Option("--resume", help="Go on with the run in the folder, if there is one to go on with."),
    ] = False,
    explain: Annotated[
        bool,
        Option("--explain", help="Say which CUDA kernels compute each convolution, and why."),
    ] = False,
) -> None:
    """Train MODEL and keep the best and the last state in a folder.

    The best epoch is the one with the highest accuracy on the test set: chosen on that set, it is
    a little too high for new images. Options that are left out are, with --resume, those of the
    run.
    """
    from ..training import Run, Settings

    given = {
        "model": model,
        "data": data,
        "data_dir": data_dir,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimizer": optimizer,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warm_up": warm_up,
        "augment": augment,
        "seed": seed,
        "backend": asked_backend(backend),
        "precision": precision or os.environ.get("CONVOLT_PRECISION") or None,
        "limit": limit,
        "patience": patience,
        "checkpoint_every": checkpoint_every,
    }
    given = {name: value for name, value in given.items() if value is not None}
    folder = output or _default_folder(model, data, seed, resume)
    run = _run_to_resume(folder, given) if resume else None
    if run is not None:
        choose_backend(run.settings.backend)
    else:
        if resume:
            _say(f"nothing to resume in {folder}: starting")
        run = Run.create(folder, Settings(**{**given, "backend": choose_backend(backend)}))
    _say(f"training {model} on {data}, backend {run.settings.backend}; the run is in {folder}")
    announce_compilation()
    if explain:
        explain_choices()
    try:
        result = run.train(resume=resume)
    except KeyboardInterrupt:
        _say(f"interrupted; {RESUME_HINT}:\n  {_command_to_resume(folder, output)}")
        raise typer.Exit(130) from None
    best = result.best
    early = ", stopped early" if result.stopped_early else ""
    print(f"run: {folder}")
    print(f"trained: {result.epochs} epochs in {result.seconds:.1f} s{early}")
    print(
        f"test accuracy: {best.test_accuracy:.4f} (loss {best.test_loss:.4f}), "
        f"best.safetensors, of epoch {best.epoch}, the best on the test set; "
        f"{result.last.test_accuracy:.4f} after the last epoch"
    )


def _default_folder(model: str, data: str, seed: int | None, resume: bool) -> Path:
    """Where to train: beside runs that are finished; to resume, where the unfinished run is.

    Raises ValueError when there are several to resume.
    """
    from ..training.run import SUMMARY

    first = folder = RUNS / f"{model}-{data}-seed{seed or 0}"
    if not resume:
        number = 1
        while (folder / SUMMARY).exists():
            number += 1
            folder = first.with_name(f"{first.name}-{number}")
        return folder
    runs = _runs_of(model, data)
    if seed is not None:
        runs = [run for run in runs if f"{run.name}-".startswith(f"{first.name}-")]
    runs = [run for run in runs if not (run / SUMMARY).exists()] or runs
    if len(runs) > 1:
        raise ValueError(
            f"--resume: there are several runs of {model} on {data}; say which one by --output\n  "
            + "\n  ".join(map(str, runs))
        )
    return runs[0] if runs else first


def _runs_of(model: str, data: str) -> list[Path]:
    from ..training import Run
    from ..training.run import CONFIG

    found = []
    for config in sorted(RUNS.glob(f"*/{CONFIG}")):
        try:
            settings = Run(config.parent).settings
        except ValueError:  # of another version, which cannot be resumed
            continue
        if (settings.model, settings.data) == (model, data):
            found.append(config.parent)
    return found


def _run_to_resume(folder: Path, given: dict[str, Any]) -> Any:
    """The run in ``folder``; None where there is none, or one of other settings not yet begun.

    Raises ValueError when ``given`` asks for other settings than those of a run that has begun.
    """
    from .. import __version__
    from ..training import Run
    from ..training.run import CONFIG

    if not (folder / CONFIG).exists():
        return None
    run = Run(folder)
    asked = {name: value for name, value in given.items() if name != "data_dir"}  # may have moved
    differences = run.settings.differences(asked)
    if differences and not run.begun:
        return None
    if differences:
        raise ValueError(
            f"--resume: the run in {run.folder} has other settings; leave these options out, or "
            "start another run by another --output\n  " + "\n  ".join(differences)
        )
    if run.version != __version__:
        _say(
            f"the run was begun by convolt {run.version}; this is {__version__}, and its results "
            "may differ in the last digits"
        )
    if "data_dir" in given:
        run.settings = run.settings.with_data_dir(given["data_dir"])
    return run


def _command_to_resume(folder: Path, output: Path | None) -> str:
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    where = [] if output else ["--output", str(folder)]
    return shlex.join(["convolt", *arguments, *where, "--resume"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
