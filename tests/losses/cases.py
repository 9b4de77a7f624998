"""What the shared suite runs every registered loss on; options are read off each loss's signature."""

import inspect

import torch

from steelyard.losses.registry import LOSSES

NAMES = sorted(LOSSES)
WEIGHT_OPTIONS = ("weight", "pos_weight", "class_weights")


def batch(rows=12, classes=5, scale=2.0, dtype=torch.float64, seed=0):
    """Logits and labels with one class absent (the last but one) where there are more than two."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, classes, generator=generator, dtype=torch.float64) * scale).to(dtype)
    target = torch.randint(classes, (rows,), generator=generator)
    if classes > 2:
        target[target == classes - 2] = 0
    return logits, target


def weights_of(name, classes, seed=1, dtype=torch.float64):
    """Random weights for every weight argument that the loss has, and a random logit adjustment."""
    generator = torch.Generator().manual_seed(seed)
    accepted = inspect.signature(LOSSES[name].function).parameters
    weights = {
        option: 0.2 + 3 * torch.rand(classes, generator=generator, dtype=torch.float64).to(dtype)
        for option in WEIGHT_OPTIONS
        if option in accepted
    }
    return weights | {"logit_adjustment": torch.randn(classes, generator=generator, dtype=torch.float64).to(dtype)}


def value_and_grad(function, logits, target, upstream=None, **options):
    leaf = logits.detach().clone().requires_grad_()
    loss = function(leaf, target, **options)
    (grad,) = torch.autograd.grad(loss if upstream is None else (loss * upstream).sum(), leaf)
    return loss.detach(), grad
