"""scikit-learn: honest probabilities from a classifier that is fitted with class weights or resamples."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d, has_fit_parameter

from steelyard.balance.setup import TrainingSetup
from steelyard.posterior import log_posterior

Array = np.ndarray[Any, Any]
Prior = Literal["uniform"] | Array | None


class PriorCalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    r"""Fit a classifier with class weights, and take them out of its probabilities again.

    .. math:: q_k(x) \propto p_k(x)\, \frac{1}{w_k}\, \frac{\pi'_k}{\pi_k}

    with :math:`p` the wrapped classifier's probabilities, :math:`w` the weights it was fitted with, :math:`\pi`
    the class frequencies that it saw and :math:`\pi'` those where it is used. Exact where the classifier's own
    probabilities are right for the weighted data.

    Args:
        estimator: classifier with ``predict_proba``; cloned, not changed. A pipeline that resamples is one too.
        class_weights: ``"balanced"``, a mapping from class to weight, or None for none. Given to the estimator as
            its ``class_weight`` where it has one, else as ``sample_weight``.
        train_prior: what the estimator sees, for one that resamples: ``"uniform"`` or one frequency per class in
            the order of ``classes_``. Default: the frequencies of y.
        test_prior: where it is used, in the same forms. Default: the frequencies of y.

    Attributes:
        estimator_: the fitted classifier.
        classes_: K classes.
        weights_: (K,) weights that it was fitted with.

    Raises:
        ValueError: at fitting: an estimator that takes no weights, a prior that does not sum to 1.

    Source:
        Saerens, Latinne, Decaestecker, Neural Computation 2002 (prior shift); weights by the same rule.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> from sklearn.linear_model import LogisticRegression
        >>> X, y = make_classification(2000, weights=[0.95], random_state=0)
        >>> weighted = LogisticRegression(class_weight="balanced").fit(X, y)
        >>> honest = PriorCalibratedClassifier(LogisticRegression(), class_weights="balanced").fit(X, y)
        >>> [round(float(p), 2) for p in (y.mean(), weighted.predict_proba(X)[:, 1].mean())]
        [0.06, 0.13]
        >>> round(float(honest.predict_proba(X)[:, 1].mean()), 2)
        0.05
    """

    def __init__(
        self,
        estimator: Any,
        *,
        class_weights: Mapping[Any, float] | Literal["balanced"] | None = None,
        train_prior: Prior = None,
        test_prior: Prior = None,
    ) -> None:
        self.estimator = estimator
        self.class_weights = class_weights
        self.train_prior = train_prior
        self.test_prior = test_prior

    def fit(self, X: Any, y: Any, **fit_params: Any) -> "PriorCalibratedClassifier":
        """Fit a clone of the estimator with the weights; further arguments are its own."""
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        if len(y) == 0:
            raise ValueError("y must have samples, got 0 sample(s)")
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got one class, {self.classes_[0]!r}")
        self.weights_ = np.ones(len(self.classes_))
        self.estimator_ = clone(self.estimator)
        if self.class_weights is not None:
            self.weights_ = compute_class_weight(self.class_weights, classes=self.classes_, y=y)
            if "class_weight" in self.estimator_.get_params():
                weights = dict(zip(self.classes_.tolist(), self.weights_.tolist(), strict=True))
                self.estimator_.set_params(class_weight=weights)
            elif has_fit_parameter(self.estimator_, "sample_weight"):
                own = fit_params.pop("sample_weight", None)
                fit_params["sample_weight"] = self.weights_[codes] * (1.0 if own is None else np.asarray(own))
            else:
                raise ValueError(
                    f"estimator {type(self.estimator_).__name__} takes neither class_weight nor sample_weight"
                )
        frequency = np.bincount(codes) / len(codes)
        self.train_prior_ = self._prior("train_prior", self.train_prior, frequency)
        self.test_prior_ = self._prior("test_prior", self.test_prior, frequency)
        self.estimator_.fit(X, y, **fit_params)
        if hasattr(self.estimator_, "n_features_in_"):
            self.n_features_in_ = self.estimator_.n_features_in_
        if hasattr(self.estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.estimator_.feature_names_in_
        return self

    @available_if(lambda self: hasattr(self.estimator, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Return (n, K) corrected probabilities."""
        check_is_fitted(self)
        with np.errstate(divide="ignore"):
            logits = np.log(np.asarray(self.estimator_.predict_proba(X), dtype=np.float64))
        setup = TrainingSetup("softmax", class_weights=self.weights_, class_counts=self.train_prior_)
        corrected = log_posterior(torch.from_numpy(logits), setup, self.test_prior_)
        probabilities: Array = corrected.exp().numpy()
        return probabilities

    def predict(self, X: Any) -> Array:
        """Return the class with the largest corrected probability."""
        check_is_fitted(self)
        predicted: Array = self.classes_[self.predict_proba(X).argmax(1)]
        return predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = getattr(self.estimator, "__sklearn_tags__", None)
        if inner is not None:
            tags.input_tags = inner().input_tags
        return tags

    def _prior(self, name: str, given: Prior, frequency: Array) -> Array:
        if given is None:
            return frequency
        size = len(self.classes_)
        if isinstance(given, str):
            if given != "uniform":
                raise ValueError(f"{name} must be 'uniform' or one frequency per class, got {given!r}")
            return np.full(size, 1 / size)
        prior = np.asarray(given, dtype=np.float64)
        if prior.shape != (size,) or not np.isclose(prior.sum(), 1) or (prior <= 0).any():
            raise ValueError(f"{name} must be {size} positive frequencies that sum to 1, got {prior.tolist()}")
        return prior
