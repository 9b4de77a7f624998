"""What is stated of a training is used, or refused: nothing falls under the table."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steelyard import TrainingSetup, audit, log_posterior
from steelyard.balance import GradientLedger, implied_pos_weight, law
from steelyard.forecasting.head import fit_head
from steelyard.losses import create_loss
from steelyard.losses.softmax import SoftmaxLoss

Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 1, 1, 0])


@pytest.mark.parametrize("loss", ["logistic", nn.BCEWithLogitsLoss()])
def test_one_logit_takes_one_shift(loss):
    logits = torch.tensor([0.0, 2.0])
    for shift in ([1.5], [0.0, 1.5]):
        setup = TrainingSetup(loss, targets="binary", logit_shift=shift)
        torch.testing.assert_close(log_posterior(logits, setup), logits - 1.5)


@pytest.mark.parametrize("option", ["class_weights", "sampler_weights"])
def test_the_posterior_of_multi_hot_outputs_refuses_weights_of_classes(option):
    setup = TrainingSetup("logistic", targets="multi-hot", **{option: [1.0, 5.0, 2.0]})
    with pytest.raises(ValueError, match="setup must weigh no classes for multi-hot targets"):
        log_posterior(Z, setup)


@pytest.mark.parametrize("loss", ["softmax", nn.CrossEntropyLoss(), "focal", "lgl-inr"])
@pytest.mark.parametrize("targets", ["multi-hot", "binary"])
def test_outputs_that_do_not_stand_for_themselves_have_labels_only(loss, targets):
    with pytest.raises(ValueError, match=r"targets of .* must be labels"):
        TrainingSetup(loss, targets=targets)


def test_lgl_inr_has_no_class_weights():
    with pytest.raises(ValueError, match="class_weights must be None for lgl-inr"):
        TrainingSetup("lgl-inr", class_weights=[1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("row", "message"),
    [([1.0, 1.0, 0.0], "soft target rows must sum to 1, got 2 in row 0"), ([-100.0] * 3, r"lie in \[0, 1\]")],
)
def test_the_law_refuses_soft_targets_that_the_loss_refuses(row, message):
    target = torch.tensor([row] * 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        law(Z, target, TrainingSetup("softmax"))


@pytest.mark.parametrize(
    "loss",
    [create_loss("logistic", output_weights=[1.0, 5.0, 0.2]), nn.BCEWithLogitsLoss(torch.tensor([1.0, 5.0, 0.2]))],
)
def test_a_refitted_head_knows_the_weights_of_outputs(loss):
    head = fit_head(Z, Y, loss=loss, weight_decay=0.1)
    W, b = head.weight.clone().requires_grad_(), head.bias
    own = F.one_hot(Y, 3).double()
    each = F.binary_cross_entropy_with_logits(Z @ W.T + b, own, reduction="none")
    ((each @ torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64)).mean() + 0.05 * W.square().sum()).backward()
    torch.testing.assert_close(W.grad, torch.zeros_like(W), rtol=0, atol=1e-6)


def test_torchs_binary_loss_of_class_labels_is_one_vs_all():
    u = torch.tensor([1.0, 3.0, 0.5])
    theirs = TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=u), targets="labels")
    ours = TrainingSetup("logistic", pos_weight=u)
    torch.testing.assert_close(law(Z, Y, theirs).residual, law(Z, Y, ours).residual)
    head = [fit_head(Z, Y, loss=setup, weight_decay=0.1).weight for setup in (theirs, ours)]
    torch.testing.assert_close(*head, rtol=0, atol=1e-6)


def test_torchs_binary_loss_of_another_size_is_refused():
    with pytest.raises(ValueError, match="output_weights must have 3 values, one an output, got 5"):
        law(Z, torch.ones(6, 3), TrainingSetup(nn.BCEWithLogitsLoss(torch.ones(5))))


def test_a_function_of_one_output_gets_the_target_that_torchs_losses_take():
    def loss(z, y):
        return F.binary_cross_entropy_with_logits(z, y, reduction="none")

    balance = law(Z[:, 0], Y > 0, TrainingSetup(loss, targets="binary"))
    torch.testing.assert_close(balance.residual, law(Z[:, 0], Y > 0, TrainingSetup("logistic")).residual)


@pytest.mark.parametrize("loss", [lambda z, y: torch.zeros(len(z)), lambda z, y: z.detach()[:, 0]])
def test_a_function_without_a_gradient_is_refused(loss):
    with pytest.raises(ValueError, match="loss must depend on the logits and be differentiable in them"):
        law(Z, Y, TrainingSetup(loss))


@pytest.mark.parametrize(
    "loss", [nn.MultiMarginLoss(reduction="none"), lambda z, y: -z.gather(1, y[:, None])[:, 0]]
)
def test_a_loss_of_straight_pieces_has_no_posterior(loss):
    with pytest.raises(ValueError, match="has no posterior: its gradient does not change with the logits"):
        log_posterior(Z, TrainingSetup(loss))


@pytest.mark.parametrize(("name", "gamma"), [("focal", 0.3), ("focal", 2.0), ("sigmoid-focal", 2.0)])
def test_the_posterior_of_sure_float32_logits_is_that_of_float64(name, gamma):
    logits = torch.tensor([[20.0, 0.0, 0.0], [0.0, 30.0, 29.0], [-110.0, 3.0, 1.0]])
    setup = TrainingSetup(name, options={"gamma": gamma})
    torch.testing.assert_close(log_posterior(logits, setup), log_posterior(logits.double(), setup).float())


def test_the_focal_posterior_of_masked_logits_is_0():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    found = log_posterior(logits, TrainingSetup("focal")).exp()
    torch.testing.assert_close(found[:, :2], log_posterior(logits[:, :2], TrainingSetup("focal")).exp())
    assert found[0, 2] == 0


class FocalFromTorch(nn.CrossEntropyLoss):
    """A formula of its own under the name of torch's class."""

    def forward(self, z, y):
        return create_loss("focal", reduction="none")(z, y)


class SquaredSoftmax(SoftmaxLoss):
    name = "squared"
    formula = staticmethod(lambda z, target: (z.softmax(1) - F.one_hot(target.labels, z.shape[1])).square().sum(1))


def test_a_subclass_with_a_formula_of_its_own_is_not_read_as_its_base():
    ours, theirs = TrainingSetup("focal"), TrainingSetup(FocalFromTorch(), class_counts=[1, 1, 1])
    torch.testing.assert_close(log_posterior(Z, theirs), log_posterior(Z, ours), rtol=0, atol=1e-9)
    squared = log_posterior(Z, TrainingSetup(SquaredSoftmax()))
    torch.testing.assert_close(squared, Z.log_softmax(1), rtol=0, atol=1e-9)
    assert TrainingSetup(SquaredSoftmax()).reading.plain is None


def test_the_positives_of_a_softmax_function_have_no_implied_weight():
    ledger = GradientLedger(TrainingSetup(FocalFromTorch()), 3)
    ledger.update(Z, Y)
    with pytest.raises(TypeError, match="ledger must be of outputs that stand for themselves"):
        implied_pos_weight(ledger)


@pytest.mark.parametrize(
    ("stated", "options"),
    [
        ({"pos_weight": [1.0, 2.0]}, {"pos_weight": [1.0, 3.0]}),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
    ],
)
def test_an_option_beside_itself_is_refused(stated, options):
    with pytest.raises(ValueError, match="must be stated once, got it as an argument and in options"):
        TrainingSetup("logistic", options=options, **stated)


def test_targets_of_one_output_are_not_read_in_another_order():
    logits, target = torch.randn(4, 1, 5), torch.ones(5, 4)
    for refuse in (law, audit):
        with pytest.raises(ValueError, match=r"shape \(4, 5\)|the same length"):
            refuse(logits, target, TrainingSetup("logistic", targets="binary"))
    with pytest.raises(ValueError, match=r"target must have shape \(4, 5\) for one output, got \(4, 5, 2\)"):
        audit(logits, torch.ones(4, 5, 2), "logistic")


def test_the_posterior_refuses_a_function_of_the_whole_batch():
    setup = TrainingSetup(lambda z, y: F.cross_entropy(z - z.mean(0), y, reduction="none"))
    with pytest.raises(ValueError, match="must be a sum over samples"):
        log_posterior(Z, setup)


def test_a_refitted_head_refuses_samples_that_the_loss_ignores():
    with pytest.raises(ValueError, match="target must hold no label that the loss ignores, got 0"):
        fit_head(Z, Y, loss=nn.CrossEntropyLoss(ignore_index=0), weight_decay=0.1)


def test_a_sampler_says_which_batches_of_lgl_inr_have_a_class():
    counts, size = torch.tensor([900.0, 90.0, 10.0]), 8
    even = TrainingSetup("lgl-inr", class_counts=counts, sampler_weights=1 / counts, batch_size=size)
    torch.testing.assert_close(even.presence, torch.full((3,), 1 - (2 / 3) ** size, dtype=torch.float64))
    drawn = torch.multinomial(
        torch.ones(20_000, 3), size, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    seen = torch.stack([(drawn == k).any(1).double().mean() for k in range(3)])
    torch.testing.assert_close(even.presence, seen, rtol=0, atol=0.01)
    plain = TrainingSetup("lgl-inr", class_counts=counts, batch_size=size)
    assert not torch.allclose(law(Z, Y, even).push_down, law(Z, Y, plain).push_down)


def test_a_function_without_a_name_is_the_given_loss():
    assert TrainingSetup(lambda z, y: z.sum(1)).text == "given loss, no weights"


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (nn.CrossEntropyLoss(torch.tensor([-1.0, 1.0])), "class_weights"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([-1.0, 1.0])), "pos_weight"),
    ],
)
def test_negative_weights_that_torchs_losses_hold_are_refused(loss, name):
    with pytest.raises(ValueError, match=f"{name} must be finite and not negative, got -1.0 at position 0"):
        TrainingSetup(loss)
