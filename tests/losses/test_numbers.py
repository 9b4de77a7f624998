"""Numbers of every kind in every option of every loss, and rows that count for nothing and may hold anything."""

import inspect

import numpy as np
import pytest
import torch

from steelyard import TrainingSetup, log_posterior
from steelyard.balance import GradientLedger, MeanConfusion, law, mean_confusion
from steelyard.balance.means import logistic_statistics
from steelyard.losses import LGLINRLoss, lgl_inr_linear, logistic_linear
from steelyard.losses.heads import LGLINRLinear, LogisticLinear
from steelyard.weights.adjustments import batch_presence, initial_bias, logit_adjustment
from steelyard.weights.schedules import DeferredReweighting
from tests.helpers import (
    CASES,
    assert_finite,
    assert_zero,
    batch,
    head_parts,
    run_head,
    value_and_grad,
    weights_of,
)

every_loss = pytest.mark.parametrize("name", list(CASES))
NAN, INF = float("nan"), float("inf")
ODD = {
    "bool": True,
    "complex": 1j,
    "dict": {"a": "b"},
    "text": "many",
    "list": [[1.0]],
    "None": None,
    "NaN": NAN,
    "inf": INF,
    "1e300": 1e300,
    "object": object(),
    "array": np.ones((2, 2)),
    "bool tensor": torch.tensor([True, False, True, True, True]),
    "complex tensor": torch.ones(5) * 1j,
    "meta tensor": torch.ones(5, device="meta"),
}
FITS = {  # what an option may well be
    "number": set(),
    "integer": set(),
    "flag": {"bool"},
    "choice": set(),
    "vector": {"None"},
    "other": {"None"},
}


@every_loss
@pytest.mark.parametrize("odd", list(ODD))
def test_an_odd_value_gets_one_sentence_that_names_the_option(name, odd):
    logits, target = batch(dtype=torch.float32)
    value = ODD[odd]
    for key, one in CASES[name].loss.options.items():
        if key in ("process_group", "num_classes") or odd in FITS[one.kind]:
            continue
        if value is None and one.default is None:
            continue
        for make in ("module", "function"):
            if one.of not in ("both", make) or (one.link not in (None, CASES[name].link)):
                continue
            options = CASES[name].options | {key: value}
            with pytest.raises((TypeError, ValueError)) as caught:  # noqa: PT012
                if make == "module":
                    CASES[name].loss(**options)(logits, target)
                else:
                    CASES[name].loss.function(logits, target, **options)
            text = str(caught.value)
            assert key in text, f"{key}={odd}: {text}"
            assert "\n" not in text
            assert type(caught.value).__module__ == "builtins"


@every_loss
def test_numbers_of_numpy_are_numbers(name):
    logits, target = batch(dtype=torch.float32)
    given = {
        "number": lambda v: np.float32(v),
        "integer": lambda v: np.int64(v),
        "flag": lambda v: np.bool_(v) if v is not None else None,
        "choice": lambda v: np.str_(v),
    }
    options = CASES[name].loss.options
    plain = {k: one.default for k, one in options.items() if one.kind in given and one.of == "both"}
    plain |= CASES[name].options
    numpy = {k: given[options[k].kind](v) if options[k].kind in given else np.float64(v) for k, v in plain.items()}
    expected = CASES[name].loss.function(logits, target, **plain)
    assert torch.equal(CASES[name].loss.function(logits, target, **numpy), expected)
    module = CASES[name].loss(**numpy)
    assert torch.equal(module(logits, target), expected)
    assert {type(v) for v in module.chosen().values()} <= {bool, int, float, str, np.str_, type(None)}


def test_numbers_of_numpy_are_numbers_in_functions_and_modules():
    one, three, yes = np.int64(1), np.uint8(3), np.bool_(True)
    counts = [60, 30, 9]
    assert torch.equal(batch_presence(counts, np.int32(8)), batch_presence(counts, 8))
    assert torch.equal(logit_adjustment(counts, tau=np.float32(2)), logit_adjustment(counts, tau=2.0))
    many = initial_bias(counts, "logistic", num_samples=np.int64(80))
    assert torch.equal(many, initial_bias(counts, "logistic", num_samples=80))
    schedule = DeferredReweighting(np.array([1, 2]), start_epoch=one)
    schedule.set_epoch(one)
    assert schedule.class_weights.tolist() == [1, 2]
    assert type(schedule.state_dict()["epoch"]) is int
    metric = MeanConfusion(three, link="softmax", folds=np.int64(2), ignore_index=np.int64(-1))
    metric.update(torch.zeros(3, 3), torch.tensor([0, 1, -1]))
    assert metric.class_counts.tolist() == [1, 1, 0]
    with pytest.raises(TypeError, match="ignore_index must be an int, got float"):
        MeanConfusion(3, link="softmax", ignore_index=1.5)
    GradientLedger(TrainingSetup("softmax"), three, folds=one)
    running = LGLINRLoss(statistics="running", num_classes=three, beta=np.float16(2), detach_weights=yes)
    assert running(torch.zeros(3, 3), torch.tensor([0, 1, 2])).isfinite()
    head = LGLINRLinear(np.int64(4), three, num_sampled=np.int64(2), chunk_size=one)
    assert head(torch.zeros(3, 4), torch.tensor([0, 1, 2])).isfinite()
    assert TrainingSetup("lgl-inr", batch_size=np.int64(8)).batch_size == 8
    found = log_posterior(torch.zeros(1, 3), TrainingSetup("softmax"), temperature=np.float32(2))
    assert_finite(found)


# Range ---------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize(
    ("value", "message"), [(1e300, "at most 1e"), (1e-300, "(large enough for float32|at least 1e-08)")]
)
def test_a_weight_beyond_the_dtype_of_the_loss_is_refused(name, value, message):
    logits, target = batch(dtype=torch.float32)
    for option in CASES[name].weights:
        for weights in (torch.tensor([1, 1, value, 1, 1], dtype=torch.float64), [1, 1, value, 1, 1]):
            with pytest.raises(ValueError, match=f"{option} must be .*{message}.*at position 2"):
                CASES[name].module(**{option: weights})(logits, target)
        with pytest.raises(ValueError, match=f"{option} must be .*{message}.*at position 2"):
            CASES[name].function(logits, target, **{option: torch.tensor(weights, dtype=torch.float64)})


@every_loss
def test_the_largest_weights_give_finite_losses(name):
    logits, target = batch(dtype=torch.float32)
    for option in CASES[name].weights:
        weights = torch.full((5,), 1e30, dtype=torch.float64)
        loss, grad = value_and_grad(CASES[name].function, logits, target, **{option: weights})
        assert_finite(loss)
        assert_finite(grad)


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].separable_over == "rows"])
@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_a_sample_weight_beyond_the_dtype_of_the_loss_is_refused(name, value):
    logits, target = batch(3, 4, dtype=torch.float32)
    sample = torch.tensor([1, value, 1], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"sample_weight must be .* at position 1"):
        CASES[name].function(logits, target, sample_weight=sample)
    assert_finite(CASES[name].function(logits.double(), target, sample_weight=sample.clamp(max=1e30)))


# Rows that count for nothing -------------------------------------------------------------------------------


def _spoilt(value, **options):
    logits, target = batch(9, 5, **options)
    dirty = torch.cat([logits, torch.full((2, 5), value, dtype=logits.dtype)])
    return logits, target, dirty, torch.cat([target, torch.full((2,), -100)])


@every_loss
@pytest.mark.parametrize(
    ("form", "value"),
    [
        (form, value)
        for form in ("function", "module", "smoothed", "weighted", "dense")
        for value in (NAN, INF, -INF)
    ]
    + [pytest.param("compiled", NAN, marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_ignored_rows_may_hold_anything(name, value, form):
    logits, target, dirty, dirty_target = _spoilt(value)
    options = weights_of(name, 5) if form == "weighted" else {}
    options |= (
        {"label_smoothing": 0.1} if form == "smoothed" and "label_smoothing" in CASES[name].loss.options else {}
    )
    call = CASES[name].module(**options) if form == "module" else CASES[name].function
    options = {} if form == "module" else options
    expected, expected_grad = value_and_grad(call, logits, target, **options)
    if form == "compiled":
        torch.compiler.reset()
        call = torch.compile(call, backend="aot_eager")
    if form == "dense":
        loss, grad = value_and_grad(call, dirty.T[None].contiguous(), dirty_target[None], **options)
        grad = grad[0].T
    else:
        loss, grad = value_and_grad(call, dirty, dirty_target, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad[:9], expected_grad, rtol=1e-11, atol=1e-16)
    assert_zero(grad[9:])


@pytest.mark.parametrize("name", ["logistic", "focal, logistic"])
def test_ignored_outputs_may_hold_nan(name):
    logits, _ = batch(6, 3)
    target = (torch.arange(18).reshape(6, 3) % 2).double()
    dropped = target.clone()
    dropped[2, 1] = -100
    dirty = logits.clone()
    dirty[2, 1] = NAN
    loss, grad = value_and_grad(CASES[name].function, dirty, dropped)
    expected, expected_grad = value_and_grad(CASES[name].function, logits, dropped)
    assert torch.equal(loss, expected)
    assert torch.equal(grad, expected_grad)
    assert grad[2, 1] == 0


@pytest.mark.parametrize("function", [logistic_linear, lgl_inr_linear])
def test_ignored_rows_of_a_linear_head_may_hold_nan(function):
    x, weight, bias, target = head_parts()
    expected, grads = run_head(function, (x, weight, bias), target)
    dirty = torch.cat([x, torch.full((2, 4), NAN)])
    loss, found = run_head(function, (dirty, weight, bias), torch.cat([target, torch.full((2,), -100)]))
    torch.testing.assert_close(loss, expected)
    assert_zero(found[0][len(x) :])
    for one, other in zip((found[0][: len(x)], *found[1:]), grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("classes", [3, 300])
def test_laws_and_means_leave_ignored_rows_out(classes):
    logits, target = batch(9, classes)
    dirty, dirty_target = (
        torch.cat([logits, torch.full((2, classes), NAN)]),
        torch.cat([target, torch.full((2,), -100)]),
    )
    for link in ("softmax", "logistic"):
        expected, _ = mean_confusion(logits, target, link=link)
        found, counts = mean_confusion(dirty, dirty_target, link=link)
        torch.testing.assert_close(found, expected, equal_nan=True)
        assert counts.sum() == 9
    for one, other in zip(
        logistic_statistics(dirty, dirty_target), logistic_statistics(logits, target), strict=True
    ):
        torch.testing.assert_close(one, other, equal_nan=True)
    for loss in ("softmax", "logistic", "focal"):
        setup = TrainingSetup(loss)
        clean, dirtied = law(logits, target, setup), law(dirty, dirty_target, setup)
        torch.testing.assert_close(dirtied.residual, clean.residual)
        ledgers = [GradientLedger(setup, classes) for _ in range(2)]
        ledgers[0].update(logits, target)
        ledgers[1].update(dirty, dirty_target)
        torch.testing.assert_close(ledgers[1].compute(), ledgers[0].compute())


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_step_of_nan_leaves_running_statistics_alone(value):
    """A gradient scaler skips such a step; the next one must be what it would have been without it."""
    logits, target = batch(12, 3, dtype=torch.float32)
    loss, twin = (LGLINRLoss(statistics="running", num_classes=3, beta=3.0) for _ in range(2))
    for one in (loss, twin):
        one(logits, target)
    bad = logits.clone()
    bad[target == 0, 1] = NAN if value != value else value
    assert not loss(bad, target).isfinite()
    if value != value:
        assert torch.equal(loss.running_mean_confusion[0], twin.running_mean_confusion[0])
        assert loss.num_batches_tracked[0] == 1
    assert_finite(loss.running_mean_confusion)
    first = LGLINRLoss(statistics="running", num_classes=3)
    assert not first(torch.full_like(logits, NAN), target).isfinite()
    assert_zero(first.num_batches_tracked)
    fresh = LGLINRLoss(statistics="running", num_classes=3)
    assert torch.equal(first(logits, target), fresh(logits, target))


def test_the_functions_list_every_option():
    """So that the tests above, which go by the declared options, are of all that can be given."""
    for case in CASES.values():
        given = set(inspect.signature(case.loss.function).parameters) - {"logits", "target", "sample_weight"}
        assert given == {key for key, one in case.loss.options.items() if one.of != "module"}


def test_heads_refuse_odd_numbers():
    for head in (LGLINRLinear, LogisticLinear):
        for odd in (True, 2.5, "3", None):
            with pytest.raises(TypeError, match="num_classes must be an int, got"):
                head(4, odd)
