"""skorch: a classifier whose probabilities are those of the data, whatever its loss and class weights did."""

from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import WeightedRandomSampler

try:
    import skorch
    from skorch.utils import data_from_dataset, is_dataset, to_numpy
except ImportError as error:
    raise ImportError(
        f"steelyard.integrations.skorch needs skorch ({error}): pip install 'steelyard[skorch]'"
    ) from None

from steelyard._common.checks import Vector
from steelyard.balance.setup import TrainingSetup
from steelyard.losses import SoftmaxLoss
from steelyard.losses.base import Loss
from steelyard.posterior import log_posterior
from steelyard.weights.class_weights import class_weights
from steelyard.weights.counts import class_counts

Array = np.ndarray[Any, Any]


class HonestNetClassifier(skorch.NeuralNetClassifier):  # type: ignore[misc]
    r"""Fit a network under any loss, and give probabilities without what the loss and its weights did to them.

    .. math:: \text{predict\_proba}(x)_k = q_k(x), \qquad \sum_k q_k\, w_k\, g(z(x), k) = 0, \quad \sum_k q_k = 1

    with z the module's logits, g the gradient of the loss and w all that weighs the classes: see
    :func:`~steelyard.log_posterior`. skorch's own classifier gives the logits themselves as probabilities for
    every loss that it does not know, without a word. ``predict`` is the largest probability.

    Args:
        module: gives logits: (N, K), or (N,) or (N, 1) for one binary output.
        criterion: a loss of ours, ``torch.nn.CrossEntropyLoss``, or ``torch.nn.BCEWithLogitsLoss`` for one output,
            class or object. Default: :class:`~steelyard.SoftmaxLoss`.
        prior: class frequencies where the model is used: ``"uniform"``, or (K,) numbers that sum to 1. Default:
            those of the training data.
        sampler_weights: (K,) weight of the samples of each class in the sampler, if there is one. Default: none.
        criterion__class_weights: a scheme too, such as ``"inverse"`` (see :func:`~steelyard.class_weights`), made
            from the labels that ``fit`` gets, so in a search from those of each fold.
        **kwargs: as skorch's classifier.

    Raises:
        TypeError, ValueError: in ``fit``: another criterion, such as ``torch.nn.NLLLoss``, or one without a
            posterior of the logits alone (:class:`~steelyard.LGLINRLoss`); a
            scheme or prior without class labels; labels that are text; a ``predict_nonlinearity`` of your own; a
            ``WeightedRandomSampler`` without ``sampler_weights``. In ``predict_proba``: outputs of which a sample
            may have several.

    Source:
        As :func:`~steelyard.log_posterior`.

    Example:
        >>> X = np.repeat(np.eye(2, dtype=np.float32), [90, 10], axis=0)
        >>> y = np.repeat([0, 1], [90, 10])
        >>> net = HonestNetClassifier(
        ...     torch.nn.Linear(2, 2), criterion__class_weights="inverse", train_split=None, verbose=0
        ... )
        >>> net.fit(X, y).criterion_.class_weights
        tensor([0.2000, 1.8000])
        >>> net.predict_proba(X[:1]).sum()
        np.float32(1.0)
    """

    def __init__(
        self,
        module: Any,
        *args: Any,
        criterion: Any = SoftmaxLoss,
        prior: Literal["uniform"] | Vector | None = None,
        sampler_weights: Vector | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, *args, criterion=criterion, **kwargs)
        self.prior = prior
        self.sampler_weights = sampler_weights

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Self:
        if not (self.warm_start and getattr(self, "initialized_", False)):
            self.class_counts_ = self._counts_of(X, y)
        return super().fit(X, y, **fit_params)  # type: ignore[no-any-return]

    def partial_fit(self, X: Any, y: Any = None, classes: Any = None, **fit_params: Any) -> Self:
        if not getattr(self, "initialized_", False):
            self.class_counts_ = self._counts_of(X, y)
        return super().partial_fit(X, y, classes, **fit_params)  # type: ignore[no-any-return]

    def initialize_criterion(self) -> Self:
        options = self.get_params_for("criterion")
        scheme = options.get("class_weights")
        if isinstance(scheme, str):
            options["class_weights"] = class_weights(self._known_counts("class_weights"), scheme)  # type: ignore[arg-type]
        self.criterion_ = self.initialized_instance(self.criterion, options)
        self._setup()  # what has no posterior is refused before training
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return (N, K) probabilities of the classes, float32, or float64 for float64 logits; rows sum to 1.

        For one binary output K is 2. If the module returns several outputs, the first is taken.

        Args:
            X: as skorch takes it.
        """
        self.check_is_fitted()
        setup = self._setup()
        parts = [self._probabilities(output, setup) for output in self.forward_iter(X, training=False)]
        return np.concatenate([to_numpy(part) for part in parts])

    def _probabilities(self, output: Any, setup: TrainingSetup) -> Tensor:
        logits = output[0] if isinstance(output, tuple) else output
        if logits.dim() == 1:
            logits = logits[:, None]
        if logits.dim() != 2:
            raise ValueError(f"module must give logits (N, K) or (N,), got shape {tuple(logits.shape)}")
        columns = logits.shape[1]
        if setup.kind(columns) == "multi-hot":
            raise ValueError(
                f"criterion must be a loss of class labels for {columns} outputs, got {setup.reading.name}, under "
                "which a sample may have several classes"
            )
        prior = self.prior
        if isinstance(prior, str):
            size = max(columns, 2)
            prior = torch.full((size,), 1 / size)
        rows = log_posterior(logits, setup, prior)
        return torch.sigmoid(torch.cat([-rows, rows], 1)) if columns == 1 else rows.exp()

    def _setup(self) -> TrainingSetup:
        """Return what was done in training, as far as it can be seen from here."""
        if isinstance(self.prior, str) and self.prior != "uniform":
            raise ValueError(f"prior must be 'uniform' or class frequencies, got {self.prior!r}")
        if not (isinstance(self.predict_nonlinearity, str) and self.predict_nonlinearity == "auto"):
            raise ValueError(
                "predict_nonlinearity must be 'auto', since the criterion says what its logits stand for, "
                f"got {self.predict_nonlinearity!r}"
            )
        sampler = self.get_params_for("iterator_train").get("sampler")
        if isinstance(sampler, WeightedRandomSampler) and self.sampler_weights is None:
            raise ValueError("sampler_weights must say how a WeightedRandomSampler weighs the classes, got None")
        counts = None if self.prior is None else self._known_counts("prior")
        criterion = getattr(self.criterion_, "_orig_mod", self.criterion_)  # what torch.compile wraps
        if not isinstance(criterion, Loss | nn.CrossEntropyLoss | nn.BCEWithLogitsLoss):
            raise TypeError(
                "criterion must be a loss of steelyard, CrossEntropyLoss or BCEWithLogitsLoss, "
                f"got {type(criterion).__name__}"
            )
        setup = TrainingSetup(criterion, sampler_weights=self.sampler_weights, class_counts=counts)
        if setup.in_negative is not None:
            raise ValueError(
                "criterion must have a posterior of the logits alone; that of lgl-inr needs the mean confusion of "
                "the training data too: use steelyard.log_posterior on the logits of net.forward(X)"
            )
        return setup

    def _known_counts(self, asker: str) -> Array:
        counts: Array | None = getattr(self, "class_counts_", None)
        if counts is None:
            raise ValueError(f"{asker} needs class labels 0 to K - 1 of an integer dtype in fit, got none")
        return counts

    def _counts_of(self, X: Any, y: Any) -> Array | None:
        """Return the samples of each class, or None where labels cannot be seen."""
        if y is None and is_dataset(X):
            try:
                _, y = data_from_dataset(X)
            except AttributeError:
                return None
        labels = None if y is None else to_numpy(y) if isinstance(y, Tensor) else np.asarray(y)
        if labels is not None and labels.dtype.kind in "USOT":
            raise ValueError(
                f"y must hold class labels 0 to K - 1, got {labels.dtype}: scikit-learn's LabelEncoder makes them"
            )
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iub" or len(labels) == 0:
            return None
        size = int(labels.max()) + 1 if self.classes is None else len(self.classes)
        return class_counts(labels, max(size, 2)).numpy()
