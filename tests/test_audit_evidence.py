"""The evidence of the audit: what is planted is what the plan says, and rows are counted as they should be."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import balance_watch
from evidence import data as evidence_data
from evidence.cases import Case, cases
from evidence.judging import implied_inside, judge, outcome, power_of, run, stated_effect, true_power
from evidence.table import markdown, wilson
from evidence.trainings import GRID, Job, jobs, load, plan_weights, train

COUNTS = np.array([40, 400, 100])


def linear(tmp_path, kind):
    """A logistic regression at its optimum, trained and read back."""
    return load(train(Job("logistic C=100", "six classes", kind, 7), tmp_path))


@pytest.mark.parametrize("name", [evidence_data.DIGITS, evidence_data.OVERLAPS, evidence_data.BINARY])
def test_data_has_rows_to_train_on_and_rows_held_out_of_every_class(name):
    made = evidence_data.make_data(name, 7)
    classes = len(np.unique(made.y))
    assert len(made.x) == len(made.y) > len(made.held_y) / 3, (
        f"{name} has {len(made.x)} rows, {len(made.y)} labels"
    )
    assert len(np.unique(made.held_y)) == classes > 1, f"{name} lacks a class in the rows held out"


def test_a_training_of_the_watch_is_read_after_its_epoch():
    ((reading,),) = balance_watch.train("mlp", "weighted", 7, 1, [True])
    assert (reading.epoch, reading.finding) == (1, None)


def test_stated_weights_are_inverse_to_the_counts_with_mean_one_over_samples():
    stated, loss, sampler = plan_weights("inverse", COUNTS, binary=False)
    assert stated @ COUNTS == pytest.approx(540)
    np.testing.assert_allclose(stated * COUNTS, 180)
    np.testing.assert_allclose(loss, stated)
    assert sampler is None


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("plain", [1, 1, 1]),
        ("sqrt", [10**0.5, 1, 2]),
        ("reversed", [1, 10, 2.5]),
        ("rolled", [4, 10, 1]),
        ("forgotten", [1, 1, 4]),
        ("twice", [10, 1, 4]),
        ("one epoch", [10, 1, 4]),
    ],
)
def test_each_kind_trains_with_the_weights_that_its_name_says(kind, loss):
    found = plan_weights(kind, COUNTS, binary=False)[1]
    np.testing.assert_allclose(found / found[1], np.array(loss) / loss[1], err_msg=f"weights of {kind}")


def test_two_classes_weigh_the_positives_only():
    stated, loss, _ = plan_weights("ten", np.array([500, 1]), binary=True)
    assert (stated.tolist(), loss.tolist()) == ([1, 100], [1, 10])
    stated, loss, _ = plan_weights("wrong class", np.array([500, 20]), binary=True)
    assert (stated[1], loss[1]) == (25, 1 / 25)


def test_every_training_has_a_name_of_its_own_and_there_are_400():
    made = jobs(list(range(100, 104)), [])
    assert len({job.name for job in made}) == len(made) >= 400
    assert {kind for _, _, kinds in GRID for kind in kinds} >= {"one epoch", "forgotten", "wrong class", "ten"}


def test_a_training_is_not_done_twice(tmp_path):
    path = train(Job("logistic C=100", "six classes", "plain", 7), tmp_path)
    path.write_bytes(b"not looked at")
    assert train(Job("logistic C=100", "six classes", "plain", 7), tmp_path).read_bytes() == b"not looked at"


def test_a_plain_training_is_healthy_unless_something_else_is_said_of_it(tmp_path):
    training = linear(tmp_path, "plain")
    found = {case.plant: case for case in cases(training)}
    assert found["healthy: no weights"].setup.class_weights is None
    assert found["weights never applied"].expected == "weights_not_applied"
    np.testing.assert_allclose(found["weights never applied"].setup.class_weights, training["weights"])
    rolled = found["columns rolled"].logits
    np.testing.assert_array_equal(rolled[:, 1], training["logits"][:, 0])
    held = found["held-out rows"]
    assert len(held.target) != len(training["target"])
    np.testing.assert_array_equal(held.setup.class_counts, np.bincount(training["target"]))


@pytest.mark.parametrize(
    ("kind", "plant", "power"),
    [("inverse", "healthy: weighted", 1), ("plain", "weights never applied", 0), ("sqrt", "half the strength", 0.5),
     ("twice", "applied twice", 2), ("twice", "stated twice", 1), ("reversed", "weights reversed", -1),
     ("forgotten", "rarest class forgotten", None), ("inverse", "columns rolled", None)],
)  # fmt: skip
def test_the_true_power_is_that_of_what_acted(tmp_path, kind, plant, power):
    training = linear(tmp_path, kind)
    case = next(case for case in cases(training) if case.plant == plant)
    assert true_power(training, case) == (None if power is None else pytest.approx(power)), plant


def test_the_optimum_holds_what_acted_within_its_intervals(tmp_path):
    training = linear(tmp_path, "sqrt")
    case = next(case for case in cases(training) if case.plant == "half the strength")
    report = run(case)
    value, low, high = power_of(report)
    assert low < 0.5 < high
    assert value == pytest.approx(0.5, abs=0.02)
    assert implied_inside(report, training["applied"]) == (6, 6)
    assert implied_inside(report, training["weights"] ** 3)[0] < 3
    np.testing.assert_allclose(stated_effect(case), training["weights"])


@pytest.mark.parametrize(
    ("expected", "faults", "warned", "found"),
    [
        ("", [], ["weights_unstated"], "clean"),
        ("", ["undertrained"], [], "false fault"),
        ("undertrained", ["undertrained"], [], "exact"),
        ("undertrained", ["undertrained", "wrong_loss"], [], "second fault"),
        ("undertrained", ["wrong_loss"], [], "other"),
        ("undertrained", [], [], "missed"),
        ("weights_unstated", [], ["weights_unstated"], "exact"),
        ("weights_unstated", ["wrong_loss"], ["weights_unstated"], "second fault"),
        ("weights_unstated", [], [], "missed"),
    ],
)
def test_an_outcome_compares_what_was_found_to_what_was_planted(expected, faults, warned, found):
    assert outcome(expected, faults, warned) == found


def test_a_row_says_what_was_found_in_a_healthy_model(tmp_path):
    path = train(Job("logistic C=100", "separable", "inverse", 7), tmp_path)
    (row,) = judge(path)
    assert (row["plant"], row["expected"], row["classes"]) == ("healthy: weighted", "", 5)
    assert row["outcome"] == ("false fault" if row["faults"] else "clean")


def test_wilson_intervals():
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-4)
    assert wilson(95, 100) == pytest.approx((0.88825, 0.97846), abs=1e-4)


def rows(*outcomes):
    whole = dict.fromkeys(("low", "high", "true_power"), "") | {
        "training": "t", "family": "linear", "plant": "applied twice", "expected": "weights_applied_twice",
        "faults": "", "called_applied": "0", "implied_inside": "0", "implied_of": "0",
    }  # fmt: skip
    return [whole | {"outcome": outcome} for outcome in outcomes]


def test_tables_count_plants_and_bounds():
    text = markdown(rows(*["exact"] * 19, "missed"))
    assert "| applied twice | `weights_applied_twice` | 19 of 20 (76-99%) | - | - | - | nothing 1 |" in text
    assert "| planted, linear: named exactly in 95% | 19 of 20 (76-99%) | yes |" in text
    assert "short: applied twice" in markdown(rows(*["exact"] * 18, "missed", "other"))


def test_tables_count_what_intervals_cover():
    inside, outside = rows("exact", "exact")
    inside |= {"low": "1.9", "high": "2.1", "true_power": "2", "implied_inside": "5", "implied_of": "6"}
    outside |= {"low": "1.9", "high": "1.95", "true_power": "2"}
    assert "| of another training | linear | 1 of 2 (9-91%) | 5 of 6 (44-97%) |" in markdown([inside, outside])


def test_a_case_is_what_audit_takes(tmp_path):
    assert all(isinstance(case, Case) and run(case).findings for case in cases(linear(tmp_path, "rolled")))


def test_the_page_shows_the_published_rows():
    root = Path(__file__).parents[1]
    with (root / "docs/results/audit-evidence.csv").open(newline="") as file:
        published = list(csv.DictReader(file))
    page = (root / "docs/audit.md").read_text()
    shown = page.partition("<!-- evidence -->")[2].partition("<!-- /evidence -->")[0]
    for line in markdown(published).splitlines():
        assert line in shown, f"docs/audit.md lacks: {line}"
