"""What weighs the classes while an estimator is fitted, read off its parameters; nothing is measured here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    HistGradientBoostingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import Pipeline

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Seen:
    """What a classifier is given to fit.

    Attributes:
        X: rows.
        y: (N,) labels.
        classes: (K,) sorted labels.
        counts: (K,) rows of each class.
        masses: (K,) what the rows of each class weigh together; the counts where nothing weighs them.
    """

    X: Any
    y: Array
    classes: Array
    counts: Array
    masses: Array

    @classmethod
    def of(cls, X: Any, y: Array, sample_weight: Any = None) -> "Seen":
        """Return what these rows are, with their sample weights."""
        classes, codes = np.unique(y, return_inverse=True)
        counts = np.bincount(codes).astype(np.float64)
        masses = counts if sample_weight is None else np.bincount(codes, np.asarray(sample_weight, np.float64))
        return cls(X, y, classes, counts, masses)

    @property
    def codes(self) -> "Seen":
        """Return the same with classes 0 to K - 1, for estimators that number them first."""
        return replace(self, y=np.searchsorted(self.classes, self.y), classes=np.arange(len(self.classes)))


def masses_of(estimator: Any, seen: Seen) -> Array:
    """Return what each class weighs in the loss that an estimator minimises, (K,), up to one factor.

    Args:
        estimator: fitted; its parameters are read, of a search the best; a pipeline's samplers draw once more.
        seen: what it was given.

    Raises:
        ValueError: something weighs classes in a way that no weight of a class describes; the sentence names it.
    """
    if hasattr(estimator, "best_estimator_"):  # scikit-learn's searches, and those of others
        return masses_of(estimator.best_estimator_, seen)
    for kind, read in _KINDS.items():
        if isinstance(estimator, kind):
            return read(estimator, seen)
    masses = _of_parameters(estimator, seen)
    for inner in _inside(estimator):
        if _differ(masses_of(inner, seen), seen.masses):
            raise ValueError(
                f"{_name(estimator)} holds {_name(inner)}, which weighs classes, and what becomes of that is not "
                "known: state train_prior and leave the weights inside at their defaults"
            )
    return masses


def _of_parameters(estimator: Any, seen: Seen) -> Array:
    parameters = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
    if isinstance(estimator, ComplementNB):
        return seen.masses
    if isinstance(estimator, HistGradientBoostingClassifier):
        seen = seen.codes
    for name in _REFUSED & parameters.keys():
        value = parameters[name]
        if value is not None and not (isinstance(value, Real) and value == 1):
            raise ValueError(
                f"{_name(estimator)} has {name}={value!r}, which weighs classes in a way that cannot be "
                "taken out: leave it at its default and give class_weights instead"
            )
    for name, read in _READERS.items():
        if name in parameters and parameters[name] is not None:
            seen = replace(seen, masses=read(parameters[name], seen, f"{name} of {_name(estimator)}"))
    if not (np.isfinite(seen.masses).all() and (seen.masses > 0).all()):
        raise ValueError(
            f"every class must weigh more than 0 in {_name(estimator)}, got {seen.masses.tolist()} for "
            f"{seen.classes.tolist()}"
        )
    return seen.masses


def _class_weight(value: Any, seen: Seen, where: str) -> Array:
    if isinstance(value, str):
        if value not in ("balanced", "balanced_subsample"):
            raise ValueError(f"{where} must be a mapping or 'balanced', got {value!r}")
        return _balanced(seen, 1.0, where)
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a mapping or 'balanced', got {type(value).__name__}")
    factors = [value.get(label, 1.0) for label in seen.classes.tolist()]
    return seen.masses * np.asarray(factors, dtype=np.float64)


def _class_weights(value: Any, seen: Seen, where: str) -> Array:
    """CatBoost: a list in the order of the classes, or a mapping."""
    if isinstance(value, Mapping):
        return _class_weight(value, seen, where)
    factors = np.asarray(value, dtype=np.float64)
    if factors.shape != seen.classes.shape:
        raise ValueError(f"{where} must have one weight per class, got {value!r}")
    return seen.masses * factors


def _auto_class_weights(value: Any, seen: Seen, where: str) -> Array:
    powers = {"None": 0.0, "SqrtBalanced": 0.5, "Balanced": 1.0}
    if value not in powers:
        raise ValueError(f"{where} must be 'Balanced' or 'SqrtBalanced', got {value!r}")
    return _balanced(seen, powers[value], where) if powers[value] else seen.masses


def _balanced(seen: Seen, power: float, where: str) -> Array:
    # Some estimators count rows here and some add their weights up, by version: only where both agree it is known.
    if _differ(seen.masses, seen.counts):
        raise ValueError(
            f"{where} is balanced and sample_weight weighs classes too, which estimators combine in different "
            "ways: give class_weights instead"
        )
    masses: Array = seen.masses / seen.counts**power
    return masses


def _scale_pos_weight(value: Any, seen: Seen, where: str) -> Array:
    if value == 1:
        return seen.masses
    _need_two(seen, where)
    masses: Array = seen.masses * np.array([1.0, float(value)])
    return masses


def _is_unbalance(value: Any, seen: Seen, where: str) -> Array:
    if not value or value in ("false", "False", "0"):
        return seen.masses
    _need_two(seen, where)
    return seen.masses / seen.counts


def _priors(value: Any, seen: Seen, where: str) -> Array:
    return np.asarray(value, dtype=np.float64)


def _fit_prior(value: Any, seen: Seen, where: str) -> Array:
    return seen.masses if value else np.ones_like(seen.masses)


def _sampling_strategy(value: Any, seen: Seen, where: str) -> Array:
    """imbalanced-learn's ensembles: each member sees classes as an under-sampler leaves them."""
    from imblearn.under_sampling import RandomUnderSampler

    return _resampled(RandomUnderSampler(sampling_strategy=value), seen).masses


def _need_two(seen: Seen, where: str) -> None:
    if len(seen.classes) != 2:
        raise ValueError(
            f"{where} weighs one class of two, got {len(seen.classes)} classes: give class_weights instead"
        )


# In this order: "balanced" counts what a sampler left; a given prior replaces what rows weigh.
_READERS: dict[str, Callable[[Any, Seen, str], Array]] = {
    "sampling_strategy": _sampling_strategy,
    "class_weight": _class_weight,
    "class_weights": _class_weights,
    "auto_class_weights": _auto_class_weights,
    "scale_pos_weight": _scale_pos_weight,
    "is_unbalance": _is_unbalance,
    "unbalance": _is_unbalance,
    "unbalanced_sets": _is_unbalance,
    "fit_prior": _fit_prior,
    "class_prior": _priors,
    "priors": _priors,
}
_REFUSED = {
    *("pos_bagging_fraction", "pos_sub_row", "pos_subsample", "pos_bagging"),
    *("neg_bagging_fraction", "neg_sub_row", "neg_subsample", "neg_bagging"),
    *("criterion__weight", "criterion__pos_weight"),
}


def _pipeline(estimator: Any, seen: Seen) -> Array:
    steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
    samplers = [i for i, step in enumerate(steps) if hasattr(step, "fit_resample")]
    for step in steps[: samplers[-1] + 1] if samplers else []:
        if hasattr(step, "fit_resample"):
            seen = _resampled(clone(step), seen)
        else:
            seen = replace(seen, X=step.transform(seen.X))
    return masses_of(steps[-1], seen)


def _resampled(sampler: Any, seen: Seen) -> Seen:
    X, y = sampler.fit_resample(seen.X, seen.y)
    found = Seen.of(X, np.asarray(y))
    if len(found.classes) < len(seen.classes):
        raise ValueError(f"{_name(sampler)} must leave rows of every class, got {found.classes.tolist()}")
    return found


def _calibrated(estimator: Any, seen: Seen) -> Array:
    # Platt's and isotonic calibrators see rows as they are, so what weighed the classes inside is out already.
    return masses_of(estimator.estimator, seen) if estimator.method == "temperature" else seen.masses


def _one_vs_rest(estimator: Any, seen: Seen) -> Array:
    if len(seen.classes) == 2:
        return masses_of(estimator.estimator, seen.codes)
    for label, count, mass in zip(seen.classes, seen.counts, seen.masses, strict=True):
        counts = np.array([seen.counts.sum() - count, count])
        masses = np.array([seen.masses.sum() - mass, mass])
        one = Seen(seen.X, (seen.y == label).astype(int), np.arange(2), counts, masses)
        if _differ(masses_of(estimator.estimator, one), masses):
            raise ValueError(
                f"OneVsRestClassifier of {_name(estimator.estimator)} weighs each class against all others, which "
                "is no weight of a class: leave the weights inside at their defaults"
            )
    return seen.masses


def _voting(estimator: Any, seen: Seen) -> Array:
    members = [inner for _, inner in estimator.estimators if inner != "drop"]
    found = [masses_of(inner, seen.codes) for inner in members]
    for inner, masses in zip(members, found, strict=True):
        if _differ(masses, found[0]):
            raise ValueError(
                f"{_name(estimator)} averages {_name(members[0])} and {_name(inner)}, which weigh classes in "
                "different ways: give all of them the same weights"
            )
    return found[0]


def _of_member(estimator: Any, seen: Seen) -> Array:
    """Bagging and boosting of a given estimator, imbalanced-learn's too: members see what a sampler left."""
    parameters = estimator.get_params(deep=False)
    if parameters.get("sampler") is not None:
        sampler = clone(parameters["sampler"]).set_params(sampling_strategy=parameters["sampling_strategy"])
        seen = _resampled(sampler, seen)
    elif "sampling_strategy" in parameters:
        seen = replace(seen, masses=_of_parameters(estimator, seen))
        seen = replace(seen, counts=seen.masses)
    if estimator.estimator is None:
        return seen.masses
    return masses_of(estimator.estimator, seen.codes if isinstance(estimator, BaggingClassifier) else seen)


def _stacking(estimator: Any, seen: Seen) -> Array:
    # The last estimator sees rows as they are, so what weighed the classes in the others is out already.
    return masses_of(estimator.final_estimator_, seen.codes)


def _threshold(estimator: Any, seen: Seen) -> Array:
    raise ValueError(
        f"{_name(estimator)} sets a threshold, which probabilities do not have: give the estimator inside it"
    )


_KINDS: dict[Any, Callable[[Any, Seen], Array]] = {
    FrozenEstimator: lambda estimator, seen: masses_of(estimator.estimator, seen),
    Pipeline: _pipeline,
    CalibratedClassifierCV: _calibrated,
    OneVsRestClassifier: _one_vs_rest,
    VotingClassifier: _voting,
    StackingClassifier: _stacking,
    (BaggingClassifier, AdaBoostClassifier): _of_member,
    (TunedThresholdClassifierCV, FixedThresholdClassifier): _threshold,
}


def _inside(estimator: Any) -> list[Any]:
    """Return the estimators among the parameters of one that is of no known kind."""
    values = estimator.get_params(deep=False).values() if hasattr(estimator, "get_params") else ()
    found: list[Any] = []
    for value in values:
        several = value if isinstance(value, list | tuple) else [value]
        parts = [one[1] if isinstance(one, tuple) and len(one) > 1 else one for one in several]
        found += [one for one in parts if hasattr(one, "fit") and hasattr(one, "get_params")]
    return found


def _differ(masses: Array, others: Array) -> bool:
    ratio = masses / others
    return bool(ratio.max() > ratio.min() * (1 + 1e-9))


def _name(estimator: Any) -> str:
    return type(estimator).__name__
