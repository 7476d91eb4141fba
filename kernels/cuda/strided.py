"""How kernels walk arrays of any strides: the host's side of strided.cuh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ..arrays import INDEX_LIMIT, Array, Shape, address
from .launch import Constant, Kernel, ceil_div
from .packs import PACK_BYTES

AXES = 8  # strided.cuh says the same
_PACK = 8  # elements of a thread at most, within PACK_BYTES

Steps = tuple[int, ...]  # elements from one to the next along each axis


@dataclass(frozen=True, slots=True)
class Strided:
    """The fields of ``struct Strided``, axis 0 the innermost, and the number of threads.

    Attributes:
        count: Elements of y.
        axes: Of the space, after merging.
        packed: Whether a thread moves several neighbours.
        shape: AXES lengths, as the following four.
        y, a, b, c: Steps of the result and of up to three operands.
        threads: To launch.
    """

    count: int
    axes: int
    packed: bool
    shape: Steps
    y: Steps
    a: Steps
    b: Steps
    c: Steps
    threads: int

    @classmethod
    def of(cls, y: Array, *operands: Array | None) -> Strided:
        """Return how to walk ``y`` and ``operands``, which broadcast to its shape; None: nothing.

        Raises:
            ValueError: As ``walk``; or strides are not whole elements.
        """
        arrays = (y, *operands)
        widest = max(x.itemsize for x in arrays if x is not None)
        pack = min(PACK_BYTES // widest, _PACK)
        return _strided(
            y.shape,
            tuple(None if x is None else (x.shape, x.strides, x.itemsize) for x in arrays),
            tuple(x is None or address(x) % (pack * x.itemsize) == 0 for x in arrays),
            pack,
        )

    @classmethod
    def walk(
        cls, shape: Shape, steps: Sequence[Steps], aligned: tuple[bool, ...] = (), pack: int = 1
    ) -> Strided:
        """Return how to walk arrays of these steps along the axes of ``shape``, y's first.

        Args:
            shape: Of y.
            steps: Of y and the operands.
            aligned: Whether the first ``pack`` elements of each array are one aligned piece.
            pack: Neighbours that a thread could move; 1 if it must not.

        Raises:
            ValueError: y has more elements than an int32 counts, or more than AXES axes of which
                no two can be merged.
        """
        lengths, steps = merged(shape, steps)
        count = prod(shape)
        if count > INDEX_LIMIT:
            raise ValueError(
                f"shape {shape} has {count:,} elements, more than an int32 index can count "
                f"({INDEX_LIMIT:,}); use a smaller batch"
            )
        if len(lengths) > AXES:
            raise ValueError(
                f"shape {shape}: {len(lengths)} axes that cannot be merged, at most {AXES} are "
                "possible; copy the arrays first, .contiguous()"
            )
        packed = (
            pack > 1
            and (len(lengths) == 1 or lengths[0] % pack == 0)
            and steps[0][0] == 1
            and all(s[0] == 0 or _packs(s, a, pack) for s, a in zip(steps, aligned, strict=True))
        )
        threads = ceil_div(count, pack) if packed else count
        y, a, b, c = (_padded(s) for s in (*steps, (), (), ())[:4])
        return cls(count, len(lengths), packed, _padded(lengths), y, a, b, c, threads)


def launch(
    kernel: Kernel,
    y: Array,
    *operands: Array | None,
    options: tuple[float, ...] = (),
    **constants: Constant,
) -> None:
    """Launch an entry point of parameters (operands, y, struct Strided, options)."""
    size = Strided.of(y, *operands)
    grid = ceil_div(size.threads, kernel.block)
    kernel.launch(grid, *operands, y, size, *options, **constants)


def steps_of(x_shape: Shape, strides: Shape, itemsize: int, shape: Shape) -> Steps:
    """Return an array's steps along the axes of ``shape``, 0 where it is broadcast.

    Raises:
        ValueError: A stride is not a multiple of the size of an element.
    """
    if any(stride % itemsize for n, stride in zip(x_shape, strides, strict=True) if n > 1):
        raise ValueError(
            f"strides {strides} are not multiples of {itemsize} bytes, the size of an element; "
            "copy the array first"
        )
    own = (0 if n == 1 else s // itemsize for n, s in zip(x_shape, strides, strict=True))
    return (0,) * (len(shape) - len(x_shape)) + tuple(own)


def merged(shape: Shape, steps: Sequence[Steps]) -> tuple[Shape, tuple[Steps, ...]]:
    """Return the fewest axes that walk the same elements, the innermost of ``steps[0]`` first."""
    order = sorted((i for i, n in enumerate(shape) if n != 1), key=lambda i: abs(steps[0][i]))
    lengths: list[int] = []
    columns: list[Steps] = []  # for each axis the steps of every array
    for i in order:
        column = tuple(s[i] for s in steps)
        if lengths and column == tuple(s * lengths[-1] for s in columns[-1]):
            lengths[-1] *= shape[i]
        else:
            lengths.append(shape[i])
            columns.append(column)
    if not lengths:
        return (1,), tuple((0,) for _ in steps)
    return tuple(lengths), tuple(zip(*columns, strict=True))


@lru_cache(maxsize=4096)
def _strided(
    shape: Shape,
    arrays: tuple[tuple[Shape, Shape, int] | None, ...],
    aligned: tuple[bool, ...],
    pack: int,
) -> Strided:
    steps = [steps_of(*array, shape) if array else (0,) * len(shape) for array in arrays]
    return Strided.walk(shape, steps, aligned, pack)


def _padded(field: Steps) -> Steps:
    return field + (0,) * (AXES - len(field))


def _packs(steps: Steps, aligned: bool, pack: int) -> bool:
    """Whether every group of ``pack`` neighbours is one aligned piece of memory."""
    return aligned and steps[0] == 1 and all(step % pack == 0 for step in steps[1:])
