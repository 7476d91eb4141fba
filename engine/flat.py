"""Flat buffers: the parameters of one dtype in one array, their gradients in another of its form.

Parameters stay what they are to everyone else: ``p.data`` becomes a view of its segment, with the
same shape and memory order. A step, a moving average or a norm over all parameters is then one
launch over one array, and a gradient is written where that launch will read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ..kernels import layout
from ..kernels.arrays import Array, address, check_floats, memory_order
from ..kernels.segments import ALIGNMENT_BYTES
from .tensor import Tensor


class FlatBuffer:
    """Parameters of one dtype and backend, moved into one array.

    ``data`` (L,) holds the parameters and ``grad`` (L,) their gradients, in order; each starts on
    256 bytes, and the gaps hold zeros. A (K, C, R, S) view of C-contiguous (K, R, S, C) memory
    stays that; an array with gaps or repeats gets C order. Two tensors that merely share memory
    part ways here: to share a weight, use one Parameter twice.

    Args:
        parameters: Distinct leaf tensors of one dtype, float32 or float64, and of one backend.

    Raises:
        TypeError: A dtype is not float32 or float64, or not that of the others.
        ValueError: A gradient has not the shape of its parameter.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = tuple(parameters)
        for p in self.parameters:
            check_gradient(p)
        arrays = [p.data for p in self.parameters]
        check_floats("FlatBuffer", **{f"parameters[{i}]": a for i, a in enumerate(arrays)})
        step = ALIGNMENT_BYTES // arrays[0].itemsize
        self.sizes = [int(a.size) for a in arrays]
        self.starts = [0]
        for size in self.sizes:
            self.starts.append(self.starts[-1] + -(-size // step) * step)
        self._length = self.starts.pop()
        self._shapes = [tuple(a.shape) for a in arrays]
        self._orders = [memory_order(a) for a in arrays]

        self.data = _aligned_zeros(arrays[0], self._length, arrays[0].dtype)
        self.grad = self.like()
        self.views = [self.view(self.data, i) for i in range(len(arrays))]
        self.grads = [self.view(self.grad, i) for i in range(len(arrays))]
        for p, view, slot in zip(self.parameters, self.views, self.grads, strict=True):
            layout.fill(view, p.data)
            if p.grad is not None:
                layout.fill(slot, p.grad.data)
                p.grad = Tensor(slot)
            p.data, p._grad_slot = view, slot

    def __reduce__(self) -> Any:
        raise TypeError(
            "an optimizer can be neither copied nor pickled, since views would part from their "
            "buffer: make one of the same kind and give it the state_dict"
        )

    def holds(self, i: int) -> bool:
        """Say whether parameter i still lies here; ``to(dtype)`` or an assignment moves it away."""
        return self.parameters[i].data is self.views[i]

    def like(self, dtype: Any = None) -> Array:
        """Return a buffer of zeros of this form, for state; ``dtype`` is that of the data."""
        return _aligned_zeros(self.data, self._length, dtype or self.data.dtype)

    def view(self, buffer: Array, i: int) -> Array:
        """Return parameter i's part of a buffer of this form, in its shape and memory order."""
        order, shape = self._orders[i], self._shapes[i]
        memory = buffer[self.starts[i] : self.starts[i] + self.sizes[i]]
        return memory.reshape([shape[a] for a in order]).transpose(np.argsort(order).tolist())


def check_gradient(p: Tensor) -> None:
    """Raise unless the gradient of ``p``, if there is one, is a Tensor of its shape.

    Raises:
        TypeError: It is no Tensor.
        ValueError: Its shape differs.
    """
    if p.grad is None:
        return
    if not isinstance(p.grad, Tensor):
        raise TypeError(f"the grad of a parameter must be a Tensor, not {type(p.grad).__name__}")
    if p.grad.shape != p.shape:
        raise ValueError(
            f"a parameter of shape {p.shape} has a gradient of shape {p.grad.shape}; assign one "
            "of its shape, or None"
        )


# Live buffers by the ids of their parameters, which live as long: two optimizers over the same
# parameters share the buffer, and each finds the parameters where it left them.
_live: WeakValueDictionary[tuple[int, ...], FlatBuffer] = WeakValueDictionary()


def flatten(parameters: Iterable[Tensor]) -> list[FlatBuffer]:
    """Return the flat buffers that hold ``parameters``: one a dtype (and backend), in their order.

    A parameter that comes twice lies there once. Parameters that a live buffer holds already,
    exactly these, stay where they are.

    Raises:
        TypeError: A dtype is not float32 or float64.
        ValueError: A gradient has not the shape of its parameter.
    """
    groups: dict[Any, list[Tensor]] = {}
    for p in {id(p): p for p in parameters}.values():
        groups.setdefault((type(p.data), p.dtype), []).append(p)
    return [_flat_buffer(group) for group in groups.values()]


def _flat_buffer(parameters: list[Tensor]) -> FlatBuffer:
    key = tuple(map(id, parameters))
    flat = _live.get(key)
    if flat is None or not all(map(flat.holds, range(len(parameters)))):
        flat = _live[key] = FlatBuffer(parameters)
    return flat


def _aligned_zeros(like: Array, length: int, dtype: Any) -> Array:
    """Return ``length`` zeros from an address that is a multiple of 256, where ``like`` lives."""
    itemsize = np.dtype(dtype).itemsize
    array = np.zeros_like(like, shape=(length + ALIGNMENT_BYTES // itemsize,), dtype=dtype)
    first = -address(array) % ALIGNMENT_BYTES // itemsize
    return array[first : first + length]
