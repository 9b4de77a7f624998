"""You see a grid search over losses and class weights with skorch, judged by honest probabilities.

`HonestNetClassifier` takes the weights of each candidate out of its probabilities, so the log-loss compares the
candidates fairly. The winner's mean probabilities come near the class frequencies.

python examples/skorch_grid_search.py
"""

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV

import steelyard
from steelyard.integrations.skorch import HonestNetClassifier


def main() -> None:
    torch.manual_seed(0)
    X, y = make_classification(
        1500, 12, n_informative=8, n_classes=3, weights=[0.85, 0.1, 0.05], class_sep=1.5, random_state=0
    )
    net = HonestNetClassifier(
        torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3)),
        max_epochs=15,
        lr=0.02,
        optimizer=torch.optim.Adam,
        train_split=None,
        verbose=0,
    )
    losses = [steelyard.SoftmaxLoss, steelyard.FocalLoss, steelyard.LogisticLoss]
    grid = {"criterion": losses, "criterion__class_weights": [None, "sqrt_inverse", "inverse"]}
    search = GridSearchCV(net, grid, scoring="neg_log_loss", cv=2)
    search.fit(X.astype(np.float32), y)
    print("log-loss on held-out rows, weights of each fold taken out again:")
    found = search.cv_results_
    rows = zip(found["params"], found["mean_test_score"], strict=True)
    for parameters, score in sorted(rows, key=lambda row: -row[1]):
        print(f"  {parameters['criterion'].name:9} {parameters['criterion__class_weights']!s:13} {-score:.3f}")
    p = search.predict_proba(X.astype(np.float32))
    print("sums of rows:", sorted({round(float(s), 5) for s in p.sum(1)}))
    print("class frequencies", (np.bincount(y) / len(y)).round(3), "and mean probabilities", p.mean(0).round(3))


if __name__ == "__main__":
    main()
