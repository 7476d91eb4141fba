"""Kernels on a GPU, for tests that hold NumPy arrays."""

from ctypes import c_uint8
from importlib import import_module

import numpy as np
from numpy.lib.array_utils import byte_bounds

from convolt.kernels.cuda import tensor_map
from convolt.kernels.cuda.launch import Kernel


def on_gpu(monkeypatch):
    """Carry the arrays of every launch to the GPU and back, so that it runs there."""
    launch = Kernel.launch

    def staged(self, grid, *arguments, **options):
        arrays = [a for a in _arrays(arguments) if a.size]
        regions = _copy(arrays)
        twins = [_moved(a, regions) for a in arguments]
        launch(self, grid, *twins, **options)
        for array in arrays:  # with the gaps between its elements: nobody else writes there
            if array.flags.writeable:
                begin, end = byte_bounds(array)
                first, device = _region_of(begin, regions)
                _bytes(begin, end)[...] = device[begin - first : end - first].get()

    monkeypatch.setattr(Kernel, "launch", staged)


def _arrays(arguments):
    """Those among the arguments, and those that tensor maps describe."""
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield argument
        elif isinstance(argument, tensor_map.TensorMap):
            yield argument.array
        elif isinstance(argument, dict | list):
            yield from _arrays(argument.values() if isinstance(argument, dict) else argument)


def _moved(argument, regions):
    """The argument with arrays of the GPU."""
    match argument:
        case np.ndarray():
            return _twin(argument, regions)
        case tensor_map.TensorMap():
            return _map_of(_twin(argument.array, regions), argument.opaque)
        case dict():
            return {name: _moved(value, regions) for name, value in argument.items()}
        case list():
            return [_moved(value, regions) for value in argument]
    return argument


def _map_of(array, opaque):
    """The driver's encoding of what the emulator's says."""
    fields = {name: opaque.view(tensor_map._FIELDS)[0][name] for name in tensor_map._FIELDS.names}
    box, swizzle_bytes = fields["box"].tolist(), int(fields["swizzle_bytes"])
    if not fields["is_im2col"]:
        return tensor_map.tiled(array, box[: array.ndim][::-1], swizzle_bytes=swizzle_bytes)
    lower, upper = (tuple(fields[corner][::-1].tolist()) for corner in ("lower", "upper"))
    stride = tuple(fields["step"][2:0:-1].tolist())
    window = {"lower": lower, "upper": upper, "stride": stride}
    return tensor_map.im2col(array, *box[:2], **window, swizzle_bytes=swizzle_bytes)


def _copy(arrays):
    """The memory of the arrays on the GPU: overlapping ranges once, so that views stay views."""
    cupy = import_module("cupy")
    merged = []
    for begin, end in sorted(byte_bounds(array) for array in arrays):
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    regions = []
    for begin, end in merged:  # as far from a multiple of 256 as on the host: packs stay packs
        device = cupy.empty(begin % 256 + end - begin, np.uint8)[begin % 256 :]
        device.set(_bytes(begin, end))
        regions.append((begin, device))
    return regions


def _bytes(begin, end):
    return np.ctypeslib.as_array((c_uint8 * (end - begin)).from_address(begin))


def _region_of(address, regions):
    return next((f, d) for f, d in regions if f <= address < f + d.size)


def _twin(array, regions):
    """An array on the GPU that lies in the copied memory as ``array`` lies in its own."""
    cupy = import_module("cupy")
    if not array.size:
        return cupy.empty(array.shape, array.dtype)
    address = array.__array_interface__["data"][0]
    first, device = _region_of(address, regions)
    return cupy.ndarray(array.shape, array.dtype, device.data + (address - first), array.strides)
