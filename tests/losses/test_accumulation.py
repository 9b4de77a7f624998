"""Accumulated micro-batches have the gradient of the whole batch, for losses that are no sum over them."""

import copy
import os
import random

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

import steelyard
from tests.helpers import side_by_side

ROWS, CLASSES = 30, 4


def _batch():
    """Class 3 is in the last micro-batch only, and some rows are ignored."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (ROWS,), generator=generator)
    target[-4:], target[::7] = 3, -100
    return torch.randn(ROWS, 5, generator=generator, dtype=torch.float64), target


def _model(*more):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), *more, nn.ReLU(), nn.Linear(8, CLASSES)).double()


def _micro(parts=(7, 1, 12, 10)):
    x, y = _batch()
    return list(zip(x.split(list(parts)), y.split(list(parts)), strict=True))


def _gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def _whole(loss):
    x, y = _batch()
    model = _model()
    value = loss(model(x), y)
    value.backward()
    return value.detach(), _gradient(model)


LOSSES = {
    "lgl-inr": steelyard.LGLINRLoss(beta=5.0),
    "detached": steelyard.LGLINRLoss(beta=5.0, detach_weights=True, reduction="sum"),
    "weighted mean of torch": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 4, 8], dtype=torch.float64)),
    "a count": steelyard.SoftmaxLoss(normalization="count"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_and_value_are_those_of_the_whole_batch(name):
    loss, model = LOSSES[name], _model()
    value, expected = _whole(loss)
    parts = []
    for part in steelyard.exact_accumulation(loss)(model, _micro()):
        part.backward()
        parts.append(part.detach())
    torch.testing.assert_close(_gradient(model), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(sum(parts), value, rtol=1e-12, atol=0)


def test_plain_accumulation_is_not_exact():
    """Or else the test above could not fail."""
    loss, model = LOSSES["lgl-inr"], _model()
    for x, y in _micro():
        (loss(model(x), y) / 4).backward()
    _, expected = _whole(loss)
    assert float((_gradient(model) - expected).norm() / expected.norm()) > 0.1


def test_float32_is_exact_to_rounding():
    loss, model = steelyard.LGLINRLoss(), _model().float()
    _, expected = _whole(loss)
    for part in steelyard.exact_accumulation(loss)(model, [(x.float(), y) for x, y in _micro()]):
        part.backward()
    torch.testing.assert_close(_gradient(model).double(), expected, rtol=1e-5, atol=1e-7)


def test_small_gradients_survive_half_precision_with_a_scaler():
    """They are float32 until they are scaled."""
    loss, model = steelyard.LGLINRLoss(), _model().float()
    _, expected = _whole(loss)
    tiny, scale = 1e-7, 2.0**16
    with torch.autocast("cpu", torch.float16):
        for part in steelyard.exact_accumulation(lambda z, y: tiny * loss(z, y))(
            model, [(x.float(), y) for x, y in _micro()]
        ):
            (scale * part).backward()
    found = _gradient(model).double() / (scale * tiny)
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_dropout_draws_the_same_twice_and_buffers_move_once():
    model = _model(nn.BatchNorm1d(8), nn.Dropout(0.5))
    reference = copy.deepcopy(model)
    torch.manual_seed(1)
    z = torch.cat([reference(x) for x, _ in _micro((7, 13, 10))])
    LOSSES["lgl-inr"](z, _batch()[1]).backward()
    torch.manual_seed(1)
    for part in steelyard.exact_accumulation(LOSSES["lgl-inr"])(model, _micro((7, 13, 10))):
        part.backward()
    torch.testing.assert_close(_gradient(model), _gradient(reference))
    for one, other in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_that_changes_between_the_passes_is_refused():
    model = _model()
    draw = random.Random(0)
    parts = steelyard.exact_accumulation(LOSSES["lgl-inr"])(lambda x: model(x) * draw.random(), _micro())
    with pytest.raises(
        RuntimeError, match="model must give the same logits in both passes, got a relative difference"
    ):
        [part.backward() for part in parts]


@pytest.mark.parametrize(
    ("loss", "batches", "error", "words"),
    [
        (LOSSES["a count"], [], ValueError, "batches must hold at least one pair"),
        (LOSSES["a count"], [torch.zeros(2, 5)], TypeError, "batches must hold pairs of an input and a target"),
        (LOSSES["a count"], [(torch.zeros(2, 5).double(), [0, 1])], TypeError, "got tuple"),
        (nn.CrossEntropyLoss(reduction="none"), _micro(), ValueError, "loss must give one number, got shape"),
        (
            LOSSES["a count"],
            [(torch.zeros(2, n, 5).double(), torch.zeros(2, n).long()) for n in (3, 4)],
            ValueError,
            r"logits must have the same shape .*, got \(2, 3, 4\) and \(2, 4, 4\)",
        ),
    ],
)
def test_what_cannot_be_joined_is_refused(loss, batches, error, words):
    with pytest.raises(error, match=words):
        next(steelyard.exact_accumulation(loss)(_model(), batches))


@pytest.mark.parametrize("where", ["loss", "target"])
def test_a_loss_that_trains_more_than_the_logits_is_refused(where):
    """Its other gradients would be lost without a word."""
    scale = torch.ones(3, dtype=torch.double, requires_grad=True)

    def loss(logits, target):
        return ((logits - target) ** 2).sum() + (scale.sum() if where == "loss" else 0)

    target = (scale if where == "target" else scale.detach())[:, None].expand(3, CLASSES)
    batches = [(torch.zeros(3, 5).double(), target)]
    with pytest.raises(ValueError, match=r"train nothing but the logits, got another tensor, \(3,\)"):
        next(steelyard.exact_accumulation(loss)(_model(), batches))


def test_a_loss_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="loss must be a function of logits and target, got str"):
        steelyard.exact_accumulation("lgl-inr")


def _worker(rank, folder, port):
    """Each process has its half of the rows, in two micro-batches."""
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(_model())
    x, y = (part[rank::2] for part in _batch())
    exact = steelyard.exact_accumulation(steelyard.LGLINRLoss(beta=5.0, process_group=dist.group.WORLD))
    for part in exact(model, list(zip(x.split(8), y.split(8), strict=True))):
        accelerator.backward(part)
    torch.save(_gradient(model), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_of_accelerate_have_the_gradient_of_one(tmp_path, free_port):
    side_by_side(_worker, (str(tmp_path), free_port), processes=2)
    _, expected = _whole(LOSSES["lgl-inr"])
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, rtol=1e-10, atol=1e-12)
