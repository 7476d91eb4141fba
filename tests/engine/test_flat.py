"""Parameters in flat buffers: where they lie, and that nothing about them changes."""

import copy
import pickle

import numpy as np
import pytest

from convolt import Parameter, Tensor, functional
from convolt.engine.flat import FlatBuffer, flatten
from convolt.kernels import layout
from convolt.layers import Conv2d, Flatten, Linear, Sequential


def parameters(rng, *shapes, dtype=np.float32):
    return [Parameter(rng.normal(size=shape).astype(dtype)) for shape in shapes]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_segments_start_on_256_bytes_and_gaps_are_zero(rng, dtype):
    ps = parameters(rng, (3, 5), (), (0, 4), (129,), (1,), dtype=dtype)
    before = [p.data.copy() for p in ps]
    (flat,) = flatten(ps)
    in_segment = np.zeros(flat.data.size, bool)
    for start, size, p in zip(flat.starts, flat.sizes, ps, strict=True):
        assert size == p.numel()
        assert start * flat.data.itemsize % 256 == 0
        assert not in_segment[start : start + size].any()
        in_segment[start : start + size] = True
    for buffer in (flat.data, flat.grad, flat.like()):
        assert buffer.ctypes.data % 256 == 0
        assert buffer.dtype == dtype
    assert not flat.data[~in_segment].any()
    assert not flat.grad.any()
    for p, values in zip(ps, before, strict=True):
        assert isinstance(p.data, np.ndarray)
        assert p.shape == values.shape
        np.testing.assert_array_equal(p.data, values)


def test_data_and_gradients_are_views_of_the_buffers(rng):
    ps = parameters(rng, (2, 3), (), (4,))
    (flat,) = flatten(ps)
    flat.data[:] = 7
    for p in ps:
        assert (p.data == 7).all()
        p.sum().backward()
    flat.grad[:] *= 3
    for p in ps:
        assert (p.grad.data == 3).all()
        assert p._grad_slot is p.grad.data


def test_memory_order_is_kept(rng):
    krsc = rng.normal(size=(4, 5, 5, 3)).astype(np.float32)
    (p,) = ps = [Parameter(np.moveaxis(krsc, -1, 1))]
    (flat,) = flatten(ps)
    assert p.shape == (4, 3, 5, 5)
    for view in (p.data, p._grad_slot, flat.view(flat.like(), 0)):
        assert view.shape == (4, 3, 5, 5)
        assert np.moveaxis(view, 1, -1).flags.c_contiguous
    np.testing.assert_array_equal(np.moveaxis(p.data, 1, -1), krsc)
    np.testing.assert_array_equal(flat.data[: krsc.size], krsc.ravel())


@pytest.mark.parametrize("shape", [(4, 1, 5, 5), (4, 3, 1, 1), (1, 1, 1, 1), (1, 3, 1, 5)])
def test_memory_order_with_axes_of_length_one(rng, shape):
    k, c, r, s = shape
    (p,) = ps = [Parameter(np.moveaxis(rng.normal(size=(k, r, s, c)), -1, 1))]
    flatten(ps)
    assert np.moveaxis(p.data, 1, -1).flags.c_contiguous


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[:, ::2], id="gaps"),
        pytest.param(lambda x: x[::-1], id="reversed"),
        pytest.param(lambda x: np.broadcast_to(x[:1], (6, 8)), id="repeats"),
    ],
)
def test_arrays_that_are_not_dense_get_c_order(rng, view):
    data = view(rng.normal(size=(6, 8)))
    (p,) = ps = [Parameter(data)]
    flatten(ps)
    assert p.data.flags.c_contiguous
    np.testing.assert_array_equal(p.data, data)


def test_gradients_that_exist_move_into_the_buffer(rng):
    ps = parameters(rng, (2, 3), (4,))
    ps[0].grad = Tensor(np.full((2, 3), 5, np.float32))
    (flat,) = flatten(ps)
    assert ps[0].grad.data is flat.grads[0]
    assert (flat.grads[0] == 5).all()
    assert ps[1].grad is None
    ps[0].sum().backward()
    assert (flat.grads[0] == 6).all()


def test_a_weight_gradient_is_written_where_it_is_to_lie(backend, rng, monkeypatch):
    """Of a layer whose weight is used once, twice, and a second time after the first backward."""
    convs = [Conv2d(2, 2, 3, padding=1) for _ in range(2)]
    net = Sequential(*convs, Flatten(), Linear(32, 3)).double()
    x = Tensor(rng.standard_normal((2, 2, 4, 4)))

    def gradients(times):
        for _ in range(times):
            y = net(x)
            again = net[3](net[2](convs[1](convs[1](x))))
            (y.sum() + again.sum() + net[3].weight.sum()).backward()
        grads = [p.grad.data.copy() for p in net.parameters()]
        for p in net.parameters():
            p.grad = None
        return grads

    refs = [gradients(times) for times in (1, 2)]
    [flat] = flatten(net.parameters())
    for times, ref in zip((1, 2), refs, strict=True):
        flat.grad[...] = np.nan  # what lies there is not added to
        for got, expected in zip(gradients(times), ref, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12)
    filled = []
    monkeypatch.setattr(layout, "fill", lambda y, x: filled.append(y.shape))
    net(x).sum().backward()
    assert not {(2, 2, 3, 3), (3, 32)} & set(filled)  # none was copied
    assert [p.grad.data is grad for p, grad in zip(net.parameters(), flat.grads, strict=True)]


def test_a_weight_gradient_finds_its_place_whatever_the_memory_order(rng):
    for order in ("K", "C"):
        w = Parameter(np.copy(np.moveaxis(rng.standard_normal((4, 3, 3, 2)), -1, 1), order=order))
        [flat] = flatten([w])
        x = Tensor(rng.standard_normal((2, 2, 5, 5)))
        functional.conv2d(x, w).sum().backward()
        assert w.grad.data is flat.grads[0]
        got = w.grad.data.copy()
        free = Tensor(w.data.copy(), requires_grad=True)
        functional.conv2d(x, free).sum().backward()
        np.testing.assert_array_equal(got, free.grad.data)


def test_one_buffer_a_dtype_and_shared_parameters_once(rng):
    a, b = parameters(rng, (3,), (4,))
    (c,) = parameters(rng, (5,), dtype=np.float64)
    buffers = flatten([a, c, b, a])
    assert [[id(p) for p in flat.parameters] for flat in buffers] == [[id(a), id(b)], [id(c)]]
    assert [flat.data.dtype for flat in buffers] == [np.float32, np.float64]


def test_gradients_of_a_shared_parameter_add(rng, backend):
    (w,) = ps = parameters(rng, (3, 3))
    flatten(ps)
    x = Tensor(rng.normal(size=(2, 3)).astype(np.float32))
    (x @ w @ w).sum().backward()
    g = np.ones((2, 3))
    expected = x.data.T @ (g @ w.data.T) + (x.data @ w.data).T @ g
    np.testing.assert_allclose(w.grad.data, expected, rtol=1e-5, atol=1e-5)
    assert w.grad.data is w._grad_slot


def test_a_live_buffer_of_the_same_parameters_is_shared(rng):
    ps = parameters(rng, (3,), (4,))
    (first,) = flatten(ps)
    assert flatten(ps) == [first]
    ps[1].data = ps[1].data.copy()
    assert first.holds(0)
    assert not first.holds(1)
    (second,) = flatten(ps)
    assert second is not first
    assert second.holds(0)
    assert second.holds(1)
    assert not first.holds(0)


def test_values_copied_in_stay_in_the_buffer(rng):
    (p,) = ps = parameters(rng, (2, 3))
    (flat,) = flatten(ps)
    p.copy_(np.arange(6).reshape(2, 3))
    assert flat.holds(0)
    np.testing.assert_array_equal(flat.data[:6], np.arange(6))


def test_a_gradient_after_data_was_rebound_has_its_dtype_and_shape(rng):
    (p,) = ps = parameters(rng, (2, 3))
    flatten(ps)
    p.data = p.data.astype(np.float64)
    (p * (1 / 3)).sum().backward()
    assert p.grad.dtype == np.float64
    np.testing.assert_array_equal(p.grad.data, np.full((2, 3), 1 / 3))
    p.data, p.grad = np.ones(5, np.float32), None
    p.sum().backward()
    assert p.grad.shape == (5,)


def test_state_may_have_another_dtype(rng):
    ps = parameters(rng, (3,), (70,))
    (flat,) = flatten(ps)
    state = flat.like(np.float64)
    assert state.dtype == np.float64
    assert flat.view(state, 1).shape == (70,)
    assert flat.view(state, 1).ctypes.data % 256 == 0


def test_a_copy_of_a_parameter_is_independent(rng):
    (p,) = ps = parameters(rng, (3,))
    (flat,) = flatten(ps)
    p.sum().backward()
    twin = copy.deepcopy(p)
    twin.sum().backward()
    twin.copy_(np.zeros(3))
    assert (p.grad.data == 1).all()
    assert (twin.grad.data == 2).all()
    assert p.data.all()
    assert flat.holds(0)


def test_errors(rng):
    a, b = parameters(rng, (3,), (4,))
    with pytest.raises(TypeError, match=r"parameters\[1\] has dtype int64"):
        FlatBuffer([a, Tensor([1, 2])])
    with pytest.raises(TypeError, match="float64"):
        FlatBuffer([a, Tensor(np.ones(2))])
    b.grad = Tensor(np.ones(1, np.float32))
    with pytest.raises(ValueError, match=r"shape \(4,\) has a gradient of shape \(1,\)"):
        flatten([a, b])
    assert a.data.base is None
    b.grad = None
    (flat,) = flatten([a, b])
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="state_dict"):
            duplicate(flat)
