"""max_pool2d on CUDA: launches of max_pool2d.cu."""

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..cuda.packs import pack_length, packable

_BLOCK = 256
_SOURCE = "max_pool2d.cu"
_ARGMAX = ("uint8", "int32")
_CONSTANTS = {"STORAGE": FLOAT_TYPES, "ARGMAX": _ARGMAX, "PACKED": (False, True)}

_FORWARD = Kernel(__file__, _SOURCE, "max_pool2d_forward_window", block=_BLOCK, **_CONSTANTS)
_BACKWARD = Kernel(__file__, _SOURCE, "max_pool2d_backward_gather", block=_BLOCK, **_CONSTANTS)
_INDICES = Kernel(__file__, _SOURCE, "max_pool2d_indices_window", block=_BLOCK, ARGMAX=_ARGMAX)


def forward(x, y, argmax, size):
    packed = packable(size.c, x, y, argmax)
    grid = ceil_div(y.size, pack_length(y, packed) * _BLOCK)
    _FORWARD.launch(grid, x, y, argmax, size, STORAGE=x.dtype, ARGMAX=argmax.dtype, PACKED=packed)


def backward(grad_y, argmax, grad_x, size):
    packed = packable(size.c, grad_y, argmax, grad_x)
    grid = ceil_div(grad_x.size, pack_length(grad_x, packed) * _BLOCK)
    _BACKWARD.launch(
        grid, grad_y, argmax, grad_x, size, STORAGE=grad_y.dtype, ARGMAX=argmax.dtype, PACKED=packed
    )


def indices(argmax, positions, size):
    grid = ceil_div(positions.size, _BLOCK)
    _INDICES.launch(grid, argmax, positions, size, ARGMAX=argmax.dtype)
