"""The comparison of probabilities with and without weights: what it measures, that it goes on, and its page."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from steelyard import TrainingSetup

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import undo
from undoing.data import FOLDS, Rows, docstrings, make_rows
from undoing.judging import AS_TRAINING, EQUAL, FIELDS, calibration_error, difference, judge
from undoing.models import Trained, train, weights_of
from undoing.table import Gap, markdown, settings

ROOT = Path(__file__).parents[1]
TINY = ("logistic regression", "cancer", "class weights")
COUNTS = np.array([900, 80, 20])


def drawn(number: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Log-probabilities that are right, with the frequencies of COUNTS on average, and classes drawn from them."""
    rng = np.random.default_rng(seed)
    prior = COUNTS / COUNTS.sum()
    y = rng.choice(3, number, p=prior)
    x = 2 * np.eye(3)[y] + rng.normal(size=(number, 3))
    return torch.log_softmax(torch.tensor(2 * x + np.log(prior)), 1), y


@pytest.fixture
def exact():
    """Rows, and models at their optimum: a plain one and one with inverse weights."""
    (validation, validation_y), (test, test_y) = drawn(3000, 0), drawn(3000, 1)
    y = np.repeat(np.arange(3), COUNTS)
    rows = Rows(y[:, None], y, validation.numpy(), validation_y, test.numpy(), test_y)
    plain = Trained(validation, test, TrainingSetup("softmax", class_counts=COUNTS))
    log_w = torch.tensor(weights_of("class weights", COUNTS)).log()
    setup = TrainingSetup("softmax", class_weights=log_w.exp(), class_counts=COUNTS)
    return rows, plain, Trained(validation + log_w, test + log_w, setup)


def by_variant(found, use):
    return {row["variant"]: row for row in found if row["use"] == use}


def test_at_the_optimum_everything_can_be_taken_out(exact):
    rows, plain, weighted = exact
    found = by_variant(judge(plain, weighted, rows, 0), AS_TRAINING)
    assert found["undone"]["nll"] == pytest.approx(found["plain"]["nll"], abs=1e-12)
    assert found["undone"]["brier"] == pytest.approx(found["plain"]["brier"], abs=1e-12)
    assert found["by power"]["power"] == pytest.approx(1, abs=0.1)
    assert found["by power"]["nll"] == pytest.approx(found["plain"]["nll"], abs=0.003)
    assert found["weighted"]["nll_over_plain"] > 5 * found["weighted"]["error_over_plain"]
    assert found["weighted"]["ece_low"] > found["plain"]["ece"]


def test_inverse_weights_are_a_shift_to_equal_classes(exact):
    rows, plain, weighted = exact
    found = by_variant(judge(plain, weighted, rows, 0), EQUAL)
    assert found["weighted"]["nll"] == pytest.approx(found["plain"]["nll"], abs=1e-12)
    assert found["undone"]["nll"] == pytest.approx(found["plain"]["nll"], abs=1e-12)
    truth = rows.test_y
    p = torch.tensor(rows.test_x - np.log(COUNTS / COUNTS.sum())).log_softmax(1)[torch.arange(len(truth)), truth]
    by_class = [-p[truth == k].mean().item() for k in range(3)]
    assert found["plain"]["nll"] == pytest.approx(np.mean(by_class), abs=1e-9)


def test_weights_that_never_acted_are_not_taken_out_by_power(exact):
    rows, plain, weighted = exact
    never = weighted._replace(validation=plain.validation, test=plain.test)
    found = by_variant(judge(plain, never, rows, 0), AS_TRAINING)
    assert found["by power"]["power"] == pytest.approx(0, abs=0.1)
    assert found["undone"]["nll"] > found["by power"]["nll"] + 0.05


def test_rows_without_a_posterior_lose_their_weights_alone_and_are_counted(exact):
    rows, plain, weighted = exact
    loss = torch.nn.CrossEntropyLoss(weight=weighted.setup.class_weights, label_smoothing=0.3)
    smoothed = weighted._replace(setup=TrainingSetup(loss, class_counts=COUNTS))
    found = by_variant(judge(plain, smoothed, rows, 0), AS_TRAINING)
    least = (weighted.test - weighted.setup.class_weights.log()).softmax(1).amin(1)
    assert found["undone"]["no_posterior"] == pytest.approx((least < 0.1).double().mean().item())
    assert found["undone"]["no_posterior"] > 0.5
    assert np.isfinite(found["undone"]["nll"])


def test_the_calibration_error_is_that_of_torchmetrics_and_lies_in_its_interval():
    log_p, y = drawn(500, 2)
    p = (1.5 * log_p).softmax(1)
    found, low, high = calibration_error(p.numpy(), y, np.full(500, 1 / 500), 0)
    other = multiclass_calibration_error(p, torch.tensor(y), num_classes=3, n_bins=15, norm="l1")
    assert found == pytest.approx(other.item(), abs=1e-6)
    assert low < found < high < found + 0.1


def test_a_difference_has_the_standard_error_of_a_mean():
    rng = np.random.default_rng(0)
    one, other = (np.log(rng.dirichlet([1, 1], 50)) for _ in range(2))
    gaps = other[:, 0] - one[:, 0]
    mean, error = difference(one, other, np.zeros(50, int), np.full(50, 1 / 50))
    assert mean == pytest.approx(gaps.mean())
    assert error == pytest.approx(gaps.std() / 50**0.5)


def test_four_seeds_judge_on_every_row_once():
    parts = [make_rows("cancer", seed, {}) for seed in range(4, 4 + FOLDS)]
    together = np.concatenate([part.test_x for part in parts])
    assert len(np.unique(together, axis=0)) == len(together) == 417
    for part in parts:
        own = {row.tobytes() for x in (part.x, part.validation_x) for row in x}
        assert not own & {row.tobytes() for row in part.test_x}


@pytest.mark.slow
def test_docstrings_come_from_eleven_packages_of_unequal_size():
    texts, labels = docstrings()
    counts = np.bincount(labels)
    assert len(counts) == 11
    assert counts.min() >= 20
    assert counts.max() > 5 * counts.min()
    assert len(texts) == len(labels)


@pytest.mark.parametrize("name", ["scale_pos_weight", "focal", "twice"])
def test_a_treatment_that_a_model_cannot_have_is_refused(name):
    rows = make_rows("cancer", 4, {})
    with pytest.raises(ValueError, match=f"got '{name}'|no scale_pos_weight"):
        train("MLP" if name == "scale_pos_weight" else "logistic regression", name, rows, 4)


def test_a_run_that_was_stopped_goes_on(tmp_path):
    out = tmp_path / "undo.csv"
    undo.fill(out, [TINY], [4], {}, 1)
    first = out.read_text().splitlines()
    assert first[0] == ",".join(FIELDS)
    marked = [line.replace(",as in training,plain,", ",as in training,kept,") for line in first]
    out.write_text("\n".join(marked) + "\n")
    undo.fill(out, [TINY], [4, 5], {}, 1)
    second = out.read_text().splitlines()
    assert second[: len(first)] == marked, "what was done was done again"
    assert len(second) == 2 * len(first) - 1
    assert "'" not in out.read_text(), "a negative number was taken for a formula"
    assert not list(tmp_path.glob(".*"))


def test_a_file_of_other_columns_is_not_added_to(tmp_path):
    out = tmp_path / "other.csv"
    out.write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match="columns of this version"):
        undo.fill(out, [TINY], [4], {}, 1)
    assert out.read_text() == "a,b\n1,2\n"


def test_a_failure_does_not_end_the_others(tmp_path):
    out = tmp_path / "undo.csv"
    with pytest.raises(SystemExit, match="no such model on cancer, seed 4: KeyError"):
        undo.fill(out, [("no such model", "cancer", "class weights"), TINY], [4], {}, 1)
    assert {row["model"] for row in undo.read(out)} == {"logistic regression"}


@pytest.mark.parametrize(("mean", "error", "verdict"), [(-3, 1, -1), (-2, 1, 0), (2, 1, 0), (3, 1, 1), (0, 0, 0)])
def test_two_standard_errors_tell_better_from_worse(mean, error, verdict):
    assert Gap(mean, error).verdict == verdict


def test_the_error_is_that_over_seeds_where_it_is_larger():
    whole = dict.fromkeys(FIELDS, "0") | {"use": AS_TRAINING, "variant": "by power", "error_over_plain": "0.1"}
    (one,) = settings([whole | {"seed": k, "nll_over_plain": str(gap)} for k, gap in enumerate((0, 0, 4, 4))])
    assert one.gap(AS_TRAINING, "by power", "plain") == pytest.approx((2, (16 / 3) ** 0.5 / 2))
    (one,) = settings([whole | {"seed": k, "nll_over_plain": "1"} for k in range(4)])
    assert one.gap(AS_TRAINING, "by power", "plain") == pytest.approx((1, 0.05))


def published() -> list[dict[str, str]]:
    with (ROOT / "docs/results/undo.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_shows_the_published_rows():
    page = (ROOT / "docs/undo.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- undo -->")[2].partition("<!-- /undo -->")[0]
    assert shown.strip() == markdown(published()).strip()


def test_every_setting_that_needs_no_option_is_published():
    assert set(undo.settings({}, {})) <= {one.key for one in settings(published())}
