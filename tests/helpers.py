"""What several test files share: batches, the cases that every loss is run in, values with their gradients."""

from dataclasses import dataclass, field
from functools import partial

import torch

from steelyard.losses.registry import LOSSES
from tests.oracles import ORACLES


@dataclass(frozen=True)
class Case:
    """A registered loss with options that make it another formula."""

    name: str
    options: dict = field(default_factory=dict)
    buffers: int = 3
    """Of the logits' size that it may save for its backward pass."""

    @property
    def loss(self):
        return LOSSES[self.name]

    @property
    def function(self):
        return partial(self.loss.function, **self.options) if self.options else self.loss.function

    @property
    def oracle(self):
        return partial(ORACLES[self.name], **self.options)

    def module(self, **options):
        return self.loss(**self.options, **options)

    @property
    def link(self):
        return self.options.get("link", self.loss.link)

    @property
    def separable_over(self):
        return self.loss.separable_over

    @property
    def vectors(self):
        """Options of one value per class."""
        return [key for key, one in self.loss.options.items() if one.kind == "vector"]

    @property
    def weights(self):
        return [key for key in self.vectors if key != "logit_adjustment"]


VARIANTS = {
    "focal, logistic": Case("focal", {"link": "logistic"}, buffers=5),
    "focal, gamma 0.5": Case("focal", {"gamma": 0.5}),
    "lgl-inr, beta 5": Case("lgl-inr", {"beta": 5.0}),
}
CASES = {name: Case(name) for name in sorted(LOSSES)} | VARIANTS
ROW_CASES = {name: case for name, case in CASES.items() if case.separable_over == "rows"}


def batch(rows=12, classes=5, scale=2.0, dtype=torch.float64, seed=0):
    """Logits and labels with one class absent (the last but one) where there are more than two."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, classes, generator=generator, dtype=torch.float64) * scale).to(dtype)
    target = torch.randint(classes, (rows,), generator=generator)
    if classes > 2:
        target[target == classes - 2] = 0
    return logits, target


def weights_of(name, classes, seed=1, dtype=torch.float64):
    """Random weights for every weight option that the loss has, and a random logit adjustment."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        option: 0.2 + 3 * torch.rand(classes, generator=generator, dtype=torch.float64).to(dtype)
        for option in sorted(CASES[name].weights)
    }
    return weights | {"logit_adjustment": torch.randn(classes, generator=generator, dtype=torch.float64).to(dtype)}


def value_and_grad(function, logits, target, upstream=None, **options):
    leaf = logits.detach().clone().requires_grad_()
    loss = function(leaf, target, **options)
    (grad,) = torch.autograd.grad(loss if upstream is None else (loss * upstream).sum(), leaf)
    return loss.detach(), grad
