"""What torchmetrics expects of a metric, of ours: forward, pickle, clone, collections, trackers, processes."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torchmetrics import MetricCollection, MetricTracker

from steelyard.balance import GradientLedger, MeanConfusion, TrainingSetup, mean_confusion
from tests.helpers import assert_nan, side_by_side

SOFTMAX = TrainingSetup("softmax")
METRICS = {
    "mean confusion, softmax": lambda **options: MeanConfusion(4, link="softmax", **options),
    "mean confusion, logistic": lambda **options: MeanConfusion(4, link="logistic", **options),
    "mean confusion in folds": lambda **options: MeanConfusion(4, link="softmax", folds=3, **options),
    "ledger": lambda **options: GradientLedger(SOFTMAX, 4, **options),
    "ledger in folds": lambda **options: GradientLedger(SOFTMAX, 4, folds=3, **options),
}
every_metric = pytest.mark.parametrize("name", METRICS)
SIZES = [1, 30, 0, 5, 1, 23]


def _data(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(sum(SIZES), 4, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (len(logits),), generator=generator)
    target[::7] = -100
    return logits.to(dtype), target


def _batches(dtype=torch.float64):
    logits, target = _data(dtype)
    return list(zip(logits.split(SIZES), target.split(SIZES), strict=True))


def _expected(name, logits, target):
    """What a metric is of these samples, the slow and obvious way."""
    counted = target >= 0
    z, y = logits[counted].double(), target[counted]
    if name.startswith("mean confusion"):
        return mean_confusion(z, y, link="logistic" if "logistic" in name else "softmax")[0]
    gradients = z.softmax(1) - torch.nn.functional.one_hot(y, 4)
    return torch.stack([gradients[y == k].sum(0) for k in range(4)])


def _close(found, expected, rtol=1e-12):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-13 if rtol < 1e-9 else 1e-6, equal_nan=True)


@every_metric
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_forward_gives_the_batch_and_compute_gives_all(name, dtype):
    """Batches of one sample, and of none, among them."""
    metric, rtol = METRICS[name](), 1e-12 if dtype == torch.float64 else 1e-5
    for logits, target in _batches(dtype):
        _close(metric(logits, target), _expected(name, logits, target), rtol)
    _close(metric.compute(), _expected(name, *_data(dtype)), rtol)


@every_metric
def test_forward_keeps_what_update_keeps(name):
    updated, called = METRICS[name](), METRICS[name]()
    for logits, target in _batches():
        updated.update(logits, target)
        called(logits, target)
    assert torch.equal(called.fold_counts, updated.fold_counts), "a class is spread over the folds in another way"
    _close(called.fold_sums, updated.fold_sums)
    if "folds" in name:
        first = updated.jackknife(lambda sums, counts: sums.square().sum())
        torch.testing.assert_close(called.jackknife(lambda sums, counts: sums.square().sum()), first)


@every_metric
def test_pickle_clone_and_state_dict_keep_the_sums(name):
    first, second = _batches()[1], _batches()[5]
    metric = METRICS[name]()
    metric.update(*first)
    metric.persistent(True)
    loaded = METRICS[name]()
    loaded.persistent(True)
    loaded.load_state_dict(metric.state_dict())
    twins = [pickle.loads(pickle.dumps(metric)), metric.clone(), copy.deepcopy(metric), loaded]
    metric.update(*second)
    expected = _expected(name, *(torch.cat(parts) for parts in zip(first, second, strict=True)))
    _close(metric.compute(), expected)
    for twin in twins:
        twin.update(*second)  # its own, not that of the other
        _close(twin.compute(), expected)


@every_metric
def test_nothing_yet_is_said_and_reset_forgets(name):
    metric = METRICS[name]()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        nothing = metric.compute()
    if name.startswith("ledger"):
        assert torch.equal(nothing, torch.zeros(4, 4, dtype=torch.float64))  # sums of nothing
    else:
        assert_nan(nothing)  # means of nothing
    metric.update(*_batches()[1])
    metric.reset()
    metric.update(*_batches()[5])
    _close(metric.compute(), _expected(name, *_batches()[5]))
    for constant in ("is_differentiable", "higher_is_better", "full_state_update"):
        with pytest.raises(RuntimeError, match="Can't change const"):
            setattr(metric, constant, True)


@every_metric
def test_partial_results_merge(name):
    parts = []
    for logits, target in _batches():
        parts.append(METRICS[name]())
        parts[-1].update(logits, target)
    whole = parts[0].clone()
    for part in parts[1:]:
        whole.merge_state(part)
    _close(whole.compute(), _expected(name, *_data()))
    from_state = parts[0].clone()
    from_state.merge_state(parts[1].metric_state)
    _close(from_state.compute(), _expected(name, *(t[:31] for t in _data())))


@pytest.mark.parametrize("compute_groups", [True, False])
@pytest.mark.parametrize("by_forward", [True, False])
def test_a_collection_gives_what_its_metrics_give_alone(compute_groups, by_forward):
    made = {name: METRICS[name]() for name in METRICS} | {
        "the same again": METRICS["mean confusion, softmax"](),
        "other labels ignored": METRICS["mean confusion, softmax"](ignore_index=3),
    }
    collection = MetricCollection(made, compute_groups=compute_groups)
    batches = [(z, y.masked_fill(y == 3, 2)) for z, y in _batches()]  # no label that one refuses
    for logits, target in batches:
        target = target.masked_fill(target == -100, 0)
        if by_forward:
            collection(logits, target)
        else:
            collection.update(logits, target)
    logits, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    target = target.masked_fill(target == -100, 0)
    found = collection.compute()
    for name in METRICS:
        _close(found[name], _expected(name, logits, target))
    _close(found["the same again"], found["mean confusion, softmax"], rtol=0)
    _close(found["other labels ignored"], found["mean confusion, softmax"])
    if compute_groups and not by_forward:  # torchmetrics groups them as they are updated
        assert len(collection.compute_groups) == len(made) - 1  # those that are the same share their sums
    assert torch.equal(
        collection["the same again"].class_counts, collection["mean confusion, softmax"].class_counts
    )
    twin = collection.clone(prefix="val_")
    twin.reset()
    assert collection["ledger"].class_counts.sum() == len(target)


@every_metric
def test_a_tracker_keeps_each_epoch(name):
    tracker = MetricTracker(METRICS[name](), maximize=True)
    epochs = [_batches()[1], _batches()[5]]
    for logits, target in epochs:
        tracker.increment()
        tracker.update(logits, target)
    _close(tracker.compute(), _expected(name, *epochs[1]))
    _close(tracker.compute_all(), torch.stack([_expected(name, *epoch) for epoch in epochs]))


def _worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    batches = _batches()
    mine = batches[:2] if rank == 0 else batches[2:]  # of unequal sizes, an empty one among them
    found = {}
    for name in METRICS:
        metric, on_step = METRICS[name](), METRICS[name](dist_sync_on_step=True)
        own, together = [], []
        for logits, target in mine:
            own.append(metric(logits, target))
        for logits, target in mine[:2]:
            together.append(on_step(logits, target))
        before = metric.class_counts
        metric.sync()
        synced = metric.class_counts
        metric.unsync()
        idle = METRICS[name]()  # sees samples in one process alone
        if rank == 1:
            idle.update(*mine[1])
        else:
            idle.update(mine[0][0][:0], mine[0][1][:0])
        error = metric.jackknife(lambda sums, counts: sums.square().sum()) if "folds" in name else None
        found[name] = (own, together, metric.compute(), (before, synced), idle.compute(), error)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    side_by_side(_worker, (str(tmp_path),), processes=2)
    batches, (logits, target) = _batches(), _data()
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name in METRICS:
        errors = []
        for found, mine in zip(ranks, (batches[:2], batches[2:]), strict=True):
            own, together, result, counts, idle, error = found[name]
            for value, batch in zip(own, mine, strict=True):
                _close(value, _expected(name, *batch))
            for step, value in enumerate(together):
                both = (batches[step], batches[2 + step])
                _close(value, _expected(name, *(torch.cat(parts) for parts in zip(*both, strict=True))))
            _close(result, _expected(name, logits, target))
            for count in counts:
                assert torch.equal(count, torch.bincount(target[target >= 0], minlength=4))
            _close(idle, _expected(name, *batches[3]))
            errors.append(error)
        if errors[0] is not None:
            torch.testing.assert_close(*errors)
            assert errors[0] > 0
