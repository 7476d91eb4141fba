"""functional: gradients by differences, memory order, unbatched inputs, errors."""

import math

import numpy as np
import pytest
from gradients import assert_directional

import convolt
from convolt import Tensor
from convolt import functional as F

RNG = np.random.default_rng(11)


def r(*shape):
    return RNG.standard_normal(shape)


TARGET = Tensor(np.array([2, 0, 4]))
GRADIENTS = {
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, 2, (1, 2)), r(2, 3, 7, 6), r(4, 3, 3, 2), r(4)),
    "conv2d_groups": (
        lambda x, w: F.conv2d(x, w, None, 1, "same", 2, 2),
        r(2, 4, 5, 6),
        r(6, 2, 3, 3),
    ),
    "linear": (F.linear, r(2, 3, 5), r(4, 5), r(4)),
    "linear_vector": (F.linear, r(3, 5), r(5), r()),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), r(2, 3, 7, 8)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (3, 2), 2, 1, True, False), r(2, 3, 7, 8)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, None)), r(2, 3, 7, 4)),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        r(4, 3, 5, 2),
        r(3),
        r(3),
    ),
    "batch_norm_2d": (lambda x: F.batch_norm(x, None, None, training=True), r(7, 3)),
    "batch_norm_eval": (
        lambda x, w, b: F.batch_norm(x, Tensor(np.zeros(3)), Tensor(np.ones(3)), w, b),
        r(4, 3, 5, 2),
        r(3),
        r(3),
    ),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), r(3, 4)),
    "log_softmax": (lambda x: F.log_softmax(x, 1), r(3, 5)),
    "softmax": (lambda x: F.softmax(x, -1), r(3, 5)),
    "cross_entropy": (lambda x: F.cross_entropy(x, TARGET), r(3, 5)),
    "cross_entropy_smooth": (
        lambda x: F.cross_entropy(x, TARGET, Tensor(np.arange(1.0, 6)), label_smoothing=0.3),
        r(3, 5),
    ),
    "cross_entropy_none": (lambda x: F.cross_entropy(x, TARGET, reduction="none"), r(3, 5)),
    "cross_entropy_image": (
        lambda x: F.cross_entropy(x, Tensor(np.arange(24).reshape(2, 3, 4) % 5)),
        r(2, 5, 3, 4),
    ),
    "mse_loss": (F.mse_loss, r(3, 4), r(3, 4)),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_differences_of_the_function(backend, name):
    function, *arrays = GRADIENTS[name]
    assert_directional(function, *arrays)


def test_dropout_gradient_uses_the_mask_of_the_forward_pass(backend):
    convolt.manual_seed(3)
    x = Tensor(np.ones((4, 5, 6)), requires_grad=True)
    y = F.dropout(x, 0.3)
    y.sum().backward()
    np.testing.assert_array_equal(y.detach(), x.grad)
    kept = y.numpy() != 0
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(y.numpy()[kept], 1 / 0.7)
    assert F.dropout(x, 0.3, training=False) is x
    assert not np.array_equal(F.dropout(x, 0.3).numpy(), y.numpy())


def test_a_dropout_mask_does_not_depend_on_memory_order():
    masks = []
    for x in (np.ones((2, 3, 4, 5)), np.moveaxis(np.ones((2, 4, 5, 3)), -1, 1)):
        convolt.manual_seed(3)
        masks.append(F.dropout(Tensor(x)).numpy())
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.conv2d(x, Tensor(np.ones((4, 3, 3, 3))), padding=1),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.adaptive_avg_pool2d(x, 3),
    ],
    ids=["conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"],
)
def test_an_unbatched_image_gives_the_unbatched_result_over_channels_last_memory(function):
    x = Tensor(r(3, 6, 8), requires_grad=True)
    y = function(x)
    batched = function(Tensor(x.data[None]))
    np.testing.assert_array_equal(y.detach(), batched.data[0])
    assert batched.data.transpose(0, 2, 3, 1).flags.c_contiguous
    y.sum().backward()
    assert x.grad.shape == (3, 6, 8)


def test_max_pool2d_indices_point_at_the_elements():
    x = Tensor(r(2, 3, 7, 5))
    y, indices = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert indices.dtype == np.int64
    flat = x.data.reshape(2, 3, 35)
    picked = np.take_along_axis(flat, indices.data.reshape(2, 3, -1), 2)
    np.testing.assert_array_equal(picked.reshape(y.shape), y)
    y, indices = F.max_pool2d(Tensor(x.data[0]), 3, return_indices=True)
    assert y.shape == indices.shape == (3, 2, 1)


def test_batch_norm_updates_running_statistics_and_counts_as_a_change():
    mean, var = Tensor(np.zeros(3)), Tensor(np.ones(3))
    x = r(4, 3, 5, 2)
    F.batch_norm(Tensor(x), mean, var, training=True, momentum=0.25)
    np.testing.assert_allclose(mean, 0.25 * x.mean((0, 2, 3)))
    np.testing.assert_allclose(var, 0.75 + 0.25 * x.var((0, 2, 3), ddof=1))
    assert mean._version.count == 1


def test_batch_norm_eval_gradient_is_that_of_the_statistics_of_the_forward_pass():
    mean, var = Tensor(np.zeros(2)), Tensor(np.ones(2))
    x = Tensor(r(4, 2), requires_grad=True)
    y = F.batch_norm(x, mean, var)
    F.batch_norm(Tensor(r(4, 2)), mean, var, training=True, momentum=1.0)
    y.sum().backward()
    np.testing.assert_allclose(x.grad, np.full((4, 2), 1 / math.sqrt(1 + 1e-5)))


def test_log_softmax_of_extreme_logits():
    x = Tensor([[1000.0, 0.0, -np.inf], [-np.inf, -np.inf, -np.inf]])
    y = F.log_softmax(x, 1).numpy()
    np.testing.assert_array_equal(y[0], [0.0, -1000.0, -np.inf])
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(F.softmax(x, 1).numpy()[0], [1.0, 0.0, 0.0])


def test_losses_of_uniform_logits_are_ln_of_the_number_of_classes():
    loss = F.cross_entropy(Tensor(np.zeros((4, 10))), Tensor([1, 2, 3, 4]))
    assert math.isclose(loss.item(), math.log(10), rel_tol=1e-12)
    assert loss.shape == ()
    assert F.cross_entropy(Tensor(np.zeros(10)), Tensor(3)).shape == ()
    unbatched = F.cross_entropy(Tensor(np.zeros(10)), Tensor(3), reduction="none")
    assert unbatched.shape == ()


def t(*shape, dtype=np.float64):
    return Tensor(np.ones(shape, dtype))


BAD = {
    "conv_rank": (lambda: F.conv2d(t(3, 3), t(2, 3, 3, 3)), ValueError, r"\(N, C, H, W\) or"),
    "conv_weight_rank": (lambda: F.conv2d(t(1, 3, 3, 3), t(2, 3)), ValueError, "weight must be"),
    "conv_channels": (
        lambda: F.conv2d(t(8, 3, 32, 32), t(16, 4, 3, 3)),
        ValueError,
        r"x has 3 channels \(8, 3, 32, 32\) but weight expects 4 \(16, 4, 3, 3\)",
    ),
    "conv_no_tensor": (lambda: F.conv2d([1.0], t(1, 1, 1, 1)), TypeError, "must be a Tensor"),
    "conv_dtypes": (
        lambda: F.conv2d(t(1, 1, 3, 3), t(1, 1, 3, 3, dtype=np.float32)),
        TypeError,
        "dtype",
    ),
    "linear": (lambda: F.linear(t(2, 3), t(4, 5)), ValueError, r"\(2, 3\).*\(4, 5\)"),
    "linear_ints": (lambda: F.linear(t(2, 3, dtype=int), t(4, 3)), TypeError, "int64"),
    "pool_stride_0": (lambda: F.max_pool2d(t(1, 1, 4, 4), 2, 0), ValueError, "stride"),
    "pool_padding": (lambda: F.max_pool2d(t(1, 1, 4, 4), 2, 2, 2), ValueError, "padding"),
    "pool_rank": (lambda: F.avg_pool2d(t(4, 4), 2), ValueError, r"\(C, H, W\)"),
    "adaptive_pair": (
        lambda: F.adaptive_avg_pool2d(t(1, 1, 4, 4), (1, 2, 3)),
        ValueError,
        "pair",
    ),
    "batch_norm_rank": (lambda: F.batch_norm(t(3), t(3), t(3)), ValueError, r"\(N, C, ...\)"),
    "batch_norm_running": (lambda: F.batch_norm(t(2, 3), None, None), ValueError, "running_mean"),
    "batch_norm_one_value": (
        lambda: F.batch_norm(t(1, 3), None, None, training=True),
        ValueError,
        "more than 1 value per channel",
    ),
    "dropout_p": (lambda: F.dropout(t(3), 1.5), ValueError, r"p must lie in \[0, 1\]"),
    "softmax_dim": (lambda: F.softmax(t(3)), ValueError, "dim is needed"),
    "cross_entropy_target": (
        lambda: F.cross_entropy(t(2, 3), Tensor([0, 1, 2])),
        ValueError,
        r"has shape \(2,\).*got \(3,\)",
    ),
    "cross_entropy_class": (
        lambda: F.cross_entropy(t(2, 3), Tensor([0, 3])),
        ValueError,
        r"target\[1\] is 3",
    ),
    "cross_entropy_reduction": (
        lambda: F.cross_entropy(t(2, 3), Tensor([0, 1]), reduction="max"),
        ValueError,
        "reduction",
    ),
    "cross_entropy_old_names": (
        lambda: F.cross_entropy(t(2, 3), Tensor([0, 1]), None, True),
        ValueError,
        "reduction=",
    ),
    "cross_entropy_target_gradient": (
        lambda: F.cross_entropy(t(2, 3), Tensor(np.ones((2, 3)), requires_grad=True)),
        NotImplementedError,
        "target",
    ),
    "mse_shapes": (lambda: F.mse_loss(t(2, 3), t(3)), ValueError, "one shape"),
    "mse_reduction": (lambda: F.mse_loss(t(2), t(2), reduction="no"), ValueError, "reduction"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_the_next_call_is_right(name):
    call, error, match = BAD[name]
    with pytest.raises(error, match=match):
        call()
    assert F.conv2d(t(1, 2, 3, 3), t(1, 2, 3, 3)).item() == 18.0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e38])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.conv2d(x, Tensor(np.full((2, 3, 3, 3), 1e3, np.float32))),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.batch_norm(x, None, None, training=True),
        F.relu,
        F.leaky_relu,
        F.sigmoid,
        F.tanh,
        F.dropout,
        lambda x: F.softmax(x, 1),
        lambda x: F.cross_entropy(x.flatten(1), Tensor([0, 1])),
        lambda x: x.sum() + x.mean() + x.var() + x.max(),
        lambda x: (x * x - x) / x,
    ],
)
def test_infinities_and_nans_are_results_not_warnings(backend, function, value):
    # pytest turns a warning into an error
    data = r(2, 3, 6, 6).astype(np.float32)
    data[0, 0, :2, :3] = value
    data[1] = value
    x = Tensor(data, requires_grad=True)
    y = function(x)
    y.backward(np.ones(y.shape, np.float32))
    assert x.grad.shape == x.shape
