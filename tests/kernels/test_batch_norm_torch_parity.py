"""batch_norm against PyTorch's, over shapes, parameters and modes."""

import numpy as np
import pytest

from convolt.kernels import batch_norm

torch = pytest.importorskip("torch")


def channels_first(a):
    return torch.from_numpy(np.moveaxis(a, -1, 1).copy())


def channels_last(t):
    return np.moveaxis(t.detach().numpy(), 1, -1)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("training", "running"), [(True, True), (True, False), (False, True)], ids=str
)
@pytest.mark.parametrize("shape", [(5, 3), (4, 7, 3), (2, 5, 6, 20), (3, 2, 2, 2, 100), (0, 3)])
def test_batch_norm(backend, rng, shape, training, running, affine):
    c, momentum, eps = shape[-1], 0.3, 1e-3
    x, grad_y = rng.standard_normal(shape) * 3 + 1, rng.standard_normal(shape)
    weight, bias = (rng.standard_normal(c) if affine else None for _ in range(2))
    mean, var = (rng.uniform(1, 2, c) if running else None for _ in range(2))

    t_x = channels_first(x).requires_grad_()
    t_weight, t_bias = (
        None if a is None else torch.tensor(a, requires_grad=True) for a in (weight, bias)
    )
    t_mean, t_var = (None if a is None else torch.tensor(a) for a in (mean, var))
    t_y = torch.nn.functional.batch_norm(
        t_x, t_mean, t_var, t_weight, t_bias, training, momentum, eps
    )
    t_y.backward(channels_first(grad_y))

    if training:
        y, *saved = batch_norm.forward(x, weight, bias, mean, var, momentum, eps)
        grad_x, grad_weight, grad_bias, _ = batch_norm.backward(grad_y, x, *saved, weight)
    else:
        y = batch_norm.forward_eval(x, weight, bias, mean, var, eps)
        grad_x, grad_weight, grad_bias, _ = batch_norm.backward_eval(
            grad_y, x, weight, mean, var, eps
        )
    pairs = [(y, channels_last(t_y)), (grad_x, channels_last(t_x.grad))]
    if affine:
        pairs += [(grad_weight, t_weight.grad.numpy()), (grad_bias, t_bias.grad.numpy())]
    if running:
        pairs += [(mean, t_mean.numpy()), (var, t_var.numpy())]
    for got, ref in pairs:
        np.testing.assert_allclose(got, ref, rtol=1e-11, atol=1e-12)


def test_float32_is_nearer_to_float64_than_torch_is(rng):
    """At mean 1e4 PyTorch's float32 mean costs 3 digits of x - mean."""
    x = (rng.standard_normal((512, 3)) + 1e4).astype(np.float32)
    ref = (x - x.mean(axis=0, dtype=np.float64)) / np.sqrt(x.astype(np.float64).var(axis=0) + 1e-5)
    y, _, _ = batch_norm.forward(x, None, None, None, None, 0.1, 1e-5)
    t_y = torch.nn.functional.batch_norm(torch.from_numpy(x), None, None, training=True).numpy()
    assert abs(y - ref).max() < abs(t_y - ref).max() < 1e-2


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3)])
def test_one_value_per_channel_is_the_same_error(backend, shape):
    x = np.ones(shape)
    with pytest.raises(ValueError, match="more than 1 value per channel when training") as ours:
        batch_norm.forward(x, None, None, None, None, 0.1, 1e-5)
    with pytest.raises(ValueError, match="more than 1 value per channel when training") as theirs:
        torch.nn.functional.batch_norm(channels_first(x), None, None, training=True)
    assert ours.type is theirs.type
