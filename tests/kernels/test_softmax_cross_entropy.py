"""softmax_cross_entropy: definition against brute force, backends, stability, errors."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from launches import record_launches
from threads import results_by_threads
from tolerance import assert_within

from convolt.kernels import softmax_cross_entropy as cross_entropy
from convolt.kernels.backend import implementation, use_backend
from convolt.kernels.softmax_cross_entropy import on_cuda

IGNORED = -100
OPTIONS = [
    {"weighted": weighted, "label_smoothing": smoothing, "reduction": reduction}
    for weighted, smoothing, reduction in itertools.product(
        (False, True), (0.0, 0.3, 1.0), ("none", "mean", "sum")
    )
]
SHAPES = [(1, 1), (1, 2), (5, 3), (7, 1), (37, 11)]
LONG_ROWS = [(3, 255), (3, 256), (4, 601)]  # by a warp, and by a block, on a GPU


def draw(rng, shape, kind, weighted, dtype=np.float64):
    """logits, target, weight."""
    m, c = shape
    logits = (rng.standard_normal(shape) * 3).astype(dtype)
    if kind == "classes":
        target = rng.integers(0, c, m)
        target[1::3] = IGNORED
    else:
        target = rng.uniform(0, 1, shape).astype(dtype)  # rows need not add up to 1
    weight = rng.uniform(0.5, 2, c).astype(dtype) if weighted else None
    return logits, target, weight


def run(logits, target, weight, label_smoothing, reduction, grad_loss=None, ignore_index=IGNORED):
    """loss and grad_logits."""
    options = (ignore_index, label_smoothing)
    loss, saved = cross_entropy.forward(logits, target, weight, *options, reduction)
    grad_loss = np.ones_like(loss) if grad_loss is None else grad_loss
    return loss, cross_entropy.backward(grad_loss, logits, target, weight, saved, *options)


def by_hand(logits, target, weight, label_smoothing, reduction, grad_loss):
    """loss, grad_logits and the same sums over absolute values, by loops in float64."""
    m_all, c_all = logits.shape
    w = [1.0] * c_all if weight is None else [float(v) for v in weight]
    losses, sizes, divisor = [0.0] * m_all, [0.0] * m_all, 0.0
    grad, grad_size = np.zeros((2, m_all, c_all))
    for m in range(m_all):
        row = [float(v) for v in logits[m]]
        if target.ndim == 1:
            t = int(target[m])
            if t == IGNORED:
                continue
            divisor += w[t]
            q = [float(c == t) for c in range(c_all)]
        else:
            divisor += 1
            q = [float(v) for v in target[m]]
        a = [w[c] * ((1 - label_smoothing) * q[c] + label_smoothing / c_all) for c in range(c_all)]
        lse = math.log(math.fsum(math.exp(v) for v in row))
        losses[m] = -math.fsum(a[c] * (row[c] - lse) for c in range(c_all))
        sizes[m] = math.fsum(a[c] * (abs(row[c]) + abs(lse) + 1) for c in range(c_all))
        for c in range(c_all):
            p = math.exp(row[c] - lse)
            grad[m, c] = p * math.fsum(a) - a[c]
            grad_size[m, c] = p * (1 + abs(row[c]) + abs(lse)) * math.fsum(a) + a[c]
    divisor = divisor if reduction == "mean" else 1.0
    scale = np.broadcast_to(grad_loss / divisor, m_all)[:, None]
    if reduction != "none":
        losses, sizes = math.fsum(losses) / divisor, math.fsum(sizes) / divisor
    return np.array(losses), np.array(sizes), scale * grad, abs(scale) * grad_size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradient_are_those_of_the_equations(
    backend, rng, nan_results, shape, kind, dtype
):
    for options in OPTIONS:
        logits, target, weight = draw(rng, shape, kind, options["weighted"], dtype)
        rest = options["label_smoothing"], options["reduction"]
        grad_loss = rng.uniform(0.5, 2, shape[:1] if rest[1] == "none" else ()).astype(dtype)
        with nan_results(cross_entropy):
            loss, grad = run(logits, target, weight, *rest, grad_loss)
        ref_loss, loss_size, ref_grad, grad_size = by_hand(
            logits, target, weight, *rest, grad_loss.astype(np.float64)
        )
        assert loss.dtype == grad.dtype == dtype
        # Both are computed in float64: a float32 result is rounded once, at the end.
        length = 1 if dtype == np.float32 else math.prod(shape)
        assert_within(loss, ref_loss, loss_size, length)
        assert_within(grad, ref_grad, grad_size, length)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("shape", LONG_ROWS, ids=str)
def test_long_rows(backend, rng, nan_results, shape, kind, dtype):
    for label_smoothing, reduction in ((0.0, "mean"), (0.1, "none")):
        logits, target, weight = draw(rng, shape, kind, True, dtype)
        grad_loss = rng.uniform(0.5, 2, shape[:1] if reduction == "none" else ()).astype(dtype)
        with nan_results(cross_entropy):
            loss, grad = run(logits, target, weight, label_smoothing, reduction, grad_loss)
        ref_loss, loss_size, ref_grad, grad_size = by_hand(
            logits, target, weight, label_smoothing, reduction, grad_loss.astype(np.float64)
        )
        length = 1 if dtype == np.float32 else math.prod(shape)
        assert_within(loss, ref_loss, loss_size, length)
        assert_within(grad, ref_grad, grad_size, length)


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("shape", [(41, 5), (7, 300)], ids=str)
def test_more_rows_than_a_forward_pass_has_blocks(backend, rng, monkeypatch, shape, kind):
    monkeypatch.setattr(on_cuda, "_MOST_PARTS", 3)
    logits, target, weight = draw(rng, shape, kind, weighted=True)
    loss, _ = run(logits, target, weight, 0.1, "mean")
    ref, size, _, _ = by_hand(logits, target, weight, 0.1, "mean", 1.0)
    assert_within(loss, ref, size, math.prod(shape))
    losses, _ = run(logits, target, weight, 0.1, "none")
    ref, size, _, _ = by_hand(logits, target, weight, 0.1, "none", 1.0)
    assert_within(losses, ref, size, shape[1])


@pytest.mark.parametrize("columns", [5, 300])
def test_a_kernel_gives_nan_for_a_class_that_there_is_not(backend, columns):
    """The contract looks at NumPy's classes, not at CuPy's."""
    logits, weight = np.zeros((5, columns), np.float32), np.ones(columns, np.float32)
    target, good = np.array([0, columns, -1, 2**40, IGNORED]), [0, 4]
    if backend != "emulator":
        with pytest.raises(ValueError, match="3 of 5 targets are out of range"):
            cross_entropy.forward(logits, target, weight, IGNORED, 0.0, "none")
        return
    kernel = implementation(cross_entropy.__name__, logits)
    loss, grad = np.empty(5, np.float32), np.empty_like(logits)
    lse, divisor = np.empty(5), np.ones(())
    for label_smoothing in (0.0, 0.1):
        options = (IGNORED, label_smoothing)
        kernel.forward(logits, target, weight, *options, "none", loss, lse, divisor)
        assert np.isnan(loss).tolist() == [False, True, True, True, False]
        one = np.ones((), np.float32)
        kernel.backward(one, logits, target, weight, lse, divisor, *options, grad)
        assert np.isnan(grad).any(axis=1).tolist() == [False, True, True, True, False]
        known, ref = run(logits[good], target[good], weight, label_smoothing, "none")
        assert loss[good].tobytes() == known.tobytes()
        assert grad[good].tobytes() == ref.tobytes()


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_bfloat16_is_rounded_once(backend, rng, nan_results, kind, reduction):
    operands = draw(rng, (9, 20), kind, True, ml_dtypes.bfloat16)
    if backend != "emulator":
        with pytest.raises(TypeError, match="cross_entropy: logits has dtype bfloat16"):
            run(*operands, 0.1, reduction)
        return
    with nan_results(cross_entropy):
        got = run(*operands, 0.1, reduction)
    wide = [a if a.dtype == np.int64 else a.astype(np.float64) for a in operands]
    with use_backend("numpy"):
        ref = run(*wide, 0.1, reduction)
    for array, expected in zip(got, ref, strict=True):
        assert array.dtype == ml_dtypes.bfloat16
        assert_within(array, expected, abs(expected), 1)


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradient_is_a_directional_derivative(backend, rng, kind, reduction, label_smoothing):
    logits, target, weight = draw(rng, (6, 5), kind, weighted=True)
    grad_loss = rng.standard_normal((6,) if reduction == "none" else ())
    direction = rng.standard_normal((6, 5))
    options = (label_smoothing, reduction)
    _, grad = run(logits, target, weight, *options, grad_loss)
    h = 1e-5
    ahead, behind = (run(logits + s * h * direction, target, weight, *options)[0] for s in (1, -1))
    slope = (grad_loss * (ahead - behind)).sum() / (2 * h)
    assert abs(slope - (grad * direction).sum()) <= 1e-8 * abs(grad * direction).sum()


def test_the_gradient_is_softmax_minus_one_hot(backend):
    logits = np.log(np.array([[1.0, 2.0, 5.0], [4.0, 4.0, 8.0]]))
    loss, grad = run(logits, np.array([2, 0]), None, 0.0, "sum")
    np.testing.assert_allclose(loss, -math.log(5 / 8) - math.log(1 / 4), rtol=1e-14)
    expected = [[1 / 8, 1 / 4, -3 / 8], [-3 / 4, 1 / 4, 1 / 2]]
    np.testing.assert_allclose(grad, expected, rtol=1e-14)


def test_classes_are_one_hot_probabilities(backend, rng):
    logits, target, weight = draw(rng, (9, 4), "classes", weighted=True)
    target[target == IGNORED] = 0
    one_hot = np.eye(4)[target]
    for label_smoothing in (0.0, 0.2):
        by_class = run(logits, target, weight, label_smoothing, "none")
        by_probability = run(logits, one_hot, weight, label_smoothing, "none")
        for got, ref in zip(by_class, by_probability, strict=True):
            np.testing.assert_allclose(got, ref, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_logits_give_the_logarithm_of_the_number_of_classes(backend, dtype):
    """Exactly so for logits of 0: softmax and weights are powers of 2."""
    logits = np.zeros((8, 4), dtype)
    target = np.array([0, 1, 2, 3] * 2)
    weight = np.array([1, 2, 4, 8], dtype)
    loss, grad = run(logits, target, weight, 0.0, "none")
    np.testing.assert_array_equal(loss, (weight[target] * np.log(4.0)).astype(dtype))
    expected = weight[target][:, None] * (0.25 - np.eye(4)[target])
    np.testing.assert_allclose(grad, expected, rtol=4 * np.finfo(dtype).eps)
    integers = np.arange(32).reshape(8, 4) % 5 * 1000.0  # one class has all the probability
    loss, grad = run(integers.astype(dtype), target, weight, 0.0, "none")
    best = integers.max(axis=1)
    np.testing.assert_array_equal(loss, weight[target] * (best - integers[range(8), target]))
    one_hot = integers == best[:, None]
    np.testing.assert_array_equal(
        grad, weight[target][:, None] * (1.0 * one_hot - np.eye(4)[target])
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_neither_overflow_nor_lose_the_loss(backend, dtype):
    for offset in (0, 1e4, -1e4, 2.0**23):  # float32 lse would be off by 6e-4 at 1e4
        logits = np.array([[0, 1, 2], [3, 1, 0]], dtype) + dtype(offset)
        loss, grad = run(logits, np.array([2, 1]), None, 0.0, "none")
        near = run(np.array([[0, 1, 2], [3, 1, 0]], dtype), np.array([2, 1]), None, 0.0, "none")
        tolerance = max(4 * np.finfo(dtype).eps, 4 * 2.0**-53 * abs(offset))
        np.testing.assert_allclose(loss, near[0], rtol=tolerance)
        np.testing.assert_allclose(grad, near[1], rtol=tolerance)
    most = np.finfo(dtype).max
    loss, grad = run(np.array([[most, -most, 0]], dtype), np.array([0]), None, 0.0, "sum")
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_array_equal(grad, 0)


def test_a_masked_class_has_probability_zero(backend):
    logits = np.array([[0.0, -np.inf, 0.0]] * 2)
    loss, grad = run(logits, np.array([0, 1]), None, 0.0, "none")
    np.testing.assert_allclose(loss, [math.log(2), np.inf])
    np.testing.assert_allclose(grad, [[-0.5, 0, 0.5], [0.5, -1, 0.5]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_stays_in_its_row_unless_that_is_ignored(backend, bad):
    logits = np.zeros((3, 4), np.float32)
    for column in (0, 3):
        logits[:2, column] = bad
        loss, grad = run(logits, np.array([0, IGNORED, 0]), None, 0.1, "none")
        assert np.isnan(loss[0])
        assert np.isnan(grad[0]).any()
        np.testing.assert_allclose(loss[1:], [0, math.log(4)], rtol=1e-6)
        np.testing.assert_array_equal(grad[1], 0)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_nothing_left_gives_nan_for_the_mean_and_no_gradient(backend, label_smoothing):
    logits, target = np.ones((2, 3), np.float32), np.full(2, 7)
    for reduction, expected in (("mean", np.nan), ("sum", 0), ("none", [0, 0])):
        loss, grad = run(logits, target, None, label_smoothing, reduction, ignore_index=7)
        np.testing.assert_array_equal(loss, expected)
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("target", [np.empty(0, np.int64), np.empty((0, 3), np.float32)])
@pytest.mark.parametrize(("reduction", "expected"), [("mean", np.nan), ("sum", 0), ("none", [])])
def test_an_empty_batch(backend, target, reduction, expected):
    loss, grad = run(np.empty((0, 3), np.float32), target, None, 0.1, reduction)
    np.testing.assert_array_equal(loss, np.array(expected))
    assert grad.shape == (0, 3)


def test_any_strides_give_the_same_bytes(backend, rng):
    for kind in ("classes", "probabilities"):
        logits, target, weight = draw(rng, (9, 5), kind, weighted=True)
        ref = run(logits, target, weight, 0.1, "mean")
        spread = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (logits, target, weight)]
        for arrays in (spread, [np.asfortranarray(a) for a in (logits, target, weight)]):
            got = run(*arrays, 0.1, "mean")
            assert [a.tobytes() for a in got] == [a.tobytes() for a in ref]
            assert got[1].flags.c_contiguous


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("shape", [(1001, 13), (301, 113)], ids=str)
def test_bits_depend_neither_on_threads_nor_on_addresses(rng, kind, shape):
    logits, *rest = draw(rng, shape, kind, True, np.float32)
    shifted = np.empty(logits.size + 1, np.float32)[1:].reshape(shape)
    shifted[...] = logits

    def both(logits):
        return [a.tobytes() for a in run(logits, *rest, 0.1, "mean")]

    with use_backend("numba"):
        first, *others = results_by_threads(lambda: both(logits))
        others.append(both(shifted))
    assert all(other == first for other in others)


@pytest.mark.parametrize("classes", [1, 3, 15, 16, 17, 63, 64, 65, 80, 127, 1000])
def test_a_row_does_not_see_the_others(rng, classes):
    """Rows of any number of vectors, in more than one block, whatever its neighbours are."""
    m = 40_000 // classes
    logits, target, _ = draw(rng, (m, classes), "classes", False, np.float32)
    with use_backend("numba"):
        loss, grad = run(logits, target, None, 0.0, "none")
        with use_backend("numpy"):
            ref, ref_grad = run(logits, target, None, 0.0, "none")
        np.testing.assert_allclose(loss, ref, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(grad, ref_grad, rtol=5e-6, atol=1e-7)
        for bad in (np.nan, np.inf, -np.inf):
            around = np.full_like(logits, bad)
            around[1::2] = logits[1::2]
            with np.errstate(invalid="ignore"):
                alone = run(around, target, None, 0.0, "none")
            for got, ref in zip(alone, (loss, grad), strict=True):
                assert got[1::2].tobytes() == ref[1::2].tobytes()
                assert np.isnan(got[0]).all() or target[0] == IGNORED


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_probabilities_keep_their_digits(backend, dtype):
    """Down to the smallest number that the dtype has; those of -inf are exactly 0."""
    logits = np.array([[0, -80, -100, -500, -np.inf, 0]], dtype)
    large = np.finfo(dtype).max / 4
    _, grad = run(logits, np.array([0]), None, 0.0, "sum", np.asarray(large))
    expected = np.exp(logits[0].astype(np.longdouble)) / 2 * large
    tolerance = np.finfo(dtype).smallest_subnormal * np.longdouble(large)
    assert (abs(grad[0, 1:] - expected[1:]) <= 5e-5 * expected[1:] + tolerance).all()
    assert grad[0, 1] > 0
    assert grad[0, 4] == 0


def good():
    return {
        "logits": np.zeros((2, 3), np.float32),
        "target": np.array([0, 2]),
        "weight": None,
        "ignore_index": IGNORED,
        "label_smoothing": 0.0,
        "reduction": "mean",
    }


FAULTS = {
    "class_too_large": ({"target": np.array([0, 3])}, ValueError, r"target\[1\] is 3, but .* 3 cl"),
    "class_negative": ({"target": np.array([-1, 0])}, ValueError, r"target\[0\] is -1"),
    "int32": ({"target": np.array([0, 1], np.int32)}, TypeError, "target has dtype int32"),
    "bool": ({"target": np.array([True, False])}, TypeError, "target has dtype bool"),
    "float_classes": ({"target": np.array([0.0, 1.0])}, TypeError, "target has dtype float64"),
    "int_probabilities": ({"target": np.eye(3, dtype=int)[:2]}, TypeError, "target has dtype int"),
    "probabilities_dtype": ({"target": np.eye(3)[:2]}, TypeError, "target has dtype float64"),
    "target_shape": ({"target": np.array([0])}, ValueError, r"target \(1,\) must be classes"),
    "target_list": ({"target": [0, 1]}, TypeError, "target is list, not an array"),
    "logits_int": ({"logits": np.ones((2, 3), int)}, TypeError, "logits has dtype int64"),
    "logits_axes": ({"logits": np.ones(3, np.float32)}, ValueError, r"logits must be \(M, C\)"),
    "no_classes": ({"logits": np.ones((2, 0), np.float32)}, ValueError, "with C > 0"),
    "weight_shape": ({"weight": np.ones(2, np.float32)}, ValueError, "weight has shape"),
    "weight_dtype": ({"weight": np.ones(3)}, TypeError, "weight has dtype float64"),
    "smoothing": ({"label_smoothing": 1.5}, ValueError, "label_smoothing must be between"),
    "smoothing_nan": ({"label_smoothing": math.nan}, ValueError, "label_smoothing must be"),
    "reduction": ({"reduction": "avg"}, ValueError, "reduction must be one of"),
    "ignore_index": (
        {"target": np.eye(3, dtype=np.float32)[:2], "ignore_index": 1},
        ValueError,
        "no meaning for probabilities",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_bad_input_is_an_error_and_the_next_call_is_right(backend, change, error, message):
    with pytest.raises(error, match=f"cross_entropy: .*{message}"):
        cross_entropy.forward(**good() | change)
    loss, _ = cross_entropy.forward(**good())
    np.testing.assert_allclose(loss, math.log(3), rtol=1e-6)


def test_backward_checks_the_gradient_it_is_given(backend):
    arguments = good()
    del arguments["reduction"]
    _, saved = cross_entropy.forward(**good())
    with pytest.raises(ValueError, match=r"grad_loss has shape \(3,\), expected \(\) or \(2,\)"):
        cross_entropy.backward(np.ones(3, np.float32), **arguments, saved=saved)
    with pytest.raises(TypeError, match="grad_loss has dtype float64"):
        cross_entropy.backward(np.ones(()), **arguments, saved=saved)
    grad = cross_entropy.backward(np.ones((), np.float32), **arguments, saved=saved)
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "lanes", "forward_grid", "backward_grid"),
    [
        ((0, 3), 32, 0, 0),
        ((1, 1), 32, 1, 1),
        ((9, 255), 32, 2, 2),
        ((9, 256), 256, 9, 9),
        ((2**20, 100), 32, 1024, 2**17),
        ((2**13, 2**10), 256, 1024, 2**13),
    ],
)
def test_a_warp_takes_a_short_row_and_a_block_a_long_one(
    monkeypatch, shape, lanes, forward_grid, backward_grid
):
    launches = record_launches(monkeypatch)
    logits = np.empty(shape, np.float32)
    lse, one = np.empty(shape[0]), np.ones((), np.float32)
    target = lse.view(np.int64)
    on_cuda.forward(logits, target, None, 0, 0.0, "mean", one, lse, one)
    on_cuda.backward(one, logits, target, None, lse, one, 0, 0.0, logits)
    constants = {"LANES": lanes, "STORAGE": logits.dtype}
    assert launches == [
        ("softmax_cross_entropy_forward_classes", forward_grid, constants),
        ("softmax_cross_entropy_forward_reduce", 1, {"STORAGE": logits.dtype}),
        ("softmax_cross_entropy_backward_classes", backward_grid, constants),
    ]
