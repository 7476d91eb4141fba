"""Dropout (Srivastava et al. 2014), scaled in training: the contract that every backend implements.

    y[i] = x[i] * m[i],    m[i] = 1 / (1 - p) where u[i] >= p, else 0

with u[i] element i of the float32 ``random.uniform`` of the ticket. i counts the elements of x in
C order of its public shape, so that neither the memory layout nor the dtype of x changes the mask,
and neither does the backend. The gradient is grad_x[i] = grad_y[i] * m[i]; the mask is computed
again, not stored. p = 0 is the identity, p = 1 gives zeros. A product with 0, not a selection:
a NaN or infinity stays visible (as NaN) where it is dropped.
"""

import numpy as np

from ..arrays import Array, check_floats, check_index_range, empty
from ..backend import implementation
from ..random import check_ticket


def forward(x: Array, p: float, ticket: Array) -> Array:
    """Zero each element with probability ``p`` and divide the others by 1 - ``p``.

    Args:
        x: Any shape and strides, float32 or float64; bfloat16 on the backends cuda and emulator.
        p: Probability of zeroing, in [0, 1].
        ticket: uint64 (2,), from ``random.ticket(state, x.size)``.

    Returns:
        Shape, dtype and memory order of ``x``; the same bits on every backend.

    Raises:
        TypeError: The dtype of ``x`` is not supported, ``p`` is not a number, ``ticket`` is not
            uint64 or on another backend.
        ValueError: ``p`` is outside [0, 1], ``ticket`` does not have shape (2,), or ``x`` has more
            than 2**31 - 1 elements.
    """
    _check(p, ticket, x=x)
    y = empty(x)
    implementation(__name__, x, ticket).forward(x, float(p), ticket, y)
    return y


def backward(grad_y: Array, p: float, ticket: Array) -> Array:
    """Gradient with respect to x: grad_y times the mask of ``forward`` with the same ticket.

    Args:
        grad_y: Shape and dtype of x, any strides.
        p: As in ``forward``.
        ticket: As in ``forward``.

    Returns:
        Shape, dtype and memory order of ``grad_y``.

    Raises:
        TypeError, ValueError: As ``forward``.
    """
    _check(p, ticket, grad_y=grad_y)
    grad_x = empty(grad_y)
    implementation(__name__, grad_y, ticket).backward(grad_y, float(p), ticket, grad_x)
    return grad_x


def _check(p: float, ticket: Array, **arrays: Array) -> None:
    check_floats("dropout", **arrays)
    check_index_range("dropout", **{name: array.size for name, array in arrays.items()})
    check_ticket("dropout", ticket)
    if isinstance(p, bool) or not isinstance(p, int | float | np.floating):
        raise TypeError(f"dropout: p must be a number, got {p!r}")
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be in [0, 1], got {p}")
