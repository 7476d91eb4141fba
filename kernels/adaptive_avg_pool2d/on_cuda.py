"""adaptive_avg_pool2d on CUDA: launches of adaptive_avg_pool2d.cu."""

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..cuda.packs import pack_length, packable

_BLOCK = 256
_SOURCE = "adaptive_avg_pool2d.cu"
_CONSTANTS = {"STORAGE": FLOAT_TYPES, "PACKED": (False, True)}

_FORWARD = Kernel(
    __file__, _SOURCE, "adaptive_avg_pool2d_forward_window", block=_BLOCK, **_CONSTANTS
)
_BACKWARD = Kernel(
    __file__, _SOURCE, "adaptive_avg_pool2d_backward_gather", block=_BLOCK, **_CONSTANTS
)


def forward(x, y, size):
    _launch(_FORWARD, x, y, size)


def backward(grad_y, grad_x, size):
    _launch(_BACKWARD, grad_y, grad_x, size)


def _launch(kernel, array, result, size):
    packed = packable(size.c, array, result)
    grid = ceil_div(result.size, pack_length(result, packed) * _BLOCK)
    kernel.launch(grid, array, result, size, STORAGE=array.dtype, PACKED=packed)
