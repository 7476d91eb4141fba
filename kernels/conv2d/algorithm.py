"""What there is to compute on CUDA, and what computes it: a family of kernels and its tile."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, address, empty
from ..backend import is_cupy
from ..batch_norm import GradientSums, Moments, Normalization
from ..precision import current_precision
from . import Conv2dSize

VERBS = ("fprop", "dgrad", "wgrad")
ALIGNMENT = 16  # bytes that one thread, or TMA, moves at a time
ACTIVATIONS = {None: 0, "relu": 1}  # of ../cuda/epilogue.cuh


@dataclass(frozen=True, slots=True)
class Problem:
    """One verb of one convolution, with all that decides what can compute it.

    Attributes:
        verb: One of ``VERBS``.
        size: Of the convolution.
        dtype: Of the arrays: ``"float32"``, ``"float64"`` or ``"bfloat16"``.
        precision: Of the products: ``"tf32"``, or ``"ieee"`` for the dtype's own.
        aligned: Whether all arrays begin on a multiple of ``ALIGNMENT``.
    """

    verb: str
    size: Conv2dSize
    dtype: str
    precision: str = "ieee"
    aligned: bool = True

    @classmethod
    def of(
        cls, verb: str, size: Conv2dSize, *arrays: Array, gpu_precision: str = "tf32"
    ) -> "Problem":
        """Describe what is to be done with arrays.

        Args:
            verb: One of ``VERBS``.
            size: Of the convolution.
            arrays: Those that the kernels are given.
            gpu_precision: Of float32 products on a GPU when nobody asks for another one; on the
                emulator that is ``"ieee"``.
        """
        dtype, precision = arrays[0].dtype.name, "ieee"
        if dtype == "float32":
            chosen = current_precision() or (gpu_precision if is_cupy(arrays[0]) else "ieee")
            precision = "ieee" if chosen == "ieee" else "tf32"
        return cls(verb, size, dtype, precision, not any(address(a) % ALIGNMENT for a in arrays))

    @property
    def on_tensor_cores(self) -> bool:
        """Whether the products may be made there: bfloat16, and float32 as tf32."""
        return self.dtype == "bfloat16" or self.precision == "tf32"

    @property
    def depthwise(self) -> bool:
        """Whether a group has one channel: a tile of a product would be empty for the most part."""
        return self.size.groups > 1 and self.size.c == self.size.groups

    @property
    def gemm(self) -> tuple[int, int, int]:
        """Rows, columns and depth of the product of matrices that each group is.

        fprop: pixels of y x filters; dgrad: pixels of x x channels, of the largest stride phase;
        wgrad: filters x taps.
        """
        size = self.size
        group_c, group_k = size.c // size.groups, size.k // size.groups
        taps, pixels = size.r * size.s, size.n * size.p * size.q
        if self.verb == "fprop":
            return pixels, group_k, taps * group_c
        if self.verb == "wgrad":
            return group_k, taps * group_c, pixels
        rows, columns = -(-size.h // size.stride_h), -(-size.w // size.stride_w)
        taps = -(-size.r // size.stride_h) * -(-size.s // size.stride_w)
        return size.n * rows * columns, group_c, taps * group_k


@dataclass(frozen=True, slots=True)
class Algorithm:
    """Kernels that compute a verb, and how they cut the product of matrices.

    Attributes:
        family: ``"simt"``, ``"depthwise"``, ``"mma"`` or ``"wgmma"``: a module of this folder.
        tile_m: Rows of the product that a block has at a time.
        tile_n: Columns.
        tile_k: Of the depth, what a block has in shared memory at a time.
        splits: Parts of the depth, each summed by blocks of its own; a function of the size.
    """

    family: str
    tile_m: int
    tile_n: int
    tile_k: int
    splits: int = 1

    @property
    def name(self) -> str:
        """By which a user, and the table of choices, call it: the splits follow from the size."""
        return f"{self.family}_{self.tile_m}x{self.tile_n}"


def empty_moments(algorithm: Algorithm, y: Array) -> Moments:
    """Return arrays for the moments of y (N, P, Q, K), of the results as rounded.

    A part is the ``algorithm.tile_m`` pixels (n, p, q), counted in this order, of a tile.
    """
    k, rows = y.shape[-1], algorithm.tile_m
    shape = (-(-(y.size // k) // rows), k)
    means, squares = (empty(y, shape, np.float32) for _ in range(2))
    return Moments(means, squares, rows)


def empty_sums(below: Normalization | None, parts: int) -> GradientSums | None:
    """Return arrays for the sums of g of a batch-norm, one row a tile of rows of a dgrad.

    None where g needs y, but has no signs of it.
    """
    if below is None or (below.activation and below.y is not None and below.signs is None):
        return None
    shape = parts, below.x.shape[-1]
    return GradientSums(*(empty(below.x, shape, np.float32) for _ in range(2)))


def step_back(
    addend: Array | None,
    below: Normalization | None,
    grad_x: Array,
    sums: GradientSums | None,
) -> tuple[Any, ...]:
    """Return the arguments of a dgrad's kernel from ``addend`` to ``activation``."""
    if below is None or sums is None:
        return (addend, *(None,) * 6, grad_x, None, None, ACTIVATIONS[None])
    channels = below.mean, below.inv_std, below.weight, below.bias
    arrays = addend, below.x, below.signs, *channels, grad_x, sums.sums, sums.products
    return (*arrays, ACTIVATIONS[below.activation])
