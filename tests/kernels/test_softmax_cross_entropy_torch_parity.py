"""softmax_cross_entropy against torch.nn.functional.cross_entropy, option by option."""

import numpy as np
import pytest

from convolt.kernels import softmax_cross_entropy as cross_entropy

torch = pytest.importorskip("torch")

CLASSES = {  # for 6 rows of 5 classes
    "all": [0, 1, 2, 3, 4, 0],
    "some_ignored": [0, -100, 2, 3, -100, 0],
    "all_ignored": [-100] * 6,
}


def compare(logits, target, weight, ignore_index, label_smoothing, reduction, rng):
    t_logits = torch.tensor(logits, requires_grad=True)
    t_loss = torch.nn.functional.cross_entropy(
        t_logits,
        torch.tensor(target),
        None if weight is None else torch.tensor(weight),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    grad_loss = np.asarray(rng.uniform(0.5, 2, tuple(t_loss.shape)))
    t_loss.backward(torch.tensor(grad_loss))
    options = (ignore_index, label_smoothing)
    loss, saved = cross_entropy.forward(logits, target, weight, *options, reduction)
    grad = cross_entropy.backward(grad_loss, logits, target, weight, saved, *options)
    np.testing.assert_allclose(loss, t_loss.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(grad, t_logits.grad.numpy(), rtol=1e-11, atol=1e-14)


options = pytest.mark.parametrize(
    ("reduction", "label_smoothing", "weight"),
    [
        (reduction, label_smoothing, weight)
        for reduction in ("none", "mean", "sum")
        for label_smoothing in (0.0, 0.1, 1.0)
        for weight in (None, [0.5, 1.0, 2.0, 0.25, 3.0], [0.0, 1.0, 0.0, 2.0, 0.0])
    ],
    ids=str,
)


@options
@pytest.mark.parametrize("target", CLASSES.values(), ids=CLASSES.keys())
def test_classes(backend, rng, target, reduction, label_smoothing, weight):
    logits = rng.standard_normal((6, 5)) * 4
    weight = None if weight is None else np.array(weight)
    compare(logits, np.array(target), weight, -100, label_smoothing, reduction, rng)


@options
@pytest.mark.parametrize("distribution", [True, False])
def test_probabilities(backend, rng, distribution, reduction, label_smoothing, weight):
    logits, target = rng.standard_normal((6, 5)) * 4, rng.uniform(0, 1, (6, 5))
    if distribution:
        target /= target.sum(axis=1, keepdims=True)
    weight = None if weight is None else np.array(weight)
    compare(logits, target, weight, -100, label_smoothing, reduction, rng)


@pytest.mark.parametrize("ignore_index", [-1, 2, 99])
def test_ignore_index_may_be_any_integer(backend, rng, ignore_index):
    target = np.array([0, ignore_index, 1, 2, 4, ignore_index])
    compare(rng.standard_normal((6, 5)), target, None, ignore_index, 0.1, "mean", rng)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("target", [np.empty(0, np.int64), np.empty((0, 5))], ids=["c", "p"])
def test_empty_batch(backend, rng, target, reduction):
    compare(np.empty((0, 5)), target, None, -100, 0.1, reduction, rng)


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_infinite_and_huge_logits(backend, rng, kind, label_smoothing):
    logits = rng.standard_normal((6, 5))
    logits[0, 1], logits[1, 1], logits[2], logits[3, 0] = -np.inf, -np.inf, -np.inf, np.inf
    logits[4], logits[5, 2] = logits[4] * 1e6, 1e300
    target = np.array([0, 1, 2, 3, 4, 0])
    target = np.eye(5)[target] if kind == "probabilities" else target
    compare(logits, target, None, -100, label_smoothing, "none", rng)


@pytest.mark.parametrize("target", [5, -1, -101, 2**40])
def test_a_class_out_of_range_is_an_error_in_both(backend, target):
    logits, classes = np.zeros((2, 5)), np.array([0, target])
    with pytest.raises(ValueError, match=rf"target\[1\] is {target}"):
        cross_entropy.forward(logits, classes, None, -100, 0.0, "mean")
    with pytest.raises(IndexError, match="out of bounds"):
        torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(classes))
