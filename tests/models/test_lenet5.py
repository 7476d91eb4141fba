"""LeNet-5 is the net of the lecture's table."""

import math

import numpy as np
import pytest

from convolt import Tensor, functional, manual_seed
from convolt.models import build, summarize
from convolt.models.lenet5 import lenet5

TABLE = [  # layer, output, weight (without bias)
    ("Conv2d", (20, 28, 28), (20, 1, 5, 5)),
    ("ReLU", (20, 28, 28), None),
    ("MaxPool2d", (20, 14, 14), None),
    ("Conv2d", (50, 14, 14), (50, 20, 5, 5)),
    ("ReLU", (50, 14, 14), None),
    ("MaxPool2d", (50, 7, 7), None),
    ("Flatten", (2450,), None),
    ("Linear", (500,), (500, 2450)),
    ("ReLU", (500,), None),
    ("Linear", (10,), (10, 500)),
]


def test_every_output_and_weight_has_the_size_of_the_table():
    model = lenet5()
    rows = summarize(model, (1, 28, 28)).layers
    weights = [layer.weight.shape if hasattr(layer, "weight") else None for layer in model]
    assert [
        (row.kind, row.output_shape, weight) for row, weight in zip(rows, weights, strict=True)
    ] == TABLE


def test_parameters_and_multiply_adds():
    summary = summarize(lenet5(), (1, 28, 28))
    assert summary.parameters == 1_256_080
    # 28*28*20*25 + 14*14*50*20*25 + 2450*500 + 500*10
    assert summary.multiply_adds == 392_000 + 4_900_000 + 1_225_000 + 5_000


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_first_loss_is_near_the_logarithm_of_ten(seed):
    manual_seed(seed)
    rng = np.random.default_rng(seed)
    x = Tensor(rng.normal(size=(64, 1, 28, 28)).astype(np.float32))
    loss = functional.cross_entropy(lenet5()(x), Tensor(rng.integers(0, 10, 64)))
    assert abs(loss.item() - math.log(10)) < 0.1


def test_options():
    model = build("lenet5", in_channels=3, num_classes=4)
    assert model(Tensor(np.ones((2, 3, 28, 28), np.float32))).shape == (2, 4)


def test_an_image_of_another_size_is_an_error_that_names_the_layer():
    with pytest.raises(ValueError, match=r"linear: .*2450") as error:
        lenet5()(Tensor(np.ones((1, 1, 32, 32), np.float32)))
    assert 'in layer "7" (Linear' in error.value.__notes__[0]
