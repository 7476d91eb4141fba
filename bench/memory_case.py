"""What ``memory_ops`` makes its cases of: operands, and the same call in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from convolt.kernels.arrays import Array
from convolt.kernels.backend import array_module, is_cupy
from convolt.kernels.pooling_window import PoolSize

from .measure import normal, to_torch

Call = Callable[[], Any]


def _same(got: Any, ref: Any) -> tuple[Any, Any]:
    return got, ref


@dataclass(frozen=True, slots=True)
class Case:
    """One op on given arrays.

    Attributes:
        bytes: That it must move at least.
        ours: The call of our contract, which returns new arrays.
        theirs: Prepares, given the module ``torch``, the call of PyTorch.
        comparable: Turns the results of both into arrays, or tuples of them, that must agree.
        sums: How many numbers one element of a result adds up.
    """

    bytes: int
    ours: Call
    theirs: Callable[[Any], Call]
    comparable: Callable[[Any, Any], tuple[Any, Any]] = _same
    sums: int = 1


class Operands:
    """Random arrays for images of the public shape (N, C, H, W), and flat ones as large.

    They lie where the backend computes.
    """

    def __init__(self, shape: tuple[int, int, int, int], dtype: str) -> None:
        self.n, self.c, self.h, self.w = shape
        self.dtype = np.dtype(dtype)
        self.nhwc = (self.n, self.h, self.w, self.c)
        self.elements = int(np.prod(shape))
        self._random = np.random.default_rng(0)
        self._module = array_module()

    def put(self, array: np.ndarray) -> Array:
        """Carry an array to where the backend computes."""
        return self._module.asarray(array)

    def random(self, *shape: int) -> Array:
        """Return normally distributed numbers."""
        return self.put(normal(self._random, shape, self.dtype.name))

    def images(self) -> Array:
        """Return N H W C memory."""
        return self.random(*self.nhwc)

    def channels(self) -> Array:
        """Return a number between 0.5 and 1.5 for each channel."""
        return self.put(self._random.random(self.c, self.dtype.type) + self.dtype.type(0.5))

    def moved(self, *shapes: tuple[int, ...]) -> int:
        """Return the bytes of arrays of these shapes."""
        return sum(int(np.prod(shape)) for shape in shapes) * self.dtype.itemsize

    def pool(self, window: int, stride: int, padding: int) -> PoolSize:
        """Return the size of a pooling of ``images()``."""
        return PoolSize.of("pool", self.nhwc, kernel_size=window, stride=stride, padding=padding)


def shared(torch: Any, array: Array) -> Any:
    """Return PyTorch's view of the same memory: N H W C as N C H W in channels_last."""
    tensor = to_torch(torch, array)
    return tensor.permute(0, 3, 1, 2) if array.ndim == 4 else tensor


def on_shared(name: str, *arguments: Any) -> Callable[[Any], Call]:
    """Prepare a call of ``torch.NAME`` on views of the arrays among ``arguments``."""

    def prepare(torch: Any) -> Call:
        function = torch
        for part in name.split("."):
            function = getattr(function, part)
        return partial(function, *(_view(torch, argument) for argument in arguments))

    return prepare


def _view(torch: Any, argument: Any) -> Any:
    is_array = isinstance(argument, np.ndarray) or is_cupy(argument)
    return shared(torch, argument) if is_array else argument
