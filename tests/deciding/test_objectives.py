"""The numbers of a confusion table, against scikit-learn, and their texts."""

import pytest
import torch
from sklearn import metrics

from steelyard.deciding import cost_objective, create_objective
from steelyard.deciding.search import confusion_of


def _decisions(classes=4, rows=300):
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(classes, (rows,), generator=generator)
    right = torch.rand(rows, generator=generator) < 0.6
    return target, torch.where(right, target, torch.randint(classes, (rows,), generator=generator))


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("accuracy", metrics.accuracy_score),
        ("balanced-accuracy", metrics.balanced_accuracy_score),
        ("macro-f1", lambda y, d: metrics.f1_score(y, d, average="macro")),
    ],
)
def test_values_are_scikit_learns(name, peer):
    target, decided = _decisions()
    goal = create_objective(name, list("abcd"))
    assert float(goal.value(confusion_of(target, decided, 4))) == pytest.approx(peer(target, decided), abs=1e-12)


def test_f1_and_precision_are_of_one_class():
    target, decided = _decisions(2)
    table = confusion_of(target, decided, 2)
    assert float(create_objective("f1", ["a", "b"]).value(table)) == pytest.approx(
        metrics.f1_score(target.numpy(), decided.numpy())
    )
    goal = create_objective("min-recall:a=0.1", ["a", "b"])
    wanted = metrics.precision_score(target.numpy(), decided.numpy(), pos_label=0)
    assert float(goal.value(table)) == pytest.approx(wanted)
    assert float(goal.score(table)) == pytest.approx(wanted)
    short = create_objective("min-recall:a=1", ["a", "b"])
    assert float(short.score(table)) < 0 < float(short.value(table))


def test_cost_is_what_the_rows_cost():
    target, decided = _decisions()
    costs = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    goal = cost_objective(costs)
    value = float(goal.value(confusion_of(target, decided, 4)))
    assert value == pytest.approx(-float(costs[target, decided].mean()))
    assert goal.limits == (-float(costs.max()), -float(costs.min()))


@pytest.mark.parametrize("name", ["accuracy", "balanced-accuracy", "macro-f1"])
def test_tables_come_in_any_number(name):
    tables = torch.stack([confusion_of(*_decisions(), 4), torch.eye(4, dtype=torch.float64)])
    goal = create_objective(name, list("abcd"))
    assert goal.value(tables).tolist() == pytest.approx([float(goal.value(one)) for one in tables])
    assert float(goal.value(tables)[1]) == 1


@pytest.mark.parametrize("name", ["balanced-accuracy", "macro-f1"])
def test_classes_without_rows_do_not_count(name):
    table = torch.tensor([[8.0, 2.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    goal = create_objective(name, list("abc"))
    assert float(goal.value(table)) == pytest.approx(
        float(create_objective(name, ["a", "b"]).value(table[:2, :2]))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "accuracy2",
            r"unknown objective 'accuracy2' \(did you mean 'accuracy'\?\); choose from accuracy, balanced",
        ),
        ("min-recall:froud=0.9", r"unknown class 'froud' \(did you mean 'fraud'\?\); there are honest, fraud"),
        (
            "min-recall:fraud=1.2",
            r"must be min-recall:CLASS=RECALL with 0 < RECALL <= 1, got 'min-recall:fraud=1.2'",
        ),
        ("min-recall:fraud=nan", "0 < RECALL <= 1"),
        ("min-recall:fraud", "0 < RECALL <= 1"),
        (3, "objective must be a text or an Objective, got int"),
    ],
)
def test_bad_texts(text, message):
    with pytest.raises((TypeError, ValueError), match=message):
        create_objective(text, ["honest", "fraud"])


def test_f1_of_more_classes_is_refused():
    with pytest.raises(ValueError, match="objective 'f1' is for two classes, got 3: macro-f1 is for more"):
        create_objective("f1", list("abc"))
