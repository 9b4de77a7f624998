"""The Triton kernels of LGL-INR where they can run: on a GPU, or on the CPU under triton's interpreter.

Run by test_lgl_inr_triton.py in a process of its own, as TRITON_INTERPRET must be set before triton is imported.
By hand: TRITON_INTERPRET=1 pytest tests/kernels/triton_on_device.py, or without the variable on a GPU.
"""

import os

import pytest
import torch

from steelyard.kernels import lgl_inr_triton
from steelyard.kernels.lgl_inr_triton import lgl_inr_gradient, lgl_inr_statistics, lgl_inr_triton_columns
from steelyard.losses.functional import lgl_inr_loss
from tests.losses.cases import batch, value_and_grad
from tests.oracles import lgl_inr

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def columns(logits, target, *, beta=1.0, detach_weights=False, pos_weight=None, ignore_index=-100):
    return lgl_inr_triton_columns(logits, target, pos_weight, beta, detach_weights, ignore_index)


def eager(logits, target, **options):
    """The CPU's path."""
    return lgl_inr_loss(logits, target, reduction="none", **options)


def distances(result, expected):
    """Largest errors of loss and gradient, each relative to its own value and a thousandth of the largest."""
    return [
        ((x.double().cpu() - y).abs() / (y.abs() + 1e-3 * y.abs().max()).clamp_min(1e-30)).max().item()
        for x, y in zip(result, expected, strict=True)
    ]


def check(logits, target, upstream=None, **options):
    """Close to the float64 oracle on the same logits: three times the error of the CPU's path, plus a few roundings.

    beta multiplies the roundings: an error d of P is one of beta d in e, and the bracket of the gradient may cancel.
    """
    classes = logits.shape[1]
    if upstream is None:
        upstream = torch.linspace(-1, 2, classes)
    counted = target != options.get("ignore_index", -100)
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    exact = value_and_grad(
        lgl_inr, logits[counted].double(), target[counted], upstream.double(), reduction="none", **wide
    )
    plain = value_and_grad(eager, logits, target, upstream, **options)

    leaf = logits.detach().clone(memory_format=torch.preserve_format).to(DEVICE)  # the layout stays
    there = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    loss, grad = value_and_grad(columns, leaf, target.to(DEVICE), upstream.to(DEVICE), **there)
    assert loss.dtype == torch.float32
    assert grad.dtype == logits.dtype
    assert (grad[~counted.to(DEVICE)] == 0).all()
    found = distances((loss, grad[counted.to(DEVICE)]), exact)
    allowed = distances((plain[0], plain[1][counted]), exact)
    few = 5e-7 * (2 + abs(options.get("beta", 1.0)))
    assert found[0] <= 3 * allowed[0] + few, (found, allowed)
    assert found[1] <= 3 * allowed[1] + few, (found, allowed)


@pytest.mark.parametrize("detach_weights", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0, -2.0, 30.0])
@pytest.mark.parametrize(("rows", "classes"), [(12, 5), (5, 40), (16, 140)])
def test_any_beta_equals_the_oracle(rows, classes, beta, detach_weights):
    logits, target = batch(rows, classes, dtype=torch.float32)
    check(logits, target, beta=beta, detach_weights=detach_weights)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "classes"), [(40, 3), (6, 140), (1, 1), (4, 1), (1, 7), (3, 2)])
def test_any_dtype_and_shape_with_weights_and_ignored_rows(rows, classes, dtype):
    logits, target = batch(rows, classes, dtype=dtype)
    pos_weight = torch.linspace(0.2, 3, classes)
    check(logits, target, beta=2.0, pos_weight=pos_weight)
    if rows > 3:
        target[2] = -100
        logits[2] = torch.nan
        check(logits, target, beta=2.0, pos_weight=pos_weight)
    if classes > 1:
        check(logits.nan_to_num(1.0), target.clamp_min(0), ignore_index=0)


@pytest.mark.parametrize("classes", [6, 40])
def test_one_class_only(classes):
    logits, target = batch(8, classes, dtype=torch.float32)
    check(logits, torch.full_like(target, 2))
    check(logits, torch.full_like(target, 2).index_fill_(0, torch.tensor([0, 1, 2, 3, 4, 5, 6]), -100))


def test_nothing_counts():
    logits = torch.full((4, 20), torch.nan, device=DEVICE)
    loss, grad = value_and_grad(columns, logits, torch.full((4,), -100, device=DEVICE), torch.ones(20).to(DEVICE))
    assert (loss == 0).all()
    assert (grad == 0).all()


@pytest.mark.parametrize("detach_weights", [False, True])
@pytest.mark.parametrize(("rows", "classes"), [(12, 4), (5, 30)])
def test_huge_logits(rows, classes, detach_weights):
    logits, target = batch(rows, classes, dtype=torch.float32)
    logits = (logits * 5e3).clamp(-1e4, 1e4)
    assert (logits.abs() == 1e4).any()
    check(logits, target, detach_weights=detach_weights, beta=3.0)


def test_infinite_logits_on_the_right_side_cost_nothing():
    """Class 0 has several rows, class 1 one; +inf in their own columns, -inf in the others, are weightless."""
    logits = torch.tensor([[torch.inf, -torch.inf, 0.5], [torch.inf, -torch.inf, 1], [-torch.inf, torch.inf, -1]])
    loss, grad = value_and_grad(columns, logits.to(DEVICE), torch.tensor([0, 0, 1]).to(DEVICE), 1.0)
    assert (loss[:2] == 0).all()
    assert loss[2] > 0
    assert (grad[:, :2] == 0).all()
    assert (grad[:, 2] != 0).all()


def test_infinite_logits_on_the_wrong_side_of_their_own_column_cost_infinity():
    """And not NaN; the gradient stays what it is at very negative logits."""
    logits = torch.tensor([[-torch.inf, 0, 0.5], [0, 0, 1.0], [0, -torch.inf, -1]])
    loss, grad = value_and_grad(columns, logits.to(DEVICE), torch.tensor([0, 0, 1]).to(DEVICE), 1.0)
    expected, expected_grad = value_and_grad(eager, logits, torch.tensor([0, 0, 1]), 1.0)
    assert loss.isinf().tolist() == [True, True, False]
    torch.testing.assert_close(loss.cpu(), expected)
    torch.testing.assert_close(grad.cpu(), expected_grad)
    assert grad[0, 0].item() == -0.5
    assert grad[2, 1].item() == -1


@pytest.mark.parametrize("target", [[0], [1]])
def test_every_logit_keeps_its_relative_accuracy(target):
    """One row and beta = 0: the losses are softplus and the gradients sigmoid themselves."""
    z = torch.linspace(-80, 80, 3001)[None]
    loss, grad = value_and_grad(columns, z.to(DEVICE), torch.tensor(target).to(DEVICE), 1.0, beta=0.0)
    sign = torch.ones(3001, dtype=torch.float64).index_fill_(0, torch.tensor(target), -1.0)
    s = z[0].double() * sign
    bound = 2.5e-7 + (0 if INTERPRETED else 1.2e-7) * s.abs()  # a GPU's exp is one of base 2 with scaled argument
    softplus = torch.where(s < 0, s.clamp(max=0).exp().log1p(), s + (-s.clamp(min=0)).exp().log1p())
    assert ((loss.double().cpu() / softplus - 1).abs() <= bound).all()
    assert ((grad[0].double().cpu() * sign / torch.sigmoid(s) - 1).abs() <= bound).all()


@pytest.mark.parametrize("layout", ["transposed", "rows apart", "columns apart", "one row for all"])
def test_any_memory_layout(layout):
    logits, target = batch(12, 6, dtype=torch.float32)
    logits, target = logits.to(DEVICE), target.to(DEVICE)
    spread = {
        "transposed": logits.T.contiguous().T,
        "rows apart": torch.cat([logits, logits + 1], 1)[:, :6],
        "columns apart": torch.stack([logits, logits + 1], 2)[..., 0],
        "one row for all": logits[:1].expand(12, 6),
    }[layout]
    assert not spread.is_contiguous()
    upstream = torch.linspace(-1, 2, 6, device=DEVICE)
    leaf = spread.detach().requires_grad_()
    loss = columns(leaf, target)
    grad = torch.autograd.grad((loss * upstream).sum(), leaf)[0]
    expected = value_and_grad(columns, spread.contiguous(), target, upstream)
    torch.testing.assert_close((loss.detach(), grad), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "classes"), [(24, 5), (40, 200), (30, 30)])
def test_sharing_the_classes_out_changes_nothing(monkeypatch, rows, classes):
    logits, target = batch(rows, classes, dtype=torch.float32)
    target[:3], target[4] = 1, -100
    monkeypatch.setattr(lgl_inr_triton, "_processors", lambda device: 1000)
    layout = lgl_inr_triton._layout(rows, classes, 1000)
    assert (layout.splits > 1) == (classes > 5)
    if classes == 5:
        monkeypatch.setattr(lgl_inr_triton, "_layout", lambda *_: layout._replace(splits=7))  # more than classes
    check(logits, target, pos_weight=torch.linspace(0, 2, classes))


def test_many_rows_of_a_class_in_many_tiles():
    logits, _ = batch(100, 20, dtype=torch.float32)
    target = torch.tensor([3] * 70 + [19] * 29 + [7])
    check(logits, target[torch.randperm(100, generator=torch.Generator().manual_seed(0))])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_public_function_takes_them(monkeypatch, reduction):
    logits, target = batch(12, 5, dtype=torch.float32)
    options = {"beta": 2.0, "weight": torch.linspace(1, 2, 5), "reduction": reduction}
    expected = value_and_grad(lgl_inr_loss, logits, target, torch.tensor(3.0), **options)
    options["weight"] = options["weight"].to(DEVICE)
    calls = []
    monkeypatch.setattr(lgl_inr_triton, "takes", lambda *_: not calls.append(1))
    result = value_and_grad(
        lgl_inr_loss, logits.to(DEVICE), target.to(DEVICE), torch.tensor(3.0).to(DEVICE), **options
    )
    assert calls
    torch.testing.assert_close([r.cpu() for r in result], list(expected), rtol=1e-5, atol=1e-7)


def test_cannot_be_differentiated_twice():
    logits, target = batch(6, 4, dtype=torch.float32)
    leaf = logits.to(DEVICE).requires_grad_()
    (grad,) = torch.autograd.grad(columns(leaf, target.to(DEVICE)).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        grad.sum().backward()


def test_backward_may_run_again():
    logits, target = batch(6, 4, dtype=torch.float32)
    leaf = logits.to(DEVICE).requires_grad_()
    loss = columns(leaf, target.to(DEVICE)).sum()
    first, second = (torch.autograd.grad(loss, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_nothing_of_the_logits_size_is_saved_but_the_logits():
    saved = []
    logits, target = batch(5, 300, dtype=torch.float32)
    leaf = logits.to(DEVICE).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss = columns(leaf, target.to(DEVICE), pos_weight=torch.ones(300, device=DEVICE))
    other = sum(t.nbytes for t in saved if t.data_ptr() != leaf.data_ptr())
    assert any(t.data_ptr() == leaf.data_ptr() for t in saved)
    assert other <= 4 * (3 * 300 + 4 * 5 + 8)
    loss.sum().backward()


def test_under_vmap_and_func_grad():
    pairs = [batch(6, 5, dtype=torch.float32, seed=s) for s in range(2)]
    logits, target = (torch.stack(x).to(DEVICE) for x in zip(*pairs, strict=True))
    mapped = torch.func.vmap(torch.func.grad(lambda z, y: columns(z, y).sum()))(logits, target)
    single = [value_and_grad(columns, z, y, 1.0)[1] for z, y in zip(logits, target, strict=True)]
    assert torch.equal(mapped, torch.stack(single))


@pytest.mark.parametrize(("rows", "classes", "with_weight"), [(6, 4, False), (3, 9, True)])
def test_operators_pass_opcheck(rows, classes, with_weight):
    logits, target = (x.to(DEVICE) for x in batch(rows, classes, dtype=torch.float32))
    pos_weight = torch.rand(classes, device=DEVICE) if with_weight else None
    torch.library.opcheck(lgl_inr_statistics, (logits, target, pos_weight, 1.0, -100))
    statistics = lgl_inr_statistics(logits, target, pos_weight, 1.0, -100)[1:]
    upstream = torch.rand(classes, device=DEVICE)
    torch.library.opcheck(lgl_inr_gradient, (upstream, logits, pos_weight, *statistics, 1.0, False))


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_traces_into_one_graph():
    torch._dynamo.reset()
    logits, target = (x.to(DEVICE) for x in batch(6, 4, dtype=torch.float32))
    compiled = torch.compile(columns, backend="aot_eager", fullgraph=True)
    expected = value_and_grad(columns, logits, target, 1.0)
    assert all(map(torch.equal, value_and_grad(compiled, logits, target, 1.0), expected))


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU a failed assertion ends the process")
@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_out_of_range_is_refused(label):
    logits, target = batch(6, 5, dtype=torch.float32)
    target[1] = label
    with pytest.raises(RuntimeError, match="target must hold labels from 0 to 4"):
        columns(logits, target)


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_does_not_wait_for_the_gpu():
    logits, target = (x.to(DEVICE) for x in batch(64, 300, dtype=torch.float32))
    pos_weight = torch.rand(300, device=DEVICE)
    leaf = logits.requires_grad_()
    lgl_inr_loss(leaf, target, pos_weight=pos_weight).backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        lgl_inr_loss(leaf, target, pos_weight=pos_weight).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
def test_more_than_two_to_the_31_elements():
    classes = (1 << 31) // 16 + 5
    logits = torch.randn(17, classes, device=DEVICE, dtype=torch.bfloat16)
    target = torch.arange(17, device=DEVICE) + classes - 17
    loss, grad = value_and_grad(columns, logits, target, 1.0)
    last = slice(classes - 1000, classes)
    expected, expected_grad = value_and_grad(columns, logits[:, last].clone(), target - last.start, 1.0)
    torch.testing.assert_close((loss[last], grad[:, last]), (expected, expected_grad), rtol=1e-5, atol=0)
