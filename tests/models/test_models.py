import numpy as np
import pytest

from convolt import Tensor
from convolt.models import MADE_FOR, build, names


def test_build_knows_its_names():
    assert names() == sorted(names())
    assert {"lenet5", "mlp"} <= set(names())
    with pytest.raises(
        ValueError, match="no model 'lenet6'; there are lenet5, mlp, resnet20, resnet50"
    ):
        build("lenet6")
    with pytest.raises(TypeError, match="depth"):
        build("lenet5", depth=3)


def test_every_model_has_images_that_it_is_meant_for():
    assert MADE_FOR.keys() == set(names())


def test_mlp():
    net = build("mlp", in_features=12, hidden=(5, 4), num_classes=3)
    assert [p.shape for p in net.parameters()] == [(5, 12), (5,), (4, 5), (4,), (3, 4), (3,)]
    assert net(Tensor(np.ones((2, 3, 2, 2), np.float32))).shape == (2, 3)
    linear = build("mlp", in_features=12, hidden=())
    assert [p.shape for p in linear.parameters()] == [(10, 12), (10,)]
