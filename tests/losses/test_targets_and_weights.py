"""Targets, weights and smoothing together: what one of them does must not change what another means."""

import pytest
import torch
from torch import nn

from steelyard.losses import create_loss
from steelyard.losses.focal import focal_loss

Z = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
Y = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize("name", ["logistic", "sigmoid-focal"])
@pytest.mark.parametrize("target", [Y, Y.double()])
def test_class_weights_of_one_output_multiply_the_whole_smoothed_loss(name, target):
    weights = torch.tensor([1.0, 9.0], dtype=torch.float64)
    loss = create_loss(name, class_weights=weights, label_smoothing=0.2, reduction="none")
    plain = create_loss(name, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(loss(Z, target), weights[Y] * plain(Z, target))


@pytest.mark.parametrize("option", ["pos_weight", "output_weights"])
def test_softmax_focal_refuses_weights_of_outputs(option):
    message = f"{option} must be None under link='softmax'"
    values = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=message):
        create_loss("focal", **{option: values})
    with pytest.raises(ValueError, match=message):
        focal_loss(torch.zeros(1, 2), torch.tensor([1]), **{option: values})
    late = create_loss("focal")
    setattr(late, option, values)
    with pytest.raises(ValueError, match=message):
        late(torch.zeros(1, 2), torch.tensor([1]))


def test_softmax_focal_refuses_a_checkpoint_of_positive_weights():
    owner = nn.ModuleDict({"loss": create_loss("focal")})
    with pytest.raises(ValueError, match="pos_weight must be None under link='softmax'"):
        owner.load_state_dict({"loss.pos_weight": torch.ones(3)})


@pytest.mark.parametrize("name", ["softmax", "focal"])
def test_a_class_of_target_0_adds_nothing_even_with_a_logit_of_minus_infinity(name):
    loss = create_loss(name)
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    value = loss(logits, torch.tensor([[0.25, 0.75, 0.0]]))
    (gradient,) = torch.autograd.grad(value, logits)
    expected = 0.25 * loss(logits, torch.tensor([0])) + 0.75 * loss(logits, torch.tensor([1]))
    torch.testing.assert_close(value, expected)
    assert torch.isfinite(gradient).all()
    assert gradient[0, 2] == 0


@pytest.mark.parametrize("counts", [[10**9, 1], [10**9, 10**5, 1]])
@pytest.mark.parametrize("options", [{"link": "logistic"}, {"gamma": 0.3}, {}])
def test_first_bias_of_focal_loss_balances_the_rarest_class_too(counts, options):
    loss = create_loss("focal", **options).double()
    size, n = len(counts), torch.tensor(counts, dtype=torch.float64)
    bias = loss.first_bias(counts).double()
    rows = bias.expand(size, size).clone().requires_grad_()
    (gradient,) = torch.autograd.grad((n * loss.per_sample(rows, torch.arange(size))).sum(), rows)
    assert (gradient.sum(0).abs() <= 1e-3 * gradient.abs().sum(0)).all()


def test_first_bias_of_a_class_that_has_all_samples():
    assert create_loss("focal").first_bias([5]).tolist() == [0]
    with pytest.raises(
        ValueError, match=r"the others of class 1 a share that float64 tells from 0, got 1e\+16 of"
    ):
        create_loss("focal").first_bias([1, 10**16])


@pytest.mark.parametrize("name", ["logistic", "sigmoid-focal", "lgl-inr"])
def test_positives_of_no_weight_have_no_first_bias(name):
    with pytest.raises(ValueError, match="pos_weight must be positive for a first bias, got 0"):
        create_loss(name, pos_weight=[1.0, 0.0]).first_bias([1, 2])


@pytest.mark.parametrize("name", ["softmax", "focal"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_a_soft_target_cannot_be_ignored_by_label(name, shape):
    soft = torch.full(shape, 1 / 3)
    loss = create_loss(name, ignore_index=1)
    with pytest.raises(ValueError, match=r"ignore_index marks class labels, and a soft target has none: .* got 1"):
        loss(torch.zeros(shape), soft)
    assert create_loss(name, ignore_index=-1)(torch.zeros(shape), soft) > 0


@pytest.mark.parametrize("target", [torch.tensor([2, 0]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.5, 0.0]])])
def test_sigmoid_focal_without_its_power_is_the_logistic_loss(target):
    logits = torch.tensor([[1.0, -2.0, 0.5], [30.0, 0.0, -40.0]])
    ours, plain = (z.requires_grad_() for z in (logits.clone(), logits.clone()))
    loss, expected = create_loss("sigmoid-focal", gamma=0)(ours, target), create_loss("logistic")(plain, target)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.parametrize("name", ["logistic", "sigmoid-focal"])
def test_a_multi_hot_output_that_is_surely_right_adds_nothing(name):
    logits = torch.tensor([[0.0, -torch.inf], [torch.inf, 0.0]], requires_grad=True)
    loss = create_loss(name, reduction="sum")
    value = loss(logits, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(value, loss(torch.zeros(2), torch.ones(2)))
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()
    assert gradient[0, 1] == gradient[1, 0] == 0


def test_focal_refuses_a_link_that_is_none():
    with pytest.raises(ValueError, match="link must be one of 'softmax', 'logistic', got 'probit'"):
        create_loss("focal", link="probit")


@pytest.mark.parametrize("gamma", [-0.1, 1000.5, float("nan"), "2"])
def test_focal_refuses_a_power_that_is_none(gamma):
    with pytest.raises((TypeError, ValueError), match="gamma must be"):
        create_loss("focal", gamma=gamma)
    assert create_loss("focal", gamma=0).gamma == 0
    assert create_loss("focal", gamma=1000).gamma == 1000


def test_focal_of_soft_targets_has_a_gradient_where_a_probability_rounds_to_1():
    z = torch.tensor([[800.0, 0.0]], dtype=torch.float64, requires_grad=True)
    focal_loss(z, torch.full((1, 2), 0.5, dtype=torch.float64), gamma=0.5).backward()
    torch.testing.assert_close(z.grad, torch.tensor([[0.5, -0.5]], dtype=torch.float64))
