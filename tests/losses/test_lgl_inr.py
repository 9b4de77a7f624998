"""What is particular to LGL-INR: the authors' vectors, beta, gradient through the weights, running statistics."""

import json
import math
from pathlib import Path

import mpmath
import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from steelyard.kernels.lgl_inr import native as lgl_inr_native
from steelyard.kernels.lgl_inr import reference as kernel
from steelyard.losses import LGLINRLoss, lgl_inr_linear
from steelyard.losses.functional import in_negative_weights, lgl_inr_loss
from steelyard.losses.lgl_inr import omega_of
from steelyard.targets import class_means
from tests.helpers import assert_finite, assert_positive, assert_zero, batch, value_and_grad, weights_of
from tests.oracles import lgl_inr

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/lgl_inr.json").read_text())


@pytest.mark.parametrize("index", range(len(VECTORS)))
def test_matches_the_published_vectors(index):
    case = VECTORS[index]
    logits = torch.tensor(case["logits"], dtype=torch.float64)
    options = {"beta": case["beta"], "detach_weights": case["detach_weights"], "reduction": "sum"}
    loss, grad = value_and_grad(lgl_inr_loss, logits, torch.tensor(case["labels"]), **options)
    expected = torch.tensor(case["exact"]["grad"], dtype=torch.float64)
    assert loss.item() == pytest.approx(case["exact"]["loss"], rel=1e-12)
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("detach_weights", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0, -2.0, 29.0, 31.0, 1e3, -1e3])
@pytest.mark.parametrize(("rows", "classes"), [(12, 5), (4, 30), (40, 3)])
def test_any_beta_equals_the_oracle(rows, classes, beta, detach_weights):
    logits, target = batch(rows, classes)
    options = {"beta": beta, "detach_weights": detach_weights, **weights_of("lgl-inr", classes)}
    expected, expected_grad = value_and_grad(lgl_inr, logits, target, **options)
    loss, grad = value_and_grad(lgl_inr_loss, logits, target, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("beta", [float("inf"), float("-inf"), float("nan"), 1e39])
def test_beta_that_is_not_finite_is_refused(beta):
    with pytest.raises(ValueError, match=r"beta must be a finite number in \[-1e\+30, 1e\+30\], got"):
        lgl_inr_loss(*batch(), beta=beta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [1e30, -1e30])
def test_largest_beta_is_finite(beta, dtype):
    logits, target = batch(12, 5, 30.0, dtype=dtype)
    assert all(x.isfinite().all() for x in value_and_grad(lgl_inr_loss, logits, target, beta=beta))


@pytest.mark.parametrize("classes", [1, 2, 5, 100])
def test_automatic_beta_depends_on_the_number_of_classes(classes):
    logits, target = batch(20, classes)
    beta = 2 * math.log(max(classes - 1, 1))
    expected = lgl_inr_loss(logits, target, beta=beta)
    assert torch.equal(lgl_inr_loss(logits, target, beta="auto"), expected)
    assert torch.equal(LGLINRLoss(beta="auto")(logits, target), expected)
    eye = torch.eye(classes, dtype=torch.float64)
    assert torch.equal(
        lgl_inr_linear(logits, eye, target, beta="auto"), lgl_inr_linear(logits, eye, target, beta=beta)
    )
    P, _ = class_means(torch.sigmoid(logits), target)
    assert torch.equal(in_negative_weights(P, beta="auto"), in_negative_weights(P, beta=beta))


def test_beta_is_a_number_or_automatic():
    for call in (LGLINRLoss, lambda beta: lgl_inr_loss(*batch(), beta=beta)):
        with pytest.raises(ValueError, match="beta must be a number or 'auto', got 'high'"):
            call(beta="high")


def test_presence_of_classes_multiplies_their_weights():
    P = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    presence = torch.tensor([1.0, 0.5, 0.25, 0.0])
    omega = in_negative_weights(P, beta=2.0, presence=presence)
    plain = in_negative_weights(P, beta=2.0) * presence.double()[:, None]
    torch.testing.assert_close(omega, plain / plain.sum(0))
    torch.testing.assert_close(in_negative_weights(P, presence=torch.ones(4)), in_negative_weights(P))
    for bad, message in [
        (torch.ones(3), r"presence must have shape \(4,\), got \(3,\)"),
        (presence * 2, r"presence must lie in \[0, 1\], got 2.0 at position 0"),
        (presence * torch.nan, r"presence must lie in \[0, 1\], got nan at position 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            in_negative_weights(P, presence=bad)


def test_a_weight_without_a_gradient_may_not_ask_for_one():
    logits, target = batch(6, 5)
    wanted = torch.ones(5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"pos_weight must not require a gradient, .* pass pos_weight.detach\(\)"):
        lgl_inr_loss(logits, target, pos_weight=wanted)
    with torch.no_grad():
        lgl_inr_loss(logits, target, pos_weight=wanted)


def test_detach_weights_must_be_a_bool():
    with pytest.raises(TypeError, match="detach_weights must be a bool, got str"):
        lgl_inr_loss(*batch(), detach_weights="no")


def test_oracle_agrees_with_mpmath():
    mpmath.mp.dps = 40
    logits, target = batch(6, 3, 5.0)
    z = [[mpmath.mpf(v) for v in row] for row in logits.tolist()]
    rows = {k: [i for i, y in enumerate(target.tolist()) if y == k] for k in set(target.tolist())}
    total = mpmath.mpf(0)
    for j in range(3):
        if j in rows:
            total += sum(mpmath.log1p(mpmath.exp(-z[i][j])) for i in rows[j]) / len(rows[j])
        means = {
            k: (
                sum(1 / (1 + mpmath.exp(-z[i][j])) for i in v) / len(v),
                sum(mpmath.log1p(mpmath.exp(z[i][j])) for i in v) / len(v),
            )
            for k, v in rows.items()
            if k != j
        }
        norm = sum(mpmath.exp(p) for p, _ in means.values())
        total += sum(mpmath.exp(p) / norm * a for p, a in means.values())
    assert lgl_inr(logits, target, reduction="sum").item() == pytest.approx(float(total), rel=1e-14)


@pytest.mark.parametrize(("rows", "classes"), [(16, 300), (300, 130), (9, 200)])
@pytest.mark.parametrize("with_nan", [False, True])
def test_column_blocks_change_nothing(monkeypatch, rows, classes, with_nan):
    logits, target = batch(rows, classes)
    if with_nan:
        target[2] = -100
        logits[2] = torch.nan
    whole = value_and_grad(lgl_inr_loss, logits, target)
    monkeypatch.setitem(kernel._BLOCK_ELEMENTS, "cpu", 1)
    assert kernel._block_columns(rows, classes, "cpu") < classes
    blocked = value_and_grad(lgl_inr_loss, logits, target)
    torch.testing.assert_close(blocked, whole, rtol=1e-13, atol=1e-17)
    assert_finite(whole[1])


def test_half_batches_do_not_average_to_the_batch():
    logits, target = batch(20)
    halves = [lgl_inr_loss(logits[r], target[r]) for r in (slice(0, 10), slice(10, 20))]
    assert not torch.isclose(sum(halves) / 2, lgl_inr_loss(logits, target), rtol=1e-3)


def test_absent_class_still_pushes_its_column_down_for_every_sample_when_detached():
    logits, target = batch()
    _, grad = value_and_grad(lgl_inr_loss, logits, target, detach_weights=True)
    assert_positive(grad[:, 3])


def test_gradient_through_the_weights_may_pull_an_easy_negative_up():
    """1 + beta (A - average) (1 - p) is negative for a class much easier than the column's average."""
    logits = torch.tensor([[5.0, -2.0], [5.0, -2.0], [-2.0, -2.0]], dtype=torch.float64)
    logits = torch.cat([logits, torch.tensor([[8.0], [-4.0], [0.0]], dtype=torch.float64)], 1)
    target = torch.tensor([0, 1, 1])
    _, through = value_and_grad(lgl_inr_loss, logits, target)
    _, detached = value_and_grad(lgl_inr_loss, logits, target, detach_weights=True)
    assert_positive(detached[:, 2])
    assert through[:, 2].min() < 0


def test_confidently_wrong_logits_keep_their_gradient():
    """The authors' log(p + 1e-7) loses it: positives below about -16, negatives above about 17."""
    logits = torch.tensor([[-60.0, 60.0], [0.0, 0.0]], dtype=torch.float64)
    _, grad = value_and_grad(lgl_inr_loss, logits, torch.tensor([0, 1]), detach_weights=True, reduction="sum")
    assert grad[0, 0].item() == pytest.approx(-1)
    assert grad[0, 1].item() == pytest.approx(1)


def test_operator_passes_opcheck():
    for rows, classes, pos_weight in [(6, 4, None), (3, 9, torch.rand(9))]:
        logits, target = batch(rows, classes, dtype=torch.float32)
        torch.library.opcheck(kernel.lgl_inr, (logits, target, pos_weight, 1.0, False, -100, True))


def test_operator_does_not_wait_for_an_accelerator():
    """The kernel itself runs on the meta device, where there are no values and a look at one raises."""
    logits = torch.empty(6, 300, device="meta")
    target = torch.empty(6, device="meta", dtype=torch.long)
    loss, grad = kernel._columns(logits, target, None, 50.0, False, -100, True)
    assert (loss.shape, grad.shape) == ((300,), (6, 300))


WAYS = pytest.mark.parametrize("classes", [50, 800], ids=["the short way", "the general way"])


@WAYS
def test_the_last_backward_pass_allocates_no_gradient(classes):
    """The gradient is made with the loss: what scales it needs no memory, and the leaf takes it as it is."""
    logits, target = batch(1400, classes, dtype=torch.float32)
    leaf = logits.requires_grad_()
    loss = lgl_inr_loss(leaf, target)
    allocated = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
            result = function(*args, **(kwargs or {}))
            new = isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known
            if new and result.numel() >= logits.numel():
                allocated.append(function)
            return result

    with Count():
        loss.backward()
    assert not allocated
    torch.testing.assert_close(leaf.grad, value_and_grad(lgl_inr_loss, logits.detach(), target)[1])


@WAYS
def test_a_gradient_that_others_may_hold_is_not_scaled_in_place(classes):
    logits, target = batch(1400, classes, dtype=torch.float32)
    leaf, seen = logits.requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.detach()) or t, lambda t: t):
        loss = lgl_inr_loss(leaf, target)
    kept = [t.clone() for t in seen]
    loss.backward(torch.tensor(3.0))
    assert any(one.shape == leaf.shape for one in kept)
    assert all(map(torch.equal, seen, kept))
    torch.testing.assert_close(leaf.grad, 3 * value_and_grad(lgl_inr_loss, logits.detach(), target)[1])


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it imports
def test_the_gradient_has_a_tangent_in_the_upstream_gradient():
    logits, target = batch(6, 5)
    leaf = logits.requires_grad_()
    with forward_ad.dual_level():
        upstream = forward_ad.make_dual(torch.tensor(3.0).double(), torch.tensor(2.0).double())
        (grad,) = torch.autograd.grad(lgl_inr_loss(leaf, target), leaf, upstream)
        value, tangent = forward_ad.unpack_dual(grad)
    torch.testing.assert_close(3 * tangent, 2 * value)


def test_peak_memory_of_forward_and_backward():
    """At most three N x K buffers beside the logits and their gradient's own, at K >> N and K << N alike."""
    for rows, classes in [(64, 40_000), (40_000, 64)]:
        logits, target = batch(rows, classes, dtype=torch.float32)
        leaf = logits.requires_grad_()
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
            lgl_inr_loss(leaf, target).backward()
        live, peak = 0, 0
        for event in prof.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                peak = max(peak, live)
        assert peak <= 3.3 * rows * classes * 4, (rows, classes, peak / (rows * classes * 4))


# Weights from a given mean confusion, running statistics -------------------------------------------------


@pytest.mark.parametrize("absent", [None, 2])
def test_given_the_batchs_own_mean_confusion_it_is_the_detached_loss(absent):
    logits, target = batch(20, 4)
    target[:4] = torch.arange(4)
    target[target == absent] = 1
    target[5] = -100
    options = {"beta": 3.0, **weights_of("lgl-inr", 4)}
    P, _ = class_means(torch.sigmoid(logits + options["logit_adjustment"]), target)
    expected = value_and_grad(lgl_inr_loss, logits, target, detach_weights=True, **options)
    given = value_and_grad(lgl_inr_loss, logits, target, mean_confusion=P, **options)
    torch.testing.assert_close(given, expected, rtol=1e-13, atol=1e-16)


def test_weights_leave_out_classes_not_observed():
    P = torch.rand(4, 4, dtype=torch.float64)
    P[2] = torch.nan
    omega = in_negative_weights(P, beta=2.0)
    torch.testing.assert_close(omega.sum(0), torch.ones(4, dtype=torch.float64))
    assert_zero(omega[2])
    assert_zero(omega.diagonal())
    assert_zero(in_negative_weights(torch.full((1, 1), 0.5)))
    with torch.autograd.set_detect_anomaly(True):  # which stops at a NaN of any step, be it multiplied by 0 later
        omega_of(torch.full((1, 1), 0.5, requires_grad=True), 1.0).sum().backward()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([[0.5]], TypeError, "mean_confusion must be a floating tensor"),
        (torch.ones(2, 2, dtype=torch.long), TypeError, "mean_confusion must be a floating tensor"),
        (torch.ones(2, 3), ValueError, r"mean_confusion must have shape \(K, K\), got \(2, 3\)"),
    ],
)
def test_bad_mean_confusion(value, error, message):
    with pytest.raises(error, match=message):
        in_negative_weights(value)


def test_mean_confusion_of_other_size_is_refused():
    with pytest.raises(ValueError, match=r"mean_confusion must have K = 5 for logits of 5 columns, got \(3, 3\)"):
        lgl_inr_loss(*batch(), mean_confusion=torch.ones(3, 3))


def test_running_average_moves_by_momentum_and_only_in_training():
    loss = LGLINRLoss(statistics="running", num_classes=3, momentum=0.25)
    logits, target = torch.zeros(2, 3), torch.tensor([0, 0])
    loss(logits, target)
    assert torch.equal(loss.running_mean_confusion[0], torch.full((3,), 0.5))
    assert loss.num_batches_tracked.tolist() == [1, 0, 0]
    assert loss.num_batches_tracked.dtype == torch.int64  # which `.half()` leaves as it is
    loss(logits + 1e4, target)
    torch.testing.assert_close(loss.running_mean_confusion[0], torch.full((3,), 0.625))
    loss.eval()
    loss(logits - 5, torch.tensor([1, 2]))
    assert loss.num_batches_tracked.tolist() == [2, 0, 0]
    torch.testing.assert_close(loss.running_mean_confusion[0], torch.full((3,), 0.625))


def test_first_running_batch_equals_the_detached_batch_form():
    logits, target = batch(20, 5)
    running = LGLINRLoss(statistics="running", num_classes=5, beta=2.0).double()
    plain = LGLINRLoss(detach_weights=True, beta=2.0)
    torch.testing.assert_close(value_and_grad(running, logits, target), value_and_grad(plain, logits, target))


def test_running_statistics_survive_a_checkpoint():
    loss = LGLINRLoss(statistics="running", num_classes=5)
    loss(*batch(dtype=torch.float32))
    assert set(loss.state_dict()) == {"running_mean_confusion", "num_batches_tracked"}
    restored = LGLINRLoss(statistics="running", num_classes=5)
    restored.load_state_dict(loss.state_dict())
    second = batch(dtype=torch.float32, seed=3)
    assert torch.equal(restored(*second), loss(*second))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": "ema"}, "statistics must be one of 'batch', 'running', got 'ema'"),
        ({"statistics": "running"}, 'statistics="running" needs num_classes, an int >= 1, got None'),
        ({"statistics": "running", "num_classes": 3, "momentum": 0}, r"momentum must be in \(0, 1\], got 0"),
        (
            {"statistics": "running", "num_classes": 3, "momentum": 2.0},
            r"momentum must be a finite number in \[0, 1\]",
        ),
    ],
)
def test_bad_module_options(options, message):
    with pytest.raises(ValueError, match=message):
        LGLINRLoss(**options)


def test_running_form_refuses_other_widths():
    with pytest.raises(ValueError, match="logits must have num_classes = 3 columns, got 5"):
        LGLINRLoss(statistics="running", num_classes=3)(*batch())


@pytest.mark.parametrize("rows", [63, 64, 65, 4000, 200_000])
@pytest.mark.parametrize("compiled", [True, False])
def test_sums_over_many_rows_stay_exact(rows, compiled, monkeypatch):
    """All logits alike, where a plain sum of float32 is at its worst; one class ignored, one absent."""
    if not compiled:
        monkeypatch.setattr(lgl_inr_native, "takes", lambda logits: False)
    logits = torch.full((rows, 3), 0.3)
    target = (torch.arange(rows) % 7 == 0).long()
    target[5::11] = -100
    expected, expected_grad = value_and_grad(lgl_inr_loss, logits.double(), target, beta=3.0)
    loss, grad = value_and_grad(lgl_inr_loss, logits, target, beta=3.0)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-5, atol=1e-12)


def test_a_given_mean_confusion_weighs_rows_that_count_and_in_float32():
    logits, target = batch(12, 5)
    P = torch.rand(5, 5, generator=torch.Generator().manual_seed(2))
    dirty, labels = logits.clone(), target.clone()
    dirty[::3], labels[::3] = torch.nan, -100
    kept = labels != -100
    options = {"mean_confusion": P, "beta": 2.0, "pos_weight": torch.linspace(0.5, 2, 5)}
    expected, expected_grad = value_and_grad(lgl_inr_loss, logits[kept], target[kept], **options)
    loss, grad = value_and_grad(lgl_inr_loss, dirty, labels, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad[kept], expected_grad, rtol=1e-13, atol=1e-16)
    assert_zero(grad[~kept])
    for dtype in (torch.float16, torch.bfloat16):
        low = logits.to(dtype)
        assert torch.equal(lgl_inr_loss(low, target, **options), lgl_inr_loss(low.float(), target, **options))
        assert lgl_inr_loss(low[:0], target[:0], **options).dtype == torch.float32


def test_weights_by_presence_are_constants_and_0_where_no_other_class_is_ever_there():
    P = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    omega = in_negative_weights(P, presence=torch.tensor([0.0, 0.5, 0.0]))
    assert omega.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert not omega.requires_grad
    assert not in_negative_weights(P).requires_grad


def test_running_average_of_a_batch_of_nan_stays_and_moves_by_a_tenth_by_default():
    loss, target = LGLINRLoss(statistics="running", num_classes=3), torch.tensor([0, 1, -100])
    loss(torch.zeros(3, 3), target)
    logits = torch.full((3, 3), 1e4)
    logits[1] = torch.nan
    loss(logits, target)
    expected = torch.tensor([[0.55] * 3, [0.5] * 3, [0.0] * 3])
    torch.testing.assert_close(loss.running_mean_confusion, expected)
    assert loss.num_batches_tracked.tolist() == [2, 1, 0]


def test_running_form_of_a_single_class_is_the_batch_form():
    logits, target = batch(6, 1)
    running = LGLINRLoss(statistics="running", num_classes=1).double()
    torch.testing.assert_close(running(logits, target), lgl_inr_loss(logits, target))
    with pytest.raises(ValueError, match="num_classes must be an int >= 1, got 0"):
        LGLINRLoss(statistics="running", num_classes=0)


def test_first_bias_of_a_module_in_float64_is_float32():
    bias = LGLINRLoss(pos_weight=[1.0, 3.0], logit_adjustment=[0.0, 1.0]).double().first_bias([5, 1])
    torch.testing.assert_close(bias, torch.tensor([0.0, math.log(3) - 1]))


def test_options_of_the_module_and_of_the_function_are_not_mixed_up():
    for option in ({"statistics": "running"}, {"momentum": 0.5}, {"num_classes": 5}):
        with pytest.raises(TypeError, match=next(iter(option))):
            lgl_inr_loss(*batch(), **option)
    with pytest.raises(TypeError, match="mean_confusion"):
        LGLINRLoss(mean_confusion=torch.eye(5))
