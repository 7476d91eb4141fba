"""batch_norm in NumPy: the definition, on x (M, C), in float64."""

import numpy as np


def moments(x):
    mean = x.mean(axis=0, dtype=np.float64)
    return mean[None], ((x - mean) ** 2).sum(axis=0)[None], len(x)


def forward(
    x,
    weight,
    bias,
    running_mean,
    running_var,
    momentum,
    eps,
    residual,
    relu,
    moments,
    y,
    mean,
    inv_std,
    signs,
):
    var = _combined(moments, len(x), mean)
    inv_std[...] = 1 / np.sqrt(var + eps)
    y[...] = _activated(weight * ((x - mean) * inv_std) + bias, residual, relu)
    _follow(running_mean, running_var, momentum, mean, var, len(x))


def backward(
    grad_y,
    x,
    mean,
    inv_std,
    weight,
    bias,
    y,
    relu,
    sums,
    grad_x,
    grad_weight,
    grad_bias,
    grad_residual,
):
    m = len(x)
    x_hat = (x - mean) * inv_std
    g = _through_activation(grad_y, x_hat, weight, bias, y, relu, grad_residual)
    if sums is None:
        sum_g, sum_gx = g.sum(axis=0, dtype=np.float64), (g * x_hat).sum(axis=0)
    else:
        sum_g, sum_gx = _totals(sums, inv_std)
    grad_x[...] = weight * inv_std * (g - sum_g / m - x_hat * (sum_gx / m))
    grad_weight[...], grad_bias[...] = sum_gx, sum_g


def forward_eval(x, weight, bias, running_mean, running_var, eps, residual, relu, y):
    mean, inv_std = _running(running_mean, running_var, eps)
    y[...] = _activated(weight * ((x - mean) * inv_std) + bias, residual, relu)


def backward_eval(
    grad_y,
    x,
    weight,
    bias,
    running_mean,
    running_var,
    eps,
    y,
    relu,
    grad_x,
    grad_weight,
    grad_bias,
    grad_residual,
):
    mean, inv_std = _running(running_mean, running_var, eps)
    x_hat = (x - mean) * inv_std
    g = _through_activation(grad_y, x_hat, weight, bias, y, relu, grad_residual)
    grad_x[...] = weight * inv_std * g
    grad_weight[...] = (g * x_hat).sum(axis=0)
    grad_bias[...] = g.sum(axis=0, dtype=np.float64)


def activate(x, residual, relu, y):
    y[...] = _activated(x, residual, relu)


def _combined(moments, m, mean):
    """Fill the mean of all rows in, return their biased variance (Chan et al. 1983, eq. 2.1)."""
    counts = moments.counts(m)[:, None]
    mean[...] = (counts * moments.means).sum(axis=0) / m
    return (moments.squares + counts * (moments.means - mean) ** 2).sum(axis=0) / m


def _follow(running_mean, running_var, momentum, mean, var, m):
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean
        running_var[...] = (1 - momentum) * running_var + momentum * (var * (m / (m - 1)))


def _activated(y, residual, relu):
    y = y if residual is None else y + residual
    return np.maximum(y, 0) if relu else y


def _through_activation(grad_y, x_hat, weight, bias, y, relu, grad_residual):
    """Return g, the gradient of what the activation was applied to, and fill it in if asked."""
    if not relu:
        return grad_y
    g = np.where((weight * x_hat + bias if y is None else y) > 0, grad_y, 0)
    if grad_residual is not None:
        grad_residual[...] = g
    return g


def _totals(sums, inv_std):
    """Return the sums of g and of g * x_hat over all rows."""
    sum_g, product = (a.sum(axis=0, dtype=np.float64) for a in (sums.sums, sums.products))
    return sum_g, product * inv_std


def _running(running_mean, running_var, eps):
    var = running_var.astype(np.float64)
    return running_mean.astype(np.float64), 1 / np.sqrt(var + eps)
