"""Every differentiable function on CuPy arrays, forward and backward, against the emulator."""

import warnings

import host_cupy
import numpy as np
import pytest
from functions import OPS

import convolt
from convolt import functional as F
from convolt import use_backend
from convolt.kernels.arrays import dtype_of
from convolt.kernels.conv2d.choice import use_algorithm
from convolt.kernels.precision import use_precision


def results(function, arrays, weight):
    """The value and the gradients of its weighted sum, as NumPy arrays."""
    convolt.manual_seed(1)
    inputs = [convolt.tensor(array, requires_grad=True) for array in arrays]
    y = function(*inputs)
    y.backward(convolt.tensor(np.resize(weight, y.shape)))
    for t in (y, *(x.grad for x in inputs)):
        assert t.backend == convolt.current_backend()
    assert y.shape == tuple(y.data.shape)
    assert all(x.grad.shape == x.shape for x in inputs)
    return [y.numpy(), *(x.grad.numpy() for x in inputs)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", OPS)
def test_results_are_the_emulator_s(cupy, rng, name, dtype):
    function, shapes = OPS[name]
    dtype = dtype_of(dtype)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    weight = rng.standard_normal(100).astype(dtype)
    with use_precision("ieee"):  # else float32 is tf32 on a GPU only
        got = results(function, arrays, weight)
        with use_backend("emulator"):
            expected = results(function, arrays, weight)
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if host_cupy.is_installed(cupy):
            np.testing.assert_array_equal(a, b)
        else:  # fused multiply-adds and the GPU's functions: last bits, of bfloat16 2^-8 each
            a, b = (v.astype(np.float64) for v in (a, b))
            limit = 2**-6 if dtype.name == "bfloat16" else 1e-5
            np.testing.assert_allclose(a, b, rtol=limit, atol=limit * np.abs(b).max(initial=0))


def test_a_convolution_by_tensor_maps_is_the_emulator_s(cupy, rng):
    arrays = [rng.integers(-3, 4, shape) for shape in [(2, 16, 7, 6), (8, 16, 3, 3)]]
    arrays = [a.astype(dtype_of("bfloat16")) for a in arrays]
    weight = rng.integers(-3, 4, 100).astype(dtype_of("bfloat16"))

    def convolve(x, w):
        return F.conv2d(x, w, stride=2, padding=1)

    with use_algorithm(conv2d_fprop="wgmma", conv2d_dgrad="wgmma", conv2d_wgrad="wgmma"):
        got = results(convolve, arrays, weight)
        with use_backend("emulator"):
            expected = results(convolve, arrays, weight)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_waits_for_the_gpu_but_a_mask(cupy, rng):
    """A step is launched without reading anything back; only the size of a mask must be known."""
    cupyx = pytest.importorskip("cupyx")
    waits = []
    for name, (function, shapes) in OPS.items():
        inputs = [convolt.tensor(rng.standard_normal(s), requires_grad=True) for s in shapes]
        try:
            with warnings.catch_warnings(action="ignore"), cupyx.allow_synchronize(False):
                y = function(*inputs)
                y.backward(convolt.zeros_like(y))
        except cupyx.DeviceSynchronized:
            waits.append(name)
    assert waits == ["mask"]


def random_numbers():
    convolt.manual_seed(3)
    return [convolt.rand(4, 5), convolt.randn(6, dtype="float64"), convolt.rand(())]


def test_random_numbers_are_those_of_every_backend(cupy):
    got = random_numbers()
    with use_backend("emulator"):
        expected = random_numbers()
        for a, b in zip(got, expected, strict=True):
            assert (a.backend, b.backend, a.shape) == ("cuda", "emulator", b.shape)
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    assert convolt.rand(3).backend == "cuda"  # the generator's state follows


def test_dropout_of_a_tensor_elsewhere_takes_the_generator_along(cupy):
    here = convolt.tensor(np.ones((4, 50), np.float32))
    convolt.manual_seed(5)
    on_gpu = F.dropout(here)
    convolt.manual_seed(5)
    on_host = F.dropout(here.cpu())
    np.testing.assert_array_equal(on_gpu.numpy(), on_host.numpy())
