"""Audits as assertions, and findings that are set aside."""

import pytest
import torch
from torch import nn

from steelyard import assert_balanced, audit_model
from steelyard.auditing.catalogue import KINDS, names_of

SAMPLES = torch.tensor([[800, 40], [100, 160]])
X = torch.repeat_interleave(torch.tensor([0, 0, 1, 1]), SAMPLES.flatten())
Y = torch.repeat_interleave(torch.tensor([0, 1, 0, 1]), SAMPLES.flatten())
WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 20.0]))


def _model(ratio=1.0):
    """The model of two cells at the optimum of softmax, class 1 weighing so many times class 0."""
    return nn.Embedding.from_pretrained((SAMPLES * torch.tensor([1.0, ratio])).double().log())


def test_a_fault_fails_with_headline_codes_and_first_sentences():
    with pytest.raises(AssertionError) as failed:
        assert_balanced(_model(), [(X, Y)], WEIGHTED)
    headline, *told = str(failed.value).splitlines()
    assert headline == audit_model(_model(), [(X, Y)], WEIGHTED).headline
    assert told == ["SY011 weights not applied: The weights never acted: check that they reach the loss."]


def test_what_holds_or_is_ignored_returns_the_report():
    report = assert_balanced(_model(20.0), [(X, Y)], WEIGHTED, fail_on="warning")
    assert report.findings[0].name == "weights_acted"
    for ignored in ("SY011", "sy011", "weights_not_applied"):
        report = assert_balanced(_model(), [(X, Y)], WEIGHTED, ignore=[ignored])
        assert (report.faults, [f.name for f in report.ignored]) == ((), ["weights_not_applied"])
    assert assert_balanced(_model(), [(X, Y)], WEIGHTED, fail_on="never").faults == ("weights_not_applied",)


def test_warnings_fail_where_they_are_asked_to():
    # 50 on class 1, and nobody says so: a warning
    assert assert_balanced(_model(50.0), [(X, Y)], nn.CrossEntropyLoss()).findings[0].name == "weights_unstated"
    with pytest.raises(AssertionError, match="SY014 weights unstated"):
        assert_balanced(_model(50.0), [(X, Y)], nn.CrossEntropyLoss(), fail_on="warning")
    assert_balanced(_model(50.0), [(X, Y)], nn.CrossEntropyLoss(), fail_on="warning", ignore=["SY014"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"ignore": ["SY999"]},
            ValueError,
            "ignore has no finding 'SY999' .*; choose from SY001 wrong_class_order, ",
        ),
        ({"ignore": [11]}, TypeError, "ignore must be codes or names of findings, got int"),
        ({"fail_on": "note"}, ValueError, "fail_on must be one of 'fault', 'warning', 'never', got 'note'"),
    ],
)
def test_what_is_unknown_is_refused_before_the_model_runs(options, error, message):
    class Untouched(nn.Module):
        def forward(self, x):
            raise AssertionError("the model ran")

    with pytest.raises(error, match=message):
        assert_balanced(Untouched(), [(X, Y)], WEIGHTED, **options)


def test_every_code_is_the_code_of_one_name():
    assert names_of([kind.code for kind in KINDS.values()]) == tuple(KINDS)


def test_ignored_findings_count_for_nothing_and_are_told():
    report = audit_model(_model(), [(X, Y)], WEIGHTED)
    without = report.without("SY011")
    assert without.headline == "No fault or warning is left; ignored: SY011 weights not applied."
    assert "SY011" not in [verdict.code for verdict in without.verdicts]
    assert without.failing("warning") == ()
    assert str(without).splitlines()[-1] == "ignored: SY011 weights not applied"
    assert "ignored: SY011 weights not applied" in without._repr_html_()
    found = without.to_dict()
    assert (found["faults"], [one["code"] for one in found["ignored"]]) == ([], ["SY011"])
    assert without.numbers is report.numbers
    # a kind that was not found is ignored in silence; setting aside twice adds up
    assert report.without("SY012").to_dict() == report.to_dict()
    assert without.without("SY020").ignored_line == "ignored: SY011 weights not applied, SY020 counted"
    assert report.without(*(f.code for f in report.findings)).findings == ()
    assert report.without(*(f.code for f in report.findings)).headline.startswith("No fault or warning is left; ")
    # where a fault is left, it is the headline; a note that is set aside changes nothing
    assert report.without("SY031").headline == report.headline
