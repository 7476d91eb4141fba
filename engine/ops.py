"""Differentiable arithmetic, reductions and changes of shape: what Tensor's methods call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import activation, elementwise, indexing, layout, linear, reduction
from ..kernels.arrays import Array, Shape, empty, full, is_floating, memory_order
from ..kernels.transfer import to_memory_of
from . import tensor as _tensor
from .autograd import differentiable

if TYPE_CHECKING:
    from .tensor import Tensor

Operand = Any  # Tensor, array, or Python number


def _unbroadcast(x: Operand) -> Callable[[Array], Array]:
    """Return what sums a gradient over the axes that broadcasting gave to ``x``, in x's dtype.

    It keeps the shape of x and not its memory.
    """
    if not hasattr(x, "dtype"):
        return lambda grad: grad
    shape, dtype = tuple(x.shape), x.dtype

    def summed(grad: Array) -> Array:
        if tuple(grad.shape) != shape:
            added = grad.ndim - len(shape)
            stretched = [i + added for i, n in enumerate(shape) if n == 1 != grad.shape[i + added]]
            grad = reduction.sum(grad, (*range(added), *stretched), keepdims=True)
            grad = grad.reshape(shape)
        return layout.cast(grad, dtype)

    return summed


# Arithmetic


@differentiable(keeps=())
def add(a: Operand, b: Operand) -> Any:
    """a + b."""
    return elementwise.add(a, b), (_unbroadcast(a), _unbroadcast(b))


@differentiable(keeps=())
def subtract(a: Operand, b: Operand) -> Any:
    """a - b."""
    to_b = _unbroadcast(b)
    return elementwise.subtract(a, b), (_unbroadcast(a), lambda g: to_b(elementwise.negative(g)))


@differentiable
def multiply(a: Operand, b: Operand) -> Any:
    """a * b."""
    to_a, to_b = _unbroadcast(a), _unbroadcast(b)
    return elementwise.multiply(a, b), (
        lambda g: to_a(elementwise.multiply(g, b)),
        lambda g: to_b(elementwise.multiply(g, a)),
    )


@differentiable
def divide(a: Operand, b: Operand) -> Any:
    """a / b."""
    to_a, to_b = _unbroadcast(a), _unbroadcast(b)

    def grad_b(g: Array) -> Array:
        quotient = elementwise.divide(a, elementwise.multiply(b, b))
        return to_b(elementwise.negative(elementwise.multiply(g, quotient)))

    return elementwise.divide(a, b), (lambda g: to_a(elementwise.divide(g, b)), grad_b)


@differentiable(keeps_result=True)
def power(a: Operand, b: Operand) -> Any:
    """a ** b; where a = 0, the gradient with respect to b is 0."""
    y = elementwise.power(a, b)
    to_a, to_b = _unbroadcast(a), _unbroadcast(b)

    def grad_a(g: Array) -> Array:
        if not hasattr(b, "dtype") and b == 0:
            return full(a, 0, a.shape)
        less = elementwise.subtract(b, 1) if hasattr(b, "dtype") else b - 1
        slope = elementwise.multiply(b, elementwise.power(a, less))
        if hasattr(b, "dtype"):
            slope = elementwise.where(elementwise.equal(b, 0), 0.0, slope)
        return to_a(elementwise.multiply(g, slope))

    def grad_b(g: Array) -> Array:
        base = a if hasattr(a, "dtype") else full(b, a, ())
        slope = elementwise.multiply(y, elementwise.log(base))
        slope = elementwise.where(elementwise.equal(base, 0), 0.0, slope)
        return to_b(elementwise.multiply(g, slope))

    return y, (grad_a, grad_b)


def _extremum(name: str) -> Any:
    def op(a: Operand, b: Operand) -> Any:
        def share(g: Array, mine: Operand, other: Operand) -> Array:
            order = (other, mine) if name == "maximum" else (mine, other)
            won = elementwise.less(*order)
            tied = elementwise.equal(mine, other)
            weight = elementwise.where(won, 1.0, elementwise.where(tied, 0.5, 0.0))
            return _unbroadcast(mine)(elementwise.multiply(g, weight))

        return getattr(elementwise, name)(a, b), (
            lambda g: share(g, a, b),
            lambda g: share(g, b, a),
        )

    op.__name__ = name
    op.__doc__ = f"Element-wise {name}; NaN where either is; ties share the gradient equally."
    return differentiable(op)


maximum = _extremum("maximum")
minimum = _extremum("minimum")


@differentiable(keeps=(0,))
def where(condition: Array, a: Operand, b: Operand) -> Any:
    """a where ``condition`` (bool) holds, else b."""
    to_a, to_b = _unbroadcast(a), _unbroadcast(b)
    return elementwise.where(condition, a, b), (
        None,
        lambda g: to_a(elementwise.where(condition, g, 0.0)),
        lambda g: to_b(elementwise.where(condition, 0.0, g)),
    )


@differentiable(keeps=())
def negative(x: Array) -> Any:
    """-x."""
    return elementwise.negative(x), (elementwise.negative,)


@differentiable
def absolute(x: Array) -> Any:
    """|x|."""
    return elementwise.absolute(x), (lambda g: elementwise.multiply(g, elementwise.sign(x)),)


@differentiable(keeps=(), keeps_result=True)
def exp(x: Array) -> Any:
    """e ** x."""
    y = elementwise.exp(x)
    return y, (lambda g: elementwise.multiply(g, y),)


@differentiable
def log(x: Array) -> Any:
    """Natural logarithm."""
    return elementwise.log(x), (lambda g: elementwise.divide(g, x),)


@differentiable(keeps=(), keeps_result=True)
def sqrt(x: Array) -> Any:
    """Square root."""
    y = elementwise.sqrt(x)
    return y, (lambda g: elementwise.divide(g, elementwise.multiply(y, 2)),)


def _compare(name: str) -> Any:
    def op(a: Operand, b: Operand) -> Any:
        return getattr(elementwise, name)(a, b), (None, None)

    op.__name__ = name
    op.__doc__ = f"Element-wise {name}, as bool; has no gradient."
    return differentiable(op, keeps=())


equal = _compare("equal")
not_equal = _compare("not_equal")
less = _compare("less")
less_equal = _compare("less_equal")


# Activations


@differentiable(keeps=(), keeps_result=True)
def relu(x: Array) -> Any:
    """max(x, 0)."""
    y = activation.relu(x)
    return y, (lambda g: activation.relu_backward(g, y),)


@differentiable
def leaky_relu(x: Array, *, negative_slope: float) -> Any:
    """x where x > 0, else negative_slope * x."""
    y = activation.leaky_relu(x, negative_slope)
    return y, (lambda g: activation.leaky_relu_backward(g, x, negative_slope),)


@differentiable(keeps=(), keeps_result=True)
def sigmoid(x: Array) -> Any:
    """1 / (1 + e ** -x)."""
    y = activation.sigmoid(x)
    return y, (lambda g: activation.sigmoid_backward(g, y),)


@differentiable(keeps=(), keeps_result=True)
def tanh(x: Array) -> Any:
    """Hyperbolic tangent."""
    y = activation.tanh(x)
    return y, (lambda g: activation.tanh_backward(g, y),)


# Matrix product


@differentiable(fills=(1,))
def product(x: Array, w: Array, bias: Array | None) -> Any:
    """x (M, C) times the transpose of w (K, C), plus the bias (K,): y (M, K)."""
    return linear.fprop(x, w, bias), (
        lambda g: linear.dgrad(g, w),
        lambda g, place: linear.wgrad(g, x, place),
        lambda g: reduction.sum(g, 0),
    )


def matmul(a: Any, b: Any) -> Tensor:
    """Matrix product of a (..., M, C) or (C,) and b (C, K) or (C,).

    Raises:
        ValueError: Shapes do not fit, or b has more than two axes.
    """
    Tensor = _tensor.Tensor
    a, b = (x if isinstance(x, Tensor) else Tensor(x) for x in (a, b))
    if not a.ndim or not b.ndim or b.ndim > 2 or a.shape[-1] != b.shape[0]:
        raise ValueError(
            f"matmul: shapes {a.shape} and {b.shape} do not fit; (..., M, C) @ (C, K) is needed"
        )
    rows = reshape(a, (-1, a.shape[-1]) if a.shape[-1] else (prod(a.shape[:-1]), 0))
    columns = b if b.ndim == 2 else unsqueeze(b, 1)
    y = product(rows, transpose(columns, 0, 1), None)
    return reshape(y, (*a.shape[:-1], *b.shape[1:]))


# Reductions


def _restored(y: Array, shape: Shape, axes: tuple[int, ...]) -> Array:
    """Give a reduced array its axes of length 1 back."""
    return y.reshape([1 if i in axes else n for i, n in enumerate(shape)])


@differentiable(keeps=())
def sum(x: Array, *, dim: Any = None, keepdim: bool = False) -> Any:
    """Sum over ``dim``: an axis, several, or all."""
    axes, shape = reduction.axes_of("sum", x, dim), x.shape
    return reduction.sum(x, axes, keepdims=keepdim), (
        lambda g: np.broadcast_to(_restored(g, shape, axes), shape),
    )


def mean(x: Tensor, *, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Mean over ``dim``; of integers a TypeError, as PyTorch."""
    if not is_floating(x.dtype):
        raise TypeError(f"mean: a floating dtype is needed, got {x.dtype}; convert with .float()")
    axes = reduction.axes_of("mean", x.data, dim)
    count = prod(x.shape[i] for i in axes)
    return divide(sum(x, dim=axes, keepdim=keepdim), float(count))


def var(x: Tensor, *, dim: Any = None, correction: int = 1, keepdim: bool = False) -> Tensor:
    """Variance over ``dim``."""
    axes = reduction.axes_of("var", x.data, dim)
    count = prod(x.shape[i] for i in axes)
    centred = subtract(x, mean(x, dim=axes, keepdim=True))
    squares = sum(multiply(centred, centred), dim=axes, keepdim=keepdim)
    return divide(squares, float(max(count - correction, 0)))


def _extreme_over(name: str) -> Any:
    def op(x: Array, *, dim: Any = None, keepdim: bool = False) -> Any:
        axes = reduction.axes_of(name, x, dim)
        y = getattr(reduction, name[1:])(x, axes, keepdims=keepdim)

        def grad_x(g: Array) -> Array:
            chosen = elementwise.equal(x, _restored(y, x.shape, axes))
            chosen = layout.cast(chosen, x.dtype)
            share = elementwise.divide(
                _restored(g, x.shape, axes), reduction.sum(chosen, axes, keepdims=True)
            )
            return elementwise.multiply(chosen, share)

        return y, (grad_x,)

    op.__name__ = name
    op.__doc__ = f"The {name[1:]} over ``dim``; ties share the gradient equally."
    return differentiable(op, keeps_result=True)


amax = _extreme_over("amax")
amin = _extreme_over("amin")


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first largest element."""
    return _tensor.Tensor(reduction.argmax(x.data, dim, keepdims=keepdim))


def argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Index of the first smallest element."""
    return _tensor.Tensor(reduction.argmin(x.data, dim, keepdims=keepdim))


def max_over(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Largest element along ``dim`` and its index; the gradient goes to that index."""
    return _picked(x, argmax(x, dim, True), dim, keepdim)


def min_over(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Smallest element along ``dim`` and its index; the gradient goes to that index."""
    return _picked(x, argmin(x, dim, True), dim, keepdim)


def _picked(x: Tensor, indices: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    values = take_along(x, indices=indices.data, axis=dim % max(x.ndim, 1))
    return (values, indices) if keepdim else (squeeze(values, dim), squeeze(indices, dim))


def clamp(x: Tensor, least: Any, most: Any) -> Tensor:
    """x, but at least ``least`` and at most ``most``; None for no limit."""
    if least is None and most is None:
        raise ValueError("clamp: min or max is needed")
    if least is not None:
        x = where(less(x, least), least, x)
    return x if most is None else where(less(most, x), most, x)


@differentiable(keeps=())
def take_along(x: Array, *, indices: Array, axis: int) -> Any:
    """The element of each row along ``axis`` that ``indices`` (length 1 there) names."""
    if not x.ndim:
        return x, (lambda g: g,)
    grid = [
        indices
        if i == axis
        else np.arange(n, like=x).reshape([-1 if j == i else 1 for j in range(x.ndim)])
        for i, n in enumerate(x.shape)
    ]
    index, shape = tuple(grid), x.shape
    return indexing.forward(x, index), (lambda g: indexing.backward(g, index, shape),)


# Shape, memory and type


@differentiable(keeps=())
def _reshape(x: Array, *, shape: Shape) -> Any:
    before = x.shape
    return layout.contiguous(x).reshape(shape), (lambda g: layout.contiguous(g).reshape(before),)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Same elements, C order of the public axes; one length may be -1.

    Raises:
        ValueError: The numbers of elements differ.
    """
    shape = tuple(shape)
    known = prod(n for n in shape if n != -1)
    wildcards = shape.count(-1)
    fits = (
        x.data.size == known
        if not wildcards
        else wildcards == 1 and known and x.data.size % known == 0
    )
    if not fits or min(shape, default=0) < -1:
        raise ValueError(f"reshape: {x.shape} has {x.data.size} elements and cannot become {shape}")
    return _shares(_reshape(x, shape=shape), x)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge axes ``start_dim`` to ``end_dim``.

    Raises:
        IndexError: An axis is out of range.
        ValueError: ``start_dim`` lies behind ``end_dim``.
    """
    if not x.ndim:
        return reshape(x, (1,))
    for dim in (start_dim, end_dim):
        if not -x.ndim <= dim < x.ndim:
            raise IndexError(f"flatten: axis {dim} is out of range for shape {x.shape}")
    start, end = start_dim % x.ndim, end_dim % x.ndim
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim}")
    merged = prod(x.shape[start : end + 1])
    return reshape(x, (*x.shape[:start], merged, *x.shape[end + 1 :]))


@differentiable(keeps=())
def _permute(x: Array, *, dims: Shape) -> Any:
    return x.transpose(dims), (lambda g: g.transpose(tuple(np.argsort(dims))),)


def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    """View with the axes in the order ``dims``.

    Raises:
        ValueError: ``dims`` does not name every axis once.
    """
    if sorted(d % max(x.ndim, 1) for d in dims) != list(range(x.ndim)):
        raise ValueError(f"permute: {tuple(dims)} does not name each axis of {x.shape} once")
    return _shares(_permute(x, dims=tuple(d % x.ndim for d in dims)), x)


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """View with two axes swapped.

    Raises:
        IndexError: An axis is out of range.
    """
    dims = list(range(x.ndim))
    for dim in (dim0, dim1):
        if not -x.ndim <= dim < x.ndim:
            raise IndexError(f"transpose: axis {dim} is out of range for shape {x.shape}")
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return permute(x, dims)


@differentiable(keeps=())
def _viewed(x: Array, *, index: Any) -> Any:
    """Index with slices, ints and None only: a view, whose gradient is placed, not summed."""
    shape = x.shape
    return x[index], (lambda g: indexing.backward(g, index, shape),)


def squeeze(x: Tensor, dim: Any = None) -> Tensor:
    """View without axes of length 1: all of them, or those of ``dim`` that have it."""
    dims = range(x.ndim) if dim is None else reduction.axes_of("squeeze", x.data, dim)
    gone = {d for d in dims if x.ndim and x.shape[d] == 1}
    index = tuple(0 if d in gone else slice(None) for d in range(x.ndim))
    return _shares(_viewed(x, index=index), x) if gone else x


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """View with a new axis of length 1 at ``dim``.

    Raises:
        IndexError: ``dim`` is out of range.
    """
    if not -x.ndim - 1 <= dim <= x.ndim:
        raise IndexError(f"unsqueeze: axis {dim} is out of range for shape {x.shape}")
    index = (*(slice(None),) * (dim % (x.ndim + 1)), None)
    return _shares(_viewed(x, index=index), x)


@differentiable(keeps=())
def _expand(x: Array, *, shape: Shape) -> Any:
    return np.broadcast_to(x, shape), (_unbroadcast(x),)


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Read-only view with axes of length 1 repeated; -1 keeps a length.

    Raises:
        ValueError: x does not broadcast to ``shape``.
    """
    added = len(shape) - x.ndim
    full = tuple(x.shape[i - added] if n == -1 and i >= added else n for i, n in enumerate(shape))
    try:
        fits = np.broadcast_shapes(x.shape, full) == full
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"expand: {x.shape} cannot become {tuple(shape)}")
    return _shares(_expand(x, shape=full), x)


def getitem(x: Tensor, index: Any) -> Tensor:
    """``x[index]``: a view for ints and slices, else a copy."""
    return _shares(_getitem(x, index=index), x)


@differentiable(keeps=())
def _getitem(x: Array, *, index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    # The gradient goes where the index pointed now, whatever becomes of the index.
    parts = tuple(p.copy() if hasattr(p, "dtype") else p for p in parts)
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)  # one element is then a 0-d array, not a scalar
    shape = x.shape
    return indexing.forward(x, parts), (lambda g: indexing.backward(g, parts, shape),)


def _shares(view: Tensor, x: Tensor) -> Tensor:
    """Count in-place changes of a view and of its base together; a copy keeps its own count."""
    if np.may_share_memory(view.data, x.data):
        view._version = x._version
    return view


@differentiable(keeps=())
def clone(x: Array, *, order: Any = "K") -> Any:
    """Copy."""
    return layout.copy(x, order=order), (lambda g: g,)


@differentiable(keeps=(), fills=(0,))
def cast(x: Array, *, dtype: np.dtype) -> Any:
    """Convert to ``dtype``; integers carry no gradient."""
    before = x.dtype

    def back(g: Array, place: Array | None) -> Array:
        if place is None:
            return layout.cast(g, before)
        layout.fill(place, g)
        return place

    return layout.cast(x, dtype), (back if is_floating(dtype) else None,)


@differentiable(keeps=())
def move(x: Array, *, to: Callable[[Array], Array]) -> Any:
    """Copy to where ``to`` puts it; the gradient comes back."""
    return to(x), (lambda g: to_memory_of(x, g),)


@differentiable(keeps=())
def _cat(*arrays: Array, dim: int) -> Any:
    like = arrays[0]
    lengths = [x.shape[dim] for x in arrays]
    dtype = elementwise.common_dtype(*arrays)
    shape = (*like.shape[:dim], int(np.sum(lengths)), *like.shape[dim + 1 :])
    order = memory_order(like)
    y = empty(like, tuple(shape[axis] for axis in order), dtype)
    y = y.transpose(sorted(range(y.ndim), key=order.__getitem__))
    ends = np.cumsum(lengths)
    places = [
        (*(slice(None),) * dim, slice(int(end - n), int(end)))
        for n, end in zip(lengths, ends, strict=True)
    ]
    for x, place in zip(arrays, places, strict=True):
        layout.fill(y[place], x)
    return y, tuple(
        lambda g, place=place, dtype=x.dtype: layout.cast(g[place], dtype)
        for x, place in zip(arrays, places, strict=True)
    )


def cat(tensors: Iterable[Tensor], dim: int = 0) -> Tensor:
    """Join along an axis.

    Raises:
        ValueError: There is nothing to join, or the other axes differ.
        IndexError: ``dim`` is out of range.
    """
    tensors = list(tensors)
    if not tensors:
        raise ValueError("cat: nothing to join")
    first = tensors[0]
    if not -first.ndim <= dim < first.ndim:
        raise IndexError(f"cat: axis {dim} is out of range for shape {first.shape}")
    dim %= first.ndim
    for x in tensors:
        if x.ndim != first.ndim or any(
            n != m for i, (n, m) in enumerate(zip(x.shape, first.shape, strict=True)) if i != dim
        ):
            shapes = ", ".join(str(x.shape) for x in tensors)
            raise ValueError(f"cat: shapes {shapes} differ outside axis {dim}")
    return _cat(*tensors, dim=dim)


def stack(tensors: Iterable[Tensor], dim: int = 0) -> Tensor:
    """Join along a new axis.

    Raises:
        ValueError, IndexError: As ``cat``.
    """
    return cat([unsqueeze(x, dim) for x in tensors], dim)
