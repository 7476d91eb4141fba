"""Random numbers from the counter-based generator Philox4x32-10: the contract of every backend.

Block b of a stream is a bijection of the 128-bit counter (offset + b) under the 64-bit key, seed:
ten rounds on its four 32-bit words, least significant first,

    (c0, c1, c2, c3) <- (hi(M1*c2) ^ c1 ^ k0,  lo(M1*c2),  hi(M0*c0) ^ c3 ^ k1,  lo(M0*c0))
    (k0, k1)         <- (k0 + W0, k1 + W1)

so that any word can be computed without those before it. Source: Salmon, Moraes, Dror, Shaw,
"Parallel random numbers: as easy as 1, 2, 3" (2011), whose known answers the tests hold.

The state of a generator is a uint64 array (seed, offset). An op draws a ``ticket``, the state as
it was, and computes its numbers from that: forward and backward of one op see the same ones.
"""

from math import prod

import numpy as np

from ..arrays import FLOATS, Array, Shape, check_index_range, empty
from ..backend import implementation

BLOCK_WORDS = 4  # 32-bit words that one counter gives


def ticket(state: Array, count: int) -> Array:
    """Copy the state for one op, and advance it past the numbers that this op uses.

    Args:
        state: uint64 (2,): seed, and offset in blocks of 4 words. The offset grows in place,
            modulo 2**64.
        count: 32-bit words that the op uses, >= 0: one for each element of ``uniform`` and
            ``normal`` in float32 and of ``dropout`` in any dtype, two for each in float64.

    Returns:
        uint64 (2,): ``state`` before this call.

    Raises:
        TypeError: ``state`` is not uint64, or ``count`` not an int.
        ValueError: ``state`` does not have shape (2,), or ``count`` is negative.
    """
    check_ticket("random", state, name="state")
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise TypeError(f"random: count must be an int, got {count!r}")
    if count < 0:
        raise ValueError(f"random: count must be >= 0, got {count}")
    blocks = -(-int(count) // BLOCK_WORDS)
    drawn = empty(state, state.shape)
    implementation(__name__, state).ticket(state, blocks, drawn)
    return drawn


def uniform(ticket: Array, shape: Shape, dtype: np.dtype | type | str = np.float32) -> Array:
    """Return numbers spread evenly over [0, 1), the same bits on every backend.

    Element i, in C order, is the upper 24 bits of word i times 2**-24 in float32, and the upper
    53 bits of word 2i + 2**32 * word 2i+1 times 2**-53 in float64.

    Args:
        ticket: uint64 (2,), see ``ticket``.
        shape: Of the result.
        dtype: float32 or float64.

    Returns:
        ``shape``, C-contiguous, on the backend of ``ticket``.

    Raises:
        TypeError: ``ticket`` is not uint64, or ``dtype`` not supported.
        ValueError: ``ticket`` does not have shape (2,), or ``shape`` has a negative length or
            more than 2**31 - 1 elements.
    """
    out = _empty(ticket, shape, dtype)
    implementation(__name__, ticket).uniform(ticket, out)
    return out


def normal(ticket: Array, shape: Shape, dtype: np.dtype | type | str = np.float32) -> Array:
    """Return standard normal numbers, by the transform of Box and Muller (1958).

    Elements 2j and 2j+1, in C order, are r cos(a) and r sin(a) with r = sqrt(-2 ln(1 - u)),
    a = 2 pi v, from elements u = 2j and v = 2j+1 of ``uniform``. Backends agree to 8 u r, u the
    unit roundoff of ``dtype``: their logarithms and cosines round differently.

    Args:
        ticket: uint64 (2,), see ``ticket``.
        shape: Of the result.
        dtype: float32 (no element exceeds 5.8 in size) or float64 (8.6).

    Returns:
        ``shape``, C-contiguous, on the backend of ``ticket``.

    Raises:
        TypeError, ValueError: As ``uniform``.
    """
    out = _empty(ticket, shape, dtype)
    implementation(__name__, ticket).normal(ticket, out)
    return out


def check_ticket(op: str, ticket: Array, name: str = "ticket") -> None:
    """Raise unless ``ticket`` is a uint64 array of shape (2,).

    Raises:
        TypeError: It is not a uint64 array.
        ValueError: It has another shape.
    """
    if getattr(ticket, "dtype", None) != np.uint64:
        raise TypeError(f"{op}: {name} must be a uint64 array (seed, offset), got {ticket!r}")
    if tuple(ticket.shape) != (2,):
        raise ValueError(f"{op}: {name} must have shape (2,), got {tuple(ticket.shape)}")


def _empty(ticket: Array, shape: Shape, dtype: np.dtype | type | str) -> Array:
    check_ticket("random", ticket)
    if np.dtype(dtype) not in FLOATS:
        raise TypeError(f"random: dtype must be float32 or float64, got {np.dtype(dtype)}")
    if any(length < 0 for length in shape):
        raise ValueError(f"random: shape {tuple(shape)} has a negative length")
    check_index_range("random", result=prod(map(int, shape)))
    return empty(ticket, shape, dtype)
