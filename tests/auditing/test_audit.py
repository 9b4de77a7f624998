"""The audit finds faults that were planted in real trainings, and says nothing of those that were not."""

import dataclasses
import functools
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.auditing import Evidence, audit, audit_evidence
from steelyard.balance import TrainingSetup
from steelyard.data import exponential, load_dataset, subsample
from steelyard.losses import LGLINRLoss, LogisticLoss, SoftmaxLoss
from steelyard.losses.functional import logistic_loss, softmax_loss
from steelyard.training import Recipe, SmallCNN, fit, predict
from steelyard.weights.class_weights import class_weights
from tests.helpers import COUNTS, WEIGHTS, assert_finite, fit_linear

# Small networks on imbalanced digits, as stochastic gradient descent leaves them -----------------------------------


@functools.cache
def _digits():
    data = load_dataset("digits")
    chosen = subsample(data.train_target, exponential(50), seed=1)
    return data.inputs("train", chosen), data.train_target[chosen]


def _trained(tmp_path, loss, epochs=40, balanced_sampler=False):
    """Logits of the training samples after a training whose loss gets the inverse weights."""
    images, target = _digits()
    counts = torch.bincount(target)
    drawn = torch.arange(len(target))
    if balanced_sampler:  # as many of each class, with repetition
        generator = torch.Generator().manual_seed(1)
        drawn = torch.multinomial(1 / counts[target].double(), len(target), replacement=True, generator=generator)
    torch.manual_seed(1)
    network = SmallCNN(images, 10)
    part = images[drawn], target[drawn]
    recipe = Recipe(epochs, 32, 0.03)
    fit(network, loss(class_weights(counts)), part, part, recipe, seed=1, checkpoint=tmp_path / "last.ckpt")
    return predict(network, images), target


def _said(report, topic):
    return next(verdict for verdict in report.verdicts if verdict.topic == topic)


def test_training_as_stated_has_no_fault(tmp_path):
    logits, target = _trained(tmp_path, lambda w: SoftmaxLoss(class_weights=w))
    report = audit(logits, target, TrainingSetup("softmax", class_weights=class_weights(torch.bincount(target))))
    assert report.faults == ()
    assert _said(report, "balance").text.startswith("The outputs are in balance")
    assert report.headline == "The weights acted as stated."
    assert abs(report.numbers.power.power - 1) < 0.3


def test_weights_passed_but_not_applied(tmp_path):
    logits, target = _trained(tmp_path, lambda w: SoftmaxLoss())
    report = audit(logits, target, TrainingSetup("softmax", class_weights=class_weights(torch.bincount(target))))
    assert report.faults == ("weights_not_applied",)
    assert abs(report.numbers.power.power) < 0.3
    assert _said(report, "weights").high < 0.7


def test_weights_applied_in_sampler_and_loss(tmp_path):
    logits, target = _trained(tmp_path, lambda w: SoftmaxLoss(class_weights=w), balanced_sampler=True)
    report = audit(logits, target, TrainingSetup("softmax", class_weights=class_weights(torch.bincount(target))))
    assert report.faults == ("weights_applied_twice",)
    assert report.numbers.power.power > 1.5
    # and said to be used, both are seen to count the class frequencies twice
    inverse = class_weights(torch.bincount(target))
    report = audit(logits, target, TrainingSetup("softmax", class_weights=inverse, sampler_weights=inverse))
    assert "counted_twice" in report.faults
    assert "2.00 together" in _said(report, "double counting").text


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_weights_in_the_wrong_class_order(tmp_path, order):
    moved = torch.arange(9, -1, -1)
    if order == "shuffled":
        moved = torch.randperm(10, generator=torch.Generator().manual_seed(5))
    logits, target = _trained(tmp_path, lambda w: SoftmaxLoss(class_weights=w[moved]))
    report = audit(logits, target, TrainingSetup("softmax", class_weights=class_weights(torch.bincount(target))))
    assert report.faults == ("weights_permuted",)
    assert (report.numbers.order == moved).sum() >= 8
    assert report.numbers.hypothesis("other order").misfit < 0.15
    named = re.findall(r"class (\d) has the weight of class (\d)", _said(report, "weights").text)
    assert len(named) == 3
    assert all(int(report.numbers.order[int(k)]) == int(other) for k, other in named)


@pytest.mark.parametrize("weighted", [True, False])
def test_training_stopped_far_too_early(tmp_path, weighted):
    """After one epoch the outputs are in balance already, for what is learned first are the class frequencies."""
    logits, target = _trained(tmp_path, lambda w: SoftmaxLoss(class_weights=w if weighted else None), epochs=1)
    weights = class_weights(torch.bincount(target)) if weighted else None
    report = audit(logits, target, TrainingSetup("softmax", class_weights=weights))
    assert report.faults == ("undertrained",)
    assert report.headline.startswith("The model has learned little")
    assert not any(finding.topic == "weights" for finding in report.findings)
    assert report.numbers.refit.shifted_loss - report.numbers.refit.best_loss > 0.3


def test_softmax_audited_as_logistic_and_the_other_way_round(tmp_path):
    logits, target = _trained(tmp_path, lambda w: SoftmaxLoss(class_weights=w))
    weights = class_weights(torch.bincount(target))
    assert audit(logits, target, TrainingSetup("logistic", class_weights=weights)).faults == ("wrong_loss",)
    logits, target = _trained(tmp_path, lambda w: LogisticLoss())
    assert audit(logits, target, "softmax").faults == ("wrong_loss",)
    right = audit(logits, target, "logistic")
    assert right.faults == ()
    assert right.implied_weights is None
    torch.testing.assert_close(right.numbers.implied_pos_weight.log().median().exp().item(), 1.0, atol=0.3, rtol=0)
    stated = audit(logits, target, TrainingSetup("logistic", class_weights=weights))
    assert stated.faults == ("weights_not_applied",)


def test_lgl_inr_is_told_from_one_vs_all(tmp_path):
    logits, target = _trained(tmp_path, lambda w: LGLINRLoss())
    assert audit(logits, target, "logistic").faults == ("wrong_loss",)
    report = audit(logits, target, TrainingSetup("lgl-inr", options={"beta": 1.0}))
    assert "wrong_loss" not in report.faults
    assert "LGL-INR" in _said(report, "balance").text


# Linear models at the exact optimum ---------------------------------------------------------------------------------


def _optimum(weight=WEIGHTS):
    logits, target, _, _ = fit_linear(lambda z, y: softmax_loss(z, y, class_weights=weight), weight_decay=0.01)
    return logits, target


def test_at_the_optimum_all_is_exact():
    logits, target = _optimum()
    report = audit(logits, target, TrainingSetup("softmax", class_weights=WEIGHTS))
    assert report.residual.misfit < 1e-8
    assert report.numbers.power.power == pytest.approx(1, abs=1e-5)
    assert report.groups == ((0, 1, 2, 3),)
    torch.testing.assert_close(
        report.implied_weights.ratio_to(WEIGHTS), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(report.ledger.sum(0), report.residual.residual)
    assert report.faults == ()
    assert_finite(report.implied_weights.log_error)


def test_hypotheses_without_weights_and_twice_at_their_optima():
    for power, name in ((0, "no weights"), (2, "twice")):
        logits, target = _optimum(WEIGHTS**power)
        report = audit(logits, target, TrainingSetup("softmax", class_weights=WEIGHTS))
        assert report.numbers.hypothesis(name).misfit < 1e-7
        assert report.residual.misfit > 0.05
        assert report.numbers.power.power == pytest.approx(power, abs=1e-4)


def test_parts_of_the_statement_multiply():
    """Class weights, a sampler and a shift of the logits are one weight: their product."""
    logits, target = _optimum()
    halves = WEIGHTS.sqrt()
    report = audit(logits, target, TrainingSetup("softmax", class_weights=halves, sampler_weights=halves))
    assert report.residual.misfit < 1e-8
    assert report.numbers.hypothesis("only the sampler").misfit > 0.05
    report = audit(logits, target, TrainingSetup("softmax", class_weights=halves, logit_shift=halves.log()))
    assert report.residual.misfit < 1e-8


def test_positive_weights_of_one_vs_all():
    logits, target, _, _ = fit_linear(lambda z, y: logistic_loss(z, y, pos_weight=WEIGHTS), weight_decay=0.001)
    report = audit(logits, target, TrainingSetup("logistic", pos_weight=WEIGHTS))
    assert report.residual.misfit < 1e-8
    torch.testing.assert_close(report.numbers.implied_pos_weight, WEIGHTS, rtol=1e-6, atol=0)
    assert report.numbers.power.power == pytest.approx(1)
    assert (
        "weights_not_applied"
        in audit(_plain_one_vs_all(), target, TrainingSetup("logistic", pos_weight=WEIGHTS)).faults
    )


def _plain_one_vs_all():
    return fit_linear(logistic_loss, weight_decay=0.001)[0]


@pytest.mark.parametrize("shape", [(100, 1), (100,)])
def test_one_binary_output_is_the_softmax_of_two(shape):
    w = torch.tensor([1.0, 7.0], dtype=torch.float64)
    logits, target, _, _ = fit_linear(lambda z, y: logistic_loss(z, y, class_weights=w), outputs=1)
    assert logits.shape == (100, 1)
    report = audit(logits.reshape(shape), target, TrainingSetup("logistic", class_weights=w))
    assert report.residual.misfit < 1e-8
    assert "binary logistic loss" in _said(report, "balance").text
    assert report.implied_weights.ratio_to(w).tolist() == pytest.approx([1, 1], rel=1e-6)
    assert report.numbers.power.power == pytest.approx(1, abs=1e-6)
    as_pos_weight = audit(logits.reshape(shape), target, TrainingSetup("logistic", pos_weight=w[1:]))
    assert as_pos_weight.residual.misfit < 1e-8
    probabilities = audit(
        logits.sigmoid(), target, TrainingSetup("logistic", class_weights=w), values="probabilities"
    )
    assert probabilities.residual.misfit < 1e-8


# What it makes of the samples ---------------------------------------------------------------------------------------


def _random(rows=400, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (rows,), generator=generator)
    return 2 * torch.eye(classes)[target] + torch.randn(rows, classes, generator=generator), target


def test_a_stream_gives_what_the_whole_gives():
    logits, target = _random()
    evidence = Evidence(5, TrainingSetup("softmax", class_weights=torch.arange(1.0, 6)))
    for z, y in zip(logits.split(37), target.split(37), strict=True):
        evidence.update(z, y)
    streamed = audit_evidence(evidence)
    whole = audit(logits, target, TrainingSetup("softmax", class_weights=torch.arange(1.0, 6)))
    torch.testing.assert_close(streamed.mean_confusion, whole.mean_confusion)
    assert streamed.residual.misfit == pytest.approx(whole.residual.misfit)
    assert streamed.numbers.refit.best_loss == pytest.approx(whole.numbers.refit.best_loss, rel=1e-5)
    assert streamed.faults == whole.faults


def test_the_sample_for_refitting_is_random_and_bounded():
    evidence = Evidence(5)
    evidence._kept = 50
    for _ in range(10):
        evidence.update(*_random())
    logits, target = evidence.sample
    assert logits.shape == (50, 5)
    assert len(torch.unique(target)) == 5


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_order_of_classes_and_shifts_of_rows_do_not_matter(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, target = _random(seed=seed)
    weights = torch.rand(5, generator=generator) + 0.2
    order = torch.randperm(5, generator=generator)
    one = audit(logits.double(), target, TrainingSetup("softmax", class_weights=weights))
    moved = torch.empty(5, dtype=torch.long)
    moved[order] = torch.arange(5)
    shifted = logits.double()[:, order] + torch.randn(len(target), 1, generator=generator)
    other = audit(shifted, moved[target], TrainingSetup("softmax", class_weights=weights[order]))
    torch.testing.assert_close(other.residual.residual, one.residual.residual[order])
    torch.testing.assert_close(other.implied_weights.weights, one.implied_weights.weights[order])
    error = one.numbers.power.standard_error  # which folds make of other samples when the classes change places
    assert other.numbers.power.power == pytest.approx(one.numbers.power.power, abs=error)


def test_report_is_frozen_and_plain():
    logits, target = _random()
    target[target == 3] = 2
    target[0] = -100
    report = audit(logits, target, "softmax", class_names=["a", "b", "c", "d", "e"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.verdicts = ()
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["class_names"] == ["a", "b", "c", "d", "e"]
    assert json.loads(text)["implied_weights"]["weights"][3] is None
    assert 'Some classes have no samples here, so nothing is said of them: "d".' in _said(report, "data").text
    assert not any("nan" in verdict.text.lower().split() for verdict in report.verdicts)
    for verdict in report.verdicts:
        if verdict.low is not None:
            assert verdict.low <= verdict.value <= verdict.high


def test_classes_that_are_never_confused_are_named_as_groups():
    logits, target = _random(600, 4)
    blocks = torch.tensor([[0.0, 0, -60, -60]] * 2 + [[-60, -60, 0, 0]] * 2)
    report = audit(
        logits + blocks[target], target, TrainingSetup("softmax", class_weights=torch.tensor([1.0, 2, 30, 40]))
    )
    assert sorted(report.groups) == [(0, 1), (2, 3)]
    assert "2 groups between which weights have no effect" in _said(report, "groups").text


def test_a_class_of_one_sample_has_no_interval():
    logits, target = _random()
    target = torch.where(target == 4, 3, target)
    target[0] = 4
    report = audit(logits, target, "softmax")
    assert "one sample only" in _said(report, "data").text
    assert not math.isfinite(report.implied_weights.log_error[4])


def test_counts_of_training_may_differ_from_the_samples():
    logits, target = _optimum()
    counts = 10 * COUNTS
    same = audit(logits, target, TrainingSetup("softmax", class_weights=WEIGHTS), class_counts=counts)
    assert same.residual.misfit < 1e-8
    other = audit(
        logits, target, TrainingSetup("softmax", class_weights=WEIGHTS), class_counts=torch.tensor([1, 9, 9, 9])
    )
    assert other.residual.misfit > 0.1


def test_probabilities_are_noticed_and_accepted_when_said():
    logits, target = _random()
    p = logits.softmax(1)
    with pytest.raises(ValueError, match=r"logits look like probabilities: all lie in \[0, 1\] and sum to 1"):
        audit(p, target, "softmax")
    one = audit(p, target, "softmax", values="probabilities")
    torch.testing.assert_close(one.mean_confusion, audit(logits, target, "softmax").mean_confusion)
    s = logits.sigmoid()
    with pytest.raises(ValueError, match=r"logits look like probabilities: all lie in \[0, 1\]"):
        audit(s, target, "logistic")
    one = audit(s, target, "logistic", values="probabilities")
    expected = audit(logits, target, "logistic").mean_confusion
    torch.testing.assert_close(one.mean_confusion, expected, rtol=1e-5, atol=1e-7)
    hard = torch.eye(5)[target]
    assert math.isfinite(audit(hard, target, "softmax", values="probabilities").residual.misfit)


def test_invalid_rows_are_counted_and_refused_or_dropped():
    logits, target = _random()
    logits[7, 2], logits[30, 0], logits[31, 1] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(ValueError, match="got 3 of 400 rows with NaN or infinite numbers, the first at row 7"):
        audit(logits, target, "softmax")
    report = audit(logits, target, "softmax", drop_invalid=True)
    assert "3 of 400 rows with NaN or infinite numbers were left out" in _said(report, "data").text


@pytest.mark.slow
@pytest.mark.parametrize("link", ["softmax", "logistic"])
def test_many_classes(link):
    logits, target = _random(3000, 300)
    report = audit(logits, target, TrainingSetup(link, class_weights=torch.linspace(1, 5, 300)))
    assert len(report.numbers.trades) <= 10
    assert all(len(verdict.text) < 900 for verdict in report.verdicts)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": torch.zeros(3, dtype=torch.long)}, ValueError, "same length, got 400 and 3"),
        ({"target": torch.full((400,), 5)}, ValueError, "labels from 0 to 4"),
        ({"target": torch.full((400,), -1)}, ValueError, "labels from 0 to 4 or ignore_index -100, got -1"),
        ({"target": torch.zeros(400, 5)}, ValueError, r'must hold class labels.*targets="multi-hot"'),
        ({"setup": "probit"}, ValueError, "unknown loss 'probit'"),
        ({"values": "odds"}, ValueError, "values must be one of 'logits', 'probabilities', got 'odds'"),
        ({"class_dim": 2}, ValueError, "class_dim must be 1 or -1, got 2"),
        ({"setup": TrainingSetup("softmax", class_weights=torch.ones(4))}, ValueError, r"class_weights must have shape \(5,\) for logits of 5 columns, got \(4,\)"),
        ({"setup": TrainingSetup("softmax", class_weights=torch.zeros(5))}, ValueError, "class_weights must be positive to be audited, got 0"),
        ({"class_counts": torch.tensor([1, 2, -3, 4, 5])}, ValueError, "class_counts must be finite and not negative, got -3.0"),
        ({"class_names": ["a"]}, ValueError, "class_names must be 5 names, got 1"),
        ({"logits": torch.zeros(0, 5), "target": torch.zeros(0, dtype=torch.long)}, ValueError, "at least one row"),
        ({"logits": "softmax"}, TypeError, "logits must be a tensor, an array or a sequence of numbers, got str"),
        ({"logits": [[1.0], [1.0, 2.0]]}, ValueError, "logits must have rows of one length"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    logits, target = _random()
    arguments = {"logits": logits, "target": target, "setup": "softmax"} | change
    with pytest.raises(error, match=message):
        audit(**arguments)
