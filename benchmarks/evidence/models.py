"""Models as people train them. Each takes data and a weight for every class and returns logits of both halves."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.data import Data
from steelyard.losses import FocalLoss, LGLINRLoss, LogisticLoss, SoftmaxLoss
from steelyard.training import Recipe, SmallCNN, fit, predict

BATCH, GAMMA, SMOOTHING, MIXUP = 32, 2.0, 0.1, 0.4
Logits = tuple[np.ndarray, np.ndarray]


class Plan(NamedTuple):
    """What a training does with weights: those in its loss, those of its sampler, and for how many epochs."""

    weights: np.ndarray
    sampler: np.ndarray | None
    epochs: int
    seed: int


class Model(NamedTuple):
    """A model: its family, the loss that its training minimises, and how it is trained."""

    family: str
    loss: str
    train: Callable[[Data, Plan], Logits]


def _by_row(plan: Plan, y: np.ndarray) -> np.ndarray:
    """Return the weight of every row; a sampler of models without batches is a weight too."""
    weights = plan.weights if plan.sampler is None else plan.weights * plan.sampler
    return weights[y]


def logistic_regression(C: float) -> Callable[[Data, Plan], Logits]:
    def train(data: Data, plan: Plan) -> Logits:
        x, held = (_flat(part) for part in (data.x, data.held_x))
        tolerance = 1e-8 if data.y.max() < 20 else 1e-6
        model = LogisticRegression(C=C, tol=tolerance, max_iter=20000)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="lbfgs failed to converge")
            model.fit(x, data.y, sample_weight=_by_row(plan, data.y))
        return model.decision_function(x), model.decision_function(held)

    return train


def hist_boosting(rounds: int) -> Callable[[Data, Plan], Logits]:
    def train(data: Data, plan: Plan) -> Logits:
        model = HistGradientBoostingClassifier(max_iter=rounds, early_stopping=False, random_state=plan.seed)
        model.fit(data.x, data.y, sample_weight=_by_row(plan, data.y))
        return model.decision_function(data.x), model.decision_function(data.held_x)

    return train


def xgboost(rounds: int) -> Callable[[Data, Plan], Logits]:
    def train(data: Data, plan: Plan) -> Logits:
        from xgboost import XGBClassifier

        model = XGBClassifier(n_estimators=rounds, n_jobs=1, random_state=plan.seed)
        model.fit(data.x, data.y, sample_weight=_by_row(plan, data.y))
        return tuple(model.predict(part, output_margin=True) for part in (data.x, data.held_x))

    return train


def lightgbm(rounds: int) -> Callable[[Data, Plan], Logits]:
    def train(data: Data, plan: Plan) -> Logits:
        from lightgbm import LGBMClassifier

        model = LGBMClassifier(n_estimators=rounds, n_jobs=1, random_state=plan.seed, verbose=-1)
        model.fit(data.x, data.y, sample_weight=_by_row(plan, data.y))
        return tuple(model.predict(part, raw_score=True) for part in (data.x, data.held_x))

    return train


def forest(data: Data, plan: Plan) -> Logits:
    """Return log-probabilities of a random forest, half a tree of 100 in place of none."""
    model = RandomForestClassifier(100, min_samples_leaf=3, random_state=plan.seed)
    model.fit(data.x, data.y, sample_weight=_by_row(plan, data.y))
    return tuple(np.log(model.predict_proba(part).clip(0.005)) for part in (data.x, data.held_x))


def head(loss: str) -> Callable[[Data, Plan], Logits]:
    """Bring a linear layer to the optimum of a loss, in float64."""

    def train(data: Data, plan: Plan) -> Logits:
        x, held = (torch.tensor(_flat(part), dtype=torch.float64) for part in (data.x, data.held_x))
        y, classes = torch.tensor(data.y), len(plan.weights)
        weights = torch.tensor(plan.weights if plan.sampler is None else plan.weights * plan.sampler)
        prior = torch.bincount(y, minlength=classes).double().log()
        value = {
            "focal": FocalLoss(gamma=GAMMA, class_weights=weights),
            "one-vs-all": LogisticLoss(class_weights=weights),
            "smoothed": nn.CrossEntropyLoss(weight=weights, label_smoothing=SMOOTHING),
            "adjusted": lambda z, t: F.cross_entropy(z + prior, t, weight=weights),
        }[loss]
        layer = nn.Linear(x.shape[1], classes, dtype=torch.float64)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.LBFGS(
            layer.parameters(), max_iter=3000, max_eval=6000, tolerance_grad=1e-10, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            result = value(layer(x), y)
            result.backward()
            return result

        optimizer.step(closure)
        slope = float(layer.bias.grad.abs().max())
        if not slope < 1e-6:
            raise ArithmeticError(f"the optimum of {loss} was not reached: slope {slope:.2g}")
        with torch.no_grad():
            return layer(x).numpy(), layer(held).numpy()

    return train


class Perceptron(nn.Module):
    """Two hidden layers with batch norm and dropout, on features or on the pixels of images."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs in (width, 64):
            layers += [nn.Linear(inputs, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3)]
        self.layers = nn.Sequential(*layers, nn.Linear(64, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.float() / 16 if x.dim() == 4 else x)


class Binary(nn.Module):
    """Torch's binary loss of one column of logits."""

    def __init__(self, pos_weight: Tensor) -> None:
        super().__init__()
        self.loss = nn.BCEWithLogitsLoss(pos_weight=pos_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.loss(logits[:, 0], target.float())


def network(kind: str, loss: str, rate: float = 0.03) -> Callable[[Data, Plan], Logits]:
    """Train a network with SGD and momentum, in larger batches on more rows.

    A sampler draws with replacement, new rows for every epoch.
    """

    def train(data: Data, plan: Plan) -> Logits:
        generator = torch.Generator().manual_seed(plan.seed)
        floating = torch.as_tensor(data.x).dtype.is_floating_point
        x, held = (
            torch.as_tensor(part).to(torch.float32 if floating else torch.uint8) for part in (data.x, data.held_x)
        )
        y, classes = torch.tensor(data.y), len(plan.weights)
        weights = torch.tensor(plan.weights, dtype=torch.float32)
        torch.manual_seed(plan.seed)
        outputs = 1 if loss == "binary" else classes
        net = SmallCNN(x, outputs) if kind == "cnn" else Perceptron(x[0].numel(), outputs)
        made = {
            "softmax": lambda: SoftmaxLoss(class_weights=weights),
            "torch": lambda: nn.CrossEntropyLoss(weight=weights),
            "mixup": lambda: nn.CrossEntropyLoss(weight=weights),
            "smoothed": lambda: nn.CrossEntropyLoss(weight=weights, label_smoothing=SMOOTHING),
            "one-vs-all": lambda: LogisticLoss(class_weights=weights),
            "lgl-inr": LGLINRLoss,
            "binary": lambda: Binary(weights[1] / weights[0]),
        }[loss]()
        batch = BATCH if len(y) < 1000 else 2 * BATCH if len(y) < 2500 else 4 * BATCH
        part, recipe = (x, y), Recipe(plan.epochs, batch, rate)
        if plan.sampler is not None or loss == "mixup":  # all epochs in one, so that each row is drawn by itself
            chances = torch.ones(len(y)) if plan.sampler is None else torch.tensor(plan.sampler)[y]
            rows = plan.epochs * len(y)
            drawn = torch.multinomial(chances.double(), rows, replacement=True, generator=generator)
            part, recipe = (x[drawn], y[drawn]), Recipe(1, batch, rate)
            if loss == "mixup":
                part = _mixed(*part, classes, plan.seed, generator)
        with tempfile.TemporaryDirectory() as folder:
            fit(net, made, part, (x[:64], y[:64]), recipe, seed=plan.seed, checkpoint=Path(folder) / "last.ckpt")
        return tuple(predict(net, part).squeeze(1).numpy() for part in (x, held))

    return train


def _mixed(x: Tensor, y: Tensor, classes: int, seed: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return every row mixed with another, and targets mixed in the same share."""
    share = torch.tensor(np.random.default_rng(seed).beta(MIXUP, MIXUP, len(y)), dtype=torch.float32)
    other, target = torch.randperm(len(y), generator=generator), F.one_hot(y, classes).float()
    by = share.reshape(-1, *[1] * (x.dim() - 1))
    return by * x.float() + (1 - by) * x[other].float(), share[:, None] * target + (1 - share[:, None]) * target[
        other
    ]


def _flat(x: object) -> object:
    return x.reshape(len(x), -1) / 16.0 if getattr(x, "ndim", 2) == 4 else x


MODELS = {
    "logistic C=100": Model("linear", "softmax", logistic_regression(100)),
    "logistic C=0.01": Model("linear", "softmax", logistic_regression(0.01)),
    "logistic C=1": Model("linear", "softmax", logistic_regression(1)),
    "focal head": Model("linear", "focal", head("focal")),
    "one-vs-all head": Model("linear", "one-vs-all", head("one-vs-all")),
    "smoothed head": Model("linear", "smoothed", head("smoothed")),
    "adjusted head": Model("linear", "adjusted", head("adjusted")),
    "HistGradientBoosting 20": Model("boosting", "softmax", hist_boosting(20)),
    "HistGradientBoosting 100": Model("boosting", "softmax", hist_boosting(100)),
    "XGBoost 20": Model("boosting", "softmax", xgboost(20)),
    "XGBoost 100": Model("boosting", "softmax", xgboost(100)),
    "LightGBM 20": Model("boosting", "softmax", lightgbm(20)),
    "LightGBM 100": Model("boosting", "softmax", lightgbm(100)),
    "random forest": Model("forest", "softmax", forest),
    "MLP": Model("networks", "softmax", network("mlp", "softmax")),
    "MLP, one output": Model("networks", "softmax", network("mlp", "binary")),
    "MLP, one-vs-all": Model("networks", "one-vs-all", network("mlp", "one-vs-all")),
    "MLP, smoothed": Model("networks", "smoothed", network("mlp", "smoothed")),
    "MLP, mixup": Model("networks", "softmax", network("mlp", "mixup")),
    "CNN": Model("networks", "softmax", network("cnn", "torch")),
    "CNN, mixup": Model("networks", "softmax", network("cnn", "mixup")),
    "CNN, one-vs-all": Model("networks", "one-vs-all", network("cnn", "one-vs-all")),
    "CNN, LGL-INR": Model("networks", "lgl-inr", network("cnn", "lgl-inr", 0.1)),
}
