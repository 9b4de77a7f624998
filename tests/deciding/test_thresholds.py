"""Thresholds are judged on rows that they were not found on, and say so where they do not hold."""

import json
import warnings

import pytest
import torch

from steelyard import thresholds
from steelyard.deciding import cost_objective, create_objective
from steelyard.deciding.search import best_offsets, confusion_of
from tests.helpers import assert_at_least


def _rows(number=600, share=(0.8, 0.15, 0.05), spread=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor(share)
    target = torch.multinomial(share, number, replacement=True, generator=generator)
    target[: 2 * len(share)] = torch.arange(len(share)).repeat(2)
    x = spread * torch.eye(len(share))[target] + torch.randn(number, len(share), generator=generator)
    return torch.log_softmax(spread * x + share.log(), 1), target


def _value(name, target, decided, classes):
    return float(
        create_objective(name, [str(k) for k in range(classes)]).value(confusion_of(target, decided, classes))
    )


@pytest.mark.parametrize("name", ["accuracy", "balanced-accuracy", "macro-f1"])
def test_offsets_are_those_of_all_rows_and_plain_is_the_argmax(name):
    rows, target = _rows()
    found = thresholds(rows, target, objective=name)
    goal = create_objective(name, ["0", "1", "2"])
    torch.testing.assert_close(found.offsets, best_offsets(rows.double(), target, goal), rtol=0, atol=1e-6)
    assert torch.equal(found.decide(rows), (rows.double() + found.offsets).argmax(1))
    assert float(found.offsets.sum()) == pytest.approx(0, abs=1e-12)
    assert found.plain == pytest.approx(_value(name, target, rows.argmax(1), 3))
    assert found.gain == pytest.approx(found.value - found.plain)
    assert found.interval[0] < found.value < found.interval[1]
    assert found.gain_interval[0] < found.gain < found.gain_interval[1]
    assert found.threshold is None


def test_a_gain_is_found_where_there_is_one_and_only_there():
    rows, target = _rows(2000)
    assert thresholds(rows, target).gain_interval[0] > 0.05
    low, high = thresholds(rows, target, objective="accuracy").gain_interval
    assert low < 0 < high


def test_noise_gains_nothing():
    """Offsets fit any rows better: judged on these, random rows would gain."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.log_softmax(torch.randn(150, 8, generator=generator), 1)
    target = torch.arange(150) % 8
    found = thresholds(rows, target)
    assert found.gain_interval[0] < 0 < found.gain_interval[1]
    assert _value("balanced-accuracy", target, found.decide(rows), 8) > found.value + 0.03


def test_one_output_is_two_classes():
    rows, target = _rows(500, (0.9, 0.1))
    one, two = (
        thresholds(rows[:, 1] - rows[:, 0], target, objective="f1"),
        thresholds(rows, target, objective="f1"),
    )
    torch.testing.assert_close(one.offsets, two.offsets, rtol=0, atol=1e-5)
    assert one.value == two.value
    logit = (rows[:, 1] - rows[:, 0]).double()
    threshold = float(one.threshold)
    assert torch.equal(one.decide(logit), (torch.sigmoid(logit) > threshold).long())
    assert float((torch.sigmoid(logit) - threshold).abs().min()) > 0


def test_each_output_of_multi_hot_has_its_own_threshold():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, 3, generator=generator) * 2 - torch.tensor([0.0, 1.0, 2.0])
    target = (torch.rand(400, 3, generator=generator) < torch.sigmoid(z)).long()
    target[5, 1] = -100
    rows = torch.nn.functional.logsigmoid(z)
    found = thresholds(rows, target, objective="macro-f1", targets="multi-hot")
    assert found.threshold.shape == (3,)
    decided = found.decide(rows)
    assert torch.equal(decided, (torch.sigmoid(z.double()) > found.threshold).long())
    kept = torch.arange(400) != 5
    alone = thresholds(z[kept, 1], target[kept, 1], objective="f1")
    assert float(found.threshold[1]) == pytest.approx(float(alone.threshold), abs=1e-5)
    f1 = [
        _value("f1", target[:, j][target[:, j] >= 0], (z[:, j] > 0).long()[target[:, j] >= 0], 2) for j in range(3)
    ]
    assert found.plain == pytest.approx(sum(f1) / 3)
    assert found.objective == "macro-f1"
    json.dumps(found.to_dict(), allow_nan=False)


def test_costs_are_the_objective():
    rows, target = _rows()
    costs = torch.tensor([[0.0, 1, 1], [5, 0, 5], [50, 50, 0]])
    found = thresholds(rows, target, costs=costs)
    assert found.plain == pytest.approx(-float(costs[target, rows.argmax(1)].mean()))
    assert found.gain_interval[0] > 0
    again = thresholds(rows, target, objective=cost_objective(costs.double()))
    assert torch.equal(found.offsets, again.offsets)
    in_cents = thresholds(rows, target, costs=100 * costs)
    torch.testing.assert_close(in_cents.offsets, found.offsets)
    assert in_cents.value == pytest.approx(100 * found.value)


def test_ignored_rows_count_for_nothing():
    rows, target = _rows(300, (0.8, 0.2))
    more = torch.cat([rows, rows[:50]])
    ignored = torch.cat([target, torch.full((50,), -100)])
    found = thresholds(more, ignored)
    assert found.rows == len(rows)
    assert torch.equal(found.offsets, thresholds(rows, target).offsets)


def test_wanted_recall_is_reached_on_rows_of_other_folds():
    rows, target = _rows(1500, (0.9, 0.1))
    found = thresholds(rows, target, objective="min-recall:1=0.9")
    assert found.doubts == ()
    assert_at_least(torch.tensor([found.recall]), 0.9)
    assert found.recall_interval[0] < found.recall < found.recall_interval[1]
    decided = found.decide(rows)
    assert float((decided[target == 1] == 1).double().mean()) >= 0.9
    assert found.value < found.plain, "recall has its price in precision"


def test_only_the_class_of_a_wanted_recall_moves():
    rows, target = _rows()
    offsets = thresholds(rows, target, objective="min-recall:2=0.8").offsets
    assert float(offsets[0]) == float(offsets[1])
    assert float(offsets[2]) > float(offsets[0])


def test_a_recall_that_is_missed_on_other_folds_is_said():
    """The two rows of class 1 lie far apart: each fold's search has only the likely one, or the other."""
    logit = torch.cat([torch.linspace(-3, -1, 60), torch.tensor([-6.0, 4.0])])
    target = torch.cat([torch.zeros(60, dtype=torch.long), torch.ones(2, dtype=torch.long)])
    with pytest.warns(
        UserWarning, match=r"was not met on rows of other folds: class 1 reached a recall of 0.500 \(0.0"
    ):
        found = thresholds(logit, target, objective="min-recall:1=0.9")
    assert found.recall == 0.5
    assert len(found.doubts) == 1


def test_a_recall_that_no_threshold_gives_is_refused():
    rows, target = _rows(200, (0.7, 0.3))
    impossible = rows.clone()
    first = (target == 1).nonzero()[:10, 0]
    impossible[first] = torch.tensor([0.0, -torch.inf])
    with pytest.raises(
        ValueError, match=r"cannot be met: no threshold gives class 1 a recall above 0\.\d+, as 10 of its \d+ rows"
    ):
        thresholds(impossible, target, objective="min-recall:1=0.95")


def test_rows_of_another_kind_are_refused():
    rows, target = _rows()
    found = thresholds(rows, target)
    with pytest.raises(
        ValueError, match=r"must have shape \(N, 3\), as the rows that the thresholds were found on, got \(5,\)"
    ):
        found.decide(torch.zeros(5))
    with pytest.raises(ValueError, match="must hold no NaN, got one in row 0"):
        found.decide(torch.full((2, 3), torch.nan))
    assert found.decide(rows[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(600, dtype=torch.long)}, "target must have at least two rows of each class, got 0 of class 1"),
        ({"target": torch.full((600,), 3)}, "target must hold labels from 0 to 2"),
        ({"target": torch.zeros(5, dtype=torch.long)}, r"target must have shape \(600,\)"),
        ({"folds": 1}, "folds must be an int >= 2, got 1"),
        ({"folds": 601}, "at least as many rows as folds, 601, got 600"),
        ({"objective": "macro-f2"}, r"unknown objective 'macro-f2' \(did you mean 'macro-f1'\?\)"),
        ({"objective": "min-recall:3=0.5"}, "unknown class '3'"),
        ({"objective": "accuracy", "costs": [1, 1, 1]}, "objective and costs must not both be given"),
        ({"objective": cost_objective(torch.zeros(2, 2))}, "has costs of 2 classes, log_posterior has 3"),
        ({"log_posterior": torch.zeros(0, 3), "target": torch.zeros(0, dtype=torch.long)}, "at least as many rows as folds, 5, got 0"),
        ({"log_posterior": torch.randn(600, 3)}, "must hold log-probabilities, whose rows sum to 1"),
    ],
)  # fmt: skip
def test_bad_input(change, message):
    rows, target = _rows()
    with pytest.raises((TypeError, ValueError), match=message):
        thresholds(**({"log_posterior": rows, "target": target} | change))


def test_a_recall_of_an_output_of_multi_hot_is_refused():
    rows = torch.nn.functional.logsigmoid(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=r"is of one output: give its logits alone, of shape \(N,\)"):
        thresholds(rows, (rows > -0.7).long(), objective="min-recall:1=0.9", targets="multi-hot")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["balanced-accuracy", "macro-f1", "min-recall:1=0.8"])
@pytest.mark.parametrize(("share", "rows", "draws"), [((0.9, 0.1), 200, 100), ((0.7, 0.2, 0.1), 300, 40)])
def test_intervals_hold_what_fresh_rows_give(name, share, rows, draws):
    """In at least 90% of the draws the value and the gain of the offsets on 40,000 fresh rows lie inside."""
    goal = create_objective(name, [str(k) for k in range(len(share))])
    fresh, labels = _rows(40_000, share, seed=10**6)
    plain = float(goal.value(confusion_of(labels, fresh.argmax(1), len(share))))
    inside = torch.zeros(3)
    for seed in range(draws):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a recall that is not met is said, and its interval holds
            found = thresholds(*_rows(rows, share, seed=seed), objective=name, seed=seed)
        table = confusion_of(labels, found.decide(fresh), len(share))
        value = float(goal.value(table))
        recall = float(table[1, 1] / table[1].sum())
        inside[0] += found.interval[0] <= value <= found.interval[1]
        inside[1] += found.gain_interval[0] <= value - plain <= found.gain_interval[1]
        held = found.recall_interval
        inside[2] += held is None or held[0] <= recall <= held[1]
    assert_at_least(inside / draws, 0.9)
