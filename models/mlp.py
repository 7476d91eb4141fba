"""Multi-layer perceptron, as in the Edinburgh MLP lectures."""

from collections.abc import Sequence
from itertools import pairwise

from ..layers import Flatten, Linear, ReLU, Sequential


def mlp(in_features: int, hidden: Sequence[int] = (256,), num_classes: int = 10) -> Sequential:
    """Return a net of linear layers with ReLU between them, for inputs (N, ...).

    Args:
        in_features: Elements of one input.
        hidden: Width of each hidden layer.
        num_classes: Outputs.
    """
    net = Sequential(Flatten())
    for c, k in pairwise((in_features, *hidden)):
        net.extend([Linear(c, k), ReLU()])
    return net.append(Linear((in_features, *hidden)[-1], num_classes))
