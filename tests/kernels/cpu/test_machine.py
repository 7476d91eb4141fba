"""What the CPU is and what a process may use of it, on machines laid out in a folder."""

import os
import subprocess
import sys

import pytest

from convolt.kernels.cpu import machine

ZEN5 = {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx2", "fma", "sse2"}


def lay(root, files):
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def cpu(number, siblings, caches):
    """Files of one CPU; ``caches``: (level, type, size, shared_cpu_list)."""
    folder = f"sys/devices/system/cpu/cpu{number}"
    files = {f"{folder}/topology/thread_siblings_list": siblings}
    for index, facts in enumerate(caches):
        for name, fact in zip(("level", "type", "size", "shared_cpu_list"), facts, strict=True):
            files[f"{folder}/cache/index{index}/{name}"] = fact
    return files


@pytest.mark.parametrize(
    ("features", "arch", "expected"),
    [
        (ZEN5, "x86_64", (64, 32)),
        (ZEN5 - {"avx512vl"}, "x86_64", (32, 16)),  # AVX-512 without short vectors: Xeon Phi
        ({"avx2", "fma"}, "x86_64", (32, 16)),
        ({"avx2"}, "x86_64", (16, 16)),
        ({"avx", "sse2"}, "x86_64", (16, 16)),
        ({"neon"}, "aarch64", (16, 32)),
        ({"neon", "sve"}, "arm64", (16, 32)),
        (set(), "riscv64", (16, 16)),
    ],
)
def test_vectors(features, arch, expected):
    assert machine.vector_bytes(features) == expected[0]
    assert machine.vector_registers(features, arch) == expected[1]


@pytest.fixture
def fresh():
    machine.cpu_features.cache_clear()
    yield
    machine.cpu_features.cache_clear()


def test_numba_s_variables_restrict_the_features(monkeypatch, fresh):
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2,+fma,-avx512f,+sse2")
    assert machine.cpu_name() == "haswell"
    assert machine.cpu_features() == {"avx2", "fma", "sse2"}
    assert machine.vector_bytes() == 32


def test_generic_has_no_features(monkeypatch, fresh):
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    assert machine.cpu_features() == frozenset()


def test_without_variables_the_features_are_those_numba_compiles_for(monkeypatch, fresh):
    from numba.core import codegen, config

    monkeypatch.delenv("NUMBA_CPU_NAME", raising=False)
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    monkeypatch.setattr(config, "CPU_FEATURES", None)
    flags = codegen.get_host_cpu_features().split(",")
    assert machine.cpu_features() == {flag[1:] for flag in flags if flag.startswith("+")}


INTEL = [
    (1, "Data", "48K", "0,4"),
    (1, "Instruction", "32K", "0,4"),
    (2, "Unified", "2048K", "0,4"),
    (3, "Unified", "24M", "0-7"),
]


def test_caches_of_a_core_with_two_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_affinity", lambda: frozenset({4, 5}))
    lay(tmp_path, cpu(4, "0,4", INTEL))
    assert machine.cache_bytes(tmp_path) == (48 << 10, 2 << 20, 24 << 20)


def test_an_l2_of_several_cores_is_shared_out(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_affinity", lambda: frozenset({0}))
    lay(tmp_path, cpu(0, "0", [(1, "Data", "32K", "0"), (2, "Unified", "1024K", "0-3")]))
    assert machine.cache_bytes(tmp_path) == (32 << 10, 256 << 10, 1 << 20)


def test_caches_that_the_system_does_not_tell_have_common_sizes(tmp_path):
    assert machine.cache_bytes(tmp_path) == machine.CACHE_BYTES
    lay(
        tmp_path,
        cpu(min(machine._affinity()), "", [(1, "Data", "64K", ""), (2, "Unified", "", "")]),
    )
    assert machine.cache_bytes(tmp_path) == (64 << 10, *machine.CACHE_BYTES[1:])


def test_caches_of_an_apple_cpu(monkeypatch):
    sizes = {"l1dcachesize": 128 << 10, "l2cachesize": 16 << 20, "cpusperl2": 4}
    told = {f"hw.perflevel0.{name}": size for name, size in sizes.items()}
    monkeypatch.setattr(machine, "_sysctl", lambda name: told.get(name, 0))
    assert machine._darwin_cache_bytes() == (128 << 10, 4 << 20, 16 << 20)
    told.clear()
    assert machine._darwin_cache_bytes() == machine.CACHE_BYTES


def test_caches_here_grow_with_their_level():
    l1, l2, l3 = machine.cache_bytes()
    assert 8 << 10 <= l1 <= l2 <= l3


def test_affinity_limits_the_threads(tmp_path):
    limit = machine.cpu_limit(tmp_path, affinity={2, 3, 5})
    assert (limit.threads, limit.quota) == (3, None)
    assert limit.why == "the CPUs of this process"


def test_two_threads_of_a_core_count_as_one(tmp_path):
    for number in range(8):
        lay(tmp_path, cpu(number, f"{number % 4},{number % 4 + 4}", []))
    limit = machine.cpu_limit(tmp_path, affinity=range(8))
    assert (limit.cpus, limit.cores, limit.threads) == (8, 4, 4)
    assert limit.why == "the cores behind the 8 CPUs of this process"
    assert machine.cpu_limit(tmp_path, affinity={1, 5, 2}).threads == 2


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 32 0:30 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
OTHERS = """
23 22 0:21 / /proc rw - proc proc rw
35 32 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids"""


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"a/b": "max 100000"}, (16, None)),
        ({"a/b": "250000 100000"}, (3, 2.5)),
        ({"a": "50000 100000", "a/b": "max 100000"}, (1, 0.5)),  # of the group above
        ({"a": "400000 100000", "a/b": "800000 100000"}, (4, 4.0)),
        ({"": "200000 100000"}, (2, 2.0)),  # at the top, in a container
        ({"a/b": "6400000 100000"}, (16, 64.0)),
        ({"a/b": "1000 100000"}, (1, 0.01)),
        ({"a/b": "nonsense"}, (16, None)),
    ],
)
def test_quota_of_a_control_group(tmp_path, quotas, expected):
    lay(tmp_path, {"proc/self/cgroup": "0::/a/b", "proc/self/mountinfo": V2 + OTHERS})
    lay(tmp_path, {f"sys/fs/cgroup/{path}/cpu.max": text for path, text in quotas.items()})
    limit = machine.cpu_limit(tmp_path, affinity=range(16))
    assert (limit.threads, limit.quota) == expected
    if expected[0] < 16:
        assert limit.why == f"the container's quota of {expected[1]:g} CPUs"


@pytest.mark.parametrize(("top", "folder"), [("/", "docker/1/"), ("/docker/1", ""), ("/", "")])
@pytest.mark.parametrize(("quota", "threads"), [("150000", 2), ("-1", 8)])
def test_quota_of_a_control_group_of_the_first_version(tmp_path, top, folder, quota, threads):
    own = f"sys/fs/cgroup/cpu,cpuacct/{folder}cpu.cfs_"
    lay(
        tmp_path,
        {
            "proc/self/cgroup": "5:pids:/docker/1\n4:cpu,cpuacct:/docker/1\n0::/",
            "proc/self/mountinfo": V1.format(top=top) + OTHERS,
            f"{own}quota_us": quota,
            f"{own}period_us": "100000",
        },
    )
    assert machine.cpu_limit(tmp_path, affinity=range(8)).threads == threads


def test_a_group_outside_of_what_is_mounted_counts_as_the_top(tmp_path):
    lay(tmp_path, {"proc/self/cgroup": "0::/../other", "proc/self/mountinfo": V2})
    lay(tmp_path, {"sys/fs/cgroup/cpu.max": "300000 100000"})
    assert machine.cpu_limit(tmp_path, affinity=range(8)).threads == 3


def test_the_limit_here_is_within_the_machine():
    limit = machine.cpu_limit()
    assert 1 <= limit.threads <= limit.cores <= limit.cpus <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_is_asked_each_time():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.cpu_limit().threads == 1
    finally:
        os.sched_setaffinity(0, before)


def test_numba_is_not_imported():
    code = (
        "import sys; from convolt.kernels.cpu import machine as m;"
        "m.vector_bytes(), m.cache_bytes(), m.cpu_limit(); print('numba' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
