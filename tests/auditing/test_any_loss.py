"""An audit asks the stated loss's own law, whatever the loss: at its optimum the weights are seen to have acted."""

import numpy as np
import pytest
import torch
from torch import nn

from steelyard.auditing import Evidence, audit, audit_evidence
from steelyard.balance import TrainingSetup
from steelyard.losses import create_loss
from steelyard.weights import class_weights
from tests.balance.generic_losses import COUNTS, FUNCTIONS, WEIGHTS, minimise, setups, trained
from tests.helpers import COUNTS_AT_REST, at_rest

SETUPS = setups()


@pytest.mark.parametrize("name", SETUPS)
def test_at_the_optimum_the_weights_acted_and_nothing_is_wrong(name):
    setup = SETUPS[name]
    report = audit(*trained(setup), setup)
    assert report.faults == ()
    assert report.headline == "The weights acted as stated."
    assert not any(f.topic == "training" for f in report.findings)  # the logits are as large as they should be
    torch.testing.assert_close(report.implied_over_stated, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)
    assert report.numbers.power.power == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_weights_that_were_not_applied_are_found_under_any_loss(name):
    logits, target = trained(TrainingSetup(FUNCTIONS[name]))
    report = audit(logits, target, TrainingSetup(FUNCTIONS[name], class_weights=WEIGHTS))
    assert report.faults == ("weights_not_applied",)


@pytest.mark.parametrize("name", ["asymmetric", "focal", "label-aware-smoothing", "sigmoid-focal", "vs"])
@pytest.mark.parametrize(
    ("acted", "fault"),
    [
        (lambda w: w.sqrt(), "weights_at_other_strength"),
        (lambda w: w.square(), "weights_applied_twice"),
        (lambda w: w.flip(0), "weights_permuted"),
    ],
)
def test_weights_that_acted_otherwise_are_told_under_any_loss_and_are_no_other_loss(name, acted, fault):
    counts, stated = torch.tensor(COUNTS_AT_REST), class_weights(COUNTS_AT_REST, dtype=torch.float64)
    needed = {"class_counts": counts} if name in ("vs", "label-aware-smoothing") else {}
    logits, target = at_rest(create_loss(name, class_weights=acted(stated), **needed))
    assert audit(logits, target, create_loss(name, class_weights=stated, **needed)).faults == (fault,)


def _stepped(loss, rows):
    """The logits and labels of a table of inputs that its gradient under a loss has brought to rest."""
    weights = torch.ones(len(rows), dtype=torch.float64) if loss.class_weights is None else loss.class_weights
    classes = rows.shape[1]
    mass, target = rows * weights / (rows * weights).sum(1, keepdim=True), torch.arange(classes).repeat(len(rows))
    z = torch.zeros(rows.shape, dtype=torch.float64)
    for _ in range(2_000):
        each = z.repeat_interleave(classes, 0).requires_grad_()
        (gradient,) = torch.autograd.grad(loss.per_sample(each, target).sum(), each)
        z = z - (mass[:, :, None] * gradient.view(len(rows), classes, classes)).sum(1)
    return z.repeat_interleave(rows.sum(1), 0), target.repeat_interleave(rows.flatten())


@pytest.mark.parametrize(("name", "k", "factor"), [("sigmoid-focal", 1, 0.2), ("asymmetric", 3, 1 / 12)])
def test_one_class_that_weighs_otherwise_is_named_with_its_factor_under_any_loss(name, k, factor):
    stated = class_weights(COUNTS_AT_REST, dtype=torch.float64)
    acted = stated.clone()
    acted[k] *= factor
    logits, target = at_rest(create_loss(name, class_weights=acted))
    report = audit(logits, target, create_loss(name, class_weights=stated))
    assert report.faults == ("class_weight_off",)
    (item,) = report.findings[0].items
    assert item.classes == (k,)
    assert item.measures[0].value == pytest.approx(factor, rel=1e-3)


def test_weights_moved_by_one_class_are_not_one_class_that_is_off():
    stated = class_weights(COUNTS_AT_REST, dtype=torch.float64)
    logits, target = at_rest(create_loss("poly1", class_weights=stated.roll(1)))
    report = audit(logits, target, create_loss("poly1", class_weights=stated))
    assert report.faults == ("weights_permuted",)
    assert report.numbers.order.tolist() == [3, 0, 1, 2]


SEESAW = torch.tensor([[400, 60, 30, 10], [120, 90, 20, 10], [60, 30, 40, 10], [20, 20, 10, 20]])


@pytest.mark.parametrize(
    ("acted", "fault"),
    [
        (lambda w: w.reciprocal(), "weights_permuted"),
        (lambda w: w * torch.tensor([1.0, 1.0, 5.0, 1.0]), "class_weight_off"),
    ],
)
def test_weights_that_acted_otherwise_are_told_under_seesaw(acted, fault):
    counts = SEESAW.sum(0)
    stated = class_weights(counts, dtype=torch.float64)
    logits, target = _stepped(create_loss("seesaw", class_counts=counts, class_weights=acted(stated)), SEESAW)
    report = audit(logits, target, create_loss("seesaw", class_counts=counts, class_weights=stated))
    assert report.faults == (fault,)
    ratio = acted(stated) / stated
    torch.testing.assert_close(report.implied_over_stated, ratio / ratio.log().mean().exp(), rtol=1e-3, atol=0)


def test_weights_in_reverse_near_rest_are_no_other_loss():
    """L-BFGS ends before rest: the gradient of Seesaw is that of no value."""
    stated = class_weights(COUNTS_AT_REST, dtype=torch.float64)
    needed = {"class_counts": COUNTS_AT_REST}
    torch.manual_seed(0)
    logits, target = at_rest(create_loss("seesaw", class_weights=stated.flip(0), **needed))
    report = audit(logits, target, create_loss("seesaw", class_weights=stated, **needed))
    assert report.numbers.hypothesis("other order").misfit > 1e-3
    assert report.faults == ("weights_permuted",)


def test_a_loss_whose_value_training_does_not_make_least_is_not_judged_by_it():
    """Of the Seesaw loss the optimum has a larger value than the class frequencies alone, where classes mix."""
    counts = torch.tensor([[240, 90, 30], [200, 60, 90], [160, 150, 80]])  # of each of three inputs and classes
    loss = create_loss("seesaw", class_counts=counts.sum(0))
    z, target = torch.zeros(3, 3, dtype=torch.float64), torch.arange(3).repeat(3)
    for _ in range(1000):
        each = z.repeat_interleave(3, 0).requires_grad_()
        (gradient,) = torch.autograd.grad(loss.per_sample(each, target).sum(), each)
        step = (counts.double()[:, :, None] * gradient.view(3, 3, 3)).sum(1) / counts.sum(1, keepdim=True)
        z = z - step
    assert float(step.abs().max()) < 1e-12
    rows = counts.flatten()
    logits, labels = z.repeat_interleave(counts.sum(1), 0), target.repeat_interleave(rows)
    values = (
        loss.per_sample(logits, labels).mean(),
        loss.per_sample(loss.first_bias(counts.sum(0)).repeat(9, 1), target),
    )
    assert values[0] > 1.02 * (values[1] * rows).sum() / rows.sum()
    report = audit(logits, labels, TrainingSetup(loss, class_counts=counts.sum(0)))
    assert report.headline == "No fault was found."
    assert report.numbers.refit is None


def _factors(z, y):
    return nn.functional.cross_entropy(z * torch.linspace(0.5, 1, z.shape[1]).to(z), y, reduction="none")


@pytest.mark.parametrize("loss", ["vs", "cdt", _factors])
def test_probabilities_are_refused_where_they_do_not_tell_the_logits(loss):
    made = create_loss(loss, class_counts=[60, 30, 10]) if isinstance(loss, str) else loss
    setup = TrainingSetup(made, class_counts=[60, 30, 10])
    p = torch.full((9, 3), 1 / 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"probabilities do not tell the logits of the .* give the logits"):
        audit(p, torch.arange(9) % 3, setup, values="probabilities")


@pytest.mark.parametrize("name", ["ldam", "seesaw", "class-smoothing", "poly1", "focal"])
def test_probabilities_tell_the_logits_of_a_loss_that_a_shift_does_not_change(name):
    z = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = z.argmax(1)
    counts = [60, 30, 10] if name in ("ldam", "seesaw") else None
    setup = TrainingSetup(create_loss(name, class_counts=counts))
    by_logits, by_share = audit(z, target, setup), audit(z.softmax(1), target, setup, values="probabilities")
    torch.testing.assert_close(by_logits.residual.residual, by_share.residual.residual, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["focal", "poly1", "class-smoothing", "margin-softmax"])
def test_one_column_is_refused_under_a_loss_that_needs_one_for_each_class(name):
    with pytest.raises(ValueError, match=f"logits must have at least two columns for the {name} loss.*, got 1"):
        audit(torch.randn(20, 1), torch.arange(20) % 2, TrainingSetup(name))


@pytest.mark.parametrize("link", ["softmax", "logistic"])
def test_focal_is_no_softmax_of_too_small_logits(link):
    loss = create_loss("focal", gamma=2.0, link=link, class_weights=WEIGHTS)
    logits, target = trained(TrainingSetup(loss))
    report = audit(logits, target, loss)
    assert report.faults == ()
    assert report.headline == "The weights acted as stated."
    balance = next(verdict for verdict in report.verdicts if verdict.topic == "balance")
    assert balance.text.startswith("The outputs are in balance under the focal loss")
    assert not any(f.topic == "training" for f in report.findings)


@pytest.mark.parametrize(
    ("applied", "faults"),
    [
        (lambda w: w, ()),
        (torch.ones_like, ("weights_not_applied",)),
        (torch.square, ("weights_applied_twice",)),
        (lambda w: w.flip(0), ("weights_permuted",)),
    ],
)
def test_smoothing_of_torch_weighs_columns_and_is_told_exactly(applied, faults):
    def loss(w):
        return nn.CrossEntropyLoss(weight=w, label_smoothing=0.1)

    logits, target = trained(TrainingSetup(loss(applied(WEIGHTS))))
    report = audit(logits, target, loss(WEIGHTS))
    assert report.faults == faults
    ratio = applied(WEIGHTS) / WEIGHTS
    expected = ratio / ratio.log().mean().exp()
    torch.testing.assert_close(report.implied_over_stated, expected, rtol=1e-4, atol=0)


def test_smoothing_of_torch_with_an_absent_class_is_asked_of_the_gradients():
    setup = TrainingSetup(nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1))
    logits, target = trained(setup)
    kept = target != 2
    report = audit(logits[kept], target[kept], setup)
    assert report.implied_over_stated is not None
    assert report.numbers.samples[2] == 0


@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0])
def test_lgl_inr_at_its_optimum_has_no_fault(beta):
    generator = torch.Generator().manual_seed(0)
    target = torch.multinomial(COUNTS, 400, replacement=True, generator=generator)
    x = torch.randn(400, 4, generator=generator, dtype=torch.float64)
    x = x + 0.8 * torch.randn(4, 4, generator=generator, dtype=torch.float64)[target]
    loss = create_loss("lgl-inr", beta=beta)
    W = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    minimise([W, b], lambda: loss(x @ W + b, target))
    report = audit((x @ W + b).detach(), target, loss)
    assert report.faults == ()
    assert report.residual.misfit < 1e-6


# One output, and outputs that stand for themselves -----------------------------------------------------------------


def _outputs(loss, outputs=4):
    """Logits of a linear model at the optimum of a loss of several outputs, and multi-hot targets."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 5, generator=generator, dtype=torch.float64)
    V = torch.randn(5, outputs, generator=generator, dtype=torch.float64)
    noise = torch.randn(500, outputs, generator=generator, dtype=torch.float64)
    target = (x @ V - 2 + 1.5 * noise > 0).double()
    W = torch.zeros(5, outputs, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    minimise([W, b], lambda: loss(x @ W + b, target))
    return (x @ W + b).detach(), target


POSITIVE = torch.tensor([4.0, 1.5, 8.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("power", "faults"), [(1, ()), (0, ("weights_not_applied",)), (2, ("weights_applied_twice",))]
)
def test_multi_label_is_told_output_by_output(power, faults):
    logits, target = _outputs(nn.BCEWithLogitsLoss(pos_weight=POSITIVE**power))
    report = audit(logits, target, nn.BCEWithLogitsLoss(pos_weight=POSITIVE))
    assert report.faults == faults
    torch.testing.assert_close(report.implied_over_stated, POSITIVE ** (power - 1), rtol=1e-4, atol=0)
    torch.testing.assert_close(report.ledger.sum(0), report.residual.residual)
    assert report.numbers.rows == 500
    assert report.numbers.samples == tuple(target.sum(0).long().tolist())


def test_one_vs_all_of_ours_takes_multi_hot_targets_where_the_setup_says_so():
    logits, target = _outputs(nn.BCEWithLogitsLoss(pos_weight=POSITIVE))
    ours = TrainingSetup("logistic", pos_weight=POSITIVE, targets="multi-hot")
    torch.testing.assert_close(
        audit(logits, target, ours).implied_over_stated, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_ignored_entries_of_multi_hot_targets_count_for_nothing():
    logits, target = _outputs(nn.BCEWithLogitsLoss(pos_weight=POSITIVE))
    loss = nn.BCEWithLogitsLoss(pos_weight=POSITIVE)
    plain = audit(logits, target, loss)
    spoiled = torch.cat([logits, torch.full((7, 4), 3.0)])
    ignored = torch.cat([target, torch.full((7, 4), -100.0)])
    torch.testing.assert_close(audit(spoiled, ignored, loss).implied_over_stated, plain.implied_over_stated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("shape", [(500,), (500, 1)])
def test_one_output_takes_zeros_and_ones_of_any_dtype(dtype, shape):
    u = torch.tensor([5.0], dtype=torch.float64)
    logits, target = _outputs(nn.BCEWithLogitsLoss(pos_weight=u), outputs=1)
    report = audit(logits.reshape(shape), target.reshape(shape).to(dtype), nn.BCEWithLogitsLoss(pos_weight=u))
    assert report.faults == ()
    assert report.implied_over_stated.tolist() == pytest.approx([1, 1], rel=1e-4)


def test_focal_of_one_output():
    loss = create_loss("focal", link="logistic", class_weights=torch.tensor([1.0, 4.0], dtype=torch.float64))
    logits, target = _outputs(lambda z, y: loss(z, y[:, 0].long()), outputs=1)
    report = audit(logits, target[:, 0].long(), loss)
    assert report.faults == ()
    assert report.implied_over_stated.tolist() == pytest.approx([1, 1], rel=1e-4)


# Layouts ------------------------------------------------------------------------------------------------------------


def test_arrays_and_sequences_are_accepted():
    logits, target = trained(SETUPS["softmax"], rows=50)
    expected = audit(logits, target, SETUPS["softmax"]).mean_confusion
    for z, y in ((logits.numpy(), target.numpy()), (logits.tolist(), target.tolist())):
        torch.testing.assert_close(audit(z, y, SETUPS["softmax"]).mean_confusion, expected)


@pytest.mark.parametrize("name", ["focal", "our softmax", "softmax"])
def test_classes_may_stand_last(name):
    logits, target = trained(SETUPS[name], rows=60)
    one = audit(logits, target, SETUPS[name])
    last = audit(logits.reshape(20, 3, 4), target.reshape(20, 3), SETUPS[name], class_dim=-1)
    middle = audit(logits.reshape(20, 3, 4).movedim(-1, 1), target.reshape(20, 3), SETUPS[name])
    for other in (last, middle):
        torch.testing.assert_close(other.residual.residual, one.residual.residual)


def test_labels_of_minus_hundred_are_left_out_even_with_bad_logits():
    logits, target = trained(SETUPS["focal"], rows=60)
    z = torch.cat([logits, torch.full((3, 4), torch.nan)])
    y = torch.cat([target, torch.full((3,), -100)])
    torch.testing.assert_close(
        audit(z, y, SETUPS["focal"]).residual.residual, audit(logits, target, SETUPS["focal"]).residual.residual
    )


def test_a_stream_gives_what_the_whole_gives_under_any_loss():
    logits, target = trained(SETUPS["focal"])
    evidence = Evidence(4, SETUPS["focal"])
    for z, y in zip(logits.split(37), target.split(37), strict=True):
        evidence.update(z, y)
    whole = audit(logits, target, SETUPS["focal"])
    streamed = audit_evidence(evidence)
    torch.testing.assert_close(streamed.residual.residual, whole.residual.residual, rtol=1e-9, atol=1e-12)
    assert streamed.faults == whole.faults


def test_names_and_counts_of_the_setup_are_used():
    logits, target = trained(SETUPS["softmax"], rows=60)
    counts = torch.bincount(target, minlength=4)
    setup = TrainingSetup("softmax", class_names=list("abcd"), class_counts=10 * counts)
    report = audit(logits, target, setup)
    assert report.numbers.names == ("a", "b", "c", "d")
    assert report.numbers.class_counts.tolist() == (10 * counts).tolist()


@pytest.mark.parametrize(
    ("logits", "target", "loss", "message"),
    [
        (torch.randn(6, 3), torch.zeros(6, dtype=torch.long), nn.BCEWithLogitsLoss(), r"target must be multi-hot, of shape \(6, 3\)"),
        (torch.randn(6, 3), torch.full((6, 3), 0.5), nn.BCEWithLogitsLoss(), "must hold 0, 1 or -100"),
        (torch.randn(6, 1), torch.full((6,), 2), "logistic", "must hold 0, 1 or -100"),
        (torch.randn(6, 3), torch.zeros(6, 3), nn.BCEWithLogitsLoss(pos_weight=torch.ones(4)), r"pos_weight must have shape \(3,\)"),
        (torch.randn(6, 3), np.array(["a"] * 6), "softmax", "target must hold numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(logits, target, loss, message):
    with pytest.raises((ValueError, TypeError), match=message):
        audit(logits, target, loss)


@pytest.mark.parametrize(
    ("power", "faults"), [(1, ()), (0, ("weights_not_applied",)), (2, ("weights_applied_twice",))]
)
def test_sigmoid_focal_of_several_labels_is_told_by_its_own_law(power, faults):
    def loss(u):
        return create_loss("focal", link="logistic", gamma=2.0, pos_weight=u)

    logits, target = _outputs(loss(POSITIVE**power))
    report = audit(logits, target, TrainingSetup(loss(POSITIVE), targets="multi-hot"))
    assert report.faults == faults
    torch.testing.assert_close(report.implied_over_stated, POSITIVE ** (power - 1), rtol=1e-4, atol=0)


def test_ignored_rows_are_not_counted():
    logits, target = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    ignored = torch.where(torch.arange(50) < 10, -100, target)
    assert audit(logits, ignored, "softmax").numbers.rows == 40
    logits[12, 0] = torch.nan
    with pytest.raises(ValueError, match="got 1 of 40 rows with NaN or infinite numbers, the first at row 12"):
        audit(logits, ignored, "softmax")
