"""Models as people train them, plain and with what weighs classes or changes the loss."""

from typing import NamedTuple

import numpy as np
import torch
from catboost import CatBoostClassifier
from imblearn.over_sampling import RandomOverSampler
from sklearn.base import BaseEstimator, clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from xgboost import XGBClassifier

from evidence import frozen
from evidence.data import Data
from evidence.models import GAMMA, SMOOTHING, Plan, batch_of, network
from prior_calibration import ESTIMATORS as KNOWN
from steelyard import TrainingSetup
from steelyard.balance import mean_confusion
from undoing.data import Rows

ESTIMATORS: dict[str, BaseEstimator] = {
    **{name: KNOWN[name] for name in KNOWN if name != "MLP"},
    "CatBoost": CatBoostClassifier(iterations=200, thread_count=1, verbose=0, allow_writing_files=False),
    "TF-IDF, logistic regression": make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=2000)),
}
NETWORKS = {"MLP": "mlp", "MLP on MiniLM": "mlp", "CNN": "cnn"}
WEIGHTED = ("class weights", "sampler", "scale_pos_weight", "pos_weight", "focal", "label smoothing")
TREATMENTS = (*WEIGHTED, "LGL-INR")
EPOCHS, IMAGE_EPOCHS = 40, 12
_TREE = 0.005  # half a tree of a forest of 100, where no tree votes for a class


class Trained(NamedTuple):
    """Outputs of validation and test rows, (N, K) or (N,) of one output, and what was done in training."""

    validation: Tensor
    test: Tensor
    setup: TrainingSetup
    mean_confusion: Tensor | None = None


def train(model: str, treatment: str, rows: Rows, seed: int) -> Trained:
    """Train a model with what a treatment does, or plain, ``""``."""
    if treatment not in ("", *TREATMENTS):
        raise ValueError(f"treatment must be one of {', '.join(TREATMENTS)}, got {treatment!r}")
    return (_train_network if model in NETWORKS else _train_estimator)(model, treatment, rows, seed)


def weights_of(treatment: str, counts: np.ndarray) -> np.ndarray:
    """Return (K,) weights: inverse to the counts, mean 1 over rows; of binary outputs those of positives alone."""
    if treatment in ("scale_pos_weight", "pos_weight"):
        return np.array([1.0, counts[0] / counts[1]])
    return counts.sum() / (len(counts) * counts)


def _train_estimator(model: str, treatment: str, rows: Rows, seed: int) -> Trained:
    estimator, x, y, params = clone(ESTIMATORS[model]), rows.x, rows.y, {}
    names = [name for name in estimator.get_params() if name.split("__")[-1] in ("random_state", "random_seed")]
    estimator.set_params(**dict.fromkeys([*names, *["random_seed"] * (model == "CatBoost")], seed))
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    weights = weights_of(treatment, rows.counts)
    setup = TrainingSetup("softmax", class_counts=rows.counts)
    if treatment == "sampler":
        drawn = RandomOverSampler(random_state=seed).fit_resample(np.arange(len(y))[:, None], y)[0][:, 0]
        x, y = x[drawn], y[drawn]
        setup = TrainingSetup("softmax", sampler_weights=weights, class_counts=rows.counts)
    elif treatment in ("class weights", "scale_pos_weight"):
        setup = TrainingSetup("softmax", class_weights=weights, class_counts=rows.counts)
        if treatment == "scale_pos_weight":
            last.set_params(scale_pos_weight=float(weights[1]))
        elif isinstance(last, XGBClassifier):
            params = {"sample_weight": weights[y]}
        elif isinstance(last, CatBoostClassifier):
            last.set_params(auto_class_weights="Balanced")
        else:
            last.set_params(class_weight="balanced")
    elif treatment:
        raise ValueError(f"{model} is trained with weights or a sampler, got {treatment!r}")
    estimator.fit(x, y, **params)
    least = _TREE if model == "random forest" else 1e-15
    logits = (
        torch.from_numpy(np.log(np.asarray(estimator.predict_proba(part), np.float64).clip(least)))
        for part in (rows.validation_x, rows.test_x)
    )
    return Trained(*logits, setup)


def _train_network(model: str, treatment: str, rows: Rows, seed: int) -> Trained:
    if treatment == "scale_pos_weight":
        raise ValueError(f"{model} has no scale_pos_weight")
    parts = _network_inputs(model, rows)
    data = Data(parts[0], rows.y, np.concatenate(parts[1:]), None)
    counts, weights = rows.counts, weights_of(treatment, rows.counts)
    ones = np.ones(len(counts))
    loss = {
        "pos_weight": "binary",
        "focal": "focal",
        "label smoothing": "smoothed",
        "LGL-INR": "lgl-inr, detached",
    }.get(treatment, "torch")
    acts = ones if treatment in ("", "sampler", "LGL-INR") else weights
    epochs = IMAGE_EPOCHS if parts[0].ndim == 4 and parts[0].shape[-1] > 8 else EPOCHS
    plan = Plan(acts, weights if treatment == "sampler" else None, epochs, seed)
    rate = 0.1 if treatment == "LGL-INR" else 0.03
    own, held = (torch.from_numpy(part).double() for part in network(NETWORKS[model], loss, rate)(data, plan))
    confusion = None
    if treatment == "LGL-INR":
        confusion, _ = mean_confusion(own, torch.from_numpy(rows.y), link="logistic")
    validation, test = held.split([len(rows.validation_y), len(rows.test_y)])
    return Trained(validation, test, _setup(treatment, counts, weights), confusion)


def _setup(treatment: str, counts: np.ndarray, weights: np.ndarray) -> TrainingSetup:
    w = torch.tensor(weights)
    return {
        "": lambda: TrainingSetup("softmax", class_counts=counts),
        "class weights": lambda: TrainingSetup("softmax", class_weights=w, class_counts=counts),
        "sampler": lambda: TrainingSetup("softmax", sampler_weights=w, class_counts=counts),
        "pos_weight": lambda: TrainingSetup(nn.BCEWithLogitsLoss(pos_weight=w[1:]), class_counts=counts),
        "focal": lambda: TrainingSetup("focal", gamma=GAMMA, class_weights=w, class_counts=counts),
        "label smoothing": lambda: TrainingSetup(
            nn.CrossEntropyLoss(weight=w, label_smoothing=SMOOTHING), class_counts=counts
        ),
        "LGL-INR": lambda: TrainingSetup(
            "lgl-inr", detach_weights=True, batch_size=batch_of(int(counts.sum())), class_counts=counts
        ),
    }[treatment]()


def _network_inputs(model: str, rows: Rows) -> list[np.ndarray]:
    """Return training, validation and test inputs: images as bytes, features scaled by the training rows."""
    parts = [rows.x, rows.validation_x, rows.test_x]
    if model == "CNN":
        return [(part.reshape(-1, 1, 8, 8) if part.ndim == 2 else part).astype(np.uint8) for part in parts]
    if model == "MLP on MiniLM":
        parts = [_embedded(part.tolist()) for part in parts]
    scaler = StandardScaler().fit(parts[0])
    return [scaler.transform(part).astype(np.float32) for part in parts]


_SENTENCES: dict[str, np.ndarray] = {}  # once a process: they are the same for every seed and treatment


def _embedded(texts: list[str]) -> np.ndarray:
    missing = sorted({text for text in texts if text not in _SENTENCES}, key=len)
    if missing:
        _SENTENCES.update(zip(missing, frozen.sentence_features(missing), strict=True))
    return np.stack([_SENTENCES[text] for text in texts])
