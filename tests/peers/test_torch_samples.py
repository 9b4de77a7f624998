"""torch's own samples and wrong inputs of its two cross-entropies: we give what torch gives, or refuse."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn
from torch.nn import functional as F

from steelyard.losses import LogisticLoss, SoftmaxLoss
from steelyard.losses.functional import logistic_loss, softmax_loss
from tests.peers import torch_samples

# ruff: noqa: B023 (each lambda is called before the next turn of its loop)

pytest.importorskip("expecttest", reason="torch's private test modules need it")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Samples, modules and wrong inputs, collected once for all test processes."""
    file = tmp_path_factory.getbasetemp().parent / "torch_samples.pt"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            subprocess.run([sys.executable, Path(torch_samples.__file__), file], check=True)
    return torch.load(file)


def _agree(ours, torchs, logits, what):
    """Compare two functions of the logits, and their gradients."""
    pairs = []
    for function in (ours, torchs):
        z = logits.detach().clone().requires_grad_()
        value = function(z)
        value.sum().backward()
        pairs.append((value.detach(), z.grad))
    torch.testing.assert_close(pairs[0], pairs[1], rtol=1e-12, atol=1e-14, msg=lambda text: f"{what}: {text}")


def _said(logits, target, options):
    shown = {k: tuple(v.shape) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return f"logits {tuple(logits.shape)}, target {target.dtype} {tuple(target.shape)}, {shown}"


def test_cross_entropy(theirs):
    samples = theirs[0]["cross_entropy"]
    assert len(samples) >= 21
    for logits, target, options in samples:
        what = _said(logits, target, options)
        ours = {"class_weights" if key == "weight" else key: value for key, value in options.items()}
        if target.is_floating_point():
            with pytest.raises(ValueError, match="soft target rows must sum to 1"):  # theirs do not
                softmax_loss(logits, target, **{k: v for k, v in ours.items() if k != "class_weights"})
            target = target / target.sum(1, keepdim=True)
            ours["normalization"] = "count"  # torch's mean over soft targets ignores weights
        if "weight" in options:
            if (options["weight"] < 0).any():
                with pytest.raises(ValueError, match="class_weights must be"):  # a loss of no lower bound
                    softmax_loss(logits, target, **ours)
            options = options | {"weight": options["weight"].abs()}
            ours["class_weights"] = options["weight"]
        _agree(
            lambda z: softmax_loss(z, target, **ours),
            lambda z: F.cross_entropy(z, target, **options),
            logits,
            what,
        )


def _mean_of_outputs_is_sum(value, logits, reduction):
    """Torch's value as ours counts: the sum over the outputs of a sample, and the mean over samples."""
    outputs = logits.shape[1] if logits.dim() > 1 else 1
    if reduction == "none":
        return value.sum(1) if logits.dim() > 1 else value
    return value * outputs if reduction == "mean" else value


def test_binary_cross_entropy_with_logits(theirs):
    samples = theirs[0]["binary_cross_entropy_with_logits"]
    assert len(samples) >= 26
    for logits, target, options in samples:
        what = _said(logits, target, options)
        reduction, weight = options.get("reduction", "mean"), options.get("weight")
        ours = {key: value for key, value in options.items() if key != "weight"}
        if logits.dim() == 0:
            with pytest.raises(ValueError, match=r"logits must have shape \(N,\) for one output"):  # no samples
                logistic_loss(logits, target)
            continue
        if weight is not None:
            if weight.shape != (5,) or (weight < 0).any():
                with pytest.raises(ValueError, match="output_weights must"):  # one weight an output, not negative
                    logistic_loss(logits, target, **ours, output_weights=weight)
            if weight.shape == (5, 5):
                continue  # one weight an element has no counterpart
            weight = weight.abs().expand(5) if weight.dim() < 2 else weight[0].abs()
            ours["output_weights"], options = weight, options | {"weight": weight}
        _agree(
            lambda z: logistic_loss(z, target, **ours),
            lambda z: _mean_of_outputs_is_sum(
                F.binary_cross_entropy_with_logits(z, target, **options),
                z,
                reduction,
            ),
            logits,
            what,
        )


def test_cross_entropy_modules(theirs):
    modules = theirs[1]["CrossEntropyLoss"]
    assert len(modules) >= 100
    for name, options, (logits, target) in modules:
        if logits.dim() == 1:
            with pytest.raises(ValueError, match=r"logits must have shape \(N, K\)"):  # a sample is a batch of one
                SoftmaxLoss()(logits, target)
            logits, target = logits[None], target[None]
        if "weight" in options:
            options = options | {"weight": options["weight"].abs()}
        soft = target.is_floating_point()
        ours = {"class_weights" if key == "weight" else key: value for key, value in options.items()}
        module = SoftmaxLoss(**ours, normalization="count" if soft else "weights")
        _agree(lambda z: module(z, target), lambda z: nn.CrossEntropyLoss(**options)(z, target), logits, name)


def test_binary_cross_entropy_modules(theirs):
    modules = theirs[1]["BCEWithLogitsLoss"]
    assert len(modules) >= 6
    for name, options, (logits, target) in modules:
        if "weight" in options:
            options = options | {"weight": options["weight"].abs().expand(10)}
        ours = {"output_weights" if key == "weight" else key: value for key, value in options.items()}
        module = LogisticLoss(**ours)
        _agree(
            lambda z: module(z, target),
            lambda z: _mean_of_outputs_is_sum(
                nn.BCEWithLogitsLoss(**options)(z, target),
                z,
                options.get("reduction", "mean"),
            ),
            logits,
            name,
        )


def test_what_torch_refuses_is_refused_in_one_sentence(theirs):
    wrong = theirs[2]["CrossEntropyLoss"]
    assert len(wrong) >= 7
    for expected, options, (logits, target) in wrong:
        ours = {"class_weights" if key == "weight" else key: value for key, value in options.items()}
        if "class_weights" in ours:
            ours["class_weights"] = ours["class_weights"].abs()  # it is the shape that is wrong
        try:
            value = SoftmaxLoss(**ours)(logits, target)
        except (TypeError, ValueError) as error:
            assert "\n" not in str(error), expected  # noqa: PT017
        else:
            pytest.fail(f"torch says {expected!r}, we give {value}")
