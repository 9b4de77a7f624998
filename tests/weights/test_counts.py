"""Counts and weights in containers with labels: read by what the labels say, or refused."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard import (
    TrainingSetup,
    audit,
    batch_presence,
    class_counts,
    class_weights,
    create_loss,
    initial_bias,
    log_posterior,
    logit_adjustment,
)
from steelyard.notation import parse_weights
from steelyard.weights.counts import count_tensor
from tests.helpers import batch

COUNTS = [10, 90, 50]
LABELS = np.repeat([1, 2, 0], [90, 50, 10])  # the most frequent first
BY_CLASS = {
    "value_counts": pd.Series(LABELS).value_counts(),
    "value_counts of floats": pd.Series(LABELS.astype(float)).value_counts(),
    "value_counts of categories": pd.Series(LABELS).astype("category").value_counts(),
    "value_counts of digits": pd.Series(LABELS.astype(str)).value_counts(),
    "Counter": Counter(LABELS.tolist()),
    "Counter of NumPy numbers": Counter(LABELS),
    "Counter of NumPy floats": Counter(LABELS.astype(np.float32)),
    "Counter of tensors": Counter(torch.tensor(LABELS)),
    "float keys": {1.0: 90, 2.0: 50, 0.0: 10},
    "digits": {"1": 90, "2": 50, "0": 10},
    "JSON": json.loads(json.dumps({1: 90, 2: 50, 0: 10})),
}
TAKERS = {
    "class_weights": class_weights,
    "class_weights, with names": lambda n: class_weights(n, class_names=["a", "b", "c"]),
    "logit_adjustment": logit_adjustment,
    "initial_bias": lambda n: initial_bias(n, "logistic"),
    "batch_presence": lambda n: batch_presence(n, 8),
    "create_loss": lambda n: create_loss("softmax", class_counts=n, class_weights="inverse").class_weights,
    "weights of a loss": lambda n: create_loss("focal", class_weights=n).class_weights,
    "setup": lambda n: TrainingSetup("softmax", class_counts=n).class_counts,
    "weights of a setup": lambda n: TrainingSetup("softmax", class_weights=n).class_weights,
    "first_bias": lambda n: create_loss("logistic").first_bias(n),
}


@pytest.mark.parametrize("taker", list(TAKERS))
@pytest.mark.parametrize("container", list(BY_CLASS))
def test_a_labelled_container_is_read_by_its_labels(taker, container):
    assert torch.equal(TAKERS[taker](BY_CLASS[container]), TAKERS[taker](COUNTS))


@pytest.mark.parametrize("keys", [(True, False), (np.True_, np.False_)])
def test_bools_are_the_classes_0_and_1(keys):
    assert class_weights({keys[0]: 1, keys[1]: 3}).tolist() == [0.5, 1.5]
    series = pd.Series([True] + [False] * 3).value_counts()
    assert class_weights(series).tolist() == [0.5, 1.5]


@given(st.permutations(range(6)), st.lists(st.integers(1, 10**6), min_size=6, max_size=6))
def test_the_order_of_keys_does_not_matter(order, counts):
    named = [f"class {k}" for k in range(6)]
    expected = class_weights(dict(enumerate(counts)))
    assert torch.equal(class_weights({k: counts[k] for k in order}), expected)
    assert torch.equal(class_weights(pd.Series({k: counts[k] for k in order})), expected)
    shuffled = {named[k]: counts[k] for k in order}
    assert torch.equal(class_weights(shuffled, class_names=named), expected)
    assert torch.equal(TrainingSetup("softmax", class_weights=shuffled, class_names=named).class_weights, torch.tensor(counts).double())  # fmt: skip


def test_names_need_an_order_unless_they_come_in_the_alphabet():
    assert class_weights({"cat": 1, "dog": 3}).tolist() == [1.5, 0.5]
    series = pd.Series(["dog"] * 3 + ["cat"]).value_counts()
    assert class_weights(series, class_names=["cat", "dog"]).tolist() == [1.5, 0.5]
    for container in ({"dog": 3, "cat": 1}, series, Counter(["dog"] * 3 + ["cat"])):
        with pytest.raises(ValueError, match="names its classes in an order that may be any, 'dog' first: give"):
            class_weights(container)


def test_names_may_be_numbers():
    by_name = class_weights({"7": 1, "3": 3}, class_names=["3", "7"])
    assert torch.equal(by_name, class_weights({7: 1, 3: 3}, class_names=["3", "7"]))
    assert by_name.tolist() == [0.5, 1.5]
    twelve = {str(k): k + 1 for k in (10, 11, *range(10))}
    assert torch.equal(class_weights(twelve), class_weights(list(range(1, 13))))  # not "0", "1", "10", "11", "2"


@pytest.mark.parametrize(
    ("container", "error", "message"),
    [
        (pd.DataFrame({"n": COUNTS}), TypeError, r"one value per class, got a table \(DataFrame\)"),
        (pd.Series([1, 2], index=[0, 0]), ValueError, "one entry for class 0, got several"),
        (pd.Series([1, 2], index=[1, 2]), ValueError, "no entry for class 0; give 0"),
        (pd.Series([1, 2], index=[0.5, 1.0]), TypeError, "class names as keys, got 0.5"),
        (pd.Series([5, 5, 1], index=[0.0, 1.0, float("nan")]), TypeError, "class names as keys, got nan"),
        ({(0, 1): 3}, TypeError, "class names as keys, got tuple"),
        ({None: 3}, TypeError, "class names as keys, got NoneType"),
        ({0: 5, "dog": 1}, TypeError, "class indices or class names as keys, got both"),
        ({10**12: 5}, ValueError, "no entry for class 0"),
        (pd.Series([1, None], index=[0, 1]), ValueError, "got nan at position 1"),
        ("inverse", TypeError, "whole numbers, got 'inverse'"),
        (np.array(["cat", "dog"]), TypeError, "got text: counts are meant, and class_counts"),
        (np.array([1 + 0j, 2]), TypeError, "got complex128"),
        ([[1, 2], [3]], TypeError, "whole numbers, got rows of several lengths"),
        (torch.ones(3, device="meta"), ValueError, "must hold values, got a tensor on the meta device"),
    ],
)
def test_what_cannot_be_told_is_refused_in_one_sentence(container, error, message):
    with pytest.raises(error, match=message) as caught:
        class_weights(container)
    assert "\n" not in str(caught.value)


def test_long_doubles_are_numbers():
    counts = np.array(COUNTS, dtype=np.longdouble)
    assert torch.equal(class_weights(counts), class_weights(COUNTS))
    for loss in (create_loss("softmax", class_weights=counts), create_loss("focal", class_weights=list(counts))):
        assert loss.class_weights.tolist() == COUNTS
    assert TrainingSetup("softmax", class_weights=counts).class_weights.tolist() == COUNTS


def test_counts_in_a_tensor_keep_their_digits():
    assert count_tensor(torch.tensor([2**53 + 1, 1])).tolist() == [2**53 + 1, 1]
    assert count_tensor(torch.tensor([4.0, 1.0], dtype=torch.bfloat16)).tolist() == [4, 1]
    assert count_tensor(torch.tensor([4.0, 1.0], requires_grad=True)).tolist() == [4, 1]


def test_the_audit_reads_counts_by_name():
    logits, target = batch(60, 3)
    report = audit(
        logits, target, "softmax", class_counts={"c": 30, "a": 10, "b": 20}, class_names=["a", "b", "c"]
    )
    assert {row.name: row.class_count for row in report.classes if row.samples} == {"a": 10, "c": 30}
    assert not (target == 1).any()


def test_a_json_file_is_read_by_class_and_names_each_once(tmp_path):
    file, counts = tmp_path / "w.json", torch.tensor(COUNTS)
    file.write_text('{"2": 3, "0": 1, "1": 2}')
    assert parse_weights(str(file), counts).tolist() == [1, 2, 3]
    file.write_text('{"c": 3, "a": 1, "b": 2}')
    assert parse_weights(str(file), counts, ["a", "b", "c"]).tolist() == [1, 2, 3]
    file.write_text('{"a": 3, "a": 1, "b": 2, "c": 1}')
    with pytest.raises(ValueError, match="must have each key once, got 'a' twice"):
        parse_weights(str(file), counts, ["a", "b", "c"])


def test_the_sentence_names_the_class_that_is_empty_whatever_the_order():
    with pytest.raises(ValueError, match="no samples of class 0;"):
        class_weights({2: 5, 0: 0, 1: 3})
    with pytest.raises(ValueError, match="no samples of class 'a';"):
        class_weights({"b": 5, "a": 0}, class_names=["a", "b"])


# Labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taker", ["class_weights", "logit_adjustment", "initial_bias", "batch_presence"])
@pytest.mark.parametrize(
    "labels", [[1, 2, 1, 2, 3], [1, 2, 1, 2], LABELS % 3 + 1, torch.tensor([1, 1, 2, 2, 3, 3])]
)
def test_labels_in_place_of_counts_are_told(taker, labels):
    with pytest.warns(
        UserWarning, match="look like labels: counts are meant, and class_counts.labels, num_classes"
    ):
        TAKERS[taker](labels)


def test_the_warning_points_at_the_labels():
    with pytest.warns(UserWarning, match="look like labels") as caught:
        class_weights([1, 2, 1, 2, 3])
    assert caught[0].filename == __file__


@pytest.mark.parametrize("counts", [COUNTS, [3, 2, 1], [10] * 1000, [2, 1, 2], [1, 1, 1], [2, 3] * 3])
def test_counts_are_not_taken_for_labels(counts):
    class_weights(counts)


def test_labels_with_a_0_are_refused_and_counts_asked_for():
    with pytest.raises(ValueError, match="counts are meant, not labels"):
        class_weights([0, 1, 1, 0])


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, pd.Series, lambda y: torch.tensor(y).short()])
def test_class_counts_count_labels(kind):
    assert class_counts(kind([2, 0, 2, -100, 2]), 4).tolist() == [1, 0, 3, 0]


def test_class_counts_of_other_forms():
    assert class_counts(np.array([True, False, True]), 2).tolist() == [1, 2]
    assert class_counts(torch.tensor([[0, 1], [1, 255]]), np.int64(2), ignore_index=255).tolist() == [1, 2]
    assert class_counts(pd.Series([0, 1, 1], index=[7, 0, 3]), 2).tolist() == [1, 2]  # samples, not classes
    assert class_counts(np.array([0, 1, 1], dtype=np.uint64), 2).tolist() == [1, 2]
    assert class_counts([], 2).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "num_classes", "error", "message"),
    [
        ([0, 3], 3, ValueError, "whole numbers from 0 to 2 or ignore_index -100, got 3"),
        ([0, -1], 3, ValueError, "got -1"),
        ([0.0, 1.0], 2, TypeError, "whole numbers from 0 to 1, got float64"),
        (torch.ones(2, requires_grad=True), 2, TypeError, "got float32"),
        (["cat"], 2, TypeError, "got text"),
        ({0: 3}, 2, TypeError, "got a mapping"),
        ([0], 0, ValueError, "num_classes must be an int >= 1, got 0"),
        ([0], True, TypeError, "num_classes must be an int, got bool"),
    ],
)
def test_class_counts_refuse(labels, num_classes, error, message):
    with pytest.raises(error, match=message):
        class_counts(labels, num_classes)


# Samples of several classes ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [int, np.int64, np.uint16])
def test_labels_that_come_together_are_out_of_the_number_of_samples(number):
    positives = torch.tensor([75.0, 60.0, 5.0])
    bias = initial_bias(pd.Series([5, 75, 60], index=[2, 0, 1]), "logistic", num_samples=number(100))
    torch.testing.assert_close(bias.sigmoid(), positives / 100)
    assert initial_bias([100], "logistic", num_samples=number(200)).tolist() == [0.0]
    posterior = log_posterior(bias[None], TrainingSetup("logistic", targets="multi-hot", pos_weight=[1, 2, 4]))
    odds = positives / (100 - positives) / torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(posterior.exp()[0], odds / (1 + odds))  # each for itself: rows do not sum to 1
    with pytest.raises(ValueError, match="num_samples must be an int >= the largest count, 75, got 74"):
        initial_bias([75, 60], "logistic", num_samples=number(74))
    with pytest.raises(ValueError, match="num_samples is for multi-label targets"):
        initial_bias([75, 60], "softmax", num_samples=number(100))
    with pytest.raises(TypeError, match="num_samples must be an int, got float"):
        initial_bias([75, 60], "logistic", num_samples=100.0)


# Range ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "options"),
    [
        ([10**9, 1], {"scheme": "balanced", "dtype": torch.float16}),
        ([10**9, 1], {"scheme": "power", "exponent": 6.0}),
    ],
)
def test_weights_that_the_dtype_cannot_hold_are_refused(counts, options):
    with pytest.raises(ValueError, match=r"dtype must hold the weights, which go from .* to .*, got float"):
        class_weights(counts, **options)


def test_nothing_depends_on_the_device_that_is_the_default():
    expected = class_weights(COUNTS), logit_adjustment(COUNTS, batch_size=4), initial_bias(COUNTS, "logistic")
    with torch.device("meta"):
        found = class_weights(COUNTS), logit_adjustment(COUNTS, batch_size=4), initial_bias(COUNTS, "logistic")
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("empty", [1, 10, 11, 13])
def test_ten_classes_without_samples_are_named_and_the_others_counted(empty):
    named = ", ".join(str(k) for k in range(1, min(empty, 10) + 1))
    expected = f"class{'es' if empty > 1 else ''} {named}" + (f" and {empty - 10} more" if empty > 10 else "")
    with pytest.raises(ValueError, match=rf"no samples of {expected}[:;]"):
        class_weights([5] + [0] * empty, "inverse")
