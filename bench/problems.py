"""Convolutions of well-known networks, as problems to time; models/convolutions.py lists them.

problems("resnet50")            the batch size of DEFAULT_BATCH
problems("resnet50", batch=32)  another one
"""

from convolt.models.convolutions import NETWORKS as NETWORKS
from convolt.models.convolutions import Convolution as Problem
from convolt.models.convolutions import convolutions

DEFAULT_BATCH = {
    "lenet5": 128,
    "cifar": 128,
    "alexnet": 32,
    "vgg16": 4,
    "googlenet": 16,
    "resnet50": 8,
    "deepbench": None,  # each line has its own, from 4 to 32
    "soumith": 128,  # as published: minutes on a CPU, where --batch 8 says as much
}
"""Images a problem: a verb takes milliseconds to a second on a few CPU cores."""

CPU_BATCH = {"resnet50": 8, "vgg16": 8, "cifar": 64, "lenet5": 128}
"""The networks, and images a problem, that the CPU backend is judged by."""


def problems(network: str, batch: int | None = None) -> tuple[Problem, ...]:
    """Return the distinct convolutions of ``network`` in the order of its layers.

    Args:
        network: One of ``NETWORKS``.
        batch: Images a problem; None for ``DEFAULT_BATCH``.

    Raises:
        ValueError: There is no such network, or ``batch`` is < 1.
    """
    return convolutions(network, DEFAULT_BATCH.get(network) if batch is None else batch)
