"""What the CPU at hand is and how much of it this process may use, as plain values.

Numba is not imported here: ``convolt doctor`` asks too. What is read from ``/sys`` and ``/proc``
is read below a ``root``, so that tests can lay out other machines.
"""

import os
import platform
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path, PurePosixPath

ROOT = Path("/")
AVX512 = frozenset({"avx512f", "avx512vl", "avx512bw", "avx512dq"})
AVX2 = frozenset({"avx2", "fma"})
WIDER_VECTORS = ("avx", "amx", "fma", "f16c", "vaes", "vpclmul", "xop")  # than those of SSE
CACHE_BYTES = (32 << 10, 512 << 10, 8 << 20)  # assumed where the system does not say


def cpu_name() -> str:
    """Return the name LLVM compiles for: ``NUMBA_CPU_NAME``, else that of the CPU at hand."""
    return os.environ.get("NUMBA_CPU_NAME") or _host()[0]


@cache
def cpu_features() -> frozenset[str]:
    """Return LLVM's names of the features compiled for.

    They are what ``NUMBA_CPU_FEATURES`` switches on by name (``+avx2,+fma``), else all that the
    CPU at hand has; none for ``NUMBA_CPU_NAME=generic``, as in Numba.
    """
    asked = os.environ.get("NUMBA_CPU_FEATURES")
    if asked is None and cpu_name().lower() == "generic":
        asked = ""
    flags = _host()[1] if asked is None else asked
    return frozenset(flag[1:] for flag in flags.split(",") if flag.startswith("+"))


def feature_flags() -> str:
    """Return the features for LLVM: those in force on, wider vectors that are not in force off.

    The name of a CPU alone would switch all its features on, also those that a hypervisor hides.
    """
    wanted = cpu_features()
    known = {flag[1:] for flag in _host()[1].split(",") if flag}
    off = {name for name in known - wanted if name.startswith(WIDER_VECTORS)}
    return ",".join([f"+{name}" for name in sorted(wanted)] + [f"-{name}" for name in sorted(off)])


@cache
def _host() -> tuple[str, str]:
    import llvmlite.binding as llvm

    try:
        return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM knows no features of this kind of CPU
        return llvm.get_host_cpu_name(), ""


def vector_bytes(features: Collection[str] | None = None) -> int:
    """Return the bytes of one vector register: 64 with AVX-512, 32 with AVX2 and FMA, else 16."""
    features = frozenset(cpu_features() if features is None else features)
    if features >= AVX512:
        return 64
    return 32 if features >= AVX2 else 16


def vector_registers(features: Collection[str] | None = None, arch: str | None = None) -> int:
    """Return how many vector registers there are: 32 with AVX-512 and on ARM, else 16."""
    if (arch or platform.machine()).lower() in ("aarch64", "arm64"):
        return 32
    return 32 if vector_bytes(features) == 64 else 16


def cache_bytes(root: Path = ROOT) -> tuple[int, int, int]:
    """Return the bytes of the caches (l1, l2, l3) that one core finds.

    l1 is the data cache. l2 is one core's share, where several have one together. l3 is the whole
    of what is shared last, by as many cores as share it (without an l3, the whole l2). Sizes that
    the system does not tell are those of a common CPU.
    """
    if root == ROOT and sys.platform == "darwin":
        return _darwin_cache_bytes()
    cpu = root / f"sys/devices/system/cpu/cpu{min(_affinity(), default=0)}"
    found: dict[int, tuple[int, int]] = {}
    for folder in sorted((cpu / "cache").glob("index*")):
        level, size = _read(folder / "level"), _size(_read(folder / "size"))
        if level and size and _read(folder / "type") != "Instruction":
            found[int(level)] = (size, len(_cpus(_read(folder / "shared_cpu_list"))))
    threads = max(1, len(_cpus(_read(cpu / "topology/thread_siblings_list"))))
    l1 = found[1][0] if 1 in found else CACHE_BYTES[0]
    l2, sharers = found.get(2, (CACHE_BYTES[1], 1))
    l3 = found[3][0] if 3 in found else l2 if 2 in found else CACHE_BYTES[2]
    return l1, l2 // max(1, sharers // threads), l3


def _darwin_cache_bytes() -> tuple[int, int, int]:
    def ask(name: str) -> int:  # of the performance cores, else of all
        return _sysctl(f"hw.perflevel0.{name}") or _sysctl(f"hw.{name}")

    l1 = ask("l1dcachesize") or CACHE_BYTES[0]
    l2 = ask("l2cachesize")
    l3 = ask("l3cachesize") or l2 or CACHE_BYTES[2]
    return l1, l2 // (_sysctl("hw.perflevel0.cpusperl2") or 1) or CACHE_BYTES[1], l3


def _sysctl(name: str) -> int:
    """Return what macOS says; 0 where it knows no such name."""
    import subprocess

    try:
        command = ["/usr/sbin/sysctl", "-n", name]
        return int(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    except (OSError, ValueError):
        return 0


@dataclass(frozen=True, slots=True)
class CpuLimit:
    """How many CPUs this process may use, and what says so."""

    cpus: int  # CPUs that the process may run on: its affinity
    cores: int  # of these, whole cores: the two threads of a core share its arithmetic
    quota: float | None  # CPUs' worth of time that the container may use; None: no limit

    @property
    def threads(self) -> int:
        """How many threads have work: one a core, within the quota rounded up, at least one."""
        return max(1, self.cores if self.quota is None else min(self.cores, ceil(self.quota)))

    @property
    def why(self) -> str:
        """What ``threads`` rests on, in words."""
        if self.quota is not None and ceil(self.quota) < self.cores:
            return f"the container's quota of {self.quota:g} CPUs"
        if self.cores < self.cpus:
            return f"the cores behind the {self.cpus} CPUs of this process"
        return "the CPUs of this process"


def cpu_limit(root: Path = ROOT, affinity: Collection[int] | None = None) -> CpuLimit:
    """Return how many CPUs this process may use.

    Args:
        root: Where ``sys`` and ``proc`` lie.
        affinity: Numbers of the CPUs that it may run on; None: ask.
    """
    cpus = _affinity() if affinity is None else frozenset(affinity)
    if root == ROOT and sys.platform == "darwin":
        cores = _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or len(cpus)
        return CpuLimit(len(cpus), min(cores, len(cpus)), None)
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {_read(root / topology.format(cpu)) or str(cpu) for cpu in cpus}
    return CpuLimit(len(cpus), len(cores), _quota(root))


def _affinity() -> frozenset[int]:
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1  # heeds PYTHON_CPU_COUNT
    if hasattr(os, "sched_getaffinity"):
        return frozenset(sorted(os.sched_getaffinity(0))[:count])
    return frozenset(range(count))


def _quota(root: Path) -> float | None:
    """Return the smallest quota of the control groups that this process is in."""
    quotas = []
    for folder in _control_groups(root):
        limit, _, period = _read(folder / "cpu.max").partition(" ")
        if not limit:  # control groups of the first version
            limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if limit.isdigit() and period.isdigit() and int(period):  # none: "max", "-1"
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folder of each control group that limits CPUs, from the process's own upwards."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for mount, mounted in _mounts(root, controllers):
            # In a container the mount may show the container's own group as its top.
            own = PurePosixPath(path)
            below = own.relative_to(mounted) if own.is_relative_to(mounted) else own
            top = root / mount.lstrip("/")
            folder = top if ".." in below.parts else top / str(below).lstrip("/")
            while folder != top:
                yield folder
                folder = folder.parent
            yield top


def _mounts(root: Path, controllers: str) -> Iterator[tuple[str, str]]:
    """Yield (mount point, group at its top) of the hierarchy that has these controllers."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        kind, _, options = kind.split(" ", 2)
        unified = kind == "cgroup2" and not controllers
        cpu = kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(",")
        if unified or cpu:
            _, _, _, mounted, point, *_ = mount.split(" ")
            yield point, mounted


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]] if found else 0


def _cpus(text: str) -> frozenset[int]:
    """Return the numbers in a list such as ``0-3,8``."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)
