"""A head whose columns are split over processes: the loss and the gradients of one process, and who talks when."""

import pytest
import torch
import torch.distributed as dist

from steelyard.losses import LGLINRLinear, LogisticLinear, lgl_inr_linear, logistic_linear
from tests.helpers import side_by_side, weights_of

CLASSES = 11
FUSED = {"lgl-inr": lgl_inr_linear, "logistic": logistic_linear}
CASES = [
    (name, reduction, weighted)
    for name in FUSED
    for reduction in ("mean", "sum", "none")
    for weighted in (False, True)
]
COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "send",
    "recv",
)


def _problem():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((30, 4), (CLASSES, 4), (CLASSES,))
    )
    target = torch.randint(CLASSES - 1, (30,), generator=generator)
    target[::7] = -100
    return x, weight, bias, target


def _run(case, x, weight, bias, target, **options):
    name, reduction, weighted = case
    leaves = [p.clone().requires_grad_() for p in (x, weight, bias)]
    if weighted:
        options |= weights_of(name, CLASSES)
    loss = FUSED[name](*leaves[:2], target, linear_bias=leaves[2], reduction=reduction, chunk_size=2, **options)
    loss.sum().backward()
    return loss.detach(), *(p.grad for p in leaves)


def _worker(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    group = dist.group.WORLD
    x, weight, bias, target = _problem()
    part = [p.tensor_split(world)[rank] for p in (weight, bias)]
    given = {"column_group": group, "num_classes": CLASSES}
    found = {"cases": [_run(case, x, *part, target, **given) for case in CASES]}

    # what is said, and when: products of matrices against collectives
    log = []
    for name in COLLECTIVES:
        setattr(dist, name, _logged(log, name, getattr(dist, name)))
    torch.Tensor.addmm_ = _logged(log, "product", torch.Tensor.addmm_)
    torch.mm, torch.addmm = _logged(log, "product", torch.mm), _logged(log, "product", torch.addmm)
    _run(CASES[0], x, *part, target, **given)
    found["log"] = list(log)

    found["heads"] = {}
    for head in (LGLINRLinear, LogisticLinear):
        torch.manual_seed(0)
        module = head(4, CLASSES, column_group=group, dtype=torch.float64)
        loss = module(x, target)
        values, classes = module.predict(x, 5)
        with torch.no_grad():
            module.bias.fill_(-torch.inf)  # nothing is told apart: each class once all the same
        every = module.predict(x, CLASSES)[1]
        found["heads"][head.__name__] = (module.weight.detach(), loss.detach(), values, classes, every)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _logged(log, name, function):
    def logged(*args, **kwargs):
        log.append(name)
        return function(*args, **kwargs)

    return logged


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_processes_agree_with_one(tmp_path, world):
    side_by_side(_worker, (world, str(tmp_path)), processes=world)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    x, weight, bias, target = _problem()
    close = {"rtol": 1e-12, "atol": 1e-14}
    for i, case in enumerate(CASES):
        loss, *grads = _run(case, x, weight, bias, target)
        for rank in range(world):
            own_loss, own_x, own_weight, own_bias = found[rank]["cases"][i]
            columns = case[:2] == ("lgl-inr", "none")  # each process has the losses of its columns
            torch.testing.assert_close(own_loss, loss.tensor_split(world)[rank] if columns else loss, **close)
            torch.testing.assert_close(own_x, grads[0], **close)
            torch.testing.assert_close(own_weight, grads[1].tensor_split(world)[rank], **close)
            torch.testing.assert_close(own_bias, grads[2].tensor_split(world)[rank], **close)
        assert torch.equal(found[0]["cases"][i][1], found[-1]["cases"][i][1])

    for rank in range(world):
        log = found[rank]["log"]
        assert log.count("all_reduce") == 2  # the loss, and the gradient of the input
        chunks = -(-len(found[rank]["cases"][0][3]) // 2)
        assert log.count("product") == 3 * chunks  # logits, gradient of the input, gradient of the weight
        assert "all_reduce" not in log[: len(log) - 2]  # after every product, those that make gradients too

    for name in ("LGLINRLinear", "LogisticLinear"):
        whole = torch.cat([f["heads"][name][0] for f in found])
        assert whole.shape == (CLASSES, 4)
        assert len(whole.unique(dim=0)) == CLASSES
        _, loss, values, classes, every = found[0]["heads"][name]
        assert torch.equal(every.sort(1).values, torch.arange(CLASSES).expand(len(x), -1))
        fused = FUSED["lgl-inr" if name == "LGLINRLinear" else "logistic"]
        torch.testing.assert_close(loss, fused(x, whole, target), **close)
        expected = (x @ whole.T).topk(5)
        torch.testing.assert_close(values, expected.values)
        assert torch.equal(classes, expected.indices)
        assert all(torch.equal(f["heads"][name][3], classes) for f in found)


def test_arguments_of_a_group(tmp_path):
    x, weight, _, target = _problem()
    with pytest.raises(ValueError, match=r"column_group needs torch\.distributed\.init_process_group"):
        lgl_inr_linear(x, weight, target, column_group="world", num_classes=CLASSES)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        group = dist.group.WORLD
        with pytest.raises(TypeError, match="num_classes must be an int with column_group, got None"):
            lgl_inr_linear(x, weight, target, column_group=group)
        with pytest.raises(
            ValueError, match="linear_weight must have 12 of the 12 rows in process 0 of 1, got 11"
        ):
            lgl_inr_linear(x, weight, target, column_group=group, num_classes=12)
        with pytest.raises(ValueError, match="num_sampled cannot be used with column_group"):
            lgl_inr_linear(x, weight, target, column_group=group, num_classes=CLASSES, num_sampled=3)
    finally:
        dist.destroy_process_group()
