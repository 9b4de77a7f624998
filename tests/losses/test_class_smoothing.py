"""What is particular to label smoothing by class: published values, its targets, laws and posterior."""

import json
from pathlib import Path

import pytest
import torch

from steelyard import TrainingSetup, audit, create_loss, log_posterior
from steelyard.balance import GradientLedger, implied_weights, law
from steelyard.forecasting import fit_head
from steelyard.losses import ClassSmoothingLoss
from steelyard.losses.functional import class_smoothing_loss, softmax_loss
from steelyard.weights import label_aware_smoothing
from tests.helpers import assert_nan, batch, linear_data, value_and_grad, weights_of
from tests.oracles import class_smoothing as oracle

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/label_aware_smoothing.json").read_text())
SMOOTHING = torch.tensor([0.4, 0.2, 0.0, 0.1], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)


def test_matches_the_authors_code():
    made = label_aware_smoothing(VECTOR["counts"], head=VECTOR["smooth_head"], tail=VECTOR["smooth_tail"])
    torch.testing.assert_close(made, torch.tensor(VECTOR["smooth"]))
    smooth = torch.tensor(VECTOR["smooth"], dtype=torch.float64)
    logits, target = torch.tensor(VECTOR["logits"], dtype=torch.float64), torch.tensor(VECTOR["target"])
    loss, gradient = value_and_grad(class_smoothing_loss, logits, target, class_smoothing=smooth)
    torch.testing.assert_close(loss, torch.tensor(VECTOR["loss"], dtype=torch.float64), rtol=1e-12, atol=0)
    expected = torch.tensor(VECTOR["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_oracle(dtype, scale):
    logits, target = batch(12, 4, scale, dtype)
    options = weights_of("class-smoothing", 4, dtype=dtype) | {"class_smoothing": SMOOTHING.to(dtype)}
    options["logit_adjustment"] = torch.zeros(4, dtype=dtype)  # whose sum with a large logit is rounded
    loss, gradient = value_and_grad(class_smoothing_loss, logits, target, **options)
    exact = {key: value.double() for key, value in options.items()}
    expected, expected_gradient = value_and_grad(oracle, logits.double(), target, **exact)
    close = {"rtol": 1e-12, "atol": 1e-15} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(loss.double(), expected, **close)
    torch.testing.assert_close(gradient.double(), expected_gradient, **close)


def test_one_size_for_all_is_label_smoothing():
    logits, target = batch(6, 4)
    sizes = torch.full((4,), 0.2, dtype=torch.float64)
    for given in (target, torch.softmax(logits.flip(0), 1)):
        expected = softmax_loss(logits, given, label_smoothing=0.2)
        torch.testing.assert_close(class_smoothing_loss(logits, given, class_smoothing=sizes), expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_soft_and_smoothed_targets_mix_the_losses_of_labels(epsilon):
    logits, soft = batch(6, 4)[0], torch.softmax(batch(6, 4, seed=3)[0], 1)
    options = {"class_smoothing": SMOOTHING, "class_weights": WEIGHTS, "reduction": "none"}
    plain = {key: value for key, value in options.items() if key != "class_weights"}
    each = torch.stack([class_smoothing_loss(logits, torch.full((6,), k), **plain) for k in range(4)], 1)
    weighted = soft * WEIGHTS
    mixed = (1 - epsilon) * weighted + epsilon / 4 * weighted.sum(1, keepdim=True)
    loss = class_smoothing_loss(logits, soft, label_smoothing=epsilon, **options)
    torch.testing.assert_close(loss, (mixed * each).sum(1))
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = (1 - epsilon) * each.gather(1, target[:, None])[:, 0] + epsilon * each.mean(1)
    torch.testing.assert_close(class_smoothing_loss(logits, target, label_smoothing=epsilon, **plain), expected)


def test_a_class_without_smoothing_may_have_another_logit_of_minus_infinity():
    logits = torch.tensor([[1.0, 0.0, -torch.inf]])
    smoothing = torch.tensor([0.0, 0.1, 0.1])
    assert class_smoothing_loss(logits, [0], class_smoothing=smoothing).isfinite()
    assert class_smoothing_loss(logits, [1], class_smoothing=smoothing) == torch.inf


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_law_weights_and_audit_of_a_model_at_its_optimum(weights):
    features, target = linear_data()
    loss = ClassSmoothingLoss(class_smoothing=SMOOTHING, class_weights=weights).double()
    logits = fit_head(features, target, loss=loss, weight_decay=0.01).logits(features)
    setup = TrainingSetup(loss)
    assert law(logits, target, setup).misfit < 1e-6
    assert law(logits, target, TrainingSetup("softmax", class_weights=weights)).misfit > 1e-3
    ledger = GradientLedger(setup, 4)
    ledger.update(logits, target)
    ratio = implied_weights(ledger).ratio_to(torch.ones(4, dtype=torch.float64) if weights is None else weights)
    torch.testing.assert_close(ratio, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)
    assert audit(logits, target, setup).faults == ()


def test_posterior_is_what_was_smoothed():
    posterior = torch.softmax(batch(8, 4, 1.5)[0], 1)
    smoothed = torch.diag(1 - SMOOTHING) + SMOOTHING[:, None] / 4
    p = (posterior * WEIGHTS) @ smoothed
    logits = (p / p.sum(1, keepdim=True)).log()
    setup = TrainingSetup(ClassSmoothingLoss(class_smoothing=SMOOTHING, class_weights=WEIGHTS).double())
    torch.testing.assert_close(log_posterior(logits, setup).exp(), posterior, rtol=1e-9, atol=1e-12)


def test_a_row_below_the_smoothing_mass_is_no_optimum():
    setup = TrainingSetup(ClassSmoothingLoss(class_smoothing=[0.4, 0.4, 0.4]))
    with pytest.warns(UserWarning, match="1 of 1 rows have no posterior that is not negative"):
        assert_nan(log_posterior(torch.tensor([[9.0, 0.0, 0.0]]), setup))


def test_the_preset_is_made_of_counts():
    loss = create_loss("label-aware-smoothing", class_counts=[900, 300, 100])
    assert torch.equal(loss.class_smoothing, label_aware_smoothing([900, 300, 100]))
    with pytest.raises(ValueError, match=r"class_counts must differ.*got 5 for every class"):
        label_aware_smoothing([5, 5, 5])
    with pytest.raises(ValueError, match=r"head must be a finite number in \[0, 1\], got 1\.5"):
        label_aware_smoothing([5, 4], head=1.5)


def test_sizes_out_of_range_are_refused_by_module_and_function():
    with pytest.raises(ValueError, match=r"class_smoothing must lie in \[0, 1\], got 1\.5 at position 1"):
        ClassSmoothingLoss(class_smoothing=[0.0, 1.5])
    with pytest.raises(ValueError, match=r"class_smoothing must lie in \[0, 1\], got 1\.5 at position 1"):
        class_smoothing_loss(torch.zeros(1, 2), [0], class_smoothing=torch.tensor([0.0, 1.5]))
    with pytest.raises(ValueError, match=r"class_smoothing must have shape \(3,\), got \(2,\)"):
        class_smoothing_loss(torch.zeros(1, 3), [0], class_smoothing=torch.tensor([0.0, 0.5]))
