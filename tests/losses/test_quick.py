"""The short way of a loss and the general one give the same, and refuse the same in the same words."""

import itertools

import pytest
import torch
from torch import nn

from steelyard.losses import LGLINRLoss, LogisticLoss, SoftmaxLoss, base

LOSSES = {
    "softmax": SoftmaxLoss,
    "logistic": LogisticLoss,
    "lgl-inr": LGLINRLoss,
}
OPTIONS = {
    "softmax": {
        "class_weights": [None, torch.tensor([1.0, 0.5, 3.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0])],
        "normalization": ["weights", "count", "none"],
        "reduction": ["mean", "sum", "none"],
        "label_smoothing": [0.0, 0.1],
    },
    "logistic": {
        "class_weights": [None, torch.tensor([1.0, 0.5, 3.0, 2.0])],
        "normalization": ["count", "none"],
        "reduction": ["mean", "sum", "none"],
        "label_smoothing": [0.0, 0.1],
    },
    "lgl-inr": {
        "beta": [0.0, 1.0, 40.0, "auto"],
        "detach_weights": [False, True],
        "reduction": ["mean", "sum", "none"],
    },
}


def _logits(rows=9, classes=4, dtype=torch.float32):
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)).mul(4).to(dtype)


def _target(rows=9, classes=4):
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(1))


def _value(call, logits):
    leaf = logits.detach().clone().requires_grad_()
    loss = call(leaf)
    loss.sum().backward()
    return loss.detach(), leaf.grad


@pytest.fixture
def general(monkeypatch):
    """Return what calls a function with no short way there."""

    def call(made):
        with monkeypatch.context() as patch:
            patch.setattr(base, "are_plain", lambda *_: False)
            return made()

    return call


def _cases():
    for name, options in OPTIONS.items():
        for values in itertools.product(*options.values()):
            yield name, dict(zip(options, values, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_ways_give_the_same_value_and_gradient(dtype, general):
    logits, target = _logits(dtype=dtype), _target()
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-12 if dtype == torch.float64 else 2e-6
    for name, options in _cases():
        loss = LOSSES[name]
        for call in (lambda z: loss.function(z, target, **options), lambda z: loss(**options)(z, target)):  # noqa: B023
            if dtype == torch.float64 and options.get("class_weights") is not None:
                options = options | {"class_weights": options["class_weights"].double()}
            value, grad = _value(call, logits)
            expected, expected_grad = general(lambda: _value(call, logits))  # noqa: B023
            told = f"{name} under {options}"
            assert value.dtype == expected.dtype, told
            torch.testing.assert_close(
                value, expected, rtol=2e-6 if dtype != torch.float64 else 1e-12, atol=0, msg=told
            )
            torch.testing.assert_close(grad, expected_grad, rtol=tolerance, atol=tolerance, msg=told)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "target",
    [
        torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 4]),
        torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, -1]),
        torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, -(2**63)]),
        torch.tensor([0, 1, 2, 3]),
        torch.zeros(9),
    ],
    ids=["too large", "negative", "least of all", "too few", "floating"],
)
def test_both_ways_refuse_in_the_same_words(name, target, general):
    def refusal():
        with pytest.raises((ValueError, TypeError)) as found:
            LOSSES[name].function(_logits(), target)
        return str(found.value)

    assert refusal() == general(refusal)


@pytest.mark.parametrize("weights", [[-1.0, 1, 1, 1], [float("nan"), 1, 1, 1], [1e31, 1, 1, 1], [1.0, 1]])
def test_weights_are_looked_at_in_the_short_way_too(weights, general):
    def refusal():
        with pytest.raises(ValueError, match="class_weights must") as found:
            SoftmaxLoss.function(_logits(), _target(), class_weights=torch.tensor(weights))
        return str(found.value)

    assert refusal() == general(refusal)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_rows_count_for_nothing_whatever_they_hold(name, general):
    logits, target = _logits(), _target()
    logits[3], target[3] = torch.nan, -100
    keep = torch.arange(9) != 3
    value, grad = _value(lambda z: LOSSES[name].function(z, target), logits)
    expected, expected_grad = general(
        lambda: _value(lambda z: LOSSES[name].function(z, target[keep]), logits[keep])
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad[keep], expected_grad)
    assert bool((grad[3] == 0).all())
    positive = target.masked_fill(target == -100, 2)  # a label that is ignored and could be a class
    torch.testing.assert_close(
        LOSSES[name].function(_logits(), positive, ignore_index=2),
        general(lambda: LOSSES[name].function(_logits(), positive, ignore_index=2)),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_any_layout_and_kind_take_the_way_that_knows_them(name, general):
    target, loss = _target(), LOSSES[name].function
    for logits in (
        _logits(4, 9).T,
        _logits(18)[::2],
        _logits(9, 8)[:, ::2],
        nn.Parameter(_logits()),
        _logits()[:0],
    ):
        labels = target[: len(logits)]
        value, grad = _value(lambda z: loss(z, labels), logits)  # noqa: B023
        expected, expected_grad = general(lambda: _value(lambda z: loss(z, labels), logits))  # noqa: B023
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(grad, expected_grad)
    infinite = _logits()
    infinite[0, 1], infinite[1, 2] = torch.inf, -torch.inf
    if name != "softmax":
        torch.testing.assert_close(loss(infinite, target), general(lambda: loss(infinite, target)))
    dense = torch.softmax(_logits(), 1)
    if name != "lgl-inr":
        torch.testing.assert_close(loss(_logits(), dense), general(lambda: loss(_logits(), dense)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_short_way_is_taken(name, monkeypatch):
    monkeypatch.setattr(LOSSES[name], "evaluate", None)
    LOSSES[name].function(_logits(), _target())
    LOSSES[name]()(_logits(), _target())


@pytest.mark.parametrize("name", LOSSES)
def test_what_looks_on_is_not_passed_by(name, general):
    target, loss = _target(), LOSSES[name].function
    batch = torch.stack([_logits(), _logits() + 1])
    expected = general(lambda: torch.stack([loss(z, target) for z in batch]))
    torch.testing.assert_close(torch.vmap(lambda z: loss(z, target))(batch), expected)
    leaf = _logits().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, target), leaf, create_graph=True)
    if name == "lgl-inr":
        with pytest.raises(RuntimeError, match="the loss cannot be differentiated twice"):
            gradient.sum().backward()
    else:
        torch.autograd.gradgradcheck(lambda z: loss(z, target), _logits(dtype=torch.float64).requires_grad_())


def test_logits_may_change_between_the_loss_and_its_gradient(general):
    def gradient():
        leaf = _logits().requires_grad_()
        logits = leaf * 1
        loss = LGLINRLoss.function(logits, _target())
        logits.detach().zero_()
        loss.backward()
        return leaf.grad

    torch.testing.assert_close(gradient(), general(gradient))


@pytest.mark.parametrize("loss", [SoftmaxLoss, LogisticLoss])
def test_a_loss_made_of_another_does_not_have_its_short_way(loss):
    class Own(loss):
        @classmethod
        def evaluate(cls, logits, target, sample_weight, options):
            return logits.sum() * 0 + 7

    assert Own()(_logits(), torch.arange(9) % 4).item() == 7
