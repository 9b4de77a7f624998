"""The shared suite: every registered loss meets every test here."""

import copy
import functools
import gc
import io
import pickle
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from torch.nn import functional as F

from steelyard import TrainingSetup, audit, class_weights, log_posterior
from steelyard.balance import GradientLedger, implied_weights, law, mean_confusion
from steelyard.experiments import CompareConfig
from steelyard.forecasting import fit_head
from steelyard.notation import parse_loss
from tests.helpers import CASES, assert_at_most, assert_zero, batch, value_and_grad, weights_of
from tests.oracles import ORACLES

pytestmark = pytest.mark.parametrize("name", list(CASES))
SHAPES = [(1, 2), (1, 5), (2, 2), (12, 5), (40, 3), (4, 30), (7, 200)]


def test_has_an_oracle(name):
    assert CASES[name].name in ORACLES, f"write the slow version of {name} in tests/oracles.py first"


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize(("rows", "classes"), SHAPES)
def test_equals_the_oracle_in_float64(name, rows, classes, scale, weighted):
    logits, target = batch(rows, classes, scale)
    logits = logits.clamp(-1e4, 1e4)
    options = weights_of(name, classes) if weighted else {}
    expected, expected_grad = value_and_grad(CASES[name].oracle, logits, target, **options)
    loss, grad = value_and_grad(CASES[name].function, logits, target, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 5.0, 1e4])
@pytest.mark.parametrize(("rows", "classes"), SHAPES)
def test_float32_is_near_the_oracle(name, rows, classes, scale):
    logits, target = batch(rows, classes, scale, torch.float32)
    expected, expected_grad = value_and_grad(CASES[name].oracle, logits.double(), target)
    loss, grad = value_and_grad(CASES[name].function, logits, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-12)
    allowed = 1e-5 * expected_grad.abs() + 1e-12
    if CASES[name].link == "softmax":
        allowed += 1e-7  # torch's cross-entropy takes p - 1 for the label, which cancels where p is near 1
    if CASES[name].separable_over == "columns":
        allowed += 1e-6 * torch.sigmoid(logits.double())  # p (1 + c (1 - p)) may cancel; p sets the scale
    assert_at_most((grad.double() - expected_grad).abs(), allowed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    logits, target = batch(dtype=dtype)
    expected, expected_grad = value_and_grad(CASES[name].function, logits.float(), target)
    loss, grad = value_and_grad(CASES[name].function, logits, target)
    assert loss.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad, expected_grad.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(name, dtype):
    logits, target = batch(dtype=dtype)
    options = weights_of(name, 5, dtype=torch.float32)
    expected, expected_grad = value_and_grad(CASES[name].function, logits, target, **options)
    with torch.autocast("cpu", torch.bfloat16):
        loss, grad = value_and_grad(CASES[name].function, logits, target, **options)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(grad, expected_grad)


def _derivative_only(name):
    if CASES[name].loss.constant_factors:
        pytest.skip("its gradient, which equals the oracle's, is no derivative of its value")


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(name, reduction, weighted):
    _derivative_only(name)
    logits, target = batch(7, 4)
    options = weights_of(name, 4) if weighted else {}
    assert torch.autograd.gradcheck(
        lambda z: CASES[name].function(z, target, reduction=reduction, **options), logits.requires_grad_()
    )


def test_second_derivative_is_right_or_refused(name):
    _derivative_only(name)
    logits, target = batch(5, 3)
    try:
        assert torch.autograd.gradgradcheck(lambda z: CASES[name].function(z, target), logits.requires_grad_())
    except RuntimeError as error:
        assert "cannot be differentiated twice" in str(error)  # noqa: PT017


def test_reduction_none_adds_up(name):
    logits, target = batch()
    function = CASES[name].function
    parts = function(logits, target, reduction="none")
    assert parts.shape == ((12,) if CASES[name].separable_over == "rows" else (5,))
    torch.testing.assert_close(parts.sum(), function(logits, target, reduction="sum"), rtol=1e-14, atol=0)
    torch.testing.assert_close(parts.mean(), function(logits, target), rtol=1e-14, atol=0)


def _layouts(logits):
    rows, classes = logits.shape
    storage = torch.randn(rows + 3, 2 * classes, dtype=logits.dtype)
    storage[1 : rows + 1, ::2] = logits
    return {
        "transposed": logits.t().contiguous().t(),
        "view into larger storage": storage[1 : rows + 1, ::2],
        "expanded": logits[:1].expand(rows, classes),
    }


@pytest.mark.parametrize("layout", ["transposed", "view into larger storage", "expanded"])
def test_layout_does_not_matter_and_nothing_is_written(name, layout):
    logits, target = batch()
    view = _layouts(logits)[layout].detach().requires_grad_()
    before, before_target = view.detach().clone(), target.clone()
    loss = CASES[name].function(view, target)
    (grad,) = torch.autograd.grad(loss, view)
    expected, expected_grad = value_and_grad(CASES[name].function, before.contiguous(), target)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-13, atol=1e-16)
    assert torch.equal(view, before)
    assert torch.equal(target, before_target)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dense_equals_flattened(name, memory_format):
    logits, target = batch(24, 5)
    dense = logits.reshape(2, 3, 4, 5).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    options = weights_of(name, 5)
    expected, expected_grad = value_and_grad(CASES[name].function, logits, target, **options)
    loss, grad = value_and_grad(CASES[name].function, dense, target.reshape(2, 3, 4), **options)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad.permute(0, 2, 3, 1).reshape(24, 5), expected_grad, rtol=1e-12, atol=1e-16)
    if CASES[name].separable_over == "rows":
        parts = CASES[name].function(dense, target.reshape(2, 3, 4), reduction="none")
        assert parts.shape == (2, 3, 4)


@pytest.mark.parametrize("ignore_index", [-100, 255, 1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ignoring_equals_dropping(name, ignore_index, reduction):
    logits, target = batch(20, 5)
    target = target.masked_fill(target == 1, 0)
    ignored = torch.arange(20) % 3 == 1
    target = target.masked_fill(ignored, ignore_index)
    options = weights_of(name, 5) | {"reduction": reduction}
    expected, expected_grad = value_and_grad(CASES[name].function, logits[~ignored], target[~ignored], **options)
    loss, grad = value_and_grad(CASES[name].function, logits, target, ignore_index=ignore_index, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad[~ignored], expected_grad, rtol=1e-12, atol=1e-16)
    assert_zero(grad[ignored])


@pytest.mark.parametrize("rows", [0, 6])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_to_count_is_zero_with_a_graph(name, rows, reduction, weighted):
    logits = torch.randn(rows, 5, requires_grad=True)
    target = torch.full((rows,), -100)
    options = weights_of(name, 5, dtype=torch.float32) if weighted else {}
    loss = CASES[name].function(logits, target, reduction=reduction, **options)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(rows, 5))


def test_all_weights_zero_is_zero(name):
    logits, target = batch()
    zeros = {option: w * 0 for option, w in weights_of(name, 5).items() if option not in DIVISORS}
    loss, grad = value_and_grad(CASES[name].function, logits, target, **zeros)
    assert loss == 0
    assert_zero(grad)


@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (6, 1), (1, 2), (6, 4)])
def test_one_class_in_the_batch_is_defined(name, rows, classes):
    logits, target = batch(rows, classes)[0], torch.zeros(rows, dtype=torch.long)
    expected, expected_grad = value_and_grad(CASES[name].oracle, logits, target)
    loss, grad = value_and_grad(CASES[name].function, logits, target)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-16)


def test_absent_class_is_still_pushed_down(name):
    logits, target = batch()
    absent = 3
    assert absent not in target
    _, grad = value_and_grad(CASES[name].function, logits, target)
    assert grad[:, absent].sum() > 0


def test_infinite_and_nan_logits_never_give_a_wrong_finite_number(name):
    logits, target = batch()
    for value in (torch.nan, torch.inf):
        bad = logits.clone()
        bad[0, (target[0] + 1) % 5] = value  # an output that should be low
        if CASES[name].bounded and value == torch.inf:
            limit = CASES[name].function(bad.clamp(max=1e4), target)
            torch.testing.assert_close(CASES[name].function(bad, target), limit)
        else:
            assert not CASES[name].function(bad, target).isfinite()
        bad = logits.clone()
        bad[0, target[0]] = -value  # its own output, which should be high
        assert not CASES[name].function(bad, target).isfinite()
    for column, value in ((target[0] + 1) % 5, -torch.inf), (target[0], torch.inf):
        right, near = logits.clone(), logits.clone()
        right[0, column], near[0, column] = value, 1e4 if value > 0 else -1e4
        loss, limit = CASES[name].function(right, target), CASES[name].function(near, target)
        if name in ("softmax", "class-smoothing") and value > 0:
            assert loss.isnan()  # as in torch: inf - inf
        else:
            torch.testing.assert_close(loss, limit)


def test_upstream_gradient_and_second_backward(name):
    logits, target = batch()
    _, unit = value_and_grad(CASES[name].function, logits, target)
    _, scaled = value_and_grad(CASES[name].function, logits, target, upstream=torch.tensor(-2.5))
    torch.testing.assert_close(scaled, -2.5 * unit, rtol=1e-14, atol=0)
    leaf = logits.clone().requires_grad_()
    parts = CASES[name].function(leaf, target, reduction="none")
    upstream = torch.linspace(-1, 2, len(parts), dtype=parts.dtype)
    total = (parts * upstream).sum() + leaf.square().sum()
    (first,) = torch.autograd.grad(total, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(total, leaf)
    assert torch.equal(first, second)
    _, expected = value_and_grad(CASES[name].oracle, logits, target, upstream=upstream, reduction="none")
    torch.testing.assert_close(first, expected + 2 * logits, rtol=1e-12, atol=1e-14)


def test_without_gradient(name):
    logits, target = batch()
    with torch.no_grad():
        loss = CASES[name].function(logits.clone().requires_grad_(), target)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, value_and_grad(CASES[name].function, logits, target)[0], rtol=1e-14, atol=0)


# Invariants ----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 20), classes=st.integers(2, 25), scale=st.floats(1e-3, 100), seed=st.integers(0, 2**31))
def test_invariants(name, rows, classes, scale, seed):
    """Row order and column names do not matter, a batch twice is the batch once, no loss is negative."""
    logits, target = batch(rows, classes, scale, seed=seed)
    options = weights_of(name, classes, seed=seed)
    function = CASES[name].function
    loss, grad = value_and_grad(function, logits, target, **options)
    assert loss >= 0
    close = {"rtol": 1e-10, "atol": 1e-14}

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows, generator=generator)
    permuted, permuted_grad = value_and_grad(function, logits[order], target[order], **options)
    torch.testing.assert_close(permuted, loss, **close)
    torch.testing.assert_close(permuted_grad, grad[order], **close)

    names = torch.randperm(classes, generator=generator)  # new column c holds old class names[c]
    renamed = {option: w[names] for option, w in options.items()}
    new_target = torch.argsort(names)[target]
    permuted, permuted_grad = value_and_grad(function, logits[:, names], new_target, **renamed)
    torch.testing.assert_close(permuted, loss, **close)
    torch.testing.assert_close(permuted_grad, grad[:, names], **close)

    twice, _ = value_and_grad(function, torch.cat([logits, logits]), torch.cat([target, target]), **options)
    torch.testing.assert_close(twice, loss, **close)


# Bad input -----------------------------------------------------------------------------------------------

LOGITS, TARGET = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
META = torch.ones(3, device="meta")
BAD_INPUT = {
    "integer logits": (TypeError, "logits must be floating point, got int64", (LOGITS.long(), TARGET)),
    "logits no tensor": (TypeError, "logits must be a tensor, got list", ([[0.0]], TARGET)),
    "flat logits": (ValueError, r"shape .* got \((3|4),\)", (LOGITS[0], TARGET)),
    "no columns": (ValueError, r"K >= 1, got \(4, 0\)", (LOGITS[:, :0], TARGET)),
    "float target": (TypeError, "integer dtype, got float32", (LOGITS, TARGET.float())),
    "target shape": (ValueError, r"shape \(4,\) for logits of shape \(4, 3\), got \(3,\)", (LOGITS, TARGET[:3])),
    "label too high": (ValueError, "0 to 2 .* got 3 at position 2", (LOGITS, torch.tensor([0, 1, 3, 0]))),
    "label negative": (ValueError, "got -1 at position 1", (LOGITS, torch.tensor([0, -1, 2, 0]))),
    "label in dense": (
        ValueError,
        r"got 7 at position \(1, 0\)",
        (LOGITS.view(2, 3, 2), torch.tensor([[0, 1], [7, 0]])),
    ),
    "target elsewhere": (ValueError, "target must be on the device of logits, cpu", (LOGITS, TARGET.to("meta"))),
}
BAD_OPTION = {
    "reduction": (ValueError, "must be one of 'none', 'mean', 'sum', got 'average'", {"reduction": "average"}),
    "ignore_index": (TypeError, "ignore_index must be an int, got NoneType", {"ignore_index": None}),
    "weight no tensor": (TypeError, "must be a tensor of shape", {"weight": [1.0, 1.0, 1.0]}),
    "weight length": (ValueError, r"must have shape \(3,\), got \(2,\)", {"weight": torch.ones(2)}),
    "weight negative": (ValueError, "got -1.0 at position 1", {"weight": torch.tensor([1.0, -1, 1])}),
    "weight NaN": (ValueError, "got nan at position 0", {"weight": torch.tensor([torch.nan, 1, 1])}),
    "weight complex": (TypeError, "integer dtype, got complex64", {"weight": torch.ones(3) * 1j}),
    "weight elsewhere": (ValueError, "must be on the device of logits, cpu, got meta", {"weight": META}),
}


SIGNED = ("logit_adjustment", "margins")  # vectors that may have negative values
DIVISORS = ("confidence_margins",)  # vectors that may not have zeros


@pytest.mark.parametrize("case", [*BAD_INPUT, *BAD_OPTION])
def test_bad_input_gets_one_sentence(name, case):
    error, message, given_arguments = (BAD_INPUT | BAD_OPTION)[case]
    arguments, options = (given_arguments, {}) if case in BAD_INPUT else ((LOGITS, TARGET), given_arguments)
    weight = next(option for option in CASES[name].weights if option not in SIGNED)
    options = {weight if key == "weight" else key: value for key, value in options.items()}
    with pytest.raises(error, match=message) as caught:
        CASES[name].function(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_integer_labels_of_any_width(name, dtype):
    logits, target = batch()
    expected = CASES[name].function(logits, target)
    assert torch.equal(CASES[name].function(logits, target.to(dtype)), expected)


def test_integer_weights_are_converted(name):
    logits, target = batch()
    whole = {option: torch.arange(1, 6) for option in weights_of(name, 5)}
    floating = {option: w.double() for option, w in whole.items()}
    expected = CASES[name].function(logits, target, **floating)
    assert torch.equal(CASES[name].function(logits, target, **whole), expected)


# Targets -------------------------------------------------------------------------------------------------


def test_arrays_and_sequences_are_targets(name):
    logits, target = batch()
    expected = CASES[name].function(logits, target)
    for other in (target.numpy(), target.tolist(), target.to(torch.int16).numpy()):
        assert torch.equal(CASES[name].function(logits, other), expected)


def test_classes_may_come_last(name):
    logits, target = batch(24, 5)
    dense = logits.reshape(4, 6, 5)
    expected, expected_grad = value_and_grad(CASES[name].function, logits, target)
    loss, grad = value_and_grad(CASES[name].function, dense, target.reshape(4, 6), class_dim=-1)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad.reshape(24, 5), expected_grad, rtol=1e-12, atol=1e-16)
    with pytest.raises(ValueError, match="class_dim must be a dimension of logits after the first, got 0"):
        CASES[name].function(dense, target.reshape(4, 6), class_dim=0)


def _rows_only(name):
    if CASES[name].separable_over != "rows":
        pytest.skip("a function of the whole batch")


@pytest.mark.parametrize("normalization", ["weights", "count", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sample_weights_multiply_the_losses_of_samples(name, normalization, weighted):
    _rows_only(name)
    logits, target = batch(12, 5)
    options = weights_of(name, 5) if weighted else {}
    sample = torch.arange(12) % 3 / 2
    each = CASES[name].function(logits, target, reduction="none", **options)
    loss = CASES[name].function(
        logits, target, sample_weight=sample.tolist(), normalization=normalization, **options
    )
    c = options["class_weights"][target] if weighted else torch.ones(12, dtype=torch.float64)
    over = {"weights": (sample * c).sum(), "count": 12, "none": 1}[normalization]
    torch.testing.assert_close(loss, (each * sample).sum() / over, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.ones(3), ValueError, r"sample_weight must have shape \(12,\), one a sample, got \(3,\)"),
        (
            torch.full((12,), -1.0),
            ValueError,
            "sample_weight must be finite and not negative, got -1.0 at position 0",
        ),
        (torch.full((12,), torch.inf), ValueError, "sample_weight must be finite"),
        (torch.ones(12, dtype=torch.complex64), TypeError, "sample_weight must be of a floating or integer dtype"),
    ],
)
def test_bad_sample_weights_get_one_sentence(name, bad, error, message):
    _rows_only(name)
    with pytest.raises(error, match=message):
        CASES[name].function(*batch(), sample_weight=bad)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_label_smoothing_mixes_the_losses_of_all_labels(name, epsilon, weighted):
    _rows_only(name)
    logits, target = batch(6, 4)
    if "label_smoothing" in CASES[name].loss.refuses:
        with pytest.raises(TypeError, match="takes no label_smoothing: a smoothed label belongs to no one class"):
            CASES[name].function(logits, target, label_smoothing=epsilon)
        return
    options = weights_of(name, 4) if weighted else {}
    plain = {key: value for key, value in options.items() if key != "class_weights"} | {"reduction": "none"}
    own = CASES[name].function(logits, target, **plain)
    every = torch.stack([CASES[name].function(logits, torch.full((6,), k), **plain) for k in range(4)])
    expected = (1 - epsilon) * own + epsilon * every.mean(0)
    if weighted:
        expected = expected * options["class_weights"][target]
    smoothed = CASES[name].function(logits, target, label_smoothing=epsilon, reduction="none", **options)
    torch.testing.assert_close(smoothed, expected, rtol=1e-12, atol=1e-14)


def test_targets_in_the_logits_shape(name):
    """Where a loss takes them, one-hot rows are their labels, and what lies between is linear in the target."""
    _rows_only(name)
    logits, target = batch(8, 4)
    function, one_hot = CASES[name].function, torch.nn.functional.one_hot(target, 4)
    if CASES[name].loss.why_labels is not None:
        with pytest.raises(
            TypeError, match=f"{CASES[name].name} takes nothing else: {CASES[name].loss.why_labels}"
        ):
            function(logits, one_hot.double())
        return
    options = {k: w for k, w in weights_of(name, 4).items() if k != "class_weights"} | {"reduction": "none"}
    expected = function(logits, target, **options)
    for dtype in (torch.float32, torch.float64, torch.int64):
        torch.testing.assert_close(
            function(logits, one_hot.to(dtype), **options), expected, rtol=1e-12, atol=1e-14
        )
    other = torch.nn.functional.one_hot(target.roll(1), 4)
    mixed = function(logits, 0.7 * one_hot.double() + 0.3 * other.double(), **options)
    expected = 0.7 * expected + 0.3 * function(logits, other, **options)
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(lambda z: function(z, one_hot.double(), **options), logits.requires_grad_())
    for bad, value in ((-0.1, "-0.1"), (1.5, "1.5")):
        wrong = one_hot.double()
        wrong[2, 1] = bad
        with pytest.raises(ValueError, match=f"numbers from 0 to 1.*got {value} at row 2, output 1"):
            function(logits, wrong)
    if CASES[name].link == "softmax":
        with pytest.raises(ValueError, match="soft target rows must sum to 1, got 2 in row 0"):
            function(logits, torch.full((8, 4), 0.5))
    else:
        with pytest.raises(
            ValueError, match="are for class labels: a sample of a multi-hot target has no one class"
        ):
            function(logits, one_hot.double(), class_weights=torch.ones(4))


def test_soft_targets_mix_weighted_samples(name):
    _rows_only(name)
    if CASES[name].link != "softmax" or CASES[name].loss.why_labels is not None:
        pytest.skip("takes no soft targets")
    logits, _ = batch(8, 4)
    soft, options = torch.softmax(batch(8, 4, seed=3)[0], 1), weights_of(name, 4)
    each = torch.stack(
        [CASES[name].function(logits, torch.full((8,), k), reduction="none", **options) for k in range(4)], 1
    )
    loss = CASES[name].function(logits, soft, reduction="none", **options)
    torch.testing.assert_close(loss, (soft * each).sum(1), rtol=1e-12, atol=1e-14)


def test_loss_of_a_sample_is_as_trained_without_its_class_weight(name):
    _rows_only(name)
    logits, target = batch()
    options = weights_of(name, 5)
    module = CASES[name].module(**options, ignore_index=1, reduction="sum")
    expected = CASES[name].function(
        logits, target, **{k: w for k, w in options.items() if k != "class_weights"}, reduction="none"
    )
    torch.testing.assert_close(module.double().per_sample(logits, target), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_first_bias_is_where_the_counts_alone_leave_the_loss(name, weighted):
    counts = torch.tensor([60, 30, 9, 1])
    options = {k: w for k, w in weights_of(name, 4).items() if k != "class_weights"} if weighted else {}
    module = CASES[name].module(**options)
    bias = module.first_bias(counts).double()
    assert not bias.requires_grad
    bias.requires_grad_()
    target = torch.repeat_interleave(torch.arange(4), counts)
    loss = CASES[name].function(bias.expand(100, 4), target, **options)
    (gradient,) = torch.autograd.grad(loss, bias)
    rounded = 3e-7 / float(options.get("confidence_margins", torch.ones(1)).min())  # the bias is float32
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=rounded)
    with pytest.raises(ValueError, match="no samples of class 1"):
        module.first_bias([3, 0, 2, 1])


def test_first_bias_of_multi_label_targets_counts_samples(name):
    counts, samples = [60, 30, 9], 80
    if CASES[name].link != "logistic" or CASES[name].separable_over == "columns":
        with pytest.raises((TypeError, ValueError), match="num_samples"):
            CASES[name].module().first_bias(counts, num_samples=samples)
        return
    module = CASES[name].module(pos_weight=[1.0, 2.0, 0.5])
    bias = module.first_bias(counts, num_samples=samples).double().requires_grad_()
    target = torch.stack([(torch.arange(samples) < n).double() for n in counts], 1)
    (gradient,) = torch.autograd.grad(module(bias.expand(samples, 3), target), bias)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=3e-7)


# Transformations -----------------------------------------------------------------------------------------


def _compiled(name, backend):
    torch.compiler.reset()
    return torch.compile(CASES[name].function, fullgraph=True, backend=backend)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled_equals_eager_without_recompiling(name, backend):
    compiled = _compiled(name, backend)
    options = weights_of(name, 5, dtype=torch.float32)
    for step, labels in enumerate([[0, 1, 2, 3, 4, 0], [2] * 6, [4, 4, 1, 1, -100, -100], [-100] * 6]):
        logits, target = batch(6, 5, dtype=torch.float32, seed=step)[0], torch.tensor(labels)
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            loss, grad = value_and_grad(compiled, logits, target, **options)
        expected, expected_grad = value_and_grad(CASES[name].function, logits, target, **options)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("label", [-1, 5, 70])
@pytest.mark.parametrize("classes", [5, 40])  # fewer than rows, and more
@pytest.mark.filterwarnings("ignore")
def test_a_label_out_of_range_stops_compiled_and_unvalidated_code_too(name, classes, label):
    logits, target = batch(12, classes, dtype=torch.float32)
    target[3] = label if label != 5 else classes
    for function, options in ((CASES[name].function, {"validate": False}), (_compiled(name, "aot_eager"), {})):
        with pytest.raises((RuntimeError, IndexError), match=r"(?i)target|index"):
            value_and_grad(function, logits, target, **options)


@pytest.mark.filterwarnings("ignore")
def test_export(name):
    logits, target = batch(dtype=torch.float32)
    module = CASES[name].module()
    exported = torch.export.export(module, (logits, target)).module()
    other, other_target = batch(dtype=torch.float32, seed=5)
    torch.testing.assert_close(exported(other, other_target), module(other, other_target))


def test_vmap_and_functional_gradient(name):
    function = CASES[name].function
    logits = torch.stack([batch(seed=s)[0] for s in range(3)])
    target = torch.stack([batch(seed=s)[1] for s in range(3)])
    expected = [value_and_grad(function, z, y) for z, y in zip(logits, target, strict=True)]
    close = {"rtol": 1e-13, "atol": 1e-16}
    torch.testing.assert_close(
        torch.vmap(function)(logits, target), torch.stack([e[0] for e in expected]), **close
    )
    grads = torch.vmap(torch.func.grad(function))(logits, target)
    torch.testing.assert_close(grads, torch.stack([e[1] for e in expected]), **close)


def test_nothing_waits_for_the_device(name):
    """On the meta device there are no values: any look at one (`.item()`, `bool()`, `unique()`) raises."""
    logits = torch.zeros(12, 5, device="meta", requires_grad=True)
    target = torch.zeros(12, dtype=torch.long, device="meta")
    options = {k: w.to("meta") for k, w in weights_of(name, 5, dtype=torch.float32).items()}
    loss = CASES[name].function(logits, target, **options)
    loss.backward()
    assert loss.shape == ()
    assert logits.grad.shape == (12, 5)


# Modules -------------------------------------------------------------------------------------------------


def test_module_equals_function(name):
    logits, target = batch(dtype=torch.float32)
    options = weights_of(name, 5, dtype=torch.float32)
    module = CASES[name].module(**options, reduction="sum", ignore_index=1)
    expected = CASES[name].function(logits, target, **options, reduction="sum", ignore_index=1)
    assert torch.equal(module(logits, target), expected)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    restored = CASES[name].module(**options, reduction="sum", ignore_index=1)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for other in [*copies, restored]:
        assert torch.equal(other(logits, target), expected)
    assert torch.equal(torch.func.functional_call(module, {}, (logits, target)), expected)
    assert "reduction=sum" in repr(module)


def test_module_weights_stay_out_of_checkpoints_and_take_sequences(name):
    options = {option: [1, 2, 3] for option in weights_of(name, 3)}
    module = CASES[name].module(**options)
    assert not module.state_dict()
    assert {getattr(module, option).dtype for option in options} == {torch.float32}
    for option in options:
        bad, rule = (torch.inf, "finite") if option in SIGNED else (-1.0, "finite and not negative")
        rule = "finite and at least 1e-08" if option in DIVISORS else rule
        with pytest.raises(ValueError, match=f"{option} must be {rule}, got {bad} at position 0"):
            CASES[name].module(**{option: [bad, 2.0, 3.0]})
        with pytest.raises(TypeError, match=f"{option} must hold numbers, got a value of type list"):
            CASES[name].module(**{option: [[1.0]]})
        with pytest.raises(ValueError, match=rf"{option} must have shape \(K,\), got \(1, 1\)"):
            CASES[name].module(**{option: torch.ones(1, 1)})


# Memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "classes"), [(8, 4000), (4000, 8), (300, 300)])
def test_saves_few_buffers_beside_the_logits(name, rows, classes):
    logits, target = batch(rows, classes, dtype=torch.float32)
    leaf = logits.requires_grad_()
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        CASES[name].function(leaf, target)
    saved.pop(leaf.untyped_storage().data_ptr(), None)
    assert sum(saved.values()) <= CASES[name].buffers * rows * classes * 4 + 200 * (rows + classes)


def test_nothing_outlives_the_step(name):
    logits, target = batch()
    leaf = logits.requires_grad_()
    loss = CASES[name].function(leaf, target)
    loss.backward()
    node, grad = weakref.ref(loss), weakref.ref(leaf.grad)
    del loss
    leaf.grad = None
    assert node() is None
    assert grad() is None


@pytest.mark.slow
def test_five_hundred_steps_do_not_grow(name):
    logits, target = batch(dtype=torch.float32)
    leaf = logits.requires_grad_()
    module = CASES[name].module()
    alive = []
    for step in range(500):
        module(leaf, target).backward()
        leaf.grad = None
        if step in (100, 499):
            gc.collect()
            alive.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
    assert alive[1] <= alive[0]


# What follows from a loss: law, implied weights, posterior, its name ------------------------------------


CLASS_WEIGHTS = torch.tensor([0.3, 1.0, 4.0, 2.0], dtype=torch.float64)


OF_FOUR = {  # what makes it another loss than its neighbour
    "eqlv2": {"gradient_ratio": [1.5, 0.9, 0.7, 0.5]},
    "margin-softmax": {"margins": [0.1, 0.2, 0.3, 0.8], "logit_factors": [1.0, 0.9, 0.8, 0.6]}
    | {"confidence_margins": [1.4, 1.1, 0.9, 0.6]},
    "seesaw": {"class_counts": [120.0, 60.0, 40.0, 20.0]},
}


def _weighted(name, class_weights):
    return CASES[name].module(class_weights=class_weights.tolist(), **OF_FOUR.get(name, {}))


def _balance(parameters, objective):
    """Go where the gradient is zero, though it may be no derivative of the objective."""

    def gradient(x):
        for parameter, part in zip(parameters, torch.split(torch.tensor(x), sizes), strict=True):
            parameter.data = part.reshape(parameter.shape)
        found = torch.autograd.grad(objective(), parameters)
        return torch.cat([part.reshape(-1) for part in found]).numpy()

    sizes = [parameter.numel() for parameter in parameters]
    start = torch.cat([parameter.detach().reshape(-1) for parameter in parameters]).numpy()
    found = least_squares(gradient, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert abs(gradient(found.x)).max() < 1e-9


def _minimise(parameters, objective, restarts=3):
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=3000,
        history_size=50,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    for _ in range(restarts):
        optimizer.step(closure)


@functools.cache
def _polished(name):
    """Logits of a linear model at the optimum of the loss on overlapping classes, their labels and the setup."""
    generator = torch.Generator().manual_seed(0)
    target = torch.repeat_interleave(torch.arange(4), torch.tensor([120, 60, 40, 20]))
    features = torch.randn(4, 3, generator=generator)[target] + torch.randn(240, 3, generator=generator)
    features = features.double()
    if CASES[name].loss.constant_factors:
        loss = _weighted(name, CLASS_WEIGHTS)
        W, b = (torch.zeros(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (4,)))
        _balance([W, b], lambda: loss(features @ W + b, target) + 0.01 * W.square().sum())
        logits = (features @ W + b).detach()
        with pytest.raises(ValueError, match=f"{name} holds factors constant"):
            fit_head(features, target, loss=loss)
    elif CASES[name].separable_over == "rows":
        loss = _weighted(name, CLASS_WEIGHTS)
        logits = fit_head(features, target, loss=loss, weight_decay=0.01).logits(features)
    else:
        loss = CASES[name].module()
        W, b = (torch.zeros(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (4,)))
        _minimise([W, b], lambda: loss(features @ W + b, target) + 0.01 * W.square().sum())
        logits = (features @ W + b).detach()
    return logits, target, TrainingSetup(loss)


def test_law_holds_at_the_optimum_and_nowhere_else(name):
    logits, target, setup = _polished(name)
    balance = law(logits, target, setup)
    assert balance.misfit < 1e-6
    assert float((balance.pull_up.abs() + balance.push_down.abs()).min()) > 1e-3, "a law of nothing would hold too"
    moved = logits + torch.tensor([0.5, 0.0, 0.0, -0.5])
    assert law(moved, target, setup).misfit > 0.02


def test_implied_weights_are_those_of_the_loss(name):
    logits, target, setup = _polished(name)
    if CASES[name].separable_over != "rows":
        with pytest.raises(ValueError, match="is a function of the whole batch, so it has no gradients by class"):
            GradientLedger(setup, 4)
        return
    ledger = GradientLedger(setup, 4)
    ledger.update(logits, target)
    implied = implied_weights(ledger)
    assert implied.groups == ((0, 1, 2, 3),)
    ratio = implied.ratio_to(CLASS_WEIGHTS)
    torch.testing.assert_close(ratio, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)


def test_posterior_is_that_of_the_data(name):
    """A model with free logits for each of five inputs: its posterior is the frequency of the labels there."""
    counts = torch.tensor([[30, 5, 3, 2], [10, 10, 10, 10], [2, 40, 1, 7], [1, 1, 20, 3], [5, 2, 2, 1]])
    truth = counts.double() / counts.sum(1, keepdim=True)
    cell = torch.arange(5).repeat_interleave(counts.sum(1))
    label = torch.cat([torch.arange(4).repeat_interleave(row) for row in counts])
    rows = CASES[name].separable_over == "rows"
    loss = _weighted(name, CLASS_WEIGHTS) if rows else CASES[name].module(detach_weights=True)
    table = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)
    if rows:
        solve = _balance if CASES[name].loss.constant_factors else _minimise
        solve([table], lambda: loss(table[cell], label))
    P = torch.zeros(4, 4, dtype=torch.float64)
    while not rows:  # detached weights: they stay as they are while the logits move
        before, P = P, mean_confusion(table.detach()[cell], label, link="logistic")[0]
        if (P - before).abs().max() < 1e-10:
            break
        under = functools.partial(CASES[name].function, mean_confusion=P)
        _minimise([table], lambda under=under: under(table[cell], label), restarts=1)
    table = table.detach()
    setup = TrainingSetup(loss, class_counts=counts.sum(0))
    options = {} if rows else {"mean_confusion": P}
    found = log_posterior(table, setup, **options).exp()
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-6)
    prior = torch.full((4,), 0.25, dtype=torch.float64)
    balanced = truth / counts.sum(0)
    expected = balanced / balanced.sum(1, keepdim=True)
    torch.testing.assert_close(log_posterior(table, setup, prior, **options).exp(), expected, rtol=0, atol=1e-6)
    naive = torch.softmax(table if CASES[name].link == "softmax" else F.logsigmoid(table), 1)
    assert (naive - truth).abs().max() > 0.05, "nothing would have had to be undone"


def test_audit_finds_no_fault(name):
    logits, target, setup = _polished(name)
    report = audit(logits, target, setup)
    assert report.faults == ()
    if CASES[name].separable_over == "rows":
        assert "weights_acted" in [finding.name for finding in report.findings]
        ratio = report.implied_over_stated
        torch.testing.assert_close(ratio, torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)


def test_audit_finds_weights_that_were_never_applied(name):
    if CASES[name].separable_over != "rows":
        pytest.skip("has no class weights")
    logits, target, _ = _polished(name)
    other = TrainingSetup(_weighted(name, CLASS_WEIGHTS * torch.tensor([9.0, 1, 1, 1 / 9])))
    assert audit(logits, target, other).faults != ()


def test_the_command_line_knows_it(name):
    case = CASES[name]
    text = ":".join([case.name.replace("-", "_"), *(f"{k}={str(v).lower()}" for k, v in case.options.items())])
    spec = parse_loss(text)
    logits, target = batch(12, 3)
    known = {"class_counts": torch.tensor([5.0, 4.0, 3.0])} if "class_counts" in case.loss.needs else {}
    expected = case.function(logits, target, **known)
    assert torch.equal(spec.loss(torch.tensor([5, 4, 3]), 4)(logits, target), expected)
    assert spec.link == case.link
    if spec.running:
        with pytest.raises(ValueError, match=f"must be known from their text, got '{text}'"):
            CompareConfig(losses=[text], seeds=1)
    else:
        assert CompareConfig(losses=[text], seeds=1).losses == [text]
    if case.separable_over == "rows":
        weighted = parse_loss(f"{text}:inverse").loss(torch.tensor([5, 4, 3]), 4)
        assert torch.equal(weighted.class_weights, class_weights([5, 4, 3], "inverse"))
    else:
        with pytest.raises(ValueError, match="takes no class_weights: it balances"):
            parse_loss(f"{text}:inverse")
