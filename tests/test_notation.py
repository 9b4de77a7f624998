"""Losses as the command line names them."""

import json
import math

import pytest
import torch

from steelyard import TrainingSetup
from steelyard.deciding.cost_files import load_costs
from steelyard.notation import (
    parse_loss,
    parse_losses,
    parse_objective,
    parse_weights,
    setup_from_text,
)
from steelyard.weights import class_weights, logit_adjustment

COUNTS = torch.tensor([80, 15, 5])


def test_parts_are_read():
    spec = parse_loss("focal:gamma=5:link=logistic:effective_number@0.99:from=3")
    assert (spec.name, spec.options) == ("focal", {"gamma": 5, "link": "logistic"})
    assert (spec.scheme, spec.scheme_options, spec.from_epoch) == ("effective_number", {"beta": 0.99}, 3)
    assert spec.slug == "focal-gamma-5-link-logistic-effective-number-0.99-from-3"


def test_weights_go_where_the_loss_takes_them():
    for text, argument in [
        ("softmax:inverse", "class_weights"),
        ("logistic:inverse", "class_weights"),
        ("lgl-inr:output_weights=inverse", "output_weights"),
    ]:
        spec = parse_loss(text)
        loss, schedule = spec.build(COUNTS, 64, 30)
        assert torch.equal(getattr(loss, argument).float(), class_weights(COUNTS, "inverse"))
        assert schedule is None


def test_an_unknown_loss_is_told_of_presets_too():
    with pytest.raises(
        ValueError, match=r"unknown loss 'ldam-dwr' .did you mean 'ldam-drw'[?].; choose from .*vs"
    ):
        parse_loss("ldam-dwr")


def test_late_weights_come_with_a_schedule():
    _, schedule = parse_loss("softmax:inverse:from=4").build(COUNTS, 64, 30)
    argument, deferred = schedule
    assert (argument, deferred.start_epoch) == ("class_weights", 4)
    assert deferred.class_weights.tolist() == [1, 1, 1]


def test_adjusted_logits():
    spec = parse_loss("lgl-inr:tau=0.5")
    loss, _ = spec.build(COUNTS, 64, 30)
    assert spec.slug == "lgl-inr-tau-0.5"
    assert parse_loss("lgl-inr:beta=-1").slug == "lgl-inr-beta-minus1"
    torch.testing.assert_close(loss.logit_adjustment, 0.5 * (COUNTS / 100).log())
    assert torch.equal(loss.logit_adjustment, spec.adjustment(COUNTS, 64))
    assert parse_loss("lgl-inr").adjustment(COUNTS, 64) is None


def test_logits_adjusted_by_the_presence_of_classes_in_batches():
    loss, _ = parse_loss("lgl-inr:beta=auto:presence=2").build(COUNTS, 8, 30)
    torch.testing.assert_close(loss.logit_adjustment, logit_adjustment(COUNTS, tau=2.0, batch_size=8))
    assert loss.beta == "auto"


def test_beta_as_a_number():
    assert parse_loss("lgl-inr").beta(10) == 1
    assert parse_loss("lgl-inr:beta=auto").beta(10) == pytest.approx(2 * math.log(9))


def test_running_statistics_know_the_number_of_classes():
    loss, _ = parse_loss("lgl-inr:statistics=running").build(COUNTS, 64, 30)
    assert loss.running_mean_confusion.shape == (3, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sofmax", "unknown loss 'sofmax' .did you mean 'softmax'.*; choose from"),
        ("CrossEntropyLoss", "unknown loss 'CrossEntropyLoss' .did you mean 'softmax'"),
        ("lgl-inr:beta", "beta is an option and needs a value: lgl-inr:beta=VALUE"),
        ("softmax:invers", "unknown weight scheme 'invers' .did you mean 'inverse'.*; choose from none, inverse"),
        ("lgl-inr:bta=3", "unknown option 'bta' .did you mean 'beta'.*; choose from beta"),
        ("softmax:inverse@3", "scheme 'inverse' takes no value, got 'inverse@3'"),
        ("softmax:power@x", "loss 'softmax:power@x': 'power@x' must end in a number"),
        ("lgl-inr:beta=inf", "loss 'lgl-inr:beta=inf': beta must be a number or 'auto', got 'inf'"),
        ("softmax:label_smoothing=2", r"label_smoothing must be a finite number in \[0, 1\], got 2"),
        ("softmax:inverse:from=-1", "from must be an epoch, a whole number >= 0, got '-1'"),
        ("softmax:from=3", "from needs a weight scheme that it starts, got loss 'softmax:from=3'"),
        ("softmax:weight=3", "unknown option 'weight'"),
        ("softmax:logit_adjustment=3", "unknown option 'logit_adjustment'.*; choose from .*, from, tau, presence"),
        ("softmax:tau=high", "tau must be a finite number, got 'high' in loss 'softmax:tau=high'"),
        ("lgl-inr:presence=high", "presence must be a finite number, got 'high'"),
        (
            "softmax:presence=1",
            "presence is for losses that balance the classes of a batch, got loss 'softmax:presence=1'",
        ),
        ("lgl-inr:presence=1:tau=1", "tau and presence adjust the same logits, got both"),
        ("lgl-inr:beta=high", "loss 'lgl-inr:beta=high': beta must be a number or 'auto', got 'high'"),
        ("lgl-inr:beta=1+1", "beta must be a number or 'auto', got '1.1'"),
        ("lgl-inr:beta=[1]", "beta must be a number or 'auto', got '.1.'"),
        ("lgl-inr:beta=1_0", "beta must be a number or 'auto', got '1_0'"),
        ("lgl-inr:beta=\u0663", "beta must be a number or 'auto'"),
        ("softmax:tau=-1j", "tau must be a finite number, got '-1j'"),
        ("softmax:power@inf", "'power@inf' must end in a number"),
        ("lgl-inr:beta=" + "+".join("1" * 100_000), "a loss must be told in at most 200 characters, got 200012"),
        ("softmax:tau=" + "-" * 100_000 + "1", "at most 200 characters"),
        ("softmax:inverse:from=" + "9" * 5_000, "at most 200 characters"),
        ("softmax:power@" + "(" * 150, "must end in a number"),
        ("softmax:tau=1e999", "tau must be a finite number, got '1e999'"),
        ("softmax:reduction=none", "reduction must be mean or sum, one number to train on, got 'none'"),
        ("lgl-inr:reduction=none:beta=5", "reduction must be mean or sum, one number to train on, got 'none'"),
        (
            "sigmoid-focal:inverse:reduction=none",
            "reduction must be mean or sum, one number to train on, got 'none'",
        ),
    ],
)
def test_bad_loss_gets_one_sentence(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_loss(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "w.json is not JSON: it is nested too deeply"),
        ('{"a": ' * 100_000, "w.json is not JSON: it is nested too deeply"),
        ("[" + "9" * 5_000 + ", 1, 1]", "w.json is not JSON: Exceeds the limit"),
        ('{"0": 1, "1": 2, "2": 3, "1": 9}', "w.json must have each key once, got '1' twice"),
        ("[1, 1" + "0" * 400 + ", 1]", "weights must be positive numbers"),
        ("[1, NaN, 1]", "weights must be positive numbers"),
        ('{"0": 1, "1": 1, "3": 1}', "for (class )?'2'"),
        (json.dumps(dict.fromkeys(map(str, range(20_000)), 1)), "an unknown class"),
        ("[1, ", "w.json is not JSON"),
    ],
)
def test_weights_in_a_file_that_is_none_are_refused(tmp_path, text, message):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        parse_weights(str(tmp_path / "w.json"), COUNTS)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", ["1,,2", "1,2,e", "1,2,1_0", "1,2,nan", "1+1,2,3", "1e,2,3", ",".join("-" * 50_000)]
)
def test_weights_that_are_no_numbers_name_the_option(text):
    with pytest.raises(ValueError, match=r"^counts[: ]"):
        parse_weights(text, COUNTS, option="counts")


def test_lists():
    assert [s.label for s in parse_losses("softmax, logistic")] == ["softmax", "logistic"]
    for text, message in [("", "at least one loss"), ("softmax,softmax", "must differ, got 'softmax' twice")]:
        with pytest.raises(ValueError, match=message):
            parse_losses(text)


def test_a_setup_from_text_holds_what_the_loss_holds():
    counts = torch.tensor([90, 9, 1])
    setup = setup_from_text("softmax:inverse:tau=1", counts)
    spec = parse_loss("softmax:inverse:tau=1")
    torch.testing.assert_close(setup.class_weights, spec.weights(counts).double())
    torch.testing.assert_close(setup.logit_adjustment, spec.adjustment(counts, 1).double())
    assert setup.class_counts.tolist() == [90, 9, 1]
    inner = setup_from_text("lgl-inr:beta=3:detach_weights=true", counts, batch_size=10)
    assert inner.in_negative.beta == 3
    assert inner.presence[2] == pytest.approx(0.1)
    balanced = TrainingSetup("balanced-softmax", class_counts=counts)
    torch.testing.assert_close(balanced.logit_adjustment.exp(), counts.double() / 100)


@pytest.mark.parametrize(
    "text", ["softmax:inverse:power@0.5", "focal:gamma=1:gamma=2", "softmax:inverse:from=1:from=2"]
)
def test_what_is_stated_twice_is_refused(text):
    with pytest.raises(ValueError, match="once, got it 2 times"):
        parse_loss(text)


@pytest.mark.parametrize(
    "text",
    [
        "0,1\n5,0\n",
        "true,ham,spam\nham,0,1\nspam,5,0\n",
        "true,spam,ham\nspam,0,5\nham,1,0\n",
        "class,cost\nspam,5\nham,1\n",
    ],
)
def test_costs_come_in_three_forms(tmp_path, text):
    path = tmp_path / "costs.csv"
    path.write_text(text)
    assert load_costs(path, ["ham", "spam"]).tolist() == [[0, 1], [5, 0]]
    assert parse_objective(f"cost:{path}", ["ham", "spam"]).costs.tolist() == [[0, 1], [5, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,2\n1,0,2\n", "must be 2 rows of 2 numbers, .*got 2 rows of 3 cells"),
        ("0,1\n1\n", "got 2 rows of uneven length"),
        ("", "got 0 rows"),
        ("0,x\n1,0\n", "must hold numbers, got 'x'"),
        ("true,ham,spam\nham,0,1\nham,5,0\n", "must name each class once, got 'ham' more than once"),
        ("true,ham,eggs\nham,0,1\nspam,5,0\n", "has no entry for class 'spam'"),
        ("9,1\n1,9\n", "give costs, not gains"),
    ],
)
def test_bad_costs(tmp_path, text, message):
    path = tmp_path / "costs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_costs(path, ["ham", "spam"])


def test_a_head_starts_at_the_constant_solution_of_a_preset_with_an_adjustment():
    counts = torch.tensor([1000, 100, 10])
    softmax = parse_loss("softmax").first_bias(counts, 64)
    torch.testing.assert_close(parse_loss("eql:gamma=0").first_bias(counts, 64).log_softmax(0), softmax)
    assert parse_loss("softmax:tau=1").first_bias(counts, 64) is None  # it is 0
    for text in ("balanced-softmax", "vs"):
        start = parse_loss(text).first_bias(counts, 64)
        torch.testing.assert_close(start, torch.zeros(3), rtol=0, atol=1e-6)
