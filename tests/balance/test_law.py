"""The law of any loss against its own bias gradient, sample by sample, and against the closed laws."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steelyard.balance import (
    TrainingSetup,
    binary_law,
    law,
    lgl_inr_law,
    logistic_statistics,
    mean_confusion,
    one_vs_all_law,
    softmax_law,
)
from steelyard.losses import LGLINRLoss
from steelyard.losses.functional import softmax_loss
from steelyard.weights.adjustments import batch_presence
from tests.balance.generic_losses import FUNCTIONS, WEIGHTS, cross_entropy, setups, trained
from tests.helpers import batch

SETUPS = setups()


def _rows(rows=80):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, 4, generator=generator, dtype=torch.float64) * 2
    return logits, torch.randint(4, (rows,), generator=generator)


def slow_sides(setup, logits, target, sample_weight=None):
    """Pull and push by a loop over samples: the gradient of one sample at a time."""
    pull, push, mass = torch.zeros(4).double(), torch.zeros(4).double(), 0.0
    w = torch.ones(4) if setup.class_effect is None else setup.class_effect
    for i, y in enumerate(target.tolist()):
        z = logits[i : i + 1].clone().requires_grad_()
        setup.per_sample(z, target[i : i + 1]).sum().backward()
        weight = w[y] * (1.0 if sample_weight is None else sample_weight[i])
        mass += weight
        for j in range(4):
            if j == y:
                pull[j] -= weight * z.grad[0, j]
            else:
                push[j] += weight * z.grad[0, j]
    return pull / mass, push / mass


@pytest.mark.parametrize("name", SETUPS)
def test_law_is_the_sum_of_single_gradients(name):
    logits, target = _rows()
    sample_weight = torch.rand(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for weight in (None, sample_weight):
        found = law(logits, target, SETUPS[name], sample_weight=weight)
        pull, push = slow_sides(SETUPS[name], logits, target, weight)
        torch.testing.assert_close(found.pull_up, pull, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.push_down, push, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SETUPS)
def test_law_holds_at_the_optimum_and_not_before(name):
    logits, target = trained(SETUPS[name])
    assert law(logits, target, SETUPS[name]).misfit < 1e-6
    assert law(logits / 2 + 0.3 * torch.arange(4), target, SETUPS[name]).misfit > 0.01


def test_generic_answer_equals_the_closed_laws():
    logits, target = _rows()
    soft, logistic = (mean_confusion(logits, target, link=link) for link in ("softmax", "logistic"))
    u = torch.tensor([2.0, 0.5, 3.0, 1.0])
    for loss in ("softmax", cross_entropy, nn.CrossEntropyLoss(weight=WEIGHTS)):
        _same(law(logits, target, TrainingSetup(loss, class_weights=WEIGHTS)), softmax_law(*soft, WEIGHTS))
    setup = TrainingSetup("logistic", class_weights=WEIGHTS, pos_weight=u)
    _same(law(logits, target, setup), one_vs_all_law(*logistic, WEIGHTS, pos_weight=u))
    setup = TrainingSetup("softmax", class_weights=WEIGHTS, label_smoothing=0.1)
    closed = softmax_law(*soft, WEIGHTS, label_smoothing=0.1)
    torch.testing.assert_close(law(logits, target, setup).residual, closed.residual, rtol=0, atol=1e-12)


def test_one_output_is_the_binary_law():
    logits, target = _rows()
    z, y = logits[:, 0], (target > 1).long()
    P = [z[y == k].sigmoid().mean().item() for k in (0, 1)]
    closed = binary_law(P[1], P[0], tuple(torch.bincount(y).tolist()), (0.5, 6.0))
    for loss, weights in (
        ("logistic", {"class_weights": [0.5, 6.0]}),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])), {"class_weights": [0.5, 2.0]}),
        (
            lambda t, own: F.binary_cross_entropy_with_logits(t, own.to(t), reduction="none"),
            {"class_weights": [0.5, 6.0], "targets": "binary"},
        ),
    ):
        setup = TrainingSetup(loss, **weights)
        for given in (y, y.bool(), y.double()[:, None]):
            _same_share(law(z[:, None], given, setup), closed)
        _same_share(law(z, y, setup), closed)


def test_multi_hot_outputs_are_binary_problems_over_all_samples():
    logits, _ = _rows()
    target = (torch.rand(80, 4, generator=torch.Generator().manual_seed(2)) < 0.3).double()
    u = torch.tensor([1.0, 3.0, 0.5, 8.0])
    for setup in (
        TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=u)),
        TrainingSetup("logistic", pos_weight=u, targets="multi-hot"),
    ):
        found = law(logits, target, setup)
        for j in range(4):
            own, p = target[:, j] == 1, logits[:, j].sigmoid()
            assert found.pull_up[j] == pytest.approx(float(u[j] * (1 - p[own]).sum()) / 80)
            assert found.push_down[j] == pytest.approx(float(p[~own].sum()) / 80)
    ignored = target.clone()
    ignored[:40, 1] = -100
    again = law(logits, ignored, setup)
    assert again.push_down[0] == found.push_down[0]
    half = law(logits[40:], target[40:], setup)
    assert again.push_down[1] == pytest.approx(float(half.push_down[1]))


def test_soft_targets_pull_and_push_by_sign():
    logits, target = _rows()
    mixed = 0.7 * F.one_hot(target, 4).double() + 0.3 * F.one_hot(target.roll(1), 4).double()
    for setup in (TrainingSetup(nn.CrossEntropyLoss()), TrainingSetup("logistic")):
        found = law(logits, mixed, setup)
        p = logits.softmax(1) if setup.link == "softmax" else logits.sigmoid()
        torch.testing.assert_close(found.residual, (mixed - p).mean(0), rtol=0, atol=1e-14)
        torch.testing.assert_close(found.pull_up, (mixed - p).clamp(min=0).mean(0), rtol=0, atol=1e-14)
    weighted = law(logits, mixed, TrainingSetup(nn.CrossEntropyLoss(weight=WEIGHTS)))
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(logits + bias, mixed, weight=WEIGHTS, reduction="sum").backward()
    torch.testing.assert_close(weighted.residual, -bias.grad / 80, rtol=0, atol=1e-14)
    ours = law(logits, mixed, TrainingSetup("softmax", class_weights=WEIGHTS))
    bias.grad = None
    softmax_loss(logits + bias, mixed, class_weights=WEIGHTS, reduction="sum").backward()
    torch.testing.assert_close(ours.residual, -bias.grad / 80, rtol=0, atol=1e-14)
    several = law(logits, mixed, TrainingSetup("logistic", targets="multi-hot"))
    torch.testing.assert_close(
        several.pull_up, (mixed - logits.sigmoid()).clamp(min=0).mean(0), rtol=0, atol=1e-14
    )
    with pytest.raises(ValueError, match="target must hold class labels where class weights weigh classes"):
        law(logits, mixed, TrainingSetup(nn.CrossEntropyLoss(), class_weights=WEIGHTS))


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_soft_rows_that_do_not_sum_to_1_are_refused_and_the_first_is_named(factor):
    logits, target = _rows()
    mixed = 0.4 * F.one_hot(target, 4).double() + 0.15
    mixed[7:9] *= factor
    with pytest.raises(ValueError, match=f"soft target rows must sum to 1, got {factor:g} in row 7"):
        law(logits, mixed, TrainingSetup("softmax"))


def test_the_unit_of_sample_weights_does_not_matter():
    logits, target = _rows()
    weights = torch.rand(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hot, mixed = F.one_hot(target, 4).double(), 0.5 * F.one_hot(target, 4).double() + 0.125
    for setup, given in (
        (TrainingSetup("softmax", class_weights=WEIGHTS), target),
        (TrainingSetup("softmax"), mixed),
        (TrainingSetup("logistic", targets="multi-hot"), hot),
    ):
        expected = law(logits, given, setup, sample_weight=weights)
        _same(law(logits, given, setup, sample_weight=weights * 1e-6), expected)


def test_ignored_rows_count_for_nothing_whatever_their_logits():
    logits, target = _rows()
    dirty, labels = logits.clone(), target.clone()
    labels[::7] = -100
    dirty[::7] = torch.nan
    kept = labels != -100
    for setup in (TrainingSetup("softmax", class_weights=WEIGHTS), TrainingSetup(nn.CrossEntropyLoss())):
        _same(law(dirty, labels, setup), law(logits[kept], target[kept], setup))
    other = law(logits, target.masked_fill(target == 0, 3), TrainingSetup(nn.CrossEntropyLoss(ignore_index=3)))
    assert other.pull_up[3] == 0


def test_lgl_inr_has_its_closed_law():
    logits, target = _rows()
    P, _ = mean_confusion(logits, target, link="logistic")
    setup = TrainingSetup(LGLINRLoss(beta=2.0, pos_weight=WEIGHTS.float()))
    closed = lgl_inr_law(P, beta=2.0, pos_weight=WEIGHTS.float(), statistics=logistic_statistics(logits, target))
    _same(law(logits, target, setup), closed)
    _same(law(logits, target, TrainingSetup(LGLINRLoss(beta=2.0, detach_weights=True))), lgl_inr_law(P, beta=2.0))


def test_lgl_inr_counts_classes_by_their_presence_in_batches():
    logits, target = _rows()
    P, counts = mean_confusion(logits, target, link="logistic")
    of_training = torch.tensor([400.0, 100.0, 30.0, 5.0])
    for known, expected in ((None, counts), (of_training, of_training)):
        setup = TrainingSetup(LGLINRLoss(detach_weights=True), batch_size=16, class_counts=known)
        _same(law(logits, target, setup), lgl_inr_law(P, beta=1.0, presence=batch_presence(expected, 16)))


def test_lgl_inr_adds_its_adjustment_and_leaves_out_what_is_ignored_in_any_layout():
    logits, target = _rows()
    shift, kept = torch.tensor([0.5, -1.0, 0.0, 2.0]), target != 3
    labels = target.masked_fill(~kept, -1)
    setup = TrainingSetup(LGLINRLoss(logit_adjustment=shift, ignore_index=-1))
    moved = logits + shift
    expected = law(moved[kept], target[kept], TrainingSetup(LGLINRLoss()))
    _same(law(logits, labels, setup), expected)
    _same(law(logits.reshape(8, 10, 4).movedim(2, 1), labels.reshape(8, 10), setup), expected)


def test_layout_dtype_and_inference_mode_change_nothing():
    logits, target = _rows()
    setup = TrainingSetup("softmax")
    dense = logits.reshape(8, 10, 4).movedim(2, 1)
    with torch.inference_mode():
        _same(law(dense, target.reshape(8, 10), setup), law(logits, target, setup))
    half = law(logits.half(), target, setup)
    _same(half, law(logits.half().double(), target, setup))
    assert law(logits[:0], target[:0], setup).residual.tolist() == [0] * 4


def test_any_function_reads_as_the_loss_that_it_is():
    for name, loss in FUNCTIONS.items():
        expected = "logistic" if name in ("one-vs-all", "sigmoid focal", "asymmetric") else "softmax"
        assert TrainingSetup(loss, class_counts=[4, 3, 2, 1]).link == expected


def _centred(z, y):
    return cross_entropy(z - z.mean(0), y)


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (TrainingSetup(nn.CrossEntropyLoss(), class_weights=[1.0, 2.0]), "logits must have the 2 columns"),
        (TrainingSetup(F.cross_entropy), r"one value for each sample, shape \(80,\); cross_entropy gave a scalar"),
        (TrainingSetup(lambda z, y: z), r"the function gave shape \(80, 4\), float64"),
        (TrainingSetup(_centred), "_centred must be a sum over samples, but its value for a sample depends on"),
        (TrainingSetup(nn.BCEWithLogitsLoss()), r"target must be multi-hot, of shape \(80, 4\), got \(80,\)"),
        (TrainingSetup("logistic", targets="binary"), "logits must have the 2 columns of the setup, got 4"),
    ],
)
def test_what_has_no_law_is_refused_in_one_sentence(setup, message):
    with pytest.raises(ValueError, match=message) as caught:
        law(*_rows(), setup)
    assert "\n" not in str(caught.value)


def test_bad_labels_and_weights_are_refused():
    logits, target = batch(5, 4)
    with pytest.raises(ValueError, match="labels from 0 to 3"):
        law(logits, target + 4, TrainingSetup("softmax"))
    with pytest.raises(ValueError, match=r"sample_weight must be finite and not negative, got -1.0 at position 0"):
        law(logits, target.clamp(max=3), TrainingSetup("softmax"), sample_weight=-torch.ones(len(logits)))


def _same(one, other):
    torch.testing.assert_close(one.pull_up, other.pull_up, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.push_down, other.push_down, rtol=0, atol=1e-12)


def _same_share(one, other):
    """Equal but for the unit, which counts the weights of samples and not those of positives."""
    torch.testing.assert_close(one.relative_residual, other.relative_residual, rtol=0, atol=1e-12)
    assert one.pull_up.shape == (1,)


def test_targets_may_be_arrays_and_sequences():
    logits, target = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 0, 1, -100]),
    )
    expected = law(logits, target, TrainingSetup("focal"))
    for other in (target.numpy(), target.tolist()):
        assert torch.equal(law(logits, other, TrainingSetup("focal")).pull_up, expected.pull_up)


def test_one_output_takes_the_target_in_the_shapes_of_its_logits():
    logits, target = _rows()
    setup, z, y = TrainingSetup("logistic", targets="binary"), logits[:, 0], (target > 1).long()
    expected = law(z, y, setup)
    dense = z.reshape(8, 1, 10)
    for labels in (y.reshape(8, 10), y.reshape(8, 1, 10), y.reshape(8, 10, 1), y.reshape(8, 10).double()):
        _same(law(dense, labels, setup), expected)
    with pytest.raises(ValueError, match=r"target must have shape"):
        law(z, y[:7], setup)
    with pytest.raises(ValueError, match="target must hold 0 and 1 for one output, got other numbers"):
        law(z, y + 0.5, setup)
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        law(z, y + 1, setup)


def test_the_law_holds_no_graph():
    logits, target = _rows()
    for loss in ("softmax", "lgl-inr"):
        assert not law(logits.clone().requires_grad_(), target, TrainingSetup(loss)).pull_up.requires_grad


def test_what_a_setup_has_no_place_for_is_refused():
    logits, target = _rows()
    with pytest.raises(ValueError, match="sample_weight must be None for LGL-INR"):
        law(logits, target, TrainingSetup("lgl-inr"), sample_weight=torch.ones(80))
    one = TrainingSetup(lambda z, y: F.softplus(z) - y.to(z) * z, targets="binary")
    with pytest.raises(ValueError, match="one column for a setup of binary targets, got 2"):
        law(logits[:, :2], target, one)


def test_weights_and_targets_come_in_other_containers_and_dtypes():
    logits, target = _rows()
    weights = torch.rand(80, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, setup = (
        law(logits, target, TrainingSetup("softmax"), sample_weight=weights),
        TrainingSetup("softmax"),
    )
    _same(law(logits, target.byte(), setup, sample_weight=weights.tolist()), expected)
    dense = logits.reshape(8, 10, 4).movedim(2, 1)
    _same(law(dense, target.reshape(8, 10), setup, sample_weight=weights.reshape(8, 10)), expected)
    hot, setup = F.one_hot(target, 4), TrainingSetup("logistic", targets="multi-hot")
    for other in (hot.bool(), hot.byte(), hot.float()):
        _same(law(logits, other, setup), law(logits, hot.double(), setup))


@pytest.mark.parametrize("bad", [-0.5, 1.5, float("nan")])
def test_targets_outside_of_0_to_1_are_refused(bad):
    logits, target = _rows()
    hot = F.one_hot(target, 4).double()
    hot[3, 2] = bad
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\]"):
        law(logits, hot, TrainingSetup("logistic", targets="multi-hot"))


def test_a_soft_target_has_no_entry_that_is_ignored():
    logits, target = _rows()
    soft = F.one_hot(target, 4).double()
    soft[0, (target[0] + 1) % 4] = -100.0
    with pytest.raises(ValueError, match=r"target must lie in \[0, 1\]"):
        law(logits, soft, TrainingSetup("softmax"))
