"""Fully connected layer, a matrix product: the contract that every backend implements.

    y[m,k] = bias[k] + sum over c of x[m,c] * w[k,c]

Gradients: grad_x = grad_y w (``dgrad``), grad_w = grad_y^T x (``wgrad``); as in the Edinburgh
MLP lectures. Arrays: x (M,C), w (K,C), bias (K,), y (M,K); any strides, results C-contiguous.
"""

from dataclasses import dataclass
from functools import lru_cache

from ..arrays import Array, Shape, check_floats, check_index_range, check_layout, check_rank, empty
from ..backend import implementation


@dataclass(frozen=True, slots=True)
class LinearSize:
    """Sizes of one product: x (M,C), w (K,C), y (M,K)."""

    m: int
    c: int
    k: int

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, x_shape: Shape, w_shape: Shape) -> "LinearSize":
        """Check a product and return its sizes.

        Raises:
            ValueError: Shapes do not fit, or an array exceeds 2**31 - 1 elements.
        """
        if len(x_shape) != 2 or len(w_shape) != 2 or x_shape[1] != w_shape[1]:
            raise ValueError(
                f"linear: x {tuple(x_shape)} must be (M, C) and weight {tuple(w_shape)} (K, C) "
                "with the same C; change in_features of the layer or the shape of the input"
            )
        size = cls(x_shape[0], x_shape[1], w_shape[0])
        check_index_range("linear", x=size.m * size.c, weight=size.k * size.c, y=size.m * size.k)
        return size

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one fprop, dgrad or wgrad."""
        return self.m * self.c * self.k

    @property
    def flops(self) -> int:
        """Floating-point operations of one fprop, dgrad or wgrad."""
        return 2 * self.multiply_adds

    def bytes(self, itemsize: int) -> int:
        """Least DRAM traffic of one fprop, dgrad or wgrad: |x| + |w| + |y|, each moved once."""
        return itemsize * (self.m * self.c + self.k * self.c + self.m * self.k)


def fprop(x: Array, w: Array, bias: Array | None) -> Array:
    """Multiply activations with the transposed weight and add the bias, if there is one.

    Args:
        x: (M, C), float32 or float64; bfloat16 on ``cuda`` and ``emulator``, summed in float32.
        w: (K, C), dtype and backend of ``x``.
        bias: (K,), dtype and backend of ``x``, or None.

    Returns:
        (M, K), dtype of ``x``.

    Raises:
        TypeError: dtypes or backends differ, or are not supported.
        ValueError: Shapes do not fit.
    """
    size = LinearSize.of(x.shape, w.shape)
    check_floats("linear", x=x, weight=w, bias=bias)
    if bias is not None and tuple(bias.shape) != (size.k,):
        raise ValueError(f"linear: bias has shape {tuple(bias.shape)}, expected ({size.k},)")
    y = empty(x, (size.m, size.k))
    implementation(__name__, x, w, bias).fprop(x, w, bias, y)
    return y


def dgrad(grad_y: Array, w: Array) -> Array:
    """Gradient with respect to x: grad_y (M, K) times w (K, C), giving (M, C).

    Raises:
        TypeError, ValueError: As ``fprop``.
    """
    check_rank("linear", 2, grad_y=grad_y, weight=w)
    check_floats("linear", grad_y=grad_y, weight=w)
    if grad_y.shape[1] != w.shape[0]:
        raise ValueError(
            f"linear: grad_y {tuple(grad_y.shape)} must be (M, K) "
            f"for weight {tuple(w.shape)} (K, C)"
        )
    grad_x = empty(grad_y, (grad_y.shape[0], w.shape[1]))
    implementation(__name__, grad_y, w).dgrad(grad_y, w, grad_x)
    return grad_x


def wgrad(grad_y: Array, x: Array, grad_w: Array | None = None) -> Array:
    """Gradient with respect to w: transposed grad_y (M, K) times x (M, C), giving (K, C).

    ``grad_w`` is the C-contiguous array to fill in and return; a new one if it is None.

    Raises:
        TypeError, ValueError: As ``fprop``; ValueError also for a ``grad_w`` of another shape or
            memory order.
    """
    check_rank("linear", 2, grad_y=grad_y, x=x)
    check_floats("linear", grad_y=grad_y, x=x, grad_w=grad_w)
    if grad_y.shape[0] != x.shape[0]:
        raise ValueError(
            f"linear: grad_y {tuple(grad_y.shape)} must be (M, K) for x {tuple(x.shape)} (M, C)"
        )
    shape = (grad_y.shape[1], x.shape[1])
    check_layout("linear", "grad_w", grad_w, shape)
    grad_w = empty(grad_y, shape) if grad_w is None else grad_w
    implementation(__name__, grad_y, x, grad_w).wgrad(grad_y, x, grad_w)
    return grad_w
