"""The GPUs that are known by name, with the figures that the model of cost needs, and which one
computes.

Where a figure is from is said beside it:

- white paper, data sheet: NVIDIA's, of that GPU.
- copy: measured, a copy on the device of more than L2 holds, bytes read and written counted.
- fitted: such that the model gives published times; ``cost.py`` says which.
- estimate: by the ratio between measurement and data sheet of another GPU. Nobody measured it.
"""

import os
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module

from ..arrays import Array
from ..backend import is_cupy


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: In lower case, without its maker's.
        capability: Compute capability times ten: 80, 90, ...
        sms: Multiprocessors.
        clock_hz: While it multiplies matrices.
        fma_flops_cycle: float32 operations of an SM's ordinary units; an add and a multiply are 2.
        fp64_flops_cycle: The same, float64.
        mma_flops_cycle: Of an SM's tensor cores by mma.sync, bfloat16 summed in float32; 0: none.
        wgmma_flops_cycle: The same by wgmma.
        shared_bytes_cycle: Of an SM's shared memory.
        l2_bytes: Size of the L2 cache.
        l2_bytes_s: From L2 to all SMs, when no two ask for the same.
        dram_bytes_s: Read and written, by a copy.
        matmul_flops_s: The most that a library's bfloat16 matrix product reaches.
        driver: Version of the driver of one that is at hand; None of one that is only named.
    """

    name: str
    capability: int
    sms: int
    clock_hz: float
    fma_flops_cycle: int
    fp64_flops_cycle: int
    mma_flops_cycle: int
    wgmma_flops_cycle: int
    shared_bytes_cycle: int
    l2_bytes: int
    l2_bytes_s: float
    dram_bytes_s: float
    matmul_flops_s: float
    driver: int | None = None

    def core_flops_s(self, core: str, operands: str) -> float:
        """Operations a second of all SMs, issued without a gap.

        Args:
            core: ``"fma"``, ``"mma"`` or ``"wgmma"``.
            operands: ``"float32"``, ``"float64"``, ``"tf32"`` or ``"bfloat16"``.
        """
        if core == "fma":
            flops = self.fp64_flops_cycle if operands == "float64" else self.fma_flops_cycle
        else:
            flops = self.wgmma_flops_cycle if core == "wgmma" else self.mma_flops_cycle
            flops *= _OF_BFLOAT16.get(operands, 0)
        return flops * self.sms * self.clock_hz

    def ceiling_flops_s(self, operands: str) -> float:
        """The operations a second that any kernel can hope for, by what is multiplied."""
        if self.mma_flops_cycle and operands in _OF_BFLOAT16:
            return self.matmul_flops_s * _OF_BFLOAT16[operands]
        return self.core_flops_s("fma", operands)


_OF_BFLOAT16 = {"bfloat16": 1.0, "tf32": 0.5}  # the speed of tensor cores: white papers

_H100 = Gpu(
    name="h100",  # SXM, 80 GB
    capability=90,
    sms=132,
    clock_hz=1.614e9,  # fitted; it may boost to 1.98, and cannot within its power
    fma_flops_cycle=256,  # white paper
    fp64_flops_cycle=128,  # white paper
    mma_flops_cycle=1966,  # fitted: 0.48 of wgmma's
    wgmma_flops_cycle=4096,  # white paper
    shared_bytes_cycle=128,  # white paper
    l2_bytes=50_000_000,  # data sheet
    l2_bytes_s=5.5e12,  # from memory of published microbenchmarks of the PCIe card
    dram_bytes_s=3.0e12,  # copy; data sheet 3.35e12
    matmul_flops_s=800e12,  # measured: 798e12 by cuBLAS, 8192^3; white paper 989e12
)

_KNOWN = (
    _H100,
    replace(
        _H100,
        name="h200",
        l2_bytes=60_000_000,  # as PyTorch reports it
        dram_bytes_s=4.3e12,  # copy; data sheet 4.8e12
        matmul_flops_s=790e12,  # measured: 788e12 by cuBLAS, 8192^3
    ),
    Gpu(
        name="a100",  # SXM, 80 GB
        capability=80,
        sms=108,
        clock_hz=1.41e9,  # data sheet: boost, which it holds
        fma_flops_cycle=128,  # white paper
        fp64_flops_cycle=64,  # white paper
        mma_flops_cycle=2048,  # white paper
        wgmma_flops_cycle=0,
        shared_bytes_cycle=128,  # white paper
        l2_bytes=40_000_000,  # data sheet
        l2_bytes_s=4.5e12,  # estimate; white paper 5120 bytes a cycle, 7.2e12
        dram_bytes_s=1.8e12,  # estimate; data sheet 2.04e12
        matmul_flops_s=270e12,  # estimate; data sheet 312e12
    ),
    Gpu(
        name="l4",
        capability=89,
        sms=58,
        clock_hz=1.5e9,  # estimate, within 72 W; data sheet: boost 2.04
        fma_flops_cycle=256,  # white paper
        fp64_flops_cycle=4,  # white paper
        mma_flops_cycle=1024,  # white paper
        wgmma_flops_cycle=0,
        shared_bytes_cycle=128,  # white paper
        l2_bytes=48_000_000,  # data sheet
        l2_bytes_s=1.5e12,  # estimate
        dram_bytes_s=0.26e12,  # estimate; data sheet 0.30e12
        matmul_flops_s=80e12,  # estimate; data sheet 121e12
    ),
    Gpu(
        name="rtx-4090",
        capability=89,
        sms=128,
        clock_hz=2.52e9,  # data sheet: boost
        fma_flops_cycle=256,  # white paper
        fp64_flops_cycle=4,  # white paper
        mma_flops_cycle=512,  # white paper; sums in float32 run at half the speed
        wgmma_flops_cycle=0,
        shared_bytes_cycle=128,  # white paper
        l2_bytes=72_000_000,  # white paper
        l2_bytes_s=4.5e12,  # estimate
        dram_bytes_s=0.91e12,  # estimate; data sheet 1.01e12
        matmul_flops_s=155e12,  # estimate; data sheet 165e12
    ),
    Gpu(
        name="t4",  # its tensor cores know neither bfloat16 nor tf32
        capability=75,
        sms=40,
        clock_hz=1.2e9,  # estimate, within 70 W; data sheet: boost 1.59
        fma_flops_cycle=128,  # white paper
        fp64_flops_cycle=4,  # white paper
        mma_flops_cycle=0,
        wgmma_flops_cycle=0,
        shared_bytes_cycle=64,  # estimate
        l2_bytes=4_000_000,  # data sheet
        l2_bytes_s=1.0e12,  # estimate
        dram_bytes_s=0.24e12,  # estimate; data sheet 0.32e12
        matmul_flops_s=0.0,
    ),
)

GPUS = {gpu.name: gpu for gpu in _KNOWN}


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


def like(full_name: str, capability: int, sms: int, driver: int) -> Gpu:
    """Describe a GPU at hand by the known one of its name, else by the nearest one not newer.

    Args:
        full_name: As the driver has it: ``"NVIDIA A100-SXM4-80GB"``.
        capability: Compute capability times ten.
        sms: Multiprocessors.
        driver: Version.
    """
    words = re.findall(r"\w+", full_name.lower())
    for gpu in GPUS.values():
        if {*gpu.name.split("-")} <= {*words} and (gpu.capability, gpu.sms) == (capability, sms):
            return replace(gpu, driver=driver)
    newest_first = sorted(GPUS.values(), key=lambda gpu: -gpu.capability)
    older = (gpu for gpu in newest_first if gpu.capability <= capability)
    nearest = next(older, newest_first[-1])
    name = "-".join(word for word in words if word != "nvidia")
    return replace(nearest, name=name, capability=capability, sms=sms, driver=driver)


@cache
def _emulated(name: str) -> Gpu:
    return named(name, f"CONVOLT_EMULATED_GPU={name}")


@cache
def _installed(device_id: int) -> Gpu:
    cupy = import_module("cupy")
    device = cupy.cuda.Device(device_id)
    return like(
        cupy.cuda.runtime.getDeviceProperties(device_id)["name"].decode(),
        int(device.compute_capability),
        device.attributes["MultiProcessorCount"],
        cupy.cuda.runtime.driverGetVersion(),
    )
