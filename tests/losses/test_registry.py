"""Making losses by name, and what a loss says of itself."""

import pytest
import torch

import steelyard
from steelyard.losses.presets import PRESETS
from steelyard.losses.registry import LOSSES

COUNTS = [80, 15, 5]


def test_lists_what_it_creates():
    assert steelyard.list_losses() == sorted(LOSSES) + sorted(PRESETS)
    assert set(LOSSES) >= {"focal", "lgl-inr", "logistic", "softmax", "margin-softmax"}
    for name in steelyard.list_losses():
        loss = steelyard.create_loss(name, class_counts=COUNTS)
        assert torch.isfinite(loss(torch.zeros(3, 3), torch.tensor([0, 1, 2])))


def test_options_reach_the_module():
    loss = steelyard.create_loss("lgl_inr", beta=7.0, statistics="running", num_classes=4)
    assert (loss.beta, loss.statistics) == (7.0, "running")


def test_unknown_name_gets_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown loss 'sofmax' .did you mean 'softmax'[?].; choose from .*focal, lgl"
    ):
        steelyard.create_loss("sofmax")
    with pytest.raises(ValueError, match=r"unknown loss 'balanced-sofmax' .did you mean 'balanced-softmax'"):
        steelyard.create_loss("balanced-sofmax")
    with pytest.raises(TypeError, match=r"SoftmaxLoss takes its options by name, such as class_weights=..."):
        steelyard.SoftmaxLoss(torch.ones(3))
    with pytest.raises(TypeError, match="name must be a string, got int"):
        steelyard.create_loss(3)


def test_foreign_option_is_refused():
    with pytest.raises(
        TypeError, match=r"loss 'softmax' has no option 'pos_weight'.*; it takes normalization, class_w"
    ):
        steelyard.create_loss("softmax", pos_weight=[1.0, 2.0])


def test_what_a_loss_cannot_have_is_refused_with_the_reason():
    loss = steelyard.create_loss("lgl-inr")
    with pytest.raises(
        TypeError, match="lgl-inr takes no class_weights: it balances the classes of a batch already"
    ):
        steelyard.create_loss("lgl-inr", class_weights=[1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match="lgl-inr takes no sample_weight: a sample counts by its class's mean"):
        loss(torch.zeros(3, 3), torch.tensor([0, 1, 2]), sample_weight=torch.ones(3))
    with pytest.raises(
        TypeError, match=r"class labels.*got float32 of shape \(3, 3\); lgl-inr takes nothing else: it"
    ):
        loss(torch.zeros(3, 3), torch.eye(3))
    with pytest.raises(TypeError, match="lgl-inr is a function of a whole batch: it has no loss of a sample"):
        loss.per_sample(torch.zeros(3, 3), torch.tensor([0, 1, 2]))


def test_the_error_for_float_targets_names_what_the_loss_takes():
    float_labels = torch.tensor([0.0, 1.0, 2.0])
    with pytest.raises(
        TypeError, match=r"beside those softmax takes rows of class probabilities that sum to 1, in the"
    ):
        steelyard.create_loss("softmax")(torch.zeros(3, 3), float_labels)
    with pytest.raises(
        TypeError, match=r"beside those logistic takes numbers from 0 to 1, one for each output, in the"
    ):
        steelyard.create_loss("logistic")(torch.zeros(3, 3), float_labels)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_weight_is_no_name_of_anything(name):
    loss = steelyard.create_loss(name, class_counts=COUNTS)
    with pytest.raises(AttributeError, match=r"has no weight, it has (class|output)_weights"):
        loss.weight = torch.ones(3)
    with pytest.raises(AttributeError, match=r"has no weight, it has (class|output)_weights"):
        loss.weight = torch.nn.Parameter(torch.ones(3))
    assert not hasattr(loss, "weight")


def test_weights_come_from_counts():
    loss = steelyard.create_loss("focal", class_counts=COUNTS, class_weights="inverse")
    assert torch.equal(loss.class_weights, steelyard.class_weights(COUNTS, "inverse"))
    with pytest.raises(ValueError, match="class_counts must be given for class_weights 'inverse', got None"):
        steelyard.create_loss("softmax", class_weights="inverse")
    with pytest.raises(ValueError, match=r"unknown weight scheme 'inverze' .did you mean 'inverse'"):
        steelyard.create_loss("softmax", class_counts=COUNTS, class_weights="inverze")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_is_its_loss_with_options(name):
    preset = PRESETS[name]
    made = {} if preset.of_counts is None else preset.of_counts(COUNTS, **preset.parameters)
    logits, target = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 0, 0, 1]),
    )
    expected = LOSSES[preset.loss](**preset.options, **made)(logits, target)
    assert torch.equal(steelyard.create_loss(name, class_counts=COUNTS)(logits, target), expected)
    if preset.of_counts is not None:
        with pytest.raises(ValueError, match=f"class_counts must be given for '{name}', which is made from them"):
            steelyard.create_loss(name)


def test_checkpoint_of_torchs_weighted_loss_loads():
    weight = torch.tensor([1.0, 2.0, 3.0])
    state = torch.nn.CrossEntropyLoss(weight=weight).state_dict()
    loss = steelyard.create_loss("softmax")
    loss.load_state_dict(state)
    assert torch.equal(loss.class_weights, weight)
    assert not loss.state_dict()
    with pytest.warns(
        UserWarning, match="the checkpoint's weight differs from the class_weights of this loss, which stay"
    ):
        steelyard.create_loss("softmax", class_weights=[3.0, 2.0, 1.0]).load_state_dict(state)
    binary = steelyard.create_loss("logistic")
    binary.load_state_dict(torch.nn.BCEWithLogitsLoss(weight=weight, pos_weight=weight.flip(0)).state_dict())
    assert torch.equal(binary.output_weights, weight)
    assert torch.equal(binary.pos_weight, weight.flip(0))
    assert "weight" in state  # the caller's dictionary is as it was


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("reduction", "summ", r"reduction must be one of .*, got 'summ'"),
        ("normalization", "weight", r"normalization must be one of .*, got 'weight'"),
        ("label_smoothing", 3.0, r"label_smoothing must be .*, got 3"),
        ("gamma", -1.0, r"gamma must be .*, got -1"),
    ],
)
def test_an_option_that_is_set_later_is_checked_as_at_first(option, value, message):
    loss = steelyard.create_loss("focal")
    before = getattr(loss, option)
    with pytest.raises(ValueError, match=message):
        setattr(loss, option, value)
    assert getattr(loss, option) == before
