"""Gradient boosting: scikit-learn's histogram trees, XGBoost and LightGBM.

Class weights go in as weights of rows, with mean 1 over the training rows, so that what a library adds to its sums
means the same under every loss. Each split looks at a random 80% of the columns, which is what a seed draws: every
tree sees all rows, so the pulls and pushes of a loss meet in it as they do over all rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard._common.files import write_atomically
from steelyard._common.text import listed
from steelyard.integrations.boosting import MEANINGLESS, Objective, objective
from steelyard.notation import LossSpec
from steelyard.training.learners.base import (
    Learner,
    Setting,
    Task,
    check_on_cpu,
    finite,
    flat,
    plain_loss,
    refuse_late_weights,
    row_weights,
)

_COLUMNS = 0.8  # of which each split looks at


@dataclass(frozen=True)
class Boosted:
    """Trees, as functions of rows (N, D) to margins, and to a file of the library's own format."""

    margins: Callable[[Any], Any]
    file: str | None
    content: Callable[[], bytes] | None
    history: list[dict[str, float]]

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the margins, one a class, (N, K)."""
        found = torch.as_tensor(np.asarray(self.margins(flat(inputs).numpy()), dtype=np.float32))
        if found.dim() == 1:  # of two classes: that of the second, the first being 0
            found = torch.stack([torch.zeros_like(found), found], 1)
        return found

    def features(self, inputs: Tensor) -> None:
        """Return None: trees have no linear head."""

    def save(self, folder: str | PathLike[str]) -> list[str]:
        """Write the trees in the library's own format, where it has one that is data alone."""
        if self.file is None or self.content is None:
            return []
        content = self.content()
        write_atomically(Path(folder) / self.file, lambda f: f.write(content))
        return [self.file]


@dataclass(frozen=True)
class Goal:
    """What is trained: rows, what each weighs, and the loss: a built-in one by its name, or ours."""

    rows: Any
    labels: Any
    weights: Any
    size: int
    loss: str | Objective
    rate: float
    rounds: int
    seed: int


def _scikit_learn(goal: Goal) -> Boosted:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    trees = HistGradientBoostingClassifier(
        learning_rate=goal.rate,
        max_iter=goal.rounds,
        max_features=_COLUMNS,
        early_stopping=False,
        random_state=goal.seed,
    )
    with threadpool_limits(torch.get_num_threads()):
        trees.fit(goal.rows, goal.labels, sample_weight=goal.weights)
    return Boosted(trees.decision_function, None, None, [])


def _xgboost(goal: Goal) -> Boosted:
    import xgboost

    labels, custom = goal.labels, None
    settings: dict[str, Any] = {
        "eta": goal.rate,
        "seed": goal.seed,
        "colsample_bynode": _COLUMNS,
        "tree_method": "hist",
        "nthread": torch.get_num_threads(),
        "verbosity": 0,
    }
    if goal.loss == "logistic":
        settings["objective"] = "binary:logistic"
        labels = np.eye(goal.size, dtype=np.float32)[labels]
    else:
        settings |= {"objective": "multi:softprob", "num_class": goal.size}
    if isinstance(goal.loss, Objective):
        settings["base_score"] = 0.0
        custom = goal.loss
    data = xgboost.DMatrix(goal.rows, label=labels, weight=goal.weights)
    trees = xgboost.train(settings, data, num_boost_round=goal.rounds, obj=custom)
    return Boosted(
        lambda rows: trees.predict(xgboost.DMatrix(rows), output_margin=True),
        "model.ubj",
        lambda: bytes(trees.save_raw("ubj")),
        [],
    )


def _lightgbm(goal: Goal) -> Boosted:
    import lightgbm

    built_in = {"softmax": "multiclass", "logistic": "multiclassova"}
    settings = {
        "objective": goal.loss if isinstance(goal.loss, Objective) else built_in[goal.loss],
        "num_class": goal.size,
        "learning_rate": goal.rate,
        "seed": goal.seed,
        "feature_fraction_bynode": _COLUMNS,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": torch.get_num_threads(),
        "verbosity": -1,
    }
    data = lightgbm.Dataset(goal.rows, label=goal.labels, weight=goal.weights, params={"verbosity": -1})
    trees = lightgbm.train(settings, data, num_boost_round=goal.rounds)
    return Boosted(
        lambda rows: trees.predict(rows, raw_score=True), "model.txt", lambda: trees.model_to_string().encode(), []
    )


@dataclass(frozen=True)
class _Library:
    module: str
    install: str
    train: Callable[[Goal], Boosted]
    built_in: tuple[str, ...]
    objectives: bool


_LIBRARIES = {
    "hist-gradient-boosting": _Library("sklearn", "'steelyard[sklearn]'", _scikit_learn, ("softmax",), False),
    "xgboost": _Library("xgboost", "xgboost", _xgboost, ("softmax", "logistic"), True),
    "lightgbm": _Library("lightgbm", "lightgbm", _lightgbm, ("softmax", "logistic"), True),
}
BOOSTING = tuple(_LIBRARIES)


class BoostingLearner(Learner):
    """Boosted trees of a library, as its defaults are but for rate, rounds and the columns of a split.

    Args:
        name: of ``BOOSTING``.

    Raises:
        ImportError: the library is not installed.
    """

    settings = ("learning_rates", "rounds")

    def __init__(self, name: str) -> None:
        self.name, self.library = name, _LIBRARIES[name]
        if find_spec(self.library.module) is None:
            raise ImportError(f"learner {name} needs {self.library.module}: pip install {self.library.install}")

    def check(self, spec: LossSpec) -> None:
        """Refuse a loss that the library neither has nor takes as an objective."""
        refuse_late_weights(self.name, spec)
        if plain_loss(spec) not in self.library.built_in and not self.library.objectives:
            raise ValueError(
                f"learner {self.name} cannot train {spec.label}; it takes {listed(list(self.library.built_in))} "
                "with class weights"
            )

    def check_inputs(self, inputs: Tensor, num_classes: int, setting: Setting) -> None:
        """Accept images too: a row is then all pixels."""
        check_on_cpu(self.name, setting)

    def fit(self, task: Task, setting: Setting) -> Boosted:
        """Boost for all rounds; nothing stops early."""
        inputs, target = task.train
        counts, size = task.class_counts, len(task.class_counts)
        loss: str | Objective | None = plain_loss(task.spec)
        weights = row_weights(task)
        if loss is None or loss not in self.library.built_in:
            made = task.spec.loss(counts, len(target))  # of a preset: what it is made of
            given = made.defaults["module"].keys() - MEANINGLESS
            options = {key: value for key, value in made.chosen().items() if key in given}
            if options.get("class_weights") is not None:
                w = options["class_weights"].double()
                options["class_weights"] = w * counts.sum() / (counts * w).sum()
            loss = objective(made.name, library=self.name, class_counts=counts, **options)  # type: ignore[arg-type]
            weights = None  # they are in the objective
        goal = Goal(
            flat(inputs).numpy(),
            target.numpy(),
            None if weights is None else weights.numpy(),
            size,
            loss,
            task.rate,
            setting.rounds,
            task.seed,
        )
        found = self.library.train(goal)
        finite(found.logits(inputs), self.name, task)
        return found

    def words(self, setting: Setting) -> str:
        """Return the library and the rounds."""
        return f"{setting.rounds} rounds of gradient boosting ({self.name})"
