"""A linear classifier under any loss of the registry that is a sum over rows."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from steelyard._common.checks import check_flag, check_integer, check_number
from steelyard.balance.setup import TrainingSetup
from steelyard.integrations.sklearn.power import Array
from steelyard.losses import Loss, create_loss
from steelyard.posterior import log_posterior


class LogisticClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""Fit a linear classifier under any loss that is a sum over rows, and give honest probabilities.

    .. math:: \min_{W, b} \; C \sum_i s_i c_{y_i}\, \ell(W x_i + b,\, y_i) + \tfrac{1}{2} \lVert W \rVert^2

    with :math:`c` = ``class_weight`` and :math:`s` = ``sample_weight``. With ``loss="softmax"`` it minimises what
    ``LogisticRegression`` does, with ``"logistic"`` what one ``LogisticRegression`` for each class
    against the others does. Two classes have one output, z; a loss of link ``"softmax"`` sees (0, z).

    ``predict`` takes the class of the largest decision function, in which the class weights act as costs of
    errors. ``predict_proba`` takes them, and what else the loss did, out again
    (:func:`~steelyard.log_posterior`): its means are near class frequencies, not those of weighted rows. So the
    two may name different classes where there are weights. ``sample_weight`` says how often a row counts; it is
    not taken out.

    The solver is scipy's L-BFGS in float64, from zero. A loss that is not convex, such as focal, ends in a local
    optimum. :func:`steelyard.forecasting.fit_head` solves the same for dense features and class weights alone,
    with Newton steps to a balance of 1e-7; it takes no weights of rows and no sparse matrix.

    Args:
        loss: a name as :func:`~steelyard.create_loss` takes it; LGL-INR, a function of a whole batch, is refused.
        loss_options: further options of the loss, such as ``{"gamma": 2.0}``.
        C: what the rows weigh against the penalty, > 0.
        class_weight: a mapping from class to weight, ``"balanced"``, or None.
        fit_intercept: whether there is a b, which is not penalised.
        tol: largest entry of the gradient of the objective, divided by C times the sum of the weights of rows.
        max_iter: iterations at most; a ``ConvergenceWarning`` says if that was too few.

    Attributes:
        classes_: (K,) classes.
        coef_: (K, D), or (1, D) for two classes: W.
        intercept_: (K,) or (1,): b.
        n_iter_: iterations.
        setup_: what was done in training, as ``audit`` and ``log_posterior`` take it.

    Raises:
        TypeError, ValueError: at fitting: parameters of another type or value than described, one class only.

    Source:
        L-BFGS: Liu and Nocedal, Mathematical Programming 1989. The probabilities: derived for this project.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> X, y = make_classification(2000, weights=[0.95], random_state=0)
        >>> model = LogisticClassifier("softmax", class_weight="balanced").fit(X, y)
        >>> round(float(y.mean()), 2), round(float(model.predict_proba(X)[:, 1].mean()), 2)
        (0.06, 0.05)
    """

    def __init__(
        self,
        loss: str = "softmax",
        *,
        loss_options: Mapping[str, Any] | None = None,
        C: float = 1.0,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 1000,
    ) -> None:
        self.loss = loss
        self.loss_options = loss_options
        self.C = C
        self.class_weight = class_weight
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "LogisticClassifier":
        """Fit W and b.

        Args:
            X: (N, D) rows, dense or sparse.
            y: (N,) classes.
            sample_weight: (N,) how often each row counts. Default: once.
        """
        C = check_number("C", self.C, low=0)
        if C == 0:
            raise ValueError("C must be positive, got 0")
        tol = check_number("tol", self.tol, low=0)
        max_iter = check_integer("max_iter", self.max_iter, low=1)
        intercept = check_flag("fit_intercept", self.fit_intercept)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(y)
        s = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not s.sum() > 0:
            raise ValueError("sample_weight must weigh at least one row, got 0 in all")
        self.classes_, codes = np.unique(y, return_inverse=True)
        size = len(self.classes_)
        if size < 2:
            raise ValueError(f"y must hold at least two classes, got one class, {self.classes_.tolist()[0]!r}")
        counts = np.bincount(codes, weights=s, minlength=size)
        loss = self._loss(counts)
        binary = size == 2
        kind: Any = {"targets": "binary"} if binary and loss.link == "logistic" else {}
        self.setup_ = TrainingSetup(loss, class_counts=counts, class_names=[str(c) for c in self.classes_], **kind)
        target = torch.from_numpy(codes)
        if loss.class_weights is not None:
            s = s * loss.class_weights.double().numpy()[codes]
        total, outputs, features = s.sum(), 1 if binary else size, X.shape[1]
        weights = torch.from_numpy(s / total)

        def objective(flat: Array) -> tuple[float, Array]:
            parameters = flat.reshape(outputs, features + 1)
            W, b = parameters[:, :-1], parameters[:, -1] * intercept
            z = torch.from_numpy(np.ascontiguousarray(X @ W.T + b)).requires_grad_()
            with torch.enable_grad():
                value = (loss.per_sample(_rows(z, loss), target) * weights).sum()
                (slope,) = torch.autograd.grad(value, z)
            g = slope.numpy()
            in_W = (X.T @ g).T + W / (C * total)
            gradient = np.column_stack([in_W, g.sum(0) * intercept])
            return float(value.detach()) + float((W**2).sum()) / (2 * C * total), gradient.ravel()

        found = minimize(
            objective,
            np.zeros(outputs * (features + 1)),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iter, "maxfun": 50 * max_iter, "maxls": 50, "gtol": tol, "ftol": 0.0},
        )
        reached = float(np.abs(found.jac).max())
        if reached > tol:
            warnings.warn(
                f"the gradient is {reached:.2g} after {found.nit} iterations, above tol = {tol:g}: "
                "raise max_iter or tol, or scale the features",
                ConvergenceWarning,
                stacklevel=2,
            )
        parameters = found.x.reshape(outputs, features + 1)
        self.coef_, self.intercept_ = parameters[:, :-1].copy(), parameters[:, -1] * intercept
        self.n_iter_ = max(int(found.nit), 1)
        return self

    def decision_function(self, X: Any) -> Array:
        """Return the logits as trained, weights and all: (N, K), or (N,) for two classes."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        z: Array = np.asarray(X @ self.coef_.T + self.intercept_)
        return z[:, 0] if z.shape[1] == 1 else z

    def predict(self, X: Any) -> Array:
        """Return the class of the largest logit, in which class weights act as costs of errors."""
        z = self.decision_function(X)
        predicted: Array = self.classes_[(z > 0).astype(int) if z.ndim == 1 else z.argmax(1)]
        return predicted

    def predict_log_proba(self, X: Any) -> Array:
        """Return logarithms of the (N, K) probabilities without what training did to them."""
        z = torch.from_numpy(np.ascontiguousarray(self.decision_function(X)))
        if z.dim() == 2:
            log_q = log_posterior(z, self.setup_)
        elif self.setup_.targets == "binary":
            log_q = torch.nn.functional.logsigmoid(
                log_posterior(z, self.setup_)[:, None] * torch.tensor([-1.0, 1.0])
            )
        else:
            log_q = log_posterior(torch.stack([torch.zeros_like(z), z], 1), self.setup_)
        found: Array = log_q.numpy()
        return found

    def predict_proba(self, X: Any) -> Array:
        """Return (N, K) probabilities without what training did to them.

        Where no posterior belongs to the logits, as beyond the reach of smoothed labels, a row is NaN, with a
        warning.
        """
        probabilities: Array = np.exp(self.predict_log_proba(X))
        return probabilities

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _loss(self, counts: Array) -> Loss:
        """Return the loss with the weights of classes in it."""
        weights = self.class_weight
        if isinstance(weights, str) and weights != "balanced":
            raise ValueError(f"class_weight must be a mapping, 'balanced' or None, got {weights!r}")
        options: dict[str, Any] = dict(self.loss_options or {})
        if isinstance(weights, Mapping):  # as scikit-learn: a fold may lack a class, a slip leaves one bare
            known = self.classes_.tolist()
            unknown, bare = [c for c in weights if c not in known], [c for c in known if c not in weights]
            if unknown and bare:
                raise ValueError(
                    f"class_weight must weigh classes of y, got {unknown[0]!r}, and no weight of {bare[0]!r}"
                )
        if weights is not None:
            if "class_weights" in options:
                raise ValueError("class_weight must be stated once, got class_weights in loss_options beside it")
            here = np.where(counts > 0, counts, 1.0)
            options["class_weights"] = (
                np.where(counts > 0, counts.sum() / ((counts > 0).sum() * here), 1.0)
                if isinstance(weights, str)
                else np.array([check_number("class_weight", weights.get(c, 1.0), low=0) for c in self.classes_])
            )
        loss = create_loss(self.loss, class_counts=counts, **options)
        if loss.separable_over != "rows":
            raise ValueError(f"loss must be a sum over rows, got {loss.name}, a function of a whole batch")
        return loss


def _rows(z: Tensor, loss: Loss) -> Tensor:
    """Return the logits as the loss takes them: one output under a softmax is (0, z)."""
    return torch.cat([torch.zeros_like(z), z], 1) if z.shape[1] == 1 and loss.link == "softmax" else z
