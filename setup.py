"""How to build: the repository root is the package ``convolt``. Metadata: pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ["kernels", "engine", "layers", "optim", "models", "data", "training", "cli"]


class BuildPackage(build_py):
    """Leave this file out of the wheel, where it would be ``convolt/setup.py``."""

    def find_package_modules(self, package, package_dir):
        """Return the modules of a package, without this file."""
        modules = super().find_package_modules(package, package_dir)
        return [m for m in modules if Path(m[2]).resolve() != Path(__file__).resolve()]


setup(
    package_dir={"convolt": "."},
    packages=[
        "convolt",
        *(
            f"convolt.{name}"
            for name in find_packages(include=[p for r in ROOMS for p in (r, f"{r}.*")])
        ),
    ],
    package_data={
        "convolt": ["py.typed"],
        "convolt.kernels": ["**/*.cu", "**/*.cuh", "**/*.cpp", "**/*.h"],
        "convolt.models": ["*.csv"],
    },
    cmdclass={"build_py": BuildPackage},
)
