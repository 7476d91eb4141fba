"""Activations against PyTorch's, special values included."""

import numpy as np
import pytest

from convolt.kernels import activation

torch = pytest.importorskip("torch")

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1000.0, -1000.0, 1e-30, -1e-30, 88.5, -88.5, -104.0]


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize(
    ("name", "options"),
    [("relu", []), ("sigmoid", []), ("tanh", [])]
    + [("leaky_relu", [slope]) for slope in (0.01, 0.0, -0.5, 2.0)],
    ids=str,
)
def test_values_and_gradients(backend, rng, name, options, dtype, rtol):
    leaky = name == "leaky_relu"
    x = np.concatenate([np.array(SPECIAL), rng.standard_normal(1000) * 5]).astype(dtype)
    grad_y = rng.standard_normal(x.shape).astype(dtype)
    t_x = torch.tensor(x, requires_grad=True)
    t_y = torch.nn.functional.leaky_relu(t_x, *options) if leaky else getattr(torch, name)(t_x)
    t_y.backward(torch.tensor(grad_y))

    y = getattr(activation, name)(x, *options)
    grad_x = getattr(activation, name + "_backward")(grad_y, x if leaky else y, *options)
    tiny = np.finfo(dtype).tiny
    np.testing.assert_allclose(y, t_y.detach().numpy(), rtol, tiny)
    # y near 1 is rounded to u, and so is the gradient 1 - y of sigmoid and tanh.
    np.testing.assert_allclose(grad_x, t_x.grad.numpy(), rtol, 4 * np.finfo(dtype).eps)
