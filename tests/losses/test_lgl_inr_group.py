"""LGL-INR of a batch over several processes: the loss and the gradient of one process with all of it."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from steelyard.losses import LGLINRLoss
from steelyard.losses.functional import lgl_inr_loss
from tests.helpers import side_by_side

CLASSES, ROWS = 6, 90
CASES = {
    "plain": {},
    "detached": {"detach_weights": True, "beta": 4.0},
    "weighted": {
        "beta": -2.0,
        "output_weights": torch.linspace(0.5, 2, CLASSES),
        "pos_weight": torch.linspace(2, 1, CLASSES),
    },
    "of columns": {"reduction": "none"},
    "sum": {"reduction": "sum", "beta": 50.0},
    "given confusion": {
        "mean_confusion": torch.rand(CLASSES, CLASSES, generator=torch.Generator().manual_seed(3))
    },
}


def _batch():
    """Class 5 is absent, class 4 has samples at the end only, and some rows are ignored."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, (ROWS,), generator=generator)
    target[-8:] = 4
    target[::11] = -100
    logits = 2 * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    return logits, target


def _parts(world):
    """Uneven, and one process has no rows."""
    return {2: [slice(0, 61), slice(61, ROWS)], 3: [slice(0, 12), slice(12, 12), slice(12, ROWS)]}[world]


def _worker(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    group = dist.group.WORLD
    logits, target = _batch()
    part = _parts(world)[rank]
    found = {}
    for name, options in CASES.items():
        z = logits[part].clone().requires_grad_()
        loss = lgl_inr_loss(z, target[part], process_group=group, **options)
        loss.sum().backward()
        found[name] = (loss.detach(), z.grad / world)

    # as data parallelism uses it, with running statistics
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(CLASSES, CLASSES).double())
    criterion = LGLINRLoss(statistics="running", num_classes=CLASSES, beta=3.0, process_group=group).double()
    for _ in range(2):
        model.zero_grad()
        criterion(model(logits[part]), target[part]).backward()
    found["model"] = [p.grad for p in model.parameters()]
    found["running"] = criterion.running_mean_confusion
    z = logits[part].clone().requires_grad_()
    loss = lgl_inr_loss(z, target[part], process_group=group)
    (first,) = torch.autograd.grad(loss, z, create_graph=True)
    try:
        first.sum().backward()
        found["twice"] = "no error"
    except RuntimeError as error:
        found["twice"] = str(error)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_processes_agree_with_one(tmp_path, world):
    side_by_side(_worker, (world, str(tmp_path)), processes=world)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    logits, target = _batch()
    for name, options in CASES.items():
        z = logits.clone().requires_grad_()
        loss = lgl_inr_loss(z, target, **options)
        loss.sum().backward()
        for rank, part in enumerate(_parts(world)):
            torch.testing.assert_close(found[rank][name][0], loss.detach(), rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(found[rank][name][1], z.grad[part], rtol=1e-10, atol=1e-12)

    torch.manual_seed(0)
    model = nn.Linear(CLASSES, CLASSES).double()
    criterion = LGLINRLoss(statistics="running", num_classes=CLASSES, beta=3.0).double()
    for _ in range(2):
        model.zero_grad()
        criterion(model(logits), target).backward()
    for rank in range(world):
        for own, one in zip(found[rank]["model"], model.parameters(), strict=True):
            torch.testing.assert_close(own, one.grad, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            found[rank]["running"], criterion.running_mean_confusion, rtol=1e-12, atol=1e-14
        )
        assert "cannot be differentiated twice" in found[rank]["twice"]


def test_group_that_is_none():
    logits, target = _batch()
    with pytest.raises(ValueError, match=r"process_group needs torch\.distributed\.init_process_group"):
        lgl_inr_loss(logits, target, process_group="world")
    with pytest.raises(ValueError, match=r"process_group needs torch\.distributed\.init_process_group"):
        LGLINRLoss(process_group="world")


def test_a_group_of_one_is_no_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        logits, target = _batch()
        for options in CASES.values():
            alone, grouped = logits.clone().requires_grad_(), logits.clone().requires_grad_()
            lgl_inr_loss(alone, target, **options).sum().backward()
            lgl_inr_loss(grouped, target, process_group=dist.group.WORLD, **options).sum().backward()
            torch.testing.assert_close(grouped.grad, alone.grad, rtol=1e-10, atol=1e-13)
        running = [
            LGLINRLoss(statistics="running", num_classes=CLASSES, process_group=group).double()
            for group in (None, dist.group.WORLD)
        ]
        for rows in (slice(0, 60), slice(60, ROWS), slice(1, 11)):  # the last without an ignored label
            alone, grouped = (loss(logits[rows], target[rows]) for loss in running)
            torch.testing.assert_close(grouped, alone, rtol=1e-10, atol=0)
            torch.testing.assert_close(*(loss.running_mean_confusion for loss in running), rtol=1e-12, atol=0)
        half = logits.to(torch.bfloat16).requires_grad_()
        loss = lgl_inr_loss(half, target, process_group=dist.group.WORLD)
        loss.backward()
        assert loss.dtype == torch.float32
        assert half.grad.dtype == torch.bfloat16
        nothing = lgl_inr_loss(logits[:0], target[:0], process_group=dist.group.WORLD)
        assert nothing == 0
        one_class = lgl_inr_loss(logits[:3], torch.zeros(3, dtype=torch.long), process_group=dist.group.WORLD)
        torch.testing.assert_close(one_class, lgl_inr_loss(logits[:3], torch.zeros(3, dtype=torch.long)))
        with pytest.raises(ValueError, match="process_group must be a group that this process is a member of"):
            lgl_inr_loss(logits, target, process_group="world")
    finally:
        dist.destroy_process_group()
