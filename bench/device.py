"""Print, as JSON, what is known of the GPU and its driver: ``python -m bench.device``.

Exits with 1, and says why, where no kernel can run on a GPU.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from convolt.kernels.backend import why_not
from convolt.kernels.cuda.compile import arch_of, nvrtc_version

from .measure import machine

QUERY = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem")
QUERY += ("power.limit", "temperature.gpu", "mig.mode.current")
CUPY_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def examine() -> dict[str, Any]:
    """Return the facts, after numbers have gone to the GPU's memory and come back."""
    import cupy

    runtime = cupy.cuda.runtime
    device = cupy.cuda.Device()
    properties = runtime.getDeviceProperties(device.id)
    numbers = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    if not np.array_equal(cupy.asarray(numbers).get(), numbers):
        raise RuntimeError("a megabyte did not come back from the GPU as it went there")
    free_bytes, total_bytes = runtime.memGetInfo()
    return {
        "gpu": properties["name"].decode(),
        "arch": arch_of(device.compute_capability),
        "gpus": runtime.getDeviceCount(),
        "multiprocessors": properties["multiProcessorCount"],
        "l2_bytes": properties["l2CacheSize"],
        "memory_bytes": total_bytes,
        "memory_free_bytes": free_bytes,
        "cuda_of_driver": _cuda(runtime.driverGetVersion()),
        "cuda_runtime": _cuda(runtime.runtimeGetVersion()),
        "nvrtc": ".".join(map(str, nvrtc_version())),
        "cupy": next(filter(None, map(_version, CUPY_PACKAGES)), cupy.__version__),
        "cuda_bindings": _version("cuda-bindings"),  # they encode tensor maps
        "nvidia_smi": _nvidia_smi(device.id),
        "machine": machine(),
    }


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _nvidia_smi(device: int) -> dict[str, str] | str:
    """What nvidia-smi says of the GPU, or why it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    try:
        found = subprocess.run(
            [*command, f"--id={device}"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be asked: {error}"
    return dict(zip(QUERY, re.split(r",\s*", found.stdout.strip()), strict=False))


def main() -> int:
    """Print the facts, or why there are none."""
    if reason := why_not("cuda"):
        print(f"error: no GPU can be used: {reason}", file=sys.stderr)
        return 1
    print(json.dumps(examine(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
