"""batch_norm on CUDA: launches of batch_norm.cu."""

from dataclasses import dataclass

import numpy as np

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..cuda.packs import pack_length, packable

_BLOCK = 256
_COLUMNS, _SLAB_CHANNELS = 64, 128  # most packs, most channels of a slab
_ROWS = 16  # of a thread, where there are enough: the sums of a split are few beside its rows
_BLOCKS = 1024  # about as many as a GPU runs at a time
_CHANNELS = 8  # of a block that adds splits up, as in the source


def _kernel(entry, **constants):
    return Kernel(__file__, "batch_norm.cu", entry, block=_BLOCK, STORAGE=FLOAT_TYPES, **constants)


_MOMENTS = _kernel("batch_norm_forward_moments", PACKED=(False, True))
_NORMALIZE = _kernel("batch_norm_forward_normalize", PACKED=(False, True))
_SUMS = _kernel("batch_norm_backward_sums", PACKED=(False, True))
_GRADIENT = _kernel("batch_norm_backward_gradient", PACKED=(False, True))
_FORWARD_COMBINE = _kernel("batch_norm_forward_combine")
_EVAL_STATISTICS = _kernel("batch_norm_forward_eval_statistics")
_BACKWARD_COMBINE = _kernel("batch_norm_backward_combine")


@dataclass(frozen=True, slots=True)
class Slabs:
    """How blocks share x (M, C) out: slabs of ``columns`` packs x splits of ``rows`` rows."""

    m: int
    c: int
    columns: int
    rows: int
    splits: int
    slabs: int

    @classmethod
    def of(cls, m: int, c: int, pack: int) -> "Slabs":
        """Cut x into packs of ``pack`` channels, slabs and splits.

        Slabs are equally wide and begin on an even pack, so that none shares 32 bytes with its
        neighbour; a block has a thread for each channel of its slab.
        """
        packs = c // pack
        slabs = ceil_div(packs, min(_COLUMNS, _SLAB_CHANNELS // pack))
        columns = ceil_div(packs, slabs)
        if slabs > 1:
            columns += columns % 2
        slabs = ceil_div(packs, columns)
        lines = _BLOCK // columns
        rows = ceil_div(m, max(1, min(m // (lines * _ROWS), _BLOCKS // slabs)))
        return cls(m, c, columns, rows, ceil_div(m, rows), slabs)

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks that walk over x."""
        return self.slabs, self.splits

    @property
    def combine_grid(self) -> int:
        """Blocks that add up splits."""
        return ceil_div(self.c, _CHANNELS)


def forward(x, weight, bias, running_mean, running_var, momentum, eps, y, mean, inv_std):
    size, constants = _cut(x, y)
    means, squares = (np.empty_like(mean, shape=(size.splits, size.c)) for _ in range(2))
    _MOMENTS.launch(size.grid, x, means, squares, size, **constants)
    _FORWARD_COMBINE.launch(
        size.combine_grid,
        means,
        squares,
        running_mean,
        running_var,
        momentum.astype(np.float64, copy=False),
        mean,
        inv_std,
        eps,
        size,
        STORAGE=x.dtype,
    )
    _NORMALIZE.launch(size.grid, x, mean, inv_std, weight, bias, y, size, **constants)


def backward(grad_y, x, mean, inv_std, weight, grad_x, grad_weight, grad_bias):
    sums = _gradients_of_channels(grad_y, x, mean, inv_std, grad_weight, grad_bias)
    size, constants = _cut(grad_y, x, grad_x)
    _GRADIENT.launch(size.grid, grad_y, x, mean, inv_std, weight, *sums, grad_x, size, **constants)


def forward_eval(x, weight, bias, running_mean, running_var, eps, y):
    mean, inv_std = _running(running_mean, running_var, eps)
    size, constants = _cut(x, y)
    _NORMALIZE.launch(size.grid, x, mean, inv_std, weight, bias, y, size, **constants)


def backward_eval(
    grad_y, x, weight, running_mean, running_var, eps, grad_x, grad_weight, grad_bias
):
    mean, inv_std = _running(running_mean, running_var, eps)
    _gradients_of_channels(grad_y, x, mean, inv_std, grad_weight, grad_bias)
    size, constants = _cut(grad_y, grad_x)
    # grad_x = grad_y * (inv_std * weight): a normalization without mean and bias.
    _NORMALIZE.launch(size.grid, grad_y, None, inv_std, weight, None, grad_x, size, **constants)


def _cut(*arrays):
    """Return the slabs of arrays (M, C), and the constants of the kernels that walk over them."""
    m, c = arrays[0].shape
    packed = packable(c, *arrays)
    size = Slabs.of(m, c, pack_length(arrays[0], packed))
    return size, {"STORAGE": arrays[0].dtype, "PACKED": packed}


def _running(running_mean, running_var, eps):
    """Return mean and inv_std of evaluation, float64."""
    c = running_mean.size
    mean, inv_std = (np.empty_like(running_mean, dtype=np.float64) for _ in range(2))
    _EVAL_STATISTICS.launch(
        ceil_div(c, _BLOCK),
        running_mean,
        running_var,
        mean,
        inv_std,
        eps,
        c,
        STORAGE=running_mean.dtype,
    )
    return mean, inv_std


def _gradients_of_channels(grad_y, x, mean, inv_std, grad_weight, grad_bias):
    """Fill grad_weight and grad_bias in; return sum(grad_y) and sum(grad_y * x_hat), float64."""
    size, constants = _cut(grad_y, x)
    sums, products = (np.empty_like(mean, shape=(size.splits, size.c)) for _ in range(2))
    _SUMS.launch(size.grid, grad_y, x, mean, sums, products, size, **constants)
    sum_g, sum_gx = np.empty_like(mean), np.empty_like(mean)
    _BACKWARD_COMBINE.launch(
        size.combine_grid,
        sums,
        products,
        inv_std,
        sum_g,
        sum_gx,
        grad_weight,
        grad_bias,
        size,
        STORAGE=x.dtype,
    )
    return sum_g, sum_gx
