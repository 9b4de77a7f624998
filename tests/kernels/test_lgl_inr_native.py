"""The compiled CPU code of LGL-INR against torch's own operations, which the oracles hold to in turn."""

import gc
import os
import shutil
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.kernels.lgl_inr import native as native
from steelyard.kernels.lgl_inr import reference as kernel
from tests.helpers import assert_finite

built = pytest.mark.skipif(native.library() is None, reason="installed without a C compiler")


def columns(logits, target, pos_weight=None, beta=1.0, detach_weights=False):
    return kernel._columns(logits, target, pos_weight, beta, detach_weights, -100, True)


def wide(logits, target, num_classes):
    """Of the first columns of a head with many classes."""
    batch = kernel.Batch(
        target,
        num_classes,
        -100,
        pos_weight=None,
        beta=1.0,
        detach_weights=False,
        width=logits.shape[1],
        dtype=logits.dtype,
    )
    grad = torch.empty_like(logits)
    return batch.columns(logits, 0, grad), grad


def assert_near(found, expected):
    """Of float32 against float64: rounding beside the largest of a column's gradients, whose sums may cancel."""
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-6)
    size = expected[1].abs().amax(0).clamp(min=1e-30)
    assert ((found[1].double() - expected[1]).abs() / size).max() < 2e-5


@pytest.mark.skipif(not os.environ.get("CI") or shutil.which("cc") is None, reason="no C compiler to build it")
def test_it_was_built():
    assert native.library() is not None


@built
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    rows=st.integers(1, 40),
    classes=st.sampled_from([1, 2, 15, 16, 17, 33, 300]),
    beta=st.sampled_from([0.0, 1.0, 10.0, -3.0, 60.0]),
    detach_weights=st.booleans(),
    weighted=st.booleans(),
    ignored=st.booleans(),
)
def test_equals_the_float64_operations(seed, rows, classes, beta, detach_weights, weighted, ignored):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, classes, generator=generator)
    target = torch.randint(classes, (rows,), generator=generator)
    if ignored:
        target[seed % rows] = -100
        logits[seed % rows] = torch.nan
    pos_weight = torch.rand(classes, generator=generator) + 0.5 if weighted else None
    options = {"beta": beta, "detach_weights": detach_weights}
    found = columns(logits, target, pos_weight, **options)
    assert_near(found, columns(logits.double(), target, pos_weight, **options))
    assert_finite(found[1])


@built
@given(
    classes=st.sampled_from([1, 2, 255, 256, 257, 70_000, 2**40]),
    ignore_index=st.sampled_from([-100, 0, 2]),
    data=st.data(),
)
def test_segments_are_the_classes_of_the_batch_in_order(classes, ignore_index, data):
    labels = data.draw(
        st.lists(st.one_of(st.integers(0, min(classes, 5) - 1), st.integers(0, classes - 1)), min_size=1)
    )
    where = data.draw(st.sets(st.integers(0, len(labels) - 1)))
    labels = [ignore_index if i in where else y for i, y in enumerate(labels)]
    order, offsets, names = native.segments(torch.tensor(labels), classes, ignore_index)
    keys = [classes if y == ignore_index else y for y in labels]
    assert order.tolist() == sorted(range(len(labels)), key=keys.__getitem__)  # stable
    assert names.tolist() == sorted(set(keys))
    assert offsets.diff().tolist() == [keys.count(k) for k in sorted(set(keys))]
    assert offsets[0] == 0


@built
@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_label_of_no_class_is_named_with_its_position(wrong):
    with pytest.raises(RuntimeError, match=f"labels from 0 to 3 or -100, got {wrong} at position 2"):
        native.segments(torch.tensor([0, -100, wrong, 9]), 4, -100)


@built
@pytest.mark.parametrize("beta", [1.0, 50.0])
def test_many_rows_of_a_class_lose_no_precision(beta):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30_000, 3, generator=generator) - 2
    target = (torch.rand(30_000, generator=generator) < 0.01).long()
    assert_near(columns(logits, target, beta=beta), columns(logits.double(), target, beta=beta))


@built
@pytest.mark.parametrize(
    ("rows", "classes"),
    [(4096, 4100), (4096, 1000), (300_000, 2)],
    ids=["every class once", "some", "rows of few"],
)
@pytest.mark.parametrize("value", [0.0, 0.3, -8.0])
def test_many_alike_are_added_up_without_a_bias(rows, classes, value):
    """As in a fresh head, whose logits are all the same: every rounding of a plain sum goes the same way."""
    width = min(classes, 40)
    target = torch.arange(rows) % classes
    logits = torch.full((rows, width), value)
    exact = wide(logits.double(), target, classes)
    found = wide(logits, target, classes)
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1].double(), exact[1], rtol=2e-6, atol=1e-12)


@built
def test_no_rows_and_no_columns_cost_nothing():
    """As when an exported program, which has lost the branch for them, meets an empty batch."""
    loss, grad = torch.ops.steelyard.lgl_inr(
        torch.randn(0, 5), torch.zeros(0, dtype=torch.long), None, 1.0, False, -100, True
    )
    assert loss.tolist() == [0.0] * 5
    assert grad.shape == (0, 5)
    loss, grad = wide(torch.randn(2, 0), torch.tensor([0, 1]), 3)
    assert loss.shape == (0,)
    assert grad.shape == (2, 0)


@built
def test_as_many_labels_as_rows():
    with pytest.raises(RuntimeError, match="a row for each of the 4 labels, got 3 rows"):
        torch.ops.steelyard.lgl_inr(
            torch.randn(3, 5), torch.zeros(4, dtype=torch.long), None, 1.0, False, -100, True
        )


@built
def test_labels_that_change_meanwhile_leave_the_memory_whole():
    """ctypes lets other threads run: a label is read once, or a changed one would find no place in the order."""
    target, stop = torch.zeros(200_000, dtype=torch.long), threading.Event()

    def disturb():
        other = torch.ones_like(target)
        while not stop.is_set():
            target.copy_(other)
            target.zero_()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for _ in range(100):
            order, offsets, labels = native.segments(target, 2, -100)
            assert torch.equal(order.sort()[0], torch.arange(len(target)))
            assert offsets[-1] == len(target)
            assert set(labels.tolist()) <= {0, 1}
    finally:
        stop.set()
        thread.join()


def test_buffers_go_with_their_batch(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    batch = kernel.Batch(
        torch.tensor([0, 1]),
        3,
        -100,
        pos_weight=None,
        beta=1.0,
        detach_weights=False,
        width=3,
        dtype=torch.float32,
    )
    batch.columns(torch.randn(2, 3), 0, None)
    parts = weakref.ref(batch._parts)
    gc.disable()
    try:
        del batch
        assert parts() is None
    finally:
        gc.enable()


@built
def test_more_segments_than_fit_the_cache():
    rows = 262_145
    logits, target = torch.randn(rows, 3), torch.arange(rows)
    assert_near(wide(logits, target, rows), wide(logits.double(), target, rows))


@built
def test_logits_of_any_size():
    sizes = torch.tensor([0.0, 1e-8, 1e-4, 1.0, 20.0, 88.0, 300.0, 1e4])
    logits = torch.cat([sizes, -sizes]).repeat(6, 1).roll(3, 1)
    target = torch.tensor([0, 5, 5, 9, 15, 2])
    assert_near(columns(logits, target), columns(logits.double(), target))


@built
def test_nan_and_infinite_logits_stay_in_their_columns():
    logits, target = torch.zeros(4, 5), torch.tensor([0, 1, 1, 2])
    logits[0, 3], logits[2, 4] = torch.nan, torch.inf
    loss, grad = columns(logits, target)
    assert loss[3].isnan()
    assert loss[4] == torch.inf
    assert_finite(loss[:3])
    assert_finite(grad[:, :3])


@built
def test_rows_of_a_wider_tensor_and_transposed_logits():
    wide, target = torch.randn(6, 40), torch.tensor([0, 3, 3, 7, 9, 1])
    expected = columns(wide[:, 5:25].contiguous(), target)
    for other in (wide[:, 5:25], wide[:, 5:25].t().contiguous().t()):
        torch.testing.assert_close(columns(other, target), expected)


@built
@pytest.mark.parametrize(("rows", "classes"), [(50, 700), (5000, 7)], ids=["columns divided", "rows divided"])
def test_number_of_threads_changes_nothing(rows, classes):
    logits, target = torch.randn(rows, classes), torch.randint(classes, (rows,))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(columns(logits, target))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@built
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999),
    rows=st.integers(1, 3000),
    classes=st.sampled_from([1, 2, 3, 7, 8, 9, 16, 31, 32]),
    most=st.sampled_from([1, 4, 40]),
    beta=st.sampled_from([0.0, 1.0, -3.0, 60.0]),
    detach_weights=st.booleans(),
)
def test_rows_divided_among_threads_equal_the_float64_operations(seed, rows, classes, most, beta, detach_weights):
    """As few columns are, and many rows of them are no matter of rounding."""
    generator = torch.Generator().manual_seed(seed)
    logits = most * torch.randn(rows, classes, generator=generator)
    target = torch.randint(-1, classes, (rows,), generator=generator)
    logits[target < 0] = torch.nan
    options = {"pos_weight": torch.rand(classes, generator=generator) + 0.5, "beta": beta}
    options |= {"detach_weights": detach_weights, "ignore_index": -1}
    grad = torch.full_like(logits, 7.0)
    loss = native.whole(logits, target, **options, out=grad)
    assert_near((loss, grad), kernel._columns(logits.double(), target, **options, with_grad=True))
    assert not bool(grad[target < 0].any())


@built
@pytest.mark.parametrize("wrong", [-1, 3])
def test_few_columns_find_a_label_of_no_class(wrong):
    target = torch.tensor([0, -100, 2, wrong, 9])
    options = {"pos_weight": None, "beta": 1.0, "detach_weights": False, "ignore_index": -100, "out": None}
    assert native.whole(torch.randn(5, 3), target, **options) is None
    with pytest.raises(RuntimeError, match=f"labels from 0 to 2 or -100, got {wrong} at position 3"):
        columns(torch.randn(5, 3), target)


@built
def test_few_columns_take_no_more_labels_than_rows():
    with pytest.raises(RuntimeError, match="a row for each of the 4 labels, got 3 rows"):
        columns(torch.randn(3, 5), torch.zeros(4, dtype=torch.long))


def test_without_it_float32_goes_to_torchs_operations(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    logits, target = torch.randn(12, 30), torch.randint(30, (12,))
    assert not native.takes(logits)
    assert_near(columns(logits, target), columns(logits.double(), target))


def test_a_library_of_another_source_is_left_alone(monkeypatch):
    monkeypatch.setattr(native, "_ABI", -1)
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
