"""Tensor: construction, conversion, display, shapes; and the gradients of its methods."""

import math

import numpy as np
import pytest
from gradients import assert_directional

import convolt
from convolt import Tensor


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, np.float32),
        ([1, 2], np.int64),
        ([[1.0], [2.0]], np.float32),
        ([True, False], np.bool_),
        (np.ones(2), np.float64),
        (np.float64(2.0), np.float64),
        (np.arange(3, dtype=np.uint8), np.uint8),
        ([], np.float32),
    ],
)
def test_dtypes_of_new_tensors(data, dtype):
    assert Tensor(data).dtype == dtype
    assert convolt.tensor(data).dtype == dtype
    assert convolt.tensor(data, dtype=np.float64).dtype == np.float64


def test_tensor_copies_and_Tensor_shares():
    x = np.ones(3)
    assert np.shares_memory(Tensor(x).numpy(), x)
    assert not np.shares_memory(convolt.tensor(x).numpy(), x)
    assert not np.shares_memory(convolt.tensor(Tensor(x)).numpy(), x)


@pytest.mark.parametrize("data", ["text", None, [1, "a"], object(), {"a": 1}, [1j]])
def test_what_holds_no_numbers_is_refused(data):
    with pytest.raises(TypeError, match="numbers"):
        Tensor(data)


def test_only_floats_can_require_a_gradient():
    with pytest.raises(TypeError, match="int64"):
        Tensor([1, 2], requires_grad=True)
    with pytest.raises(RuntimeError, match="detach"):
        (Tensor([1.0], requires_grad=True) * 2).requires_grad_(False)


def test_display_tells_values_shape_dtype_backend_and_history():
    with convolt.use_backend("numpy"):
        x = Tensor([[1.0, 2.0]], requires_grad=True)
        assert repr(x) == (
            "Tensor([[1., 2.]], shape=(1, 2), dtype=float32, backend=numpy, requires_grad=True)"
        )
        assert "made_by=multiply" in repr(x * 2)
        assert repr(convolt.Parameter([1.0])).startswith("Parameter([1.]")
        assert len(repr(Tensor(np.zeros((100, 100, 100))))) < 2000


def test_conversions():
    x = Tensor([[1.5, -2.0]])
    assert x.tolist() == [[1.5, -2.0]]
    assert float(x[0, 0]) == 1.5
    assert int(x[0, 1]) == -2
    assert [10, 20, 30][Tensor(2)] == 30
    assert bool(Tensor([0.0])) is False
    assert len(x) == 1
    assert [row.shape for row in x] == [(2,)]
    with pytest.raises(ValueError, match="only one element"):
        x.item()
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
    with pytest.raises(TypeError, match="no index"):
        [1][x[0, 0]]
    with pytest.raises(TypeError, match="0-d"):
        len(Tensor(1.0))
    with pytest.raises(TypeError, match="0-d"):
        iter(Tensor(1.0))


def test_numpy_and_tensors_mix_on_both_sides():
    x, a = Tensor([1.0, 2.0], requires_grad=True), np.array([3.0, 4.0], np.float32)
    for y in (x + a, a + x, a * x, x - a, a - x, a / x, a @ x, x @ a, a < x, np.float32(2) * x):
        assert isinstance(y, Tensor)
    np.testing.assert_array_equal((a - x).detach(), [2.0, 2.0])
    assert np.asarray(x).dtype == np.float32
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(x.detach()), x.data)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, dtype=np.float64, copy=False)


def test_dlpack_both_ways_shares_memory():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.data)
    back = convolt.from_dlpack(array)
    assert np.shares_memory(back.data, x.data)
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(Tensor([1.0], requires_grad=True))


def test_comparisons_have_no_gradient_and_tensors_hash_by_identity():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    for y, expected in (
        (x == 2.0, [False, True, False]),
        (x != 2.0, [True, False, True]),
        (x < 2.0, [True, False, False]),
        (x <= 2.0, [True, True, False]),
        (x > 2.0, [False, False, True]),
        (x >= 2.0, [False, True, True]),
        (x >= Tensor([1.0, 2.0, 4.0]), [True, True, False]),
    ):
        assert y.tolist() == expected
        assert not y.requires_grad
    assert len({x, x, Tensor([1.0])}) == 2
    assert not x.argmax().requires_grad
    assert not x.to(np.int64).requires_grad


def test_setitem_changes_the_memory_in_place():
    array = np.zeros((2, 3))
    x = Tensor(array)
    x[0, 1:] = Tensor([5.0, 6.0])
    x[Tensor([1]), 0] = 7.0
    np.testing.assert_array_equal(array, [[0, 5, 6], [7, 0, 0]])


X = np.random.default_rng(5).standard_normal((3, 4, 5)) * 0.7
Y = np.random.default_rng(6).standard_normal((4, 1)) + 3.0
FUNCTIONS = {
    "add": (lambda x, y: x + y, X, Y),
    "add_number": (lambda x: 2 + x + 1.5, X),
    "sub": (lambda x, y: x - y, X, Y),
    "rsub": (lambda x: 1 - x, X),
    "mul": (lambda x, y: x * y * x, X, Y),
    "div": (lambda x, y: x / y, X, Y),
    "rdiv": (lambda y: 2 / y, Y),
    "pow_number": (lambda x: x**3 + x**2 + x**0 + x**1, X),
    "pow_fraction": (lambda y: y**0.5, Y),
    "pow_tensor": (lambda y, x: y**x, Y, X),
    "rpow": (lambda x: 2.0**x, X),
    "neg_abs": (lambda x: -abs(x), X),
    "exp_log_sqrt": (lambda y: (y.exp() + 1).log() * y.sqrt(), Y),
    "maximum": (lambda x, y: convolt.maximum(x, y - 3), X, Y),
    "minimum": (lambda x, y: convolt.minimum(x, y - 3), X, Y),
    "where": (lambda x, y: convolt.where(X > 0, x * 2, y), X, Y),
    "relu_sigmoid_tanh": (lambda x: x.relu() + x.sigmoid() * x.tanh(), X),
    "sum_all": (lambda x: (x * x).sum(), X),
    "sum_axis": (lambda x: (x * x).sum(1), X),
    "sum_axes_kept": (lambda x: x * x.sum((0, -1), keepdim=True), X),
    "mean": (lambda x: (x * x).mean((0, 2)), X),
    "var": (lambda x: x.var(1) + x.var((0, 1), correction=0), X),
    "std": (lambda x: x.std(), X),
    "amax": (lambda x: x.amax((0, 2)) * x.amin(), X),
    "max_dim": (lambda x: x.max(1).values * x.min(-1, keepdim=True).values.sum(), X),
    "reshape": (lambda x: (x.reshape(4, -1) * x.flatten().reshape((4, 15))).flatten(1), X),
    "permute": (lambda x: x.permute(2, 0, 1) * x.transpose(0, 2).transpose(1, 2), X),
    "T": (lambda y: y.T * y.t(), Y),
    "squeeze": (lambda y: y.squeeze() * y.squeeze(1) * y.unsqueeze(0).squeeze(0).squeeze(-1), Y),
    "expand": (lambda y: y.expand(3, 4, 5) * y.expand(-1, 2).sum(), Y),
    "getitem": (lambda x: x[1:, ::2] * x[0, 0, 0] + x[-1][::2] * x[..., None, 0][:2, 0], X),
    "getitem_arrays": (lambda x: x[np.array([0, 0, 2])] * x[:, [1, 1, 0, 2]].sum(), X),
    "getitem_mask": (lambda x: x[X > 0] * 2, X),
    "clone_contiguous": (lambda x: x.clone() * x.T.contiguous().T, X),
    "cat_stack": (lambda x: convolt.cat([x, x * 2], 1) * convolt.stack([x, x], 1).sum(1).sum(), X),
    "matmul": (lambda x, y: ((x.transpose(1, 2) @ y).squeeze(-1) @ y[:, 0][:3]).T, X[:, :, :3], Y),
    "matmul_matrix": (lambda x: x @ x.T, X[0]),
    "iterate": (lambda x: sum((row * row.sum() for row in x), start=Tensor(0.0)), X),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_equal_differences_of_the_function(backend, name):
    function, *arrays = FUNCTIONS[name]
    assert_directional(function, *arrays)


def test_gradients_take_the_dtype_of_the_leaf():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = Tensor(np.ones(3), requires_grad=True)
    (x * y).sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)
    z = Tensor(np.ones(3, np.float32), requires_grad=True)
    z.double().sum().backward()
    assert z.grad.dtype == np.float32


def test_ties_share_the_gradient_of_extrema():
    x = Tensor([1.0, 3.0, 3.0], requires_grad=True)
    x.max().backward()
    assert x.grad.tolist() == [0.0, 0.5, 0.5]
    x.grad = None
    x.max(0).values.backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]
    a, b = (Tensor([2.0], requires_grad=True) for _ in range(2))
    convolt.maximum(a, b).backward()
    assert (a.grad.item(), b.grad.item()) == (0.5, 0.5)


def test_values_of_reductions(backend):
    x = Tensor(X)
    np.testing.assert_allclose(x.var(1), X.var(1, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(x.std(0, correction=0), X.std(0), rtol=1e-12)
    assert math.isclose(x.mean().item(), X.mean(), rel_tol=1e-12)
    values, indices = x.min(2)
    np.testing.assert_array_equal(values, X.min(2))
    np.testing.assert_array_equal(indices, X.argmin(2))
    assert x.argmin().item() == X.argmin()
    with pytest.raises(TypeError, match="mean"):
        Tensor([1, 2]).mean()


def test_shapes_follow_torch():
    x = Tensor(np.zeros((2, 3, 4)))
    assert x.flatten(1).shape == (2, 12)
    assert x.flatten(0, 1).shape == (6, 4)
    assert Tensor(1.0).flatten().shape == (1,)
    assert x.view(-1, 2).shape == (12, 2)
    assert x.unsqueeze(-1).shape == (2, 3, 4, 1)
    assert x.size() == (2, 3, 4)
    assert x.size(-1) == 4
    assert (x.dim(), x.ndim, x.numel()) == (3, 3, 24)
    assert x.sum(keepdim=True).shape == (1, 1, 1)
    assert x.squeeze(0).shape == (2, 3, 4)
    assert Tensor(np.zeros((0, 3))).reshape(0, 5).shape == (0, 5)


def test_bad_shapes_are_refused_and_the_next_call_is_right():
    x = Tensor(np.zeros((2, 3)))
    for call, error, match in (
        (
            lambda: x.reshape(4, 2),
            ValueError,
            r"\(2, 3\) has 6 elements and cannot become \(4, 2\)",
        ),
        (lambda: x.reshape(-1, -1), ValueError, "cannot become"),
        (lambda: x.reshape(-2, 3), ValueError, "cannot become"),
        (lambda: Tensor(np.zeros((0,))).reshape(-1, 0), ValueError, "cannot become"),
        (lambda: x.permute(0, 0), ValueError, "each axis"),
        (lambda: x.transpose(0, 2), IndexError, "axis 2"),
        (lambda: x.flatten(1, 0), ValueError, "lies behind"),
        (lambda: x.flatten(0, 5), IndexError, "axis 5"),
        (lambda: x.unsqueeze(4), IndexError, "axis 4"),
        (lambda: x.expand(3, 3), ValueError, "cannot become"),
        (lambda: x[5], IndexError, "out of bounds"),
        (lambda: x @ x, ValueError, "do not fit"),
        (lambda: x + np.zeros(2), ValueError, "do not broadcast"),
        (lambda: convolt.cat([]), ValueError, "nothing to join"),
        (lambda: convolt.cat([x, x.T]), ValueError, "differ outside axis 0"),
        (lambda: convolt.cat([x, x], 2), IndexError, "axis 2"),
        (lambda: Tensor(np.zeros((1, 2, 3))).t(), ValueError, "two axes"),
    ):
        with pytest.raises(error, match=match):
            call()
    assert x.reshape(3, 2).shape == (3, 2)


def test_arithmetic_keeps_channels_last_memory():
    x = convolt.functional.conv2d(convolt.randn(2, 3, 5, 5), convolt.randn(4, 3, 3, 3))
    for y in (x, x.relu(), x + 1, x * x, x.exp()):
        assert y.data.transpose(0, 2, 3, 1).flags.c_contiguous
    assert y.contiguous().data.flags.c_contiguous


def test_new_tensors_by_name():
    with convolt.use_backend("numpy"):
        for made, expected in (
            (convolt.zeros(2, 3), np.zeros((2, 3), np.float32)),
            (convolt.zeros((2, 3), dtype=np.int64), np.zeros((2, 3), np.int64)),
            (convolt.ones(2), np.ones(2, np.float32)),
            (convolt.full((2,), 1.5), np.full(2, 1.5, np.float32)),
            (convolt.full((2, 1), 7), np.full((2, 1), 7)),
            (convolt.arange(3), np.arange(3)),
            (convolt.arange(1, 2, 0.25), np.arange(1, 2, 0.25, np.float32)),
        ):
            assert made.dtype == expected.dtype
            np.testing.assert_array_equal(made, expected)
    x = convolt.functional.max_pool2d(convolt.ones(1, 2, 4, 4, requires_grad=True), 2)
    for like in (convolt.zeros_like(x), convolt.ones_like(x)):
        assert like.data.strides == x.data.strides
        assert not like.requires_grad
    assert convolt.ones_like(x, dtype=np.float64).sum().item() == 8.0


def test_format_none_and_masks():
    loss = Tensor(1.23456)
    assert f"{loss:.3f} {loss}".startswith("1.235 Tensor(")
    x = Tensor([1.0, 2.0, 3.0])
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert None not in [x]
    inside = (x > 1) & (x < 3)
    assert inside.tolist() == [False, True, False]
    assert (~inside | (x == 2)).tolist() == [True] * 3
    assert (inside ^ np.array([True, True, True])).tolist() == [True, False, True]
    with pytest.raises(TypeError, match="bool"):
        x & x


def test_clamp_passes_the_gradient_inside_its_limits():
    x = Tensor([-2.0, -1.0, 0.5, 3.0], requires_grad=True)
    y = x.clamp(-1, 2)
    assert y.tolist() == [-1.0, -1.0, 0.5, 2.0]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert x.clamp(max=0.0).tolist() == [-2.0, -1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="min or max"):
        x.clamp()


def test_extrema_of_integers():
    x = convolt.tensor([3, 0, 1], dtype=np.uint8)
    assert x.argmin().item() == 1
    assert [t.item() for t in x.min(0)] == [0, 1]
    assert Tensor([0, -(2**63)]).argmin().item() == 1
    assert (x == -1).tolist() == [False] * 3
    assert (x < 300).tolist() == [True] * 3
    with pytest.raises(TypeError, match="one axis"):
        x.argmax((0, 0))


def test_requires_grad_is_checked_when_set():
    x = Tensor([1, 2])
    with pytest.raises(TypeError, match="int64"):
        x.requires_grad = True
    y = Tensor([1.0], requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="detach"):
        y.requires_grad = False
    with pytest.raises(TypeError, match="made of ints"):
        convolt.zeros(2.5)
    with pytest.raises(TypeError, match="made of ints"):
        convolt.zeros((2, 3), "float64")


def test_the_other_rooms_are_there_when_asked_for():
    assert convolt.models.lenet5
    assert convolt.data.digits
    assert convolt.Generator(3).get_state() == (3, 0)
    with pytest.raises(AttributeError, match="no attribute 'kernel'"):
        convolt.kernel  # noqa: B018
