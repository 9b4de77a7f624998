"""Losses for long-tailed classes against numbers of their sources' own code, in float64."""

import json
from pathlib import Path

import pytest
import torch

from steelyard import create_loss
from steelyard.losses import EQLv2Loss, SeesawLoss
from tests.helpers import value_and_grad

FOUND = json.loads((Path(__file__).parents[1] / "vectors/peer_losses.json").read_text())
CLOSE = {"rtol": 1e-6, "atol": 1e-9}  # vectors from counts are kept in float32


def batches(name):
    for one in FOUND[name]["batches"]:
        logits, grad = (torch.tensor(one[key], dtype=torch.float64) for key in ("logits", "grad"))
        yield one, logits, torch.tensor(one["labels"]), grad


def test_every_number_names_its_source():
    for found in FOUND.values():
        assert set(found["source"]) == {"repository", "commit", "file"}
        assert len(found["source"]["commit"]) == 40


@pytest.mark.parametrize("name", ["ldam", "ldam-drw", "cdt", "vs"])
def test_presets_are_their_sources_losses(name):
    loss = create_loss(name, class_counts=FOUND[name]["counts"])
    for one, logits, labels, expected in batches(name):
        value, grad = value_and_grad(loss, logits, labels)
        torch.testing.assert_close(float(value), one["loss"], **CLOSE)
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)


def test_immax_of_two_classes_is_a_public_implementation_for_boosted_trees():
    """Its authors publish no code. This one, by a reader of the paper, has the binary form."""
    for one, logits, labels, expected in batches("immax"):
        loss = create_loss(
            "margin-softmax", confidence_margins=one["confidence_margins"], reduction="sum"
        ).double()
        value, grad = value_and_grad(loss, logits, labels)
        torch.testing.assert_close(float(value) / len(labels), one["loss"], **CLOSE)
        torch.testing.assert_close(grad[:, 1], expected, **CLOSE)
        torch.testing.assert_close(grad[:, 0], -expected, **CLOSE)


def test_seesaw_counts_and_weighs_as_its_source():
    loss = SeesawLoss(num_classes=5).double()
    for one, logits, labels, expected in batches("seesaw"):
        value, grad = value_and_grad(loss, logits, labels)
        assert loss.running_class_counts.tolist() == one["counts"]
        torch.testing.assert_close(float(value), one["loss"], rtol=1e-12, atol=0)
        torch.testing.assert_close(grad, expected, rtol=1e-10, atol=1e-13)


def test_eqlv2_adds_up_and_weighs_as_its_source():
    loss = EQLv2Loss(num_classes=5).double()
    for one, logits, labels, expected in batches("eqlv2"):
        value, grad = value_and_grad(loss, logits, labels)
        torch.testing.assert_close(loss.positive_gradient.tolist(), one["positive"], rtol=1e-8, atol=0)
        torch.testing.assert_close(loss.negative_gradient.tolist(), one["negative"], rtol=1e-8, atol=0)
        torch.testing.assert_close(float(value), one["loss"], rtol=1e-8, atol=0)  # theirs adds 1e-10 to a sum
        torch.testing.assert_close(grad, expected, rtol=1e-7, atol=1e-12)


def test_eql_is_the_mean_over_what_its_source_draws():
    found = FOUND["eql"]
    counts, gamma = found["counts"], found["gamma"]
    loss = create_loss("eql", class_counts=counts, gamma=gamma, threshold=found["threshold"])
    of_draws = torch.tensor([gamma**2, gamma * (1 - gamma), gamma * (1 - gamma), (1 - gamma) ** 2]).double()
    for row in found["rows"]:
        value = float(loss(torch.tensor([row["logits"]], dtype=torch.float64), torch.tensor([row["label"]])))
        losses = torch.tensor(
            row["losses"], dtype=torch.float64
        )  # each the log of a sum; ours is that of their mean
        mean = torch.logsumexp(losses + of_draws.log(), 0)
        torch.testing.assert_close(value, float(mean), rtol=1e-6, atol=1e-7)
        assert value >= float(of_draws @ losses) - 1e-6  # the mean of what the source minimises is below
