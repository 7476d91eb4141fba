"""Reverse mode: the walk, what it keeps and releases, and what it refuses."""

import gc
import threading
import weakref
from functools import partial

import numpy as np
import pytest

import convolt
from convolt import Tensor, functional
from convolt.engine import autograd
from convolt.engine.autograd import Finished, differentiable, jointly
from convolt.kernels import backend
from convolt.kernels.backend import use_backend


def leaf(value):
    return Tensor(np.array(value, np.float64), requires_grad=True)


def test_a_tensor_used_twice_accumulates_both_gradients():
    x = leaf(3.0)
    (x * (x * x)).backward()
    assert x.grad.item() == 27.0


def test_gradients_accumulate_over_calls_until_cleared():
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    (3 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [5.0, 7.0])
    x.grad = None
    x.sum().backward()
    np.testing.assert_array_equal(x.grad, [1.0, 1.0])


def test_a_gradient_given_by_the_user_is_copied_not_kept():
    x, grad = leaf([1.0, 2.0]), np.array([5.0, 6.0])
    (x + 0.0).backward(grad)
    x.backward(grad)  # a leaf itself
    np.testing.assert_array_equal(x.grad, [10.0, 12.0])
    np.testing.assert_array_equal(grad, [5.0, 6.0])


def test_vjps_of_inputs_without_gradient_do_not_run():
    def refuse(g):
        raise AssertionError("not needed")

    @differentiable
    def product(a, b):
        return a * b, (refuse, lambda g: g * a)

    a, b = Tensor(np.array([2.0])), leaf([5.0])
    product(a, b).backward()
    assert (a.grad, b.grad.item()) == (None, 2.0)


def test_jointly_runs_a_shared_backward_once_a_call():
    runs = []

    @differentiable
    def product(a, b):
        return a * b, jointly(lambda g: runs.append(1) or (g * b, g * a), 2)

    a, b = leaf([2.0]), leaf([5.0])
    product(a, b).backward()
    assert (a.grad.item(), b.grad.item(), len(runs)) == (5.0, 2.0, 1)


def test_a_graph_deeper_than_the_recursion_limit():
    x = y = leaf(0.0)
    for _ in range(5000):
        y = y + 1.0
    y.backward()
    assert x.grad.item() == 1.0


def test_backward_releases_what_the_ops_captured():
    x = leaf(np.ones(4))
    captured = np.arange(4.0)
    gone = weakref.ref(captured)
    y = x * captured
    del captured
    gc.collect()
    assert gone() is not None
    y.sum().backward()
    gc.collect()
    assert gone() is None


def test_a_graph_holds_no_activation_that_no_gradient_needs():
    x = leaf(np.ones((2, 3, 4, 4)))
    sums = x + 1.0
    pooled = functional.max_pool2d(functional.relu(sums) * 1.0, 2)
    flat = pooled.flatten(1)
    arrays = [weakref.ref(t.data) for t in (sums, pooled)]
    total = (flat * flat).sum()
    del sums, pooled, flat
    gc.collect()
    assert [array() for array in arrays] == [None, None]
    total.backward()
    assert x.grad.data.sum() == 96 * 2 * 2 / 4


def test_backward_drops_activations_and_gradients_as_it_goes():
    alive = []

    @differentiable
    def watched(a):
        kept = np.array(a)
        seen.append(weakref.ref(kept))

        def vjp(g):
            grads.append(weakref.ref(g))
            alive.append(
                [i for i, array in enumerate(seen) if array() is not None]
                + [sum(array() is not None for array in grads)]
            )
            return g * kept

        return a * 2.0, (vjp,)

    seen, grads = [], []
    x = leaf(np.ones(3))
    watched(watched(watched(x))).backward(np.ones(3))
    assert alive == [[0, 1, 2, 1], [0, 1, 1], [0, 1]]


def test_gradients_written_in_place_are_those_of_new_arrays(backend, rng, monkeypatch):
    """Sums are added to gradients that nobody else sees, and to no others."""

    def gradients():
        x, w = (Tensor(a, requires_grad=True) for a in arrays)
        a = functional.relu(x * w)
        b = a + w  # passes its gradient on to both
        c = functional.tanh(b.reshape(6, 4).t()).t().reshape(4, 6)
        d = functional.sigmoid(a - c) + functional.leaky_relu(b) + b
        d.retain_grad()
        convolt.manual_seed(0)
        e = convolt.cat([functional.dropout(d, 0.5), a, d[:, :3]], 1).sum(1) + x.sum(1)
        given = np.ones(4)
        e.backward(given)
        assert (given == 1).all()
        results = [t.grad.data for t in (x, w, d)]
        assert not any(np.shares_memory(p, q) for i, p in enumerate(results) for q in results[:i])
        return [array.tobytes() for array in results]

    arrays = rng.standard_normal((2, 4, 6))
    in_place = gradients()
    monkeypatch.setattr(autograd, "_is_writeable", lambda array: False)
    assert in_place == gradients()


def test_a_sum_of_gradients_lies_where_either_is_that_nobody_else_sees(monkeypatch):
    x, w = leaf([1.0, -2.0]), leaf([3.0, 4.0])
    y = x * 2.0
    total = (y + w) + functional.relu(y)  # the gradient of y + w is that of w too
    monkeypatch.setattr(autograd.elementwise, "add", None)  # makes a new array
    total.backward(np.array([1.0, 10.0]))
    assert (x.grad.tolist(), w.grad.tolist()) == ([4.0, 20.0], [1.0, 10.0])


def test_leaves_never_share_a_gradient():
    a, b, c = (leaf([1.0, 2.0]) for _ in range(3))
    (a + b + c).sum().backward()
    grads = [t.grad.data for t in (a, b, c)]
    grads[0][0] = 5.0
    assert [g.tolist() for g in grads] == [[5.0, 1.0], [1.0, 1.0], [1.0, 1.0]]


def test_a_retained_gradient_is_not_written_over():
    x = leaf([-1.0, 2.0])
    y = functional.relu(x) * 1.0
    y.retain_grad()
    z = functional.relu(y)
    z.retain_grad()
    (z * 3.0).backward(np.ones(2))
    assert (z.grad.tolist(), y.grad.tolist(), x.grad.tolist()) == ([3, 3], [0, 3], [0, 3])


def test_a_second_backward_needs_retain_graph():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8.0
    with pytest.raises(RuntimeError, match=r"multiply: .*retain_graph=True"):
        y.backward()


def test_no_grad_and_enable_grad_as_blocks_and_decorators():
    x = leaf(2.0)
    with convolt.no_grad():
        assert not (x * x).requires_grad
        with convolt.enable_grad():
            assert (x * x).requires_grad
        assert not convolt.is_grad_enabled()

    @convolt.no_grad()
    def square(x):
        return x * x

    assert not square(x).requires_grad
    assert not square(x).requires_grad  # the decorator may be entered again
    assert (x * x).requires_grad
    with convolt.set_grad_enabled(False):
        assert not (x * x).requires_grad


def test_no_grad_is_restored_after_an_error():
    with pytest.raises(KeyError), convolt.no_grad():
        raise KeyError
    assert convolt.is_grad_enabled()


def test_no_grad_holds_in_its_own_thread_only():
    seen = []
    with convolt.no_grad():
        thread = threading.Thread(target=lambda: seen.append(convolt.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_shares_memory_and_cuts_the_graph():
    x = leaf([1.0, 2.0])
    y = (x * x).detach()
    assert not y.requires_grad
    (x * y).sum().backward()
    np.testing.assert_array_equal(x.grad, y.numpy())
    assert np.shares_memory(x.detach().numpy(), x.data)


def test_retain_grad_keeps_the_gradient_of_a_result():
    x = leaf(3.0)
    y = x * x
    y.retain_grad()
    (2.0 * y).backward()
    assert (y.grad.item(), x.grad.item()) == (2.0, 12.0)
    z = x * x
    z.backward()
    assert z.grad is None


def test_what_backward_refuses():
    x = leaf([1.0, 2.0])
    with pytest.raises(RuntimeError, match="require a gradient"):
        Tensor([1.0]).backward()
    with pytest.raises(ValueError, match="needs the gradient argument"):
        (x * x).backward()
    with pytest.raises(ValueError, match=r"gradient has shape \(3,\), expected \(2,\)"):
        (x * x).backward(np.ones(3))
    with pytest.raises(NotImplementedError, match="create_graph"):
        (x * x).sum().backward(create_graph=True)
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4.0])


def test_a_tracked_tensor_cannot_be_changed_in_place():
    x = leaf([1.0, 2.0])
    y = x * x
    for tracked in (x, y):
        with pytest.raises(RuntimeError, match="cannot be changed in place"):
            tracked[0] = 5.0
    with pytest.raises(ValueError, match="read-only"):
        y.numpy()[0] = 5.0
    with pytest.raises(RuntimeError, match="copy_"):
        y.copy_([1.0, 1.0])


@pytest.mark.parametrize("change", ["setitem", "copy_", "view", "detached"])
def test_backward_after_an_in_place_change_of_what_it_needs_is_refused(change):
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    with convolt.no_grad():
        if change == "setitem":
            x[0] = 7.0
        elif change == "copy_":
            x.copy_([7.0, 7.0])
        elif change == "view":
            x.detach()[:1][0] = 7.0
        else:
            x.detach()[0] = 7.0
    with pytest.raises(RuntimeError, match=r"multiply: input 0 .* changed in place"):
        y.backward()
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, 2 * x.data)


def test_an_in_place_change_of_what_no_gradient_needs_is_allowed():
    x = leaf([1.0, 2.0])
    y = (x + 1.0).sum()
    with convolt.no_grad():
        x[0] = 7.0
    y.backward()
    np.testing.assert_array_equal(x.grad, [1.0, 1.0])


def test_the_gradient_runs_on_the_backend_of_the_forward_pass(monkeypatch):
    from convolt.kernels.linear import on_numba, on_numpy

    used = []
    monkeypatch.setattr(backend, "_modules", {})
    for module in (on_numpy, on_numba):
        original = module.dgrad
        monkeypatch.setattr(
            module,
            "dgrad",
            lambda *a, module=module, original=original: (
                used.append(module.__name__.rpartition("_")[2]),
                original(*a),
            ),
        )
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    with use_backend("numpy"):
        y = functional.linear(x, Tensor(np.ones((4, 3))))
    with use_backend("numba"):
        y.sum().backward()
    assert used == ["numpy"]


def test_a_wrong_gradient_shape_names_the_op():
    @differentiable
    def careless(a):
        return a * 2.0, (lambda g: g[:1],)

    with pytest.raises(RuntimeError, match=r"careless: .*\(3,\).*\(1,\).*defect"):
        careless(leaf([1.0, 2.0, 3.0])).sum().backward()


def test_an_error_in_backward_leaves_the_choice_of_backend_free():
    @differentiable
    def careless(a):
        return a * 2.0, (lambda g: g[:1],)

    with use_backend("numpy"):
        y = careless(leaf([1.0, 2.0, 3.0]))
        with pytest.raises(RuntimeError, match="defect") as error:
            y.backward(np.ones(3))
    with use_backend("numba"):
        assert Tensor([1.0]).backend == "numba"
    assert error.value.__traceback__ is not None  # alive: its frames hold what they held


def test_backward_in_several_threads_at_once():
    def work(seed, results):
        w = Tensor(np.full((3, 3, 3, 3), float(seed)), requires_grad=True)
        x = Tensor(np.ones((2, 3, 8, 8)))
        functional.max_pool2d(functional.conv2d(x, w, padding=1), 2).sum().backward()
        results[seed] = w.grad.numpy()

    results = {}
    threads = [threading.Thread(target=work, args=(i, results)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2, 5):
        np.testing.assert_array_equal(results[seed], results[1])


def test_set_grad_enabled_switches_at_once_and_a_block_restores():
    try:
        convolt.set_grad_enabled(False)
        assert not convolt.is_grad_enabled()
        with convolt.set_grad_enabled(True):
            assert convolt.is_grad_enabled()
        assert not convolt.is_grad_enabled()
    finally:
        convolt.set_grad_enabled(True)

    @convolt.set_grad_enabled(False)
    def inside():
        return convolt.is_grad_enabled()

    @convolt.no_grad
    def without_parentheses(x):
        return convolt.is_grad_enabled(), x

    assert convolt.is_grad_enabled()
    assert inside() is False
    assert without_parentheses(3) == (False, 3)
    assert convolt.is_grad_enabled()


@pytest.mark.parametrize("which", ["target", "weight"])
def test_changes_of_a_target_or_class_weight_before_backward_are_refused(which):
    x, target = leaf(np.ones((2, 3))), Tensor([0, 1])
    weight = Tensor(np.ones(3))
    loss = functional.cross_entropy(x, target, weight)
    {"target": target, "weight": weight}[which][0] = 2
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_gradient_goes_where_the_index_pointed_in_the_forward_pass():
    for index in (Tensor([1, 3]), np.array([1, 3])):
        x = leaf(np.zeros(4))
        y = x[index].sum()
        index[0] = 2
        y.backward()
        np.testing.assert_array_equal(x.grad, [0, 1, 0, 1])


def test_a_second_backward_reads_the_gradient_it_is_given():
    x, w = leaf(np.ones((1, 1, 3, 3))), leaf(np.ones((1, 1, 1, 1)))
    y = functional.conv2d(x, w)
    grad = np.ones((1, 1, 3, 3))
    y.backward(grad, retain_graph=True)
    grad[...] = 10.0
    y.backward(grad)
    np.testing.assert_array_equal(x.grad, np.full((1, 1, 3, 3), 11.0))


def test_assigning_a_tracked_value_is_refused_since_its_history_would_be_lost():
    out, w = Tensor([0.0, 0.0]), leaf([2.0])
    with pytest.raises(RuntimeError, match="history"):
        out[0] = (w * 3)[0]
    out[0] = (w * 3)[0].detach()
    assert out.tolist() == [6.0, 0.0]


def test_augmented_assignment_changes_memory_where_nothing_is_recorded():
    x = leaf([1.0, 2.0])
    alias = x.detach()
    with convolt.no_grad():
        for update in (
            lambda p: p.__iadd__(1.0),
            lambda p: p.__isub__(Tensor(np.array([0.5, 0.5]))),
            lambda p: p.__imul__(2),
            lambda p: p.__itruediv__(4.0),
            lambda p: p.__ipow__(2),
        ):
            assert update(x) is x
    np.testing.assert_array_equal(alias, [((1 + 0.5) * 2 / 4) ** 2, ((2 + 0.5) * 2 / 4) ** 2])
    assert x.requires_grad
    with pytest.raises(RuntimeError, match="no_grad"):
        x += 1.0
    y = x * 2
    before = y
    y += 1.0  # recorded: the name is bound to a new tensor
    assert y is not before
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 2.0])
    count = Tensor([1, 2])
    with pytest.raises(TypeError, match="does not fit"):
        count += 0.5
    with pytest.raises(TypeError, match="does not fit"):
        count += np.ones((2, 2), int)
    with convolt.no_grad(), pytest.raises(RuntimeError, match="backward needs"):
        before += 1.0


def test_only_leaves_are_copied_deeply():
    import copy

    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    twin = copy.deepcopy([x, x])
    assert twin[0] is twin[1]
    assert twin[0].requires_grad
    np.testing.assert_array_equal(twin[0].grad, x.grad)
    assert not np.shares_memory(twin[0].data, x.data)
    with pytest.raises(RuntimeError, match="leaves"):
        copy.deepcopy(x * x)


def test_a_copy_made_by_reshape_counts_its_own_changes():
    x = leaf(np.arange(6.0).reshape(2, 3))
    h = x * 2
    y = (h * h).sum()
    copy = h.detach().T.reshape(6)
    copy[0] = 100.0
    y.backward()
    np.testing.assert_array_equal(x.grad, 8 * x.data)


def test_a_gradient_assigned_by_the_user_must_be_a_tensor():
    x = leaf([1.0])
    x.grad = np.ones(1)
    with pytest.raises(TypeError, match="grad must be a Tensor"):
        (x * x).sum().backward()


class Offers:
    """Ops on float64 that add what an input has, and double it where that is offered to be last.

    ``calls`` has what each vjp was given: its name, the sum so far, and the offer.
    """

    def __init__(self):
        self.calls = []

    @staticmethod
    @differentiable
    def made(x):
        """x; its gradient is the square of what comes, or its rest where that was done before."""

        def vjp(grad):
            return grad.rest if isinstance(grad, Finished) else grad**2

        return x + 0, (vjp,), "square"

    def used(self, factor, taking=True):
        """The product with a factor, by an op with ``adds``."""

        @differentiable(adds=(0,))
        def used(x):
            def vjp(grad, before, finish):
                self.calls.append((factor, None if before is None else before.copy(), finish))
                share = grad * factor if before is None else grad * factor + before
                return Finished(share, share**2) if finish and taking else share

            return x * factor, (vjp,)

        return used


class TestAdds:
    @pytest.mark.parametrize("taking", [True, False])
    @pytest.mark.parametrize("retained", [True, False])
    def test_the_last_of_three_gets_the_sum_and_the_offer(self, retained, taking):
        offers, x = Offers(), leaf([1.0, 2.0])
        y = offers.made(x)
        if retained:
            y.retain_grad()
        z = offers.used(3.0, taking)(y) + y * 7.0 + offers.used(5.0, taking)(y)
        z.sum().backward()
        np.testing.assert_array_equal(x.grad, [225.0, 225.0])
        if retained:
            np.testing.assert_array_equal(y.grad, [15.0, 15.0])
        assert sorted(factor for factor, *_ in offers.calls) == [3.0, 5.0]
        (_, first, none), (factor, second, offer) = offers.calls
        assert none is None
        assert offer == (None if retained else "square")
        assert first is None or first[0] == 7.0
        assert second[0] == 15.0 - factor

    def test_walks_are_independent(self):
        offers, x = Offers(), leaf([2.0])
        y = offers.made(x)
        z = offers.used(3.0)(y) + offers.used(5.0)(y)
        z.backward(np.ones(1), retain_graph=True)
        z.backward(np.full(1, 2.0))
        assert x.grad.item() == 64.0 + 256.0
        assert [call[2] for call in offers.calls] == [None, "square"] * 2

    def test_one_that_is_not_last_leaves_the_offer(self):
        offers, x = Offers(), leaf([2.0])
        y = offers.made(x)
        used = offers.used(3.0)(y)
        (y * 4.0 + used * used.detach()).sum().backward()
        assert x.grad.item() == (4.0 + 3.0 * 6.0) ** 2

    def test_an_input_twice_in_one_op_is_added_by_the_walk(self):
        calls = []

        @differentiable(adds=(0, 1))
        def both(a, b):
            def vjp(factor, grad, before, finish):
                calls.append((before, finish))
                return grad * factor

            return a + 2 * b, (partial(vjp, 1.0), partial(vjp, 2.0))

        x = leaf([2.0])
        y = Offers.made(x)
        (both(y, y) + y).sum().backward()
        assert x.grad.item() == 16.0
        assert calls == [(None, None)] * 2

    def test_a_sum_of_another_dtype_is_added_by_the_walk(self):
        offers, x = Offers(), leaf([2.0])
        y = offers.made(x)

        @differentiable
        def single(a):
            return a.astype(np.float32), (lambda grad: grad,)  # a gradient in float32

        (single(y).sum() * 3.0).backward(retain_graph=True)
        x.grad = None
        total = offers.used(5.0)(y).sum() + single(y).sum()
        total.backward()
        assert x.grad.item() == 36.0
        assert all(before is None for _, before, _ in offers.calls)

    def test_a_leaf_gets_the_sum_too(self):
        offers, x = Offers(), leaf([2.0])
        (offers.used(3.0)(x) + x * 7.0).sum().backward()
        assert x.grad.item() == 10.0
        assert offers.calls[0][2] is None

    def test_a_sum_that_the_user_gave_is_not_written_to(self):
        """The gradient of a sum is both terms', and the user's array."""
        offers, x, grad = Offers(), leaf([2.0]), np.ones(1)
        (x + offers.used(3.0)(x)).backward(grad)
        assert (x.grad.item(), grad.item()) == (4.0, 1.0)
