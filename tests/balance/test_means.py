"""The streamed mean confusion: equal to the one at once, in any chunks and across processes."""

import copy

import pytest
import torch
import torch.distributed as dist
from torchmetrics import MetricCollection

from steelyard.balance import MeanConfusion, mean_confusion
from tests.helpers import assert_nan, batch, side_by_side


def _data(rows=1000, classes=7):
    logits, target = batch(rows, classes, 3.0)
    target[::17] = -100
    return logits, target


@pytest.mark.parametrize("link", ["softmax", "logistic"])
@pytest.mark.parametrize("sizes", [[1000], [1, 99, 0, 900], [250] * 4])
def test_stream_equals_the_whole(link, sizes):
    logits, target = _data()
    metric = MeanConfusion(7, link=link)
    for z, y in zip(logits.split(sizes), target.split(sizes), strict=True):
        metric.update(z, y)
    P, counts = mean_confusion(logits, target, link=link)
    torch.testing.assert_close(metric.compute(), P, rtol=1e-13, atol=0, equal_nan=True)
    assert torch.equal(metric.class_counts, counts)
    assert counts[5] == 0
    assert_nan(metric.compute()[5])


def test_standard_errors_are_those_of_the_samples():
    logits, target = _data()
    metric = MeanConfusion(7, link="softmax")
    metric.update(logits, target)
    p = logits.softmax(1)
    for k in (0, 3):
        rows = p[target == k]
        torch.testing.assert_close(metric.standard_error()[k], rows.std(0) / len(rows) ** 0.5, rtol=1e-9, atol=0)
    assert_nan(metric.standard_error()[5])


def test_folds_change_nothing_and_give_errors_of_functions():
    logits, target = _data()
    plain, folded = MeanConfusion(7, link="softmax"), MeanConfusion(7, link="softmax", folds=8)
    for z, y in zip(logits.split(130), target.split(130), strict=True):
        plain.update(z, y)
        folded.update(z, y)
    torch.testing.assert_close(folded.compute(), plain.compute(), rtol=1e-13, atol=0, equal_nan=True)
    torch.testing.assert_close(folded.standard_error(), plain.standard_error(), rtol=1e-9, atol=0, equal_nan=True)
    assert torch.equal(folded.class_counts, plain.class_counts)
    assert (folded.fold_counts.amax(0) - folded.fold_counts.amin(0)).max() <= 1  # every class spread evenly
    error = folded.jackknife(lambda P, counts: P[:5])
    ratio = error / folded.standard_error()[:5]
    assert 0.7 < ratio.square().mean().sqrt() < 1.4
    assert sum(1 for _ in folded.replicates()) == 8
    P, counts = next(folded.replicates())
    assert counts.sum() == (folded.class_counts - folded.fold_counts[0]).sum()
    assert ((P.sum(1) - 1).abs() < 1e-6)[counts > 0].all()
    with pytest.raises(ValueError, match="folds must be at least 2 for replicates, got 1"):
        next(plain.replicates())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_logits_and_dense_layout(dtype):
    logits, target = _data(960)
    dense = logits.to(dtype).reshape(10, 12, 8, 7).permute(0, 3, 1, 2)
    metric = MeanConfusion(7, link="softmax")
    metric.update(dense, target.reshape(10, 12, 8))
    P, _ = mean_confusion(logits.to(dtype), target, link="softmax")
    assert metric.compute().dtype == torch.float64
    torch.testing.assert_close(metric.compute(), P, rtol=1e-5, atol=1e-9, equal_nan=True)


def test_metric_resets_copies_and_merges():
    logits, target = _data()
    whole, first, second = (MeanConfusion(7, link="softmax") for _ in range(3))
    whole.update(logits, target)
    first.update(logits[:300], target[:300])
    second.update(logits[300:], target[300:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), whole.compute(), rtol=1e-13, atol=0, equal_nan=True)
    twin = copy.deepcopy(whole)
    whole.reset()
    assert whole.class_counts.sum() == 0
    assert twin.class_counts.sum() > 0


@pytest.mark.parametrize("classes", [3, 300])
@pytest.mark.parametrize("folds", [1, 4])
def test_ignored_rows_may_hold_nan_and_empty_batches_add_nothing(classes, folds):
    logits = torch.randn(40, classes, generator=torch.Generator().manual_seed(0))
    target = torch.arange(40) % 3
    clean, dirty = (MeanConfusion(classes, link="softmax", folds=folds) for _ in range(2))
    clean.update(logits, target)
    dirty.update(logits[:0], target[:0])
    spoilt = torch.cat([torch.full((2, classes), torch.nan), logits])
    dirty.update(spoilt, torch.cat([torch.full((2,), -100), target]))
    dirty.update(logits[:0], target[:0])
    torch.testing.assert_close(dirty.compute(), clean.compute(), rtol=1e-6, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(
        dirty.standard_error(), clean.standard_error(), rtol=1e-4, atol=1e-6, equal_nan=True
    )
    dirty.update(torch.full((1, classes), torch.nan), torch.tensor([0]))
    assert_nan(dirty.compute()[0])  # a sample that counts is not left out in silence


def test_one_output_has_a_mean_for_negatives_and_one_for_positives():
    logits, target = torch.tensor([[0.0], [2.0], [-1.0]]), torch.tensor([0, 1, 1])
    P, counts = mean_confusion(logits, target, link="logistic")
    expected = torch.stack([logits[0].sigmoid(), logits[1:].sigmoid().mean(0)]).double()
    torch.testing.assert_close(P, expected)
    assert counts.tolist() == [1, 2]
    with pytest.raises(ValueError, match='link must be "logistic" for one output, got "softmax"'):
        mean_confusion(logits, target, link="softmax")
    with pytest.raises(ValueError, match='link must be "logistic" for one output, got "softmax"'):
        MeanConfusion(1, link="softmax")


@pytest.mark.parametrize("start", ["zero logits", "an empty batch", "ignored rows alone"])
def test_means_of_other_options_never_share_their_sums(start):
    """Of two metrics whose states are equal after the first batch a collection keeps one."""
    made = {
        "plain": MeanConfusion(4, link="softmax"),
        "logistic": MeanConfusion(4, link="logistic"),
        "ignores 3": MeanConfusion(4, link="softmax", ignore_index=3),
        "folds": MeanConfusion(4, link="softmax", folds=2),
    }
    alone, together = copy.deepcopy(made), MetricCollection(made).to(torch.bfloat16)
    logits, target = batch(40, 4)
    first = {
        "zero logits": (torch.zeros(4, 4), torch.tensor([0, 1, 2, 0])),
        "an empty batch": (logits[:0], target[:0]),
        "ignored rows alone": (torch.full((2, 4), torch.nan), torch.full((2,), -100)),
    }[start]
    for key in ("ignores 3",) if start == "ignored rows alone" else ():
        del alone[key]
        together = MetricCollection({k: m for k, m in made.items() if k != key}).to(torch.bfloat16)
    for z, y in (first, (logits, target)):
        together.update(z, y)
        for metric in alone.values():
            metric.update(z, y)
    for key, metric in alone.items():
        assert together[key].fold_sums.dtype == torch.float64
        torch.testing.assert_close(together[key].compute(), metric.compute(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("folds", [1, 3])
def test_one_output_streams_in_any_chunks(folds):
    logits, target = batch(50, 2)
    logits = logits[:, :1]
    expected, counts = mean_confusion(logits, target, link="logistic")
    metric = MeanConfusion(1, link="logistic", folds=folds).half()
    for size in (slice(0, 0), slice(0, 7), slice(7, 50), slice(0, 0)):
        metric.update(logits[size], target[size])
    torch.testing.assert_close(metric.compute(), expected)
    assert torch.equal(metric.class_counts, counts)
    assert metric.standard_error().shape == (2, 1)


def _worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits, target = _data()
    rows = slice(0, 300) if rank == 0 else slice(300, 1000)
    metric = MeanConfusion(7, link="softmax")
    metric.update(logits[rows], target[rows])
    torch.save((metric.compute(), metric.standard_error(), metric.class_counts), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one_to_rounding(tmp_path):
    """Not to the last bit: two partial sums are added in another order than one."""
    side_by_side(_worker, (str(tmp_path),), processes=2)
    logits, target = _data()
    one = MeanConfusion(7, link="softmax")
    one.update(logits, target)
    for rank in (0, 1):
        P, error, counts = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(P, one.compute(), rtol=1e-13, atol=0, equal_nan=True)
        torch.testing.assert_close(error, one.standard_error(), rtol=1e-10, atol=0, equal_nan=True)
        assert torch.equal(counts, one.class_counts)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MeanConfusion(0, link="softmax"), ValueError, "num_classes must be an int >= 1, got 0"),
        (lambda: MeanConfusion(3, link="softmax", folds=0), ValueError, "folds must be an int >= 1, got 0"),
        (
            lambda: MeanConfusion(3, link="probit"),
            ValueError,
            "link must be one of 'softmax', 'logistic', got 'probit'",
        ),
        (
            lambda: MeanConfusion(3, link="softmax").update(*batch()),
            ValueError,
            "logits must have 3 columns, got 5",
        ),
        (
            lambda: MeanConfusion(5, link="softmax").update(batch()[0], batch()[1] + 3),
            ValueError,
            "labels from 0 to 4",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
