"""What a net costs: parameters, multiply-adds and activation memory, layer by layer."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..engine import Tensor, no_grad
from ..engine.random import default_generator
from ..kernels.arrays import Shape
from ..kernels.backend import array_module
from ..kernels.conv2d import Conv2dSize
from ..kernels.linear import LinearSize
from ..layers import Conv2d, Linear, Module


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One call of one layer that has no submodules."""

    name: str  # path in the model
    kind: str  # class
    output_shape: Shape  # of one image, without N
    parameters: int  # those of earlier layers, when shared, not counted again
    multiply_adds: int  # of one image, in convolutions and linear layers
    activation_bytes: int  # of the output, for the batch


@dataclass(frozen=True, slots=True)
class Summary:
    """The layers in the order of their calls, and totals."""

    input_shape: Shape
    batch: int
    layers: tuple[LayerSummary, ...]
    parameters: int  # all of the model, each once

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one image, forward."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of the outputs of all layers for the batch."""
        return sum(layer.activation_bytes for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: the fields and the totals."""
        totals = {"multiply_adds": self.multiply_adds, "activation_bytes": self.activation_bytes}
        return {**asdict(self), **totals}


def summarize(model: Module, input_shape: Sequence[int], batch: int = 1) -> Summary:
    """Run one image of zeros through ``model`` and return what each layer did.

    The run is in evaluation mode without gradients; modes, running statistics and the random
    state are afterwards what they were. Work outside of layers, in ``functional``, is not seen.

    Args:
        model: Any net.
        input_shape: Of one image, (C, H, W).
        batch: Images in a batch, for the activation memory.

    Raises:
        ValueError: ``batch`` is below 1, or the image does not fit the model.
    """
    if batch < 1:
        raise ValueError(f"summarize: batch must be >= 1, got {batch}")
    rows: list[LayerSummary] = []
    counted: set[int] = set()
    dtype = next((p.dtype for p in model.parameters()), "float32")
    image = Tensor(array_module().zeros((1, *input_shape), dtype))
    modes = [(module, module.training) for module in model.modules()]
    random_state = default_generator.get_state()

    def observe(name: str, layer: Module) -> Any:
        def hook(_: Module, args: tuple[Any, ...], output: Any) -> None:
            y = output[0] if isinstance(output, tuple) else output
            own = [p for p in layer.parameters() if id(p) not in counted]
            counted.update(id(p) for p in own)
            rows.append(
                LayerSummary(
                    name=name,
                    kind=type(layer).__name__,
                    output_shape=y.shape[1:],
                    parameters=sum(p.numel() for p in own),
                    multiply_adds=_multiply_adds(layer, args[0].shape),
                    activation_bytes=batch * y.numel() * y.dtype.itemsize,
                )
            )

        return layer.register_forward_hook(hook)

    handles = [
        observe(name, layer)
        for name, layer in model.named_modules()
        if not any(True for _ in layer.children())
    ]
    try:
        with no_grad():
            model.eval()(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
        default_generator.set_state(random_state)
    parameters = sum(p.numel() for p in model.parameters())
    return Summary(tuple(input_shape), batch, tuple(rows), parameters)


def _multiply_adds(layer: Module, x_shape: Shape) -> int:
    """Return the multiply-adds of one call on an input of this shape."""
    if isinstance(layer, Conv2d):
        n, c, h, w = x_shape
        k, group_c, r, s = layer.weight.shape
        window = (layer.stride, layer.padding, layer.dilation, layer.groups)
        return Conv2dSize.of((n, h, w, c), (k, r, s, group_c), *window).multiply_adds
    if isinstance(layer, Linear):
        rows = (math.prod(x_shape[:-1]), x_shape[-1])
        return LinearSize.of(rows, layer.weight.shape).multiply_adds
    return 0
