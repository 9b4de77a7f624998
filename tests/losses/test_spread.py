"""DTensors: tensor-parallel logits, and heads that FSDP has sharded."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import steelyard
from steelyard.losses.functional import lgl_inr_loss
from steelyard.losses.heads import LGLINRLinear, LogisticLinear
from steelyard.losses.linear import lgl_inr_linear
from tests.helpers import side_by_side

ROWS, CLASSES = 9, 5
PLACES = {"rows": Shard(0), "columns": Shard(1), "everywhere": Replicate()}
LOSSES = {name: steelyard.create_loss(name) for name in ("softmax", "logistic", "focal", "lgl-inr")}
LOSSES["running"] = steelyard.LGLINRLoss(statistics="running", num_classes=CLASSES)
HEADS = {"lgl-inr": LGLINRLinear, "logistic": LogisticLinear}


def _batch():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(ROWS) % CLASSES
    target[3] = -100
    return torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64), target


def _gradient(loss, z, y):
    z = z.detach().requires_grad_()
    value = loss(z, y)
    value.backward()
    return value.detach(), z.grad


def _worker(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    logits, target = _batch()
    found = {}
    for place, how in PLACES.items():
        z = distribute_tensor(logits, mesh, [how])
        targets = {"plain": target, "spread": distribute_tensor(target, mesh, [Replicate()])}
        for kind, y in targets.items():
            for name, loss in LOSSES.items():
                value, gradient = _gradient(loss, z, y)
                assert gradient.placements == z.placements
                found[place, kind, name] = (value, gradient.full_tensor())
    z = distribute_tensor(logits, mesh, [Shard(0)])
    said = {
        "group": lambda: lgl_inr_loss(z, target, process_group=dist.group.WORLD),
        "posterior": lambda: steelyard.log_posterior(z, steelyard.TrainingSetup("softmax")),
        "audit": lambda: steelyard.audit(z, target, "softmax"),
        "watch": lambda: steelyard.BalanceWatch("softmax").update(z, target),
        "head": lambda: lgl_inr_linear(logits, z, target),
    }
    for name, head in HEADS.items():
        torch.manual_seed(0)
        sharded = fully_shard(head(CLASSES, 7, dtype=torch.float64), mesh=mesh)
        found[name, "predicted before"] = sharded.predict(logits, k=3)
        sharded(logits, target).backward()
        found[name, "gradient"] = sharded.weight.grad.full_tensor()
        found[name, "predicted after"] = sharded.predict(logits, k=3)
        with torch.no_grad():
            found[name, "logits"] = sharded.logits(logits)
        said[name] = lambda sharded=sharded: sharded.logits(logits)
    for name, call in said.items():
        try:
            call()
        except TypeError as error:
            found[name] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    side_by_side(_worker, (2, str(folder)), processes=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_of_spread_logits_are_those_of_the_whole(found, name):
    loss = LOSSES[name]
    loss.load_state_dict({key: torch.zeros_like(value) for key, value in loss.state_dict().items()})
    for place in PLACES:  # in the order of the worker, as a running average moves
        for kind in ("plain", "spread"):
            expected = _gradient(loss, *_batch())
            for rank in (0, 1):
                torch.testing.assert_close(found[rank][place, kind, name], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", HEADS)
def test_a_sharded_head_predicts_outside_its_forward_pass(found, name):
    torch.manual_seed(0)
    head = HEADS[name](CLASSES, 7, dtype=torch.float64)
    logits, target = _batch()
    head(logits, target).backward()
    for rank in (0, 1):
        for when in ("before", "after"):
            torch.testing.assert_close(found[rank][name, f"predicted {when}"], head.predict(logits, k=3))
        torch.testing.assert_close(found[rank][name, "logits"], head.logits(logits).detach())
        torch.testing.assert_close(found[rank][name, "gradient"], head.weight.grad)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("group", "logits must be a plain tensor, got a DTensor"),
        ("posterior", "logits must be a plain tensor, got a DTensor"),
        ("audit", "logits must be a plain tensor, got a DTensor"),
        ("watch", "logits must be a plain tensor, got a DTensor"),
        ("head", "linear_weight must be a plain tensor, got a DTensor"),
        ("lgl-inr", "weight of a head that gives logits with a gradient must be a plain tensor, got a DTensor"),
        ("logistic", "weight of a head that gives logits with a gradient must be a plain tensor, got a DTensor"),
    ],
)
def test_what_does_not_work_with_them_says_so(found, name, words):
    for rank in (0, 1):
        assert found[rank].get(name, "no error").startswith(words)


@pytest.mark.slow
def test_plain_tensors_still_compile_to_one_graph():
    compiled = torch.compile(LOSSES["softmax"], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*_batch()), LOSSES["softmax"](*_batch()))
