"""The CPU backend on CPUs with fewer features, as Numba's variables have it compile for."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from convolt.kernels.cpu import machine

AVX2 = "+64bit,+avx,+avx2,+bmi,+bmi2,+cmov,+cx16,+cx8,+f16c,+fma,+fxsr,+lzcnt,+mmx,+movbe,+popcnt,"
AVX2 += "+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,-avx512f"
SSE = "+64bit,+cmov,+cx8,+fxsr,+mmx,+sse,+sse2,-avx,-avx2,-fma,-avx512f"
CPUS = {
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2},
    "sse2": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": SSE},
}
VECTOR_BYTES = {"avx2": 32, "sse2": 16}
needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not machine.cpu_features() >= machine.AVX2,
    reason="needs an x86 CPU with AVX2",
)

STEP = """
import json
import numpy as np
import convolt
from convolt import functional as F
from convolt.kernels.cpu import machine

def gradients(backend):
    random = np.random.default_rng(0)
    with convolt.use_backend(backend):
        x, w, v, gamma, beta = (
            convolt.tensor(random.integers(-2, 3, shape).astype(np.float32))
            for shape in ((3, 3, 13, 11), (17, 3, 3, 3), (5, 17 * 3 * 3), (17,), (17,))
        )
        for tensor in (x, w, v, gamma, beta):
            tensor.requires_grad = True
        y = F.conv2d(x, w, padding=1, stride=2)
        y = F.max_pool2d(F.relu(F.batch_norm(y, None, None, gamma, beta, training=True)), 2)
        loss = F.cross_entropy(F.linear(y.flatten(1), v), convolt.tensor(np.array([0, 3, 1])))
        loss.backward()
        return [loss.item(), *(tensor.grad.numpy().astype(float) for tensor in (x, w, v))]

got, expected = gradients("numba"), gradients("numpy")
errors = [float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in zip(got, expected)]
print(json.dumps({"errors": errors, "vector_bytes": machine.vector_bytes()}))
"""


def environment(cpu, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp() / f"compiled-for-{cpu}"
    return os.environ | CPUS[cpu] | {"CONVOLT_CACHE_DIR": str(cache)}


@needs_x86
@pytest.mark.parametrize("cpu", ["avx2", pytest.param("sse2", marks=pytest.mark.slow)])
def test_a_step_on_a_cpu_with_fewer_features(tmp_path_factory, cpu):
    result = subprocess.run(
        [sys.executable, "-c", STEP],
        capture_output=True,
        text=True,
        env=environment(cpu, tmp_path_factory),
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["vector_bytes"] == VECTOR_BYTES[cpu]
    assert max(report["errors"]) < 1e-5


@needs_x86
@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("op", ["conv2d", "linear", "batch_norm", "max_pool2d", "avg_pool2d"])
def test_the_tests_of_an_op_pass_on_a_cpu_with_fewer_features(tmp_path_factory, cpu, op):
    tests = Path(__file__).parents[1] / f"test_{op}.py"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "not emulator and not cuda", str(tests)],
        cwd=tests.parents[2],
        capture_output=True,
        text=True,
        env=environment(cpu, tmp_path_factory),
        timeout=1200,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
