"""Imbalance profiles, splits and groups."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.data import exponential, parse_imbalance, shot_groups, split_validation, step, subsample
from tests.helpers import assert_at_least


@pytest.mark.parametrize(
    ("profile", "available", "expected"),
    [
        ("none", [5, 9, 2], [5, 9, 2]),
        ("exponential:100", [6000] * 3, [6000, 600, 60]),
        ("exponential:1", [7, 7], [7, 7]),
        ("step:10", [50] * 5, [50, 50, 50, 5, 5]),
        ("step:100:0.8", [100] * 5, [100, 1, 1, 1, 1]),
        ("exponential:4", [40, 10, 40], [20, 10, 5]),  # an already short class scales the whole profile
        ("exponential:50", [300], [300]),
    ],
)
def test_counts(profile, available, expected):
    assert parse_imbalance(profile).counts(available) == expected


@given(st.integers(2, 30), st.integers(200, 5000), st.floats(1, 150))
def test_exponential_has_its_ratio_and_never_rises(classes, available, ratio):
    counts = exponential(ratio).counts([available] * classes)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == available
    assert counts[-1] <= available / ratio * (1 + 1e-8)
    assert available / ratio < counts[-1] + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exponential:0.5", "ratio must be a finite number >= 1 .largest over smallest class., got 0.5"),
        ("exponential:0", "got 0"),
        ("step:inf", "got inf"),
        ("step:10:1.5", r"fraction must be in \[0, 1\], got 1.5"),
        ("expnential:50", "imbalance must be none, exponential:RATIO or step:RATIO.:FRACTION., such as"),
        ("exponential", "imbalance must be none"),
        ("exponential:fifty", "got 'exponential:fifty'"),
        ("none:3", "imbalance must be none"),
        ("step:1:2:3", "imbalance must be none"),
    ],
)
def test_bad_profile_gets_one_sentence(text, message):
    with pytest.raises(ValueError, match=message):
        parse_imbalance(text)


def test_ratio_beyond_the_largest_class_is_refused():
    with pytest.raises(ValueError, match="imbalance ratio must be at most 30 for classes of these sizes"):
        step(31).counts([30, 30])
    assert step(30).counts([30, 30]) == [30, 1]


def test_subsample_is_by_seed_and_of_the_profile():
    target = torch.arange(400) % 4
    first, again, other = (subsample(target, exponential(10), seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, first.sort().values)
    assert torch.bincount(target[first]).tolist() == exponential(10).counts([100] * 4)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 99))
def test_validation_takes_some_of_every_class_and_not_all(counts, fraction, seed):
    target = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    rest, validation = split_validation(target, fraction, seed=seed)
    assert torch.equal(torch.cat([rest, validation]).sort().values, torch.arange(len(target)))
    for part in (rest, validation):
        assert_at_least(torch.bincount(target[part], minlength=len(counts)), 1)


def test_split_refuses():
    with pytest.raises(ValueError, match="class 1 has a single sample"):
        split_validation(torch.tensor([0, 0, 1]), 0.5, seed=0)
    with pytest.raises(ValueError, match="fraction must be between 0 and 1, got 1"):
        split_validation(torch.tensor([0, 0]), 1.0, seed=0)


def test_groups_meet_at_the_limits():
    assert shot_groups([101, 100, 20, 19]) == {"many": [0], "medium": [1, 2], "few": [3]}


@given(st.lists(st.integers(1, 300), min_size=2, max_size=8))
def test_the_limit_that_is_told_is_the_limit(available):
    with pytest.raises(ValueError, match="must be at most") as caught:
        exponential(1e6).counts(available)
    limit = int(str(caught.value).split("at most ")[1].split()[0])
    assert min(exponential(limit).counts(available)) >= 1
    with pytest.raises(ValueError, match="must be at most"):
        exponential(limit + 1).counts(available)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
def test_step_without_small_or_large_classes_is_refused(fraction):
    with pytest.raises(
        ValueError, match=r"fraction must leave small and large classes, got .* of 4, which makes [04] small"
    ):
        step(10, fraction).counts([50] * 4)


@pytest.mark.parametrize("available", [[], [5, 0]])
def test_every_class_must_have_a_sample_to_begin_with(available):
    with pytest.raises(ValueError, match="available must have at least one sample of each class, got"):
        exponential(2).counts(available)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([-1, 0]), r"labels >= 0, got shape \(2,\) of int64 with -1"),
        (torch.tensor([0.0, 1.0]), r"got shape \(2,\) of float32"),
        (torch.tensor([], dtype=torch.long), r"got shape \(0,\)"),
        (torch.zeros(2, 2, dtype=torch.long), r"got shape \(2, 2\)"),
    ],
)
def test_targets_that_are_no_labels_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        subsample(target, exponential(2), seed=0)
    with pytest.raises(ValueError, match=message):
        split_validation(target, 0.5, seed=0)
