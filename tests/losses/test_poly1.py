"""What is particular to Poly-1: published values, soft targets, small misses, its closed posterior."""

import json
from pathlib import Path

import pytest
import torch

from steelyard import TrainingSetup, create_loss, log_posterior
from steelyard.losses.functional import poly1_loss, softmax_loss
from tests.helpers import batch, value_and_grad

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/poly1.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['source'][:12]}, {v['options']}")
def test_matches_published_code(vector):
    logits, target = torch.tensor(vector["logits"], dtype=torch.float64), torch.tensor(vector["target"])
    loss, gradient = value_and_grad(
        lambda z, y: poly1_loss(z, y, reduction="none", **vector["options"]), logits, target, torch.ones(4)
    )
    close = {"rtol": vector["tolerance"], "atol": vector["tolerance"]}
    torch.testing.assert_close(loss, torch.tensor(vector["loss"], dtype=torch.float64), **close)
    torch.testing.assert_close(gradient, torch.tensor(vector["gradient"], dtype=torch.float64), **close)


def test_without_epsilon_it_is_the_softmax_loss():
    logits, target = batch()
    for given in (target, torch.softmax(logits.flip(0), 1)):
        torch.testing.assert_close(poly1_loss(logits, given, epsilon=0.0), softmax_loss(logits, given))


@pytest.mark.parametrize("z", [0.0, 5.0, 12.0])
def test_the_least_epsilon_leaves_half_the_square_of_a_small_miss(z):
    logits = torch.tensor([[z, 0.0]], requires_grad=True)
    loss = poly1_loss(logits, [0], epsilon=-1.0)
    loss.backward()
    miss = torch.sigmoid(-torch.tensor(z, dtype=torch.float64))
    expected = -torch.log1p(-miss) - miss
    torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-6, atol=2e-7 * float(miss))
    torch.testing.assert_close(float(logits.grad[0, 1]), float(miss**2), rtol=1e-5, atol=2e-7 * float(miss))
    assert loss >= 0


def test_epsilon_below_minus_one_is_refused():
    with pytest.raises(ValueError, match=r"epsilon must be a finite number in \[-1, 1000\], got -1\.5"):
        create_loss("poly1", epsilon=-1.5)


def test_a_class_of_soft_target_0_may_have_a_logit_of_minus_infinity():
    logits = torch.tensor([[1.0, 0.0, -torch.inf]], requires_grad=True)
    loss = poly1_loss(logits, torch.tensor([[0.5, 0.5, 0.0]]))
    loss.backward()
    expected = poly1_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(loss.detach(), expected)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("epsilon", [-0.5, 1.0, 4.0])
def test_posterior_is_its_closed_form(epsilon):
    z, w = batch(6, 4)[0], torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    p = torch.softmax(z, 1)
    expected = p / (w * (1 + epsilon * p))
    found = log_posterior(z, TrainingSetup("poly1", epsilon=epsilon, class_weights=w)).exp()
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), rtol=1e-9, atol=1e-12)
