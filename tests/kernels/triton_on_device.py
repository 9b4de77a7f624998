"""The Triton kernels of LGL-INR where they can run: on a GPU, or on the CPU under triton's interpreter.

Run by test_lgl_inr_triton.py in a process of its own, as TRITON_INTERPRET must be set before triton is imported.
By hand: TRITON_INTERPRET=1 pytest tests/kernels/triton_on_device.py, or without the variable on a GPU.
"""

import contextlib
import itertools
import os
from collections import Counter, defaultdict

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from steelyard.kernels.heads import chunks as head_kernel
from steelyard.kernels.heads import dispatch as fused
from steelyard.kernels.lgl_inr import triton as lgl_inr_triton
from steelyard.kernels.lgl_inr.triton import lgl_inr_gradient, lgl_inr_statistics, lgl_inr_triton_columns
from steelyard.losses import lgl_inr_linear, logistic_linear
from steelyard.losses.functional import lgl_inr_loss
from tests.helpers import assert_at_most, assert_zero, batch, head_parts, run_head, unfused, value_and_grad
from tests.oracles import ORACLES, lgl_inr

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_gpu = pytest.mark.skipif(INTERPRETED, reason="needs a GPU")
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def product(*values, every):
    """All combinations on a GPU; under the interpreter, which is slow, one of so many, with every value in some."""
    found = list(itertools.product(*values))[:: every if INTERPRETED else 1]
    assert all(set(of_one) == set(tried) for of_one, tried in zip(values, zip(*found, strict=True), strict=True))
    return found


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
    assert_zero(grad[~counted.to(DEVICE)])
    found = distances((loss, grad[counted.to(DEVICE)]), exact)
    allowed = distances((plain[0], plain[1][counted]), exact)
    few = 5e-7 * (2 + abs(options.get("beta", 1.0)))
    assert found[0] <= 3 * allowed[0] + few, (found, allowed)
    assert found[1] <= 3 * allowed[1] + few, (found, allowed)


@pytest.mark.parametrize(
    ("shape", "beta", "detach_weights"),
    product([(12, 5), (5, 40), (16, 140)], [0.0, 1.0, 5.0, -2.0, 30.0], [False, True], every=3),
)
def test_any_beta_equals_the_oracle(shape, beta, detach_weights):
    rows, classes = shape
    logits, target = batch(rows, classes, dtype=torch.float32)
    check(logits, target, beta=beta, detach_weights=detach_weights)


@pytest.mark.parametrize(
    ("shape", "dtype"), product([(40, 3), (6, 140), (1, 1), (4, 1), (1, 7), (3, 2)], FLOATS, every=2)
)
def test_any_dtype_and_shape_with_weights_and_ignored_rows(shape, dtype):
    rows, classes = shape
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
    assert_zero(loss)
    assert_zero(grad)


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
    assert_zero(loss[:2])
    assert loss[2] > 0
    assert_zero(grad[:, :2])
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
    bound = 3.5e-7 + 1.2e-7 * s.abs()  # exp is one of base 2 with scaled argument
    softplus = torch.where(s < 0, s.clamp(max=0).exp().log1p(), s + (-s.clamp(min=0)).exp().log1p())
    assert_at_most((loss.double().cpu() / softplus - 1).abs(), bound)
    assert_at_most((grad[0].double().cpu() * sign / torch.sigmoid(s) - 1).abs(), bound)


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
    layout = lgl_inr_triton._layout(rows, classes, classes, 1000)
    assert (layout.splits > 1) == (classes > 5)
    if classes == 5:
        monkeypatch.setattr(lgl_inr_triton, "_layout", lambda *_: layout._replace(splits=7))  # more than classes
    check(logits, target, pos_weight=torch.linspace(0, 2, classes))


@pytest.mark.parametrize("beta", [30.0] if INTERPRETED else [-30.0, 30.0])
def test_small_probabilities_of_many_rows_keep_their_digits(monkeypatch, beta):
    """All alike, so that every rounding of their sum goes the same way, which beta and a bracket that cancels show."""
    columns = 100 if INTERPRETED else 130  # one tile, or two
    layout = lgl_inr_triton._layout(1027, columns, 4200, 1)
    monkeypatch.setattr(lgl_inr_triton, "_layout", lambda *_: layout)
    target = torch.tensor([0] * 1024 + [1] + [5, 5])
    logits = torch.full((1027, columns), -5.634675)
    logits[1024] += 0.01
    logits[1025:] -= 0.02
    check(logits, target, beta=beta)


@pytest.mark.parametrize("beta", [1.0] if INTERPRETED else [-3.0, 1.0, 30.0])
def test_tiles_without_own_columns(beta):
    """Classes of one row, in tiles of 16 rows by 128 columns: most have no row in its own column. Infinite logits
    that push, and one that does not."""
    target = torch.arange(0, 400, 8)[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    logits, _ = batch(50, 400, dtype=torch.float32)
    logits[3, (target[3] + 200) % 400] = -torch.inf
    logits[9, target[9]] = torch.inf
    check(logits, target, beta=beta, pos_weight=torch.linspace(0, 2, 400))


@pytest.mark.parametrize("long", [70, 1024, 1025])
@pytest.mark.parametrize("processors", [1, 132])
def test_many_rows_of_a_class_in_many_tiles(monkeypatch, long, processors):
    """Beside a class of many rows one of some, one of one, and ignored rows."""
    monkeypatch.setattr(lgl_inr_triton, "_processors", lambda device: processors)
    target = torch.tensor([3] * long + [19] * 29 + [7] + [2] * 140 + [-100] * 3)
    logits, _ = batch(len(target), 20, dtype=torch.float32)
    check(logits, target[torch.randperm(len(target), generator=torch.Generator().manual_seed(0))])


@pytest.mark.skipif(not INTERPRETED, reason="the compiler knows the constant")
@pytest.mark.parametrize("processors", [1, 132])
def test_several_classes_of_many_runs(monkeypatch, processors):
    import triton.language as tl

    from steelyard.kernels.lgl_inr import device as kernels

    assert (kernels.RUN.value, kernels.HEAD.value) == (lgl_inr_triton._RUN, lgl_inr_triton._HEAD)
    monkeypatch.setattr(kernels, "RUN", tl.constexpr(4))
    monkeypatch.setattr(lgl_inr_triton, "_RUN", 4)
    monkeypatch.setattr(lgl_inr_triton, "_processors", lambda device: processors)
    target = torch.tensor([5] * 97 + [0] * 9 + [7] * 8 + [3] * 4 + [2] + [-100] * 11)
    assert lgl_inr_triton._layout(130, 40, 40, processors).block_rows < 97 / 4
    logits, _ = batch(len(target), 40, dtype=torch.float32)
    check(logits, target[torch.randperm(len(target), generator=torch.Generator().manual_seed(0))])


@pytest.mark.parametrize("classes", [2, 20])
def test_sums_over_many_rows_stay_exact(classes):
    """Equal logits: each term rounds in the same direction, and all classes that push a column push alike."""
    rows = 2_500 if INTERPRETED else 1_000_000
    target = (torch.arange(rows) % 1000 == 0).long()
    logits = torch.full((rows, classes), -0.3, device=DEVICE)
    loss, grad = value_and_grad(columns, logits, target.to(DEVICE), 1.0)
    p, softplus = torch.sigmoid(torch.tensor(-0.3).double()), torch.nn.functional.softplus
    present = torch.arange(classes) < 2
    expected = softplus(torch.tensor(-0.3).double()) + present * softplus(torch.tensor(0.3).double())
    torch.testing.assert_close(loss.double().cpu(), expected, rtol=5e-7, atol=0)
    own = target[:, None] == torch.arange(classes)
    count = torch.bincount(target)[target][:, None]
    expected = torch.where(own, p - 1, p / (2 - present.double())) / count
    torch.testing.assert_close(grad.double().cpu(), expected, rtol=2e-6, atol=0)


def test_sums_over_many_classes_of_one_row_stay_exact():
    """Some columns of as many as there are rows."""
    rows = 8_000 if INTERPRETED else 1_000_000
    z = torch.full((rows, 16), 1.3, device=DEVICE)
    shared = lgl_inr_triton.ColumnBatch(torch.arange(rows, device=DEVICE), rows, -100, None, 1.0, False)
    loss = torch.empty(16, device=DEVICE)
    shared.columns(z, 0, None, torch.ones(16, device=DEVICE), loss, None)
    expected = sum(torch.nn.functional.softplus(torch.tensor([-1.3, 1.3], dtype=torch.float64)))
    torch.testing.assert_close(loss.double().cpu(), expected.expand(16), rtol=1.5e-6, atol=0)


def test_an_infinite_bias_of_a_column_costs_nothing_there_or_infinity():
    z, bias = torch.zeros(3, 3), torch.tensor([-torch.inf, torch.inf, 0.0])
    target = torch.tensor([2, 2, 1])
    expected = eager(z + bias, target)
    shared = lgl_inr_triton.ColumnBatch(target.to(DEVICE), 3, -100, None, 1.0, False)
    loss = torch.empty(3, device=DEVICE)
    shared.columns(z.to(DEVICE), 0, bias.to(DEVICE), torch.ones(3, device=DEVICE), loss, None)
    torch.testing.assert_close(loss.cpu(), expected)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_public_function_takes_them(monkeypatch, reduction):
    logits, target = batch(12, 5, dtype=torch.float32)
    options = {"beta": 2.0, "output_weights": torch.linspace(1, 2, 5), "reduction": reduction}
    expected = value_and_grad(lgl_inr_loss, logits, target, torch.tensor(3.0), **options)
    options["output_weights"] = options["output_weights"].to(DEVICE)
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
    assert other <= 4 * (3 * 300 + 5 * 5 + 8)
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
    torch.compiler.reset()
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


# Heads by chunks of columns -----------------------------------------------------------------------------------

products = []  # operands' and result's dtypes of each product that mixes them
if INTERPRETED:  # torch has those products on GPUs only, which accept the same and no more

    def mixed_addmm(self, a, b, out_dtype, *, beta=1, alpha=1, out):
        assert a.dtype == b.dtype
        assert out_dtype == out.dtype == self.dtype == torch.float32
        assert a.dtype in (torch.float16, torch.bfloat16)
        assert (beta, alpha) == (1, 1)
        products.append((a.dtype, out_dtype))
        return out.copy_(self + a.float() @ b.float())

    LIBRARY = torch.library.Library("aten", "IMPL", "CPU")
    LIBRARY.impl("addmm.dtype_out", mixed_addmm)
    LIBRARY.impl("mm.dtype_out", lambda a, b, dtype, *, out: mixed_addmm(out.zero_(), a, b, dtype, out=out))


@contextlib.contextmanager
def as_on_a_gpu():
    """Heads do what they do on a GPU; counted are the label plans and the chunks that the kernels get."""
    counts = {"plans": 0, "chunks": 0}
    products.clear()
    with pytest.MonkeyPatch.context() as patch:

        def count(owner, name, key):
            function = getattr(owner, name)

            def counted(*arguments):
                counts[key] += 1
                return function(*arguments)

            patch.setattr(owner, name, counted)

        count(lgl_inr_triton, "_plan", "plans")
        count(lgl_inr_triton.ColumnBatch, "columns", "chunks")
        if INTERPRETED:
            halves = (torch.float16, torch.bfloat16)
            patch.setattr(lgl_inr_triton, "takes", lambda logits, beta: logits.dtype == torch.float32)
            patch.setattr(head_kernel, "_half_products", lambda x, w: x.dtype == w.dtype and x.dtype in halves)
        yield counts


def on_device(values):
    return {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in values.items()}


def check_head(parts, target, name="lgl-inr", chunk_size=None, upstream=1.7, **options):
    """Error at most twice that of torch's linear layer and the loss in the same dtype, plus a few roundings.

    Returns how many label plans and chunks it took.
    """
    counted = target != options.get("ignore_index", -100)
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    doubles = [None if p is None else p.double() for p in parts]
    doubles[0] = doubles[0][counted]
    exact = run_head(unfused(name, ORACLES[name]), doubles, target[counted], upstream, **wide)
    clean = [parts[0].masked_fill(~counted[:, None], 0.0), *parts[1:]]
    plain = run_head(unfused(name), clean, target, upstream, **options)

    there = [None if p is None else p.to(DEVICE) for p in parts]
    function = {"lgl-inr": lgl_inr_linear, "logistic": logistic_linear}[name]
    with as_on_a_gpu() as counts:
        found = run_head(function, there, target.to(DEVICE), upstream, chunk_size=chunk_size, **on_device(options))
    assert found[0].dtype == torch.float32
    assert [g.dtype for g in found[1] if g is not None] == [p.dtype for p in parts if p is not None]
    assert_zero(found[1][0][~counted])
    found[1][0], plain[1][0] = found[1][0][counted.to(DEVICE)], plain[1][0][counted]
    roundings = torch.finfo(parts[1].dtype).eps + 5e-7 * (2 + abs(options.get("beta", 1.0)))
    for ours, theirs, true in zip(
        [found[0], *found[1]], [plain[0], *plain[1]], [exact[0], *exact[1]], strict=True
    ):
        if true is not None:
            error, allowed = ((x.double().cpu() - true).abs().max() for x in (ours, theirs))
            assert error <= 2 * allowed + roundings * true.abs().max()
            assert true.abs().max() > 0
    return counts


@pytest.mark.parametrize(
    ("beta", "detach_weights", "dtype"), product([0.0, 1.0, 30.0], [False, True], FLOATS, every=5)
)
def test_head_at_any_beta(beta, detach_weights, dtype):
    *parts, target = head_parts(
        20, 8, 37, dtype
    )  # a class with several rows and absent ones; the last chunk is ragged
    assert target.bincount(minlength=37).max() > 1
    assert (target.bincount(minlength=37) == 0).any()
    counts = check_head(parts, target, chunk_size=16, beta=beta, detach_weights=detach_weights)
    passes = 2 if dtype == torch.float16 else 1  # float16 makes its gradients in the backward pass
    assert counts == {"plans": passes, "chunks": 3 * passes}


@pytest.mark.parametrize(("dtype", "chunk_size"), product(FLOATS, [5, 7, 16, 40, None], every=3))
def test_head_in_any_chunks_with_weights_and_ignored_rows(dtype, chunk_size):
    classes = 20 if INTERPRETED else 40
    *parts, target = head_parts(20, 8, classes, dtype)
    target[3] = 2
    parts[0][target == 2] = torch.nan
    weights = {"pos_weight": torch.linspace(0.2, 3, classes), "output_weights": torch.linspace(2, 0.1, classes)}
    counts = check_head(parts, target, chunk_size=chunk_size, ignore_index=2, **weights)
    assert counts["chunks"] == counts["plans"] * -(-classes // (chunk_size or classes))


@pytest.mark.parametrize("dtype", [torch.float16] if INTERPRETED else FLOATS)
def test_head_of_few_classes_without_bias(dtype):
    x, weight, _, target = head_parts(64, 8, 5, dtype)
    assert check_head((x, weight, None), target, chunk_size=2, reduction="sum")["chunks"] % 3 == 0


def test_losses_of_columns_and_upstream_gradients():
    *parts, target = head_parts(20, 8, 37, torch.float32)
    there = [p.to(DEVICE) for p in parts]
    upstream = torch.linspace(-1, 2, 37)
    options = {"reduction": "none", "beta": 2.0}
    exact = run_head(
        unfused("lgl-inr", lgl_inr), [p.double() for p in parts], target, upstream.double(), **options
    )
    with as_on_a_gpu() as counts:
        found = run_head(lgl_inr_linear, there, target.to(DEVICE), upstream.to(DEVICE), chunk_size=19, **options)
    for ours, true in zip([found[0], *found[1]], [exact[0], *exact[1]], strict=True):
        torch.testing.assert_close(ours.double().cpu(), true, rtol=1e-5, atol=1e-6)
    assert counts["chunks"] == 4  # for the losses, and again for the gradients


@pytest.mark.parametrize(("cuts", "dtype"), product([(0, 37), (0, 1, 20, 37)], FLOATS, every=2))
def test_shards_of_a_head_make_up_the_whole(cuts, dtype):
    """As each process of a column group calls the operator: its own columns, everybody's labels and pos_weight."""
    x, weight, bias, target = (p.to(DEVICE) for p in head_parts(20, 8, 37, dtype))
    factor, pos_weight = torch.linspace(1, 2, 37, device=DEVICE), torch.linspace(3, 0, 37, device=DEVICE)
    doubles = [p.cpu().double() for p in (x, weight, bias)]
    options = {
        "pos_weight": pos_weight.cpu().double(),
        "output_weights": factor.cpu().double(),
        "reduction": "none",
    }
    exact = run_head(unfused("lgl-inr", lgl_inr), doubles, target.cpu(), 1.0, **options)
    shards = []
    with as_on_a_gpu() as counts:
        for first, last in itertools.pairwise(cuts):
            own, rest = slice(first, last), (1.0, False, -100, first, 37, 6, True, True, True)
            shards.append(fused.lgl_inr_linear(x, weight[own], bias[own], target, factor[own], pos_weight, *rest))
    assert counts["plans"] == len(shards)
    losses, grad_x, grad_weight, grad_bias = zip(*shards, strict=True)
    found = torch.cat(losses) * factor, [sum(grad_x), torch.cat(grad_weight), torch.cat(grad_bias)]
    assert {g.dtype for g in grad_x} == {torch.float32}
    coarse = 4 * torch.finfo(dtype).eps + 1e-6
    for ours, true in zip([found[0], *found[1]], [exact[0], *exact[1]], strict=True):
        torch.testing.assert_close(ours.double().cpu(), true, rtol=coarse, atol=coarse * true.abs().max().item())


@pytest.mark.skipif(not INTERPRETED, reason="counts the products that stand in for a GPU's")
@pytest.mark.parametrize("function", [lgl_inr_linear, logistic_linear])
def test_products_of_half_precision_accumulate_in_float32(function):
    """bfloat16 takes part in all of them; float16 in that of the logits, whose gradients it may not hold."""
    *parts, target = head_parts(20, 8, 37, torch.bfloat16)
    with as_on_a_gpu():
        run_head(function, parts, target, chunk_size=20)
    assert products == [(torch.bfloat16, torch.float32)] * 2 * 2  # logits, and the gradient of the input
    *parts, target = head_parts(20, 8, 37, torch.float16)
    with as_on_a_gpu():
        run_head(function, parts, target, chunk_size=20)
    assert products == [(torch.float16, torch.float32)] * 2 * 2  # logits, forward and again backward
    with as_on_a_gpu():
        run_head(function, [parts[0].float(), *parts[1:]], target)
    assert products == []


@pytest.mark.parametrize("dtype", FLOATS)
def test_logistic_head(dtype):
    *parts, target = head_parts(20, 8, 37, dtype)
    parts[0][3] = torch.nan
    target[3] = -100
    weights = {"pos_weight": torch.linspace(0.2, 3, 37), "output_weights": torch.linspace(2, 0.1, 37)}
    check_head(parts, target, name="logistic", chunk_size=16, **weights)


def test_float16_gradients_of_a_head_see_the_loss_scale():
    *parts, target = head_parts(8, 4, 1000, torch.float16)
    parts[2] -= 12
    scale = 2.0**16
    exact = run_head(lgl_inr_linear, [p.double() for p in parts], target, scale)
    assert (exact[1][1] / scale).abs().median() < 2.0**-25  # all but lost in float16
    there = [p.to(DEVICE) for p in parts]
    with as_on_a_gpu():
        found = run_head(lgl_inr_linear, there, target.to(DEVICE), scale, chunk_size=400)
    for ours, true in zip(found[1][1:], exact[1][1:], strict=True):
        torch.testing.assert_close(ours.double().cpu(), true, rtol=2e-3, atol=2e-3 * true.abs().median().item())


# Nothing waits for the GPU ------------------------------------------------------------------------------------


class ReadsNothing(TorchDispatchMode):
    """Fails at operators whose result the host has to read: a GPU would be waited for, and no graph captured."""

    READING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim")

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.READING, name
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if name == "index" else []
        assert not masks
        self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def launched(monkeypatch):
    """The names of the kernels that are launched from now on, and do nothing."""
    names = []

    class Kernels:
        def __getattr__(self, name):
            return defaultdict(lambda: lambda *_, **__: names.append(name))

    monkeypatch.setattr(lgl_inr_triton, "_kernels", lambda device: Kernels())
    return names


@pytest.mark.skipif(not INTERPRETED, reason="looks into operators, whose kernels a GPU runs")
@pytest.mark.parametrize(("rows", "classes"), [(6, 40), (40, 6), (1200, 6)])
def test_operators_read_nothing(rows, classes, monkeypatch):
    x, weight, bias, target = head_parts(rows, 4, classes, torch.bfloat16)
    target[2] = -100
    logits, ones = x.float() @ weight.float().t(), torch.ones(classes)
    launched(monkeypatch)  # nowhere, as the interpreter reads all
    rest = (-100, 0, classes, 4, True, True, True)
    with as_on_a_gpu(), ReadsNothing() as mode:
        *statistics, plan = lgl_inr_statistics._init_fn(logits, target, ones, 1.0, -100)
        lgl_inr_gradient._init_fn(ones, logits, ones, *statistics[1:], plan, 1.0, False)
        fused.lgl_inr_linear._init_fn(x, weight, bias, target, ones, ones, 1.0, False, *rest)
        fused.logistic_linear._init_fn(x, weight, bias, target, torch.ones(rows), ones, ones, *rest)
    assert {"sort", "addmm", "_assert_async"} <= set(mode.seen)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), ReadsNothing():
        target.max().item()


@pytest.mark.skipif(not INTERPRETED, reason="looks into operators, whose kernels a GPU runs")
def test_a_further_chunk_takes_eight_launches(monkeypatch):
    """Three of them kernels of ours: where chunks are many, launches are what a GPU waits for."""
    x, weight, bias, target = head_parts(6, 4, 40, torch.bfloat16)
    names = launched(monkeypatch)
    seen = []
    for width in (20, 14):  # two chunks, and three
        names.clear()
        with as_on_a_gpu(), ReadsNothing() as mode:
            rest = (1.0, False, -100, 0, 40, width, True, True, True)
            fused.lgl_inr_linear._init_fn(x, weight, bias, target, torch.ones(40), torch.ones(40), *rest)
        seen.append(mode.seen + Counter(names))
    more = seen[1] - seen[0]
    for name in ("slice", "view", "t", "new_empty", "unbind"):  # which launch nothing
        del more[name]
    assert more == {"mm": 2, "addmm": 1, "sum": 1, "copy_": 1, "statistics": 1, "finish": 1, "gradient": 1}


def steps(dtype=torch.float32):
    """Forward and backward of the loss of logits and of both heads, on tensors whose data may change."""
    for rows, classes in ((64, 300), (300, 64)):
        x, weight, bias, target = (p.to(DEVICE) for p in head_parts(rows, 32, classes, dtype))
        target[5] = -100
        pos_weight = torch.rand(classes, device=DEVICE)
        logits = (x.float() @ weight.float().t()).to(dtype).requires_grad_()
        leaves = [p.requires_grad_() for p in (x, weight, bias)]

        def of_logits(logits=logits, target=target, pos_weight=pos_weight):
            loss = lgl_inr_loss(logits, target, pos_weight=pos_weight)
            return loss, *torch.autograd.grad(loss, [logits])

        yield [logits, target], of_logits
        for function in (lgl_inr_linear, logistic_linear):

            def of_head(function=function, leaves=leaves, target=target, pos_weight=pos_weight):
                x, weight, bias = leaves
                loss = function(x, weight, target, linear_bias=bias, pos_weight=pos_weight, chunk_size=50)
                return loss, *torch.autograd.grad(loss, leaves)

            yield [*leaves, target], of_head


@needs_gpu
@pytest.mark.parametrize("dtype", FLOATS)
def test_does_not_wait_for_the_gpu(dtype):
    for _, step in steps(dtype):
        step()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("dtype", FLOATS)
def test_cuda_graph_replays_on_new_data(dtype):
    for data, step in steps(dtype):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is made once, is made before the capture
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        before = [x.clone() for x in captured]
        with torch.no_grad():
            for x in data:  # other numbers and other classes, in the same memory
                x.copy_(-1.5 * x if x.is_floating_point() else x.flip(0))
        graph.replay()
        for found, expected, old in zip(captured, step(), before, strict=True):
            torch.testing.assert_close(found, expected)
            assert not torch.equal(found, old)


@needs_gpu
def test_more_than_two_to_the_31_elements():
    classes = (1 << 31) // 16 + 5
    logits = torch.randn(17, classes, device=DEVICE, dtype=torch.bfloat16)
    target = torch.arange(17, device=DEVICE) + classes - 17
    loss, grad = value_and_grad(columns, logits, target, 1.0)
    last = slice(classes - 1000, classes)
    expected, expected_grad = value_and_grad(columns, logits[:, last].clone(), target - last.start, 1.0)
    torch.testing.assert_close(loss[last], expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(grad[:, last], expected_grad, rtol=8e-3, atol=0)  # one rounding to bfloat16
