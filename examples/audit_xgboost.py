"""You see what `scale_pos_weight` did to XGBoost. Is a digit an eight? One row in ten is.

The audit finds the weight from the margins alone. It says that the weight acted as stated, and it sees the weight
also if nobody states it. The model claims more than twice as many eights as there are. `log_posterior` takes the
weight out: the claim then comes near the truth. It is somewhat too low, because small steps of boosting hold the
margins back. Then one threshold does what the weight did.

python examples/audit_xgboost.py
"""

import numpy as np
import torch
import xgboost
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss, recall_score
from sklearn.model_selection import train_test_split

from steelyard import TrainingSetup, audit, log_posterior
from steelyard.integrations.boosting import audit_boosting, margins


def main() -> None:
    X, digit = load_digits(return_X_y=True)
    X = X[:, 24:40]  # two of eight rows of pixels: with all of them the task is too easy
    y = (digit == 8).astype(int)
    train, test, y_train, y_test = train_test_split(X, y, test_size=0.5, stratify=y, random_state=0)
    counts = np.bincount(y_train)
    weight = float(counts[0] / counts[1])
    print(f"training rows: {counts[1]} eights, {counts[0]} others; scale_pos_weight {weight:.1f}\n")

    # small trees: a model that has memorised its rows no longer shows its weights
    model = xgboost.XGBClassifier(
        n_estimators=300, max_depth=1, learning_rate=0.1, scale_pos_weight=weight, n_jobs=1, random_state=0
    ).fit(train, y_train)

    setup = TrainingSetup("logistic", pos_weight=[weight], class_counts=counts)
    print("1. The weight is stated. Did it act?")
    print("  ", audit_boosting(model, train, y_train, setup).headline)
    print("2. Nobody states it. Does the audit see it?")
    print("  ", audit(margins(model, train), y_train, setup=TrainingSetup("logistic")).headline)

    z = torch.from_numpy(margins(model, test))
    answers = {"predict_proba": z.sigmoid(), "without the weight": log_posterior(z, setup).sigmoid()}
    print("3. What does it claim of new rows, of which a share of", f"{y_test.mean():.3f} are eights?")
    for name, p in answers.items():
        print(f"   {name:18} a share of {p.mean():.3f}, log-loss {log_loss(y_test, p.numpy()):.3f}")
    print("4. What do you decide?")
    for name, threshold in (("p > 1/2", 0.5), (f"p > 1/{1 + weight:.1f}, what the weight did", 1 / (1 + weight))):
        decided = answers["without the weight"].numpy() > threshold
        print(
            f"   {name}: finds {recall_score(y_test, decided):.0%} of the eights, {decided.sum()} rows decided so"
        )


if __name__ == "__main__":
    main()
