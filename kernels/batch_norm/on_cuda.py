"""batch_norm on CUDA: launches of batch_norm.cu."""

from dataclasses import dataclass, replace

import numpy as np

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..cuda.packs import pack_length, packable
from . import GradientSums

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
_FORWARD_COMBINE = _kernel("batch_norm_forward_combine", MOMENTS=("float32", "float64"))
_EVAL_STATISTICS = _kernel("batch_norm_forward_eval_statistics")
_BACKWARD_COMBINE = _kernel("batch_norm_backward_combine", SUMS=("float32", "float64"))


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


def moments(x):
    size, constants = _cut(x)
    shape = size.splits, size.c
    means, squares = (np.empty_like(x, dtype=np.float64, shape=shape) for _ in range(2))
    _MOMENTS.launch(size.grid, x, means, squares, size, **constants)
    return means, squares, size.rows


def forward(
    x,
    weight,
    bias,
    running_mean,
    running_var,
    momentum,
    eps,
    residual,
    relu,
    moments,
    y,
    mean,
    inv_std,
    signs,
):
    size, constants = _cut(x, y, residual)
    _FORWARD_COMBINE.launch(
        size.combine_grid,
        moments.means,
        moments.squares,
        running_mean,
        running_var,
        momentum.astype(np.float64, copy=False),
        mean,
        inv_std,
        eps,
        replace(size, rows=moments.rows, splits=len(moments.means)),
        STORAGE=x.dtype,
        MOMENTS=moments.means.dtype,
    )
    if signs is not None and not constants["PACKED"]:  # whose kernel has no packs
        x, residual = (a if a is None else a.copy() for a in (x, residual))
        size, constants = _cut(x, y, residual)
    arrays = x, mean, inv_std, weight, bias, residual, relu, y, signs
    _NORMALIZE.launch(size.grid, *arrays, size, **constants)


def backward(
    grad_y,
    x,
    mean,
    inv_std,
    weight,
    bias,
    y,
    relu,
    sums,
    grad_x,
    grad_weight,
    grad_bias,
    grad_residual,
):
    channels = mean, inv_std, weight, bias
    if sums is None:
        sums = _gradient_sums(grad_y, x, *channels, y, relu, grad_residual)
    totals = _combined(sums, x, inv_std, grad_weight, grad_bias)
    if grad_residual is not None:
        grad_y, relu = grad_residual, False  # which has gone through the activation
    size, constants = _cut(grad_y, x, grad_x)
    _GRADIENT.launch(size.grid, grad_y, x, *channels, relu, *totals, grad_x, size, **constants)


def forward_eval(x, weight, bias, running_mean, running_var, eps, residual, relu, y):
    mean, inv_std = _running(running_mean, running_var, eps)
    size, constants = _cut(x, y, residual)
    arrays = x, mean, inv_std, weight, bias, residual, relu, y, None
    _NORMALIZE.launch(size.grid, *arrays, size, **constants)


def backward_eval(
    grad_y,
    x,
    weight,
    bias,
    running_mean,
    running_var,
    eps,
    y,
    relu,
    grad_x,
    grad_weight,
    grad_bias,
    grad_residual,
):
    channels = *_running(running_mean, running_var, eps), weight, bias
    sums = _gradient_sums(grad_y, x, *channels, y, relu, grad_residual)
    _combined(sums, x, channels[1], grad_weight, grad_bias)
    if grad_residual is not None:
        grad_y, relu = grad_residual, False
    if relu:
        size, constants = _cut(grad_y, x, grad_x)
        arrays = grad_y, x, *channels, relu, None, None, grad_x
        _GRADIENT.launch(size.grid, *arrays, size, **constants)
    else:  # grad_x = grad_y * (inv_std * weight): a normalization without mean and bias
        size, constants = _cut(grad_y, grad_x)
        arrays = grad_y, None, channels[1], weight, None, None, False, grad_x, None
        _NORMALIZE.launch(size.grid, *arrays, size, **constants)


def activate(x, residual, relu, y):
    size, constants = _cut(x, y, residual)
    _NORMALIZE.launch(size.grid, x, *(None,) * 4, residual, relu, y, None, size, **constants)


def _cut(*arrays):
    """Return the slabs of arrays (M, C) (Nones skipped), and the constants of their kernels."""
    m, c = arrays[0].shape
    packed = packable(c, *(array for array in arrays if array is not None))
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


def _gradient_sums(grad_y, x, mean, inv_std, weight, bias, y, relu, g):
    """Return the sums of g, and fill it in where it is given."""
    size, constants = _cut(grad_y, x, y, g)
    sums, products = (np.empty_like(mean, shape=(size.splits, size.c)) for _ in range(2))
    arrays = grad_y, x, mean, inv_std, weight, bias, y, relu, g, sums, products
    _SUMS.launch(size.grid, *arrays, size, **constants)
    return GradientSums(sums, products)


def _combined(sums, x, inv_std, grad_weight, grad_bias):
    """Return sum(g) and sum(g * x_hat) over all rows, float64; fill the gradients in."""
    size = replace(_cut(x)[0], splits=len(sums.sums))
    sum_g, sum_gx = np.empty_like(inv_std), np.empty_like(inv_std)
    _BACKWARD_COMBINE.launch(
        size.combine_grid,
        sums.sums,
        sums.products,
        inv_std,
        sum_g,
        sum_gx,
        grad_weight,
        grad_bias,
        size,
        STORAGE=x.dtype,
        SUMS=sums.sums.dtype,
    )
    return sum_g, sum_gx
