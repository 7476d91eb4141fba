"""The examples and the README's snippet run and do what they say."""

import re
import runpy
from pathlib import Path

import pytest

from convolt.kernels.backend import why_not

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "examples").is_dir(), reason="the examples lie in the source tree only"
)


def test_kernels_alone(capsys):
    runpy.run_path(str(ROOT / "examples" / "kernels_alone.py"), run_name="__main__")
    output = capsys.readouterr().out
    for left, right in re.findall(r"(\S+) = (\S+)", output):
        assert left == right
    assert output.count("differ by at most") == 3


def test_training_loop(capsys):
    accuracy = runpy.run_path(str(ROOT / "examples" / "training_loop.py"))["main"](epochs=2)
    assert accuracy > 0.9
    assert "epoch 2: last loss" in capsys.readouterr().out


def test_emulate_kernel(capsys):
    if reason := why_not("emulator"):
        pytest.skip(reason)
    runpy.run_path(str(ROOT / "examples" / "emulate_kernel.py"), run_name="__main__")
    direct, tiled, *_, mistake = capsys.readouterr().out.splitlines()
    assert "24576 read and 196608 written" in direct
    assert "24576 read and 24576 written in sectors, 0 bank conflicts" in tiled
    assert "read of uninitialised static shared memory" in mistake
    assert "transpose.cu:26" in mistake


def test_the_snippet_in_the_readme():
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(snippet, names)
    assert names["loss"].item() > 0
    assert all(p.grad is not None for p in names["model"].parameters())
