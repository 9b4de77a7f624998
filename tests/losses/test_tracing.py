"""Losses and fused heads under what traces or transforms them: fake tensors, make_fx, torch.func, forward mode, ONNX."""

import io

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from steelyard.losses import (
    LGLINRLinear,
    LGLINRLoss,
    LogisticLinear,
    checked_head,
    lgl_inr,
    lgl_inr_linear,
    logistic_linear,
)
from steelyard.losses.functional import lgl_inr_loss
from tests.helpers import CASES, batch, head_parts, run_head, unfused, value_and_grad, weights_of

# torch's own warnings, of what it imports for forward mode and while it traces
pytestmark = pytest.mark.filterwarnings("ignore")
every_loss = pytest.mark.parametrize("name", list(CASES))
FUSED = {"lgl-inr": lgl_inr_linear, "logistic": logistic_linear}
HEADS = {"lgl-inr": LGLINRLinear, "logistic": LogisticLinear}
every_head = pytest.mark.parametrize("name", list(FUSED))
CLOSE = {"rtol": 1e-12, "atol": 1e-15}
TWICE = "cannot be differentiated twice"


def _loss(name, reduction="mean"):
    """A loss of logits alone with every weight that it has, and the logits."""
    logits, target = batch()
    options = weights_of(name, 5)
    return lambda z: CASES[name].function(z, target, reduction=reduction, **options), logits


def _head(name, reduction="mean"):
    """A head's loss of input, weight and bias, and these."""
    *parts, target = head_parts()
    options = weights_of(name, 5)

    def loss(x, weight, bias):
        return FUSED[name](x, weight, target, linear_bias=bias, chunk_size=2, reduction=reduction, **options)

    return loss, tuple(parts)


def _tangents(parts):
    generator = torch.Generator().manual_seed(7)
    return tuple(torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parts)


# Forward mode and torch.func -----------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_forward_mode_is_the_gradient_times_the_tangent(name, reduction):
    loss, z = _loss(name, reduction)
    (tangent,) = _tangents([z])
    rows = jacrev(loss)(z)
    expected = (rows * tangent).sum((-2, -1))
    value, found = jvp(loss, (z,), (tangent,))
    torch.testing.assert_close(value, loss(z), **CLOSE)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(jacfwd(loss)(z), rows, **CLOSE)
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(z, tangent))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected, **CLOSE)


@pytest.mark.parametrize("name", [n if n == "lgl-inr" else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_linearized_loss_is_linear(name):
    loss, z = _loss(name)
    (tangent,) = _tangents([z])
    value, linear = linearize(loss, z)
    torch.testing.assert_close(value, loss(z), **CLOSE)
    for scale in (1.0, -3.0):
        torch.testing.assert_close(linear(scale * tangent), scale * (grad(loss)(z) * tangent).sum(), **CLOSE)


@every_loss
def test_vmap_over_tangents_and_batches(name):
    loss, z = _loss(name)
    many = torch.stack([z, 2 * z, -z])
    slopes = vmap(lambda t: jvp(loss, (z,), (t,))[1])(many)
    torch.testing.assert_close(slopes, torch.stack([(grad(loss)(z) * t).sum() for t in many]), **CLOSE)
    each = vmap(lambda x: jvp(loss, (x,), (z,))[1])(many)
    torch.testing.assert_close(each, torch.stack([(grad(loss)(x) * z).sum() for x in many]), **CLOSE)


SECOND = {
    "forward over reverse": lambda f, z: jvp(grad(f), (z,), (z,)),
    "reverse over forward": lambda f, z: grad(lambda x: jvp(f, (x,), (z,))[1])(z),
    "forward over forward": lambda f, z: jvp(lambda x: jvp(f, (x,), (z,))[1], (z,), (z,)),
    "reverse over reverse": lambda f, z: grad(lambda x: grad(f)(x).sum())(z),
    "under vmap": lambda f, z: jacfwd(grad(f))(z),
    "backward of a dual": lambda f, z: _backward_of_a_dual(f, z),
}


def _backward_of_a_dual(f, z):
    leaf = z.clone().requires_grad_()
    with forward_ad.dual_level():
        return torch.autograd.grad(f(forward_ad.make_dual(leaf, z)), leaf)


@pytest.mark.parametrize("way", list(SECOND))
@pytest.mark.parametrize("of", ["loss", "lgl-inr", "logistic"])
def test_a_second_derivative_of_a_closed_form_is_refused_in_every_mode(of, way):
    if of == "loss":
        loss, z = _loss("lgl-inr")
    else:
        head, (z, weight, bias) = _head(of)

        def loss(x):
            return head(x, weight, bias)

    with pytest.raises(RuntimeError, match=TWICE):
        SECOND[way](loss, z)


def test_weights_without_a_derivative_refuse_a_tangent():
    logits, target = batch()
    weight = torch.ones(5, dtype=torch.float64)
    x, linear_weight, bias, labels = head_parts()
    for loss in (
        lambda u: lgl_inr_loss(logits, target, pos_weight=u),
        lambda u: lgl_inr_linear(x, linear_weight, labels, linear_bias=bias, pos_weight=u),
        lambda u: lgl_inr_linear(x, linear_weight, labels, linear_bias=bias, output_weights=u),
        lambda u: logistic_linear(x, linear_weight, labels, linear_bias=bias, class_weights=u),
    ):
        with pytest.raises(RuntimeError, match="has no derivative in its weights: pass them without a tangent"):
            jvp(loss, (weight,), (weight,))
    slope = jvp(lambda v: lgl_inr_loss(logits, target, output_weights=v), (weight,), (weight,))[1]
    torch.testing.assert_close(slope, lgl_inr_loss(logits, target), **CLOSE)


@every_head
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_heads_under_torch_func(name, reduction):
    loss, parts = _head(name, reduction)
    *_, target = head_parts()
    options = weights_of(name, 5) | {"reduction": reduction}
    value, pull = vjp(loss, *parts)
    upstream = torch.randn(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected_value, expected = run_head(unfused(name), parts, target, upstream, **options)
    torch.testing.assert_close(value, expected_value, **CLOSE)
    torch.testing.assert_close(pull(upstream), tuple(expected), **CLOSE)
    rows = jacrev(loss, (0, 1, 2))(*parts)
    for part, found in zip(parts, rows, strict=True):
        assert found.shape == value.shape + part.shape
    torch.testing.assert_close(
        torch.tensordot(upstream, rows[1], upstream.dim()) if upstream.dim() else upstream * rows[1],
        expected[1],
        **CLOSE,
    )


@every_head
def test_heads_under_vmap(name):
    loss, (x, weight, bias) = _head(name)
    inputs, weights = torch.stack([x, 2 * x]), torch.stack([weight, -weight])
    per_input = torch.vmap(loss, (0, None, None))(inputs, weight, bias)
    torch.testing.assert_close(per_input, torch.stack([loss(one, weight, bias) for one in inputs]), **CLOSE)
    models = vmap(grad(loss, 1), (None, 0, None))(x, weights, bias)  # an ensemble
    torch.testing.assert_close(models, torch.stack([grad(loss, 1)(x, w, bias) for w in weights]), **CLOSE)
    without = torch.vmap(lambda w: loss(x, w, None))(weights)
    torch.testing.assert_close(without, torch.stack([loss(x, w, None) for w in weights]), **CLOSE)


@every_head
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_forward_mode_of_heads(name, dtype):
    *parts, target = head_parts(dtype=dtype)
    tangents = _tangents(parts)

    def loss(*parts, fused=FUSED[name]):
        return fused(*parts[:2], target, linear_bias=parts[2])

    close = CLOSE if dtype == torch.float64 else {"rtol": 5e-3, "atol": 5e-3}
    value, found = jvp(loss, tuple(parts), tangents)
    expected = jvp(lambda *p: loss(*p, fused=unfused(name)), tuple(parts), tangents)
    torch.testing.assert_close((value, found), expected, **close)
    alone = jvp(lambda weight: loss(parts[0], weight, parts[2]), (parts[1],), (tangents[1],))[1]
    torch.testing.assert_close(linearize(loss, *parts)[1](*tangents), found, **close)
    assert not torch.equal(alone, found)
    others = [torch.zeros_like(t) if i != 1 else t for i, t in enumerate(tangents)]
    torch.testing.assert_close(jvp(loss, tuple(parts), tuple(others))[1], alone, **close)


@every_head
def test_forward_mode_of_a_heads_losses_one_by_one_is_refused(name):
    loss, parts = _head(name, "none")
    with pytest.raises(RuntimeError, match=r"no forward-mode derivative each under reduction='none': take 'mean'"):
        jvp(loss, parts, parts)


@every_head
def test_a_heads_parameters_under_functional_call(name):
    *_, target = head_parts()
    x = head_parts()[0]
    head = HEADS[name](4, 5, dtype=torch.float64)
    parameters = {key: p.detach() for key, p in head.named_parameters()}
    found = grad(lambda p: functional_call(head, p, (x, target)))(parameters)
    head(x, target).backward()
    for key, p in head.named_parameters():
        torch.testing.assert_close(found[key], p.grad, **CLOSE)


def test_running_statistics_under_torch_func_need_evaluation_mode():
    logits, target = batch()
    loss = LGLINRLoss(statistics="running", num_classes=5).double()
    loss(logits, target)
    before = loss.running_mean_confusion.clone()
    with pytest.raises(RuntimeError, match="in-place operation"):
        grad(loss)(logits, target)
    found = grad(loss.eval())(logits, target)
    torch.testing.assert_close(found, value_and_grad(loss, logits, target)[1], **CLOSE)
    assert torch.equal(loss.running_mean_confusion, before)


def test_groups_of_processes_are_refused_under_transformations(tmp_path):
    logits, target = batch()
    x, weight, _, labels = head_parts()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        world = dist.group.WORLD
        for name, loss, at in (
            ("process_group", lambda z: lgl_inr_loss(z, target, process_group=world), logits),
            ("column_group", lambda w: lgl_inr_linear(x, w, labels, column_group=world, num_classes=5), weight),
        ):
            expected = rf"{name} cannot be used under torch\.func, in forward mode or by a tracer"
            for transformed in (grad(loss), lambda v, loss=loss: jvp(loss, (v,), (v,)), make_fx(loss)):
                with pytest.raises(RuntimeError, match=expected):
                    transformed(at)
    finally:
        dist.destroy_process_group()


# Tracers -------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("of", ["function", "module", "module made there"])
def test_fake_tensors_have_shapes_alone(name, of):
    logits, target = batch(dtype=torch.float32)
    options = weights_of(name, 5, dtype=torch.float32)
    module = CASES[name].module(**options)
    mode = FakeTensorMode()
    z, y, fakes = mode.from_tensor(logits).requires_grad_(), mode.from_tensor(target), {}
    for key, value in options.items():
        fakes[key] = mode.from_tensor(value)

    with mode:
        if of == "function":
            loss = CASES[name].function(z, y, **fakes)
        elif of == "module":
            loss = module(z, y)
        else:
            loss = CASES[name].module(**dict.fromkeys(options, [1.0] * 5))(z, y)
        loss.backward()
    assert loss.shape == ()
    assert hasattr(loss, "fake_mode")
    assert z.grad.shape == (12, 5)
    for key, value in options.items():  # what the module holds has values as before
        assert torch.equal(getattr(module, key), value)
        assert not hasattr(getattr(module, key), "fake_mode")
    assert torch.equal(module(logits, target), CASES[name].function(logits, target, **options))


@every_head
def test_heads_of_fake_tensors(name):
    with FakeTensorMode():
        head = HEADS[name](4, 5, output_weights=[1.0, 2.0, 3.0, 4.0, 5.0])
        head(torch.randn(7, 4), torch.zeros(7, dtype=torch.long)).backward()
        assert head.weight.grad.shape == (5, 4)
        assert head.predict(torch.randn(7, 4), 2)[1].shape == (7, 2)


@every_loss
@pytest.mark.parametrize(
    ("of", "mode"),
    [("value", "real"), ("gradient", "real"), pytest.param("gradient", "symbolic", marks=pytest.mark.slow)],
)
def test_traced_by_make_fx(name, of, mode):
    logits, target = batch(dtype=torch.float32)
    options = weights_of(name, 5, dtype=torch.float32)

    def loss(z, y, options):
        return CASES[name].function(z, y, **options)

    function = loss if of == "value" else grad(loss)
    graph = make_fx(function, tracing_mode=mode)(logits, target, options)
    rows = 12 if mode == "real" else 9
    other, labels = batch(rows, dtype=torch.float32, seed=4)
    labels[2] = -100
    torch.testing.assert_close(graph(other, labels, options), function(other, labels, options))


@every_head
@pytest.mark.parametrize("mode", ["real", pytest.param("symbolic", marks=pytest.mark.slow)])
def test_heads_traced_by_make_fx(name, mode):
    *parts, target = head_parts(dtype=torch.float32)

    def loss(x, weight, bias, y):
        return FUSED[name](x, weight, y, linear_bias=bias)

    for function in (loss, grad(loss, 1)):
        graph = make_fx(function, tracing_mode=mode)(*parts, target)
        x, weight, bias, labels = head_parts(rows=12 if mode == "real" else 7, dtype=torch.float32, seed=4)
        found = graph(x, weight, bias, labels)
        torch.testing.assert_close(found, function(x, weight, bias, labels))


def test_traced_weights_of_a_module_are_constants_of_the_graph():
    logits, target = batch(dtype=torch.float32)
    module = CASES["softmax"].module(class_weights=[1.0, 2.0, 3.0, 4.0, 5.0])
    for allowed in ({}, {"tracing_mode": "fake", "_allow_non_fake_inputs": True}):  # as for torch's own losses
        graph = make_fx(module, **allowed)(logits, target)
        assert torch.equal(graph(logits, target), module(logits, target))
    expected = F.cross_entropy(logits, target, module.class_weights)
    torch.testing.assert_close(module(logits, target), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["running", *CASES, *(f"{name} head" for name in HEADS)])
def test_exported_for_any_number_of_rows(name):
    logits, target = batch(dtype=torch.float32)
    if name == "running":
        module = LGLINRLoss(statistics="running", num_classes=5)
        module(logits, target)
        module.eval()
    elif name in CASES:
        module = CASES[name].module(**weights_of(name, 5, dtype=torch.float32))
    else:
        module = HEADS[name.removesuffix(" head")](5, 5)
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(module, (logits, target), dynamic_shapes=({0: rows}, {0: rows})).module()
    other, labels = batch(31, dtype=torch.float32, seed=4)
    torch.testing.assert_close(program(other, labels), module(other, labels))


# ONNX ----------------------------------------------------------------------------------------------------


class Both(nn.Module):
    """LGL-INR of given logits in both forms, and both heads of the same input: one export does for all."""

    def __init__(self):
        super().__init__()
        weights = {key: [1.0, 2.0, 3.0, 4.0, 5.0] for key in ("output_weights", "pos_weight", "logit_adjustment")}
        running = LGLINRLoss(statistics="running", num_classes=5)
        heads = [head(5, 5, **weights) for head in HEADS.values()]
        self.parts = nn.ModuleList([LGLINRLoss(beta=5.0, **weights), running, *heads])

    def forward(self, logits, target):
        return torch.stack([module(logits, target) for module in self.parts])


@pytest.mark.slow
def test_onnx():
    import onnxruntime

    logits, target = batch(dtype=torch.float32)
    both = Both()
    both(logits, target)  # something for the running average
    both.eval()
    rows = torch.export.Dim("rows", min=2)
    program = torch.onnx.export(
        both, (logits, target), dynamo=True, dynamic_shapes=({0: rows}, {0: rows}), verbose=False
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    names = [one.name for one in session.get_inputs()]
    for rows, seed in ((12, 3), (30, 4)):
        z, y = batch(rows, dtype=torch.float32, seed=seed)
        y[2] = -100
        (found,) = session.run(None, dict(zip(names, (z.numpy(), y.numpy()), strict=True)))
        torch.testing.assert_close(torch.from_numpy(found), both(z, y).detach(), rtol=2e-6, atol=1e-6)


def test_standard_operations_are_the_loss(monkeypatch):
    logits, target = batch()
    target[2] = -100
    logits[2] = torch.nan
    x, weight, bias, _ = head_parts()
    options = weights_of("lgl-inr", 5)
    calls = [lambda b=b: lgl_inr_loss(logits, target, beta=b, reduction="none", **options) for b in (1.0, 5.0)]
    for name, fused in FUSED.items():
        for reduction in ("mean", "none"):
            more = weights_of(name, 5) | {"reduction": reduction, "linear_bias": bias}
            calls.append(lambda fused=fused, more=more: fused(x, weight, target, **more))
    expected = [call() for call in calls]
    for module in (lgl_inr, checked_head):
        monkeypatch.setattr(module, "exports_to_onnx", lambda: True)
        monkeypatch.setattr(module, "lgl_inr_columns", None, raising=False)
        monkeypatch.setattr(module, "fused_loss", None, raising=False)
    for call, before in zip(calls, expected, strict=True):
        torch.testing.assert_close(call(), before, **CLOSE)
