"""What the constructors of layers ask of their arguments."""

from typing import Any

import numpy as np

from ..kernels.arrays import FLOATS


def count(layer: str, name: str, value: Any) -> int:
    """Return ``value`` as an int, at least 1.

    Raises:
        TypeError: It is no int.
        ValueError: It is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{layer}: {name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{layer}: {name} must be >= 1, got {value}")
    return int(value)


def number(layer: str, name: str, value: Any) -> None:
    """Raise unless ``value`` is a number.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{layer}: {name} must be a number, got {value!r}")


def float_dtype(layer: str, dtype: Any) -> np.dtype:
    """Return ``dtype`` as a NumPy dtype, float32 for None.

    Raises:
        TypeError: It is not float32 or float64.
    """
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    if dtype not in FLOATS:
        raise TypeError(f"{layer}: dtype must be float32 or float64, got {dtype}")
    return dtype
