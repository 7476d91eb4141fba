"""Reverse mode: what an op must give to be differentiable, and the walk back through a graph.

No op is named here. An op computes on arrays and returns its result with one function an input,
in input order, that turns the gradient of the result into the gradient of that input (a
vector-Jacobian product, "vjp"). The walk is backpropagation as in the Edinburgh MLP lectures.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import elementwise, layout
from ..kernels.arrays import Array
from ..kernels.backend import current_backend, pinned
from . import tensor as _tensor  # Tensor is looked up when called: tensor.py imports this file

if TYPE_CHECKING:
    from .tensor import Tensor

Vjp = Callable[[Array], Array]

_grad_enabled: ContextVar[bool] = ContextVar("grad enabled", default=True)


class set_grad_enabled:
    """Record ops for ``backward`` or not: at once when called, until the block ends in ``with``.

    As a decorator it holds inside the function alone.
    """

    def __init__(self, mode: bool) -> None:
        self._mode = mode
        self._previous = _grad_enabled.get()
        _grad_enabled.set(mode)

    def __enter__(self) -> None:
        _grad_enabled.set(self._mode)

    def __exit__(self, *exception: object) -> None:
        _grad_enabled.set(self._previous)

    def __call__(self, function: Callable) -> Callable:
        """Decorate ``function``: the mode holds in its calls, and no longer here."""
        _grad_enabled.set(self._previous)
        return _switched(function, self._mode)


class no_grad:
    """Record nothing: results inside do not require gradients. A block or a decorator."""

    _mode = False

    def __new__(cls, function: Callable | None = None) -> Any:
        """Make a block; or decorate ``function``, for ``@no_grad`` without parentheses."""
        return super().__new__(cls) if function is None else _switched(function, cls._mode)

    def __init__(self) -> None:
        self._previous: list[bool] = []

    def __enter__(self) -> None:
        self._previous.append(_grad_enabled.get())
        _grad_enabled.set(self._mode)

    def __exit__(self, *exception: object) -> None:
        _grad_enabled.set(self._previous.pop())

    def __call__(self, function: Callable) -> Callable:
        """Decorate ``function``: the mode holds in its calls."""
        return _switched(function, self._mode)


class enable_grad(no_grad):
    """Record again, inside ``no_grad``. A block or a decorator."""

    _mode = True


def _switched(function: Callable, mode: bool) -> Callable:
    @wraps(function)
    def switched(*args: Any, **kwargs: Any) -> Any:
        with enable_grad() if mode else no_grad():
            return function(*args, **kwargs)

    return switched


def is_grad_enabled() -> bool:
    """Say whether ops are recorded for ``backward``."""
    return _grad_enabled.get()


class Version:
    """Counts the in-place changes of memory that several tensors may share."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Node:
    """How a tensor was made: its parents and the vjps that lead back to them."""

    __slots__ = ("backend", "kept", "name", "parents", "vjps")

    def __init__(
        self,
        name: str,
        parents: tuple[Tensor | None, ...],
        vjps: tuple[Vjp | None, ...],
        kept: tuple[tuple[str, Version], ...],
    ) -> None:
        self.name = name
        self.parents = parents
        self.vjps: tuple[Vjp | None, ...] | None = vjps
        self.kept = [(what, version, version.count) for what, version in kept]
        self.backend = current_backend()

    def gradients(self, grad: Array) -> list[tuple[Tensor, Array]]:
        """Return (parent, its share of the gradient) for each parent that requires one."""
        if self.vjps is None:
            raise RuntimeError(
                f"{self.name}: backward was called a second time through a graph that has been "
                "released; pass retain_graph=True to the first call, or run forward again"
            )
        for what, version, count in self.kept:
            if version.count != count:
                raise RuntimeError(
                    f"{self.name}: {what} was changed in place after the forward pass (an "
                    "optimizer step, load_state_dict or an item assignment); its gradient would "
                    "be wrong: run forward again before backward"
                )
        grad = grad[...]  # an object of this walk alone, by which ``once`` knows it
        with pinned(self.backend):
            return [
                (parent, vjp(grad))
                for parent, vjp in zip(self.parents, self.vjps, strict=True)
                if parent is not None and vjp is not None and parent.requires_grad
            ]

    def release(self) -> None:
        """Drop the arrays that the vjps captured, and the way to the parents."""
        self.vjps, self.parents, self.kept = None, (), []


def differentiable(
    op: Callable[..., tuple[Array, tuple[Vjp | None, ...]]] | None = None,
    *,
    keeps: tuple[int, ...] | None = None,
    keeps_result: bool = False,
) -> Any:
    """Lift ``op(*arrays, **options) -> (array, one vjp an input)`` to Tensors.

    Inputs that are not Tensors (None, numbers, arrays) reach ``op`` as they are.

    Args:
        op: The function on arrays; its vjps may be None for inputs without a gradient.
        keeps: Positions of the inputs whose arrays the vjps use (all, unless given): changing
            one of these in place before ``backward`` is an error.
        keeps_result: The vjps use the array of the result.
    """
    if op is None:
        return partial(differentiable, keeps=keeps, keeps_result=keeps_result)
    name = op.__name__.lstrip("_")

    @wraps(op)
    def lifted(*inputs: Any, **options: Any) -> Tensor:
        Tensor = _tensor.Tensor
        parents = tuple(x if isinstance(x, Tensor) else None for x in inputs)
        arrays = [x.data if isinstance(x, Tensor) else _plain(x) for x in inputs]
        data, vjps = op(*arrays, **options)
        result = Tensor(data)
        if _grad_enabled.get() and any(
            p is not None and p.requires_grad and vjp is not None
            for p, vjp in zip(parents, vjps, strict=True)
        ):
            kept = [
                (f"input {i} of shape {p.shape}", p._version)
                for i, p in enumerate(parents)
                if p is not None and (keeps is None or i in keeps)
            ]
            if keeps_result:
                kept.append(("the result", result._version))
            result.requires_grad = True
            result._node = Node(name, parents, vjps, tuple(kept))
        return result

    return lifted


def _plain(x: Any) -> Any:
    """Turn a NumPy scalar, which is neither an array nor a number of Python, into the latter."""
    return x.item() if isinstance(x, np.generic) else x


def jointly(backward: Callable[[Array], tuple[Array, ...]], count: int) -> tuple[Vjp, ...]:
    """Split one ``backward(grad) -> count gradients`` into ``count`` vjps that share its run."""
    run = once(backward)
    return tuple(partial(lambda i, grad: run(grad)[i], i) for i in range(count))


def once(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Remember the last result, for vjps of one node that need the same preparation."""
    last: list[Any] = [None, None]

    def remembered(grad: Array) -> Any:
        if last[0] is not grad:
            last[:] = grad, function(grad)
        return last[1]

    return remembered


def backward(root: Tensor, grad: Array, *, retain_graph: bool) -> None:
    """Add d(root)/d(leaf), weighted by ``grad``, to the ``grad`` of every leaf below ``root``."""
    gradients: dict[int, Array] = {id(root): grad}
    for tensor in reversed(_topological_order(root)):
        grad = gradients.pop(id(tensor))
        if tensor._node is None or tensor._retains_grad:
            accumulate(tensor, grad)
        if tensor._node is None:
            continue
        for parent, share in tensor._node.gradients(grad):
            if tuple(share.shape) != parent.shape:
                raise RuntimeError(
                    f"{tensor._node.name}: the gradient of an input of shape {parent.shape} came "
                    f"out with shape {tuple(share.shape)}; this is a defect of the op"
                )
            before = gradients.get(id(parent))
            gradients[id(parent)] = share if before is None else elementwise.add(before, share)
        if not retain_graph:
            tensor._node.release()


def accumulate(tensor: Tensor, grad: Array) -> None:
    """Add ``grad`` to ``tensor.grad``, in the flat buffer when the tensor has a place there."""
    if not isinstance(tensor.grad, _tensor.Tensor | None):
        raise TypeError(f"grad must be a Tensor or None, not {type(tensor.grad).__name__}")
    if tensor.grad is None:
        data = tensor._grad_slot
        if data is None or _kind(data) != _kind(tensor.data):
            data = layout.copy(grad, tensor.dtype)  # no place, or one for data since rebound
        else:
            layout.fill(data, grad)
        tensor.grad = _tensor.Tensor(data)
    else:
        elementwise.accumulate(tensor.grad.data, layout.cast(grad, tensor.grad.dtype))


def _kind(array: Array) -> tuple[Any, ...]:
    return type(array), array.dtype, tuple(array.shape)


def _topological_order(root: Tensor) -> list[Tensor]:
    """Return the tensors below ``root`` that require a gradient, parents first."""
    order: list[Tensor] = []
    visited: set[int] = set()
    stack = [(root, False)]  # explicit: a deep net must not meet Python's recursion limit
    while stack:
        tensor, parents_done = stack.pop()
        if parents_done:
            order.append(tensor)
        elif tensor.requires_grad and id(tensor) not in visited:
            visited.add(id(tensor))
            stack.append((tensor, True))
            if tensor._node is not None:
                stack.extend((p, False) for p in tensor._node.parents if p is not None)
    return order
