"""The streamed ledger: equal to the law at once, in any chunks, dtypes and processes."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchmetrics import MetricCollection

from steelyard.balance import GradientLedger, MeanConfusion, TrainingSetup, law
from steelyard.losses import LGLINRLoss
from tests.balance.generic_losses import WEIGHTS, asymmetric, focal
from tests.helpers import assert_positive, side_by_side

SETUPS = {
    "softmax": TrainingSetup("softmax", class_weights=WEIGHTS),
    "focal": TrainingSetup(focal, class_weights=WEIGHTS),
    "asymmetric": TrainingSetup(asymmetric, class_weights=WEIGHTS),
    "torch smoothed": TrainingSetup(nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1)),
    "multi-hot": TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))),
}


def _data(name, rows=300):
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    if name == "multi-hot":
        return logits, (torch.rand(rows, 4, generator=generator) < 0.3).float()
    target = torch.randint(4, (rows,), generator=generator)
    target[::17] = -100
    return logits.index_fill(0, torch.arange(0, rows, 17), torch.nan), target


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("sizes", [[300], [1, 99, 0, 200]])
def test_stream_equals_the_law_of_the_whole(name, sizes):
    logits, target = _data(name)
    weight = torch.rand(300, generator=torch.Generator().manual_seed(0))
    for weights in (None, weight):
        whole = law(logits, target, SETUPS[name], sample_weight=weights)
        for folds in (1, 8):
            metric = GradientLedger(SETUPS[name], 4, folds=folds)
            parts = [None] * len(sizes) if weights is None else weights.split(sizes)
            for z, y, s in zip(logits.split(sizes), target.split(sizes), parts, strict=True):
                metric.update(z, y, s)
            found = metric.law()
            torch.testing.assert_close(found.pull_up, whole.pull_up, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(found.push_down, whole.push_down, rtol=1e-12, atol=1e-14)
            assert metric.class_counts.sum() == (300 * 4 if name == "multi-hot" else (target >= 0).sum())


def test_entries_are_the_gradients_of_each_class():
    logits, target = _data("focal")
    metric = GradientLedger(SETUPS["focal"], 4)
    metric.update(logits, target)
    G = metric.compute()
    for k in range(4):
        z = logits[target == k].clone().requires_grad_()
        focal(z, torch.full((len(z),), k)).sum().backward()
        torch.testing.assert_close(G[k], z.grad.sum(0))
    torch.testing.assert_close(metric.masses, metric.class_counts.double())


@pytest.mark.parametrize("name", ["softmax", "multi-hot"])
def test_folds_are_even_and_their_errors_are_those_of_drawn_samples(name):
    residuals, errors = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        logits = torch.randn(400, 4, generator=generator, dtype=torch.float64)
        target = torch.arange(400) % 4
        if name == "multi-hot":
            target = (torch.rand(400, 4, generator=generator) < 0.4).double()
        metric = GradientLedger(SETUPS[name], 4, folds=16)
        for rows in torch.arange(400).split(150):
            metric.update(logits[rows], target[rows])
        if name == "softmax":
            assert (metric.fold_counts.amax(0) - metric.fold_counts.amin(0)).max() <= 1
        balance = metric.law()
        residuals.append(balance.residual)
        errors.append(balance.residual_error)
    spread, expected = torch.stack(residuals).std(0), torch.stack(errors).square().mean(0).sqrt()
    torch.testing.assert_close(spread, expected, rtol=0.4, atol=0)


@pytest.mark.parametrize("metric", [GradientLedger(SETUPS["softmax"], 4), MeanConfusion(4, link="softmax")])
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.to(torch.bfloat16),
        lambda m: m.half(),
        lambda m: m.set_dtype(torch.float32),
        lambda m: nn.ModuleList([m]).to(torch.bfloat16),
        lambda m: nn.ModuleList([m]).half(),
        lambda m: nn.ModuleList([m]).to("cpu", torch.float16),
    ],
)
def test_sums_stay_float64_whatever_the_module_becomes(metric, change):
    metric = copy.deepcopy(metric)
    logits, target = _data("softmax")
    metric.update(logits[:100], target[:100])
    plain = copy.deepcopy(metric)
    change(metric)
    for m in (metric, plain):
        m.update(logits[100:], target[100:])
    assert metric.fold_sums.dtype == torch.float64
    assert torch.equal(metric.compute(), plain.compute())
    metric.reset()
    assert metric.fold_sums.dtype == torch.float64


def test_one_output_has_a_row_of_negatives_and_one_of_positives():
    logits, target = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([1.0, 0.0, -100.0])
    metric = GradientLedger(TrainingSetup(nn.BCEWithLogitsLoss()), 1)
    metric.update(logits, target)
    assert metric.compute().tolist() == [[0.5], [-0.5]]
    assert metric.class_counts.tolist() == [[1], [1]]
    P = MeanConfusion(1, link="logistic")
    P.update(logits, target.long())
    assert P.compute().tolist() == [[0.5], [0.5]]


def test_different_setups_never_share_their_sums():
    collection = MetricCollection(
        {"a": GradientLedger(SETUPS["softmax"], 4), "b": GradientLedger(TrainingSetup(focal), 4)}
    )
    links = MetricCollection({"a": MeanConfusion(2, link="softmax"), "b": MeanConfusion(2, link="logistic")})
    target = torch.arange(8) % 4
    for logits in (torch.zeros(8, 4), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))):
        collection.update(logits, target)
        links.update(logits[:, :2], target % 2)
    links.update(torch.ones(4, 2), torch.arange(4) % 2)
    assert len(collection.compute_groups) == len(links.compute_groups) == 2
    assert (collection["a"].compute() - collection["b"].compute()).abs().max() > 0.01
    assert (links["a"].compute() - links["b"].compute()).abs().max() > 0.01


def _worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits, target = _data("softmax")
    rows = slice(0, 100) if rank == 0 else slice(100, 300)
    metric = GradientLedger(SETUPS["softmax"], 4, folds=4)
    metric.update(logits[rows], target[rows])
    balance = metric.law()
    torch.save(
        (metric.compute(), metric.class_counts, balance.pull_up, balance.residual_error), f"{folder}/{rank}.pt"
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path):
    side_by_side(_worker, (str(tmp_path),), processes=2)
    logits, target = _data("softmax")
    one = GradientLedger(SETUPS["softmax"], 4)
    one.update(logits, target)
    for rank in (0, 1):
        G, counts, pull, error = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(G, one.compute(), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(pull, one.law().pull_up, rtol=1e-13, atol=0)
        assert torch.equal(counts, one.class_counts)
        assert_positive(error)


def test_metrics_merge_reset_and_copy():
    logits, target = _data("softmax")
    whole, first, second = (GradientLedger(SETUPS["softmax"], 4) for _ in range(3))
    whole.update(logits, target)
    first.update(logits[:100], target[:100])
    second.update(logits[100:], target[100:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute(), rtol=1e-13, atol=1e-13)
    twin = copy.deepcopy(whole)
    whole.reset()
    assert whole.class_counts.sum() == 0
    assert twin.class_counts.sum() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GradientLedger(TrainingSetup(LGLINRLoss()), 4), "loss lgl-inr is a function of the whole batch"),
        (lambda: GradientLedger(TrainingSetup("softmax"), 0), "num_classes must be an int >= 1, got 0"),
        (lambda: GradientLedger(TrainingSetup("softmax"), 4, folds=0), "folds must be an int >= 1, got 0"),
        (
            lambda: GradientLedger(TrainingSetup("softmax"), 4).update(torch.zeros(2, 3), torch.zeros(2).long()),
            "logits must have 4 columns, got 3",
        ),
        (
            lambda: GradientLedger(TrainingSetup("softmax"), 2).update(torch.zeros(2, 2), torch.full((2, 2), 0.5)),
            "target must hold labels or 0 and 1: soft targets belong to no class",
        ),
        (lambda: next(GradientLedger(TrainingSetup("softmax"), 2).replicates()), "folds must be at least 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
