import numpy as np
import pytest

import convolt
from convolt import layers
from convolt.models import build as build_ours


@pytest.fixture(scope="module")
def models(load):
    return load("models")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *(("lenet5", 1_256_080), ("resnet20", 272_474), ("vgg11_cifar", 9_225_610)),
        ("resnet50", 23_528_522),
    ],
)
def test_number_of_parameters(models, name, parameters):
    net = models.build(name, layers)
    assert sum(p.numel() for p in net.parameters()) == parameters
    h, _, c = models.INPUT_SHAPE[name]
    pixels = min(h, 64)
    assert net(convolt.randn(2, c, pixels, pixels)).shape == (2, models.CLASSES)


def test_lenet5_is_that_of_the_package(models):
    ours, theirs = models.build("lenet5", layers), build_ours("lenet5")
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]
    found, expected = (
        {key: tensor.shape for key, tensor in net.state_dict().items()} for net in (ours, theirs)
    )
    assert found == expected
    theirs.load_state_dict(ours.state_dict())
    x = convolt.randn(2, 1, 28, 28)
    assert np.array_equal(ours(x).numpy(), theirs(x).numpy())


def test_resnet20_is_twenty_layers_deep(models):
    names = [
        key
        for key, tensor in models.build("resnet20", layers).state_dict().items()
        if tensor.ndim in (2, 4) and "downsample" not in key
    ]
    assert len(names) == 20
