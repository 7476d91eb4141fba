"""Typed launches of the kernels in .cu files, on a GPU through CuPy or on the emulator.

A ``Kernel`` is a constant of an ``on_cuda.py``; making one compiles nothing. A launch with CuPy
arrays compiles for the GPU at hand (see ``compile.py``) and goes to CuPy's current stream; one
with NumPy arrays runs on the emulator.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..backend import is_cupy
from . import compile as compiler
from .signature import (
    C_NAMES,
    C_TYPES,
    Argument,
    EntryPoint,
    Parameter,
    Signature,
    read,
    traffic,
)

FLOAT_TYPES = ("float32", "float64", "bfloat16")

Constant = Any  # an int, a bool, or a dtype or its name
Grid = int | tuple[int, ...]

GRID_LIMITS = (2**31 - 1, 65535, 65535)
BLOCK_LIMIT = 1024


def ceil_div(a: int, b: int) -> int:
    """Return the least number of parts of size ``b`` that hold ``a``."""
    return -(-a // b)


class Kernel:
    """One entry point of a .cu file, and the constants that it may be compiled with.

    Args:
        python_file: ``__file__`` of the module that has the constant.
        source: The .cu file beside it.
        entry: Name of the entry point.
        block: Threads of a block; the source sees it as BLOCK.
        shared_bytes: Dynamic shared memory of a block, where a launch does not say.
        constants: NAME=value for -DNAME=value: an int, a bool or a dtype (``"float32"``), which
            becomes the name of the C type. A tuple holds the values that a launch chooses from.

    Raises:
        ValueError: ``block`` is out of range, or a constant is called BLOCK.
        TypeError: A constant's value is none of these.
    """

    def __init__(
        self,
        python_file: str,
        source: str,
        entry: str,
        *,
        block: int,
        shared_bytes: int = 0,
        **constants: Constant | tuple[Constant, ...],
    ) -> None:
        self.path = Path(python_file).resolve().parent / source
        self.entry = entry
        self._name = f"{entry} ({self.path.parent.name}/{source})"  # in messages
        self.block = block
        self.shared_bytes = shared_bytes
        self._variants: dict[tuple[Any, ...], _Variant] = {}
        if not 1 <= block <= BLOCK_LIMIT:
            raise ValueError(f"{entry}: block must be 1 to {BLOCK_LIMIT} threads, got {block}")
        if "BLOCK" in constants:
            raise ValueError(f"{entry}: BLOCK is set by block=, it cannot be a constant")
        self._fixed: dict[str, str] = {"BLOCK": str(block)}
        self._chosen: dict[str, tuple[str, ...]] = {}
        for name, allowed in constants.items():
            if isinstance(allowed, tuple):
                self._chosen[name] = tuple(_constant_text(entry, name, v) for v in allowed)
            else:
                self._fixed[name] = _constant_text(entry, name, allowed)

    def __str__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"<Kernel {self}>"

    def combinations(self) -> Iterator[dict[str, str]]:
        """Yield every set of -D constants that a launch may ask for, BLOCK among them."""
        for values in product(*self._chosen.values()):
            yield self._fixed | dict(zip(self._chosen, values, strict=True))

    def defines(self, **constants: Constant) -> dict[str, str]:
        """Return the -D constants for the values that a launch gives.

        Raises:
            TypeError: One is missing or unknown, or has no C form.
            ValueError: A value is not among those allowed.
        """
        for name in self._chosen.keys() - constants.keys():
            raise TypeError(
                f"{self}: the constant {name} is missing; it is one of {self._of(name)}"
            )
        found = dict(self._fixed)
        for name, value in constants.items():
            if name not in self._chosen:
                known = ", ".join(self._chosen) or "none"
                raise TypeError(f"{self}: unknown constant {name}; a launch chooses {known}")
            found[name] = _constant_text(self.entry, name, value)
            if found[name] not in self._chosen[name]:
                raise ValueError(
                    f"{self}: {name} cannot be {found[name]}; it is one of {self._of(name)}"
                )
        return found

    def _of(self, name: str) -> str:
        return ", ".join(self._chosen[name])

    @property
    def entry_point(self) -> EntryPoint:
        """The entry point, as its source has it."""
        return read(self.path).entry_point(self.entry)

    def launch(
        self, grid: Grid, *arguments: Any, shared_bytes: int | None = None, **constants: Constant
    ) -> None:
        """Run the kernel. A grid with a 0 in it runs nothing.

        Args:
            grid: Blocks, an int or up to three of them (x, y, z).
            arguments: One for each parameter in C. For a pointer an array of that dtype, of which
                the address of the first element is handed over, or None for a null pointer. For
                a number a number. For a struct an object that has its fields as attributes, or
                a dict.
            shared_bytes: Dynamic shared memory of a block; default: the kernel's.
            constants: A value for each constant that has several.

        Raises:
            TypeError: The number of arguments, a type, a dtype or a constant is wrong, or NumPy
                and CuPy arrays are mixed.
            ValueError: A value does not fit the C type, the grid is out of range, a constant's
                value is not allowed, a result is read-only, or an array is on another GPU.
            RuntimeError: The GPU does not take the launch; the message names the kernel, the
                grid and the arguments.
        """
        variant = self._variant(constants)
        packed = pack_arguments(self._name, variant.signature, arguments)
        blocks = self._grid(grid)
        shared = self.shared_bytes if shared_bytes is None else shared_bytes
        on_gpu = self._on_gpu(packed)
        if 0 in blocks:
            return
        if on_gpu:
            self._launch_on_gpu(variant, blocks, shared, packed)
        else:
            from ..emulator.run import run

            block = (self.block, 1, 1)
            run(read(self.path), variant.defines, variant.signature, blocks, block, shared, packed)

    def traffic(
        self, grid: Grid, *arguments: Any, dram: bool = False, **constants: Constant
    ) -> tuple[float, float]:
        """Return the bytes that this launch reads and writes, by the kernel's Traffic formulas.

        Args:
            grid, arguments, constants: As ``launch`` takes them.
            dram: Count each byte once: what DRAM moves where caches hold the rest.

        Raises:
            SourceError: The kernel's comment has no formulas, or wrong ones.
        """
        variant = self._variant(constants)
        packed = pack_arguments(self._name, variant.signature, arguments)
        return traffic(self.entry_point, packed, variant.defines, self._grid(grid), dram=dram)

    def _variant(self, constants: dict[str, Constant]) -> _Variant:
        key = tuple(constants.items())
        try:
            if (variant := self._variants.get(key)) is not None:
                return variant
        except TypeError:  # a value that has no hash is no constant either: defines() says so
            pass
        defines = self.defines(**constants)
        variant = _Variant(defines, read(self.path).signature(self.entry, defines))
        self._variants[key] = variant
        return variant

    def _grid(self, grid: Grid) -> tuple[int, int, int]:
        given = grid if isinstance(grid, tuple) else (grid,)
        if not 1 <= len(given) <= 3:
            raise ValueError(f"{self}: grid must have 1 to 3 sizes, got {grid}")
        try:
            x, y, z = (*map(operator.index, given), 1, 1)[:3]
        except TypeError as error:
            raise TypeError(f"{self}: grid must be ints, got {grid!r}") from error
        for size, limit in zip((x, y, z), GRID_LIMITS, strict=True):
            if not 0 <= size <= limit:
                raise ValueError(f"{self}: grid {(x, y, z)} is out of range: 0 to {GRID_LIMITS}")
        return x, y, z

    def _on_gpu(self, arguments: list[Argument]) -> bool:
        arrays = [a for a in arguments if a.parameter.pointer and a.value is not None]
        on_gpu = {not isinstance(a.value, np.ndarray) for a in arrays}
        if len(on_gpu) == 1:
            return on_gpu.pop()
        if not arrays:
            raise TypeError(f"{self}: no argument is an array: where should it run?")
        raise TypeError(f"{self}: NumPy arrays mixed with CuPy arrays: {_listed(arrays)}")

    def _launch_on_gpu(
        self,
        variant: _Variant,
        grid: tuple[int, int, int],
        shared_bytes: int,
        arguments: list[Argument],
    ) -> None:
        cupy = import_module("cupy")
        device = cupy.cuda.Device()
        arrays = [(a, a.value) for a in arguments if a.parameter.pointer and a.value is not None]
        if elsewhere := [a for a, array in arrays if array.data.device_id != device.id]:
            raise ValueError(f"{self}: not on the current GPU, {device.id}: {_listed(elsewhere)}")
        try:
            function = self._function(cupy, device, variant, shared_bytes)
            values = [_bytes_on_gpu(argument) for argument in arguments]
            function(grid, (self.block, 1, 1), values, shared_mem=shared_bytes)
        except (cupy.cuda.driver.CUDADriverError, cupy.cuda.runtime.CUDARuntimeError) as error:
            raise RuntimeError(
                f"{self}: {error}; {self.path}, grid {grid}, block {self.block}, "
                f"{shared_bytes} bytes of dynamic shared memory, constants {variant.defines}, "
                f"arguments: {_listed(arguments)}"
            ) from error

    def _function(self, cupy: Any, device: Any, variant: _Variant, shared_bytes: int) -> Any:
        """The entry point on the current GPU, its module loaded once for each GPU."""
        function = variant.functions.get(device.id)
        if function is None:
            module = _module(cupy, device, self.path, variant.defines)
            function = variant.functions[device.id] = module.get_function(self.entry)
        if shared_bytes > variant.shared_bytes.get(device.id, 0):
            driver = cupy.cuda.driver  # 48 KB with the static ones are given unasked
            most = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            driver.funcSetAttribute(function.ptr, most, shared_bytes)
            variant.shared_bytes[device.id] = shared_bytes
        return function


class _Variant:
    """A kernel with its constants chosen: what is known of it, and where it is loaded."""

    def __init__(self, defines: dict[str, str], signature: Signature) -> None:
        self.defines = defines
        self.signature = signature
        self.functions: dict[int, Any] = {}  # GPU -> CuPy's function
        self.shared_bytes: dict[int, int] = {}  # GPU -> the most that has been asked for


def pack_arguments(kernel: str, signature: Signature, arguments: tuple[Any, ...]) -> list[Argument]:
    """Return what each parameter is handed, checked.

    Args:
        kernel: Its name, for messages.
        signature: Of the kernel.
        arguments: As ``Kernel.launch`` takes them.

    Raises:
        TypeError, ValueError: As ``Kernel.launch``.
    """
    if len(arguments) != len(signature.parameters):
        expected = ", ".join(map(str, signature.parameters))
        raise TypeError(
            f"{kernel}: {len(arguments)} arguments given, {len(signature.parameters)} needed: "
            f"{expected}"
        )
    return [
        Argument(p, _array(kernel, p, a) if p.pointer else _value(kernel, p, a))
        for p, a in zip(signature.parameters, arguments, strict=True)
    ]


_modules: dict[tuple[Any, ...], Any] = {}


def _module(cupy: Any, device: Any, path: Path, defines: dict[str, str]) -> Any:
    key = (device.id, path, *sorted(defines.items()))
    if key not in _modules:
        arch = compiler.arch_of(device.compute_capability)
        module = cupy.cuda.function.Module()
        module.load(compiler.cubin(path, defines, arch).code)
        _modules[key] = module
    return _modules[key]


def _bytes_on_gpu(argument: Argument) -> Array:
    """The bytes that the kernel is given; CuPy passes a NumPy array without axes by value."""
    if not argument.parameter.pointer:
        return argument.value
    return np.array(0 if argument.value is None else argument.value.data.ptr, np.uint64)


def _constant_text(entry: str, name: str, value: Constant) -> str:
    """``value`` as -DNAME=value has it."""
    if isinstance(value, bool | int | np.integer):
        return str(int(value))
    if isinstance(value, str) and value in C_TYPES:
        value = C_TYPES[value]
    dtype_name = value if isinstance(value, str) else getattr(value, "name", None)
    if dtype_name is None and isinstance(value, type) and issubclass(value, np.generic):
        dtype_name = np.dtype(value).name
    if dtype_name not in C_NAMES:
        raise TypeError(f"{entry}: the constant {name} must be an int or a dtype, got {value!r}")
    return C_NAMES[dtype_name]


def _array(kernel: str, parameter: Parameter, value: Any) -> Array | None:
    if value is None:
        return None
    host = isinstance(value, np.ndarray)
    if not host and not is_cupy(value):
        raise TypeError(
            f"{kernel}: {parameter} takes a NumPy or CuPy array or None, "
            f"got {type(value).__name__}: {value!r:.60}"
        )
    if value.dtype != parameter.dtype:
        raise TypeError(
            f"{kernel}: {parameter} takes an array of {parameter.dtype}, got {value.dtype}"
        )
    if host and not parameter.const and not value.flags.writeable:
        raise ValueError(f"{kernel}: {parameter} is written to, but the array is read-only")
    return value


def _value(kernel: str, parameter: Parameter, value: Any) -> np.ndarray:
    try:
        pack = _packed_once if _is_constant(value) else _packed
        return pack(parameter.dtype, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{kernel}: {parameter}{error}") from None


def _is_constant(value: Any) -> bool:
    """Whether it is an instance of a frozen dataclass, and so are its fields constants."""
    parameters = getattr(type(value), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _packed(dtype: np.dtype, value: Any) -> np.ndarray:
    return np.array(_checked("", dtype, value), dtype)


@lru_cache(maxsize=4096)
def _packed_once(dtype: np.dtype, value: Any) -> np.ndarray:
    """As ``_packed``, of what never changes: the sizes of a network come again in every step."""
    packed = _packed(dtype, value)
    packed.flags.writeable = False
    return packed


def _checked(where: str, dtype: np.dtype, value: Any) -> Any:
    """``value`` as NumPy takes it for ``dtype``, when it fits; ``where`` begins a message."""
    if dtype in _INT_LIMITS:
        return _checked_int(where, dtype, value)
    if dtype.fields:
        return tuple(
            [
                _checked(f"{where}.{name}", field[0], _field(where, name, value))
                for name, field in dtype.fields.items()
            ]
        )
    if dtype.subdtype:
        element, (length,) = dtype.subdtype
        if isinstance(value, np.ndarray) and (value.dtype, value.shape) == (element, (length,)):
            return value
        if not hasattr(value, "__len__") or len(value) != length:
            raise ValueError(f"{where} takes {length} values, got {value!r}")
        return [_checked(f"{where}[{i}]", element, v) for i, v in enumerate(value)]
    if not isinstance(value, int | float | np.number):
        raise TypeError(f"{where} takes a number, got {value!r:.60}")
    number = float(value)
    if dtype.itemsize < 8 and _FLOAT_LIMIT < abs(number) < math.inf:
        raise ValueError(f"{where}: {value!r} does not fit {dtype}")
    return number


_INT_LIMITS = {
    dtype: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    for dtype in C_TYPES.values()
    if dtype.kind in "iu"
} | {np.dtype(np.bool_): (0, 1)}
_FLOAT_LIMIT = float(np.finfo(np.float32).max)


def _checked_int(where: str, dtype: np.dtype, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{where} takes an int, got {value!r:.60}") from None
    least, most = _INT_LIMITS[dtype]
    if not least <= number <= most:
        raise ValueError(f"{where}: {number} does not fit {dtype}")
    return number


def _field(where: str, name: str, value: Any) -> Any:
    try:
        return value[name] if isinstance(value, dict) else getattr(value, name)
    except (KeyError, AttributeError):
        raise TypeError(f"{where} has a field {name!r}, which {value!r:.60} lacks") from None


def _listed(arguments: list[Argument]) -> str:
    def text(a: Argument) -> str:
        if not a.parameter.pointer or a.value is None:
            value = a.value
            if a.parameter.dtype.names and value is not None:
                value = {name: value[name].tolist() for name in a.parameter.dtype.names}
            return f"{a.parameter.name}={value}"
        kind = type(a.value).__module__.partition(".")[0]
        return f"{a.parameter.name}={kind} {a.value.dtype}{tuple(a.value.shape)}"

    return ", ".join(map(text, arguments))
