"""What several test files share: batches, the cases that every loss is run in, values with their gradients."""

import os
import time
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.multiprocessing
from torch.nn import functional as F

from steelyard.cli import main
from steelyard.losses.registry import LOSSES
from tests.oracles import ORACLES


@dataclass(frozen=True)
class Case:
    """A registered loss with options that make it another formula."""

    name: str
    options: dict = field(default_factory=dict)
    buffers: int = 3
    """Of the logits' size that it may save for its backward pass."""
    bounded: bool = False
    """Whether an output that is far too high has a finite loss."""

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
        options = self.loss.options.items()
        return [key for key, one in options if one.kind == "vector" and one.link in (None, self.link)]

    @property
    def weights(self):
        return [key for key in self.vectors if key != "logit_adjustment" and self.loss.options[key].high > 1]


VARIANTS = {
    "asymmetric": Case("asymmetric", buffers=8, bounded=True),
    "asymmetric, gamma_pos 0": Case("asymmetric", {"gamma_pos": 0.0}, buffers=8, bounded=True),
    "asymmetric, clip 0": Case("asymmetric", {"clip": 0.0, "gamma_neg": 0.5}, buffers=5),
    "focal, logistic": Case("focal", {"link": "logistic"}, buffers=5),
    "focal, gamma 0.5": Case("focal", {"gamma": 0.5}),
    "poly1, epsilon -0.5": Case("poly1", {"epsilon": -0.5}),
    "margin-softmax, scale 4": Case("margin-softmax", {"scale": 4.0}, buffers=5),
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


# Assertions that say in a line what broke ---------------------------------------------------------------


def assert_zero(x):
    where = (x != 0).nonzero()
    assert len(where) == 0, (
        f"{len(where)} of {x.numel()} are not 0, such as {x[tuple(where[0])].item()} at {where[0].tolist()}"
    )


def assert_finite(x):
    where = (~x.isfinite()).nonzero()
    assert len(where) == 0, f"{x[tuple(where[0])].item()} at {where[0].tolist()}"


def assert_nan(x):
    where = (~x.isnan()).nonzero()
    assert len(where) == 0, f"{x[tuple(where[0])].item()} at {where[0].tolist()} is no NaN"


def assert_at_most(x, bound):
    bound = torch.as_tensor(bound, dtype=x.dtype, device=x.device).expand(x.shape)
    where = (~(x <= bound)).nonzero()
    assert len(where) == 0, (
        f"{len(where)} of {x.numel()} are too large, such as {x[tuple(where[0])].item()} at {where[0].tolist()}, "
        f"where {bound[tuple(where[0])].item()} is allowed"
    )


def assert_at_least(x, bound):
    assert_at_most(-x, -torch.as_tensor(bound, dtype=x.dtype, device=x.device))


def assert_positive(x):
    where = (~(x > 0)).nonzero()
    assert len(where) == 0, f"{x[tuple(where[0])].item()} at {where[0].tolist()} is not positive"


# Linear models at their optimum --------------------------------------------------------------------------

WEIGHTS = torch.tensor([1.0, 5.0, 0.3, 2.0], dtype=torch.float64)
COUNTS = torch.tensor([60, 25, 10, 5])


def linear_data(outputs=4):
    """Features (100, 6) and labels of overlapping classes."""
    generator = torch.Generator().manual_seed(0)
    target = torch.repeat_interleave(torch.arange(4), COUNTS) % max(outputs, 2)
    features = torch.randn(100, 6, generator=generator, dtype=torch.float64)
    features[:, 0] += target
    features[:, 1] -= (target == 1).double()
    return features, target


def fit_logits(loss, outputs=4):
    """The logits of a linear model at the optimum of a loss, and the labels."""
    logits, target, _, _ = fit_linear(loss, outputs)
    return logits, target


def fit_linear(loss, outputs=4, weight_decay=0.0, bias_decay=0.0):
    """A linear model at the optimum of a loss: logits, labels, weight and bias."""
    features, target = linear_data(outputs)
    weight = torch.zeros(outputs, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=3000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(features @ weight.T + bias, target)
        value = value + weight_decay / 2 * weight.square().sum() + bias_decay / 2 * bias.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return (features @ weight.T + bias).detach(), target, weight.detach(), bias.detach()


COUNTS_AT_REST = [600, 200, 100, 50]


def at_rest(loss):
    """The logits and labels, (950, 4), of a linear model that has come to rest under a loss."""
    target = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS_AT_REST))
    x = torch.randn(len(target), 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :4] += 2 * torch.eye(4)[target]
    layer = torch.nn.Linear(6, 4, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=1000, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(layer(x), target)
        value.backward()
        return value

    optimizer.step(closure)
    return layer(x).detach(), target


# Linear heads fused with their loss ----------------------------------------------------------------------


def head_parts(rows=12, features=4, classes=5, dtype=torch.float64, seed=0):
    """Input, weight, bias and labels of a linear head; one class is absent."""
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((rows, features), (classes, features), (classes,))
    )
    target = torch.randint(classes, (rows,), generator=generator)
    target[target == classes - 2] = 0  # a class is absent
    return x, weight, bias, target


def run_head(function, parts, target, upstream=None, wanted=(True, True, True), **options):
    """Loss and the gradients of (input, weight, bias)."""
    x, weight, bias = (
        None if p is None else p.detach().clone().requires_grad_(w) for p, w in zip(parts, wanted, strict=True)
    )
    loss = function(x, weight, target, linear_bias=bias, **options)
    (loss if upstream is None else (loss * upstream).sum()).backward()
    return loss.detach(), [None if p is None else p.grad for p in (x, weight, bias)]


def unfused(name, loss=None):
    """The loss of a linear layer, made in two steps."""
    loss = loss or LOSSES[name].function

    def apply(x, linear_weight, target, *, linear_bias, **options):
        return loss(F.linear(x, linear_weight, linear_bias), target, **options)

    return apply


# Processes -----------------------------------------------------------------------------------------------


def side_by_side(worker, arguments, processes):
    """Call `worker(rank, *arguments)` in so many processes at once and wait for them.

    They are forked, as a process that starts from nothing imports torch for longer than any worker here works.
    """
    torch.multiprocessing.start_processes(worker, arguments, nprocs=processes, start_method="fork")


# Commands and pages --------------------------------------------------------------------------------------

NASTY = ["<script>alert(1)</script>", "\"'&", "$x^2$", "\x1b[31mred\x07", "🦉 owl", "שלום", "x" * 300, "a_b", "", "line\nbreak"]  # fmt: skip


def gone(group):
    """Whether no process of a group is left, in a while."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def run_command(capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err
