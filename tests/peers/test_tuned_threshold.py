"""Our binary threshold does at least as well on its own rows as scikit-learn's, which tries 100 of them."""

import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import TunedThresholdClassifierCV

from steelyard import thresholds


@pytest.mark.parametrize(
    ("ours", "scoring"), [("balanced-accuracy", "balanced_accuracy"), ("f1", "f1"), ("macro-f1", "f1_macro")]
)
def test_threshold_is_at_least_as_good(ours, scoring):
    X, y = make_classification(1500, weights=[0.9], random_state=0)
    model = LogisticRegression().fit(X, y)
    peer = TunedThresholdClassifierCV(model, scoring=scoring, cv="prefit", refit=False).fit(X, y)
    logit = torch.from_numpy(model.decision_function(X))
    found = thresholds(logit, torch.from_numpy(y), objective=ours)
    score = get_scorer(scoring)._score_func
    options = {"average": "macro"} if scoring == "f1_macro" else {}
    mine = score(y, found.decide(logit).numpy(), **options)
    assert mine >= peer.best_score_ - 1e-12
    assert mine == pytest.approx(peer.best_score_, abs=0.02)
    assert float(found.threshold) == pytest.approx(peer.best_threshold_, abs=0.1)
