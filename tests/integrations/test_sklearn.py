"""The scikit-learn classifier: its contract, and honest probabilities on data whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold, RepeatedStratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from steelyard.integrations.sklearn import PriorCalibratedClassifier

# Weights of rows are taken out, so they do not mean what rows that occur more often do.
NOT_REPETITION = {
    f"check_sample_weight_equivalence_on_{kind}_data": "sample weights count as class weights, which are taken out"
    for kind in ("dense", "sparse")
}


# These weigh the rows of a class, which is refused beside "balanced".
REFUSED = dict.fromkeys(
    ("check_sample_weights_not_overwritten", "check_classifiers_one_label_sample_weights"),
    "class_weight='balanced' and sample_weight that weighs classes are refused together",
)


def _expected_failures(wrapper):
    balanced = getattr(wrapper.estimator, "class_weight", None) == "balanced"
    return NOT_REPETITION | (REFUSED if balanced else {})


def _checked(*estimators):
    return parametrize_with_checks(list(estimators), expected_failed_checks=_expected_failures)


@_checked(PriorCalibratedClassifier(LogisticRegression(), class_weights="balanced"))
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@_checked(
    PriorCalibratedClassifier(LogisticRegression(class_weight="balanced")),
    PriorCalibratedClassifier(LogisticRegression()),
    PriorCalibratedClassifier(GaussianNB()),
    PriorCalibratedClassifier(GaussianNB(), class_weights="balanced"),
    PriorCalibratedClassifier(DecisionTreeClassifier(random_state=0), cv=3),
    PriorCalibratedClassifier(DecisionTreeClassifier(random_state=0), class_weights="balanced", cv=3),
    PriorCalibratedClassifier(RandomForestClassifier(5, random_state=0), class_weights="balanced", cv=3),
    PriorCalibratedClassifier(HistGradientBoostingClassifier(max_iter=5), cv=3),
    PriorCalibratedClassifier(
        make_pipeline(StandardScaler(), LogisticRegression()), class_weights="balanced", cv=3
    ),
)
def test_scikit_learns_own_checks_of_more_estimators(estimator, check):
    check(estimator)


def _gaussians(size=20_000, prior=(0.9, 0.08, 0.02), seed=0):
    random = np.random.default_rng(seed)
    means = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
    y = random.choice(3, size, p=prior)
    X = random.normal(size=(size, 2)) + means[y]
    scores = np.log(prior) - 0.5 * ((X[:, None] - means) ** 2).sum(2)
    exact = np.exp(scores - scores.max(1, keepdims=True))
    return X, y, exact / exact.sum(1, keepdims=True)


@pytest.mark.parametrize("estimator", [LogisticRegression(C=1e6), DecisionTreeClassifier(min_samples_leaf=150)])
def test_probabilities_are_honest_after_balanced_weights(estimator):
    X, y, exact = _gaussians(8000)
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
    np.testing.assert_allclose(by_class.weights_ / by_class.weights_[0], [1, 10, 50])
    np.testing.assert_allclose(by_class.weights_[y].mean(), 1)
    by_sample = LogisticRegression().fit(X, names, sample_weight=np.array([1.0, 10.0, 50.0])[y])
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


def _tenth(size=1000):
    """One row in ten is of class 1, and overlaps."""
    y = (np.arange(size) % 10 == 0).astype(int)
    return np.random.default_rng(0).normal(size=(size, 2)) + 0.8 * y[:, None], y


def test_sample_weights_are_in_the_training_prior():
    y = np.repeat([0, 1], [900, 100])
    X = np.zeros((1000, 1))
    weight = np.where(y == 1, 9.0, 1.0)
    for options in ({"cv": None}, {}):
        uniform = PriorCalibratedClassifier(LogisticRegression(), test_prior="uniform", **options)
        uniform.fit(X, y, sample_weight=weight)
        np.testing.assert_allclose(uniform.train_prior_, [0.5, 0.5])
        np.testing.assert_allclose(uniform.predict_proba(X[:1]), [[0.5, 0.5]], atol=0.01)
        as_trained = PriorCalibratedClassifier(LogisticRegression(), **options).fit(X, y, sample_weight=weight)
        np.testing.assert_allclose(as_trained.predict_proba(X[:1]), [[0.9, 0.1]], atol=0.01)


def test_what_a_grown_forest_does_not_hold_is_not_taken_out():
    X, y, _ = _gaussians(3000)
    X_new, y_new, _ = _gaussians(3000, seed=1)
    forest = RandomForestClassifier(40, min_samples_leaf=3, class_weight="balanced", random_state=0)
    measured = PriorCalibratedClassifier(forest).fit(X, y)
    stated = PriorCalibratedClassifier(forest, cv=None).fit(X, y)
    assert measured.power_ < 0.8
    assert measured.power_error_ < 0.1
    assert stated.power_ == 1
    assert np.isnan(stated.power_error_)
    nll = [log_loss(y_new, one.predict_proba(X_new)) for one in (measured, measured.estimator_, stated)]
    assert nll[0] < min(nll[1:])


def test_logarithms_and_predictions_agree_with_probabilities():
    X, y = _tenth()
    fitted = PriorCalibratedClassifier(DecisionTreeClassifier(class_weight="balanced")).fit(X, y)
    p = fitted.predict_proba(X)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(fitted.predict_log_proba(X), np.log(p))
    assert (fitted.predict(X) == p.argmax(1)).all()
    np.testing.assert_allclose(p.sum(1), 1)


def test_where_no_class_has_two_rows_all_is_taken_out():
    X, y = np.array([[0.0], [1.0]]), np.array([0, 1])
    fitted = PriorCalibratedClassifier(LogisticRegression(), class_weights={0: 1.0, 1: 3.0}).fit(X, y)
    assert (fitted.power_, fitted.power_error_) == pytest.approx((1, 1))


@settings(max_examples=15, deadline=None)
@given(rare=st.integers(1, 6), cv=st.integers(2, 7), seed=st.integers(0, 99))
def test_small_classes_are_in_every_training_part(rare, cv, seed):
    random = np.random.default_rng(seed)
    y = random.permutation(np.repeat(["a", "b", "c"], [40, 20, rare]))
    X = random.normal(size=(len(y), 2))
    fitted = PriorCalibratedClassifier(GaussianNB(var_smoothing=1), class_weights="balanced", cv=cv).fit(X, y)
    assert np.isfinite(fitted.power_)
    assert 0 < fitted.power_error_ <= 1


def test_a_class_that_a_part_lacks_and_rows_that_are_judged_twice():
    X, y, _ = _gaussians(400, (0.5, 0.3, 0.2))
    lacking = [(np.flatnonzero(y < 2), np.flatnonzero(y == 2)), (np.arange(0, 400, 2), np.arange(1, 400, 2))]
    repeated = RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)
    for cv in (lacking, repeated):
        fitted = PriorCalibratedClassifier(LogisticRegression(class_weight="balanced"), cv=cv).fit(X, y)
        assert abs(fitted.power_ - 1) < 4 * fitted.power_error_


def test_metadata_goes_where_it_is_asked_for():
    X, y = _tenth()
    weight = np.where(y == 1, 9.0, 1.0)
    asks, refuses = LogisticRegression(), LogisticRegression()
    with config_context(enable_metadata_routing=True):
        asks.set_fit_request(sample_weight="mine")
        refuses.set_fit_request(sample_weight=False)
        scaler = StandardScaler().set_fit_request(sample_weight="mine")
        for estimator in (asks, make_pipeline(scaler, asks)):
            fitted = PriorCalibratedClassifier(estimator, cv=GroupKFold(3)).fit(
                X, y, mine=weight, groups=np.arange(1000) // 10
            )
            np.testing.assert_allclose(fitted.train_prior_, [0.5, 0.5])
            np.testing.assert_allclose(fitted.predict_proba(X).mean(0), [0.9, 0.1], atol=0.02)
        not_weighted = PriorCalibratedClassifier(make_pipeline(scaler, refuses)).fit(X, y, mine=weight)
        np.testing.assert_allclose(not_weighted.train_prior_, [0.9, 0.1])
        routed = GridSearchCV(PriorCalibratedClassifier(asks), {"estimator__C": [1.0]}, cv=2).fit(
            X, y, mine=weight
        )
        np.testing.assert_allclose(routed.best_estimator_.train_prior_, [0.5, 0.5])


def test_fit_parameters_go_with_their_rows():
    X, y = _tenth()
    weight = np.where(y == 1, 9.0, 1.0)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    by_step = PriorCalibratedClassifier(pipeline).fit(X, y, logisticregression__sample_weight=weight)
    by_name = PriorCalibratedClassifier(pipeline).fit(X, y, sample_weight=weight.tolist())
    assert by_step.train_prior_ == pytest.approx([0.5, 0.5])
    np.testing.assert_allclose(by_step.predict_proba(X), by_name.predict_proba(X))
    with pytest.raises(
        ValueError, match="sample_weight must be given once, got it and logisticregression__sample"
    ):
        by_step.fit(X, y, sample_weight=weight, logisticregression__sample_weight=weight)
    scaled = PriorCalibratedClassifier(pipeline).fit(X, y, standardscaler__sample_weight=weight)
    assert scaled.train_prior_ == pytest.approx([0.9, 0.1])


def test_priors_and_weights_go_by_their_labels():
    pandas = pytest.importorskip("pandas")
    X, y = _tenth()
    names = np.array(["no", "yes"])[y]
    prior = {"yes": 0.7, "no": 0.3}
    by_order = PriorCalibratedClassifier(GaussianNB(), test_prior=[0.3, 0.7]).fit(X, names).predict_proba(X)
    for labelled in (prior, pandas.Series(prior)):
        fitted = PriorCalibratedClassifier(GaussianNB(), test_prior=labelled).fit(X, names)
        np.testing.assert_allclose(fitted.predict_proba(X), by_order)
    weights = pandas.Series({"yes": 9.0, "no": 1.0})
    fitted = PriorCalibratedClassifier(GaussianNB(), class_weights=weights).fit(pandas.DataFrame(X), names)
    np.testing.assert_allclose(fitted.train_prior_, [0.5, 0.5])


def test_weights_that_nothing_tells_of_are_warned_about():
    X, y, _ = _gaussians(3000)
    with pytest.warns(UserWarning, match="mean probability of class 0 is 0.4.*frequency 0.9.* state train_prior"):
        PriorCalibratedClassifier(UnderSampled()).fit(X, y)


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
        (
            {"estimator": GaussianNB(), "test_prior": [np.nan, 0.5, 0.5]},
            "test_prior must be 3 positive frequencies",
        ),
        (
            {"estimator": GaussianNB(), "train_prior": {0: 0.5, 1: 0.5}},
            "train_prior must have the classes .0, 1, 2. as keys",
        ),
        (
            {"estimator": GaussianNB(), "class_weights": "inverse"},
            "class_weights must be 'balanced', a mapping from",
        ),
        (
            {"estimator": GaussianNB(), "class_weights": np.ones(3)},
            "class_weights must be 'balanced', a mapping from",
        ),
        (
            {"estimator": GaussianNB(), "class_weights": {0: 0.0, 1: 1.0, 2: 1.0}},
            "class_weights must be positive, got 0",
        ),
        ({"estimator": GaussianNB(), "cv": 1}, "cv must be at least 2 folds, or None, got 1"),
    ],
)
def test_bad_options_get_one_sentence(options, message):
    X, y, _ = _gaussians(500)
    with pytest.raises(ValueError, match=message):
        PriorCalibratedClassifier(**options).fit(X, y)


@pytest.mark.parametrize("weight", [np.ones(3), -np.ones(500), np.full(500, np.nan), np.ones((500, 2))])
def test_sample_weights_that_are_none_are_refused(weight):
    X, y, _ = _gaussians(500)
    with pytest.raises(ValueError, match="sample_weight must be 500 finite numbers that are not negative"):
        PriorCalibratedClassifier(GaussianNB()).fit(X, y, sample_weight=weight)
    with pytest.raises(ValueError, match="sample_weight must be None, as KNeighborsClassifier takes none"):
        PriorCalibratedClassifier(KNeighborsClassifier()).fit(X, y, sample_weight=np.ones(500))


def _balanced():
    rng = np.random.default_rng(0)
    y = rng.choice(3, 300, p=[0.7, 0.2, 0.1])
    X = rng.normal(size=(300, 3)) + 2 * np.eye(3)[y]
    return PriorCalibratedClassifier(LogisticRegression(class_weight="balanced")).fit(X, y), X


def test_joblib_brings_it_back(tmp_path):
    joblib = pytest.importorskip("joblib")
    fitted, X = _balanced()
    joblib.dump(fitted, tmp_path / "model.joblib")
    np.testing.assert_array_equal(joblib.load(tmp_path / "model.joblib").predict_proba(X), fitted.predict_proba(X))


def test_skops_brings_it_back_and_is_asked_to_trust_one_class():
    skops = pytest.importorskip("skops.io")
    fitted, X = _balanced()
    data = skops.dumps(fitted)
    unknown = skops.get_untrusted_types(data=data)
    assert unknown == ["steelyard.integrations.sklearn.classifier.PriorCalibratedClassifier"]
    np.testing.assert_array_equal(skops.loads(data, trusted=unknown).predict_proba(X), fitted.predict_proba(X))
