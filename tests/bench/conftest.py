"""The benchmarks lie beside the package, not in it: without the repository there is no test."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def repository():
    """Return the repository that holds ``bench``; skip where only the package is installed."""
    if not (ROOT / "bench" / "problems.py").is_file():
        pytest.skip("bench/ is not beside the tests")
    return ROOT


@pytest.fixture(scope="session")
def load(repository):
    """Return ``load(name)``: a module of bench that needs no other one of bench."""

    def from_file(name):
        # By its file: ``import bench`` could find the folder of these tests.
        spec = spec_from_file_location(f"bench_{name}", repository / "bench" / f"{name}.py")
        module = module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return from_file


@pytest.fixture(scope="session")
def run(repository):
    """Return ``run(*words)``: ``python -m`` with these words, from the root."""

    def command(*words):
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return command
