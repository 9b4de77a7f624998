"""What went wrong in public with class weights, replayed with the real libraries: the audit names each."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

from steelyard import TrainingSetup, audit

lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")


def _binary():
    X, y = make_classification(
        3000, n_informative=5, weights=[0.95], flip_y=0.03, class_sep=0.7, random_state=5, shuffle=True
    )
    return X, y, float((y == 0).sum() / (y == 1).sum())


def _margins(model, X):
    if isinstance(model, xgboost.XGBModel):
        return model.predict(X, output_margin=True)
    return model.predict(X, raw_score=True)


def _lightgbm(**options):
    return lightgbm.LGBMClassifier(n_estimators=60, verbose=-1, n_jobs=1, **options)


def _names(margins, y, ratio, **stated):
    setup = TrainingSetup("logistic", targets="binary", pos_weight=[ratio], **stated)
    return [f.name for f in audit(margins, y, setup).findings if f.severity != "note"]


def test_scale_pos_weight_is_not_used_with_several_classes():
    """XGBoost takes `scale_pos_weight` for a multi-class objective, and does nothing with it."""
    X, y = make_classification(
        2000, n_informative=6, n_classes=3, weights=[0.85, 0.1], flip_y=0.05, class_sep=0.7, random_state=1
    )
    stated = np.array([1.0, 20.0, 20.0])
    model = xgboost.XGBClassifier(n_estimators=60, n_jobs=1, verbosity=0, scale_pos_weight=20.0).fit(X, y)
    report = audit(_margins(model, X), y, TrainingSetup("softmax", class_weights=stated))
    assert report.faults == ("weights_not_applied",)
    model = xgboost.XGBClassifier(n_estimators=60, n_jobs=1).fit(X, y, sample_weight=stated[y])
    report = audit(_margins(model, X), y, TrainingSetup("softmax", class_weights=stated))
    assert report.faults == ()


def test_weights_that_a_pipeline_drops_never_act():
    """Weights are computed, and the call that trains does not pass them on."""
    X, y, ratio = _binary()
    assert _names(_margins(_lightgbm().fit(X, y), X), y, ratio) == ["weights_not_applied"]


def test_is_unbalance_beside_sample_weight_acts_twice():
    """LightGBM multiplies `is_unbalance` and the weights of samples."""
    X, y, ratio = _binary()
    weights = np.where(y == 1, ratio, 1.0)
    once = _lightgbm(is_unbalance=True).fit(X, y)
    assert _names(_margins(once, X), y, ratio) == []
    both = _lightgbm(is_unbalance=True).fit(X, y, sample_weight=weights)
    assert _names(_margins(both, X), y, ratio) == ["weights_applied_twice"]


def test_an_option_that_weighs_whatever_else_is_said_is_found_unstated():
    """A default of `is_unbalance=True` in a shared parameter file: the training says nothing of weights."""
    X, y, ratio = _binary()
    report = audit(
        _margins(_lightgbm(is_unbalance=True).fit(X, y), X), y, TrainingSetup("logistic", targets="binary")
    )
    found = next(f for f in report.findings if f.name == "weights_unstated")
    assert found.measure.value == pytest.approx(ratio, rel=0.3)


def test_a_prior_correction_with_the_wrong_sign_doubles_the_weights():
    """The log weight is added to the logits in place of being taken off."""
    X, y, ratio = _binary()
    model = LogisticRegression(class_weight={0: 1.0, 1: ratio}, C=100.0, max_iter=2000).fit(X, y)
    z = torch.tensor(model.decision_function(X))
    taken = torch.tensor([0.0, -np.log(ratio)])
    assert _names(z + taken[1], y, ratio, logit_shift=taken) == []
    assert _names(z - taken[1], y, ratio, logit_shift=taken) == ["weights_unstated"]
