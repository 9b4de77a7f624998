"""What is particular to the softmax loss: its normalisations and its label smoothing."""

import pytest
import torch
from torch.nn import functional as F

from steelyard.losses.functional import softmax_loss
from tests.helpers import batch, value_and_grad
from tests.oracles import softmax

WEIGHT = torch.tensor([0.5, 4.0, 1.0, 2.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("normalization", ["weights", "count", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_equals_the_oracle(normalization, label_smoothing, weight):
    logits, target = batch()
    options = {"normalization": normalization, "label_smoothing": label_smoothing, "class_weights": weight}
    expected, expected_grad = value_and_grad(softmax, logits, target, **options)
    loss, grad = value_and_grad(softmax_loss, logits, target, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-16)


def test_default_mean_cancels_the_weight_of_a_single_sample_and_count_does_not():
    logits, target = batch(1)
    plain = softmax_loss(logits, target)
    assert softmax_loss(logits, target, class_weights=WEIGHT) == plain
    weighted = softmax_loss(logits, target, class_weights=WEIGHT, normalization="count")
    torch.testing.assert_close(weighted, plain * WEIGHT[target[0]])


def test_accumulated_micro_batches_equal_the_batch_under_count_but_not_under_weights():
    logits, target = batch(12)
    for normalization, equal in [("count", True), ("weights", False)]:
        whole = softmax_loss(logits, target, class_weights=WEIGHT, normalization=normalization)
        halves = [
            softmax_loss(logits[rows], target[rows], class_weights=WEIGHT, normalization=normalization)
            for rows in (slice(0, 6), slice(6, 12))
        ]
        assert torch.isclose(sum(halves) / 2, whole, rtol=1e-12).item() is equal


def _best_logits(loss):
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-13, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(logits)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach().softmax(1)


def test_weights_do_not_move_the_optimum_under_label_smoothing():
    target, weight = torch.tensor([0, 1]), torch.tensor([1.0, 20.0, 5.0], dtype=torch.float64)
    smoothed = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], dtype=torch.float64)
    ours = _best_logits(lambda z: softmax_loss(z, target, class_weights=weight, label_smoothing=0.3))
    torch.testing.assert_close(ours, smoothed, rtol=0, atol=1e-6)
    theirs = _best_logits(lambda z: F.cross_entropy(z, target, weight=weight, label_smoothing=0.3))
    assert (theirs[0] - smoothed[0]).abs().max() > 0.3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be a finite number in \[0, 1\], got 1.5"),
        ({"label_smoothing": "0.1"}, TypeError, "label_smoothing must be a number, got str"),
        ({"normalization": "batch"}, ValueError, "normalization must be one of 'weights', 'count', 'none', got"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        softmax_loss(*batch(), **options)


def test_a_label_that_torch_ignores_is_not_ignored_here():
    """Unvalidated, -100 is out of range like any other, unless it is the `ignore_index`."""
    with pytest.raises(IndexError):
        softmax_loss(torch.zeros(2, 3), torch.tensor([0, -100]), ignore_index=255, validate=False)
