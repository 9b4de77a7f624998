"""Class weights, initial bias and deferred weights."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from steelyard.losses.functional import lgl_inr_loss, logistic_loss, softmax_loss
from steelyard.weights.adjustments import batch_presence, initial_bias, logit_adjustment
from steelyard.weights.class_weights import class_weights
from steelyard.weights.schedules import DeferredReweighting
from tests.helpers import assert_at_most, assert_finite

SCHEMES = ["none", "inverse", "sqrt_inverse", "effective_number", "median_frequency", "balanced", "power"]
COUNTS = [900, 90, 10, 40]
counts_of_classes = st.lists(st.integers(1, 10**9), min_size=1, max_size=12)


def weights(*args, **options):
    return class_weights(*args, dtype=torch.float64, **options)


@given(counts_of_classes, st.sampled_from(SCHEMES), st.sampled_from(["classes", "samples"]))
def test_the_mean_asked_for_is_one_and_rarer_never_weighs_less(counts, scheme, normalize):
    w, n = weights(counts, scheme, normalize=normalize), torch.tensor(counts, dtype=torch.float64)
    mean = w.mean() if normalize == "classes" else (w * n).sum() / n.sum()
    assert mean.item() == pytest.approx(1, rel=1e-12)
    assert_finite(w)
    order = torch.argsort(n, stable=True)
    assert_at_most(w[order].diff(), 1e-12 * w[order][:-1])


@given(counts_of_classes, st.sampled_from(SCHEMES), st.floats(1, 50), st.sampled_from(["classes", "samples"]))
def test_cap_and_mean_hold_together(counts, scheme, cap, normalize):
    w, n = weights(counts, scheme, max_weight=cap, normalize=normalize), torch.tensor(counts, dtype=torch.float64)
    assert w.max() <= cap
    mean = w.mean() if normalize == "classes" else (w * n).sum() / n.sum()
    assert mean.item() == pytest.approx(1, rel=1e-12)
    free = weights(counts, scheme, normalize=normalize)
    if free.max() <= cap:
        torch.testing.assert_close(w, free)


def test_cap_and_mean_hold_for_very_many_classes():
    n = torch.randint(1, 10**6, (200_000,), generator=torch.Generator().manual_seed(0))
    w = weights(n, max_weight=1.01)
    assert w.max() <= 1.01
    assert w.mean().item() == pytest.approx(1, rel=1e-12)


def test_schemes_are_their_formulas_up_to_scale():
    n = torch.tensor(COUNTS, dtype=torch.float64)
    for scheme, formula in {
        "inverse": 1 / n,
        "sqrt_inverse": n**-0.5,
        "power": n**-0.5,
        "effective_number": (1 - 0.999) / (1 - 0.999**n),
    }.items():
        torch.testing.assert_close(weights(COUNTS, scheme), formula / formula.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(weights(COUNTS, "power", exponent=2.0), n**-2 / (n**-2).mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(weights(COUNTS, "median_frequency"), 65 / n, rtol=1e-12, atol=0)
    assert class_weights(COUNTS, "none").tolist() == [1, 1, 1, 1]


def test_schemes_without_a_mean_are_their_formulas():
    n = torch.tensor(COUNTS, dtype=torch.float64)
    for scheme, options, formula in [
        ("inverse", {}, 1 / n),
        ("sqrt_inverse", {}, n**-0.5),
        ("power", {"exponent": 2.0}, n**-2),
        ("effective_number", {"beta": 0.9}, 0.1 / (1 - 0.9**n)),
        ("balanced", {}, 1040 / (4 * n)),
    ]:
        found = weights(COUNTS, scheme, normalize="none", **options)
        torch.testing.assert_close(found, formula, rtol=1e-12, atol=0)
    assert weights([1, 2, 4], "inverse", normalize="none", max_weight=0.4).tolist() == [0.4, 0.4, 0.25]


def test_balanced_is_scikit_learns():
    labels = np.repeat(np.arange(4), COUNTS)
    theirs = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(weights(COUNTS, "balanced").numpy(), theirs, rtol=1e-12)


def test_effective_number_goes_from_uniform_to_inverse():
    assert weights(COUNTS, "effective_number", beta=0.0).tolist() == [1, 1, 1, 1]
    near = weights(COUNTS, "effective_number", beta=1 - 1e-12)
    torch.testing.assert_close(near, weights(COUNTS, "inverse"), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "counts",
    [
        COUNTS,
        tuple(COUNTS),
        np.array(COUNTS),
        np.array(COUNTS, dtype=np.float32),
        np.array(COUNTS, dtype=np.uint16),
        np.array(COUNTS, dtype=np.uint64),
        np.array(COUNTS[::-1])[::-1],
        np.frombuffer(np.array(COUNTS).tobytes(), dtype=np.int64),
        torch.tensor(COUNTS),
        Counter({0: 900, 2: 10, 1: 90, 3: 40}),
        {"a": 900, "b": 90, "c": 10, "d": 40},
    ],
    ids=[
        "list",
        "tuple",
        "array",
        "float array",
        "uint16",
        "uint64",
        "reversed",
        "read-only",
        "tensor",
        "Counter",
        "by name",
    ],
)
def test_counts_come_in_many_forms(counts):
    assert torch.equal(class_weights(counts), class_weights(COUNTS))


def test_names_are_ordered_as_asked():
    shuffled = {"d": 40, "b": 90, "a": 900, "c": 10}
    assert torch.equal(class_weights(shuffled, class_names=["a", "b", "c", "d"]), class_weights(COUNTS))


def test_empty_classes():
    assert class_weights([30, 0, 10], on_empty="zero").tolist() == [0.5, 0, 1.5]
    assert class_weights([30, 0, 10], on_empty="one").tolist() == [0.5, 1, 1.5]
    for counts, message in [
        ([30, 0, 10], "no samples of class 1; pass on_empty"),
        ({"cat": 3, "dog": 0, "owl": 0}, "no samples of classes 'dog', 'owl'; pass"),
        ([1] + [0] * 12, r"classes 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more; pass"),
    ]:
        with pytest.raises(ValueError, match=message):
            class_weights(counts)
    with pytest.raises(ValueError, match="at least one class, got none"):
        class_weights([0, 0], on_empty="one")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([3, -1],), {}, ValueError, "whole numbers >= 0, got -1 at position 1"),
        (([3, float("nan")],), {}, ValueError, "got nan at position 1"),
        (([3, 0.5],), {}, ValueError, "got 0.5 at position 1"),
        (([],), {}, ValueError, r"one count per class, got shape \(0,\)"),
        (([[1, 2]],), {}, ValueError, r"got shape \(1, 2\)"),
        ((["many"],), {}, TypeError, "must hold whole numbers"),
        (([True, False],), {}, TypeError, "whole numbers, got bool"),
        (([True, 3],), {}, TypeError, "whole numbers, got bool"),
        (([3, 1e19],), {}, ValueError, "must be below 2.*63, got 1e.19 at position 1"),
        (([3, float("inf")],), {}, ValueError, "must be below 2.*63, got inf at position 1"),
        (([2**63, 1],), {}, ValueError, "must be below 2.*63, got 9.22.* at position 0"),
        (({0: 5, "dog": 1},), {}, TypeError, "class indices or class names as keys, got both"),
        (({"a": 3, "b": 4},), {"class_names": ["a", "a", "b"]}, ValueError, "each class once, got 'a' more than once"),
        ((5,), {"class_names": ["cat"]}, ValueError, r"one count per class, got shape \(\)"),
        (([1, 2],), {"dtype": torch.int64}, TypeError, "dtype must be floating point, got int64"),
        (([10**9, 10**8], "power"), {"exponent": 50.0}, ValueError, "exponent must be small enough .* got 50 with 1000000000 samples"),
        (({0: 5, 2: 1},), {}, ValueError, "no entry for class 1; give 0"),
        (({0: 5, -1: 1},), {}, ValueError, "no entry for class 1"),
        (({"cat": 1},), {"class_names": ["cat", "dog"]}, ValueError, "no entry for class 'dog'"),
        (({"cat": 1, "dgo": 2, "dog": 1},), {"class_names": ["cat", "dog"]}, ValueError, "unknown class 'dgo' .did you mean 'dog'"),
        (({"cat": 1, "dgo": 2},), {"class_names": ["cat", "dog"]}, ValueError, "unknown class 'dgo' .did you mean 'dog'"),
        (([1, 2],), {"class_names": ["cat"]}, ValueError, "one count per class name, 1, got 2"),
        (([1, 2], "invrese"), {}, ValueError, "scheme must be one of 'none', 'inverse'"),
        (([1, 2], "inverse"), {"beta": 0.9}, ValueError, "beta belongs to scheme 'effective_number', got it with"),
        (([1, 2], "inverse"), {"exponent": 0.9}, ValueError, "exponent belongs to scheme 'power'"),
        (([1, 2], "effective_number"), {"beta": 1.0}, ValueError, r"beta must be in \[0, 1\), got 1, whose limit is scheme 'inverse'"),
        (([1, 2], "effective_number"), {"beta": 1.5}, ValueError, "beta must be a finite number"),
        (([1, 2], "effective_number"), {"beta": -0.5}, ValueError, r"beta must be a finite number in \[0, 1\], got -0.5"),
        (([1, 2], "inverse"), {"normalize": "none", "max_weight": -1.0}, ValueError, "max_weight must be a finite number >= 0"),
        (([1, 2], "power"), {"exponent": -1.0}, ValueError, "exponent must be a finite number"),
        (([1, 2],), {"max_weight": 0.5}, ValueError, "max_weight must be at least 1, the mean of the weights, got 0.5"),
        (([1, 2],), {"normalize": "sum"}, ValueError, "normalize must be one of"),
        (([1, 2],), {"on_empty": "skip"}, ValueError, "on_empty must be one of"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(arguments, options, error, message):
    with pytest.raises(error, match=message) as caught:
        class_weights(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_initial_bias_starts_at_the_class_frequencies():
    frequencies = torch.tensor(COUNTS) / sum(COUNTS)
    torch.testing.assert_close(initial_bias(COUNTS, "softmax").softmax(0), frequencies)
    torch.testing.assert_close(initial_bias(COUNTS, "logistic").sigmoid(), frequencies)


def test_logit_adjustment_takes_the_prior_out_of_the_logits():
    """Constant logits that fit the frequencies under the adjustment are themselves all alike."""
    generator = torch.Generator().manual_seed(0)
    target = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 500, replacement=True, generator=generator)
    counts = torch.bincount(target)
    z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adjustment = logit_adjustment(counts)
    loss = softmax_loss(z.expand(500, 3), target, logit_adjustment=adjustment)
    (grad,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-7)
    torch.testing.assert_close(logit_adjustment(counts, tau=2.0), 2 * adjustment)
    with pytest.raises(ValueError, match="tau must be a finite number, got inf"):
        logit_adjustment(counts, tau=float("inf"))


def test_initial_bias_is_the_constant_optimum_of_its_loss():
    """And 0 is that of LGL-INR, whatever the counts."""
    target = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    for loss, bias in [
        (softmax_loss, initial_bias(COUNTS, "softmax")),
        (logistic_loss, initial_bias(COUNTS, "logistic")),
        (lgl_inr_loss, torch.zeros(4)),
    ]:
        bias = bias.double().requires_grad_()
        (grad,) = torch.autograd.grad(loss(bias.expand(len(target), 4), target), bias)
        assert grad.abs().max() < 1e-7


@pytest.mark.parametrize(
    ("counts", "link", "message"),
    [
        ([5, 0], "softmax", "no samples of class 1: its bias is -inf"),
        ([5], "logistic", "at least two classes"),
        ([5, 1], "probit", "link must be one of 'softmax', 'logistic', got 'probit'"),
    ],
)
def test_initial_bias_refuses(counts, link, message):
    with pytest.raises(ValueError, match=message):
        initial_bias(counts, link)


def test_initial_bias_of_multi_label_targets_takes_the_samples_for_the_whole():
    """An output may have more than half of the samples, and all outputs together more than there are."""
    expected = torch.tensor([0.75, 0.6, 0.01]).logit()
    torch.testing.assert_close(initial_bias([75, 60, 1], "logistic", num_samples=100), expected)
    torch.testing.assert_close(initial_bias([25], "logistic", num_samples=100), torch.tensor([0.25]).logit())


def test_initial_bias_keeps_the_digits_of_large_counts():
    most = initial_bias([10**9, 1], "softmax")[0]
    torch.testing.assert_close(most, torch.tensor(-1e-9), rtol=1e-6, atol=0)
    all_but_one = initial_bias([2**24], "logistic", num_samples=2**24 + 1)
    torch.testing.assert_close(all_but_one, torch.tensor([24 * 0.6931471805599453]))


@pytest.mark.parametrize(
    ("link", "num_samples", "message"),
    [
        ("softmax", 100, "num_samples is for multi-label targets"),
        ("logistic", 74, "largest count, 75, got 74"),
        ("logistic", 75, "all samples in class 0"),
    ],
)
def test_initial_bias_refuses_samples(link, num_samples, message):
    with pytest.raises(ValueError, match=message):
        initial_bias([75, 60], link, num_samples=num_samples)


@pytest.mark.parametrize("wrong", [True, 80.0, "80"])
def test_initial_bias_refuses_what_is_no_number_of_samples(wrong):
    with pytest.raises((TypeError, ValueError), match="num_samples must be an int"):
        initial_bias([1, 0], "logistic", num_samples=wrong)


def test_presence_is_the_same_in_parts_and_at_once():
    """Many classes and draws are taken in parts of a bounded table."""
    counts = torch.ones(2000, dtype=torch.long)
    presence = batch_presence(counts, batch_size=1500)
    torch.testing.assert_close(presence, torch.full((2000,), 0.75, dtype=torch.float64))


def test_deferred_weights_start_at_their_epoch_and_resume_exactly():
    schedule = DeferredReweighting(torch.tensor([0.5, 1.5]), start_epoch=2)
    seen = []
    for epoch in range(4):
        schedule.set_epoch(epoch)
        seen.append(schedule.class_weights.tolist())
    assert seen == [[1, 1], [1, 1], [0.5, 1.5], [0.5, 1.5]]
    with pytest.raises(ValueError, match="epoch must not go back, got 1 after 3"):
        schedule.set_epoch(1)
    state = schedule.state_dict()
    other = DeferredReweighting([0.5, 1.5], start_epoch=2)
    other.load_state_dict(state)
    assert other.class_weights.tolist() == [0.5, 1.5]
    other.load_state_dict({"epoch": 1})
    assert other.class_weights.tolist() == [1, 1]
    schedule.class_weights.zero_()
    assert schedule.class_weights.tolist() == [0.5, 1.5]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any), st.integers(1, 200))
def test_presence_counts_the_batches_without_a_class(counts, batch_size):
    total = sum(counts)
    drawn = min(batch_size, total)
    absent = [math.comb(total - n, drawn) / math.comb(total, drawn) for n in counts]
    presence = batch_presence(counts, batch_size)
    torch.testing.assert_close(presence, 1 - torch.tensor(absent, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_presence_of_rare_classes_keeps_its_digits():
    presence = batch_presence([10**9, 1000, 1], 64)
    expected = [-math.expm1(64 * math.log1p(-n / (10**9 + 1001))) for n in (10**9, 1000, 1)]
    assert presence.tolist() == pytest.approx(expected, rel=1e-6)
    adjustment = logit_adjustment([10**9, 1000, 1], batch_size=64, tau=2.0)
    assert adjustment.tolist() == pytest.approx([2 * math.log(p) for p in expected], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batch_presence([3, 4], 0), "batch_size must be an int >= 1, got 0"),
        (lambda: batch_presence([3, 4], True), "batch_size must be an int, got bool"),
        (lambda: batch_presence([0, 0], 4), "class_counts must have a sample of at least one class"),
        (lambda: logit_adjustment([3, 0], batch_size=4), "no samples of class 1: its adjustment is -inf"),
    ],
)
def test_presence_refuses(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: DeferredReweighting([1, 2], start_epoch=-1),
            ValueError,
            "start_epoch must be an int >= 0, got -1",
        ),
        (lambda: DeferredReweighting([1, 2], start_epoch=1.0), TypeError, "start_epoch must be an int, got float"),
        (
            lambda: DeferredReweighting([1, -2], start_epoch=1),
            ValueError,
            "class_weights must be finite and not negative, got -2.0 at position 1",
        ),
        (
            lambda: DeferredReweighting([], start_epoch=1),
            ValueError,
            r"class_weights must have shape \(K,\), got \(0,\)",
        ),
        (
            lambda: DeferredReweighting([1], start_epoch=1).load_state_dict({"step": 1}),
            ValueError,
            r"state must have the key 'epoch', got \['step'\]",
        ),
        (
            lambda: DeferredReweighting([1], start_epoch=1).set_epoch(-1),
            ValueError,
            "epoch must be an int >= 0, got -1",
        ),
        (
            lambda: DeferredReweighting([1], start_epoch=1).set_epoch(True),
            TypeError,
            "epoch must be an int, got bool",
        ),
    ],
)
def test_deferred_weights_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()
