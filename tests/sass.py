"""The instructions that a kernel was compiled to."""

import subprocess
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest


def disassemble(code, folder):
    """Return the SASS of a CUBIN; skip the test where there is no disassembler."""
    file = folder / "kernel.cubin"
    file.write_bytes(code)
    return subprocess.run([_tool(), file], capture_output=True, text=True, check=True).stdout


def _tool():
    spec = find_spec("nvidia")
    for root in spec.submodule_search_locations if spec else ():
        for tool in Path(root).glob("*/bin/nvdisasm"):
            return tool
    return which("nvdisasm") or pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm")
