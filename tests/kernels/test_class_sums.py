"""Sums by class: the compiled code against a loop over float64 rows, and against torch's own operations."""

import os
import shutil
import threading
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.balance import MeanConfusion
from steelyard.kernels.class_sums import native, reference
from steelyard.kernels.class_sums.dispatch import add_by_class
from steelyard.kernels.class_sums.reference import Kind

built = pytest.mark.skipif(native.library() is None, reason="installed without a C compiler")
KINDS = get_args(Kind)


def zeros(kind, classes, columns, folds):
    """Return first, second and counts before any row."""
    second = (columns,) if kind == "centred" else (classes, columns)
    return (
        torch.zeros(folds, classes, columns, dtype=torch.float64),
        torch.zeros(second, dtype=torch.float64),
        torch.zeros(folds, classes, dtype=torch.long),
    )


def slow(kind, rows, labels, classes, folds, ignore_index=-100):
    """Return the sums, one row after the other, in float64."""
    first, second, counts = zeros(kind, classes, rows.shape[1], folds)
    for z, k in zip(rows.double(), labels.tolist(), strict=True):
        if k == ignore_index:
            continue
        p = z.softmax(0) if kind == "softmax" else z.sigmoid()
        u = {"softplus": torch.logaddexp(z, torch.zeros_like(z)), "centred": z - z.mean()}.get(kind, p)
        v = z.sigmoid() * (-z).sigmoid() if kind == "softplus" else u**2
        fold = (int(counts[:, k].sum()) + k) % folds
        first[fold, k] += u
        counts[fold, k] += 1
        if second.dim() == 1:
            second += v
        else:
            second[k] += v
    return first, second, counts


def assert_same(found, expected, rows):
    """The same counts, and sums to the rounding of float32 beside the largest number of a row."""
    assert torch.equal(found[2], expected[2])
    size = max(1.0, float(rows.abs().nan_to_num(0.0, 0.0, 0.0).max())) if rows.numel() else 1.0
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=2e-7 * size, equal_nan=True)
    torch.testing.assert_close(found[1], expected[1], rtol=2e-6, atol=1e-12, equal_nan=True)


def example(rows, classes, columns, seed=0, size=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(rows, columns, generator=generator)
    return logits, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.skipif(not os.environ.get("CI") or shutil.which("cc") is None, reason="no C compiler to build it")
def test_it_was_built():
    assert native.library() is not None


@pytest.mark.parametrize("code", [pytest.param(native, marks=built), reference], ids=["compiled", "torch"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 9999),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    columns=st.sampled_from([1, 2, 3, 10, 15, 16, 17, 33, 100]),
    folds=st.sampled_from([1, 2, 16]),
    ignored=st.booleans(),
)
def test_equals_a_loop_over_rows_in_any_batches(code, kind, seed, sizes, columns, folds, ignored):
    classes = max(columns, 2)
    rows, labels = example(sum(sizes), classes, columns, seed)
    if ignored and len(rows):
        rows[seed % len(rows)], labels[seed % len(rows)] = torch.nan, -100
    found = zeros(kind, classes, columns, folds)
    for z, y in zip(rows.split(sizes), labels.split(sizes), strict=True):
        code.add(kind, z, y, *found[:2], counts=found[2])
    assert_same(found, slow(kind, rows, labels, classes, folds), rows)


@built
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "classes", "columns", "folds"),
    [
        (20_000, 10, 10, 16),
        (9000, 100, 100, 16),
        (300, 1000, 1000, 2),
        (5, 3, 5000, 2),
        (1, 10, 10, 16),
        (0, 10, 10, 2),
    ],
)
def test_the_compiled_code_does_what_torchs_operations_do(kind, rows, classes, columns, folds):
    z, y = example(rows, classes, columns)
    y[: rows // 3] = 1  # most classes are rare, some are empty
    y[1::7] = -100
    found, expected = zeros(kind, classes, columns, folds), zeros(kind, classes, columns, folds)
    native.add(kind, z, y, *found[:2], counts=found[2])
    reference.add(kind, z, y, *expected[:2], counts=expected[2])
    assert_same(found, expected, z)


@built
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [1, 2, 10, 40])
@pytest.mark.parametrize(
    "values", [(1e4, -1e4), (1e4, 0.0), (-1e4, -1e4), (88.0, -88.0), (3e38, -3e38), (torch.inf, 0.0),
               (-torch.inf, 1.0), (torch.nan, 1.0), (torch.nan, torch.inf), (-torch.inf, -torch.inf)],
)  # fmt: skip
def test_logits_of_any_size_and_none(kind, columns, values):
    rows = torch.tensor(values).repeat(3, columns)[:, :columns]
    rows[1] = rows[1].flip(0)
    labels = torch.tensor([0, 1, 1])
    found, expected = zeros(kind, 2, columns, 1), zeros(kind, 2, columns, 1)
    native.add(kind, rows, labels, *found[:2], counts=found[2])
    reference.add(kind, rows, labels, *expected[:2], counts=expected[2])
    assert_same(found, expected, rows)


@pytest.mark.parametrize("code", [pytest.param(native, marks=built), reference], ids=["compiled", "torch"])
@pytest.mark.parametrize("ignore_index", [-1, 0, 2])
def test_a_label_that_is_ignored_may_be_that_of_a_class(code, ignore_index):
    rows, labels = example(50, 3, 3)
    labels[4] = ignore_index
    found = zeros("softmax", 3, 3, 4)
    code.add("softmax", rows, labels, *found[:2], counts=found[2], ignore_index=ignore_index)
    assert_same(found, slow("softmax", rows, labels, 3, 4, ignore_index), rows)


@built
def test_many_rows_lose_no_precision():
    rows, labels = torch.full((200_000, 2), 0.1), torch.zeros(200_000, dtype=torch.long)
    first, second, _ = zeros("sigmoid", 2, 2, 1)
    add_by_class("sigmoid", rows, labels, first, second)
    p = torch.sigmoid(rows[0].double())
    torch.testing.assert_close(first[0, 0], 200_000 * p, rtol=1e-7, atol=0)
    torch.testing.assert_close(second[0], 200_000 * p**2, rtol=2e-7, atol=0)


@built
def test_the_same_rows_give_the_same_sums_to_the_last_bit():
    rows, labels = example(10_000, 7, 7)
    found = [zeros("softmax", 7, 7, 16) for _ in range(2)]
    for each in found:
        native.add("softmax", rows, labels, *each[:2], counts=each[2])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@built
def test_rows_of_a_wider_tensor_and_transposed_logits():
    rows, labels = example(90, 4, 4)
    wide = torch.full((90, 9), torch.nan)
    wide[:, 3:7] = rows
    for view in (wide[:, 3:7], rows.T.contiguous().T, rows[:, :1].expand(-1, 4)):
        found = zeros("softmax", 4, 4, 4)
        native.add("softmax", view, labels, *found[:2], counts=found[2])
        assert_same(found, slow("softmax", view, labels, 4, 4), rows)


@built
@pytest.mark.parametrize("wrong", [-1, 4, 2**40])
def test_a_label_of_no_class_is_named_and_the_memory_stays_whole(wrong):
    rows, labels = example(10, 4, 4)
    labels[6] = wrong
    first, second, counts = zeros("softmax", 4, 4, 16)
    with pytest.raises(RuntimeError, match=f"labels from 0 to 3 or -100, got {wrong} at position 6"):
        native.add("softmax", rows, labels, first, second, counts=counts)


@built
def test_labels_that_change_meanwhile_leave_the_memory_whole():
    rows, labels = example(60_000, 10, 10)
    wild = torch.where(torch.arange(60_000) % 2 == 0, labels, 2**50)
    shared, done = labels.clone(), threading.Event()

    def write():
        while not done.is_set():
            shared.copy_(wild)
            shared.copy_(labels)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            first, second, counts = zeros("softmax", 10, 10, 16)
            try:
                native.add("softmax", rows, shared, first, second, counts=counts)
            except RuntimeError:
                continue
            assert counts.sum() == 60_000
    finally:
        done.set()
        writer.join()


@built
@pytest.mark.parametrize("link", ["softmax", "logistic"])
def test_a_metric_is_the_same_without_the_compiled_code(link, monkeypatch):
    logits, target = example(500, 5, 5)
    target[::9] = -100
    compiled, plain = (MeanConfusion(5, link=link, folds=4) for _ in range(2))
    compiled.update(logits, target)
    monkeypatch.setattr(native, "library", lambda: None)
    plain.update(logits, target)
    torch.testing.assert_close(compiled.compute(), plain.compute(), rtol=1e-6, atol=0)
    assert torch.equal(compiled.fold_counts, plain.fold_counts)


def test_float64_and_watched_rows_go_to_torchs_operations():
    rows, labels = example(5, 3, 3)
    first, second, counts = zeros("softmax", 3, 3, 1)
    assert not native.takes(rows.double(), labels, first, second, counts)
    assert not native.takes(rows, labels, first.transpose(1, 2), second, counts)
    assert not native.takes(rows.to("meta"), labels, first, second, counts)
    with torch.autograd.forward_ad.dual_level():
        assert not native.takes(rows, labels, first, second, counts)


def test_a_library_of_another_source_is_left_alone(monkeypatch):
    monkeypatch.setattr(native, "_ABI", -1)
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
