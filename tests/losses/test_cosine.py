"""The cosine head: its values and gradients, vectors of any length, devices, dtypes and state."""

import copy
import io
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from steelyard.losses import CosineHead, SoftmaxLoss
from tests.helpers import assert_at_most, assert_finite, assert_nan, assert_zero

VECTOR = {
    key: value if isinstance(value, str) else torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads((Path(__file__).parents[1] / "vectors/cosine.json").read_text()).items()
}


def head_of(weight, scale=1.0, **options):
    head = CosineHead(weight.shape[1], weight.shape[0], scale=scale, dtype=weight.dtype, **options)
    with torch.no_grad():
        head.weight.copy_(weight)
    return head


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_matches_the_head_of_ldam(scale):
    head, x = head_of(VECTOR["weight"], scale), VECTOR["input"].clone().requires_grad_()
    logits = head(x)
    (logits * VECTOR["upstream"]).sum().backward()
    torch.testing.assert_close(logits.detach(), scale * VECTOR["cosines"], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(x.grad, scale * VECTOR["input_gradient"], rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(head.weight.grad, scale * VECTOR["weight_gradient"], rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("learn_scale", [False, True])
def test_gradients_of_first_and_second_order(learn_scale):
    head = CosineHead(3, 4, scale=2.0, learn_scale=learn_scale, dtype=torch.float64)
    parameters = dict(head.named_parameters())
    assert set(parameters) == ({"weight", "scale"} if learn_scale else {"weight"})

    def call(x, *values):
        return torch.func.functional_call(head, dict(zip(parameters, values, strict=True)), (x,))

    inputs = (drawn(5, 3).requires_grad_(), *(p.detach().clone().requires_grad_() for p in parameters.values()))
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("length", [1e-44, 1e-38, 1e-20, 1.0, 1e20, 3e37])
def test_a_vector_of_any_length_has_its_direction(length):
    """Squares of 1e-30 and 1e30 are 0 and infinity in float32."""
    x, weight = drawn(4, 6, dtype=torch.float32), drawn(3, 6, dtype=torch.float32)
    long = x * length
    exact = head_of(weight.double())(long.double())
    torch.testing.assert_close(head_of(weight)(long).double(), exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(head_of(long)(weight).double(), exact.T, rtol=0, atol=1e-6)


def test_a_vector_of_zeros_has_cosine_0_and_no_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    head = head_of(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    logits = head(x)
    assert_zero(logits[0])
    assert_zero(logits[:, 1])
    SoftmaxLoss()(logits, [0, 1]).backward()
    assert_zero(x.grad[0])
    assert_zero(head.weight.grad[1])
    assert_finite(x.grad)
    assert_at_most(-x.grad[1].abs().max(), -1e-3)


def test_what_is_no_number_stays_none():
    head = CosineHead(2, 3)
    for bad in (torch.nan, torch.inf):
        assert_nan(head(torch.tensor([bad, 1.0])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(dtype, autocast):
    x, head = 300 * drawn(6, 512, dtype=torch.float32), CosineHead(512, 4).to(dtype)
    x = x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = head(x)
    assert logits.dtype == torch.float32
    expected = 30 * torch.nn.functional.cosine_similarity(x.double()[:, None], head.weight.double()[None], dim=-1)
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=3e-5)
    logits.sum().backward()
    assert head.weight.grad.dtype == dtype
    assert_finite(head.weight.grad)


def test_float64_of_either_side_is_kept():
    assert CosineHead(2, 3)(torch.ones(2, dtype=torch.float64)).dtype == torch.float64
    assert CosineHead(2, 3, dtype=torch.float64)(torch.ones(2)).dtype == torch.float64


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 5), (2, 3, 4, 5)])
def test_leading_dimensions_are_kept(shape):
    head = CosineHead(5, 7)
    assert head(torch.ones(shape)).shape == (*shape[:-1], 7)


@pytest.mark.parametrize("learn_scale", [False, True])
def test_state_is_kept(learn_scale):
    head = CosineHead(3, 4, scale=8.0, learn_scale=learn_scale)
    if learn_scale:
        with torch.no_grad():
            head.scale.fill_(5.0)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    other = CosineHead(3, 4, scale=8.0, learn_scale=learn_scale)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = drawn(2, 3, dtype=torch.float32)
    for again in (other, copy.deepcopy(head)):
        assert torch.equal(again(x), head(x))
    assert f"scale=8{', learn_scale=True' if learn_scale else ''}" in repr(head)
    if learn_scale:
        head.reset_parameters()
        assert head.scale == 8


def test_new_class_vectors_have_length_1_on_every_way_to_make_them():
    made = CosineHead(5, 7, learn_scale=True, device="meta").to_empty(device="cpu")
    made.reset_parameters()
    for head in (made, CosineHead(5, 7, learn_scale=True)):
        torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(7))
        assert head.scale == 30
    assert CosineHead(5, 7, device="meta")(torch.ones(2, 5, device="meta")).shape == (2, 7)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled_exported_and_vmapped():
    head, x = CosineHead(5, 7), drawn(4, 5, dtype=torch.float32)
    expected = head(x)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(head, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.export.export(head, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.vmap(head)(x), expected)


def test_it_learns_with_any_loss():
    target = torch.arange(3).repeat(8)
    x = drawn(24, 4, dtype=torch.float32) + 3 * torch.eye(3, 4)[target]
    head = CosineHead(4, 3, scale=8.0, learn_scale=True)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = SoftmaxLoss(class_weights=[1.0, 2.0, 3.0])(head(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 3), {}, ValueError, "in_features must be an int >= 1, got 0"),
        ((3, 2.0), {}, TypeError, "num_classes must be an int, got float"),
        ((3, 2), {"scale": 0.0}, ValueError, r"scale must be positive, got 0\.0"),
        ((3, 2), {"scale": torch.inf}, ValueError, "scale must be a finite number, got inf"),
        ((3, 2), {"learn_scale": 1}, TypeError, "learn_scale must be a bool, got int"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, options, error, message):
    with pytest.raises(error, match=message):
        CosineHead(*arguments, **options)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ([1.0, 2.0], TypeError, "input must be a tensor, got list"),
        (torch.ones(2, dtype=torch.long), TypeError, "input must be floating point, got int64"),
        (torch.ones(4, 3), ValueError, r"input must have shape \(\.\.\., 2\), got \(4, 3\)"),
        (torch.ones(()), ValueError, r"input must have shape \(\.\.\., 2\), got \(\)"),
        (torch.ones(2, device="meta"), ValueError, "input must be on the device of the head, cpu, got meta"),
    ],
)
def test_bad_input_gets_one_sentence(bad, error, message):
    with pytest.raises(error, match=message):
        CosineHead(2, 3)(bad)


def test_it_takes_the_place_of_a_linear_layer():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), CosineHead(6, 3))
    assert model(torch.randn(2, 4)).shape == (2, 3)
