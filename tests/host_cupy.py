"""CuPy on a machine without a GPU: its own arrays, in host memory.

Class ``cupy.ndarray`` with its views, strides, flags and dispatch is CuPy's. What needs a driver is
replaced: memory comes from NumPy, filled with NaN; a kernel that convolt launches runs on the
emulator; streams put their work off as long as they may, so that a missing wait shows. CuPy's own
kernels (arithmetic, sums, ...) are not replaced: whoever calls one gets CuPy's error about the
missing driver.
"""

import ctypes
import json
import time
import weakref
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from convolt.kernels.cuda import compile as compiler
from convolt.kernels.cuda import tensor_map
from convolt.kernels.cuda.signature import Argument, read
from convolt.kernels.emulator.run import run

_ALIGNMENT = 512  # of CuPy's memory pool
_GPU = 99  # its number: one that has no kernels of a real GPU loaded
_NAME = b"NVIDIA H100 80GB HBM3"
_CUDA, _CPU = 2, 1  # DLPack's device types
_BFLOAT_CODE, _UINT_CODE = 4, 1  # DLPack's type codes

_allocations = weakref.WeakValueDictionary()  # address -> buffer


def is_installed(cupy):
    """Whether this is the module that works without a GPU."""
    return cupy.cuda.Stream is _Stream


@contextmanager
def installed(monkeypatch):
    """Make ``import cupy`` give a CuPy that works here, until the block ends."""
    import cupy

    with monkeypatch.context() as patch:
        for name in _METHODS:
            patch.setattr(cupy.ndarray, name, globals()[f"_{name.strip('_')}"], raising=False)
        for name in ("__cuda_array_interface__",):
            patch.setattr(cupy.ndarray, name, property(_cuda_array_interface), raising=False)
        patch.setattr(cupy, "copyto", _copyto)
        patch.setattr(cupy, "arange", lambda *args, **options: _device(np.arange(*args, **options)))
        patch.setattr(cupy, "from_dlpack", _from_dlpack)
        patch.setattr(cupy._core, "array", _array)
        for name, value in _CUDA_NAMES.items():
            patch.setattr(cupy.cuda, name, value)
        patch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 1)
        patch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _: {"name": _NAME})
        patch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 13000)
        patch.setattr(cupy.cuda.driver, "funcSetAttribute", lambda *_: None)
        patch.setattr(compiler, "cubin", _cubin)
        patch.setattr(tensor_map, "_encode", _tensor_map)
        allocator = cupy.cuda.get_allocator()
        cupy.cuda.set_allocator(_malloc)
        try:
            yield cupy
        finally:
            cupy.cuda.set_allocator(allocator)


# ---- Memory --------------------------------------------------------------------------------------


def _malloc(size):
    """Memory that holds NaN (or -1, True) until it is written to."""
    buffer = np.full(size + _ALIGNMENT, 0xFF, np.uint8)
    address = -(-buffer.ctypes.data // _ALIGNMENT) * _ALIGNMENT
    _allocations[address] = buffer
    return _pointer(address, size, buffer)


def _pointer(address, size, owner):
    from cupy.cuda import memory

    class Pointer(memory.MemoryPointer):
        """A pointer to host memory; copies are the CPU's."""

        def __add__(self, offset):
            return _pointer(self.ptr + offset, 0, self)

        def memset_async(self, value, size, stream=None):
            _stream(stream).enqueue(lambda: ctypes.memset(self.ptr, value, size))

    return Pointer(memory.UnownedMemory(address, size, owner, _GPU), 0)


def _host(array):
    """A NumPy array on the same memory."""
    if not array.size:
        return np.empty(array.shape, array.dtype)
    spans = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    low, high = sum(s for s in spans if s < 0), sum(s for s in spans if s > 0)
    size = high - low + array.itemsize
    memory = (ctypes.c_uint8 * size).from_address(array.data.ptr + low)
    memory.owner = array
    return np.ndarray(array.shape, array.dtype, memory, -low, array.strides)


def _ready(array):
    """``_host``, after what the current stream has to do."""
    _stream().finish()
    return _host(array)


def _device(array):
    """A new array on the "GPU", C-contiguous but for Fortran order, as CuPy makes it."""
    import cupy

    array = np.asarray(array)
    order = "F" if array.flags.fnc else "C"
    result = cupy.ndarray(array.shape, array.dtype, order=order)
    _stream().enqueue(lambda: _host(result).__setitem__(..., array))
    return result


# ---- Methods of cupy.ndarray ---------------------------------------------------------------------


_METHODS = (
    *("get", "set", "fill", "copy", "astype", "argsort"),
    *("__getitem__", "__setitem__", "__dlpack__", "__dlpack_device__"),
)


def _get(self, stream=None, order="C", out=None, blocking=True):
    _stream(stream).synchronize()
    values = _host(self)
    if out is None:
        return np.array(values, order=order)
    out[...] = values
    return out


def _set(self, arr, stream=None):
    if not isinstance(arr, np.ndarray) or (arr.dtype, arr.shape) != (self.dtype, self.shape):
        raise TypeError(f"set: {arr!r:.60} does not fit {self.dtype} {self.shape}")
    if not self.flags.c_contiguous:
        raise RuntimeError("Cannot set to non-contiguous array")
    arr = np.ascontiguousarray(arr)
    _stream(stream).enqueue(lambda: _host(self).__setitem__(..., arr))


def _fill(self, value):
    _stream().enqueue(lambda: _host(self).fill(value))


def _copy(self, order="C"):
    return self.astype(self.dtype, order=order)


def _astype(self, dtype, order="K", casting=None, subok=None, copy=True):
    dtype = np.dtype(dtype)
    if not copy and dtype == self.dtype:
        return self
    result = np.empty_like(self, dtype=dtype, order=order)
    _stream().enqueue(lambda: _host(result).__setitem__(..., _host(self)))
    return result


def _argsort(self, axis=-1, kind=None):
    if kind not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")
    return _device(np.argsort(_ready(self), axis=axis, kind="stable"))


def _parts(index):
    return index if isinstance(index, tuple) else (index,)


def _is_basic(index):
    return all(
        part is None
        or part is Ellipsis
        or isinstance(part, slice)
        or (isinstance(part, int | np.integer) and not isinstance(part, bool))
        for part in _parts(index)
    )


def _on_host(index):
    import cupy

    return tuple(_ready(p) if isinstance(p, cupy.ndarray) else p for p in _parts(index))


def _getitem(self, index):
    import cupy

    if _is_basic(index):
        return super(cupy.ndarray, self).__getitem__(index)
    if any(getattr(part, "dtype", None) == np.bool_ for part in _parts(index)):
        _declare_synchronize()  # for the size of the result
    return _device(np.ascontiguousarray(_ready(self)[_on_host(index)]))


def _setitem(self, index, value):
    import cupy

    if isinstance(value, cupy.ndarray):
        value = _ready(value)
    elif isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    _ready(self)[_on_host(index)] = value


def _cuda_array_interface(self):
    return {
        "shape": self.shape,
        "typestr": self.dtype.str,
        "descr": self.dtype.descr,
        "stream": 1,
        "version": 3,
        "strides": None if self.flags.c_contiguous else self.strides,
        "data": (self.data.ptr if self.size else 0, False),
    }


def _dlpack_device(self):
    return _CUDA, _GPU


def _dlpack(self, *, stream=None, max_version=None, dl_device=None, copy=None):
    if dl_device == (_CPU, 0):
        return self.get().__dlpack__(max_version=max_version)
    values = _ready(self)
    capsule = (values.view(np.uint16) if self.dtype.kind == "V" else values).__dlpack__()
    code = _BFLOAT_CODE if self.dtype.kind == "V" else None
    _relabel(capsule, _CUDA, code)
    return capsule


def _relabel(capsule, device_type, code=None):
    """Change the device in a DLPack capsule, and the type code if one is given; return the old."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    address = get(capsule, b"dltensor")
    ctypes.c_int32.from_address(address + 8).value = device_type
    type_code = ctypes.c_uint8.from_address(address + 20)
    before = type_code.value
    if code is not None:
        type_code.value = code
    return before


# ---- Functions of cupy ---------------------------------------------------------------------------


def _array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, blocking=False):
    import cupy

    if isinstance(obj, cupy.ndarray):
        return obj.astype(dtype or obj.dtype, order=order or "K", copy=copy)
    interface = getattr(obj, "__cuda_array_interface__", None)
    if interface is not None:
        address, _ = interface["data"]
        dtype_here = np.dtype(interface["typestr"])
        pointer = _pointer(address, prod(interface["shape"]) * dtype_here.itemsize, obj)
        array = cupy.ndarray(interface["shape"], dtype_here, pointer, interface["strides"])
        return array.astype(dtype or dtype_here, copy=copy)
    return _device(np.array(np.asarray(obj, dtype)))  # as it is now


def _copyto(dst, src, casting="same_kind", where=None):
    import cupy

    source = _ready(src) if isinstance(src, cupy.ndarray) else src
    _stream().enqueue(lambda: np.copyto(_host(dst), source, casting="unsafe"))


def _from_dlpack(array, *, device=None, copy=None):
    import cupy

    kind, _ = array.__dlpack_device__()
    if kind != _CUDA:
        raise TypeError("CPU arrays cannot be directly imported to CuPy.")
    capsule = array.__dlpack__(stream=1)
    is_bfloat16 = _relabel(capsule, _CPU) == _BFLOAT_CODE
    if is_bfloat16:
        _relabel(capsule, _CPU, _UINT_CODE)
    device = {"__dlpack__": lambda self, **_: capsule, "__dlpack_device__": lambda self: (_CPU, 0)}
    values = np.from_dlpack(type("Exporter", (), device)())
    dtype = values.dtype
    if is_bfloat16:
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    address = values.__array_interface__["data"][0]
    return cupy.ndarray(
        values.shape, dtype, _pointer(address, values.nbytes, values), values.strides
    )


# ---- Streams -------------------------------------------------------------------------------------


class _Stream:
    """Work in order, done when somebody waits for it; that of the default stream at once."""

    null = None

    def __init__(self, null=False, non_blocking=False, ptds=False):
        self.work = []
        self.done = 0  # of all that was ever enqueued
        self.ptr = 0 if null else id(self)

    def enqueue(self, work):
        self.work.append(work)
        if self is _NULL:
            self.finish()

    def finish(self, until=None):
        """Do the work, all of it or the first ``until`` that were ever enqueued."""
        until = self.done + len(self.work) if until is None else until
        while self.done < until:
            self.done += 1
            self.work.pop(0)()

    def record(self, event=None):
        event = event or _Event()
        event.stream, event.after = self, self.done + len(self.work)
        event.time_s = time.perf_counter()
        return event

    def is_capturing(self):
        return False

    def wait_event(self, event):
        self.enqueue(event.finish)

    def synchronize(self):
        _declare_synchronize()
        self.finish()

    def __enter__(self):
        _current.append(self)
        return self

    def __exit__(self, *exception):
        _current.pop()


class _Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.stream = None
        self.after = 0

    def record(self, stream=None):
        _stream(stream).record(self)

    def finish(self):
        if self.stream is not None:
            self.stream.finish(self.after)

    def synchronize(self):
        self.finish()

    @property
    def done(self):
        return self.stream is None or self.stream.done >= self.after


def _elapsed_time(begin, end):
    """Milliseconds, of work on the default stream, which is done at once."""
    return (end.time_s - begin.time_s) * 1e3


_NULL = _Stream(null=True)
_Stream.null = _NULL
_current = [_NULL]


def _stream(given=None):
    return given or _current[-1]


def _declare_synchronize():
    """The host waits: an error inside ``cupyx.allow_synchronize(False)``."""
    import cupy

    cupy._core.syncdetect._declare_synchronize()


# ---- Kernels -------------------------------------------------------------------------------------


def _cubin(path, defines, arch, **_):
    return SimpleNamespace(code=json.dumps([str(path), defines]).encode())


def _tensor_map(_function, view, swizzle_bytes, what, step):
    """The emulator's encoding in place of the driver's."""
    *corners, box = what if len(what) == 1 else (*what[:2], what[2:])
    if not corners:
        return tensor_map._fields(view, swizzle_bytes, box)
    lower, upper = corners
    return tensor_map._fields(view, swizzle_bytes, box, step, True, lower=lower, upper=upper)


class _Module:
    def load(self, code):
        path, self.defines = json.loads(code)
        self.path = Path(path)

    def get_function(self, name):
        return _Function(self, name)


class _Function:
    """An entry point; it runs on the emulator, from the bytes that a GPU would be given."""

    def __init__(self, module, name):
        self.module, self.name, self.ptr = module, name, 0

    def __call__(self, grid, block, args, shared_mem=0):
        if min(*grid, *block) < 1:
            raise ValueError(f"{self.name}: empty grid {grid} or block {block}")
        source, defines = read(self.module.path), self.module.defines
        signature = source.signature(self.name, defines)
        values = [np.array(value) for value in args]  # copied: the caller may change its own
        _stream().enqueue(
            lambda: run(
                *(source, defines, signature, grid, block, shared_mem),
                [_argument(p, v) for p, v in zip(signature.parameters, values, strict=True)],
            )
        )


def _argument(parameter, value):
    if not parameter.pointer:
        return Argument(parameter, np.frombuffer(value.tobytes(), parameter.dtype)[0:1].reshape(()))
    address = int(value)
    return Argument(parameter, None if not address else _memory_at(address, parameter.dtype))


def _memory_at(address, dtype):
    """The rest of the allocation that holds ``address``; one element of other memory."""
    size = dtype.itemsize
    for begin, buffer in _allocations.items():
        end = buffer.ctypes.data + buffer.size
        if begin <= address < end:
            size = (end - address) // dtype.itemsize * dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memory, dtype)


class _Device:
    id = _GPU
    compute_capability = "90"
    attributes = {"MultiProcessorCount": 132}  # noqa: RUF012

    def __init__(self, device=None):
        pass


def _alloc_pinned_memory(size):
    return np.full(size, 0xFF, np.uint8).data


_CUDA_NAMES = {
    "Stream": _Stream,
    "Event": _Event,
    "Device": _Device,
    "get_current_stream": _stream,
    "get_elapsed_time": _elapsed_time,
    "alloc_pinned_memory": _alloc_pinned_memory,
    "function": SimpleNamespace(Module=_Module),
}
