"""What weighs classes: found in estimators of many kinds, true to what they do, or refused by name."""

import numpy as np
import pytest
from imblearn.combine import SMOTEENN
from imblearn.ensemble import (
    BalancedBaggingClassifier,
    BalancedRandomForestClassifier,
    EasyEnsembleClassifier,
    RUSBoostClassifier,
)
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import make_pipeline as make_sampling_pipeline
from imblearn.under_sampling import RandomUnderSampler
from lightgbm import LGBMClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import RFE
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from steelyard.integrations.sklearn import PriorCalibratedClassifier

COUNTS = np.array([120, 60, 20])
NAMES = np.array(["a", "b", "c"])
BALANCED = {"class_weight": "balanced"}
MAPPED = {"class_weight": {"a": 1.0, "b": 3.0, "c": 6.0}}
EVEN, STATED = [1, 1, 1], [2, 3, 2]  # the class frequencies that these make of the counts


def _uninformative(counts=COUNTS, names=NAMES, lean=0.0):
    """Rows whose features have the same two values as often in every class: all that can be predicted is a prior.

    Where they lean, the last class has one value more often, so that trees have something to split.
    """
    y = np.repeat(np.arange(len(counts)), counts)
    X = np.concatenate([np.arange(n) % 2 for n in counts]).astype(float)
    X[len(X) - round(lean * counts[-1]) :] = 1.0
    X = np.c_[X, 1 - X]
    order = np.random.default_rng(0).permutation(len(y))
    return X[order], y[order] if names is None else names[y[order]]


def _logistic(**options):
    return LogisticRegression(C=1e6, **options)


def _forest(**options):
    return RandomForestClassifier(30, random_state=0, **options)


def _boosted(**options):
    return LGBMClassifier(n_estimators=80, min_child_samples=5, verbose=-1, n_jobs=1, **options)


@pytest.mark.parametrize(
    ("estimator", "prior"),
    [
        pytest.param(estimator, prior, id=name)
        for name, estimator, prior in [
            ("balanced", _logistic(**BALANCED), EVEN),
            ("mapping", _logistic(**MAPPED), STATED),
            ("mapping of some", _logistic(class_weight={"c": 3.0}), [2, 1, 1]),
            ("forest", _forest(class_weight="balanced_subsample"), EVEN),
            ("extra trees", ExtraTreesClassifier(5, **MAPPED), STATED),
            ("hist boosting, names", HistGradientBoostingClassifier(**BALANCED), EVEN),
            ("hist boosting, codes", HistGradientBoostingClassifier(class_weight={1: 3.0, 2: 6.0}), STATED),
            ("lightgbm", _boosted(**MAPPED), STATED),
            ("pipeline", make_pipeline(StandardScaler(), make_pipeline(_logistic(**BALANCED))), EVEN),
            ("search", GridSearchCV(_logistic(), {"class_weight": [MAPPED["class_weight"]]}, cv=2), STATED),
            ("search in pipeline", make_pipeline(StandardScaler(), GridSearchCV(_logistic(**MAPPED), {"tol": [1e-4]}, cv=2)), STATED),
            ("calibrated", CalibratedClassifierCV(_logistic(**MAPPED), cv=3), COUNTS),
            ("with a temperature", CalibratedClassifierCV(_logistic(**BALANCED), method="temperature", cv=3), EVEN),
            ("bagged", BaggingClassifier(_logistic(class_weight={0: 1, 1: 3, 2: 6}), random_state=0, n_estimators=30), STATED),
            ("bagged without an estimator", BaggingClassifier(random_state=0, n_estimators=30), COUNTS),
            ("voting", VotingClassifier([("l", _logistic(**BALANCED)), ("t", DecisionTreeClassifier(**BALANCED))], voting="soft"), EVEN),
            ("stacked", StackingClassifier([("l", _logistic(**BALANCED))], _logistic(), cv=3), COUNTS),
            ("stacked on weights", StackingClassifier([("l", _logistic())], _logistic(**BALANCED), cv=3), EVEN),
            ("one against the rest, unweighted", OneVsRestClassifier(_logistic()), COUNTS),
            ("given priors", GaussianNB(priors=[0.2, 0.3, 0.5]), [2, 3, 5]),
            ("no prior", MultinomialNB(fit_prior=False), EVEN),
            ("given class prior", MultinomialNB(class_prior=[0.2, 0.3, 0.5]), [2, 3, 5]),
            ("undersampled", make_sampling_pipeline(StandardScaler(), RandomUnderSampler(random_state=0), _logistic()), EVEN),
            ("undersampled to counts", make_sampling_pipeline(RandomUnderSampler(sampling_strategy={"a": 40, "b": 40}), _logistic()), [2, 2, 1]),
            ("sampled and weighted", make_sampling_pipeline(RandomUnderSampler(sampling_strategy={"a": 40, "b": 40}), _logistic(class_weight={"c": 2.0})), EVEN),
            ("sampled, then balanced", make_sampling_pipeline(RandomUnderSampler(sampling_strategy={"a": 40, "b": 40}), _logistic(**BALANCED)), EVEN),
            ("oversampled", make_sampling_pipeline(RandomOverSampler(random_state=0), _logistic()), EVEN),
            ("synthetic rows", make_sampling_pipeline(SMOTE(k_neighbors=15, random_state=0), _logistic()), EVEN),
            ("balanced forest", BalancedRandomForestClassifier(100, sampling_strategy="all", replacement=True, bootstrap=False, random_state=0), EVEN),
            ("balanced bagging", BalancedBaggingClassifier(random_state=0, n_estimators=30), EVEN),
            ("balanced bagging of another sampler", BalancedBaggingClassifier(sampler=RandomOverSampler(), random_state=0, n_estimators=30), EVEN),
            ("easy ensemble", EasyEnsembleClassifier(10, estimator=_logistic(), random_state=0), EVEN),
        ]
    ],
)  # fmt: skip
def test_the_prior_that_is_found_is_the_one_that_is_predicted(estimator, prior):
    X, y = _uninformative()
    fitted = PriorCalibratedClassifier(estimator, cv=None).fit(X, y)
    np.testing.assert_allclose(fitted.train_prior_, np.divide(prior, np.sum(prior)), atol=1e-9)
    np.testing.assert_allclose(fitted.estimator_.predict_proba(X).mean(0), fitted.train_prior_, atol=0.05)
    np.testing.assert_allclose(fitted.predict_proba(X).mean(0), COUNTS / COUNTS.sum(), atol=0.05)


@pytest.mark.parametrize(
    ("estimator", "prior"),
    [
        (XGBClassifier(n_estimators=60, n_jobs=1, scale_pos_weight=4.5), [1, 0.5]),
        (_boosted(scale_pos_weight=4.5), [1, 0.5]),
        (_boosted(is_unbalance=True), [1, 1]),
        (_boosted(unbalance=True), [1, 1]),
        (OneVsRestClassifier(_logistic(**BALANCED)), [1, 1]),
        (make_pipeline(_boosted(is_unbalance=True)), [1, 1]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else "",
)
def test_weights_of_one_class_of_two(estimator, prior):
    X, y = _uninformative([180, 20], None, lean=0.2)
    fitted = PriorCalibratedClassifier(estimator, cv=None).fit(X, y)
    np.testing.assert_allclose(fitted.train_prior_, np.divide(prior, np.sum(prior)), atol=1e-9)
    np.testing.assert_allclose(fitted.estimator_.predict_proba(X).mean(0), fitted.train_prior_, atol=0.05)
    np.testing.assert_allclose(fitted.predict_proba(X).mean(0), [0.9, 0.1], atol=0.05)


BY_ROWS = [
    _logistic(),
    HistGradientBoostingClassifier(max_iter=40),
    XGBClassifier(n_estimators=40, n_jobs=1),
    MLPClassifier(4, learning_rate_init=0.05, max_iter=1000, random_state=0),
    VotingClassifier([("l", _logistic()), ("t", DecisionTreeClassifier())], voting="soft"),
    StackingClassifier([("l", _logistic())], _logistic(), cv=3),
    CalibratedClassifierCV(_logistic(), cv=3),
]


@pytest.mark.parametrize(
    ("estimator", "outer"),
    [(one, "plain") for one in BY_ROWS]
    + [(one, outer) for one in BY_ROWS[:2] for outer in ("pipeline", "search")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_class_weights_and_sample_weights_reach_the_classifier(estimator, outer):
    names = None if isinstance(estimator, XGBClassifier) else NAMES
    X, y = _uninformative(names=names)
    keys = range(3) if names is None else NAMES.tolist()
    if outer == "pipeline":
        estimator = make_pipeline(StandardScaler(), estimator)
    elif outer == "search":
        estimator = GridSearchCV(estimator, {}, cv=2)
    weights = dict(zip(keys, [1.0, 3.0, 6.0], strict=True))
    by_class = PriorCalibratedClassifier(estimator, class_weights=weights, cv=None).fit(X, y)
    weight = np.array([weights[label] for label in y.tolist()])
    by_row = PriorCalibratedClassifier(estimator, cv=None).fit(X, y, sample_weight=weight)
    for fitted in (by_class, by_row):
        np.testing.assert_allclose(fitted.train_prior_, np.array(STATED) / 7, atol=1e-9)
        np.testing.assert_allclose(fitted.estimator_.predict_proba(X).mean(0), fitted.train_prior_, atol=0.05)


class CatBoostLike(ClassifierMixin, BaseEstimator):
    """Has CatBoost's names; weighs nothing itself."""

    def __init__(self, class_weights=None, auto_class_weights=None):
        self.class_weights = class_weights
        self.auto_class_weights = auto_class_weights

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


@pytest.mark.parametrize(
    ("options", "prior"),
    [
        ({"class_weights": [1.0, 3.0, 6.0]}, STATED),
        ({"class_weights": {"c": 3.0}}, [2, 1, 1]),
        ({"auto_class_weights": "Balanced"}, EVEN),
        ({"auto_class_weights": "SqrtBalanced"}, np.sqrt([6, 3, 1])),
        ({"auto_class_weights": "None"}, COUNTS),
    ],
)
def test_names_of_catboost(options, prior):
    fitted = PriorCalibratedClassifier(CatBoostLike(**options), cv=None).fit(*_uninformative())
    np.testing.assert_allclose(fitted.train_prior_, np.divide(prior, np.sum(prior)), atol=1e-9)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (OneVsRestClassifier(_logistic(**BALANCED)), "OneVsRestClassifier of LogisticRegression weighs each class against"),
        (_boosted(is_unbalance=True), "is_unbalance of LGBMClassifier weighs one class of two, got 3 classes"),
        (_boosted(pos_bagging_fraction=0.5), "LGBMClassifier has pos_bagging_fraction=0.5, which weighs classes"),
        (VotingClassifier([("l", _logistic()), ("f", _forest(**BALANCED))], voting="soft"), "averages LogisticRegression and RandomForestClassifier"),
        (RFE(_logistic(**BALANCED)), "RFE holds LogisticRegression, which weighs classes"),
        (FixedThresholdClassifier(_logistic()), "FixedThresholdClassifier sets a threshold"),
        (LinearSVC(), "estimator must have predict_proba, which LinearSVC"),
        (make_pipeline(StandardScaler(), LinearSVC(**BALANCED)), "estimator must have predict_proba, which Pipeline"),
        (_logistic(class_weight={"a": 0.0}), "every class must weigh more than 0 in LogisticRegression, got"),
        (CatBoostLike(auto_class_weights="balanced"), "auto_class_weights of CatBoostLike must be 'Balanced' or"),
        (CatBoostLike(class_weights=[1.0]), "class_weights of CatBoostLike must have one weight per class"),
    ],
)  # fmt: skip
def test_what_no_weight_of_a_class_describes_is_refused(estimator, message):
    X, y = _uninformative()
    if isinstance(estimator, FixedThresholdClassifier):
        X, y = _uninformative([180, 20], NAMES)
    with pytest.raises(ValueError, match=message):
        PriorCalibratedClassifier(estimator, cv=None).fit(X, y)


def test_balanced_beside_sample_weight_is_refused_where_rows_of_a_class_weigh_more():
    X, y = _uninformative()
    honest = PriorCalibratedClassifier(_logistic(**BALANCED), cv=None)
    assert honest.fit(X, y, sample_weight=np.full(len(y), 3.0)).train_prior_ == pytest.approx([1 / 3] * 3)
    with pytest.raises(
        ValueError, match="class_weight of LogisticRegression is balanced and sample_weight weighs"
    ):
        honest.fit(X, y, sample_weight=np.where(y == "c", 2.0, 1.0))


def test_a_stated_prior_stands_for_what_cannot_be_read():
    X, y = _uninformative()
    honest = PriorCalibratedClassifier(RFE(_logistic(**BALANCED)), train_prior="uniform", cv=None).fit(X, y)
    np.testing.assert_allclose(honest.predict_proba(X).mean(0), COUNTS / COUNTS.sum(), atol=0.01)


def _overlapping():
    y = np.repeat([0, 1], [400, 40])
    return np.random.default_rng(0).normal(size=(440, 2)) + y[:, None], y


@pytest.mark.parametrize(
    ("estimator", "prior"),
    [
        (RUSBoostClassifier(n_estimators=3, random_state=0), [0.5, 0.5]),
        (AdaBoostClassifier(DecisionTreeClassifier(max_depth=1, **BALANCED), n_estimators=3), [0.5, 0.5]),
        (LinearDiscriminantAnalysis(priors=[0.3, 0.7]), [0.3, 0.7]),
    ],
)
def test_others_that_have_a_prior_of_their_own(estimator, prior):
    fitted = PriorCalibratedClassifier(estimator, cv=None).fit(*_overlapping())
    np.testing.assert_allclose(fitted.train_prior_, prior, atol=1e-9)


def test_a_sampler_that_cleans_counts_by_what_it_leaves():
    X, y = _overlapping()
    sampler = SMOTEENN(random_state=0)
    fitted = PriorCalibratedClassifier(make_sampling_pipeline(sampler, _logistic()), cv=None).fit(X, y)
    left = np.bincount(sampler.fit_resample(X, y)[1])
    np.testing.assert_allclose(fitted.train_prior_, left / left.sum(), atol=1e-9)


def test_a_fitted_estimator_stays_as_it_is():
    X, y = _uninformative()
    plain = _logistic(**MAPPED).fit(X, y)
    frozen = FrozenEstimator(plain)
    found = PriorCalibratedClassifier(frozen).fit(X, y)
    assert found.estimator_.estimator is plain
    np.testing.assert_allclose(found.train_prior_, np.array(STATED) / 7, atol=1e-9)
    np.testing.assert_allclose(found.predict_proba(X).mean(0), COUNTS / COUNTS.sum(), atol=0.02)
    by_rows = FrozenEstimator(_logistic().fit(X, y, sample_weight=np.where(y == "c", 6.0, 1.0)))
    stated = PriorCalibratedClassifier(by_rows, class_weights={"a": 1.0, "b": 1.0, "c": 6.0}).fit(X, y)
    np.testing.assert_allclose(stated.predict_proba(X).mean(0), COUNTS / COUNTS.sum(), atol=0.02)
    with pytest.raises(ValueError, match="sample_weight must be None, as LogisticRegression is fitted already"):
        found.fit(X, y, sample_weight=np.ones(len(y)))


def test_class_weights_are_stated_once():
    X, y = _uninformative()
    for estimator in (_logistic(**BALANCED), make_pipeline(_logistic(**BALANCED))):
        with pytest.raises(
            ValueError, match="class_weights must be stated once, got it beside class_weight='balanced'"
        ):
            PriorCalibratedClassifier(estimator, class_weights="balanced").fit(X, y)
