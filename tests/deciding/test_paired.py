"""Gains between ways to decide: on the same rows, with intervals that count rows, folds and the search."""

import pytest
import torch

from steelyard.deciding import create_objective
from steelyard.deciding.paired import paired


def _wrong_at(target, share, size, seed):
    """Decisions of which that share is wrong, at random."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(target), generator=generator) < share
    return torch.where(wrong, (target + 1) % size, target)


def _value(name, size):
    return create_objective(name, [str(k) for k in range(size)]).value


def test_values_are_those_of_the_confusion():
    target = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    decided = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 1, 2, 0]])
    found = paired(decided, target, torch.arange(8) % 2, _value("balanced-accuracy", 3), 3)
    torch.testing.assert_close(found.values, torch.tensor([1.0, (0.5 + 1 + 0.5) / 3], dtype=torch.float64))


def test_the_same_seed_draws_the_same():
    target = torch.arange(100) % 2
    decided = torch.stack([_wrong_at(target, 0.2, 2, seed) for seed in (0, 1)])
    one, same, other = (
        paired(decided, target, torch.arange(100) % 5, _value("accuracy", 2), 2, seed=s).gain(0, 1)
        for s in (0, 0, 1)
    )
    assert one == same != other


def test_no_gain_of_one_way_over_itself_is_sure():
    target = torch.arange(60) % 3
    decided = _wrong_at(target, 0.2, 3, 0).expand(2, -1)
    gain, (low, high) = paired(decided, target, torch.arange(60) % 5, _value("macro-f1", 3), 3).gain(0, 1)
    assert gain == 0
    assert low < 0 < high


def test_few_rows_on_which_all_agree_are_not_taken_for_certain():
    """Two ways differ on all 3 rows of a class: the bootstrap alone would see no doubt about its recall."""
    target = torch.cat([torch.zeros(300), torch.ones(3)]).long()
    decided = torch.stack([target, torch.zeros_like(target)])
    folds = torch.arange(303) % 3
    gain, (low, high) = paired(decided, target, folds, _value("balanced-accuracy", 2), 2).gain(0, 1)
    assert gain == 0.5
    assert 0.1 < (high - low) / 2 < 0.5


def test_intervals_of_rows_and_folds_cover_the_true_gain():
    """Independent errors with known shares: what rows alone would need is covered with room for folds."""
    target = (torch.arange(400) % 8 == 0).long()
    truth = 0.3 - 0.2  # of balanced accuracy, as of each class
    held = 0
    for seed in range(100):
        decided = torch.stack([_wrong_at(target, share, 2, 2 * seed + k) for k, share in enumerate((0.2, 0.3))])
        found = paired(decided, target, torch.arange(400) % 5, _value("balanced-accuracy", 2), 2, seed=seed)
        _, (low, high) = found.gain(0, 1)
        held += low <= truth <= high
    assert held >= 97


def test_a_gain_on_many_rows_is_sure():
    target = torch.arange(4000) % 2
    decided = torch.stack([_wrong_at(target, share, 2, k) for k, share in enumerate((0.1, 0.2))])
    _, (low, high) = paired(decided, target, torch.arange(4000) % 5, _value("accuracy", 2), 2).gain(0, 1)
    assert 0.05 < low < 0.1 < high < 0.15


def test_rows_of_a_group_are_drawn_together():
    """Ten copies of each row tell no more than the row: errors are those of the rows, not of the copies."""
    generator = torch.Generator().manual_seed(0)
    target, folds = torch.arange(200) % 2, torch.arange(200) // 2 % 5
    decisions = torch.stack([target, torch.where(torch.rand(200, generator=generator) < 0.3, 1 - target, target)])
    accuracy = lambda c: c.diagonal(dim1=-2, dim2=-1).sum(-1) / c.sum((-2, -1))  # noqa: E731
    once = paired(decisions, target, folds, accuracy, 2)
    copies = torch.arange(200).repeat_interleave(10)
    grouped = paired(decisions[:, copies], target[copies], folds[copies], accuracy, 2, groups=copies)
    free = paired(decisions[:, copies], target[copies], folds[copies], accuracy, 2)
    assert torch.equal(grouped.values, once.values)
    assert grouped.error(0, 1) == pytest.approx(once.error(0, 1), rel=0.1)
    assert free.error(0, 1) < 0.7 * once.error(0, 1)
