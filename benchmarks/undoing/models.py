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
from evidence.models import BATCH, GAMMA, SMOOTHING, Perceptron
from prior_calibration import ESTIMATORS as KNOWN
from steelyard import TrainingSetup
from steelyard.balance import mean_confusion
from steelyard.losses import FocalLoss, LGLINRLoss
from steelyard.training import SmallCNN, predict
from undoing import texts
from undoing.data import Rows
from undoing.fitting import SGD, Plan, fit, sgd

NO_PENALTY = "logistic regression, no penalty"
ESTIMATORS: dict[str, BaseEstimator] = {
    **{name: KNOWN[name] for name in KNOWN if name != "MLP"},
    "CatBoost": CatBoostClassifier(iterations=200, thread_count=1, verbose=0, allow_writing_files=False),
    NO_PENALTY: make_pipeline(StandardScaler(), LogisticRegression(C=np.inf, max_iter=5000)),
    "TF-IDF, logistic regression": make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=2000)),
}
FINE_TUNED = "MiniLM, last layer trained"
NETWORKS = ("MLP", "MLP on MiniLM", FINE_TUNED, "CNN")
WEIGHTED = ("class weights", "sampler", "scale_pos_weight", "pos_weight", "focal", "label smoothing")
TREATMENTS = (*WEIGHTED, "LGL-INR")
EPOCHS, IMAGE_EPOCHS = 20, 10
_TREE = 0.005  # half a tree of a forest of 100, where no tree votes for a class


class Trained(NamedTuple):
    """Outputs of validation and test rows, (N, K) or (N,) of one output, and what was done in training."""

    validation: Tensor
    test: Tensor
    setup: TrainingSetup
    mean_confusion: Tensor | None = None
    rate: float = float("nan")
    epochs: int = 0


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
    y, validation_y = torch.from_numpy(rows.y), torch.from_numpy(rows.validation_y)
    loss, sampler = _loss(treatment, rows.counts), weights_of("sampler", rows.counts)
    outputs = 1 if treatment == "pos_weight" else len(rows.counts)

    def make() -> nn.Module:
        if model == FINE_TUNED:
            return texts.FineTuned(outputs)
        return SmallCNN(parts[0], outputs) if model == "CNN" else Perceptron(parts[0].shape[1], outputs)

    chances = torch.from_numpy(sampler)[y] if treatment == "sampler" else None
    plan = plan_of(model, parts[0])
    net, rate, epochs = fit(make, loss, (parts[0], y), (parts[1], validation_y), plan, chances, seed)
    own, validation, test = (predict(net, part).squeeze(1).double() for part in parts)
    confusion = None
    if treatment == "LGL-INR":
        confusion, _ = mean_confusion(own, y, link="logistic")
    setup = TrainingSetup(
        loss,
        sampler_weights=sampler if treatment == "sampler" else None,
        class_counts=rows.counts,
        batch_size=plan.batch,
    )
    return Trained(validation, test, setup, confusion, rate, epochs)


def plan_of(model: str, x: Tensor) -> Plan:
    """Return what is tried for a network, the same for every training of it."""
    if model == FINE_TUNED:
        return Plan((3e-4, 1e-3), 3, BATCH, torch.optim.AdamW)
    epochs = IMAGE_EPOCHS if x.dim() == 4 and x.shape[-1] > 8 else EPOCHS
    return sgd(SGD, epochs, BATCH if len(x) < 1000 else 2 * BATCH)


def _loss(treatment: str, counts: np.ndarray) -> nn.Module:
    w = torch.tensor(weights_of(treatment, counts), dtype=torch.float32)
    if treatment == "class weights":
        return nn.CrossEntropyLoss(weight=w)
    if treatment == "pos_weight":
        return nn.BCEWithLogitsLoss(pos_weight=w[1:])
    if treatment == "focal":
        return FocalLoss(gamma=GAMMA, class_weights=w)
    if treatment == "label smoothing":
        return nn.CrossEntropyLoss(weight=w, label_smoothing=SMOOTHING)
    return LGLINRLoss(detach_weights=True) if treatment == "LGL-INR" else nn.CrossEntropyLoss()


def _network_inputs(model: str, rows: Rows) -> list[Tensor]:
    """Return training, validation and test inputs: images as bytes, features scaled by the training rows."""
    parts = [rows.x, rows.validation_x, rows.test_x]
    if model == FINE_TUNED:
        return [texts.states(part.tolist()) for part in parts]
    if model == "CNN":
        images = ((part.reshape(-1, 1, 8, 8) if part.ndim == 2 else part).astype(np.uint8) for part in parts)
        return [torch.from_numpy(part) for part in images]
    if model == "MLP on MiniLM":
        parts = [_embedded(part.tolist()) for part in parts]
    scaler = StandardScaler().fit(parts[0])
    return [torch.from_numpy(scaler.transform(part).astype(np.float32)) for part in parts]


_SENTENCES: dict[str, np.ndarray] = {}  # once a process: they are the same for every seed and treatment


def _embedded(sentences: list[str]) -> np.ndarray:
    missing = sorted({text for text in sentences if text not in _SENTENCES}, key=len)
    if missing:
        _SENTENCES.update(zip(missing, frozen.sentence_features(missing), strict=True))
    return np.stack([_SENTENCES[text] for text in sentences])
