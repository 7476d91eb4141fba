"""Tensors of bfloat16: on the emulator (and CUDA) all functions, elsewhere a clear refusal."""

import numpy as np
import pytest
from functions import OPS

import convolt
from convolt import Tensor, functional, optim, use_backend
from convolt.kernels.arrays import dtype_of

BFLOAT16 = dtype_of("bfloat16")


def results(function, arrays, weight):
    convolt.manual_seed(1)
    inputs = [convolt.tensor(array, requires_grad=True) for array in arrays]
    y = function(*inputs)
    y.backward(convolt.tensor(np.resize(weight, y.shape)))
    return [y.numpy(), *(x.grad.numpy() for x in inputs)]


@pytest.mark.parametrize("name", OPS)
def test_functions_and_gradients_are_float32_s_but_for_rounding(rng, name):
    """Every intermediate result is rounded to 8 bits: a few of its units, of the largest value."""
    function, shapes = OPS[name]
    arrays = [rng.standard_normal(shape).astype(BFLOAT16) for shape in shapes]
    weight = rng.standard_normal(100).astype(BFLOAT16)
    with use_backend("emulator"):
        got = results(function, arrays, weight)
    with use_backend("numpy"):
        widened = [array.astype(np.float32) for array in arrays]
        expected = results(function, widened, weight.astype(np.float32))
    assert all(array.dtype == BFLOAT16 for array in got[1:])
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        worst = np.abs(a.astype(np.float64) - b).max(initial=0)
        assert worst <= 2.0**-5 * np.abs(b).max(initial=0)


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_other_backends_refuse(name):
    with use_backend("emulator"):
        made = convolt.tensor([1.0, 2.0], dtype="bfloat16")
    match = r"dtype bfloat16; float32 or float64 \(bfloat16 on the backends cuda and emulator\)"
    with use_backend(name):
        for make in (
            lambda: Tensor(np.ones(2, BFLOAT16)),
            lambda: convolt.tensor([1.0], dtype="bfloat16"),
            lambda: convolt.zeros(2, dtype="bfloat16"),
            lambda: convolt.tensor([1.0]).bfloat16(),
            lambda: functional.relu(made),
            lambda: functional.linear(made.reshape(1, 2), made.reshape(1, 2)),
        ):
            with pytest.raises(TypeError, match=match):
                make()
        with pytest.raises(TypeError, match="bfloat16"):
            made + 1
        assert convolt.zeros(2).numpy().tolist() == [0, 0]


@pytest.fixture
def emulator():
    with use_backend("emulator"):
        yield


@pytest.mark.usefixtures("emulator")
class TestOnTheEmulator:
    def test_conversions(self):
        x = convolt.tensor([1.0, 2.0**-9 + 1, 1e30, np.inf, np.nan])
        y = x.bfloat16()
        assert (y.dtype, y.to("bfloat16") is y, y.to(BFLOAT16) is y) == (BFLOAT16, True, True)
        rounded = x.numpy().astype(BFLOAT16).astype(np.float32)
        np.testing.assert_array_equal(y.float().numpy(), rounded)
        for dtype in ("float32", "float64", "int64", "bool"):
            assert y[:2].to(dtype).dtype == dtype
            np.testing.assert_array_equal(y[:2].to(dtype).numpy(), [1, 1])
        assert convolt.tensor([3, 4]).to("bfloat16").tolist() == [3, 4]

    def test_the_gradient_of_a_conversion_has_the_dtype_of_its_input(self):
        master = convolt.tensor([1.5, 2.5], requires_grad=True)
        (master.bfloat16() * 3).sum().backward()
        assert (master.grad.dtype, master.grad.tolist()) == (np.float32, [3, 3])

    def test_creation_and_display(self):
        for tensor, value in (
            (convolt.zeros(2, dtype="bfloat16"), 0),
            (convolt.ones(2, dtype=BFLOAT16), 1),
            (convolt.full((2,), 2.5, dtype="bfloat16"), 2.5),
            (convolt.zeros_like(convolt.ones(2), dtype="bfloat16"), 0),
            (convolt.ones_like(convolt.zeros(2, dtype="bfloat16")), 1),
        ):
            assert (tensor.dtype, tensor.tolist()) == (BFLOAT16, [value] * 2)
        assert repr(convolt.ones(1, dtype="bfloat16")) == (
            "Tensor([1], shape=(1,), dtype=bfloat16, backend=emulator)"
        )
        assert convolt.full((), 2.5, dtype="bfloat16").item() == 2.5

    def test_numbers_and_wider_operands(self):
        x = convolt.tensor([1.0, 2.0], dtype="bfloat16")
        assert (x * 2.5).dtype == BFLOAT16
        assert (x + convolt.ones(2)).dtype == np.float32
        assert (x + convolt.tensor([1, 2])).dtype == BFLOAT16
        assert (x < 1.5).tolist() == [True, False]
        x[0] = 4.0
        x += 1
        assert x.tolist() == [5, 3]

    @pytest.mark.parametrize("rule", [optim.SGD, optim.Adam])
    def test_an_optimizer_steps(self, rule):
        p = convolt.Parameter(convolt.tensor([1.0, -2.0, 3.0], dtype="bfloat16"))
        optimizer = rule([p], lr=0.25)
        (p * p).sum().backward()
        assert p.grad.dtype == BFLOAT16
        optimizer.step()
        expected = [0.5, -1, 1.5] if rule is optim.SGD else [0.75, -1.75, 2.75]
        assert p.tolist() == pytest.approx(expected, rel=2**-7)
