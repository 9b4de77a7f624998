"""Heads fused with their loss: the loss and the gradients of a linear layer followed by it, and less memory."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from steelyard.kernels.heads import chunks as kernel
from steelyard.kernels.heads import dispatch as fused
from steelyard.losses import LGLINRLinear, LGLINRLoss, LogisticLinear, lgl_inr_linear, linear_topk, logistic_linear
from steelyard.losses.functional import lgl_inr_loss
from steelyard.losses.registry import LOSSES
from tests.helpers import assert_at_most, assert_zero, head_parts, run_head, unfused, weights_of
from tests.oracles import ORACLES

FUSED = {"lgl-inr": lgl_inr_linear, "logistic": logistic_linear}
HEADS = {"lgl-inr": LGLINRLinear, "logistic": LogisticLinear}
SHAPES = [(1, 3, 2), (12, 4, 5), (40, 3, 3), (7, 6, 50)]
every_loss = pytest.mark.parametrize("name", FUSED)


def assert_same(found, expected, **tolerance):
    torch.testing.assert_close(found[0], expected[0], **tolerance)
    for a, b in zip(found[1], expected[1], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, **tolerance)


@every_loss
@pytest.mark.parametrize("chunk_size", [1, 4, None])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_linear_and_loss(name, shape, weighted, chunk_size):
    *parts, target = head_parts(*shape)
    options = weights_of(name, shape[2]) if weighted else {}
    for reduction in ("mean", "sum"):
        expected = run_head(unfused(name), parts, target, 1.7, reduction=reduction, **options)
        found = run_head(FUSED[name], parts, target, 1.7, reduction=reduction, chunk_size=chunk_size, **options)
        assert_same(found, expected, rtol=1e-12, atol=1e-14)


@every_loss
@pytest.mark.parametrize("chunk_size", [3, None])
def test_equals_the_oracle_at_every_upstream_gradient(name, chunk_size):
    *parts, target = head_parts()
    options = weights_of(name, 5) | {"reduction": "none"}
    upstream = torch.linspace(-1, 2, 12 if name == "logistic" else 5, dtype=torch.float64)
    expected = run_head(unfused(name, ORACLES[name]), parts, target, upstream, **options)
    found = run_head(FUSED[name], parts, target, upstream, chunk_size=chunk_size, **options)
    assert_same(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("beta", [0.0, 5.0, -2.0, 60.0])
@pytest.mark.parametrize("detach_weights", [False, True])
def test_options_of_lgl_inr(beta, detach_weights):
    *parts, target = head_parts(20, 4, 9)
    options = {"beta": beta, "detach_weights": detach_weights}
    expected = run_head(unfused("lgl-inr"), parts, target, **options)
    assert_same(run_head(lgl_inr_linear, parts, target, chunk_size=4, **options), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("normalization", ["count", "weights", "none"])
def test_normalization_of_logistic(normalization):
    *parts, target = head_parts()
    target[3] = -100
    options = weights_of("logistic", 5) | {"normalization": normalization}
    expected = run_head(unfused("logistic"), parts, target, **options)
    assert_same(
        run_head(logistic_linear, parts, target, chunk_size=2, **options), expected, rtol=1e-12, atol=1e-14
    )


@every_loss
@settings(max_examples=25)
@given(seed=st.integers(0, 999), rows=st.integers(1, 20), classes=st.integers(2, 30), chunk=st.integers(1, 31))
def test_chunks_do_not_matter(name, seed, rows, classes, chunk):
    *parts, target = head_parts(rows, 3, classes, seed=seed)
    whole = run_head(FUSED[name], parts, target, chunk_size=classes)
    assert_same(run_head(FUSED[name], parts, target, chunk_size=chunk), whole, rtol=1e-12, atol=1e-14)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_less_exact_than_torch(name, dtype):
    """Against the oracle on the same rounded numbers; torch makes its logits in `dtype`."""
    *parts, target = head_parts(40, 32, 30, dtype)
    exact = run_head(unfused(name, ORACLES[name]), [p.double() for p in parts], target)
    torchs = run_head(unfused(name), parts, target)
    found = run_head(FUSED[name], parts, target, chunk_size=7)
    assert found[0].dtype == torch.float32
    eps = torch.finfo(dtype).eps
    for ours, theirs, true in zip(
        [found[0], *found[1]], [torchs[0], *torchs[1]], [exact[0], *exact[1]], strict=True
    ):
        error, allowed = ((x.double() - true).abs().max() for x in (ours, theirs))
        assert error <= 2 * allowed + eps * true.abs().max()
    assert [g.dtype for g in found[1]] == [dtype] * 3


@every_loss
@pytest.mark.parametrize("alike", [True, False])
def test_no_less_exact_than_torch_over_many_columns(name, alike):
    """In many small chunks; logits that are all alike, as of a new head, are the worst case of plain sums."""
    x, weight, bias, target = head_parts(6, 2, 200_000, torch.float32)
    parts = [x.fill_(0.3), weight.fill_(0.5), bias.fill_(-0.1)] if alike else [x, weight, bias]
    exact = run_head(FUSED[name], [p.double() for p in parts], target)
    torchs = run_head(unfused(name), parts, target)
    found = run_head(FUSED[name], parts, target, chunk_size=64)
    for ours, theirs, true in zip(
        [found[0], *found[1]], [torchs[0], *torchs[1]], [exact[0], *exact[1]], strict=True
    ):
        error, allowed = ((x.double() - true).abs() for x in (ours, theirs))
        assert_at_most(error, 2 * allowed.max() + 3e-7 * true.abs())


@every_loss
def test_gradients_too_small_for_float16_survive_until_they_are_scaled(name):
    """An upstream gradient, such as a loss scale, is applied before anything is rounded to float16."""
    *parts, target = head_parts(8, 4, 20_000, torch.float16)
    scale = 2.0**16 if name == "lgl-inr" else 1.0  # a mean over samples is larger than one over columns
    exact = run_head(FUSED[name], [p.double() for p in parts], target, scale)
    found = run_head(FUSED[name], parts, target, scale)
    for ours, true in zip(found[1][1:], exact[1][1:], strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=2e-3, atol=2e-3 * true.abs().median().item())


@every_loss
def test_several_upstream_gradients_at_once(name):
    x, weight, _, target = head_parts()
    weight.requires_grad_()
    loss = FUSED[name](x, weight, target)
    upstream = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    (batched,) = torch.autograd.grad(loss, weight, upstream, is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(batched, upstream[:, None, None] * one)


@every_loss
@pytest.mark.parametrize("num_sampled", [None, 2])
@pytest.mark.parametrize("label", [-1, 5, 70])
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_label_out_of_range_stops_compiled_and_unvalidated_code_too(name, label, num_sampled):
    *parts, target = head_parts(dtype=torch.float32)
    target[3] = label
    torch.compiler.reset()
    compiled = torch.compile(FUSED[name], backend="aot_eager")
    for function, options in ((FUSED[name], {"validate": False}), (compiled, {})):
        with pytest.raises((RuntimeError, IndexError), match=r"(?i)target|index"):
            run_head(function, parts, target, num_sampled=num_sampled, **options)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_empty_batch_of_a_head_whose_bias_sums_to_infinity(name, dtype):
    parts = (
        torch.zeros(0, 4),
        torch.full((10_000, 4), torch.inf, dtype=dtype),
        torch.full((10_000,), -9.2, dtype=dtype),
    )
    loss, grads = run_head(FUSED[name], parts, torch.zeros(0, dtype=torch.long))
    assert loss == 0
    assert all((g == 0).all() for g in grads)


@every_loss
@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (False, True, True)]
)
def test_frozen_parts_get_no_gradient(name, wanted):
    *parts, target = head_parts()
    for reduction, upstream in (("mean", None), ("none", 1.0)):
        expected = run_head(unfused(name), parts, target, upstream, wanted, reduction=reduction)
        found = run_head(FUSED[name], parts, target, upstream, wanted, reduction=reduction)
        assert [g is not None for g in found[1]] == list(wanted)
        assert_same(found, expected, rtol=1e-12, atol=1e-14)


@every_loss
def test_without_bias_and_of_any_shape(name):
    x, weight, _, target = head_parts(24, 4, 5)
    expected = run_head(unfused(name), (x, weight, None), target)
    found = run_head(FUSED[name], (x.reshape(2, 3, 4, 4), weight, None), target.reshape(2, 3, 4))
    found[1][0] = found[1][0].reshape(24, 4)
    assert_same(found, expected, rtol=1e-12, atol=1e-14)


@every_loss
def test_ignored_rows_may_hold_anything(name):
    *parts, target = head_parts()
    kept = torch.arange(12) % 3 != 0
    expected = run_head(unfused(name), (parts[0][kept], *parts[1:]), target[kept])
    target = target.masked_fill(~kept, -100)
    parts[0][~kept] = torch.nan
    parts[0][0] = torch.inf
    found = run_head(FUSED[name], parts, target, chunk_size=2)
    assert_zero(found[1][0][~kept])
    found[1][0] = found[1][0][kept]
    assert_same(found, expected, rtol=1e-12, atol=1e-14)


@every_loss
def test_nothing_that_counts(name):
    *parts, target = head_parts()
    for x, labels in ((parts[0], torch.full_like(target, -100)), (parts[0][:0], target[:0])):
        loss, grads = run_head(FUSED[name], (x, *parts[1:]), labels)
        assert loss == 0
        assert all((g == 0).all() for g in grads)


@every_loss
def test_without_gradients_it_is_the_same_loss(name):
    x, weight, bias, target = head_parts()
    weight.requires_grad_()
    expected = FUSED[name](x, weight, target, linear_bias=bias)
    with torch.no_grad():
        found = FUSED[name](x, weight, target, linear_bias=bias)
    assert not found.requires_grad
    assert torch.equal(found, expected.detach())


@every_loss
def test_autocast_changes_nothing(name):
    *parts, target = head_parts(dtype=torch.float32)
    expected = run_head(FUSED[name], parts, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(run_head(FUSED[name], parts, target), expected, rtol=0, atol=0)


@every_loss
def test_second_backward_pass_through_the_same_graph(name):
    x, weight, bias, target = head_parts()
    leaves = [p.requires_grad_() for p in (x, weight, bias)]
    loss = FUSED[name](x, weight, target, linear_bias=bias)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    kept = [g.clone() for g in first]
    second = torch.autograd.grad(loss, leaves, torch.tensor(3.0, dtype=torch.float64))
    for a, b, c in zip(kept, second, first, strict=True):
        torch.testing.assert_close(b, 3 * a, rtol=1e-13, atol=1e-16)
        assert torch.equal(a, c)


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivative_is_refused(name, reduction):
    x, weight, _, target = head_parts()
    loss = FUSED[name](x.requires_grad_(), weight, target, reduction=reduction).sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        grad.sum().backward()


@every_loss
def test_gradient_checkpointing(name, monkeypatch):
    *parts, target = head_parts()
    expected = run_head(FUSED[name], parts, target)

    def checkpointed(x, weight, target, *, linear_bias):
        return torch.utils.checkpoint.checkpoint(
            lambda *p: FUSED[name](p[0], p[1], target, linear_bias=p[2]),
            x,
            weight,
            linear_bias,
            use_reentrant=False,
        )

    made, operator = [], fused._OPERATORS[name]

    def counted(*arguments):
        made.append(any(arguments[-3:]))
        return operator(*arguments)

    monkeypatch.setitem(fused._OPERATORS, name, counted)
    assert_same(run_head(checkpointed, parts, target), expected, rtol=0, atol=0)
    assert sum(made) == 1  # gradients, once


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@every_loss
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_equals_eager(name, reduction):
    *parts, target = head_parts(dtype=torch.float32)
    upstream = torch.linspace(1, 2, 12 if name == "logistic" else 5) if reduction == "none" else 2.0
    options = weights_of(name, 5, dtype=torch.float32) | {"reduction": reduction}
    expected = run_head(FUSED[name], parts, target, upstream, **options)
    torch.compiler.reset()
    compiled = torch.compile(FUSED[name], fullgraph=True, backend="aot_eager")
    assert_same(run_head(compiled, parts, target, upstream, **options), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("flags", [(True, True, True), (True, False, False), (False, True, False)])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "no bias"])
def test_operators_pass_opcheck(layout, flags):
    x, weight, bias, target = head_parts(dtype=torch.float32)
    if layout == "transposed":
        x, weight = x.t().contiguous().t(), weight.t().contiguous().t()
    if layout == "no bias":
        bias, flags = None, (*flags[:2], False)
    factor, u = torch.linspace(0.5, 2, 5), torch.linspace(2, 0.5, 5)
    torch.library.opcheck(
        fused.lgl_inr_linear, (x, weight, bias, target, factor, u, 1.0, False, -100, 0, 5, 2, *flags)
    )
    rows = torch.linspace(0, 1, 12)
    torch.library.opcheck(fused.logistic_linear, (x, weight, bias, target, rows, u, factor, -100, 0, 5, 2, *flags))


@every_loss
def test_logits_never_exist(name):
    """Of all memory that is asked for at once, nothing is near the size of the logits; nor is what is kept."""
    rows, features, classes = 64, 8, 20_000
    x, weight, bias, target = head_parts(rows, features, classes, torch.float32)
    leaves = [p.requires_grad_() for p in (x, weight, bias)]
    kept = []
    with (
        torch.profiler.profile(profile_memory=True) as profile,
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t),
    ):
        FUSED[name](x, weight, target, linear_bias=bias, chunk_size=500).backward()
    largest = max(e.self_cpu_memory_usage for e in profile.events())
    assert 0 < largest <= 1.1 * 4 * classes * features  # the gradient of the weight
    assert sum(kept) <= 1.1 * sum(p.numel() for p in leaves) + classes + 10 * rows


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("columns", [1, 300, 100_000, 10_000_000])
@pytest.mark.parametrize("rows", [0, 1, 64, 1024, 100_000])
def test_chunks_are_all_columns_or_within_bounds(rows, columns, device):
    width = kernel.chunk_columns(rows, columns, device)
    assert 1 <= width <= columns
    if device == "cpu":
        assert width in (64, columns) or width * rows <= 1 << 19
    elif width < columns:
        assert 4096 <= width <= 65_536
        assert width % 128 == 0
        assert width == 4096 or width * rows <= 1 << 24


def test_a_million_classes_take_few_launches_and_little_memory_on_a_gpu():
    width = kernel.chunk_columns(1024, 1_000_000, "cuda")
    assert -(-1_000_000 // width) <= 64
    assert 1024 * width * (4 + 2) < 110e6  # float32 logits and bfloat16 gradients, in bytes


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"input": torch.float16, "weight": torch.float16}, True),
        ({"input": torch.float32}, False),
        ({"weight": torch.float16}, False),
        ({"input": torch.float32, "weight": torch.float32}, False),
        ({"capability": (7, 5)}, False),
        ({"is_cuda": False}, False),
    ],
)
def test_whose_products_take_half_precision(monkeypatch, changed, expected):
    case = {"input": torch.bfloat16, "weight": torch.bfloat16, "is_cuda": True, "capability": (9, 0)} | changed
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: case["capability"])
    input, weight = (
        SimpleNamespace(dtype=case[part], is_cuda=case["is_cuda"], device=torch.device("cuda", 0))
        for part in ("input", "weight")
    )
    assert kernel._half_products(input, weight) is expected


@every_loss
def test_nothing_waits_for_the_device(name):
    x, weight, bias, target = (p.to("meta") for p in head_parts(dtype=torch.float32))
    x.requires_grad_()
    FUSED[name](x, weight, target, linear_bias=bias).backward()
    assert x.grad.shape == (12, 4)


def test_many_chunks_of_like_logits_stay_exact():
    x, weight, target = torch.full((4, 2), 0.3), torch.ones(20_000, 2), torch.arange(4)
    expected = logistic_linear(x.double(), weight.double(), target)
    found = logistic_linear(x, weight, target, chunk_size=64)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", ["function", "module"])
def test_compiles_whole_when_beta_changes(name):
    torch.compiler.reset()
    logits, target = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    module = LGLINRLoss()

    def call(beta):
        if name == "function":
            return lgl_inr_loss(logits, target, beta=beta)
        module.beta = beta
        return module(logits, target)

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    for beta in (1.0, 2.0, 3.5):
        torch.testing.assert_close(compiled(beta), call(beta))


# Sampled columns ----------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 0, 1, 7])
def test_all_columns_sampled_is_exact(name, weighted, ignore_index):
    *parts, target = head_parts(12, 4, 30)
    target[4] = ignore_index
    options = (weights_of(name, 30) if weighted else {}) | {"ignore_index": ignore_index}
    expected = run_head(FUSED[name], parts, target, **options)
    assert_same(run_head(FUSED[name], parts, target, num_sampled=30, **options), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
@every_loss
def test_sampled_loss_and_gradients_are_unbiased(name):
    *parts, target = head_parts(6, 3, 30)
    options = weights_of(name, 30)
    expected = run_head(FUSED[name], parts, target, **options)
    generator = torch.Generator().manual_seed(0)
    draws = [
        run_head(FUSED[name], parts, target, num_sampled=4, generator=generator, **options) for _ in range(1500)
    ]
    for i in range(4):
        some = torch.stack([d[0] if i == 0 else d[1][i - 1] for d in draws])
        true = expected[0] if i == 0 else expected[1][i - 1]
        error = some.std(0) / len(some) ** 0.5
        assert error.max() > 0
        assert_at_most((some.mean(0) - true).abs(), 5 * error + 1e-12)


def test_columns_that_are_not_drawn_get_no_gradient():
    x, weight, bias, target = head_parts(6, 3, 500)
    _, (_, grad, _) = run_head(lgl_inr_linear, (x, weight, bias), target, num_sampled=10)
    touched = (grad != 0).any(1)
    assert len(target.unique()) <= touched.sum() <= len(target.unique()) + 10
    assert touched[target].all()


# Prediction and modules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 7, None])
def test_largest_logits(chunk_size):
    x, weight, bias, _ = head_parts(12, 4, 40)
    values, classes = linear_topk(x.reshape(3, 4, 4), weight, 5, linear_bias=bias, chunk_size=chunk_size)
    expected = F.linear(x, weight, bias).topk(5)
    torch.testing.assert_close(values.reshape(12, 5), expected.values)
    assert torch.equal(classes.reshape(12, 5), expected.indices)


@every_loss
def test_prediction_takes_the_dtypes_that_the_loss_takes(name):
    module = HEADS[name](4, 5, dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x = torch.randn(3, 4, dtype=dtype)
        module(x, torch.tensor([0, 1, 2]))
        assert module.logits(x).dtype == dtype
        values, classes = module.predict(x, 2)
        torch.testing.assert_close(values, module.logits(x).gather(1, classes))


@every_loss
def test_module_is_a_linear_layer_with_its_loss(name):
    torch.manual_seed(0)
    options = {key: value.float() for key, value in weights_of(name, 6).items()}
    module = HEADS[name](4, 6, chunk_size=4, **options)
    layer = torch.nn.Linear(4, 6)
    layer.load_state_dict(module.state_dict())
    x, target = torch.randn(12, 4), torch.randint(6, (12,))
    expected = LOSSES[name](**options)(layer(x), target)
    expected.backward()
    loss = copy.deepcopy(module)(x, target)
    torch.testing.assert_close(loss, expected)
    module(x, target).backward()
    torch.testing.assert_close(module.weight.grad, layer.weight.grad)
    torch.testing.assert_close(module.bias.grad, layer.bias.grad)
    torch.testing.assert_close(module.logits(x), layer(x))
    assert torch.equal(module.predict(x, 2)[1], layer(x).topk(2).indices)
    assert "in_features=4, num_classes=6, bias=True" in repr(module)


def test_module_learns():
    torch.manual_seed(0)
    x = torch.randn(300, 8)
    target = (x @ torch.randn(8, 20)).argmax(1)
    module = LGLINRLinear(8, 20, beta=3.0, num_sampled=10)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        module(x, target).backward()
        optimizer.step()
    assert (module.predict(x)[1][:, 0] == target).double().mean() > 0.7
    evaluated = module.eval()(x, target)
    assert torch.equal(evaluated, module(x, target))  # nothing is drawn


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": [1.0]}, TypeError, r"input must be a tensor of shape \(..., D\), got list"),
        ({"input": torch.ones(12, 4, dtype=torch.long)}, TypeError, "input must be floating point, got int64"),
        ({"input": torch.ones(12, 3)}, ValueError, r"input must have shape \(..., 4\) for this linear_weight"),
        ({"linear_weight": torch.ones(5)}, ValueError, r"linear_weight must have shape \(K, D\) with K, D >= 1"),
        ({"linear_bias": [0.0] * 5}, TypeError, r"linear_bias must be a tensor of shape \(K,\), got list"),
        ({"linear_bias": torch.ones(5).long()}, TypeError, "linear_bias must be floating point, got int64"),
        (
            {"linear_weight": torch.ones(5, 4).to("meta")},
            ValueError,
            "linear_weight must be on the device of input",
        ),
        (
            {"output_weights": torch.ones(5).requires_grad_()},
            ValueError,
            "output_weights must not require a gradient",
        ),
        ({"pos_weight": torch.ones(5).requires_grad_()}, ValueError, "pos_weight must not require a gradient"),
        ({"linear_bias": torch.ones(4)}, ValueError, r"linear_bias must have shape \(5,\), got \(4,\)"),
        ({"target": torch.zeros(11, dtype=torch.long)}, ValueError, r"target must have shape \(12,\)"),
        (
            {"target": torch.full((12,), 5)},
            ValueError,
            "target must hold labels from 0 to 4 or ignore_index -100, got 5",
        ),
        ({"output_weights": torch.ones(4)}, ValueError, r"output_weights must have shape \(5,\), got \(4,\)"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be an int >= 1, got 0"),
        ({"num_sampled": 0}, ValueError, "num_sampled must be from 1 to 5, the columns, got 0"),
        ({"num_sampled": 2.0}, TypeError, "num_sampled must be an int, got float"),
        ({"num_sampled": 2, "reduction": "none"}, ValueError, "num_sampled estimates a sum over columns"),
        ({"num_classes": 7}, ValueError, "num_classes must be 5, the rows of linear_weight, got 7"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of"),
    ],
)
@every_loss
def test_bad_input(name, changes, error, message):
    x, weight, _, target = head_parts(dtype=torch.float32)
    arguments = {"input": x, "linear_weight": weight, "target": target} | changes
    with pytest.raises(error, match=message):
        FUSED[name](**arguments)


def test_bad_heads():
    with pytest.raises(ValueError, match="statistics must be 'batch' and process_group None"):
        LGLINRLinear(4, 5, statistics="running")
    with pytest.raises(ValueError, match="in_features must be an int >= 1, got 0"):
        LGLINRLinear(0, 5)
    with pytest.raises(TypeError, match=r"loss 'lgl-inr' has no option 'bta' .did you mean 'beta'"):
        LGLINRLinear(4, 5, bta=3)
    with pytest.raises(ValueError, match="k must be from 1 to 5, the number of classes, got 6"):
        LogisticLinear(4, 5).predict(torch.zeros(2, 4), 6)
    with pytest.raises(TypeError, match=r"input must be a tensor of shape \(..., D\), got list"):
        linear_topk([1.0], torch.eye(3), 1)
    with pytest.raises(ValueError, match="num_sampled must be from 1 to 5, the columns, got 50"):
        LGLINRLinear(4, 5, num_sampled=50)
    with pytest.raises(ValueError, match="chunk_size must be an int >= 1, got 0"):
        LGLINRLinear(4, 5, chunk_size=0)
    with pytest.raises(ValueError, match="must have at least two rows"):
        LogisticLinear(4, 1)(torch.zeros(2, 4), torch.tensor([0, 0]))
