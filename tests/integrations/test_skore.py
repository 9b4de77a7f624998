"""skore's reports say what an audit finds: planted faults are issues under our codes, healthy models pass."""

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from steelyard import TrainingSetup

skore = pytest.importorskip("skore")
from steelyard.integrations.skore import balance_checks  # noqa: E402

X, Y = make_classification(1500, n_informative=5, n_classes=3, weights=[0.7, 0.2], flip_y=0.1, random_state=0)
NAMES = np.array(["ant", "bee", "cicada"])[Y]


def _sections(model, y=Y, setup=None, splitter=0.2):
    report = skore.evaluate(model, X, y, splitter=splitter)
    report.checks.add(balance_checks(setup))
    found = report.checks.summarize(ignore=[f"SKD{k:03}" for k in range(1, 40)]).frame()
    return {row.code: (row.section, row.explanation) for row in found.itertuples() if row.code.startswith("SY")}


@pytest.mark.parametrize("weight", [None, "balanced", {"ant": 1, "bee": 2, "cicada": 9}])
def test_weights_that_the_parameters_state_pass(weight):
    found = _sections(LogisticRegression(class_weight=weight, C=100, tol=1e-8, max_iter=1000), NAMES)
    assert len(found) == 12
    assert {section for section, _ in found.values()} == {"passed"}, found


@pytest.mark.parametrize("splitter", [0.2, 3])
def test_weights_that_never_acted_are_an_issue_of_their_code(splitter):
    setup = TrainingSetup("softmax", class_weights=[1.0, 4.0, 9.0])
    found = _sections(LogisticRegression(C=100, tol=1e-8, max_iter=1000), setup=setup, splitter=splitter)
    issues = {code: text for code, (section, text) in found.items() if section == "issue"}
    assert list(issues) == ["SY011"], found
    assert ("In 3 of 3 splits" in issues["SY011"]) == (splitter == 3)
    assert "never acted" in issues["SY011"]


def test_unstated_weights_are_a_tip():
    model = LogisticRegression(class_weight="balanced", C=100, tol=1e-8, max_iter=1000)
    found = _sections(model, setup=TrainingSetup("softmax"))
    assert found["SY014"][0] == "tip", found


def test_what_is_not_known_does_not_apply():
    found = _sections(RandomForestClassifier(10, random_state=0))
    assert {section for section, _ in found.values()} == {"not_applicable"}
    assert "it is not known which loss RandomForestClassifier minimises" in found["SY011"][1]
    regression = _sections(LinearRegression(), X[:, 0] + 0.1 * X[:, 1])
    assert {section for section, _ in regression.values()} == {"not_applicable"}


def test_a_setup_of_another_type_is_refused():
    with pytest.raises(TypeError, match="setup must be a TrainingSetup or None, got str"):
        balance_checks("softmax")
