"""Soft targets as mixup makes them: our losses against timm's, and against its formulas where it is not installed."""

import pytest
import torch
from torch.nn import functional as F

from steelyard import LGLINRLoss, LogisticLoss, SoftmaxLoss
from steelyard.losses import LGLINRLinear, LogisticLinear


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    hot = F.one_hot(torch.randint(0, 5, (8,), generator=generator), 5).float()
    target = 0.3 * hot + 0.7 * hot.flip(0)
    return torch.randn(8, 5, generator=generator).mul(3).requires_grad_(), 0.9 * target + 0.02


def _same(ours, theirs, logits):
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_softmax_of_soft_targets_is_the_formula_of_timm(batch):
    logits, target = batch
    _same(SoftmaxLoss()(logits, target), torch.sum(-target * F.log_softmax(logits, dim=-1), dim=-1).mean(), logits)


def test_logistic_of_soft_targets_is_the_sum_of_binary_losses(batch):
    logits, target = batch
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    _same(LogisticLoss()(logits, target), each.sum(-1).mean(), logits)


def test_losses_are_those_of_timm_on_the_targets_of_its_mixup(batch):
    timm_loss = pytest.importorskip("timm.loss")
    timm_data = pytest.importorskip("timm.data")
    logits, _ = batch
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    for options in ({"mixup_alpha": 0.8}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "mode": "elem"}):
        mix = timm_data.Mixup(num_classes=5, label_smoothing=0.1, **options)
        _, target = mix(torch.randn(8, 3, 16, 16), labels)
        _same(SoftmaxLoss()(logits, target), timm_loss.SoftTargetCrossEntropy()(logits, target), logits)
        theirs = timm_loss.BinaryCrossEntropy(smoothing=0, sum_classes=True)(logits, target)
        _same(LogisticLoss()(logits, target), theirs, logits)
        theirs = timm_loss.BinaryCrossEntropy(smoothing=0)(logits, target)
        _same(LogisticLoss()(logits, target) / 5, theirs, logits)
    theirs = timm_loss.LabelSmoothingCrossEntropy(0.1)(logits, labels)
    _same(SoftmaxLoss(label_smoothing=0.1)(logits, labels), theirs, logits)


def test_lgl_inr_refuses_soft_targets_in_a_sentence(batch):
    with pytest.raises(TypeError, match="lgl-inr takes nothing else"):
        LGLINRLoss()(*batch)


@pytest.mark.parametrize("head", [LGLINRLinear, LogisticLinear])
def test_a_head_in_place_of_the_last_layer_gives_logits_without_a_target(head):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 4))
    model[1] = head(6, 4)
    x, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    logits = model(x)
    torch.testing.assert_close(logits, F.linear(x, model[1].weight, model[1].bias))
    loss = (LGLINRLoss if head is LGLINRLinear else LogisticLoss)()
    torch.testing.assert_close(model[1](x, labels), loss(logits, labels))


def test_a_head_in_place_of_fc_of_torchvision():
    models = pytest.importorskip("torchvision.models")
    model = models.resnet18(weights=None).eval()
    model.fc = LGLINRLinear(model.fc.in_features, 4)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)
