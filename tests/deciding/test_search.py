"""The line search is exact, the search of two choices finds the best there is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.deciding import cost_objective, create_objective
from steelyard.deciding.search import _Search, _Tops, best_offsets, confusion_of

GOALS = ("accuracy", "balanced-accuracy", "macro-f1", "min-recall:1=0.7", "cost")


def _goal(name, classes):
    if name == "cost":
        costs = torch.rand(classes, classes, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        return cost_objective(costs.fill_diagonal_(0))
    return create_objective(name, [str(k) for k in range(classes)])


def _sample(seed, rows, classes, grid=None):
    """Few rows, of which some tie and some have a probability of 0."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (rows,), generator=generator)
    target[:classes] = torch.arange(classes)
    z = torch.randn(rows, classes, generator=generator, dtype=torch.float64) + torch.eye(classes)[target]
    if grid:
        z = (z * grid).round() / grid
    zero = (torch.rand(rows, classes, generator=generator) < 0.1) & (torch.arange(classes) != target[:, None])
    return torch.log_softmax(z.masked_fill(zero, -torch.inf), 1), target


def _between(margins):
    """Return where to cut; margins that differ by a rounding error alone are one."""
    apart = margins[1:] - margins[:-1] > 1e-9
    return torch.cat([margins[:1] - 1, ((margins[1:] + margins[:-1]) / 2)[apart], margins[-1:] + 1])


def _score(goal, values, target, offsets):
    return float(goal.score(confusion_of(target, (values + offsets).argmax(1), values.shape[1])))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from(GOALS), st.sampled_from([None, 2]))
def test_line_search_is_brute_force(seed, classes, name, grid):
    values, target = _sample(seed, 25, classes, grid)
    goal, k = _goal(name, classes), 1
    offsets = torch.randn(classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    search = _Search(values, target, goal, torch.bincount(target, minlength=classes).double())
    found = search.line(_Tops(values, offsets), k, stay=False)

    def with_offset(t):
        moved = offsets.clone()
        moved[k] = t
        return _score(goal, values, target, moved)

    others = (values + offsets).clone()
    others[:, k] = -torch.inf
    margins = (others.amax(1) - values[:, k]).sort().values
    margins = margins[margins.isfinite()]
    cuts = _between(margins)
    best = max(with_offset(float(t)) for t in cuts)
    assert found.score == pytest.approx(best, abs=1e-9)
    assert with_offset(found.offset) == pytest.approx(best, abs=1e-9), (
        "the offset does not give the score that it claims"
    )
    assert float((margins - found.offset).abs().min()) > 1e-12, "the offset lies on a row"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([*GOALS, "f1"]))
def test_of_two_choices_nothing_is_better(seed, name):
    values, target = _sample(seed, 30, 2, grid=3)
    goal = _goal(name, 2)
    offsets = best_offsets(values, target, goal)
    assert float(offsets.sum()) == pytest.approx(0, abs=1e-12)
    ratio = (values[:, 0] - values[:, 1]).clamp(-50, 50).sort().values
    cuts = _between(ratio)
    best = max(_score(goal, values, target, torch.tensor([0.0, float(t)], dtype=torch.float64)) for t in cuts)
    assert _score(goal, values, target, offsets) >= best - 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 6))
def test_two_largest_follow_every_move(seed, classes):
    values, _ = _sample(seed, 40, classes, grid=1)
    generator = torch.Generator().manual_seed(seed)
    tops = _Tops(values, torch.zeros(classes, dtype=torch.float64))
    for _ in range(6):
        tops.move(
            int(torch.randint(classes, (1,), generator=generator)),
            float(torch.randint(-2, 3, (1,), generator=generator)),
        )
        expected = _Tops(values, tops.offsets)
        assert torch.equal(tops.first, expected.first)
        assert torch.equal(tops.second, expected.second)
        assert torch.equal(tops.first_of, expected.first_of)
        finite = expected.second > -torch.inf
        assert torch.equal(tops.second_of[finite], expected.second_of[finite])


@pytest.mark.parametrize("name", ["balanced-accuracy", "macro-f1", "cost"])
def test_more_classes_reach_what_no_single_offset_betters(name):
    values, target = _sample(5, 400, 4)
    goal = _goal(name, 4)
    offsets = best_offsets(values, target, goal)
    reached = _score(goal, values, target, offsets)
    assert reached > _score(goal, values, target, torch.zeros(4)) + 0.005
    search = _Search(values, target, goal, torch.bincount(target, minlength=4).double())
    for k in range(4):
        assert search.line(_Tops(values, offsets), k).score <= reached + 0.002
    assert torch.equal(offsets, best_offsets(values, target, goal)), "the same seed gives other offsets"


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["balanced-accuracy", "macro-f1"]))
def test_a_shift_of_all_logits_changes_no_decision(seed, name):
    values, target = _sample(seed, 60, 3)
    goal = _goal(name, 3)
    moved = values + torch.randn(60, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    first, second = best_offsets(values, target, goal), best_offsets(moved, target, goal)
    assert _score(goal, values, target, first) == pytest.approx(_score(goal, moved, target, second), abs=1e-9)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)
