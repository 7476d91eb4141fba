"""The numbers of the lectures: CS763 (IIT Bombay, Torch7), UW CSE576, ELEC677."""

import math

import numpy as np
import pytest

import convolt
from convolt import Tensor, layers, models
from convolt import functional as F
from convolt.kernels.backend import use_backend


def correlate(image, window):
    """Slide (C, R, S) over (C, H, W) and sum the products: the lectures' "convolution"."""
    c, r, s = window.shape
    out = np.zeros((image.shape[1] - r + 1, image.shape[2] - s + 1))
    for p in range(out.shape[0]):
        for q in range(out.shape[1]):
            for i in range(c):
                for j in range(r):
                    for k in range(s):
                        out[p, q] += image[i, p + j, q + k] * window[i, j, k]
    return out


# CS763's Torch7 example: a 2x4x4 input, two filters, O[0,0,0] = 3.1, O[0,0,1] = -3.9 and
# O[1,2,2] = -7.8. Of that slide only these results are known here: the integers below and the
# biases 0.1 and 0.2 were chosen to reproduce them.
IMAGE = np.array(
    [
        [[0, 1, 0, -2], [0, 3, 3, 3], [0, -1, 1, -2], [-2, -1, 0, 2]],
        [[3, 2, -2, 1], [2, 3, 1, 2], [1, 2, 3, -2], [-2, 2, -2, 1]],
    ],
    np.float64,
)
FILTERS = np.array(
    [[[[-1, 0], [-1, -1]], [[1, 0], [0, 1]]], [[[0, 1], [-1, 0]], [[-1, 1], [0, -1]]]], np.float64
)
BIAS = np.array([0.1, 0.2])


def forward_and_backward(grad_y):
    x, w, b = (Tensor(a, requires_grad=True) for a in (IMAGE, FILTERS, BIAS))
    y = F.conv2d(x, w, b)
    y.backward(grad_y)
    return y.detach().numpy(), x.grad.numpy(), w.grad.numpy(), b.grad.numpy()


def test_torch7_convolution_of_a_2x4x4_image(backend):
    y = forward_and_backward(np.ones((2, 3, 3)))[0]
    for index, value in (((0, 0, 0), 3.1), ((0, 0, 1), -3.9), ((1, 2, 2), -7.8)):
        assert math.isclose(y[index], value, rel_tol=1e-15)
    expected = [correlate(IMAGE, FILTERS[k]) + BIAS[k] for k in range(2)]
    np.testing.assert_allclose(y, expected, rtol=1e-15)


def test_weight_gradient_is_the_correlation_of_the_input_with_the_output_gradient(backend, rng):
    grad_y = rng.integers(-3, 4, (2, 3, 3)).astype(np.float64)
    _, _, grad_w, grad_b = forward_and_backward(grad_y)
    for k in range(2):
        for c in range(2):
            np.testing.assert_array_equal(
                grad_w[k, c], correlate(IMAGE[c : c + 1], grad_y[k : k + 1])
            )
    np.testing.assert_array_equal(grad_b, grad_y.sum((1, 2)))


def test_input_gradient_is_the_correlation_of_the_padded_gradient_with_the_rotated_filters(
    backend, rng
):
    grad_y = rng.integers(-3, 4, (2, 3, 3)).astype(np.float64)
    _, grad_x, _, _ = forward_and_backward(grad_y)
    padded = np.pad(grad_y, ((0, 0), (1, 1), (1, 1)))
    for c in range(2):
        rotated = FILTERS[:, c, ::-1, ::-1]  # by 180 degrees, one plane a filter
        np.testing.assert_array_equal(grad_x[c], correlate(padded, rotated))


def test_max_pool_gradient_of_the_4x4_image(backend):
    # CS763, notebook "Max pooling": each window sends its gradient to its largest cell.
    image = np.array(
        [
            [0.2692, 0.4190, 0.2095, 0.9163],
            [0.2778, 0.9199, 0.5555, 0.1638],
            [0.6936, 0.2328, 0.0553, 0.1798],
            [0.3611, 0.3225, 0.9032, 0.5106],
        ]
    )
    x = Tensor(image[None], requires_grad=True)
    y = F.max_pool2d(x, 2)
    np.testing.assert_array_equal(y.detach(), [[[0.9199, 0.9163], [0.6936, 0.9032]]])
    y.backward(np.ones((1, 2, 2)))
    np.testing.assert_array_equal(
        x.grad, [[[0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]]
    )


def test_strided_input_gradient_of_the_notebook_on_transposed_convolution(backend):
    # CS763, notebook "Transposed convolution": 3x3, stride 2, on a 5x5 image; the printed
    # numbers have four decimals, hence the tolerance.
    w = np.array([[1.0160, 0.4442, 0.8234], [1.7105, 1.9389, 1.8970], [0.4721, 1.4563, 0.4023]])
    grad_y = np.array([[28.0467, 21.1382], [23.1202, 30.5335]])
    x = Tensor(np.zeros((1, 5, 5)), requires_grad=True)
    F.conv2d(x, Tensor(w[None, None]), stride=2).backward(grad_y[None])
    expected = [
        [28.4956, 12.4596, 44.5710, 9.3905, 17.4058],
        [47.9750, 54.3784, 89.3627, 40.9838, 40.0994],
        [36.7311, 51.1151, 71.3240, 44.3476, 33.6471],
        [39.5481, 44.8267, 96.0881, 59.1999, 57.9224],
        [10.9150, 33.6697, 23.7172, 44.4655, 12.2851],
    ]
    np.testing.assert_allclose(x.grad.numpy()[0], expected, atol=5e-3)


def test_linear_weight_gradient_of_the_notebook(backend):
    # CS763, notebook "Linear": dL/dW is the outer product of dL/dO and the input.
    n = np.array([0.2647, 0.7477, 0.5382, 0.1914, 0.0834])
    grad_y = np.array([0.8068, 0.2102, 0.3212, 0.6487])
    w = Tensor(np.zeros((4, 5)), requires_grad=True)
    F.linear(Tensor(n), w).backward(grad_y)
    expected = [
        [0.2135, 0.6033, 0.4343, 0.1544, 0.0673],
        [0.0556, 0.1572, 0.1132, 0.0402, 0.0175],
        [0.0850, 0.2402, 0.1729, 0.0615, 0.0268],
        [0.1717, 0.4850, 0.3491, 0.1242, 0.0541],
    ]
    np.testing.assert_allclose(w.grad, expected, atol=1.2e-4)


def test_relu_gradient_of_the_notebook(backend):
    x = Tensor(np.array([-0.0044, -0.1521, 0.4794, -0.1014, 0.4201]), requires_grad=True)
    F.relu(x).backward(np.ones(5))
    np.testing.assert_array_equal(x.grad, [0, 0, 1, 0, 1])


def test_ten_5x5_filters_on_a_32x32x3_image():
    # UW CSE576: 10 filters of 5x5 with padding 2 keep 32x32, hold 760 parameters and take
    # 768,000 multiply-adds.
    summary = models.summarize(layers.Conv2d(3, 10, 5, padding=2), (3, 32, 32))
    assert (summary.parameters, summary.multiply_adds) == (760, 768_000)


def test_lenet5_has_the_sizes_of_the_table():
    # UW CSE576: name, output size, weight size.
    table = [
        ((20, 28, 28), (20, 1, 5, 5)),
        ((20, 28, 28), None),
        ((20, 14, 14), None),
        ((50, 14, 14), (50, 20, 5, 5)),
        ((50, 14, 14), None),
        ((50, 7, 7), None),
        ((2450,), None),
        ((500,), (500, 2450)),
        ((500,), None),
        ((10,), (10, 500)),
    ]
    model = models.lenet5()
    x = convolt.randn(2, 1, 28, 28)
    for layer, (output, weight) in zip(model, table, strict=True):
        x = layer(x)
        assert x.shape == (2, *output)
        assert (layer.weight.shape if hasattr(layer, "weight") else None) == weight


@pytest.mark.parametrize("seed", range(3))
def test_the_first_loss_is_about_ln_10(seed):
    # An untrained net knows nothing of ten classes: ELEC677's sanity check.
    convolt.manual_seed(seed)
    with use_backend("numba"), convolt.no_grad():
        loss = F.cross_entropy(
            models.lenet5()(convolt.randn(64, 1, 28, 28)), Tensor(np.arange(64) % 10)
        )
    assert abs(loss.item() - math.log(10)) < 0.1
