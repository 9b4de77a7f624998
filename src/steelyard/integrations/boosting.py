"""XGBoost, LightGBM, CatBoost: losses of this package as objectives of boosted trees; their margins, audited."""

import sys
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import Vector, check_choice, check_vector
from steelyard.auditing import audit
from steelyard.auditing.report import AuditReport
from steelyard.auditing.stated import SetupOrLoss
from steelyard.balance.setup import TrainingSetup
from steelyard.losses import Loss, create_loss
from steelyard.losses.lgl_inr import LGLINRLoss
from steelyard.losses.presets import made_of_counts
from steelyard.weights.class_weights import Scheme
from steelyard.weights.counts import Counts, class_counts, count_tensor

Array = np.ndarray[Any, np.dtype[Any]]
Library = Literal["xgboost", "lightgbm", "catboost"]
_LEAST = 1e-16  # of a hessian: positive in float32
_WEIGH_ROWS = ("class_weight", "class_weights", "auto_class_weights", "scale_pos_weight", "is_unbalance")
MEANINGLESS = ("reduction", "normalization", "class_dim", "ignore_index", "statistics", "process_group")


class Objective:
    r"""Give gradient and hessian of a loss of this package to a boosting library.

    :func:`objective` makes it, and says what it computes. It is what these parameters take:

    - ``xgboost.train(..., obj=)``, ``XGBClassifier(objective=)``,
    - ``lightgbm.train({"objective": ...})``, ``LGBMClassifier(objective=)``,
    - ``CatBoostClassifier(loss_function=)``.

    Attributes:
        library: the library that it is for.
        name: the loss.
        counts: class counts that were given, or None.
    """

    def __init__(
        self,
        name: str,
        library: Library,
        class_weights: Vector | Scheme | None,
        counts: Counts | None,
        options: dict[str, Any],
    ) -> None:
        self.name, self.library = name, library
        self._class_weights, self._options = class_weights, options
        self.counts = None if counts is None else count_tensor(counts)

    @cached_property
    def _stated(self) -> Loss:
        return self.loss()

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[Array, Array]:
        """Return gradient and hessian, float32, in the shape of the margins.

        Args:
            first, second: margins (N,) or (N, K) and the training data (``DMatrix``, ``Dataset``), as the
                libraries' own ``train`` calls it; or labels (N,) and margins, as their classifiers do.
            sample_weight: (N,), beside labels.
        """
        if self.library == "catboost":
            raise TypeError("an objective for catboost has calc_ders_range and calc_ders_multi, and is not called")
        if hasattr(second, "get_label"):
            owner = type(second).__module__.split(".")[0]
            if owner in get_args(Library) and owner != self.library:
                raise TypeError(f"library must be {owner!r} for its training data, got {self.library!r}")
            margins, labels, sample_weight = first, second.get_label(), second.get_weight()
        else:
            labels, margins = first, second
        z = _margins("margins", margins)
        y = _labels(labels, z)
        weight = None if sample_weight is None or np.size(sample_weight) == 0 else torch.tensor(sample_weight)
        self._refuse_parts_of_a_batch()
        loss = self.loss(self._counted(y, z))
        if loss.separable_over == "columns":
            gradient, hessian = _of_batch(loss, z, y, weight)
        else:
            gradient, rows = _of_rows(loss, z, y, _row_weights(loss, y, max(z.shape[1], 2), weight))
            hessian = rows.abs().sum(2) if rows.dim() == 3 else rows.abs()
            if self.library == "lightgbm" and loss.link == "softmax" and z.shape[1] > 1:
                hessian = hessian * z.shape[1] / (2 * (z.shape[1] - 1))
        shape = np.shape(margins)
        return _array(gradient, shape), _array(hessian.clamp(min=_LEAST), shape)

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> list[tuple[float, float]]:
        """Return the derivatives of minus the loss of each row, for one margin, as CatBoost asks."""
        z = _margins("approxes", np.array(approxes))
        y = _labels(np.array(targets), z)
        loss = self._stated
        weight = None if weights is None else torch.tensor(np.array(weights))
        gradient, rows = _of_rows(loss, z, y, _row_weights(loss, y, max(z.shape[1], 2), weight))
        return list(zip((-gradient[:, 0]).tolist(), (-rows.abs().flatten()).tolist(), strict=True))

    def calc_ders_multi(
        self, approxes: Any, target: float, weight: float | None
    ) -> tuple[list[float], list[list[float]]]:
        """Return gradient and Hessian (K, K) of minus the loss of one row, as CatBoost asks."""
        z = _margins("approxes", np.array(approxes)[None])
        y = _labels(np.array([target]), z)
        loss = self._stated
        each = torch.ones(1) if weight is None else torch.tensor([weight])
        gradient, rows = _of_rows(loss, z, y, _row_weights(loss, y, max(z.shape[1], 2), each))
        full = rows[0] if rows.dim() == 3 else rows[0].diag()
        values, vectors = torch.linalg.eigh((full + full.T) / 2)  # of a loss that is not convex some are negative
        if bool((values < -1e-12 * values.abs().max()).any()):
            full = vectors @ values.abs().diag() @ vectors.T
        return (-gradient[0]).tolist(), (-full).tolist()

    def loss(self, counts: Counts | None = None) -> Loss:
        """Return the loss module under these class counts; by default those that were given."""
        counts = self.counts if counts is None else counts
        loss = create_loss(self.name, class_counts=counts, class_weights=self._class_weights, **self._options)
        if any(True for _ in loss.buffers()):
            raise ValueError(f"{loss.name} adds up what batches show it, and a booster has no batches")
        return loss

    def setup(self, counts: Counts | None = None) -> TrainingSetup:
        """Return what was done in training, for ``audit`` and ``log_posterior``: the loss with its weights.

        Args:
            counts: class counts of the training rows. Default: those that were given.
        """
        counts = self.counts if counts is None else counts
        found = None if counts is None else count_tensor(counts)
        return TrainingSetup(self.loss(found), class_counts=found)

    def _counted(self, y: Tensor, z: Tensor) -> Tensor:
        if self.counts is not None:
            return self.counts
        return class_counts(y, num_classes=max(z.shape[1], 2))

    def _refuse_parts_of_a_batch(self) -> None:
        """Refuse to take the rows of one process for all rows."""
        xgboost = sys.modules.get("xgboost")
        if self.library != "xgboost" or xgboost is None or xgboost.collective.get_world_size() == 1:
            return
        if self.name.replace("_", "-") == LGLINRLoss.name:
            raise RuntimeError(
                "lgl-inr is a function of all rows, and a distributed xgboost gives it a part of them"
            )
        if self.counts is None:
            raise RuntimeError(
                "class_counts must be given for a distributed xgboost, which shows a part of the rows"
            )


def objective(
    loss: str,
    *,
    library: Library = "xgboost",
    class_weights: Vector | Scheme | None = None,
    class_counts: Counts | None = None,
    **options: Any,
) -> Objective:
    r"""Return an objective for XGBoost, LightGBM or CatBoost: gradient and hessian of a loss in the margins.

    .. math:: g_{ij} = s_i c_{y_i} \frac{\partial \ell(z_i, y_i)}{\partial z_{ij}}, \qquad
        h_{ij} = s_i c_{y_i} \sum_k \Big|\frac{\partial^2 \ell(z_i, y_i)}{\partial z_{ij} \partial z_{ik}}\Big|

    for any loss of the registry that is a sum over rows, with :math:`c` = ``class_weights`` and :math:`s` =
    ``sample_weight``. Nothing is divided by the number of rows: ``reg_lambda`` and ``min_child_weight`` mean what
    they mean beside the built-in objectives.

    The hessian. A tree of one output steps by :math:`-\sum g / (\sum h + \lambda)` and knows nothing of the steps
    of other outputs, so a hessian must be positive and diagonal. The absolute row sums are both, for any
    loss, and :math:`\mathrm{diag}(h)` is nowhere below the true Hessian (it is diagonally dominant), so that
    no step goes beyond what the quadratic model allows. For one-vs-all losses it is the second derivative itself,
    :math:`p (1 - p)` for the logistic loss; for softmax it is :math:`2 p (1 - p)`, which is what XGBoost takes.
    LightGBM takes :math:`\tfrac{K}{K - 1} p (1 - p)`: with ``library="lightgbm"`` the row sums of a softmax loss
    are multiplied by :math:`K / (2 (K - 1))`. CatBoost solves for all outputs of a leaf at once, and is given the
    K x K Hessian; of a loss that is not convex, such as focal, the one with absolute eigenvalues. The least
    hessian is 1e-16.

    LGL-INR is a function of all rows. Its gradient is exact; its hessian is
    :math:`\tfrac{\omega_{kj}}{n_k} p (1 - p)`, the second derivative with the weights of classes held. Both are
    multiplied by :math:`N / K`, with which each class weighs as much as under balanced class weights, so that
    ``reg_lambda`` keeps its meaning. CatBoost calls an objective row by row and cannot have it.

    Args:
        loss: as :func:`~steelyard.create_loss` takes it.
        library: ``"xgboost"``, ``"lightgbm"`` or ``"catboost"``.
        class_weights: (K,), (2,) for two classes, or a scheme such as ``"inverse"``, made from the class counts.
            Not for CatBoost, whose trees use the weights of rows beside the derivatives: give them to
            ``CatBoostClassifier(class_weights=...)``, which hands them on.
        class_counts: (K,). Default: those of the training rows, which CatBoost does not show at once: give them
            there for a loss that is made from them.
        **options: further options of the loss.

    Returns:
        The objective, for K margins, one a class, or for one margin of two classes. A loss of link
        ``"softmax"`` takes one margin z as (0, z). LGL-INR needs one margin a class.

    Raises:
        TypeError, ValueError: an option that the loss does not have, or a loss that the library cannot have.

    Source:
        Gradient boosting with second derivatives: Friedman, Annals of Statistics 2001; Chen, Guestrin, KDD 2016.
        The row sums, and the hessian of LGL-INR, are ours.

    Example:
        >>> softmax = objective("softmax", class_weights=[1.0, 1.0, 4.0])
        >>> gradient, hessian = softmax([0, 2], np.zeros((2, 3)))       # labels, margins
        >>> gradient.round(2)
        array([[-0.67,  0.33,  0.33],
               [ 1.33,  1.33, -2.67]], dtype=float32)
        >>> hessian.round(2)
        array([[0.44, 0.44, 0.44],
               [1.78, 1.78, 1.78]], dtype=float32)
    """
    check_choice("library", library, get_args(Library))
    for name in MEANINGLESS:
        if name in options:
            raise TypeError(f"an objective takes no {name}: a booster sums over all rows of its training data")
    made = Objective(loss, library, class_weights, class_counts, options)
    needs_counts = made.counts is None and (isinstance(class_weights, str) or made_of_counts(loss))
    if library == "catboost":
        if class_weights is not None:
            raise ValueError("class_weights must be given to catboost itself, whose trees weigh rows by them too")
        if needs_counts:
            raise ValueError(
                f"class_counts must be given for {loss} in catboost, which shows an objective no counts"
            )
        if made.loss().separable_over == "columns":
            raise ValueError(f"{loss} is a function of all rows, and catboost calls an objective row by row")
    elif not needs_counts:
        made.loss()  # options are refused here, not in the first round
    return made


def margins(model: Any, data: Any) -> Array:
    """Return the margins of a booster of XGBoost, LightGBM or CatBoost: logits, (N, K), or (N,) for one output.

    They come from the trees that the library's own ``predict`` uses.

    Args:
        model: a classifier or booster.
        data: rows as its ``predict`` takes them: a ``DMatrix`` for ``xgboost.Booster``.

    Raises:
        TypeError: a model of another library.
    """
    owners = {base.__module__.split(".")[0] for base in type(model).__mro__}
    if "xgboost" in owners:
        found = model.predict(data, output_margin=True)
    elif "lightgbm" in owners:
        found = model.predict(data, raw_score=True)
    elif "catboost" in owners:
        found = model.predict(data, prediction_type="RawFormulaVal")
    else:
        raise TypeError(f"model must be of xgboost, lightgbm or catboost, got {type(model).__name__}")
    return np.asarray(found, dtype=np.float64)


def audit_boosting(model: Any, data: Any, target: Any, setup: SetupOrLoss | None = None) -> AuditReport:
    """Return the audit of a booster of XGBoost, LightGBM or CatBoost on the rows that it was trained on.

    Args:
        model: as :func:`margins` takes it.
        data: the training rows.
        target: (N,) their classes, as ``fit`` took them.
        setup: what was done in training, as :func:`steelyard.audit` takes it. Default: what an
            :class:`Objective` says that the model was made with.

    Raises:
        ValueError: no setup, of a model that holds no objective of ours.
    """
    z = margins(model, data)
    classes = np.asarray(getattr(model, "classes_", ()))
    codes, names = _codes(target, classes, _margins("margins", z)), [str(one) for one in classes.tolist()] or None
    if setup is None:
        params = model.get_params() if hasattr(model, "get_params") else {}
        held = params.get("objective", params.get("loss_function"))
        if not isinstance(held, Objective):
            raise ValueError(
                "setup must say what the model was trained with, such as "
                "TrainingSetup('softmax', class_weights=w), as it holds no objective of steelyard"
            )
        size = 2 if z.ndim == 1 else z.shape[1]
        stated = [key for key in _WEIGH_ROWS if params.get(key) not in (None, False, 1)]
        if stated:
            raise ValueError(f"setup must be given for a model with {stated[0]}, which its objective cannot see")
        setup = held.setup(None if held.counts is not None else class_counts(codes, num_classes=size))
    return audit(torch.from_numpy(z), codes, setup, class_names=names)


def _margins(name: str, values: Any) -> Tensor:
    found = np.asarray(values)
    if found.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (N,) or (N, K), got {found.shape}")
    z = torch.tensor(found, dtype=torch.float64)
    return z[:, None] if z.dim() == 1 else z


def _labels(values: Any, z: Tensor) -> Tensor:
    found, most = np.asarray(values), max(z.shape[1], 2) - 1
    if found.shape != (len(z),):
        raise ValueError(f"labels must have shape ({len(z)},), one a row, got {found.shape}")
    codes = found.astype(np.int64)
    odd = (codes != found) | (codes < 0) | (codes > most)
    if odd.any():
        raise ValueError(f"labels must be whole numbers from 0 to {most}, got {found[odd][0]}")
    return torch.from_numpy(codes)


def _codes(target: Any, classes: Array, z: Tensor) -> Tensor:
    """Return labels from 0 to K - 1, by the model's own order of classes where it has one."""
    found = np.asarray(target).reshape(-1)
    if len(classes) == 0:
        return _labels(found, z)
    positions = np.searchsorted(classes, found).clip(max=len(classes) - 1)
    odd = classes[positions] != found
    if odd.any():
        raise ValueError(f"target must hold classes of the model, got {found[odd][0]!r}")
    return torch.from_numpy(positions)


def _row_weights(loss: Loss, y: Tensor, size: int, sample_weight: Tensor | None) -> Tensor:
    weights = torch.ones(len(y), dtype=torch.float64)
    if loss.class_weights is not None:
        weights = check_vector("class_weights", loss.class_weights, size)[y]
    return weights if sample_weight is None else weights * sample_weight.double()


def _of_rows(loss: Loss, z: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients (N, K) and the Hessians, (N, K, K), or their diagonals (N, K) where that is all."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        one = z.shape[1] == 1
        rows = torch.cat([torch.zeros_like(z), z], 1) if one and loss.link == "softmax" else z
        total = (loss.per_sample(rows, y) * weights).sum()
        (gradient,) = torch.autograd.grad(total, z, create_graph=True)
        if one or loss.link == "logistic":  # outputs stand for themselves
            return gradient.detach(), _slope(gradient.sum(), z)
        parts = [_slope(gradient[:, j].sum(), z, keep=True) for j in range(z.shape[1])]
        return gradient.detach(), torch.stack(parts, 1)


def _of_batch(loss: Loss, z: Tensor, y: Tensor, sample_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return gradient and hessian (N, K) of LGL-INR, times N / K."""
    if z.shape[1] == 1:
        raise ValueError(f"{loss.name} needs one margin a class, got one in all: train with num_class=2")
    scale = len(z) / z.shape[1]
    options = loss.placed(z) | {"reduction": "sum", "mean_confusion": None}
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        gradient = _slope(loss.evaluate(z, y, sample_weight, options), z)
        adjustment = options["logit_adjustment"]
        p = torch.sigmoid(z.detach() if adjustment is None else z.detach() + adjustment)
        sums = torch.zeros(z.shape[1], z.shape[1], dtype=z.dtype).index_add(0, y, p)
        counts = class_counts(y, num_classes=z.shape[1])
        held = options | {"mean_confusion": sums / torch.where(counts > 0, counts, torch.nan)[:, None]}
        (curved,) = torch.autograd.grad(loss.evaluate(z, y, None, held), z, create_graph=True)
        return scale * gradient, scale * _slope(curved.sum(), z)


def _slope(value: Tensor, z: Tensor, *, keep: bool = False) -> Tensor:
    if not value.requires_grad:  # a gradient that does not depend on the margins
        return torch.zeros_like(z)
    (found,) = torch.autograd.grad(value, z, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(z) if found is None else found.detach()


def _array(values: Tensor, shape: tuple[int, ...]) -> Array:
    found: Array = values.to(torch.float32).numpy().reshape(shape)
    return found
