"""Compiled code on disk: found again, never stale, whole whatever happened to it."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import convolt.kernels
from convolt.kernels.cpu import cache

CODE = """
import numpy as np
from convolt.kernels import layout, reduction
from convolt.kernels.cpu import cache
from convolt.kernels.backend import use_backend
print(cache.is_cold())
use_backend("numba")
reduction.sum(np.ones((4, 5), np.float32), 0)
print(cache.is_cold(), cache.cache_dir())
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
    before = cache.cache_dir()
    original = Path.read_bytes
    changed = Path(convolt.kernels.__file__).parent / "conv2d" / "__init__.py"
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: original(path) + (b"#" if path == changed else b"")
    )
    assert cache.cache_dir.__wrapped__() != before


def test_a_cache_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    environment = os.environ | {"CONVOLT_CACHE_DIR": str(tmp_path / "file")}
    command = [sys.executable, "-c", "import convolt; convolt.tensor([1.0]).sum()"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode != 0
    assert "set CONVOLT_CACHE_DIR to a folder that can be written" in result.stderr


def test_other_users_of_numba_keep_their_cache_folder():
    assert str(cache.cache_dir()) != cache.config.CACHE_DIR


COUNT = """
import sys
import numpy as np
from numba.core import event

compiled = []

class Note(event.Listener):
    def on_start(self, event):
        compiled.append(str(event.data["dispatcher"]))

    def on_end(self, event):
        pass

event.register("numba:compile", Note())
"""
SUM = (
    COUNT
    + """
import convolt
convolt.use_backend("numba")
print(float(convolt.tensor(np.ones((64, 5), np.float32)).sum(0).numpy()[0]), len(compiled))
"""
)
STEP = (
    COUNT
    + """
import convolt
from convolt import functional, models, optim
convolt.use_backend("numba")
net = models.lenet5()
optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
x = convolt.randn(8, 1, 28, 28)
loss = functional.cross_entropy(net(x), convolt.Tensor(np.arange(8) % 10))
loss.backward()
optimizer.step()
print(np.isfinite(loss.item()), compiled)
"""
)


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
        check=False,
    )


def test_the_second_start_compiles_nothing():
    first, second = run(STEP), run(STEP)  # the first one may, and where it did, it said so
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert (second.stdout, second.stderr) == ("True []\n", "")


def test_a_cold_start_says_so_in_one_line_that_logging_turns_off(tmp_path):
    quiet = "import logging; logging.getLogger('convolt').setLevel(logging.ERROR)\n"
    cold = run(SUM, CONVOLT_CACHE_DIR=str(tmp_path / "a"))
    assert cold.stderr.startswith("compiling the kernels, which takes a while this first time")
    assert cold.stderr.count("\n") == 1
    assert str(tmp_path / "a") in cold.stderr
    assert run(SUM, CONVOLT_CACHE_DIR=str(tmp_path / "a")).stderr == ""
    assert run(quiet + SUM, CONVOLT_CACHE_DIR=str(tmp_path / "b")).stderr == ""


def test_damaged_files_are_compiled_again(tmp_path):
    environment = {"CONVOLT_CACHE_DIR": str(tmp_path)}
    assert run(SUM, **environment).stdout.startswith("64.0 ")
    files = sorted(tmp_path.rglob("*.nbc"))
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(contents[0][: len(contents[0]) // 2])
    files[1].write_bytes(contents[0])
    again = run(SUM, **environment)
    assert again.returncode == 0, again.stderr
    value, compiled = again.stdout.split()
    assert (value, int(compiled) > 0) == ("64.0", True)
    assert run(SUM, **environment).stdout == "64.0 0\n"


def test_a_file_that_is_not_what_was_saved_counts_as_none(tmp_path):
    files = cache._WholeFiles(SimpleNamespace(_index_path=str(tmp_path / "kernel.nbi")))
    key, other, code = ("float32", 1), ("float64", 1), b"code" * 100
    assert files.load(key) is None
    files.save(key, code)
    assert (files.load(key), files.load(other)) == (code, None)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:1], whole[:-1], b"\x80" * 100, pickle.dumps(3)):
        file.write_bytes(damaged)
        assert files.load(key) is None
    files.save(key, code)
    assert files.load(key) == code
    files.save(other, b"more")
    file.replace(files._path(other))
    assert files.load(other) is None


def test_code_that_cannot_be_saved_is_used_all_the_same(tmp_path, caplog):
    files = cache._WholeFiles(SimpleNamespace(_index_path=str(tmp_path / "gone" / "kernel.nbi")))
    files.save(("float32", 1), b"code")
    assert "compiled kernels are not kept" in caplog.text


def test_processes_that_compile_at_once_leave_a_whole_cache(tmp_path):
    environment = os.environ | {"CONVOLT_CACHE_DIR": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", SUM], env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    assert all(process.communicate(timeout=300)[0].startswith(b"64.0 ") for process in both)
    assert run(SUM, CONVOLT_CACHE_DIR=str(tmp_path)).stdout == "64.0 0\n"
    left = [file.suffix for file in tmp_path.rglob("*") if file.is_file()]
    assert set(left) == {".nbc"}  # no temporary file, no index


@pytest.mark.parametrize("asked", [{"NUMBA_CPU_NAME": "nehalem"}, {"NUMBA_CPU_FEATURES": "+sse2"}])
def test_the_key_changes_with_the_cpu(asked):
    code = "from convolt.kernels.cpu.cache import cache_dir; print(cache_dir())"
    keys = {run(code).stdout, run(code, **asked).stdout}
    assert len(keys) == 2
    assert all(keys)


def test_folders_that_nobody_used_for_days_are_removed(tmp_path):
    old, recent, not_ours = (tmp_path / name for name in ("numba-a", "numba-b", "data"))
    for folder in (old, recent, not_ours):
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "x.nbc").touch()
    week = time.time() - cache.KEPT_S
    os.utime(old, (week - 60, week - 60))
    os.utime(not_ours, (week - 60, week - 60))
    os.utime(recent, (week + 60, week + 60))
    assert run(SUM, CONVOLT_CACHE_DIR=str(tmp_path)).returncode == 0
    assert [old.exists(), recent.exists(), not_ours.exists()] == [False, True, True]


def test_a_start_marks_the_folder_as_used(tmp_path):
    environment = {"CONVOLT_CACHE_DIR": str(tmp_path)}
    run(SUM, **environment)
    (folder,) = tmp_path.glob("numba-*")
    os.utime(folder, (1, 1))
    run(SUM, **environment)
    assert time.time() - folder.stat().st_mtime < 3600
