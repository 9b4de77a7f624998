"""The scikit-learn classifier: its contract, and honest probabilities on data whose truth is known."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from steelyard.integrations.sklearn import PriorCalibratedClassifier


@parametrize_with_checks(
    [
        PriorCalibratedClassifier(LogisticRegression(), class_weights="balanced"),
        PriorCalibratedClassifier(GaussianNB()),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def _gaussians(size=20_000, prior=(0.9, 0.08, 0.02), seed=0):
    random = np.random.default_rng(seed)
    means = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
    y = random.choice(3, size, p=prior)
    X = random.normal(size=(size, 2)) + means[y]
    scores = np.log(prior) - 0.5 * ((X[:, None] - means) ** 2).sum(2)
    exact = np.exp(scores - scores.max(1, keepdims=True))
    return X, y, exact / exact.sum(1, keepdims=True)


@pytest.mark.parametrize("estimator", [LogisticRegression(C=1e6), GradientBoostingClassifier(n_estimators=30)])
def test_probabilities_are_honest_after_balanced_weights(estimator):
    X, y, exact = _gaussians()
    fitted = PriorCalibratedClassifier(estimator, class_weights="balanced").fit(X, y)
    raw, corrected = fitted.estimator_.predict_proba(X), fitted.predict_proba(X)
    assert np.abs(raw - exact).mean() > 0.1
    assert np.abs(corrected - exact).mean() < 0.02
    assert log_loss(y, corrected) < log_loss(y, raw)


def test_weights_by_class_name_and_by_sample_agree():
    X, y, _ = _gaussians(3000)
    names = np.array(["common", "rare", "rarest"])[y]
    weights = {"common": 1.0, "rare": 10.0, "rarest": 50.0}
    by_class = PriorCalibratedClassifier(LogisticRegression(), class_weights=weights).fit(X, names)
    assert by_class.weights_.tolist() == [1, 10, 50]
    by_sample = LogisticRegression().fit(X, names, sample_weight=by_class.weights_[y])
    np.testing.assert_allclose(
        by_class.estimator_.predict_proba(X), by_sample.predict_proba(X), rtol=1e-3, atol=1e-6
    )


class UnderSampled(ClassifierMixin, BaseEstimator):
    """Sees as many samples of each class as there are of the rarest."""

    def fit(self, X, y):
        random = np.random.default_rng(0)
        self.classes_, counts = np.unique(y, return_counts=True)
        rows = np.concatenate([random.permutation(np.flatnonzero(y == c))[: counts.min()] for c in self.classes_])
        self.inner_ = LogisticRegression(C=1e6).fit(X[rows], y[rows])
        return self

    def predict_proba(self, X):
        return self.inner_.predict_proba(X)


def test_undersampling_is_taken_back():
    X, y, exact = _gaussians()
    fitted = PriorCalibratedClassifier(UnderSampled(), train_prior="uniform").fit(X, y)
    assert np.abs(fitted.estimator_.predict_proba(X) - exact).mean() > 0.1
    assert np.abs(fitted.predict_proba(X) - exact).mean() < 0.02


def test_other_deployment_prior():
    X, y, _ = _gaussians()
    prior = [0.2, 0.3, 0.5]
    fitted = PriorCalibratedClassifier(LogisticRegression(C=1e6), class_weights="balanced", test_prior=prior).fit(
        X, y
    )
    X_new, _, exact = _gaussians(prior=prior, seed=1)
    assert np.abs(fitted.predict_proba(X_new) - exact).mean() < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"estimator": KNeighborsClassifier(), "class_weights": "balanced"},
            "KNeighborsClassifier takes neither class_weight nor",
        ),
        (
            {"estimator": GaussianNB(), "train_prior": "even"},
            "train_prior must be 'uniform' or one frequency per class, got 'even'",
        ),
        (
            {"estimator": GaussianNB(), "test_prior": [0.5, 0.5]},
            "test_prior must be 3 positive frequencies that sum to 1",
        ),
        ({"estimator": GaussianNB(), "test_prior": [0.0, 0.5, 0.5]}, "test_prior must be 3 positive frequencies"),
    ],
)
def test_bad_options_get_one_sentence(options, message):
    X, y, _ = _gaussians(500)
    with pytest.raises(ValueError, match=message):
        PriorCalibratedClassifier(**options).fit(X, y)
