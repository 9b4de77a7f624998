"""The classifier that wraps another one: it finds what weighed the classes, measures how much of that shows in the
probabilities, and takes that much out."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import softmax
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d

from steelyard._common.checks import check_vector
from steelyard.balance.setup import TrainingSetup
from steelyard.integrations.sklearn.acted import Seen, masses_of
from steelyard.integrations.sklearn.leaf import Leaf
from steelyard.integrations.sklearn.power import Array, Power, power_of
from steelyard.posterior import log_posterior

Prior = Literal["uniform"] | Mapping[Any, float] | Array | None


class PriorCalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    r"""Fit a classifier that weighs classes, and take the weights out of its probabilities.

    .. math:: q_k(x) \propto p_k(x)\, w_k^{-g}\, \frac{\pi'_k}{\pi_k}

    with :math:`p` the wrapped classifier's probabilities, :math:`w_k` the mean weight of a row of class k while it
    was fitted, :math:`\pi` the class frequencies of y and :math:`\pi'` those where it is used. The power :math:`g`
    says how much of the weights shows in the probabilities of new rows: near 1 for a model that cannot follow
    single rows, near 0 or below for trees that grow until they can. It is measured on rows that a clone was not
    fitted on (out-of-fold).

    What weighs classes is found in the estimator, inside pipelines and searches too: ``class_weight``,
    ``scale_pos_weight``, ``is_unbalance``, CatBoost's ``class_weights`` and ``auto_class_weights``, ``priors`` of
    naive Bayes and discriminant analysis, samplers and ensembles of imbalanced-learn, and ``sample_weight`` given
    to fit, by its mean in each class. What cannot be described by one weight per class is refused by name.

    Args:
        estimator: classifier with ``predict_proba``; cloned, not changed. A ``FrozenEstimator`` is not fitted
            again, so give it rows that it was not fitted on, with the class frequencies of training.
        class_weights: further weights to fit it with: ``"balanced"``, a mapping from class to weight, or None for
            none. For a ``FrozenEstimator`` they are the weights that it was fitted with.
        train_prior: class frequencies that the estimator's probabilities stand for, where its parameters do not
            tell: ``"uniform"``, a mapping, or one frequency per class in the order of ``classes_``. Then neither
            the estimator's parameters nor sample_weight are read; class_weights come on top. Default: found in the
            estimator.
        test_prior: class frequencies where it is used, in the same forms. Default: the frequencies of y.
        cv: the folds on which g is measured, each of which costs one more fit: a number of folds, a splitter of
            scikit-learn, or an iterable of (train, test). None: g is 1 and not measured.

    Attributes:
        estimator_: the fitted classifier.
        classes_: (K,) classes.
        weights_: (K,) w, mean 1 over the rows.
        power_: g.
        power_error_: the standard error of g, from the scatter of the rows; NaN where g was not measured.
        train_prior_: (K,) class frequencies of y, times the weights.
        test_prior_: (K,) class frequencies where the classifier is used.

    Raises:
        ValueError: at fitting: an estimator without probabilities, one that takes no weights, one that weighs
            classes in a way that cannot be taken out, a prior that does not sum to 1.

    Source:
        Saerens, Latinne, Decaestecker, Neural Computation 2002 (prior shift); the power: derived for this project.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> from sklearn.linear_model import LogisticRegression
        >>> X, y = make_classification(2000, weights=[0.95], random_state=0)
        >>> honest = PriorCalibratedClassifier(LogisticRegression(class_weight="balanced")).fit(X, y)
        >>> weighted = honest.estimator_.predict_proba(X)
        >>> [round(float(p), 2) for p in (y.mean(), weighted[:, 1].mean(), honest.predict_proba(X)[:, 1].mean())]
        [0.06, 0.13, 0.06]
    """

    def __init__(
        self,
        estimator: Any,
        *,
        class_weights: Mapping[Any, float] | Literal["balanced"] | None = None,
        train_prior: Prior = None,
        test_prior: Prior = None,
        cv: Any = 5,
    ) -> None:
        self.estimator = estimator
        self.class_weights = class_weights
        self.train_prior = train_prior
        self.test_prior = test_prior
        self.cv = cv

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> "PriorCalibratedClassifier":
        """Fit a clone of the estimator, and clones on parts of the rows to measure how much to take out.

        Args:
            X: (N, D) rows.
            y: (N,) classes.
            sample_weight: (N,) weights of rows. Their means in the classes count as weights of classes, and are
                taken out; where they say instead how often a row occurs, give the frequencies as test_prior.
            fit_params: the estimator's own; arrays of N values go with their rows.
        """
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        if len(y) == 0:
            raise ValueError("y must have samples, got 0 sample(s)")
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got one class, {self.classes_.tolist()[0]!r}")
        self.estimator_ = clone(self.estimator)
        if not hasattr(self.estimator_, "predict_proba"):
            raise ValueError(
                f"estimator must have predict_proba, which {type(self.estimator_).__name__} as it is set has not"
            )
        frequency = np.bincount(codes) / len(codes)
        train_prior = _prior("train_prior", self.train_prior, self.classes_)
        test_prior = _prior("test_prior", self.test_prior, self.classes_)
        self.test_prior_ = frequency if test_prior is None else test_prior
        leaf = Leaf.of(self.estimator_)
        params, split_params = self._routed(leaf, sample_weight, fit_params, len(y))
        factors = np.ones(len(self.classes_))
        if self.class_weights is not None:
            factors = _factors(self.class_weights, self.classes_, y)
            params = leaf.weigh(params, factors, self.classes_, codes)

        argument = leaf.argument or ""

        def weights(fitted: Any, rows: Array | None = None) -> Array:
            """Return w of a model that was fitted on these rows, by default all; 1 for a class without any."""
            if rows is None:
                seen = Seen.of(X, y, params.get(argument))
            else:
                weight = _part(params, rows, len(y)).get(argument)
                seen = Seen.of(_safe_indexing(X, rows), y[rows], weight)
            here = np.searchsorted(self.classes_, seen.classes)
            if train_prior is not None:
                masses = train_prior[here] * factors[here]
            else:
                masses = masses_of(fitted, seen) * (factors[here] if leaf.frozen else 1.0)
            w = np.ones(len(self.classes_))
            w[here] = masses / masses.sum() * seen.counts.sum() / seen.counts
            return w

        self.estimator_.fit(X, y, **params)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        (X,) = indexable(X)  # from here on by parts
        self.weights_ = weights(self.estimator_)
        self.train_prior_ = self.weights_ * frequency
        self.power_, self.power_error_ = 1.0, np.nan
        if self.cv is not None:
            found = self._measure(X, y, params, self._folds(X, y, codes, split_params), weights)
            self.power_, self.power_error_ = found.power, found.standard_error
        return self

    @available_if(lambda self: hasattr(self.estimator, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """Return logarithms of the (N, K) corrected probabilities."""
        check_is_fitted(self)
        logits = _log_probabilities(self.estimator_, X, self.classes_)
        counts = self.train_prior_ / self.weights_
        setup = TrainingSetup("softmax", class_weights=self.weights_**self.power_, class_counts=counts)
        log_q: Array = log_posterior(torch.from_numpy(logits), setup, self.test_prior_).numpy()
        return log_q

    @available_if(lambda self: hasattr(self.estimator, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Return (N, K) corrected probabilities."""
        probabilities: Array = np.exp(self.predict_log_proba(X))
        return probabilities

    def predict(self, X: Any) -> Array:
        """Return the class with the largest corrected probability."""
        check_is_fitted(self)
        predicted: Array = self.classes_[self.predict_log_proba(X).argmax(1)]
        return predicted

    def get_metadata_routing(self) -> MetadataRouter:
        """Return where metadata goes: that of fit to the estimator's fit and the splitter's split."""
        router = MetadataRouter(owner=self).add(
            estimator=self.estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit")
        )
        if hasattr(self.cv, "split"):
            router.add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        return router

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags

    def _routed(
        self, leaf: Leaf, sample_weight: Any, fit_params: dict[str, Any], size: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what goes to the estimator's fit, and to the splitter."""
        if sample_weight is not None:
            sample_weight = _sample_weight(sample_weight, size)
        if get_config()["enable_metadata_routing"]:
            given = fit_params if sample_weight is None else {**fit_params, "sample_weight": sample_weight}
            routed = process_routing(self, "fit", **given)
            split = routed.splitter.split if hasattr(self.cv, "split") else {}
            return dict(routed.estimator.fit), dict(split)
        return leaf.named(fit_params, sample_weight), {}

    def _folds(self, X: Any, y: Array, codes: Array, params: dict[str, Any]) -> Iterable[tuple[Array, Array]]:
        if isinstance(self.cv, Integral):
            return _stratified(codes, int(self.cv))
        folds: Iterable[tuple[Array, Array]] = check_cv(self.cv, y, classifier=True).split(X, y, **params)
        return folds

    def _measure(
        self,
        X: Any,
        y: Array,
        params: dict[str, Any],
        folds: Iterable[tuple[Array, Array]],
        weights: Callable[[Any, Array], Array],
    ) -> Power:
        """Return the power on rows that clones were not fitted on."""
        # Of a search what it chose; but metadata is named for the search.
        named = get_config()["enable_metadata_routing"]
        model = self.estimator_ if named else getattr(self.estimator_, "best_estimator_", self.estimator_)
        none = np.zeros((0, len(self.classes_)))  # where every class has one row
        log_p: list[Array] = [none]
        log_w: list[Array] = [none]
        judged: list[Array] = [np.zeros(0, dtype=np.int64)]
        for train, test in folds:
            one = clone(model).fit(_safe_indexing(X, train), y[train], **_part(params, train, len(y)))
            log_p.append(_log_probabilities(one, _safe_indexing(X, test), self.classes_))
            log_w.append(np.broadcast_to(np.log(weights(one, train)), log_p[-1].shape))
            judged.append(np.asarray(np.searchsorted(self.classes_, y[test])))
        p, w, codes = np.concatenate(log_p), np.concatenate(log_w), np.concatenate(judged)
        found = power_of(p, codes, w)
        told = np.isfinite(p[np.arange(len(codes)), codes])
        self._warn_of_more(softmax(p - found.power * w, axis=1)[told], codes[told])
        return found

    def _warn_of_more(self, q: Array, codes: Array) -> None:
        """Warn where a class is far more or less probable than it is frequent."""
        if len(codes) == 0:
            return
        truth = np.eye(len(self.classes_))[codes]
        ratio = q.mean(0) / np.maximum(truth.mean(0), 1 / (len(codes) + 1))
        away = np.abs((q - truth).sum(0)) / np.sqrt(((q - truth) ** 2).sum(0) + 1)
        odd = (away > _SURE) & (np.abs(np.log(ratio)) > np.log(_FAR))
        if odd.any():
            worst = int(np.where(odd, away, 0).argmax())
            warnings.warn(
                f"on out-of-fold rows the mean probability of class {self.classes_.tolist()[worst]!r} is "
                f"{q.mean(0)[worst]:.3g} and its frequency {truth.mean(0)[worst]:.3g}, after what is known to "
                f"weigh classes in {type(self.estimator).__name__} is taken out: if more of it weighs them, "
                "state train_prior",
                stacklevel=4,
            )


_SURE = 6.0  # standard errors
_FAR = 2.0  # times


def _stratified(codes: Array, number: int) -> Iterator[tuple[Array, Array]]:
    """Yield (train, test) of contiguous folds, each class in equal parts; a class of one row is never tested.

    So every class is in every training part, also one that has fewer rows than there are folds.
    """
    if number < 2:
        raise ValueError(f"cv must be at least 2 folds, or None, got {number}")
    fold = np.full(len(codes), -1)
    for k in range(codes.max() + 1):
        rows = np.flatnonzero(codes == k)
        if len(rows) > 1:
            fold[rows] = np.arange(len(rows)) * number // len(rows)
    for i in range(number):
        if (fold == i).any():
            yield np.flatnonzero(fold != i), np.flatnonzero(fold == i)


def _log_probabilities(fitted: Any, X: Any, classes: Array) -> Array:
    """Return (N, K) logarithms of a fitted model's probabilities, -inf for a class that it does not know."""
    given = np.asarray(fitted.predict_proba(X), dtype=np.float64)
    known = np.asarray(getattr(fitted, "classes_", classes))
    if given.ndim != 2 or given.shape[1] != len(known) or not np.isin(known, classes).all():
        raise ValueError(
            f"predict_proba of {type(fitted).__name__} must have a column for each class of y, "
            f"{classes.tolist()}, got shape {given.shape} for the classes {known.tolist()}"
        )
    p = np.zeros((len(given), len(classes)))
    p[:, np.searchsorted(classes, known)] = given
    with np.errstate(divide="ignore"):
        logits: Array = np.log(p)
    return logits


def _part(params: dict[str, Any], rows: Array, size: int) -> dict[str, Any]:
    """Return fit parameters for these rows: what has a value for each of all rows is cut to them."""
    return {
        name: _safe_indexing(value, rows)
        if (hasattr(value, "shape") or isinstance(value, list)) and np.shape(value)[:1] == (size,)
        else value
        for name, value in params.items()
    }


def _sample_weight(given: Any, size: int) -> Array:
    weight = np.asarray(given, dtype=np.float64)
    if weight.shape != (size,) or not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(
            f"sample_weight must be {size} finite numbers that are not negative, got shape {weight.shape}"
        )
    return weight


def _factors(given: Any, classes: Array, y: Array) -> Array:
    named = dict(given.items()) if hasattr(given, "items") else given  # a Series too, by its labels
    if not isinstance(named, dict) and not (isinstance(named, str) and named == "balanced"):
        raise ValueError(
            f"class_weights must be 'balanced', a mapping from class to weight or None, got {given!r}"
        )
    factors = compute_class_weight(named, classes=classes, y=y)
    return check_vector("class_weights", factors, len(classes), low=0, positive=True).numpy()


def _prior(name: str, given: Prior, classes: Array) -> Array | None:
    if given is None:
        return None
    size = len(classes)
    if isinstance(given, str):
        if given != "uniform":
            raise ValueError(f"{name} must be 'uniform' or one frequency per class, got {given!r}")
        return np.full(size, 1 / size)
    if isinstance(given, Mapping) or hasattr(given, "items"):  # a Series too, by its labels
        named = dict(given.items())
        if set(named) != set(classes.tolist()):
            raise ValueError(f"{name} must have the classes {classes.tolist()} as keys, got {list(named)}")
        given = np.array([named[label] for label in classes.tolist()])
    prior = np.asarray(given, dtype=np.float64)
    if prior.shape != (size,) or not np.isclose(prior.sum(), 1) or not (prior > 0).all():
        raise ValueError(f"{name} must be {size} positive frequencies that sum to 1, got {prior.tolist()}")
    return prior
