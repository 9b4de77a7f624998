"""The linear classifier: scikit-learn's contract, its LogisticRegression, and probabilities without the weights."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

import steelyard
from steelyard.forecasting import fit_head
from steelyard.integrations.sklearn import LogisticClassifier


@parametrize_with_checks([LogisticClassifier(), LogisticClassifier("logistic", class_weight="balanced")])
def test_it_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(0)
    X = random.normal(size=(400, 3))
    z = X @ random.normal(size=(3, 3)) * 1.5 + [1.5, 0.0, -1.0]
    y = (z + random.gumbel(size=z.shape)).argmax(1)
    return X, np.array(["ape", "bee", "cat"])[y], 0.5 + random.random(400)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {"ape": 0.5, "bee": 3.0}])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_softmax_is_the_logistic_regression(rows, classes, class_weight, fit_intercept):
    X, y, s = rows
    y = y if classes == 3 else np.where(y == "cat", "bee", y)
    shared = {"C": 0.7, "fit_intercept": fit_intercept}
    s = s if class_weight != "balanced" else None  # theirs counts rows, not their weights
    ours = LogisticClassifier(class_weight=class_weight, tol=1e-9, **shared).fit(X, y, sample_weight=s)
    theirs = LogisticRegression(class_weight=class_weight, tol=1e-10, max_iter=1000, **shared).fit(
        X, y, sample_weight=s
    )
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    shift = ours.intercept_ - theirs.intercept_
    np.testing.assert_allclose(shift - shift.mean() * (classes == 3), 0, atol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    if class_weight is None:
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_logistic_is_one_regression_a_class(rows):
    X, y, s = rows
    ours = LogisticClassifier("logistic", tol=1e-9).fit(X, y)
    theirs = OneVsRestClassifier(LogisticRegression(tol=1e-10, max_iter=1000)).fit(X, y)
    np.testing.assert_allclose(ours.coef_, np.concatenate([one.coef_ for one in theirs.estimators_]), atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    two = np.where(y == "cat", "bee", y)
    soft = LogisticClassifier(tol=1e-9).fit(X, two, sample_weight=s)
    one = LogisticClassifier("logistic", tol=1e-9).fit(X, two, sample_weight=s)
    np.testing.assert_allclose(one.predict_proba(X), soft.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize(("loss", "options"), [("focal", {"gamma": 1.0}), ("softmax", {"label_smoothing": 0.1})])
def test_other_losses_are_at_the_optimum_of_the_head_solver(rows, loss, options):
    X, y, _ = rows
    w = np.array([1.0, 2.0, 4.0])
    ours = LogisticClassifier(
        loss, loss_options=options, class_weight=dict(zip(["ape", "bee", "cat"], w, strict=True)), tol=1e-9
    )
    codes = torch.tensor(np.unique(y, return_inverse=True)[1])
    head = fit_head(
        torch.tensor(X),
        codes,
        loss=steelyard.create_loss(loss, **options),
        class_weights=torch.tensor(w),
        weight_decay=1 / w[codes].sum(),
    )
    np.testing.assert_allclose(ours.fit(X, y).coef_, head.weight, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "options"),
    [("softmax", {}), ("logistic", {}), ("focal", {}), ("focal", {"link": "logistic"}), ("balanced-softmax", {})],
)
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_without_the_weights_and_predictions_with_them(loss, options, classes):
    random = np.random.default_rng(1)
    y = random.choice(classes, 4000, p=[[0.9, 0.1], [0.8, 0.15, 0.05]][classes - 2])
    X = np.eye(classes)[y][:, 1:] + random.normal(size=(4000, classes - 1))
    class_weight = None if loss == "balanced-softmax" else "balanced"
    model = LogisticClassifier(loss, loss_options=options, class_weight=class_weight, C=100.0).fit(X, y)
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(p.mean(0), np.bincount(y) / 4000, atol=0.02)
    if class_weight is None:
        return
    weighted = np.bincount(model.predict(X), minlength=classes) / 4000
    assert weighted[0] < 0.75, "the weights do not act in predict"


def test_sparse_rows_are_the_dense_ones_and_the_setup_is_audited(rows):
    X, y, _ = rows
    X = np.where(np.abs(X) < 0.5, 0, X)
    dense, sparse = (LogisticClassifier(class_weight="balanced", C=10.0).fit(one, y) for one in (X, csr_matrix(X)))
    np.testing.assert_allclose(sparse.predict_proba(csr_matrix(X)), dense.predict_proba(X), atol=1e-9)
    codes = np.unique(y, return_inverse=True)[1]
    assert steelyard.audit(dense.decision_function(X), codes, dense.setup_).residual.misfit < 1e-4


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "lgl-inr"}, "must be a sum over rows, got lgl-inr"),
        ({"loss": "sofmax"}, "unknown loss 'sofmax'"),
        ({"C": 0}, "C must be positive"),
        ({"class_weight": "balance"}, "class_weight must be a mapping, 'balanced' or None"),
        ({"class_weight": {"ape": -1}}, "class_weight must be a finite number >= 0"),
        ({"class_weight": {"ape": 2, "cta": 5}}, "must weigh classes of y, got 'cta', and no weight of 'bee'"),
        ({"class_weight": "balanced", "loss_options": {"class_weights": [1, 1, 1]}}, "must be stated once"),
        ({"loss_options": {"gama": 1}}, "has no option 'gama'"),
    ],
)
def test_parameters_that_cannot_be_are_refused(rows, parameters, message):
    with pytest.raises((TypeError, ValueError), match=message):
        LogisticClassifier(**parameters).fit(rows[0], rows[1])


def test_too_few_iterations_are_said(rows):
    with pytest.warns(ConvergenceWarning, match="after 2 iterations, above tol = 1e-06"):
        LogisticClassifier(max_iter=2).fit(rows[0], rows[1])
