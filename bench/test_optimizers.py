import numpy as np
import pytest

from convolt.kernels import adam, segments, sgd

ELEMENTS = 1 << 20


def table(put, *hyper):
    """Return the tables of one parameter in one group with these hyper-parameters."""
    rows = np.zeros((1, segments.COLUMNS), np.int64)
    rows[0, segments.SIZE], rows[0, segments.ACTIVE] = ELEMENTS, 1
    return put(rows), put(np.array([hyper], np.float64))


@pytest.mark.benchmark(group="sgd step, momentum and weight decay")
def test_sgd_step(timed, random, put):
    lr, momentum, dampening, weight_decay, nesterov, maximize = 1e-3, 0.9, 0, 1e-4, 0, 0
    tables = table(put, lr, momentum, dampening, weight_decay, nesterov, maximize)
    timed(sgd.step, random(ELEMENTS), random(ELEMENTS), random(ELEMENTS), *tables)


@pytest.mark.benchmark(group="adam step, AdamW")
def test_adam_step(timed, random, put):
    lr, beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize = (
        *(1e-3, 0.9, 0.999, 1e-8, 1e-2),
        *(1, 0, 0),
    )
    tables = table(put, lr, beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize)
    moments = random(ELEMENTS), abs(random(ELEMENTS))
    timed(adam.step, random(ELEMENTS), random(ELEMENTS), *moments, None, *tables)
