"""What is particular to the asymmetric loss: published values, its neighbours, and what the clip takes away."""

import json
import math
from pathlib import Path

import pytest
import torch

from steelyard import TrainingSetup, create_loss, log_posterior
from steelyard.losses.functional import asymmetric_loss, focal_loss, logistic_loss
from tests.helpers import assert_finite, assert_nan, assert_zero, batch, value_and_grad

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/asymmetric.json").read_text())
ONES = torch.ones(4, dtype=torch.float64)


def as_double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("vector", VECTORS["one_vs_all"], ids=lambda v: f"{v['source'][-40:]}, {v['options']}")
def test_matches_the_authors_code(vector):
    logits, target = as_double(vector["logits"]), as_double(vector["target"])
    loss, gradient = value_and_grad(asymmetric_loss, logits, target, reduction="sum", **vector["options"])
    torch.testing.assert_close(loss, as_double(vector["loss"]), rtol=1e-12, atol=0)
    if vector["gradient"] is not None:  # theirs may leave out that of the power
        torch.testing.assert_close(gradient, as_double(vector["gradient"]), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("vector", VECTORS["single_label"], ids=lambda v: str(v["gamma"]))
def test_the_authors_loss_of_single_labels_is_the_focal_loss(vector):
    logits, target = as_double(vector["logits"]), torch.tensor(vector["target"])
    loss, gradient = value_and_grad(focal_loss, logits, target, ONES, gamma=vector["gamma"], reduction="none")
    torch.testing.assert_close(loss, as_double(vector["loss"]), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, as_double(vector["gradient"]), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("vector", VECTORS["soft_selection"], ids=lambda v: f"{v['alpha']}, {v['gamma']}")
def test_the_focus_rectified_loss_with_soft_selection_is_one_of_its_cases(vector):
    logits, target = as_double(vector["logits"]), torch.tensor(vector["target"])
    share = vector["alpha"] / (logits.shape[1] - 1)
    options = {"gamma_pos": 0.0, "gamma_neg": vector["gamma"], "clip": 0.0}
    weights = {"output_weights": torch.full((5,), share), "pos_weight": torch.full((5,), 1 / share)}
    loss, gradient = value_and_grad(asymmetric_loss, logits, target, **options, **weights)
    close = {"rtol": 2e-4, "atol": 1e-6}  # theirs adds 1e-7 to probabilities, the least of which is 1e-3
    torch.testing.assert_close(loss, as_double(vector["loss"]), **close)
    torch.testing.assert_close(gradient, as_double(vector["gradient"]), **close)


@pytest.mark.parametrize("target", [torch.tensor([0, 2, 1, 1]), torch.eye(4, 3)])
def test_without_clip_and_with_equal_powers_it_is_the_focal_loss(target):
    logits = batch(4, 3)[0]
    for gamma in (0.0, 2.0):
        expected = focal_loss(logits, target, gamma=gamma, link="logistic")
        torch.testing.assert_close(
            asymmetric_loss(logits, target, gamma_pos=gamma, gamma_neg=gamma, clip=0.0), expected
        )
    expected = logistic_loss(logits, target)
    torch.testing.assert_close(asymmetric_loss(logits, target, gamma_pos=0, gamma_neg=0, clip=0), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("gamma_neg", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("clip", [1e-6, 0.05, 0.6, 0.9])
def test_a_negative_equals_its_formula_on_both_sides_of_the_clip(dtype, gamma_neg, clip):
    edge = math.log(clip / (1 - clip))
    z = torch.cat([torch.linspace(-30, 30, 61), edge + torch.tensor([-0.1, 0.1, 1.0])]).to(dtype)[:, None]
    options = {"gamma_neg": gamma_neg, "clip": clip, "reduction": "none"}
    loss, gradient = value_and_grad(asymmetric_loss, z, torch.zeros(64), torch.ones(64, dtype=dtype), **options)
    leaf = z[:, 0].double().requires_grad_()
    p, miss = torch.sigmoid(leaf), torch.sigmoid(-leaf)
    q = torch.where(leaf > 0, 1 - miss - clip, p - clip).clamp(min=1e-300)
    log_rest = torch.where(leaf > 0, torch.log(miss + clip), torch.log1p(-q.clamp(max=0.5)))
    expected = torch.where(p > clip, -(q**gamma_neg) * log_rest, 0.0)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), leaf)
    close = {"rtol": 1e-10, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-7}
    torch.testing.assert_close(loss.double(), expected.detach(), **close)
    torch.testing.assert_close(gradient[:, 0].double(), expected_gradient, **close)


def test_a_confident_error_keeps_its_gradient():
    """The authors' clamp at 1e-8 takes it from a positive below a logit of -18.4."""
    z = torch.tensor([-30.0, -1e3, -1e4], requires_grad=True)
    loss = asymmetric_loss(z, torch.ones(3), reduction="none")
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), -z.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(z.grad, -torch.ones(3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_finite_logit_has_a_finite_loss_and_gradient(dtype, gamma, clip):
    """In half precision 1e-8 is 0, so that the authors' clamp leaves log(0)."""
    z = torch.tensor([-6e4, -1e3, -20.0, 0.0, 20.0, 1e3, 6e4], dtype=dtype).repeat(2).requires_grad_()
    target = torch.tensor([0.0, 1.0]).repeat_interleave(7)
    loss = asymmetric_loss(z, target, gamma_pos=gamma, gamma_neg=gamma, clip=clip, reduction="none")
    loss.sum().backward()
    assert_finite(loss)
    assert_finite(z.grad)


def test_a_negative_below_the_clip_counts_for_nothing():
    z = torch.tensor([[3.0, math.log(0.05 / 0.95) - 1e-3]], requires_grad=True)
    loss = asymmetric_loss(z, [0])
    loss.backward()
    torch.testing.assert_close(loss.detach(), asymmetric_loss(torch.tensor([[3.0, -torch.inf]]), [0]))
    assert_zero(z.grad[:, 1])


def test_a_nan_stays_a_nan():
    for target in (0.0, 1.0):
        assert_nan(asymmetric_loss(torch.tensor([torch.nan]), torch.tensor([target])))


@pytest.mark.parametrize(
    "options", [{"clip": 0.95}, {"clip": -0.1}, {"gamma_neg": -1.0}, {"gamma_pos": float("nan")}]
)
def test_values_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} must be"):
        create_loss("asymmetric", **options)


# What its logits stand for -------------------------------------------------------------------------------


def test_an_output_below_the_clip_has_no_positives_at_an_optimum():
    setup = TrainingSetup("asymmetric")
    z = torch.tensor([[1.0, -1.0, -6.0]])
    posterior = log_posterior(z, setup).exp()
    assert posterior[0, 2] == 0
    torch.testing.assert_close(posterior.sum(), torch.tensor(1.0))
    with pytest.warns(UserWarning, match="1 of 2 rows have no posterior that is not negative"):
        found = log_posterior(torch.cat([z, torch.full((1, 3), -6.0)]), setup)
    assert_nan(found[1])
    assert found[0, 0].isfinite()


def test_of_several_labels_an_output_below_the_clip_has_probability_0():
    posterior = log_posterior(torch.tensor([[1.0, -6.0]]), TrainingSetup("asymmetric", targets="multi-hot")).exp()
    assert posterior[0, 1] == 0
    assert 0 < posterior[0, 0] < 1


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("options", [{}, {"gamma_pos": 0.0}, {"clip": 0.2}])
def test_the_posterior_of_one_output_is_the_share_that_leads_to_its_logit(share, options):
    loss = create_loss("asymmetric", **options).double()
    bias = loss.first_bias([round(1000 * share)], num_samples=1000).double()
    found = torch.sigmoid(log_posterior(bias, TrainingSetup(loss, targets="binary")))
    torch.testing.assert_close(found, as_double([share]), rtol=0, atol=1e-5)


def test_with_a_clip_and_no_power_of_positives_no_logit_stands_for_a_sure_class():
    """Both sides then fade alike: the posterior ends at C / (1 + C), C = (1 - m)^g (1 / m - g log(m) / (1 - m))."""
    m, g = 0.05, 4.0
    C = (1 - m) ** g * (1 / m - g * math.log(m) / (1 - m))
    setup = TrainingSetup("asymmetric", gamma_pos=0.0, targets="binary")
    found = torch.sigmoid(log_posterior(as_double([30.0]), setup))
    torch.testing.assert_close(found, as_double([C / (1 + C)]), rtol=1e-6, atol=0)
    torch.testing.assert_close(C / (1 + C), 0.964, rtol=0, atol=5e-4)
