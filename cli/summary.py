"""``convolt summary``: what a network is made of and costs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from typer import Option

from .backend import announce_compilation, choose_backend


def summary(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="lenet5, mlp, resnet20 or resnet50.")
    ],
    input_size: Annotated[
        str | None, Option(help="Of an image: C,H,W. [default: what MODEL is meant for]")
    ] = None,
    batch: Annotated[int, Option(help="Images in a batch, for the activation memory.")] = 1,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the layers of MODEL: output shapes, parameters, multiply-adds, activation memory."""
    from ..models import summarize
    from ..training import build_model

    choose_backend(None)
    shape, classes = images_for(model, input_size)
    announce_compilation()
    costs = summarize(build_model(model, shape, classes), shape, batch)
    if as_json:
        print(json.dumps({"model": model, **costs.to_dict()}, indent=2))
    else:
        _print_table(model, costs)


def images_for(model: str, input_size: str | None) -> tuple[tuple[int, int, int], int]:
    """The shape of an image, as asked for or else as ``model`` is meant for, and its classes.

    Raises ValueError where ``input_size`` is no shape, or there is no such model.
    """
    from .. import models

    models.check(model)
    shape, classes = models.MADE_FOR[model]
    if input_size is None:
        return shape, classes
    try:
        channels, height, width = (int(number) for number in input_size.split(","))
    except ValueError:
        raise ValueError(
            f"--input-size must be C,H,W, for example 3,32,32; it is {input_size!r}"
        ) from None
    return (channels, height, width), classes


def _print_table(model: str, costs: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{model}, input {_shape(costs.input_shape)}, batch {costs.batch}"
    table = Table(title=title, show_footer=True)
    table.add_column("layer", footer="total")
    table.add_column("kind")
    numbers = {
        "output": "",
        "parameters": f"{costs.parameters:,}",
        "multiply-adds an image": f"{costs.multiply_adds:,}",
        "activations in bytes": f"{costs.activation_bytes:,}",
    }
    for header, footer in numbers.items():
        table.add_column(header, footer=footer, justify="right")
    for layer in costs.layers:
        table.add_row(
            layer.name,
            layer.kind,
            _shape(layer.output_shape),
            f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}",
            f"{layer.activation_bytes:,}",
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # not cut off in a file
    console.print(table)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
