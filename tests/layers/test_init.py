import math

import numpy as np
import pytest

from convolt import Parameter, Tensor, manual_seed
from convolt.engine.random import Generator
from convolt.kernels.layout import channels_first
from convolt.layers import Conv2d, init

SHAPE = (64, 32, 3, 3)  # fan_in 288, fan_out 576
SCHEMES = {
    "lecun": (init.lecun_uniform_, init.lecun_normal_, {}, 1 / 288),
    "xavier": (init.xavier_uniform_, init.xavier_normal_, {}, 2 / (288 + 576)),
    "xavier gain": (init.xavier_uniform_, init.xavier_normal_, {"gain": 3}, 18 / (288 + 576)),
    "he": (init.kaiming_uniform_, init.kaiming_normal_, {"nonlinearity": "relu"}, 2 / 288),
    "he fan_out": (init.kaiming_uniform_, init.kaiming_normal_, {"mode": "fan_out"}, 2 / 576),
    "he leaky": (init.kaiming_uniform_, init.kaiming_normal_, {"a": 2.0}, 2 / 5 / 288),
}


def assert_moments(values, mean, var, kurtosis):
    """Mean and variance lie within 5 of their own standard deviations."""
    n = values.size
    values = values.astype(np.float64)
    assert abs(values.mean() - mean) <= 5 * math.sqrt(var / n)
    assert abs(values.var() - var) <= 5 * var * math.sqrt((kurtosis - 1) / n)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variance_and_shape_of_the_distribution(scheme, dtype):
    uniform_, normal_, options, var = SCHEMES[scheme]
    manual_seed(3)
    w = Tensor(np.full(SHAPE, np.nan, dtype))
    assert uniform_(w, **options) is w
    bound = math.sqrt(3 * var)
    assert 0.999 * bound < np.abs(w.numpy()).max() <= bound * (1 + 1e-6)
    assert_moments(w.numpy(), 0, var, kurtosis=9 / 5)
    assert normal_(w, **options) is w
    assert np.abs(w.numpy()).max() > 3 * math.sqrt(var)
    assert_moments(w.numpy(), 0, var, kurtosis=3)


def test_plain_distributions():
    manual_seed(0)
    w = Tensor(np.full((100, 100), np.nan, np.float32))
    values = init.uniform_(w, -1, 3).numpy()
    assert values.min() >= -1
    assert values.max() <= 3
    assert_moments(values, 1, 16 / 12, 9 / 5)
    assert_moments(init.normal_(w).numpy(), 0, 1, 3)
    assert_moments(init.normal_(w, 2, 0.01).numpy(), 2, 1e-4, 3)


def test_constants(backend):
    w = Parameter(channels_first(np.full((2, 3, 3, 4), np.nan, np.float32)))
    assert (init.constant_(w, 1.5).numpy() == 1.5).all()
    assert (init.ones_(w).numpy() == 1).all()
    assert init.zeros_(w) is w
    assert not w.numpy().any()
    assert w.requires_grad
    assert w.is_leaf


def test_values_do_not_depend_on_the_memory_order(backend):
    plain = Tensor(np.empty((5, 3, 3, 2), np.float32))
    last = Tensor(channels_first(np.empty((5, 3, 2, 3), np.float32)))
    assert plain.data.strides != last.data.strides
    for fill in (init.normal_, init.kaiming_uniform_):
        for w in (plain, last):
            manual_seed(7)
            fill(w)
        assert (plain.numpy() == last.numpy()).all()


def test_seeds_reproduce_and_differ():
    def weight(seed):
        manual_seed(seed)
        return Conv2d(3, 4, 3).weight.numpy()

    assert (weight(1) == weight(1)).all()
    assert (weight(1) != weight(2)).any()
    a, b = (
        init.normal_(Tensor(np.empty((4, 4), np.float32)), generator=Generator(5)) for _ in "ab"
    )
    assert (a.numpy() == b.numpy()).all()


def test_fans_count_the_window():
    w = Tensor(np.empty((6, 2, 3, 5), np.float32))
    assert init.fan_in(w) == 30
    assert init.fan_out(w) == 90
    assert init.fan_in(Tensor(np.empty((6, 2), np.float32))) == 2


def test_gains():
    assert init.calculate_gain("linear") == init.calculate_gain("sigmoid") == 1
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("leaky_relu", 1) == 1
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / 1.0001)


def test_bad_arguments_raise():
    w = Tensor(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="unknown nonlinearity 'gelu'; known are linear"):
        init.calculate_gain("gelu")
    with pytest.raises(ValueError, match="mode must be"):
        init.kaiming_normal_(w, mode="fan_avg")
    for shape in ((3,), (), (3, 0)):
        with pytest.raises(ValueError, match="need a weight"):
            init.xavier_uniform_(Tensor(np.ones(shape, np.float32)))
    with pytest.raises(TypeError):
        init.normal_(Tensor(np.ones((2, 2), np.int64)))
    assert (w.numpy() == 1).all()
