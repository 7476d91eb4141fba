"""The way to Numba: results that do not depend on history, a cache that cannot go stale."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

import convolt.kernels
from convolt.kernels.cpu import jit


def test_float32_results_do_not_depend_on_float64_having_run_before():
    def third(x):
        return x / np.float32(3)

    x = np.random.default_rng(0).standard_normal(1000)
    fresh, used = jit.elementwise(third), jit.elementwise(third)
    results = []
    for apply, first in ((fresh, np.float32), (used, np.float64)):
        apply(x.astype(first), out=np.empty(1000, first))
        y = np.empty(1000, np.float32)
        apply(x.astype(np.float32), out=y)
        results.append(y.tobytes())
    assert results[0] == results[1]


def test_parallel_kernels_may_be_called_from_several_threads():
    from convolt.kernels import conv2d
    from convolt.kernels.backend import use_backend

    size = conv2d.Conv2dSize.of((4, 16, 16, 8), (8, 3, 3, 8), padding=1)
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (size.x_shape, size.w_shape))
    with use_backend("numba"):
        expected = conv2d.fprop(x, w, None, size)
        wrong = []

        def work():
            for _ in range(20):
                if not np.array_equal(conv2d.fprop(x, w, None, size), expected):
                    wrong.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


CODE = """
import numpy as np
from convolt.kernels import layout, reduction
from convolt.kernels.cpu import jit
from convolt.kernels.backend import use_backend
print(jit.is_cold())
use_backend("numba")
reduction.sum(np.ones((4, 5), np.float32), 0)
print(jit.is_cold(), jit.cache_dir())
"""


def test_compiled_code_is_cached_under_a_key_of_all_kernel_sources(tmp_path):
    environment = os.environ | {"CONVOLT_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", CODE],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert [run[:2] for run in runs] == [["True", "False"], ["False", "False"]]
    assert runs[0][2] == runs[1][2]
    assert Path(runs[0][2]).parent == tmp_path


def test_the_key_changes_with_any_kernel_source(monkeypatch):
    before = jit.cache_dir()
    original = Path.read_bytes
    changed = Path(convolt.kernels.__file__).parent / "conv2d" / "__init__.py"
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: original(path) + (b"#" if path == changed else b"")
    )
    assert jit.cache_dir.__wrapped__() != before


def test_a_cache_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    environment = os.environ | {"CONVOLT_CACHE_DIR": str(tmp_path / "file")}
    command = [sys.executable, "-c", "import convolt; convolt.tensor([1.0]).sum()"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode != 0
    assert "set CONVOLT_CACHE_DIR to a folder that can be written" in result.stderr


def test_other_users_of_numba_keep_their_cache_folder():
    assert str(jit.cache_dir()) != jit.config.CACHE_DIR
