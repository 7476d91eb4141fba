"""Random numbers: one counter-based generator, the same numbers on every backend.

Philox4x32-10 (Salmon et al., 2011) turns (seed, counter) into numbers. The state is an array
of two uint64, the seed and the counter, so that a captured step can advance it on the device.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels import elementwise, random
from ..kernels.arrays import Array
from ..kernels.backend import array_module
from ..kernels.transfer import to_memory_of
from .tensor import Tensor, _sequence


class Generator:
    """A stream of random numbers that a seed determines.

    Args:
        seed: Any int; taken modulo 2**64.
    """

    def __init__(self, seed: int = 0) -> None:
        self._state: Array | None = None
        self._start = (seed % 2**64, 0)

    def manual_seed(self, seed: int) -> "Generator":
        """Start the stream of ``seed`` and return self."""
        self.set_state((seed, 0))
        return self

    def get_state(self) -> tuple[int, int]:
        """Return (seed, counter)."""
        if self._state is None:
            return self._start
        seed, counter = self._state.tolist()
        return int(seed), int(counter)

    def set_state(self, state: Sequence[int]) -> None:
        """Continue where ``get_state`` was called."""
        self._state, self._start = None, (int(state[0]) % 2**64, int(state[1]))

    def ticket(self, count: int, like: Array | None = None) -> Array:
        """Return the (seed, counter) of ``count`` 32-bit numbers, and move past them.

        It lives where ``like`` does, or the current backend; so does the state from then on.
        """
        like = array_module().empty(0) if like is None else like
        if self._state is None:
            self._state = np.array(self._start, np.uint64)
        self._state = to_memory_of(like, self._state)
        return random.ticket(self._state, count)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Start the default stream of ``seed``: initial weights, dropout, ``rand``, ``randn``."""
    return default_generator.manual_seed(seed)


def _words(count: int, dtype: np.dtype) -> int:
    """32-bit numbers that ``count`` elements use."""
    return count * (2 if dtype == np.float64 else 1)


def uniform(
    shape: Sequence[int],
    low: float = 0.0,
    high: float = 1.0,
    dtype: Any = np.float32,
    generator: Generator | None = None,
) -> Array:
    """Return an array uniform in [low, high), float32 or float64; rounding may give ``high``."""
    dtype = np.dtype(dtype)
    ticket = (generator or default_generator).ticket(_words(math.prod(shape), dtype))
    unit = random.uniform(ticket, tuple(shape), dtype)
    return elementwise.add(elementwise.multiply(unit, float(high - low)), float(low))


def normal(
    shape: Sequence[int],
    mean: float = 0.0,
    std: float = 1.0,
    dtype: Any = np.float32,
    generator: Generator | None = None,
) -> Array:
    """Return a normally distributed array, float32 or float64."""
    dtype = np.dtype(dtype)
    ticket = (generator or default_generator).ticket(_words(math.prod(shape), dtype))
    unit = random.normal(ticket, tuple(shape), dtype)
    return elementwise.add(elementwise.multiply(unit, float(std)), float(mean))


def rand(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Return a Tensor uniform in [0, 1)."""
    return Tensor(uniform(_sequence(shape), dtype=dtype), requires_grad)


def randn(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """Return a Tensor of standard normal numbers."""
    return Tensor(normal(_sequence(shape), dtype=dtype), requires_grad)
