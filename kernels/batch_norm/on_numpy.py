"""batch_norm in NumPy: the definition, on x (M, C), in float64."""

import numpy as np


def forward(x, weight, bias, running_mean, running_var, momentum, eps, y, mean, inv_std):
    m = len(x)
    mean[...] = x.mean(axis=0, dtype=np.float64)
    var = ((x - mean) ** 2).mean(axis=0)
    inv_std[...] = 1 / np.sqrt(var + eps)
    y[...] = weight * ((x - mean) * inv_std) + bias
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean
        running_var[...] = (1 - momentum) * running_var + momentum * (var * (m / (m - 1)))


def backward(grad_y, x, mean, inv_std, weight, grad_x, grad_weight, grad_bias):
    m = len(x)
    x_hat = (x - mean) * inv_std
    sum_g = grad_y.sum(axis=0, dtype=np.float64)
    sum_gx = (grad_y * x_hat).sum(axis=0)
    grad_x[...] = weight * inv_std * (grad_y - sum_g / m - x_hat * (sum_gx / m))
    grad_weight[...], grad_bias[...] = sum_gx, sum_g


def forward_eval(x, weight, bias, running_mean, running_var, eps, y):
    mean, inv_std = _running(running_mean, running_var, eps)
    y[...] = weight * ((x - mean) * inv_std) + bias


def backward_eval(
    grad_y, x, weight, running_mean, running_var, eps, grad_x, grad_weight, grad_bias
):
    mean, inv_std = _running(running_mean, running_var, eps)
    grad_x[...] = weight * inv_std * grad_y
    grad_weight[...] = (grad_y * ((x - mean) * inv_std)).sum(axis=0)
    grad_bias[...] = grad_y.sum(axis=0, dtype=np.float64)


def _running(running_mean, running_var, eps):
    var = running_var.astype(np.float64)
    return running_mean.astype(np.float64), 1 / np.sqrt(var + eps)
