import numpy as np
import pytest

from convolt import Tensor
from convolt.layers import BatchNorm1d, BatchNorm2d, Sequential


def batches(rng, *shape, count=3):
    return [rng.normal(2, 3, size=shape) for _ in range(count)]


def test_state_has_pytorchs_names_shapes_and_dtypes():
    state = BatchNorm2d(5).state_dict()
    assert [(name, t.shape, t.dtype) for name, t in state.items()] == [
        ("weight", (5,), np.float32),
        ("bias", (5,), np.float32),
        ("running_mean", (5,), np.float32),
        ("running_var", (5,), np.float32),
        ("num_batches_tracked", (), np.int64),
    ]
    assert (state["weight"].numpy() == 1).all()
    assert not state["bias"].numpy().any()
    assert list(BatchNorm1d(5, affine=False).state_dict()) == [
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]
    assert list(BatchNorm1d(5, bias=False).state_dict())[:2] == ["weight", "running_mean"]
    assert list(BatchNorm1d(5, track_running_stats=False).state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_running_statistics_follow_the_batches(rng, backend, momentum):
    layer = BatchNorm2d(3, momentum=momentum, dtype=np.float64)
    mean, var = np.zeros(3), np.ones(3)
    for i, x in enumerate(batches(rng, 4, 3, 2, 5)):
        y = layer(Tensor(x)).numpy()
        assert np.allclose(y.mean((0, 2, 3)), 0, atol=1e-12)
        assert np.allclose(y.var((0, 2, 3)), 1, atol=1e-5)  # eps takes a little
        share = 1 / (i + 1) if momentum is None else momentum
        mean = (1 - share) * mean + share * x.mean((0, 2, 3))
        var = (1 - share) * var + share * x.var((0, 2, 3), ddof=1)
        assert np.allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
        assert np.allclose(layer.running_var.numpy(), var, rtol=1e-12)
        assert layer.num_batches_tracked.item() == i + 1
    x = rng.normal(size=(1, 3, 1, 1))
    expected = (x - mean.reshape(3, 1, 1)) / np.sqrt(var.reshape(3, 1, 1) + 1e-5)
    assert np.allclose(layer.eval()(Tensor(x)).numpy(), expected, rtol=1e-12)
    assert layer.num_batches_tracked.item() == 3
    layer.reset_running_stats()
    assert layer.num_batches_tracked.item() == 0
    assert (layer.running_var.numpy() == 1).all()


def test_without_running_statistics_evaluation_uses_the_batch(rng):
    layer = BatchNorm1d(2, track_running_stats=False, dtype=np.float64)
    (x,) = batches(rng, 8, 2, count=1)
    y = layer.train()(Tensor(x)).numpy()
    assert (layer.eval()(Tensor(x)).numpy() == y).all()
    assert np.allclose(y.mean(0), 0, atol=1e-12)


def test_statistics_that_are_no_longer_tracked_stand_still(rng):
    layer = BatchNorm1d(2, dtype=np.float64)
    layer.track_running_stats = False
    (x,) = batches(rng, 8, 2, count=1)
    assert np.allclose(layer(Tensor(x)).numpy().mean(0), 0, atol=1e-12)
    assert not layer.running_mean.numpy().any()
    assert layer.num_batches_tracked.item() == 0
    assert np.allclose(layer.eval()(Tensor(x)).numpy(), x, rtol=1e-5)  # the initial ones


def test_affine_scales_and_shifts(rng):
    layer = BatchNorm1d(2, dtype=np.float64)
    x = Tensor(rng.normal(size=(6, 2, 4)))
    plain = layer(x).numpy()
    layer.weight.copy_(np.array([2.0, -1.0]))
    layer.bias.copy_(np.array([0.5, 3.0]))
    scaled = plain * np.array([[2.0], [-1.0]])
    expected = scaled + np.array([[0.5], [3.0]])
    assert np.allclose(layer(x).numpy(), expected, rtol=1e-12)
    layer.bias = None
    assert np.allclose(layer(x).numpy(), scaled, rtol=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (BatchNorm2d(3), (2, 3), r"\(N, C, H, W\), got shape \(2, 3\)"),
        (BatchNorm2d(3), (2, 3, 4), r"\(N, C, H, W\)"),
        (BatchNorm1d(3), (2, 3, 4, 4), r"\(N, C\) or \(N, C, L\)"),
        (BatchNorm1d(3), (3,), r"\(N, C\) or \(N, C, L\)"),
        (BatchNorm2d(3), (2, 4, 2, 2), "4 channels .* num_features is 3"),
        (BatchNorm1d(3), (1, 3), "more than 1 value per channel"),
    ],
)
def test_bad_inputs_raise_and_count_for_nothing(layer, shape, message):
    net = Sequential(layer)
    with pytest.raises(ValueError, match=message):
        net(Tensor(np.ones(shape, np.float32)))
    assert layer.num_batches_tracked.item() == 0
    assert not layer.running_mean.numpy().any()
    good = (2, 3, 2, 2) if isinstance(layer, BatchNorm2d) else (2, 3)
    assert net(Tensor(np.ones(good, np.float32))).shape == good


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="BatchNorm2d: num_features must be >= 1"):
        BatchNorm2d(0)
    with pytest.raises(TypeError, match="BatchNorm1d: dtype"):
        BatchNorm1d(1, dtype=np.int32)


@pytest.mark.parametrize("layer", [BatchNorm1d, BatchNorm2d])
@pytest.mark.parametrize("option", [{"momentum": "a"}, {"eps": None}, {"momentum": [0.1]}])
def test_options_that_are_no_numbers_are_refused(layer, option):
    with pytest.raises(TypeError, match=f"{layer.__name__}: {next(iter(option))} must be a number"):
        layer(3, **option)
