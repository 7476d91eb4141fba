"""``convolt tune-kernels``: time the candidates for each convolution of a model on this GPU."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import Option

from .backend import choose_backend
from .summary import images_for

PRECISIONS = {"bf16": "bf16", "tf32": "tf32", "float32": "ieee"}


def tune_kernels(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As of train.")],
    batch: Annotated[int, Option(help="Images in a step.")] = 64,
    dtype: Annotated[str, Option(help="bf16, tf32 or float32.")] = "tf32",
    input_size: Annotated[
        str | None, Option(help="Of an image: C,H,W. [default: what MODEL is meant for]")
    ] = None,
    backend: Annotated[str | None, Option(help="cuda: times elsewhere mean nothing.")] = None,
) -> None:
    """Run one training step of MODEL, and time the kernels of what is not in the table yet.

    The quickest are kept on disk, for this GPU, its driver and these kernels; later runs use them.
    """
    if dtype not in PRECISIONS:
        raise ValueError(f"--dtype {dtype}: choose among {', '.join(PRECISIONS)}")
    if batch < 1:
        raise ValueError(f"--batch must be >= 1, got {batch}")
    shape, classes = images_for(model, input_size)
    chosen = choose_backend(backend)
    if chosen != "cuda":
        raise ValueError(
            f"tune-kernels times kernels on a GPU, and times of backend {chosen} say nothing about "
            "one: use --backend cuda"
        )
    for key, name in tune(model, batch, PRECISIONS[dtype], shape, classes).items():
        print(f"{key}: {name}")


def tune(
    model: str, batch: int, precision: str, image_shape: tuple[int, int, int], classes: int
) -> dict[str, str]:
    """Run a training step that times what is new; what was found, in the table's words."""
    from ..engine.random import randn
    from ..kernels.conv2d.choice import tuned
    from ..kernels.cuda.gpu import gpu_of
    from ..kernels.cuda.tuner import use_tuning
    from ..kernels.precision import use_precision
    from ..training import build_model

    net: Any = build_model(model, image_shape, classes)
    images = randn(batch, *image_shape)
    gpu = gpu_of(images.data)
    before = tuned(gpu)
    with use_precision(precision), use_tuning("on"):
        net(images).sum().backward()
    return {key: name for key, name in tuned(gpu).items() if before.get(key) != name}
