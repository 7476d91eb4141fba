"""Gradients against the function itself: one random direction, a central difference."""

import numpy as np

import convolt


def assert_directional(function, *arrays, rtol=1e-6, step=1e-6, seed=0):
    """Hold d/dt f(x + t v) by a central difference against <gradient, v>, in float64.

    ``function`` maps Tensors to a Tensor of any shape; a fixed random weighting makes it a number.
    """
    rng = np.random.default_rng(seed)
    inputs = [convolt.Tensor(np.array(a, np.float64), requires_grad=True) for a in arrays]
    y = function(*inputs)
    weights = rng.standard_normal(y.shape)
    y.backward(weights)
    directions = [rng.standard_normal(a.shape) for a in arrays]
    slope = sum(float(np.vdot(x.grad.numpy(), v)) for x, v in zip(inputs, directions, strict=True))

    def along(t):
        with convolt.no_grad():
            moved = [a + t * v for a, v in zip(arrays, directions, strict=True)]
            return float(np.vdot(function(*map(convolt.Tensor, moved)).numpy(), weights))

    expected = (along(step) - along(-step)) / (2 * step)
    scale = max(abs(expected), sum(float(abs(x.grad.numpy()).sum()) for x in inputs) * 1e-2, 1e-3)
    assert abs(slope - expected) <= rtol * scale, f"gradient gives {slope}, differences {expected}"
