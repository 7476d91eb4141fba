"""The GPUs that are known by name, and which one computes."""

import os
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module

from ..arrays import Array
from ..backend import is_cupy


@dataclass(frozen=True, slots=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: In lower case, without its maker's.
        capability: Compute capability times ten: 80, 90, ...
        sms: Multiprocessors.
    """

    name: str
    capability: int
    sms: int


GPUS = {gpu.name: gpu for gpu in (Gpu("h100", 90, 132), Gpu("a100", 80, 108), Gpu("t4", 75, 40))}


def gpu_of(array: Array) -> Gpu:
    """Return the GPU that computes with an array: CuPy's current one, or the emulated one.

    ``CONVOLT_EMULATED_GPU`` names the one that the emulator stands for, ``h100`` if not set.

    Raises:
        ValueError: It names a GPU that is not in ``GPUS``.
    """
    if not is_cupy(array):
        return _emulated(os.environ.get("CONVOLT_EMULATED_GPU") or "h100")
    return _installed(import_module("cupy").cuda.Device().id)


def named(name: str, source: str) -> Gpu:
    """Return the GPU of this name.

    Raises:
        ValueError: None has it; the message begins with ``source``.
    """
    if name not in GPUS:
        raise ValueError(f"{source}: unknown GPU {name!r}; known are {', '.join(GPUS)}")
    return GPUS[name]


@cache
def _emulated(name: str) -> Gpu:
    return named(name, f"CONVOLT_EMULATED_GPU={name}")


@cache
def _installed(device_id: int) -> Gpu:
    """The GPU at hand; of one that is not known, the known one nearest below it, with its SMs."""
    cupy = import_module("cupy")
    device = cupy.cuda.Device(device_id)
    full_name = cupy.cuda.runtime.getDeviceProperties(device_id)["name"].decode().lower()
    capability = int(device.compute_capability)
    for gpu in GPUS.values():
        if gpu.name in full_name.split() and gpu.capability == capability:
            return gpu
    older = [gpu for gpu in GPUS.values() if gpu.capability <= capability] or [*GPUS.values()]
    nearest = max(older, key=lambda gpu: gpu.capability)
    sms = device.attributes["MultiProcessorCount"]
    name = full_name.removeprefix("nvidia ").replace(" ", "-")
    return replace(nearest, name=name, capability=capability, sms=sms)
