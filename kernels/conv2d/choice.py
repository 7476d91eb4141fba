"""Which kernels compute a convolution on CUDA."""

from functools import lru_cache
from types import ModuleType

from ..cuda.gpu import Gpu
from . import simt
from .algorithm import Algorithm, Problem

# Each module has ``runs_on(gpu)``; ``algorithms(problem)``, those of the family that compute a
# problem right; and fprop, dgrad and wgrad, which take one of them and then what on_cuda's take.
FAMILIES: dict[str, ModuleType] = {"simt": simt, "depthwise": simt}


@lru_cache(maxsize=4096)
def candidates(problem: Problem, gpu: Gpu) -> tuple[Algorithm, ...]:
    """Return all algorithms that compute a problem on a GPU."""
    modules = dict.fromkeys(FAMILIES.values())
    return tuple(a for m in modules if m.runs_on(gpu) for a in m.algorithms(problem))


def choose(problem: Problem, gpu: Gpu) -> Algorithm:
    """Return the algorithm for a problem on a GPU."""
    return candidates(problem, gpu)[0]
