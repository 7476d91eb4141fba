"""A training run has the same bytes for any number of threads."""

import numpy as np
from threads import results_by_threads

import convolt
from convolt import functional as F
from convolt import models, optim
from convolt.kernels.backend import use_backend


def weights_after(steps):
    convolt.manual_seed(0)
    model = models.lenet5()
    optimizer = optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3)
    for _ in range(steps):
        images = convolt.randn(32, 1, 28, 28)
        optimizer.zero_grad()
        F.cross_entropy(
            F.dropout(model(images), 0.1), convolt.Tensor(np.arange(32) % 10)
        ).backward()
        optimizer.step()
    return [p.numpy().tobytes() for p in model.parameters()]


def test_weights_do_not_depend_on_the_number_of_threads():
    with use_backend("numba"):
        runs = results_by_threads(lambda: weights_after(4))
    assert all(run == runs[0] for run in runs)
    assert len(set(runs[0])) == len(runs[0])
