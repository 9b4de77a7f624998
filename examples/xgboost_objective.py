"""You see LGL-INR and weighted losses as objectives of XGBoost, and what the weights did to the trees.

The weighted objectives find the rare classes more often. The audit says that the weights acted. If they are taken
out of the margins, the probabilities come near the class frequencies.

python examples/xgboost_objective.py
"""

import numpy as np
import torch
import xgboost
from sklearn.datasets import make_classification
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split

from steelyard import log_posterior
from steelyard.integrations.boosting import audit_boosting, margins, objective


def main() -> None:
    X, y = make_classification(
        6000, 12, n_informative=8, n_classes=4, weights=[0.8, 0.13, 0.05], class_sep=0.9, random_state=0
    )
    train, test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    print("class counts of training:", np.bincount(y_train).tolist())

    objectives = {
        "softmax": objective("softmax"),
        "softmax, inverse weights": objective("softmax", class_weights="inverse"),
        "LGL-INR": objective("lgl-inr"),
    }
    models = {}
    for name, made in objectives.items():
        # base_score is the first margin of every class: without it XGBoost takes 0.5, not the class frequencies
        model = xgboost.XGBClassifier(objective=made, base_score=0.0, n_estimators=40, max_depth=3, n_jobs=1)
        models[name] = model.fit(train, y_train)
        predicted = margins(model, test).argmax(1)
        print(f"{name:26} balanced accuracy {balanced_accuracy_score(y_test, predicted):.3f}")

    weighted = models["softmax, inverse weights"]
    print(audit_boosting(weighted, train, y_train).headline)

    setup = objectives["softmax, inverse weights"].setup(np.bincount(y_train))
    honest = log_posterior(torch.from_numpy(margins(weighted, test)), setup).exp().numpy()
    for name, p in (("predict_proba", weighted.predict_proba(test)), ("without the weights", honest)):
        print(f"{name:26} mean probabilities {p.mean(0).round(3)}")
    print(f"{'test rows':26} class frequencies  {(np.bincount(y_test) / len(y_test)).round(3)}")


if __name__ == "__main__":
    main()
