"""Refitted heads: at the optimum, where the laws hold exactly, and what is guaranteed of it."""

import json

import pytest
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import multiclass_calibration_error

from steelyard import TrainingSetup
from steelyard._common.folds import stratified_folds
from steelyard._common.intervals import wilson
from steelyard.auditing import audit
from steelyard.balance import implied_weights, law, mean_confusion, one_vs_all_law, softmax_law
from steelyard.forecasting import binary_ratio, fit_head, forecast
from steelyard.forecasting.scores import judge

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
        assert one.folds is None
        assert one.balance.misfit < 1e-6
        head = fit_head(features[:300], target[:300], loss=loss, class_weights=one.class_weights)
        taken = head.logits(test[0]).argmax(1)
        recall = [(taken[test[1] == k] == k).double().mean().item() for k in range(4)]
        precision = [(test[1][taken == k] == k).double().mean().item() for k in range(4)]
        assert one.recall.tolist() == pytest.approx(recall)
        assert one.precision.tolist() == pytest.approx(precision, nan_ok=True)
        json.dumps(one.to_dict(), allow_nan=False)
    assert found[1].recall[3] >= found[0].recall[3]
    plain = fit_head(features[:300], target[:300], loss=loss).logits(test[0])
    shifted = (plain + found[1].class_weights.log()).argmax(1)
    assert found[1].shift.accuracy == pytest.approx((shifted == test[1]).double().mean().item())
    assert found[1].no_change.accuracy == found[0].accuracy
    assert found[0].shift is found[0].no_change


def test_out_of_fold_no_head_is_judged_by_its_own_samples():
    features, target = _data(rows=200)
    w = {"inverse": 1 / torch.bincount(target).double()}
    one = forecast(features, target, class_weights=w, folds=4, seed=3)[0]
    fold = stratified_folds(target, 4, seed=3)
    taken, shifted = torch.empty_like(target), torch.empty_like(target)
    for part in range(4):
        inside = fold == part
        for weights, into in ((w["inverse"], taken), (None, shifted)):
            head = fit_head(features[~inside], target[~inside], class_weights=weights)
            z = head.logits(features[inside])
            into[inside] = (z if weights is not None else z + w["inverse"].log()).argmax(1)
    assert one.folds == 4
    assert one.accuracy == pytest.approx((taken == target).double().mean().item())
    assert one.shift.accuracy == pytest.approx((shifted == target).double().mean().item())
    assert one.features_per_sample == pytest.approx(8 / 200)
    assert one.features_per_rarest == pytest.approx(8 / int(torch.bincount(target).min()))


def test_folds_have_their_share_of_each_class():
    labels = torch.tensor([0] * 17 + [1] * 5 + [2] * 2)
    fold = stratified_folds(labels, 4, seed=0)
    assert sorted(torch.bincount(fold).tolist()) == [6, 6, 6, 6]
    for k in range(3):
        sizes = torch.bincount(fold[labels == k], minlength=4)
        assert int(sizes.max() - sizes.min()) <= 1
    assert not torch.equal(fold, stratified_folds(labels, 4, seed=1))


def test_multi_hot_heads_are_binary_heads_of_their_own():
    features, target = _data(rows=300)
    Y = torch.stack([target == 0, (target == 1) | (features[:, 0] > 1)], 1).double()
    up = torch.tensor([3.0, 0.5], dtype=torch.float64)
    plain, found = forecast(
        features, Y, pos_weight={"none": None, "up": up}, loss="logistic", test=(features, Y), weight_decay=0.01
    )
    for j in range(2):
        one = TrainingSetup("logistic", targets="binary", pos_weight=up[j : j + 1])
        z = fit_head(features, Y[:, j], loss=one, weight_decay=0.01).logits(features)[:, 0]
        own = Y[:, j] == 1
        assert found.recall[j].item() == pytest.approx((z[own] > 0).double().mean().item())
        assert found.mean_confusion[1, j].item() == pytest.approx(z[own].sigmoid().mean().item(), abs=1e-6)
        miss, false = 1 - found.mean_confusion[1, j], found.mean_confusion[0, j]  # the law of a binary problem
        ratio = float(up[j] * own.sum() / (~own).sum())
        assert float(false / miss) == pytest.approx(ratio, rel=1e-5)
    both = torch.nn.functional.binary_cross_entropy_with_logits(
        fit_head(features, Y, loss="logistic", weight_decay=0.01).logits(features), Y
    )
    assert plain.nll == pytest.approx(both.item())
    assert found.class_weights is None
    out_of_fold = forecast(features, Y, pos_weight={"up": up}, loss="logistic")[0]
    assert 0 < out_of_fold.accuracy < 1
    json.dumps(out_of_fold.to_dict(), allow_nan=False)
    with pytest.raises(ValueError, match="class_weights must be None for a multi-hot target"):
        forecast(features, Y, class_weights={"w": up}, loss="logistic")
    with pytest.raises(ValueError, match="targets of softmax must be labels"):
        forecast(features, Y, pos_weight={"up": up})


@pytest.mark.parametrize("loss", [torch.nn.BCEWithLogitsLoss(), TrainingSetup("logistic", targets="binary")])
def test_one_output_is_the_difference_of_two(loss):
    features, target = _data(classes=2, rows=300)
    w = torch.tensor([1.0, 4.0], dtype=torch.float64)
    found = forecast(
        features, target, class_weights={"w": w}, loss=loss, test=(features, target), weight_decay=0.0
    )
    two = forecast(
        features, target, class_weights={"w": w}, loss="softmax", test=(features, target), weight_decay=0.0
    )
    for one, other in ((found[0], two[0]), (found[0].shift, two[0].shift)):
        torch.testing.assert_close(one.recall, other.recall)
        assert one.nll == pytest.approx(other.nll, abs=1e-6)
    positive = forecast(features, target, pos_weight={"w": torch.tensor([4.0])}, loss=loss, weight_decay=0.0)
    assert positive[0].recall.tolist() == pytest.approx(
        forecast(features, target, class_weights={"w": w}, loss=loss, weight_decay=0.0)[0].recall.tolist()
    )


def test_wilson_and_calibration_are_those_of_others():
    p = torch.distributions.Dirichlet(torch.ones(3)).sample((500,)).double()
    target = torch.arange(500) % 3
    found = judge(p.log(), target, "softmax")
    theirs = multiclass_calibration_error(p, target, num_classes=3, n_bins=15, norm="l1")
    assert found.ece == pytest.approx(theirs.item(), abs=1e-6)
    for hits, rows in ((0, 5), (3, 7), (20, 20)):
        theirs = binomtest(hits, rows).proportion_ci(method="wilson")
        assert wilson(torch.tensor(hits / rows, dtype=torch.float64), rows).tolist() == pytest.approx(
            [theirs.low, theirs.high]
        )


@pytest.mark.slow
def test_intervals_cover():
    """Rows drawn again, the logits' rule the same; 600 draws: standard error of a coverage of 0.95 is 0.009."""
    generator = torch.Generator().manual_seed(0)
    prior, means = torch.tensor([0.8, 0.15, 0.05]), 1.5 * torch.eye(3)

    def draw(rows):
        y = torch.multinomial(prior, rows, replacement=True, generator=generator)
        x = means[y] + torch.randn(rows, 3, generator=generator)
        return 2.5 * (x @ means.T).double(), y  # overconfident

    truth = judge(*draw(1_000_000), "softmax")
    covered = dict.fromkeys(truth.intervals, 0.0)
    for _ in range(600):
        found = judge(*draw(300), "softmax").intervals
        for key, ends in found.items():
            value = torch.as_tensor(getattr(truth, key), dtype=torch.float64)
            covered[key] += float(((ends[..., 0] <= value) & (value <= ends[..., 1])).double().mean()) / 600
    for key in ("accuracy", "balanced_accuracy", "nll", "recall", "precision"):
        assert 0.92 <= covered[key] <= 0.98, (key, covered)
    assert covered["ece"] >= 0.93, covered  # its interval is at most too wide


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
    weightings = {"none": None}
    with pytest.raises(ValueError, match="exactly one of class_weights and pos_weight must be given"):
        forecast(features, target)
    with pytest.raises(ValueError, match="folds are for a forecast without held-out samples, got 3 beside test"):
        forecast(features, target, class_weights=weightings, folds=3, test=(features, target))
    with pytest.raises(ValueError, match="folds must lie between 2 and the number of rows, 400, got 1"):
        forecast(features, target, class_weights=weightings, folds=1)
    alone = torch.cat([target[:-1].clamp(max=2), torch.tensor([3])])
    with pytest.raises(
        ValueError, match="two samples or more of each class to be judged out of fold, got 1 of class 3"
    ):
        forecast(features, alone, class_weights=weightings)
    with pytest.raises(ValueError, match="pos_weight needs a loss given by name"):
        forecast(features, target, pos_weight={"up": 2 * torch.ones(4)}, loss=lambda z, y: z.square().sum(1))
    with pytest.raises(ValueError, match="class_weights must name at least one weighting, got none"):
        forecast(features, target, class_weights={})
    with pytest.raises(ValueError, match="test must have 8 features as training has, got 3"):
        forecast(features, target, class_weights={"none": None}, test=(torch.ones(2, 3), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="class_weights must be a finite number >= 1e-300"):
        binary_ratio((10, 10), (0.0, 1.0))
