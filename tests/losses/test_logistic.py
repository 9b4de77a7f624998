"""What is particular to the logistic loss: the binary case, its three kinds of weights, its memory."""

import pytest
import torch
from torch.nn import functional as F

from steelyard.losses.functional import logistic_loss
from tests.helpers import batch, value_and_grad, weights_of
from tests.oracles import logistic


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e4])
@pytest.mark.parametrize("normalization", ["weights", "count", "none"])
def test_binary_equals_the_oracle(scale, normalization):
    logits = batch(9, 1, scale)[0]
    target = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, -100])
    options = {
        "output_weights": torch.tensor([0.7]),
        "pos_weight": torch.tensor([3.0]),
        "class_weights": torch.tensor([0.5, 2.0]),
        "normalization": normalization,
    }
    expected, expected_grad = value_and_grad(
        logistic, logits, target, **{k: v.double() if k != "normalization" else v for k, v in options.items()}
    )
    loss, grad = value_and_grad(logistic_loss, logits, target, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-16)


def test_binary_takes_bool_targets():
    logits, target = batch(6, 1)[0], torch.tensor([True, False, True, True, False, False])
    assert torch.equal(logistic_loss(logits, target), logistic_loss(logits, target.long()))
    with pytest.raises(TypeError, match="integer dtype, got bool"):
        logistic_loss(batch(6, 3)[0], target)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("flat_logits", [False, True])
@pytest.mark.parametrize("flat_target", [False, True])
def test_binary_takes_the_usual_forms_of_torch(dtype, flat_logits, flat_target):
    logits, target = batch(6, 1)[0], torch.tensor([1, 0, 1, 1, 0, 0])
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], target.double())
    z = logits[:, 0] if flat_logits else logits
    y = target if flat_target or flat_logits else target[:, None]
    torch.testing.assert_close(logistic_loss(z, y.to(dtype)), expected, rtol=1e-14, atol=0)


def test_binary_label_two_is_refused():
    with pytest.raises(ValueError, match="labels from 0 to 1 or ignore_index -100, got 2 at position 1"):
        logistic_loss(torch.zeros(2, 1), torch.tensor([0, 2]))


def test_weights_reach_what_they_name():
    """weight: an output; pos_weight: its positives; class_weights: all outputs of the class's samples."""
    logits, target = batch()
    _, plain = value_and_grad(logistic_loss, logits, target, reduction="sum")
    twice = torch.ones(5, dtype=torch.float64)
    twice[2] = 2
    own = torch.zeros_like(plain, dtype=torch.bool)
    own[torch.arange(12), target] = True
    reached = {
        "output_weights": torch.zeros_like(own).index_fill_(1, torch.tensor([2]), True),
        "pos_weight": own & (target == 2)[:, None],
        "class_weights": (target == 2)[:, None].expand_as(own),
    }
    for option, where in reached.items():
        _, grad = value_and_grad(logistic_loss, logits, target, reduction="sum", **{option: twice})
        torch.testing.assert_close(grad, torch.where(where, 2 * plain, plain), rtol=1e-14, atol=0)


def test_nan_in_ignored_rows_reaches_nothing():
    logits, target = batch()
    target[3] = -100
    expected, expected_grad = value_and_grad(logistic_loss, logits, target, **weights_of("logistic", 5))
    logits[3] = torch.nan
    loss, grad = value_and_grad(logistic_loss, logits, target, **weights_of("logistic", 5))
    assert torch.equal(loss, expected)
    assert torch.equal(grad, expected_grad)


def test_first_loss_of_many_outputs_is_k_log_2():
    loss = logistic_loss(torch.zeros(4, 1000, dtype=torch.float64), torch.arange(4))
    torch.testing.assert_close(loss, torch.tensor(1000 * 0.6931471805599453, dtype=torch.float64))
