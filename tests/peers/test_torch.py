"""torch's expectations against ours, and where we differ on purpose."""

import pytest
import torch
from torch.nn import functional as F

from steelyard.losses.functional import logistic_loss, softmax_loss
from tests.helpers import batch, value_and_grad

WEIGHT = torch.tensor([0.5, 4.0, 1.0, 2.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_softmax_loss_is_cross_entropy(reduction, weight, ignore_index):
    logits, target = batch(30)
    options = {"reduction": reduction, "ignore_index": ignore_index}
    ours = softmax_loss(logits, target, class_weights=weight, **options)
    theirs = F.cross_entropy(logits, target, weight=weight, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_softmax_loss_of_soft_targets_is_cross_entropy(weight, label_smoothing):
    logits, _ = batch(30)
    soft = torch.softmax(batch(30, seed=3)[0], 1)
    options = {"class_weights": weight, "label_smoothing": label_smoothing, "normalization": "count"}
    if weight is not None and label_smoothing:  # torch weighs the smoothing mass by class: see the docs
        theirs = (1 - label_smoothing) * F.cross_entropy(logits, soft, weight=weight)
        uniform = F.cross_entropy(logits, torch.full_like(soft, 1 / 5), reduction="none")
        theirs = theirs + label_smoothing * ((soft @ weight) * uniform).mean()
    else:
        theirs = F.cross_entropy(logits, soft, weight=weight, label_smoothing=label_smoothing)
    torch.testing.assert_close(softmax_loss(logits, soft, **options), theirs, rtol=1e-13, atol=0)


@pytest.mark.parametrize("ignored", [False, True])
def test_multi_label_logistic_loss_is_binary_cross_entropy_times_k(ignored):
    logits, _ = batch(30)
    target = (batch(30, seed=3)[0] > 0).double()
    options = {"weight": WEIGHT, "pos_weight": WEIGHT.flip(0)}
    theirs = 5 * F.binary_cross_entropy_with_logits(logits, target, reduction="none", **options)
    ours_options = {"output_weights": WEIGHT, "pos_weight": WEIGHT.flip(0)}
    if ignored:
        target[::3, 1] = -100
        theirs = theirs.masked_fill(target == -100, 0.0)
    ours = logistic_loss(logits, target, **ours_options)
    torch.testing.assert_close(ours, theirs.mean(), rtol=1e-13, atol=0)
    torch.testing.assert_close(logistic_loss(logits, target.long(), **ours_options), ours, rtol=1e-14, atol=0)


def test_softmax_loss_is_cross_entropy_under_plain_label_smoothing():
    logits, target = batch(30)
    ours = softmax_loss(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(ours, F.cross_entropy(logits, target, label_smoothing=0.1), rtol=1e-14, atol=0)


def test_all_ignored_is_zero_where_torch_gives_nan():
    logits, target = batch()[0], torch.full((12,), -100)
    assert F.cross_entropy(logits, target).isnan()
    assert softmax_loss(logits, target) == 0


def test_logistic_loss_is_binary_cross_entropy_on_one_hot_labels_times_k():
    logits, target = batch(30)
    one_hot = F.one_hot(target, 5).double()
    options = {"weight": WEIGHT, "pos_weight": WEIGHT.flip(0)}
    ours = {"output_weights": WEIGHT, "pos_weight": WEIGHT.flip(0)}
    expected, expected_grad = value_and_grad(
        lambda z, t: 5 * F.binary_cross_entropy_with_logits(z, t, **options), logits, one_hot
    )
    loss, grad = value_and_grad(logistic_loss, logits, target, **ours)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-16)


def test_binary_logistic_loss_is_binary_cross_entropy():
    logits, target = batch(30, 1)[0], torch.arange(30) % 3 // 2
    options = {"pos_weight": torch.tensor([3.0], dtype=torch.float64)}
    ours = logistic_loss(logits, target, **options)
    theirs = F.binary_cross_entropy_with_logits(logits[:, 0], target.double(), **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
