"""Making losses by name."""

import pytest
import torch

import steelyard
from steelyard.losses import registry


def test_lists_what_it_creates():
    assert steelyard.list_losses() == ["lgl-inr", "logistic", "softmax"]
    for name in steelyard.list_losses():
        assert torch.isfinite(steelyard.create_loss(name)(torch.zeros(3, 4), torch.tensor([0, 1, 2])))


def test_options_reach_the_module():
    loss = steelyard.create_loss("lgl_inr", beta=7.0, statistics="running", num_classes=4)
    assert (loss.beta, loss.statistics) == (7.0, "running")


def test_unknown_name_gets_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown loss 'sofmax' .did you mean 'softmax'[?].; choose from lgl-inr"
    ):
        steelyard.create_loss("sofmax")
    with pytest.raises(TypeError, match="name must be a string, got int"):
        steelyard.create_loss(3)


def test_foreign_option_is_refused():
    with pytest.raises(
        TypeError, match=r"loss 'softmax' has no option 'pos_weight' .did you mean 'weight'[?].; it takes"
    ):
        steelyard.create_loss("softmax", pos_weight=[1.0, 2.0])


def test_every_entry_names_an_option_of_its_own_for_class_weights():
    for name, entry in registry.LOSSES.items():
        loss = steelyard.create_loss(name, **{entry.class_weights_argument: [1.0, 2.0, 3.0]})
        assert torch.isfinite(loss(torch.zeros(3, 3), torch.tensor([0, 1, 2])))
