"""Private names of torch: each answers as torch does, and without it its fallback is careful, never wrong."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from steelyard._common import private_torch
from steelyard.losses.functional import lgl_inr_loss, logistic_loss
from tests.helpers import batch, value_and_grad

NAMES = [
    "_is_wrapped",
    "_is_legacy_batched",
    "_dispatch_mode",
    "_mode_keys",
    "_keep_graph",
    "_top_hooks",
    "_assert_async",
    "_softplus",
    "_transforms",
    "_modes",
]


def test_torch_has_every_name_today():
    missing = [name for name in NAMES if getattr(private_torch, name) is None]
    assert not missing, f"torch {torch.__version__} has dropped what stands behind {missing}"


@pytest.fixture(params=[False, True], ids=["torch's", "fallback"])
def without(request, monkeypatch):
    if request.param:
        for name in NAMES:
            monkeypatch.setattr(private_torch, name, None)
    return request.param


def test_transformed_tensors_are_known(without):
    seen = []
    torch.vmap(lambda x: (seen.append(private_torch.is_transformed(x)), x)[1])(torch.ones(3))
    assert seen == [True]
    assert not private_torch.is_transformed(torch.ones(3))
    assert not private_torch.is_transformed(torch.ones(0))


def test_traced_tensors_are_known(without):
    seen = []

    def look(x):
        seen.append((private_torch.is_transformed(x), private_torch.records()))
        return x * 2

    for mode in ("real", "fake", "symbolic"):
        make_fx(look, tracing_mode=mode)(torch.ones(3))
    assert seen == [(True, True)] * 3
    assert private_torch.records() is without
    fake = FakeTensorMode().from_tensor(torch.ones(3))
    assert private_torch.is_transformed(fake)
    with FlopCounterMode(display=False):  # values are there
        assert not private_torch.is_transformed(torch.ones(3))


def test_nothing_is_written_into_where_the_answer_is_not_known(without):
    assert private_torch.is_batched(torch.ones(3)) is without
    assert private_torch.saves_elsewhere() is without
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        assert private_torch.saves_elsewhere()
    kept = []
    leaf = torch.ones(2, requires_grad=True)
    leaf.register_hook(lambda g: kept.append(private_torch.keeps_graph()))
    leaf.sum().backward(retain_graph=True)
    leaf.sum().backward()
    assert kept == [True, without]


def test_false_stops(without):
    private_torch.assert_on_device(torch.tensor(True), "all is well")
    with pytest.raises(RuntimeError, match="a label is wrong"):
        private_torch.assert_on_device(torch.tensor(False), "a label is wrong")


def test_softplus_is_exact_in_double(without):
    z = torch.tensor([-800.0, -30.0, 0.0, 30.0, 36.0, 800.0], dtype=torch.float64)
    expected = torch.logaddexp(z, torch.zeros_like(z))
    torch.testing.assert_close(private_torch.softplus(z), expected, rtol=1e-15, atol=0)
    out = torch.empty_like(z)
    assert private_torch.softplus(z, out=out) is out
    assert torch.equal(out, private_torch.softplus(z))


def test_a_constant_is_marked_as_the_public_decorator_marks_it():
    def query() -> bool:
        return True

    theirs = vars(torch.compiler.assume_constant_result(lambda: True))
    assert vars(private_torch.constant_when_traced(query)) == theirs, (
        f"torch {torch.__version__} marks by {theirs}"
    )


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it imports for forward mode
@pytest.mark.parametrize("function", [lgl_inr_loss, logistic_loss])
def test_losses_are_the_same_without_any_of_them(monkeypatch, function):
    logits, target = batch()
    expected, expected_grad = value_and_grad(function, logits, target)
    for name in NAMES:
        monkeypatch.setattr(private_torch, name, None)
    loss, grad = value_and_grad(function, logits, target)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-14, atol=0)
    leaf = logits.clone().requires_grad_()
    checkpoint(function, leaf, target, use_reentrant=False).backward()
    torch.testing.assert_close(leaf.grad, expected_grad, rtol=1e-14, atol=0)
    slope = torch.func.jvp(lambda z: function(z, target), (logits,), (logits,))[1]
    torch.testing.assert_close(slope, (expected_grad * logits).sum(), rtol=1e-13, atol=1e-16)
    grads = torch.vmap(torch.func.grad(function))(logits[None], target[None])
    torch.testing.assert_close(grads[0], expected_grad, rtol=1e-13, atol=1e-16)


def test_what_looks_on_is_noticed(without):
    assert private_torch.is_watched() is without
    seen = []
    torch.vmap(lambda x: (seen.append(private_torch.is_watched()), x)[1])(torch.ones(3))
    with torch.autograd.forward_ad.dual_level():
        seen.append(private_torch.is_watched())
    with torch.utils._python_dispatch.TorchDispatchMode():
        seen.append(private_torch.is_watched())
    assert seen == [True, True, True]
