"""What was done in training: read off losses, stated once, refused where it contradicts itself."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steelyard import TrainingSetup
from steelyard.losses import LGLINRLoss, LogisticLoss, SoftmaxLoss
from tests.balance.generic_losses import cross_entropy

W = [0.5, 1.0, 3.0]
TENSOR = torch.tensor(W)


@pytest.mark.parametrize(
    ("loss", "field"),
    [
        (SoftmaxLoss(class_weights=W), "class_weights"),
        (LogisticLoss(class_weights=W), "class_weights"),
        (LogisticLoss(pos_weight=W), "pos_weight"),
        (SoftmaxLoss(logit_adjustment=W), "logit_adjustment"),
        (nn.CrossEntropyLoss(weight=TENSOR), "class_weights"),
        (nn.BCEWithLogitsLoss(pos_weight=TENSOR), "pos_weight"),
        (LGLINRLoss(pos_weight=W), "pos_weight"),
    ],
)
def test_what_a_loss_holds_is_read_off_it_and_stated_once(loss, field):
    assert getattr(TrainingSetup(loss), field).tolist() == W
    assert getattr(TrainingSetup(loss, **{field: W}), field).tolist() == W
    with pytest.raises(ValueError, match=f"{field} must be stated once: the loss holds"):
        TrainingSetup(loss, **{field: [1.0, 1.0, 1.0]})


def test_a_loss_by_name_takes_the_options_of_its_module():
    setup = TrainingSetup("lgl_inr", options={"beta": 2.0, "detach_weights": True}, batch_size=64)
    assert setup.in_negative.beta == 2
    assert setup.in_negative.detached
    assert setup.text == "LGL-INR loss of beta 2 in batches of 64"
    assert TrainingSetup("softmax", label_smoothing=0.1).label_smoothing == 0.1
    assert TrainingSetup("logistic", pos_weight=W).pos_weight.tolist() == W
    with pytest.raises(TypeError, match="has no option 'gamm'"):
        TrainingSetup("softmax", options={"gamm": 1})


def test_sequences_arrays_and_tensors_are_the_same():
    for values in (W, tuple(W), np.array(W), np.array(W, dtype=np.float32), TENSOR, [np.float64(v) for v in W]):
        setup = TrainingSetup("softmax", class_weights=values, class_counts=np.array([3, 2, 1]))
        assert setup.class_weights.dtype == torch.float64
        torch.testing.assert_close(setup.class_weights, torch.tensor(W, dtype=torch.float64))


def test_the_effect_on_classes_is_the_product_of_all_that_weighs_them():
    setup = TrainingSetup(
        SoftmaxLoss(class_weights=W),
        sampler_weights=[1, 2, 4],
        logit_shift=np.log([2.0, 1.0, 1.0]),
        class_counts=[9, 9, 2],
    )
    torch.testing.assert_close(setup.class_effect, torch.tensor([1.0, 2.0, 12.0], dtype=torch.float64))
    assert list(setup.parts) == ["class weights", "sampler", "logit shift"]
    assert setup.text == "softmax loss with class weights, sampler and logit shift"
    assert TrainingSetup("softmax", class_weights=[2, 2]).class_effect is None
    assert TrainingSetup("softmax").text == "softmax loss, no weights"
    assert dataclasses.replace(setup, logit_shift=None).class_effect.tolist() == [0.5, 2.0, 12.0]


def test_the_loss_of_a_sample_leaves_class_weights_out():
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 2, 0])
    plain = cross_entropy(z, y)
    for loss in ("softmax", SoftmaxLoss(class_weights=W), nn.CrossEntropyLoss(weight=TENSOR), cross_entropy):
        torch.testing.assert_close(TrainingSetup(loss, class_weights=W).per_sample(z, y), plain)
    adjusted = cross_entropy(z + torch.tensor(W).double(), y)
    for setup in (
        TrainingSetup(SoftmaxLoss(logit_adjustment=W)),
        TrainingSetup("softmax", logit_adjustment=W),
        TrainingSetup(cross_entropy, logit_adjustment=W),
    ):
        torch.testing.assert_close(setup.per_sample(z, y), adjusted)
    torch_loss = nn.CrossEntropyLoss(weight=TENSOR.double(), label_smoothing=0.2, reduction="none")
    setup = TrainingSetup(torch_loss)
    torch.testing.assert_close(setup.per_sample(z, y) * setup.class_weights[y], torch_loss(z, y))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": 3}, TypeError, "loss must be a name, a module or a function, got 3"),
        ({"loss": "softmx"}, ValueError, "did you mean 'softmax'"),
        (
            {"loss": nn.CrossEntropyLoss(), "options": {"a": 1}},
            TypeError,
            "options belong to a loss given by name",
        ),
        ({"loss": cross_entropy, "pos_weight": W}, ValueError, "pos_weight must be in the loss itself"),
        (
            {"loss": SoftmaxLoss(), "label_smoothing": 0.1},
            ValueError,
            "label_smoothing must be what the loss holds",
        ),
        ({"class_weights": W, "class_counts": [1, 2]}, ValueError, "class_counts must have 3 values"),
        ({"class_weights": W, "logit_shift": [1, 2]}, ValueError, "logit_shift must have 3 values"),
        ({"class_weights": [True, False]}, TypeError, "class_weights must hold numbers, got a value of type bool"),
        (
            {"class_weights": TENSOR > 1},
            TypeError,
            "class_weights must be a tensor, an array or a sequence of num",
        ),
        ({"class_weights": TENSOR + 0j}, TypeError, "got Tensor of dtype complex64"),
        ({"class_weights": {"a": True}}, TypeError, "class_weights must hold numbers, got a value of type bool"),
        ({"class_weights": {2: 1.0}}, ValueError, "class_weights has no entry for class 0"),
        ({"class_names": "abc"}, TypeError, "class_names must be a sequence of texts, one a class, got one text"),
        ({"class_weights": "inverse"}, TypeError, "sequence of numbers, got str"),
        (
            {"class_weights": [1.0, float("nan")]},
            ValueError,
            "class_weights must be finite and not negative, got nan at position 1",
        ),
        (
            {"class_weights": [1.0, -2.0]},
            ValueError,
            "class_weights must be finite and not negative, got -2.0 at position 1",
        ),
        (
            {"class_weights": [[1.0], [2.0]]},
            TypeError,
            "class_weights must hold numbers, got a value of type list",
        ),
        ({"batch_size": 0}, ValueError, "batch_size must be an int >= 1, got 0"),
        (
            {"loss": "logistic", "logit_shift": W},
            ValueError,
            "logit_shift acts like class weights under the softmax",
        ),
        ({"targets": "one-hot"}, ValueError, "targets must be one of 'labels', 'multi-hot', 'binary'"),
        (
            {"loss": nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0]), label_smoothing=0.1)},
            ValueError,
            "positive weights where it smooths labels, got a weight of 0",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_sentence(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        TrainingSetup(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.NLLLoss(), "NLLLoss takes log-probabilities: give CrossEntropyLoss, which is the same of logits"),
        (F.nll_loss, "nll_loss takes log-probabilities: give CrossEntropyLoss"),
        (
            functools.partial(F.nll_loss, reduction="none"),
            "nll_loss takes log-probabilities: give CrossEntropyLoss",
        ),
        (nn.BCELoss(reduction="none"), "BCELoss takes probabilities: give BCEWithLogitsLoss"),
        (F.binary_cross_entropy, "binary_cross_entropy takes probabilities: give BCEWithLogitsLoss"),
        (nn.MSELoss(), "MSELoss is no loss of logits and classes: give CrossEntropyLoss or BCEWithLogitsLoss"),
        (nn.KLDivLoss(), "KLDivLoss is no loss of logits and classes"),
        (nn.MultiMarginLoss(), "MultiMarginLoss must have reduction=\"none\", a loss for each sample, got 'mean'"),
    ],
)
def test_losses_of_torch_that_take_no_logits_are_refused_with_what_to_give(loss, message):
    with pytest.raises(ValueError, match=f"loss cannot be read: {message}"):
        TrainingSetup(loss)


def test_losses_of_torch_that_give_each_sample_its_own_are_read():
    assert TrainingSetup(nn.MultiMarginLoss(reduction="none")).reading.foreign
    assert TrainingSetup(functools.partial(F.cross_entropy, reduction="none")).reading.foreign


def test_the_link_of_a_function_needs_its_number_of_classes():
    with pytest.raises(ValueError, match="class_counts must say how many classes a loss function is for"):
        _ = TrainingSetup(cross_entropy).link
    weigh = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ValueError, match="has no posterior: the gradients of its classes are independent"):
        _ = TrainingSetup(lambda z, y: (weigh[y] * z.square()).sum(1), class_counts=[1, 2, 3]).link


def test_focal_loss_is_not_taken_for_the_loss_that_it_is_made_of():
    """A shift of its logits is no weight, and its name is its own, with one output too."""
    binary = TrainingSetup("focal", options={"link": "logistic"}, targets="binary")
    assert binary.reading.plain is None
    assert binary.text == "focal loss, no weights"
    with pytest.raises(
        ValueError, match="logit_shift acts like class weights under the softmax loss only, got it"
    ):
        TrainingSetup("focal", options={"link": "logistic"}, targets="binary", logit_shift=[0.0, 1.0])
    with pytest.raises(
        ValueError, match="logit_shift acts like class weights under the softmax loss only, got it"
    ):
        TrainingSetup("focal", logit_shift=[0.0, 1.0])
    assert TrainingSetup("focal", options={"link": "logistic", "gamma": 0.0}).reading.plain == "logistic"


def test_options_of_a_name_may_be_keywords():
    assert TrainingSetup("focal", gamma=5.0).options == {"gamma": 5.0}
    assert TrainingSetup("focal", gamma=5.0).reading.gamma == 5.0
    with pytest.raises(
        TypeError, match=r"loss 'softmax' has no option 'class_weight' .did you mean 'class_weights'"
    ):
        TrainingSetup("softmax", class_weight=[1.0, 2.0])
    with pytest.raises(TypeError, match="options belong to a loss given by name, got gamma with a loss object"):
        TrainingSetup(torch.nn.CrossEntropyLoss(), gamma=2.0)
