"""Kernels on a GPU, for tests that hold NumPy arrays."""

from ctypes import c_uint8
from importlib import import_module

import numpy as np
from numpy.lib.array_utils import byte_bounds

from convolt.kernels.cuda.launch import Kernel


def on_gpu(monkeypatch):
    """Carry the arrays of every launch to the GPU and back, so that it runs there."""
    launch = Kernel.launch

    def staged(self, grid, *arguments, **options):
        arrays = [a for a in arguments if isinstance(a, np.ndarray) and a.size]
        regions = _copy(arrays)
        twins = [_twin(a, regions) if isinstance(a, np.ndarray) else a for a in arguments]
        launch(self, grid, *twins, **options)
        for array in arrays:  # with the gaps between its elements: nobody else writes there
            if array.flags.writeable:
                begin, end = byte_bounds(array)
                first, device = _region_of(begin, regions)
                _bytes(begin, end)[...] = device[begin - first : end - first].get()

    monkeypatch.setattr(Kernel, "launch", staged)


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
