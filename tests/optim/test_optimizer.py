"""The walk over the parameters: groups, who takes part, moving house, state."""

import copy

import numpy as np
import pytest

from convolt import Parameter, Tensor, is_grad_enabled, no_grad
from convolt.layers import Linear, Sequential
from convolt.optim import SGD, Adam, AdamW

RULES = [
    pytest.param(lambda ps: SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.1), id="sgd"),
    pytest.param(lambda ps: AdamW(ps, lr=0.1, weight_decay=0.1, amsgrad=True), id="adamw"),
]


def parameters(rng, *shapes, dtype=np.float32):
    return [Parameter(rng.normal(size=shape).astype(dtype)) for shape in shapes]


def descend(optimizer, ps, steps=1):
    """Take steps on sum(p^4) / 4, whose gradient p^3 differs from step to step."""
    for _ in range(steps):
        optimizer.zero_grad()
        for p in ps:
            if p.requires_grad:
                (p * p * p * p * 0.25).sum().backward()
        optimizer.step()


def values(ps):
    return [p.data.copy() for p in ps]


def assert_equal(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(params=RULES)
def rule(request):
    return request.param


def test_sgd_is_its_equation(rng, backend):
    (p,) = ps = parameters(rng, (4, 3), dtype=np.float64)
    w, b = p.data.copy(), 0
    optimizer = SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        descend(optimizer, ps)
        b = 0.9 * b + w**3 + 0.01 * w
        w = w - 0.1 * b
    np.testing.assert_allclose(p.data, w, rtol=1e-12)


def test_adamw_is_its_equation(rng, backend):
    (p,) = ps = parameters(rng, (4, 3), dtype=np.float64)
    w, m, v = p.data.copy(), 0, 0
    optimizer = AdamW(ps, lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.01)
    for t in range(1, 4):
        descend(optimizer, ps)
        m, v = 0.8 * m + 0.2 * w**3, 0.9 * v + 0.1 * w**6
        w = w * (1 - 0.1 * 0.01)
        w = w - 0.1 * m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
    np.testing.assert_allclose(p.data, w, rtol=1e-12)


# Who takes part


def test_a_parameter_used_twice_has_one_segment_and_one_step(rng, backend):
    (w,) = ps = parameters(rng, (3, 3), dtype=np.float64)
    optimizer = SGD(ps, lr=0.5)
    x, before = Tensor(rng.normal(size=(2, 3))), w.data.copy()
    (x @ w @ w).sum().backward()
    g = np.ones((2, 3))
    grad = x.data.T @ (g @ before.T) + (x.data @ before).T @ g
    optimizer.step()
    np.testing.assert_allclose(w.data, before - 0.5 * grad, rtol=1e-12)
    assert len(optimizer.state) == 1


def test_a_frozen_parameter_stays_and_thaws(rng, rule, backend):
    ps = parameters(rng, (5,), (6,))
    twin = [Parameter(p.data.copy()) for p in ps]
    optimizer, alone = rule(ps), rule(twin[1:])
    ps[0].requires_grad_(False)
    descend(optimizer, ps, 2)
    descend(alone, twin[1:], 2)
    assert_equal(values(ps), values(twin))
    assert list(optimizer.state) == [ps[1]]
    ps[0].requires_grad_(True)
    descend(optimizer, ps, 2)
    fresh = rule(twin[:1])
    descend(fresh, twin[:1], 2)
    descend(alone, twin[1:], 2)
    assert_equal(values(ps), values(twin))


def test_freezing_keeps_momentum(rng, rule, backend):
    (p,) = ps = parameters(rng, (5,))
    optimizer = rule(ps)
    descend(optimizer, ps, 2)
    before = optimizer.state_dict()["state"][0]
    p.requires_grad_(False)  # its gradient is still there
    optimizer.step()
    after = optimizer.state_dict()["state"][0]
    assert_equal(after.values(), before.values())


def test_a_parameter_without_a_gradient_is_not_decayed(rng, rule, backend):
    ps = parameters(rng, (5,), (6,))
    optimizer = rule(ps)
    descend(optimizer, ps)
    before, state = values(ps), optimizer.state_dict()["state"]
    optimizer.zero_grad()
    ps[1].sum().backward()
    optimizer.step()
    assert_equal([ps[0].data], before[:1])
    assert (ps[1].data != before[1]).all()
    assert_equal(optimizer.state_dict()["state"][0].values(), state[0].values())
    assert optimizer.state[ps[1]]["step"] == 2


def test_a_zero_gradient_takes_part(rng):
    (p,) = ps = parameters(rng, (5,))
    optimizer = SGD(ps, lr=0.5, weight_decay=0.1)
    p.sum().backward()
    optimizer.zero_grad(set_to_none=False)
    before = p.data.copy()
    optimizer.step()
    np.testing.assert_allclose(p.data, before * 0.95, rtol=1e-6)
    optimizer.zero_grad()
    assert p.grad is None


def test_a_step_without_gradients_changes_nothing(rng, rule):
    ps = parameters(rng, (5,))
    optimizer, before = rule(ps), values(ps)
    optimizer.step()
    assert_equal(values(ps), before)
    assert optimizer.state == {}
    assert ps[0]._version.count == 0


def test_gradients_from_several_backwards_add(rng):
    (p,) = ps = parameters(rng, (5,))
    optimizer, before = SGD(ps, lr=1), p.data.copy()
    p.sum().backward()
    (2 * p).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(p.data, before - 3)


def test_an_assigned_gradient_is_used_and_stays_the_users(rng, backend):
    (p,) = ps = parameters(rng, (2, 3))
    optimizer, before = SGD(ps, lr=1), p.data.copy()
    mine = Tensor(np.arange(6.0).reshape(3, 2).T)  # another dtype and memory order
    p.grad = mine
    optimizer.step()
    np.testing.assert_array_equal(p.data, before - mine.data.astype(np.float32))
    assert p.grad is mine


def test_bad_gradients_are_errors_before_any_step(rng):
    a, b = parameters(rng, (3,)), parameters(rng, (4,), dtype=np.float64)
    optimizer = SGD(a + b, lr=1)
    a[0].sum().backward()
    before = values(a + b)
    b[0].grad = Tensor(np.ones(1))
    with pytest.raises(ValueError, match=r"shape \(4,\) has a gradient of shape \(1,\)"):
        optimizer.step()
    b[0].grad = np.ones(4)
    with pytest.raises(TypeError, match="must be a Tensor, not ndarray"):
        optimizer.step()
    assert_equal(values(a + b), before)
    b[0].grad = Tensor(np.ones(4))
    optimizer.step()
    assert_equal(values(a + b), [v - 1 for v in before])


def test_backward_after_a_step_is_an_error(rng):
    (p,) = ps = parameters(rng, (3,))
    optimizer = SGD(ps, lr=1)
    loss = (p * p).sum()
    p.sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_constructing_an_optimizer_after_forward_is_not(rng):
    (p,) = ps = parameters(rng, (3,))
    loss = (p * p).sum()
    SGD(ps)
    loss.backward()
    np.testing.assert_array_equal(p.grad.data, 2 * p.data)


def test_closure(rng):
    (p,) = ps = parameters(rng, (3,))
    optimizer, before = SGD(ps, lr=1), p.data.copy()

    def closure():
        assert is_grad_enabled()
        optimizer.zero_grad()
        loss = p.sum()
        loss.backward()
        return loss

    with no_grad():
        loss = optimizer.step(closure)
    np.testing.assert_array_equal(loss.data, before.sum())
    np.testing.assert_array_equal(p.data, before - 1)
    assert optimizer.step() is None


# Groups


def test_groups_have_their_own_options(rng, backend):
    a, b, c = ps = parameters(rng, (3,), (4,), (2, 2))
    optimizer = SGD([{"params": [a, c], "lr": 0.5}, {"params": b, "weight_decay": 1.0}], lr=0.25)
    before = values(ps)
    for p in ps:
        p.sum().backward()
    optimizer.step()
    np.testing.assert_allclose(a.data, before[0] - 0.5, rtol=1e-6)
    np.testing.assert_allclose(b.data, before[1] - 0.25 * (1 + before[1]), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(c.data, before[2] - 0.5, rtol=1e-6)


def test_options_may_change_at_any_time(rng, backend):
    (p,) = ps = parameters(rng, (3,), dtype=np.float64)
    optimizer = SGD(ps, lr=1)
    p.grad, w, b = Tensor(np.ones(3)), p.data.copy(), 0
    for lr, momentum in ((1, 0), (0.5, 0), (0.5, 0.9), (0, 0.9), (2, 0.5)):
        optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        optimizer.step()
        b = momentum * b + 1 if momentum else b
        w = w - lr * (b if momentum else 1)
        np.testing.assert_allclose(p.data, w, rtol=1e-12)
    optimizer.param_groups[0]["lr"] = -1
    with pytest.raises(ValueError, match="SGD: lr must be >= 0 and finite, got -1"):
        optimizer.step()
    np.testing.assert_allclose(p.data, w, rtol=1e-12)


def test_parameters_added_later_leave_the_state_of_the_others(rng, rule, backend):
    ps = parameters(rng, (5,), (2, 3))
    twin = [Parameter(p.data.copy()) for p in ps]
    optimizer = rule(ps[:1])
    descend(optimizer, ps[:1], 2)
    optimizer.add_param_group({"params": ps[1:], "lr": 0.01})
    descend(optimizer, ps, 2)
    first, second = rule(twin[:1]), rule(twin[1:])
    second.param_groups[0]["lr"] = 0.01
    descend(first, twin[:1], 4)
    descend(second, twin[1:], 2)
    assert_equal(values(ps), values(twin))
    assert [state["step"] for state in optimizer.state.values()] == [4, 2]


def test_a_parameter_moved_to_another_group_keeps_its_state(rng):
    ps = parameters(rng, (5,), (4,))
    optimizer = SGD([{"params": ps}, {"params": [], "lr": 0}], lr=1, momentum=0.5)
    descend(optimizer, ps)
    optimizer.param_groups[1]["params"].append(optimizer.param_groups[0]["params"].pop())
    before = values(ps)
    descend(optimizer, ps)
    assert (ps[0].data != before[0]).all()
    assert_equal([ps[1].data], before[1:])
    assert optimizer.state[ps[1]]["step"] == 2


def test_names(rng):
    a, b = parameters(rng, (3,), (4,))
    optimizer = SGD([("a", a), ("b", b)])
    (group,) = optimizer.param_groups
    assert group["param_names"] == ["a", "b"]
    assert [id(p) for p in group["params"]] == [id(a), id(b)]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["a", "b"]
    with pytest.raises(ValueError, match="all groups or none"):
        optimizer.add_param_group({"params": parameters(rng, (2,))})
    with pytest.raises(ValueError, match="all parameters or none"):
        SGD([("a", a), b])


@pytest.mark.parametrize("rule", [SGD, Adam, AdamW])
def test_errors_of_the_constructor(rng, rule):
    a, b = parameters(rng, (3,), (4,))
    with pytest.raises(ValueError, match="empty parameter list"):
        rule([])
    with pytest.raises(TypeError, match="not one Parameter"):
        rule(a)
    with pytest.raises(TypeError, match=r"not one Linear: pass model\.parameters\(\)"):
        rule(Linear(2, 3))
    with pytest.raises(TypeError, match=r"not one Sequential: pass model\.parameters\(\)"):
        rule(Sequential(Linear(2, 3)))
    with pytest.raises(TypeError, match="not one float: put it in a list"):
        rule(0.1)
    with pytest.raises(ValueError, match=r"a group has no \"params\", only \['lr'\]"):
        rule([{"lr": 0.1}])
    with pytest.raises(TypeError, match="only Tensors can be stepped, got ndarray"):
        rule([a, b.data])
    with pytest.raises(TypeError, match="has no order"):
        rule([{"params": {a, b}}])
    with pytest.raises(TypeError, match="dtype int64"):
        rule([Tensor([1, 2])])
    with pytest.raises(ValueError, match="given twice"):
        rule([a, b, a])
    with pytest.raises(ValueError, match="given twice"):
        rule([{"params": [a]}, {"params": [b, a]}])
    with pytest.raises(ValueError, match="made by multiply"):
        rule([a * 2])
    for option in ({"lr": -1}, {"lr": float("nan")}, {"weight_decay": -0.1}):
        with pytest.raises(ValueError, match=next(iter(option))):
            rule([a], **option)
        with pytest.raises(ValueError, match=next(iter(option))):
            rule([{"params": [a], **option}])
    with pytest.raises(TypeError, match="lr must be a number"):
        rule([a], lr="0.1")
    assert a.data.base is None  # nothing has been moved
    optimizer = rule([a])
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group([b])
    with pytest.raises(ValueError, match="given twice"):
        optimizer.add_param_group({"params": [b, a]})
    assert len(optimizer.param_groups) == 1


def test_errors_of_the_rules(rng):
    ps = parameters(rng, (3,))
    for options in ({"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValueError, match="nesterov needs momentum > 0 and dampening 0"):
            SGD(ps, **options)
    with pytest.raises(ValueError, match="momentum must be >= 0"):
        SGD(ps, momentum=-0.5)
    with pytest.raises(ValueError, match=r"Adam: betas\[1\] must be >= 0 and < 1"):
        Adam(ps, betas=(0.9, 1.0))
    with pytest.raises(TypeError, match="AdamW: betas must be a pair"):
        AdamW(ps, betas=0.9)
    with pytest.raises(ValueError, match="eps"):
        Adam(ps, eps=-1e-8)


def test_repr_shows_the_groups(rng):
    text = repr(SGD(parameters(rng, (3, 4)), lr=0.5))
    assert "SGD" in text
    assert "12 parameters" in text
    assert "lr=0.5" in text


# Moving house


def test_values_loaded_into_the_views_are_stepped(rng, rule, backend):
    (p,) = ps = parameters(rng, (2, 3))
    optimizer = rule(ps)
    fresh = rng.normal(size=(2, 3)).astype(np.float32)
    twin = [Parameter(fresh.copy())]
    other = rule(twin)
    p.copy_(fresh)
    descend(optimizer, ps, 2)
    descend(other, twin, 2)
    assert_equal(values(ps), values(twin))


def test_a_change_of_dtype_keeps_the_state(rng, rule, backend):
    ps = parameters(rng, (2, 3), (4,))
    optimizer = rule(ps)
    descend(optimizer, ps, 2)
    state = optimizer.state_dict()["state"]
    for p in ps:
        p.data = p.data.astype(np.float64)
    moved = optimizer.state_dict()["state"]
    for i in state:
        assert moved[i].pop("step") == state[i].pop("step") == 2
        for name in state[i]:
            np.testing.assert_array_equal(moved[i][name], state[i][name])
            assert moved[i][name].dtype == np.float64
    before = values(ps)
    descend(optimizer, ps)
    for p, old in zip(ps, before, strict=True):
        assert p.dtype == p.grad.dtype == np.float64
        assert (p.data != old).all()
        np.testing.assert_array_equal(p.grad.data, old * old * old)
        assert optimizer.state[p]["step"] == 3


def test_one_parameter_rebound_between_backward_and_step(rng, backend):
    a, b = ps = parameters(rng, (3,), (4,))
    optimizer = SGD(ps, lr=1)
    (a.sum() + 2 * b.sum()).backward()
    a.data = np.arange(3, dtype=np.float64)
    before = b.data.copy()
    optimizer.step()
    assert a.dtype == np.float64
    np.testing.assert_array_equal(a.data, [-1, 0, 1])
    np.testing.assert_array_equal(b.data, before - 2)
    assert a._grad_slot is not None
    assert a._grad_slot.dtype == np.float64


def test_mixed_dtypes_step_together(rng, rule, backend):
    ps = parameters(rng, (3,), (4,)) + parameters(rng, (5,), dtype=np.float64)
    ps = [ps[0], ps[2], ps[1]]
    twins = [Parameter(p.data.copy()) for p in ps]
    descend(rule(ps), ps, 3)
    for twin in twins:
        descend(rule([twin]), [twin], 3)
    assert_equal(values(ps), values(twins))


def test_two_optimizers_over_disjoint_sets(rng, rule, backend):
    ps = parameters(rng, (3,), (4,), (5,))
    twin = [Parameter(p.data.copy()) for p in ps]
    first, second, whole = rule(ps[::2]), rule(ps[1:2]), rule(twin)
    for _ in range(3):
        descend(first, ps[::2])
        descend(second, ps[1:2])
        descend(whole, twin)
    assert_equal(values(ps), values(twin))


def test_two_optimizers_over_the_same_set(rng, backend):
    (p,) = ps = parameters(rng, (3,), dtype=np.float64)
    w, b = p.data.copy(), 0
    plain, heavy = SGD(ps, lr=0.1), SGD(ps, lr=0.2, momentum=0.5)
    data = p.data
    for _ in range(3):
        descend(plain, ps)
        w = w - 0.1 * w**3
        descend(heavy, ps)
        b = 0.5 * b + w**3
        w = w - 0.2 * b
        np.testing.assert_allclose(p.data, w, rtol=1e-12)
    assert p.data is data  # they share the buffer


def test_two_optimizers_over_overlapping_sets(rng, rule, backend):
    ps = parameters(rng, (3,), (4,), (5,), dtype=np.float64)
    twin = [Parameter(p.data.copy()) for p in ps]
    first, second = rule(ps[:2]), rule(ps[1:])
    alone = [rule([twin[0]]), rule([twin[1]]), rule([twin[1]]), rule([twin[2]])]
    for _ in range(3):
        descend(first, ps[:2])
        descend(second, ps[1:])
        for optimizer, i in zip(alone, (0, 1, 1, 2), strict=True):
            descend(optimizer, [twin[i]])
    assert_equal(values(ps), values(twin))


def test_empty_and_0d_parameters(rng, rule, backend):
    ps = parameters(rng, (0, 3), (), (4,), (0,))
    optimizer = rule(ps)
    before = ps[1].item()
    descend(optimizer, ps, 2)
    assert [p.shape for p in ps] == [(0, 3), (), (4,), (0,)]
    assert ps[1].item() != before
    other = rule(ps)
    other.load_state_dict(optimizer.state_dict())
    descend(other, ps)
    nothing = parameters(rng, (0,))
    descend(rule(nothing), nothing)


def test_channels_last_weights_stay_channels_last(rng, rule, backend):
    krsc = rng.normal(size=(4, 5, 5, 3)).astype(np.float32)
    weight, plain = Parameter(np.moveaxis(krsc, -1, 1)), Parameter(np.moveaxis(krsc, -1, 1).copy())
    bias = parameters(rng, (4,))
    optimizer, other = rule([weight, *bias]), rule([plain])
    descend(optimizer, [weight, *bias], 2)
    descend(other, [plain], 2)
    assert np.moveaxis(weight.data, 1, -1).flags.c_contiguous
    np.testing.assert_array_equal(weight.data, plain.data)
    for array in list(optimizer.state_dict()["state"][0].values())[1:]:
        assert array.shape == (4, 3, 5, 5)
        assert array.flags.c_contiguous


# State


def test_a_restored_run_continues_bit_equal(rng, rule, backend):
    def make(ps):
        optimizer = rule([{"params": ps[:1], "lr": 0.05}, {"params": ps[1:]}])
        return optimizer

    ps = [Parameter(np.moveaxis(rng.normal(size=(2, 3, 4)).astype(np.float32), -1, 1))]
    ps += parameters(rng, (70,), ()) + parameters(rng, (5,), dtype=np.float64)
    optimizer = make(ps)
    ps[1].requires_grad_(False)
    descend(optimizer, ps, 3)
    optimizer.param_groups[0]["lr"] = 0.03
    saved, weights = optimizer.state_dict(), values(ps)
    kept = copy.deepcopy(saved)
    ps[1].requires_grad_(True)
    descend(optimizer, ps, 3)
    np.testing.assert_equal(saved, kept)  # a copy, not views

    twin = [Parameter(w) for w in weights]
    other = make(twin)
    descend(other, twin)  # a used optimizer forgets its own state
    for p, w in zip(twin, weights, strict=True):
        p.copy_(w)
    other.load_state_dict(saved)
    np.testing.assert_equal(other.state_dict(), saved)
    descend(other, twin, 3)
    assert_equal(values(ps), values(twin))


def test_state_dict_holds_numpy_arrays_of_the_parameters_shapes(rng):
    from safetensors.numpy import load, save

    ps = parameters(rng, (2, 3), (), (4,))
    optimizer = Adam(ps)
    descend(optimizer, ps[:2])
    state_dict = optimizer.state_dict()
    assert list(state_dict["state"]) == [0, 1]
    assert state_dict["param_groups"] == [
        {
            "params": [0, 1, 2],
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0,
            "amsgrad": False,
            "maximize": False,
        }
    ]
    for i, entry in state_dict["state"].items():
        assert list(entry) == ["step", "exp_avg", "exp_avg_sq"]
        assert type(entry.pop("step")) is int
        assert entry["exp_avg"].shape == ps[i].shape
        np.testing.assert_equal(load(save(entry)), entry)


def test_options_that_became_lists_are_read(rng):
    ps = parameters(rng, (3,))
    saved = Adam(ps, betas=(0.5, 0.6)).state_dict()
    saved["param_groups"][0]["betas"] = [0.5, 0.6]  # JSON knows no tuples
    optimizer = Adam(ps)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)


def test_loading_what_does_not_fit_changes_nothing(rng):
    ps = parameters(rng, (3,), (2, 2))
    optimizer = Adam(ps)
    descend(optimizer, ps)
    good = optimizer.state_dict()

    def refuses(match, change):
        bad = copy.deepcopy(good)
        change(bad)
        with pytest.raises(ValueError, match=match):
            optimizer.load_state_dict(bad)
        np.testing.assert_equal(optimizer.state_dict(), good)

    entry = lambda bad, i=1: bad["state"][i]  # noqa: E731
    (group,) = good["param_groups"]
    refuses("param_groups missing", lambda bad: bad.pop("param_groups"))
    refuses("2 groups were saved, here are 1", lambda bad: bad["param_groups"].append(group))
    refuses("had 1 parameters, here it has 2", lambda bad: bad["param_groups"][0]["params"].pop())
    refuses("no betas", lambda bad: bad["param_groups"][0].pop("betas"))
    refuses("lr must be >= 0", lambda bad: bad["param_groups"][0].update(lr=-1))
    refuses(
        r"parameter 1 of shape \(2, 2\) has exp_avg of shape \(4,\)",
        lambda bad: entry(bad).update(exp_avg=np.ones(4)),
    )
    refuses("lacks exp_avg_sq", lambda bad: entry(bad).pop("exp_avg_sq"))
    refuses("unknown to this rule", lambda bad: entry(bad).update(momentum_buffer=np.ones((2, 2))))
    refuses("which no group has", lambda bad: bad["state"].update({7: entry(bad)}))
    with pytest.raises(ValueError, match="another optimizer than Adam"):
        optimizer.load_state_dict(SGD(ps).state_dict())
    optimizer.load_state_dict(good)


def test_state_of_pytorchs_sgd_is_understood(rng, backend):
    ps = parameters(rng, (3,), (4,), dtype=np.float64)
    twin = [Parameter(p.data.copy()) for p in ps]
    optimizer, other = (SGD(x, lr=0.1, momentum=0.9, dampening=0.5) for x in (ps, twin))
    descend(optimizer, ps)
    saved = optimizer.state_dict()
    assert saved["state"][0].pop("step") == 1  # PyTorch's has none
    saved["state"][1] = {"momentum_buffer": None}
    for p, q in zip(ps, twin, strict=True):
        q.copy_(p)
    other.load_state_dict(saved)
    assert list(other.state) == twin[:1]
    descend(optimizer, ps[:1])
    descend(other, twin[:1])
    assert_equal(values(ps[:1]), values(twin[:1]))
