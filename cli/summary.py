"""``convolt summary``: what a network is made of and costs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from typer import Option

from .backend import announce_compilation, choose_backend

NUMBER_OF_CLASSES = 10


def summary(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="lenet5 or mlp.")],
    input_size: Annotated[str, Option(help="Of an image: C,H,W.")] = "1,28,28",
    batch: Annotated[int, Option(help="Images in a batch, for the activation memory.")] = 1,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the layers of MODEL: output shapes, parameters, multiply-adds, activation memory."""
    from ..models import summarize
    from ..training import build_model

    choose_backend(None)
    shape = parse_input_size(input_size)
    announce_compilation()
    costs = summarize(build_model(model, shape, NUMBER_OF_CLASSES), shape, batch)
    if as_json:
        print(json.dumps({"model": model, **costs.to_dict()}, indent=2))
    else:
        _print_table(model, costs)


def parse_input_size(input_size: str) -> tuple[int, int, int]:
    """The shape of an image; ValueError where it is none."""
    try:
        channels, height, width = (int(number) for number in input_size.split(","))
    except ValueError:
        raise ValueError(
            f"--input-size must be C,H,W, for example 3,32,32; it is {input_size!r}"
        ) from None
    return channels, height, width


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
