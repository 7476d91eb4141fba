"""Tensor: an array, its gradient, and how it was made."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..kernels import layout
from ..kernels.arrays import (
    BFLOAT16,
    Array,
    Shape,
    check_floats,
    dtype_of,
    full,
    is_floating,
)
from ..kernels.backend import array_module, backend_of, check_usable, is_cupy
from ..kernels.transfer import is_on_gpu, shared, to_gpu, to_host, to_memory_of
from . import autograd, ops
from .autograd import Node, Version


class Extremes(NamedTuple):
    """What ``max`` and ``min`` over one axis return."""

    values: Tensor
    indices: Tensor


class Tensor:
    """An array that remembers the op that made it until ``backward`` has run.

    Args:
        data: An array, whose memory is shared; or a number or nested lists of numbers, which
            become float32, int64 or bool; or a Tensor.
        requires_grad: Whether ``backward`` shall compute a gradient; floating dtypes only.

    Raises:
        TypeError: ``data`` holds no numbers, or cannot have a gradient; or it is bfloat16 and not
            on backend ``cuda`` or ``emulator``.
    """

    __array_ufunc__ = None  # array + Tensor calls Tensor.__radd__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        self.data: Array = data.data if isinstance(data, Tensor) else _as_array(data)
        if self.data.dtype.kind == "V":
            check_floats("Tensor", data=self.data)  # bfloat16 where it cannot be computed with
        self.grad: Tensor | None = None
        self._requires_grad = False
        self._node: Node | None = None
        self._version = data._version if isinstance(data, Tensor) else Version()
        self._grad_slot: Array | None = None  # the place of the gradient in a flat buffer
        if requires_grad:
            self.requires_grad_()

    # What it is

    @property
    def shape(self) -> Shape:
        """Public shape, N C H W for images."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        """NumPy dtype of the elements."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def backend(self) -> str:
        """Backend that ops on this tensor run on."""
        return backend_of(self.data)

    @property
    def is_leaf(self) -> bool:
        """True when no recorded op made it."""
        return self._node is None

    def dim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    def size(self, dim: int | None = None) -> Any:
        """Shape, or the length of one axis."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """Number of elements."""
        return int(self.data.size)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise TypeError("cannot iterate over a 0-d tensor")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), separator=", ", prefix="Tensor(")
        facts = f"shape={self.shape}, dtype={self.dtype}, backend={self.backend}"
        if self._node is not None:
            facts += f", made_by={self._node.name}"
        elif self.requires_grad:
            facts += ", requires_grad=True"
        join = ",\n       " if "\n" in values or len(values) > 60 else ", "
        return f"{type(self).__name__}({values}{join}{facts})"

    def __format__(self, spec: str) -> str:
        """Format one element as the number it is, for f"{loss:.3f}"."""
        return format(self.item() if spec and self.data.size == 1 else str(self), spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise RuntimeError("only leaves can be copied deeply; use detach().clone()")
        copy = type(self)(layout.copy(self.data))
        copy.requires_grad = self.requires_grad
        memo[id(self)] = copy
        if self.grad is not None:
            copy.grad = Tensor(layout.copy(self.grad.data))
        return copy

    # To other worlds

    def numpy(self) -> np.ndarray:
        """Return the values as a NumPy array, sharing memory on a CPU backend; a copy of a GPU's.

        The array is read-only when a gradient is tracked: changing it would go unnoticed.
        """
        if not self.requires_grad or not isinstance(self.data, np.ndarray):
            return to_host(self.data)
        view = self.data.view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"converting {array.dtype} to {dtype} needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        if self.requires_grad:
            raise BufferError("a tensor that requires a gradient: export tensor.detach()")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Access to the memory on a GPU, for CuPy, PyTorch, Numba and others.

        Raises:
            AttributeError: The tensor is not on a GPU.
            RuntimeError: It requires a gradient; export ``detach()``.
        """
        if isinstance(self.data, np.ndarray):
            raise AttributeError("__cuda_array_interface__: this tensor is not on a GPU")
        if self.requires_grad:
            raise RuntimeError("a tensor that requires a gradient: export tensor.detach()")
        return self.data.__cuda_array_interface__

    def cpu(self) -> Tensor:
        """Return a copy in the memory of the host, itself when it is there.

        The gradient flows through. NumPy's arrays run on the host backend.
        """
        return self if isinstance(self.data, np.ndarray) else ops.move(self, to=to_host)

    def cuda(self) -> Tensor:
        """Return a copy on the GPU, itself when it is there; the gradient flows through.

        Raises:
            RuntimeError: Backend ``cuda`` cannot be used here; the message says why.
        """
        if not isinstance(self.data, np.ndarray):
            return self
        check_usable("cuda", "cuda()")
        return ops.move(self, to=to_gpu)

    def item(self) -> Any:
        """Return the only element as a Python number.

        Raises:
            ValueError: There is more than one element, or none.
        """
        if self.data.size != 1:
            raise ValueError(f"item: only one element can become a number, got shape {self.shape}")
        return self.data.item()

    def tolist(self) -> Any:
        """Return the values as nested lists of Python numbers."""
        return self.data.tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iub":
            raise TypeError(f"a {self.dtype} tensor is no index")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous")
        return bool(self.item())

    # Gradients

    @property
    def requires_grad(self) -> bool:
        """Whether ``backward`` computes a gradient for it.

        Raises:
            TypeError: On setting: the dtype is not floating.
            RuntimeError: A result of recorded ops cannot stop requiring one; use ``detach``.
        """
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        if requires_grad and not is_floating(self.data.dtype):
            raise TypeError(f"only floating tensors can require a gradient, not {self.dtype}")
        if not requires_grad and self._node is not None:
            raise RuntimeError("a result requires a gradient if its inputs do; use detach()")
        self._requires_grad = bool(requires_grad)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` and return self."""
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> None:
        """Keep ``grad`` although an op made this tensor."""
        if self._node is not None:
            self._node.retained = weakref.ref(self)

    def detach(self) -> Tensor:
        """Return the same memory, without the history."""
        return Tensor(self)

    def backward(
        self,
        gradient: Any = None,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None:
        """Add the gradients of this tensor to the ``grad`` of the leaves it was made from.

        Args:
            gradient: d(loss)/d(self), of the shape of self; may be left out for one element.
            retain_graph: Keep what the ops captured, for another ``backward``.
            create_graph: Not supported.

        Raises:
            RuntimeError: Nothing here requires a gradient, the graph was released by an earlier
                ``backward``, or a tensor that it needs was changed in place.
            ValueError: ``gradient`` is missing or has another shape.
            NotImplementedError: ``create_graph``.
        """
        if create_graph:
            raise NotImplementedError(
                "backward: create_graph is not supported: gradients are computed by kernels "
                "that are not recorded, so there are no second derivatives"
            )
        if not self.requires_grad:
            raise RuntimeError("backward: neither this tensor nor its inputs require a gradient")
        if gradient is None:
            if self.data.size != 1:
                raise ValueError(
                    f"backward: a tensor of shape {self.shape} needs the gradient argument; only "
                    "one element can do without"
                )
            grad = full(self.data, 1, self.shape)
        else:
            grad = gradient.data if isinstance(gradient, Tensor) else _as_array(gradient)
            if tuple(grad.shape) != self.shape:
                raise ValueError(
                    f"backward: gradient has shape {tuple(grad.shape)}, expected {self.shape}"
                )
            grad = layout.cast(grad, self.dtype)
        autograd.backward(self, grad, retain_graph=bool(retain_graph))

    # Arithmetic

    def __add__(self, other: Any) -> Tensor:
        return ops.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return ops.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return ops.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return ops.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return ops.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return ops.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return ops.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return ops.divide(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return ops.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return ops.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return ops.matmul(other, self)

    def __neg__(self) -> Tensor:
        return ops.negative(self)

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return ops.absolute(self)

    def __eq__(self, other: Any) -> Any:
        return False if other is None else ops.equal(self, other)

    def __ne__(self, other: Any) -> Any:
        return True if other is None else ops.not_equal(self, other)

    def __lt__(self, other: Any) -> Tensor:
        return ops.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return ops.less(other, self)

    def __ge__(self, other: Any) -> Tensor:
        return ops.less_equal(other, self)

    __hash__ = object.__hash__

    def __and__(self, other: Any) -> Tensor:
        return ops.minimum(_mask(self), _mask(other))

    def __or__(self, other: Any) -> Tensor:
        return ops.maximum(_mask(self), _mask(other))

    def __xor__(self, other: Any) -> Tensor:
        return ops.not_equal(_mask(self), _mask(other))

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> Tensor:
        return ops.equal(_mask(self), False)

    def _update(self, op: Any, other: Any) -> Tensor:
        """Do ``self op= other``: a recorded op gives a new tensor, which the name is bound to.

        Where nothing is recorded the memory changes, and all views of it with it.
        """
        tracked = isinstance(other, Tensor) and other.requires_grad
        if autograd.is_grad_enabled() and (self.requires_grad or tracked):
            if self.requires_grad and self._node is None:
                raise RuntimeError(
                    "a leaf whose gradient is tracked cannot be changed in place; use no_grad()"
                )
            return op(self, other)
        if self._node is not None:
            raise RuntimeError("a result that backward needs cannot be changed in place")
        with autograd.no_grad():
            result = op(self, other)
        if result.shape != self.shape or np.promote_types(result.dtype, self.dtype) != self.dtype:
            raise TypeError(
                f"{result.shape} {result.dtype} does not fit in place of {self.shape} {self.dtype}"
            )
        return self.copy_(result)

    def __iadd__(self, other: Any) -> Tensor:
        return self._update(ops.add, other)

    def __isub__(self, other: Any) -> Tensor:
        return self._update(ops.subtract, other)

    def __imul__(self, other: Any) -> Tensor:
        return self._update(ops.multiply, other)

    def __itruediv__(self, other: Any) -> Tensor:
        return self._update(ops.divide, other)

    def __ipow__(self, other: Any) -> Tensor:
        return self._update(ops.power, other)

    def add(self, other: Any) -> Tensor:
        """Self + other."""
        return ops.add(self, other)

    def sub(self, other: Any) -> Tensor:
        """Self - other."""
        return ops.subtract(self, other)

    def mul(self, other: Any) -> Tensor:
        """Self * other."""
        return ops.multiply(self, other)

    def div(self, other: Any) -> Tensor:
        """Self / other."""
        return ops.divide(self, other)

    def pow(self, exponent: Any) -> Tensor:
        """Self ** exponent."""
        return ops.power(self, exponent)

    def matmul(self, other: Any) -> Tensor:
        """Matrix product; ``other`` has at most two axes."""
        return ops.matmul(self, other)

    def neg(self) -> Tensor:
        """-self."""
        return ops.negative(self)

    def abs(self) -> Tensor:
        """|self|; the gradient at 0 is 0."""
        return ops.absolute(self)

    def exp(self) -> Tensor:
        """e ** self."""
        return ops.exp(self)

    def log(self) -> Tensor:
        """Natural logarithm."""
        return ops.log(self)

    def sqrt(self) -> Tensor:
        """Square root."""
        return ops.sqrt(self)

    def clamp(self, min: Any = None, max: Any = None) -> Tensor:
        """Self, but at least ``min`` and at most ``max``; the gradient is 0 outside.

        Raises:
            ValueError: Both are None.
        """
        return ops.clamp(self, min, max)

    def relu(self) -> Tensor:
        """max(self, 0)."""
        return ops.relu(self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + e ** -self)."""
        return ops.sigmoid(self)

    def tanh(self) -> Tensor:
        """Hyperbolic tangent."""
        return ops.tanh(self)

    # Reductions

    def sum(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Sum over ``dim``: an axis, several, or all (None)."""
        return ops.sum(self, dim=dim, keepdim=keepdim)

    def mean(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Mean over ``dim``."""
        return ops.mean(self, dim=dim, keepdim=keepdim)

    def var(self, dim: Any = None, correction: int = 1, keepdim: bool = False) -> Tensor:
        """Variance over ``dim``; the sum of squares is divided by the count - correction."""
        return ops.var(self, dim=dim, correction=correction, keepdim=keepdim)

    def std(self, dim: Any = None, correction: int = 1, keepdim: bool = False) -> Tensor:
        """Standard deviation over ``dim``."""
        return ops.sqrt(self.var(dim, correction, keepdim))

    def amax(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Largest element over ``dim``; ties share the gradient equally."""
        return ops.amax(self, dim=dim, keepdim=keepdim)

    def amin(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Smallest element over ``dim``; ties share the gradient equally."""
        return ops.amin(self, dim=dim, keepdim=keepdim)

    def max(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Largest element; with ``dim`` also the index of the first one, as (values, indices)."""
        return self.amax() if dim is None else Extremes(*ops.max_over(self, dim, keepdim))

    def min(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Smallest element; with ``dim`` also the index of the first one."""
        return self.amin() if dim is None else Extremes(*ops.min_over(self, dim, keepdim))

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Index, int64, of the first largest element."""
        return ops.argmax(self, dim, keepdim)

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Index, int64, of the first smallest element."""
        return ops.argmin(self, dim, keepdim)

    # Shape and type

    def reshape(self, *shape: Any) -> Tensor:
        """Same elements in C order of the public axes; one length may be -1."""
        return ops.reshape(self, _sequence(shape))

    #: Copies where the memory is not C-contiguous, as after a convolution; PyTorch's would refuse.
    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Merge axes ``start_dim`` to ``end_dim``."""
        return ops.flatten(self, start_dim, end_dim)

    def permute(self, *dims: Any) -> Tensor:
        """View with the axes in this order."""
        return ops.permute(self, _sequence(dims))

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """View with two axes swapped."""
        return ops.transpose(self, dim0, dim1)

    def t(self) -> Tensor:
        """View of a matrix with its axes swapped; at most two axes."""
        if self.ndim > 2:
            raise ValueError(f"t: at most two axes, got shape {self.shape}; use transpose")
        return self if self.ndim < 2 else ops.transpose(self, 0, 1)

    @property
    def T(self) -> Tensor:
        """View with the axes in reverse order."""
        return ops.permute(self, tuple(reversed(range(self.ndim))))

    def squeeze(self, dim: Any = None) -> Tensor:
        """View without axes of length 1."""
        return ops.squeeze(self, dim)

    def unsqueeze(self, dim: int) -> Tensor:
        """View with a new axis of length 1 at ``dim``."""
        return ops.unsqueeze(self, dim)

    def expand(self, *shape: Any) -> Tensor:
        """View with axes of length 1 repeated; -1 keeps a length."""
        return ops.expand(self, _sequence(shape))

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, _plain_index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        if self._node is not None or (self.requires_grad and autograd.is_grad_enabled()):
            raise RuntimeError(
                "a tensor whose gradient is tracked cannot be changed in place; use "
                "convolt.where, or no_grad() on a leaf"
            )
        if isinstance(value, Tensor) and value.requires_grad and autograd.is_grad_enabled():
            raise RuntimeError(
                "assigning a tensor whose gradient is tracked would lose its history; use "
                "convolt.where, cat or stack, or assign value.detach()"
            )
        value = value.data if isinstance(value, Tensor) else value
        if hasattr(value, "dtype") and value.ndim:
            value = to_memory_of(self.data, value)
        self.data[_plain_index(index)] = value
        self._version.count += 1

    def clone(self) -> Tensor:
        """Return a copy with its own memory; the gradient flows through."""
        return ops.clone(self)

    def contiguous(self) -> Tensor:
        """Return C-contiguous memory of the public shape, self when it is."""
        return self if self.data.flags.c_contiguous else ops.clone(self, order="C")

    def to(self, where_or_dtype: Any) -> Tensor:
        """Convert to a dtype, NumPy's or "bfloat16", or move to "cpu" or "cuda"; self when it is.

        Raises:
            RuntimeError: As ``cuda``.
        """
        if isinstance(where_or_dtype, str) and where_or_dtype in ("cpu", "cuda"):
            return getattr(self, where_or_dtype)()
        dtype = dtype_of(where_or_dtype)
        return self if self.dtype == dtype else ops.cast(self, dtype=dtype)

    astype = to

    def float(self) -> Tensor:
        """Convert to float32."""
        return self.to(np.float32)

    def double(self) -> Tensor:
        """Convert to float64."""
        return self.to(np.float64)

    def bfloat16(self) -> Tensor:
        """Convert to bfloat16, a type of the backends ``cuda`` and ``emulator``."""
        return self.to(BFLOAT16)

    def long(self) -> Tensor:
        """Convert to int64."""
        return self.to(np.int64)

    def copy_(self, other: Any) -> Tensor:
        """Copy values into this tensor's memory, converted and broadcast; a leaf's too.

        They may come from the host to a GPU, or from there.

        Raises:
            RuntimeError: An op made this tensor and its gradient is tracked.
            ValueError: The shapes do not fit.
        """
        if self._node is not None:
            raise RuntimeError("copy_: this tensor was made by a recorded op; use detach() first")
        other = other.data if isinstance(other, Tensor) else _as_array(other)
        layout.fill(self.data, to_memory_of(self.data, other))
        self._version.count += 1
        return self


class Parameter(Tensor):
    """A leaf that layers own and optimizers change."""

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data)
        self.requires_grad_(requires_grad)


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Return a Tensor with its own copy of ``data`` on the current backend.

    Raises:
        TypeError: ``data`` holds no numbers.
    """
    data = data.data if isinstance(data, Tensor) else data
    array = _as_array(data)
    if dtype is not None:
        dtype = dtype_of(dtype)
        array = layout.cast(array, dtype) if is_cupy(array) else array.astype(dtype)
    if array_module() is np:
        return Tensor(np.array(to_host(array)), requires_grad)
    return Tensor(to_gpu(array) if isinstance(array, np.ndarray) else array.copy(), requires_grad)


def from_dlpack(source: Any) -> Tensor:
    """Return a Tensor that shares the memory of another library's array (DLPack)."""
    return Tensor(shared(source) if is_on_gpu(source) else np.from_dlpack(source))


def _as_array(data: Any) -> Array:
    if isinstance(data, np.ndarray) or is_cupy(data):
        if data.dtype.kind not in "biuf" and data.dtype.name != BFLOAT16:
            raise TypeError(f"a Tensor holds numbers, not {data.dtype}")
        return data
    if is_on_gpu(data):
        return _as_array(shared(data))
    array = np.asarray(data)
    if array.dtype.kind not in "biuf" and array.dtype.name != BFLOAT16:
        raise TypeError(f"a Tensor holds numbers, not {type(data).__name__}: {data!r}")
    if not hasattr(data, "dtype"):  # Python numbers
        array = array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))
    return array if array_module() is np else to_gpu(array)


def _sequence(given: Sequence[Any]) -> tuple[int, ...]:
    """Accept f(2, 3) and f((2, 3))."""
    if len(given) == 1 and isinstance(given[0], Sequence):
        given = given[0]
    try:
        return tuple(operator.index(x) for x in given)
    except TypeError:
        raise TypeError(f"a shape or order of axes is made of ints, not {given!r}") from None


def _mask(x: Any) -> Tensor:
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.dtype != np.bool_:
        raise TypeError(f"&, |, ^ and ~ combine bool tensors, not {x.dtype}")
    return x


def _plain_index(index: Any) -> Any:
    """Replace Tensors in an index by their arrays."""
    if isinstance(index, tuple):
        return tuple(_plain_index(i) for i in index)
    return index.data if isinstance(index, Tensor) else index
