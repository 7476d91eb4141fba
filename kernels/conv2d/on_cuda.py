"""conv2d on CUDA: each call goes to the family of kernels that ``choice`` names."""

import numpy as np

from ..batch_norm.on_cuda import activate, moments
from ..cuda.gpu import gpu_of
from ..elementwise.on_cuda import add
from . import simt
from .algorithm import Problem, empty_moments
from .choice import FAMILIES, choose


def fprop(x, w, bias, y, size, residual=None, activation=None):
    algorithm, family = _fprop_by(x, w, y, size)
    if residual is None and activation is None:
        family.fprop(algorithm, x, w, bias, y, size)
    elif family is not simt:
        family.fprop(algorithm, x, w, bias, y, size, residual=residual, activation=activation)
    else:
        before = np.empty_like(y)
        family.fprop(algorithm, x, w, bias, before, size)
        rows = [a if a is None else a.reshape(-1, size.k) for a in (before, residual, y)]
        activate(rows[0], rows[1], activation == "relu", rows[2])


def fprop_moments(x, w, y, size):
    algorithm, family = _fprop_by(x, w, y, size)
    if family is simt:
        family.fprop(algorithm, x, w, None, y, size)
        return moments(y.reshape(-1, size.k))
    found = empty_moments(algorithm, y)
    family.fprop(algorithm, x, w, None, y, size, moments=found)
    return found.means, found.squares, found.rows


def _fprop_by(x, w, y, size):
    """Return the algorithm and its family; all but simt finish results in registers."""
    algorithm = choose(Problem.of("fprop", size, x, w, y), gpu_of(x))
    return algorithm, FAMILIES[algorithm.family]


def dgrad(grad_y, w, grad_x, size, addend=None, below=None):
    algorithm = choose(Problem.of("dgrad", size, grad_y, w, grad_x), gpu_of(w))
    family = FAMILIES[algorithm.family]
    if family is not simt:
        return family.dgrad(algorithm, grad_y, w, grad_x, size, addend, below)
    family.dgrad(algorithm, grad_y, w, grad_x, size)
    if addend is not None:
        add(grad_x, addend, grad_x)
    return None


def wgrad(grad_y, x, grad_w, size):
    algorithm = choose(Problem.of("wgrad", size, grad_y, x, grad_w), gpu_of(x))
    FAMILIES[algorithm.family].wgrad(algorithm, grad_y, x, grad_w, size)
