"""Refitted heads: at the optimum, where the laws hold exactly, and what is guaranteed of it."""

import json

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from steelyard import TrainingSetup
from steelyard.auditing import audit
from steelyard.balance import implied_weights, law, mean_confusion, one_vs_all_law, softmax_law
from steelyard.forecasting import binary_ratio, fit_head, forecast

WEIGHTS = torch.tensor([1.0, 5.0, 0.3, 2.0], dtype=torch.float64)


def _data(classes=4, rows=400, dimensions=6, seed=0):
    """Overlapping classes, with one constant and one repeated feature."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.logspace(0, -1, classes)
    target = torch.multinomial(share, rows, replacement=True, generator=generator)
    centres = torch.randn(classes, dimensions, generator=generator)
    features = centres[target] + 1.5 * torch.randn(rows, dimensions, generator=generator)
    return torch.cat([features, torch.ones(rows, 1), 3 * features[:, :1]], 1), target


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
@pytest.mark.parametrize("decay", [0.0, 5e-4, 0.1])
def test_laws_hold_at_the_optimum(loss, decay):
    features, target = _data()
    head = fit_head(features, target, loss=loss, class_weights=WEIGHTS, weight_decay=decay)
    assert head.gradient <= 1e-8
    P, counts = mean_confusion(head.logits(features), target, link=loss)
    closed = softmax_law if loss == "softmax" else one_vs_all_law
    assert closed(P, counts, WEIGHTS).relative_residual.abs().max() <= 1e-6
    if loss == "softmax":
        ratio = implied_weights(P, counts).ratio_to(WEIGHTS)
        torch.testing.assert_close(ratio, torch.ones(4, dtype=torch.float64), rtol=1e-3, atol=0)
    report = audit(head.logits(features), target, TrainingSetup(loss, class_weights=WEIGHTS))
    assert report.faults == ()
    assert report.numbers.power.power == pytest.approx(1, abs=0.026)


@pytest.mark.parametrize(
    "setup",
    [
        TrainingSetup("focal", class_weights=WEIGHTS),
        TrainingSetup("focal", class_weights=WEIGHTS, options={"link": "logistic", "gamma": 1.0}),
        TrainingSetup("softmax", class_weights=WEIGHTS, label_smoothing=0.1),
        TrainingSetup(torch.nn.CrossEntropyLoss(weight=WEIGHTS.float(), label_smoothing=0.1)),
        TrainingSetup("logistic", pos_weight=[1.0, 2.0, 3.0, 0.5]),
        TrainingSetup("softmax", logit_adjustment=[0.0, -1.0, 2.0, 0.5]),
        TrainingSetup(lambda z, y: (z.softmax(1) - torch.eye(4, dtype=z.dtype)[y]).square().sum(1)),
    ],
    ids=lambda setup: setup.text,
)
def test_heads_of_any_loss_are_at_its_optimum(setup):
    features, target = _data()
    head = fit_head(features, target, loss=setup, weight_decay=0.01)
    assert head.gradient <= 1e-8
    balance = law(head.logits(features), target, setup)
    torch.testing.assert_close(balance.residual, torch.zeros_like(balance.residual), rtol=0, atol=1e-7)
    assert float(balance.pull_up.min()) > 1e-3, "a law of nothing would hold too"


def test_a_batch_loss_has_no_head_of_its_own():
    features, target = _data()
    with pytest.raises(ValueError, match="loss must be a sum over samples for a head to be refitted, got lgl-inr"):
        fit_head(features, target, loss="lgl-inr")
    hinge = TrainingSetup(lambda z, y: torch.nn.functional.multi_margin_loss(z, y, reduction="none"))
    with pytest.raises(
        ValueError, match="loss must be differentiable twice for a head to be refitted, the function"
    ):
        fit_head(features, target, loss=hinge)
    weighted = TrainingSetup("focal", class_weights=WEIGHTS)
    with pytest.raises(ValueError, match="class_weights must be stated once"):
        fit_head(features, target, loss=weighted, class_weights=WEIGHTS)
    with pytest.raises(ValueError, match="class_weights must be stated once"):
        forecast(features, target, loss=weighted, class_weights={"none": None})


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_binary_law_from_weights_of_a_hundredth_to_a_hundred(loss, weight):
    features, target = _data(classes=2)
    w = torch.tensor([1.0, weight], dtype=torch.float64)
    P, counts = mean_confusion(
        fit_head(features, target, loss=loss, class_weights=w).logits(features), target, link=loss
    )
    ratio = binary_ratio((int(counts[0]), int(counts[1])), (1.0, weight))
    assert float(P[0, 1] / (1 - P[1, 1])) / ratio == pytest.approx(1, abs=1e-6)


def test_head_is_that_of_scikit_learn():
    features, target = _data()
    decay, total = 0.01, float(WEIGHTS[target].sum())
    theirs = LogisticRegression(C=1 / (decay * total), solver="newton-cholesky", tol=1e-12)
    theirs.fit(features.double().numpy(), target.numpy(), sample_weight=WEIGHTS[target].numpy())
    head = fit_head(features, target, class_weights=WEIGHTS, weight_decay=decay)
    torch.testing.assert_close(
        head.logits(features).softmax(1),
        torch.tensor(theirs.predict_proba(features.double().numpy())),
        rtol=0,
        atol=1e-6,
    )


def test_a_class_never_loses_by_its_own_weight():
    """Raised alone, all else in the objective the same: a sum, whose normalisation goes into the decay."""
    features, target = _data()
    for k in range(4):
        losses = []
        for factor in (0.1, 1.0, 3.0, 30.0):
            w = WEIGHTS.clone()
            w[k] *= factor
            total = float(w[target].sum())
            head = fit_head(features, target, class_weights=w, weight_decay=2.0 / total)
            own = torch.nn.functional.cross_entropy(head.logits(features[target == k]), target[target == k])
            losses.append(float(own))
        assert losses == sorted(losses, reverse=True)


def test_separable_samples_without_decay_have_no_optimum():
    target = torch.arange(20) % 2
    with pytest.raises(ArithmeticError, match="samples that can be separated have no optimum"):
        fit_head(target[:, None].double(), target, weight_decay=0.0, max_steps=300)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
def test_forecast_on_held_out_samples(loss):
    features, target = _data(rows=600)
    weightings = {"none": None, "inverse": 1 / torch.bincount(target).double()}
    test = (features[300:], target[300:])
    found = forecast(features[:300], target[:300], class_weights=weightings, loss=loss, test=test)
    assert [f.name for f in found] == ["none", "inverse"]
    for one in found:
        assert one.held_out
        assert one.balance.misfit < 1e-6
        head = fit_head(features[:300], target[:300], loss=loss, class_weights=one.class_weights)
        taken = head.logits(test[0]).argmax(1)
        recall = [(taken[test[1] == k] == k).double().mean().item() for k in range(4)]
        precision = [(test[1][taken == k] == k).double().mean().item() for k in range(4)]
        assert one.recall.tolist() == pytest.approx(recall)
        assert one.precision.tolist() == pytest.approx(precision, nan_ok=True)
        json.dumps(one.to_dict(), allow_nan=False)
    assert found[1].recall[3] >= found[0].recall[3]
    flattered = forecast(features[:300], target[:300], class_weights=weightings, loss=loss)
    assert not flattered[0].held_out
    taken = fit_head(features[:300], target[:300], loss=loss).logits(features[:300]).argmax(1)
    assert flattered[0].accuracy == pytest.approx((taken == target[:300]).double().mean().item())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.ones(3, 2)}, ValueError, r"target must have shape \(3,\)"),
        ({"features": torch.ones(5, 2, dtype=torch.long)}, TypeError, "features must be a floating tensor"),
        ({"features": torch.ones(5)}, ValueError, r"features must have shape \(N, D\) with N >= 1, got \(5,\)"),
        ({"features": torch.full((5, 2), torch.nan)}, ValueError, "features must be finite, got row 0"),
        ({"target": torch.tensor([0, 1, 2, -1, 0])}, ValueError, "labels from 0 to 2"),
        ({"class_weights": torch.ones(2)}, ValueError, r"class_weights must have shape \(3,\), got \(2,\)"),
        ({"loss": "hinge"}, ValueError, "unknown loss 'hinge'"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be a finite number"),
    ],
)
def test_bad_input(change, error, message):
    given = {"features": torch.ones(5, 2), "target": torch.tensor([0, 1, 2, 1, 0]), "loss": "softmax"} | change
    with pytest.raises(error, match=message):
        fit_head(**given)


def test_forecast_refuses():
    features, target = _data()
    with pytest.raises(ValueError, match="class_weights must name at least one weighting, got none"):
        forecast(features, target, class_weights={})
    with pytest.raises(ValueError, match="test must have 8 features as training has, got 3"):
        forecast(features, target, class_weights={"none": None}, test=(torch.ones(2, 3), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="class_weights must be a finite number >= 1e-300"):
        binary_ratio((10, 10), (0.0, 1.0))
