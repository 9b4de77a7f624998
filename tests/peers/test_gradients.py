"""torch's slow check of every loss's gradient, each entry against finite differences, for every kind of target."""

import pytest
import torch

from tests.helpers import CASES, batch, weights_of

KINDS = ["ignored labels", "more dimensions", "sample weights", "smoothed labels", "dense", "smoothed dense"]


def _given(name, kind):
    """Logits, target and options of a kind of target; None where the loss takes no such target."""
    case, (logits, target), options = CASES[name], batch(6, 4), weights_of(name, 4)
    if kind == "ignored labels":
        return logits, target.index_fill(0, torch.tensor([1, 4]), -100), options
    if kind == "more dimensions":
        return logits.reshape(3, 2, 4).movedim(2, 1), target.reshape(3, 2), options
    if case.separable_over != "rows":
        return None
    if kind == "sample weights":
        return logits, target, options | {"sample_weight": torch.arange(6.0)}
    if kind == "smoothed labels":
        return logits, target, options | {"label_smoothing": 0.3}
    dense = batch(6, 4, seed=3)[0].softmax(1)
    if case.link == "logistic":
        del options["class_weights"]  # of labels only
        dense[2, 1] = -100  # an output that counts for nothing
    if kind == "smoothed dense":
        options["label_smoothing"] = 0.3
    return logits, dense, options


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_entry_of_the_gradient(name, kind, reduction):
    if CASES[name].loss.constant_factors:
        pytest.skip("the gradient is no derivative of the loss: factors are constants in it")
    given = _given(name, kind)
    if given is None:
        pytest.skip("the loss takes no such target")
    logits, target, options = given

    def function(z):
        return CASES[name].function(z, target, reduction=reduction, **options)

    assert torch.autograd.gradcheck(function, logits.requires_grad_(), fast_mode=False, check_undefined_grad=True)
