"""avg_pool2d on CUDA: launches of avg_pool2d.cu."""

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div
from ..cuda.packs import pack_length, packable

_BLOCK = 256
_CONSTANTS = {"STORAGE": FLOAT_TYPES, "PACKED": (False, True)}

_FORWARD = Kernel(
    __file__, "avg_pool2d.cu", "avg_pool2d_forward_window", block=_BLOCK, **_CONSTANTS
)
_BACKWARD = Kernel(
    __file__, "avg_pool2d.cu", "avg_pool2d_backward_gather", block=_BLOCK, **_CONSTANTS
)


def forward(x, y, windows):
    _launch(_FORWARD, x, y, windows)


def backward(grad_y, grad_x, windows):
    _launch(_BACKWARD, grad_y, grad_x, windows)


def _launch(kernel, array, result, windows):
    packed = packable(windows.size.c, array, result)
    kernel.launch(
        ceil_div(result.size, pack_length(result, packed) * _BLOCK),
        array,
        result,
        windows.size,
        int(windows.count_include_pad),
        windows.divisor_override or 0,
        STORAGE=array.dtype,
        PACKED=packed,
    )
