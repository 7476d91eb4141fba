"""How exactly float32 products are made on CUDA: ``CONVOLT_PRECISION`` and ``use_precision``.

    ieee    in float32
    tf32    on tensor cores, operands rounded to 10 bits of mantissa, sums in float32
    bf16    convolutions and linear layers take their operands in bfloat16 (7 bits), sums in
            float32; parameters and normalization stay float32, other products are as with tf32

Left alone, convolutions on a GPU use tf32, as PyTorch's do, and everything else ieee. float64 and
bfloat16 arrays are not touched, and the host backends know ieee only.
"""

import os
from contextvars import ContextVar

NAMES = ("ieee", "tf32", "bf16")

_chosen: str | None = None  # by CONVOLT_PRECISION or use_precision
_asked = False  # whether the environment was looked at
# That of the running backward, in a tuple: None in it is also a choice.
pinned: ContextVar[tuple[str | None] | None] = ContextVar("pinned precision", default=None)


def check(name: str, source: str) -> str:
    """Return ``name`` when there is a precision of this name.

    Raises:
        ValueError: There is none; the message begins with ``source``.
    """
    if name not in NAMES:
        raise ValueError(f"{source}: precision must be one of {', '.join(NAMES)}, got {name!r}")
    return name


def current_precision() -> str | None:
    """Return what ``CONVOLT_PRECISION`` or ``use_precision`` asks for; None: each op's default.

    Raises:
        ValueError: ``CONVOLT_PRECISION`` names no precision.
    """
    held = pinned.get()
    return held[0] if held else _choice()


def _choice() -> str | None:
    global _chosen, _asked
    if not _asked:
        if asked := os.environ.get("CONVOLT_PRECISION"):
            _chosen = check(asked, f"CONVOLT_PRECISION={asked}")
        _asked = True
    return _chosen


class use_precision:
    """Choose the precision: at once when called, until the block ends in a ``with`` statement.

    It holds in all threads. A backward pass keeps the precision of its forward pass.

    Args:
        name: ``"ieee"``, ``"tf32"`` or ``"bf16"``.

    Raises:
        ValueError: There is no precision of this name.
    """

    def __init__(self, name: str) -> None:
        global _chosen
        check(name, f"use_precision({name!r})")
        self._previous, _chosen = _choice(), name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        global _chosen
        _chosen = self._previous
