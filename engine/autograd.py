"""Reverse mode: what an op must give to be differentiable, and the walk back through a graph.

No op is named here. An op computes on arrays and returns its result with one function an input,
in input order, that turns the gradient of the result into the gradient of that input (a
vector-Jacobian product, "vjp"). The walk is backpropagation as in the Edinburgh MLP lectures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..kernels import elementwise, layout
from ..kernels.arrays import Array, Shape
from ..kernels.backend import current_backend, pinned
from ..kernels.precision import current_precision
from . import tensor as _tensor  # Tensor is looked up when called: tensor.py imports this file

if TYPE_CHECKING:
    from .tensor import Tensor

Vjp = Callable[..., Any]
RESULT = -1  # stands for the result in a list of inputs

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


class Finished(NamedTuple):
    """A gradient that the vjp with its last share has taken through the first step of the way back.

    The vjps of a node that offers such a step may be given one in the place of an array.

    Attributes:
        grad: What the step made of the gradient.
        rest: What else came of it, for the node's vjps alone.
    """

    grad: Array
    rest: Any


class _Sum(NamedTuple):
    """The gradient of a vertex, as far as its shares have come."""

    grad: Array
    is_mine: bool  # the engine's, to add to
    rest: Any = None  # of Finished


class Node:
    """How a tensor was made: the vjps that lead back from it, and where to.

    It holds neither this tensor nor its parents, so that an activation lives on only where a vjp
    has captured it: a parent is the node that made it, or a leaf.
    """

    __slots__ = (
        "adds",
        "backend",
        "fills",
        "finish",
        "kept",
        "name",
        "parents",
        "precision",
        "retained",
        "shape",
        "vjps",
    )

    requires_grad = True

    def __init__(
        self,
        name: str,
        shape: Shape,
        parents: list[Node | Tensor | None],
        vjps: tuple[Vjp | None, ...],
        kept: list[tuple[int, Shape, Version, int]],
        fills: tuple[int, ...],
        adds: tuple[int, ...],
        finish: Any,
    ) -> None:
        self.name = name
        self.shape = shape
        self.parents = parents
        self.vjps: tuple[Vjp | None, ...] | None = vjps
        self.kept = kept
        self.fills = fills
        self.adds = adds
        self.finish = finish
        self.retained: Callable[[], Tensor | None] | None = None  # its tensor, by retain_grad
        self.backend = current_backend()
        self.precision = current_precision()

    def gradients(
        self, grad: Array | Finished, begun: dict[int, _Sum], missing: Counter[int]
    ) -> list[_Share]:
        """Return the shares of the gradient of all parents that require one.

        Args:
            grad: Gradient of the tensor that was made.
            begun: The sums of those that have got a share already, by id.
            missing: How many shares are still to come, those of this node among them, by id.
        """
        if self.vjps is None:
            raise RuntimeError(
                f"{self.name}: backward was called a second time through a graph that has been "
                "released; pass retain_graph=True to the first call, or run forward again"
            )
        for i, shape, version, count in self.kept:
            if version.count != count:
                what = "the result" if i == RESULT else f"input {i} of shape {shape}"
                raise RuntimeError(
                    f"{self.name}: {what} was changed in place after the forward pass (an "
                    "optimizer step, load_state_dict or an item assignment); its gradient would "
                    "be wrong: run forward again before backward"
                )
        if not isinstance(grad, Finished):
            grad = grad[...]  # an object of this walk alone, by which ``once`` knows it
        shares = []
        with pinned(self.backend, self.precision):
            for i, (parent, vjp) in enumerate(zip(self.parents, self.vjps, strict=True)):
                if parent is None or vjp is None or not parent.requires_grad:
                    continue
                before = begun.get(id(parent))
                if i in self.fills:
                    share = vjp(grad, _free_place(parent) if before is None else None)
                elif i in self.adds:
                    shares.append(self._added(parent, vjp, grad, before, missing))
                    continue
                else:
                    share = vjp(grad)
                shares.append(_Share(parent, share))
        return shares

    def _added(
        self,
        parent: Node | Tensor,
        vjp: Vjp,
        grad: Array | Finished,
        before: _Sum | None,
        missing: Counter[int],
    ) -> _Share:
        """Have a vjp add what the parent has got before, and finish what it gets last."""
        if sum(parent is other for other in self.parents) > 1:
            return _Share(parent, vjp(grad, None, None))
        dtype = (grad.grad if isinstance(grad, Finished) else grad).dtype
        addend = before.grad if before is not None and before.grad.dtype == dtype else None
        complete = missing[id(parent)] == 1 and (before is None or addend is not None)
        share = vjp(grad, addend, _finish_of(parent) if complete else None)
        whole = addend is not None
        if isinstance(share, Finished):
            return _Share(parent, share.grad, whole, share.rest)
        return _Share(parent, share, whole)

    def release(self) -> None:
        """Drop the arrays that the vjps captured, and the way to the parents."""
        self.vjps, self.parents, self.kept, self.finish = None, [], [], None


class _Share(NamedTuple):
    """What a node adds to the gradient of a parent."""

    parent: Node | Tensor
    grad: Array
    is_whole: bool = False  # what the parent had before is in it
    rest: Any = None  # of Finished


def differentiable(
    op: Callable[..., tuple[Any, ...]] | None = None,
    *,
    keeps: tuple[int, ...] | None = None,
    keeps_result: bool = False,
    fills: tuple[int, ...] = (),
    adds: tuple[int, ...] = (),
) -> Any:
    """Lift ``op(*arrays, **options) -> (array, one vjp an input)`` to Tensors.

    Inputs that are not Tensors (None, numbers, arrays) reach ``op`` as they are. A vjp returns a
    new array, or its argument or a view of it: never an array that it has captured, since the
    engine adds to gradients in place.

    An op may return a third thing, of any type: what it offers as ``finish``, the first step of its
    way back, to those whose vjps can take it with less passes over memory (``adds``).

    Args:
        op: The function on arrays; its vjps may be None for inputs without a gradient.
        keeps: Positions of the inputs whose arrays the vjps use (all, unless given): changing
            one of these in place before ``backward`` is an error.
        keeps_result: The vjps use the array of the result.
        fills: Positions of the inputs whose vjps are called with a second argument: the place of
            a leaf's gradient in a flat buffer, for the vjp to fill in and return; else None.
        adds: Positions of the inputs whose vjps are called with two more arguments, both often
            None: the sum of the input's other gradients so far, to which the vjp adds its own
            without changing it; and, where that makes the gradient complete, what the op that made
            the input offers. A vjp that takes the offer returns ``Finished``, another one an array.
    """
    if op is None:
        return partial(
            differentiable,
            keeps=keeps,
            keeps_result=keeps_result,
            fills=fills,
            adds=adds,
        )
    name = op.__name__.lstrip("_")

    @wraps(op)
    def lifted(*inputs: Any, **options: Any) -> Tensor:
        Tensor = _tensor.Tensor
        arrays = [x.data if isinstance(x, Tensor) else _plain(x) for x in inputs]
        data, vjps, *finish = op(*arrays, **options)
        result = Tensor(data)
        if not _grad_enabled.get():
            return result
        parents: list[Node | Tensor | None] = []
        is_recorded = False
        for x, vjp in zip(inputs, vjps, strict=True):
            if vjp is not None and isinstance(x, Tensor) and x._requires_grad:
                parents.append(x._node or x)
                is_recorded = True
            else:
                parents.append(None)
        if is_recorded:
            kept = [
                (i, x.data.shape, x._version, x._version.count)
                for i, x in enumerate(inputs)
                if (keeps is None or i in keeps) and isinstance(x, Tensor)
            ]
            if keeps_result:
                kept.append((RESULT, result.shape, result._version, result._version.count))
            result.requires_grad = True
            result._node = Node(
                name, result.shape, parents, vjps, kept, fills, adds, *(finish or [None])
            )
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
    start = root._node or root
    order = _topological_order(start)
    missing = _shares_to_come(order)
    sums: dict[int, _Sum] = {id(start): _Sum(grad, False)}
    for vertex in reversed(order):
        grad, owned, rest = sums.pop(id(vertex))
        if not isinstance(vertex, Node):
            accumulate(vertex, grad, owned)
            continue
        tensor = vertex.retained and vertex.retained()
        if tensor is not None:
            accumulate(tensor, grad, False)
        whole = grad if rest is None else Finished(grad, rest)
        shares = vertex.gradients(whole, sums, missing)
        for share, is_mine in zip(shares, _are_mine(shares, grad, owned), strict=True):
            if share.grad.shape != share.parent.shape:
                raise RuntimeError(
                    f"{vertex.name}: the gradient of an input of shape {share.parent.shape} came "
                    f"out with shape {share.grad.shape}; this is a defect of the op"
                )
            _add(sums, share, is_mine and _is_writeable(share.grad))
            missing[id(share.parent)] -= 1
        if not retain_graph:
            vertex.release()


def _shares_to_come(order: list[Node | Tensor]) -> Counter[int]:
    """Return how many shares each vertex gets, by id."""
    nodes = [vertex for vertex in order if isinstance(vertex, Node)]
    return Counter(id(parent) for node in nodes for parent in node.parents)


def _are_mine(shares: list[_Share], grad: Array, owned: bool) -> list[bool]:
    """Say of each share whether nobody else sees its memory; ``grad`` is what they came from."""
    if owned and len(shares) == 1:
        return [True]
    passed_on = [_may_share_memory(share.grad, grad) for share in shares]
    alone = owned and passed_on.count(True) == 1
    return [not same or alone for same in passed_on]


def _add(sums: dict[int, _Sum], share: _Share, is_mine: bool) -> None:
    """Add a share to the sum of its vertex; ``is_mine``: its memory is the engine's to change."""
    grad, key = share.grad, id(share.parent)
    before = None if share.is_whole else sums.get(key)
    if before is None:
        sums[key] = _Sum(grad, is_mine, share.rest)
    elif before.is_mine:
        elementwise.accumulate(before.grad, grad)
    elif is_mine and grad.dtype == before.grad.dtype:
        elementwise.accumulate(grad, before.grad)
        sums[key] = _Sum(grad, True)
    else:
        sums[key] = _Sum(elementwise.add(before.grad, grad), True)


def accumulate(tensor: Tensor, grad: Array, owned: bool) -> None:
    """Add ``grad`` to ``tensor.grad``, in the flat buffer when the tensor has a place there.

    Without a place, a gradient that is ``owned``, which nobody else sees, becomes ``tensor.grad``.
    """
    if tensor.grad is None:
        place = _free_place(tensor)
        if place is None:
            dtype = tensor.data.dtype
            place = grad if owned and grad.dtype == dtype else layout.copy(grad, dtype)
        elif grad is not place:  # which a vjp has filled in
            layout.fill(place, grad)
        tensor.grad = _tensor.Tensor(place)
    elif not isinstance(tensor.grad, _tensor.Tensor):
        raise TypeError(f"grad must be a Tensor or None, not {type(tensor.grad).__name__}")
    else:
        elementwise.accumulate(tensor.grad.data, layout.cast(grad, tensor.grad.dtype))


def _finish_of(vertex: Node | Tensor) -> Any:
    """Return what a node offers, unless its plain gradient is asked for too."""
    if not isinstance(vertex, Node) or (vertex.retained and vertex.retained() is not None):
        return None
    return vertex.finish


def _free_place(vertex: Node | Tensor) -> Array | None:
    """Return where the gradient of a leaf is to lie, unless there is no place or it has one."""
    if isinstance(vertex, Node) or vertex.grad is not None:
        return None
    place, data = vertex._grad_slot, vertex.data
    fits = (
        place is not None
        and type(place) is type(data)  # or data has been rebound since
        and place.dtype == data.dtype
        and place.shape == data.shape
    )
    return place if fits else None


def _may_share_memory(a: Array, b: Array) -> bool:
    return type(a) is type(b) and np.may_share_memory(a, b)


def _is_writeable(array: Array) -> bool:
    """Say whether each element of ``array`` has a place of its own: a broadcast one's has not."""
    return 0 not in array.strides and getattr(array.flags, "writeable", True)


def _topological_order(start: Node | Tensor) -> list[Node | Tensor]:
    """Return the nodes and leaves below ``start`` that require a gradient, parents first."""
    order: list[Node | Tensor] = []
    visited: set[int] = set()
    begun: list[Node] = []  # whose parents are being visited, the last one's now
    stack: list[Node | Tensor | None] = [start]  # None: the parents of the last one are done
    while stack:  # explicit: a deep net must not meet Python's recursion limit
        vertex = stack.pop()
        if vertex is None:
            order.append(begun.pop())
        elif id(vertex) not in visited and vertex.requires_grad:
            visited.add(id(vertex))
            if isinstance(vertex, Node):
                begun.append(vertex)
                stack.append(None)
                stack.extend([parent for parent in vertex.parents if parent is not None])
            else:
                order.append(vertex)
    return order
