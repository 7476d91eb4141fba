"""The command ``convolt``. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from .doctor import doctor
from .evaluate import evaluate, predict
from .roofline import roofline
from .summary import summary
from .train import train
from .tune import tune_kernels

app = typer.Typer(
    name="convolt",
    help="Train convnets, look into them, and see what this machine can run.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (train, evaluate, predict, summary, doctor, roofline, tune_kernels):
    app.command()(command)


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"convolt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0, 2 for what was asked wrongly, 1 for what went wrong.

    An error is a line on standard error; ``CONVOLT_DEBUG=1`` shows the traceback instead.
    """
    try:
        app(arguments, prog_name="convolt")
    except Exception as error:
        if os.environ.get("CONVOLT_DEBUG") == "1":
            raise
        print(f"convolt: error: {_describe(error)}", file=sys.stderr)
        # ValueError and TypeError are what the contracts raise; the other two name wrong folders.
        asked_wrongly = isinstance(
            error, ValueError | TypeError | FileExistsError | FileNotFoundError
        )
        sys.exit(2 if asked_wrongly else 1)


def _describe(error: Exception) -> str:
    """What ``error`` says; its kind, when that says too little or convolt did not mean it."""
    from ..training import CheckpointError, DivergedError

    expected = ValueError | TypeError | RuntimeError | OSError | CheckpointError | DivergedError
    if isinstance(error, expected) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error} (CONVOLT_DEBUG=1 shows where)"
