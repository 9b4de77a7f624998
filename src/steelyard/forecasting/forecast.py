"""What other class weights would do: the linear head refitted on frozen features, before anything is retrained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steelyard._common.checks import check_integer, check_number, check_vector
from steelyard._common.folds import stratified_folds
from steelyard._common.notebook import table_html
from steelyard.balance.law import law
from steelyard.balance.laws import Balance
from steelyard.balance.means import Link
from steelyard.balance.setup import TrainingSetup
from steelyard.forecasting.head import (
    Head,
    LossLike,
    checked_features,
    class_weights_or_ones,
    fit_head,
    setup_of,
)
from steelyard.forecasting.scores import Scores, judge, plain

GUARANTEE = (
    "Guaranteed: if the weight of one class alone is raised and all else in the objective stays, the mean "
    "training loss of that class does not rise. Guaranteed for two classes under softmax or logistic loss: the "
    "mean probabilities on the training samples satisfy P₀ / (1 − P₁) = w₁N₁ / (w₀N₀), whatever the data. Not "
    "guaranteed for more classes: any class's mean probability, recall or precision. These are what a refitted "
    "head does on these features; a network that is trained with other weights has other features."
)


CAUTION = (
    "A head with few features for its samples takes class weights as a model of the whole population does. A head "
    "that separates its samples gives every class the same, whatever the weights. In between weights act, but the "
    "best ones depend on how many features there are for the samples (Stromberg, Thrampoulidis, Sankar, "
    "arXiv:2506.20025). So a forecast holds for this number of features and of samples."
)
_FOLDS = 5
_ROUGH = 1e-6  # gradient to which heads are fitted that judge only


class HeldOut(NamedTuple):
    """Rows that judge: (M, K) logits, or (M, 1) of one output, and (M,) labels or (M, K) multi-hot targets."""

    no_change: Tensor
    refit: Tensor
    target: Tensor


@dataclass(frozen=True, kw_only=True)
class Forecast(Scores):
    """What one weighting would do, beside its two rivals; the scores are those of the refitted head.

    Attributes:
        name: of the weighting.
        class_weights: (K,) float64, or None where `pos_weight` are weighed.
        pos_weight: (K,) float64, (1,) for one output, or None where classes are weighed.
        no_change: scores of the head without weights.
        shift: scores of the head without weights after log w is added to its logits, which costs nothing.
        folds: how many the scores are out of; None where they are of held-out samples.
        class_loss: (K,) mean training loss of each class; for multi-hot targets, of the samples with the label.
        balance: the law of the loss on the training samples: the check that the head is at its optimum.
        gradient: largest entry of the gradient there.
        features_per_sample: D over the training samples; see :data:`CAUTION`.
        features_per_rarest: D over those of the rarest class that has any.
        held_out: the rows that judge, with the logits of the head without weights and of the refitted one.
    """

    name: str
    class_weights: Tensor | None
    pos_weight: Tensor | None
    no_change: Scores
    shift: Scores
    folds: int | None
    class_loss: Tensor
    balance: Balance
    gradient: float
    features_per_sample: float
    features_per_rarest: float
    held_out: HeldOut

    def _repr_html_(self) -> str:
        """Return the forecast and its two rivals as a table that notebooks show."""
        share = "{:.1%}".format
        rows = [
            (how, share(one.accuracy), share(one.balanced_accuracy), f"{one.nll:.3f}", share(one.ece))
            for how, one in (("refit", self), ("shift", self.shift), ("no change", self.no_change))
        ]
        judged = "held-out samples" if self.folds is None else f"{self.folds} folds"
        sentence = f"Forecast for weights {self.name}, judged by {judged}"
        return table_html(sentence, ("", "accuracy", "balanced accuracy", "NLL", "ECE"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists for JSON, None for what is not finite; without mean confusions."""
        keys = ("class_weights", "pos_weight", "class_loss")
        vectors = {key: None if getattr(self, key) is None else plain(getattr(self, key)) for key in keys}
        rest = ("name", "folds", "gradient", "features_per_sample", "features_per_rarest")
        return (
            {key: getattr(self, key) for key in rest}
            | super().to_dict()
            | vectors
            | {"no_change": self.no_change.to_dict(), "shift": self.shift.to_dict(), "misfit": self.balance.misfit}
        )


def forecast(
    features: Tensor,
    target: Tensor,
    *,
    class_weights: Mapping[str, Tensor | None] | None = None,
    pos_weight: Mapping[str, Tensor | None] | None = None,
    loss: LossLike = "softmax",
    test: tuple[Tensor, Tensor] | None = None,
    folds: int | None = None,
    seed: int = 0,
    weight_decay: float = 5e-4,
    tolerance: float = 1e-8,
) -> tuple[Forecast, ...]:
    r"""Refit the head for each weighting and return what it would do, beside what costs nothing.

    The rivals are to change nothing, and to add the logarithms of the weights to the logits of the head without
    weights. :data:`GUARANTEE` says what is guaranteed, :data:`CAUTION` what weights do to a head of many features.

    Args:
        features: (N, D) of the training samples, from a trained network; or margins of trees.
        target: (N,) labels; (N, K) multi-hot; 0 and 1 for one output, as :func:`fit_head` takes it.
        class_weights: a name and (K,) weights, or None for none, for each weighting.
        pos_weight: a name and (K,) further weights of each output's positives, (1,) for one output, or None; for a
            loss by name whose outputs stand for themselves. Exactly one of the two is given.
        loss: a :class:`~steelyard.TrainingSetup` without weights, or what it takes for a loss, such as
            ``"softmax"``, ``"logistic"`` (one-vs-all) or a module; see :func:`fit_head`.
        test: features and target of held-out samples to judge by. Default: the training samples out of fold.
        folds: how many: heads are fitted on all folds but one and judged by that one; every fold has its share of
            each class. Default: 5 without `test`.
        seed: of the draw of folds.
        weight_decay: of the head's matrix, as in training.
        tolerance: of the gradient; see :func:`fit_head`.

    Returns:
        One forecast for each weighting, in their order.

    Raises:
        TypeError, ValueError: arguments that do not fit, as :func:`fit_head` does; `folds` beside `test`; a class
            of a single sample, which cannot be judged out of fold.
        ArithmeticError: as :func:`fit_head` does.

    Source:
        Derived for this project.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> target = torch.tensor([0] * 90 + [1] * 10)
        >>> features = torch.randn(100, 2, generator=generator) + target[:, None]
        >>> plain, balanced = forecast(
        ...     features, target, class_weights={"none": None, "inverse": torch.tensor([0.2, 1.8])})
        >>> bool(plain.recall[1] < balanced.recall[1])
        True
    """
    given = class_weights if pos_weight is None else pos_weight
    if (class_weights is None) == (pos_weight is None) or given is None:
        raise ValueError("exactly one of class_weights and pos_weight must be given")
    named = "class_weights" if pos_weight is None else "pos_weight"
    if not given:
        raise ValueError(f"{named} must name at least one weighting, got none")
    if test is not None and folds is not None:
        raise ValueError(f"folds are for a forecast without held-out samples, got {folds} beside test")
    size = _size(target, test, given)
    setup = setup_of(loss, target, size)
    if setup.class_effect is not None or (pos_weight is not None and setup.pos_weight is not None):
        raise ValueError(f"{named} must be stated once, got a loss or setup that has some beside the weightings")
    h, y, size = checked_features(features, target, size, setup.targets)
    if class_weights is not None and y.dim() == 2 and any(w is not None for w in class_weights.values()):
        raise ValueError(
            "class_weights must be None for a multi-hot target, whose samples have no one class: give pos_weight"
        )
    plans = [_Plan(setup, None, named, y, size), *(_Plan(setup, w, named, y, size) for w in given.values())]
    fits = _Fits(plans, size, weight_decay)
    heads = fits(h, y, tolerance)
    if test is not None:
        rows, judged, _ = checked_features(test[0], test[1], size, setup.targets)
        if rows.shape[1] != h.shape[1]:
            raise ValueError(f"test must have {h.shape[1]} features as training has, got {rows.shape[1]}")
        logits = [head.logits(rows) for head in heads]
    else:
        folds, judged = check_integer("folds", _FOLDS if folds is None else folds), y
        logits = _out_of_fold(fits, h, y, _folds_of(y, size, folds, seed), max(tolerance, _ROUGH))

    def scores(z: Tensor, shift: Tensor | None = None) -> Scores:
        columns = torch.cat([torch.zeros_like(z), z], 1) if setup.targets == "binary" else z
        link: Link = "softmax" if setup.targets == "binary" else setup.link
        return judge(columns if shift is None else columns + shift, judged, link)

    plain_logits, no_change = logits[0], scores(logits[0])
    counts = y.sum(0) if y.dim() == 2 else torch.bincount(y, minlength=size)
    found: list[Forecast] = []
    for name, plan, head, z in zip(given, plans[1:], heads[1:], logits[1:], strict=True):
        on_training = head.logits(h)
        own = scores(z) if plan.weighs else no_change
        found.append(
            Forecast(
                **vars(own),
                name=name,
                class_weights=plan.class_weights,
                pos_weight=plan.pos_weight,
                no_change=no_change,
                shift=scores(plain_logits, plan.shift) if plan.weighs else no_change,
                folds=folds,
                class_loss=_class_loss(plan.setup.per_sample(on_training, y), y, counts),
                balance=law(on_training, y, plan.setup, sample_weight=plan.of_samples(y)),
                gradient=head.gradient,
                features_per_sample=h.shape[1] / len(h),
                features_per_rarest=h.shape[1] / float(counts[counts > 0].min()),
                held_out=HeldOut(plain_logits, z, judged),
            )
        )
    return tuple(found)


def binary_ratio(class_counts: tuple[float, float], class_weights: tuple[float, float]) -> float:
    r"""Return what weights do to two classes, in closed form: no fitting, no data.

    .. math:: \frac{P_0}{1 - P_1} = \frac{w_1 N_1}{w_0 N_0}

    Args:
        class_counts: :math:`(N_0, N_1)`, positive.
        class_weights: :math:`(w_0, w_1)`, positive.

    Returns:
        Mean probability of the positive class over the negatives, over the mean miss of the positives.

    Raises:
        TypeError, ValueError: numbers that are not positive.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (deterministic).

    Example:
        >>> binary_ratio((1000, 100), (1, 10))      # as much false probability on the negatives as misses
        1.0
    """
    names = ("class_counts", "class_weights")
    (n0, n1), (w0, w1) = (
        [check_number(name, value, low=1e-300) for value in values]
        for name, values in zip(names, (class_counts, class_weights), strict=True)
    )
    return w1 * n1 / (w0 * n0)


class _Plan:
    """A weighting: what the head is fitted with, and what is added to logits in its place."""

    class_weights: Tensor | None = None
    pos_weight: Tensor | None = None

    def __init__(
        self, setup: TrainingSetup, weights: Tensor | None, named: str, target: Tensor, size: int
    ) -> None:
        self.setup = setup
        if named == "pos_weight":
            outputs = 1 if setup.targets == "binary" else size
            given = torch.ones(outputs) if weights is None else weights
            w = check_vector("pos_weight", given, outputs, low=0)
            self.pos_weight, self.weighs = w, bool((w != 1).any())
            self.setup = _with_pos_weight(setup, w) if self.weighs else setup
            self.shift = torch.cat([w.new_zeros(1), w.log()]) if setup.targets == "binary" else w.log()
            return
        w = class_weights_or_ones(weights, size)
        self.class_weights = w if target.dim() == 1 else None
        self.weighs = bool((w != w[0]).any())  # a factor of all weights changes nothing
        self.shift = w.log()

    def of_samples(self, target: Tensor) -> Tensor | None:
        """Return what each sample weighs, (N,); None where all weigh the same."""
        return None if self.class_weights is None else self.class_weights[target]


@dataclass(frozen=True)
class _Fits:
    """The heads of the same weightings on any rows, each started from the one before."""

    plans: Sequence[_Plan]
    size: int
    weight_decay: float

    def __call__(self, h: Tensor, y: Tensor, tolerance: float) -> list[Head]:
        heads: list[Head] = []
        for plan in self.plans:
            if heads and not plan.weighs:
                heads.append(heads[0])
                continue
            head = fit_head(
                h,
                y,
                num_classes=self.size,
                loss=plan.setup,
                class_weights=plan.class_weights,
                weight_decay=self.weight_decay,
                tolerance=tolerance,
                start=heads[-1] if heads else None,
            )
            heads.append(head)
        return heads


def _out_of_fold(fits: _Fits, h: Tensor, y: Tensor, fold: Tensor, tolerance: float) -> list[Tensor]:
    """Return the logits that heads give to the rows of the one fold that they were not fitted on, by weighting."""
    logits: list[Tensor] = []
    for part in range(int(fold.max()) + 1):
        inside = fold == part
        heads = fits(h[~inside], y[~inside], tolerance)
        logits = logits or [h.new_empty(len(h), len(heads[0].bias)) for _ in heads]
        for z, head in zip(logits, heads, strict=True):
            z[inside] = head.logits(h[inside])
    return logits


def _folds_of(y: Tensor, size: int, folds: int, seed: int) -> Tensor:
    """Return the fold of each row, (N,): every training part has rows of all that there is."""
    if y.dim() == 1:
        counts = torch.bincount(y, minlength=size)
        single = (counts == 1).nonzero()
        if len(single):
            raise ValueError(
                f"target must have two samples or more of each class to be judged out of fold, got 1 of class "
                f"{int(single[0])}: give test, held-out samples"
            )
        return stratified_folds(y, folds, seed=seed)
    positives = y.sum(0)
    rarest = torch.where(y > 0, positives, torch.inf).argmin(1)
    rarest = torch.where(y.sum(1) > 0, rarest, size)  # rows without a label are a kind of their own
    fold = stratified_folds(rarest, folds, seed=seed)
    for part in range(folds):
        left = y[fold != part].sum(0)
        bad = ((left == 0) & (positives > 0)) | ((left == (fold != part).sum()) & (positives < len(y)))
        if bool(bad.any()):
            raise ValueError(
                f"target must leave each output positives and negatives in every training part of {folds} folds, "
                f"and output {int(bad.nonzero()[0])} has too few: give test, held-out samples"
            )
    return fold


def _size(target: Tensor, test: tuple[Tensor, Tensor] | None, weightings: Mapping[str, Tensor | None]) -> int:
    """Return K: the columns of a multi-hot target, or else the most that labels and weights speak of."""
    if isinstance(target, Tensor) and target.dim() == 2:
        return target.shape[1]
    given = [len(w) for w in weightings.values() if w is not None and w.dim() == 1]
    labels = [target] if test is None else [target, test[1]]
    highest = max((int(part.max()) for part in labels if isinstance(part, Tensor) and part.numel()), default=0)
    return max([highest + 1, 2, *given])


def _with_pos_weight(setup: TrainingSetup, weights: Tensor) -> TrainingSetup:
    """Return the same setup with weights of positives."""
    loss = setup.loss
    if isinstance(loss, torch.nn.BCEWithLogitsLoss):
        loss = "logistic"
    if not isinstance(loss, str):
        raise ValueError(f"pos_weight needs a loss given by name, got {setup.reading.name} as an object")
    return TrainingSetup(
        loss,
        pos_weight=weights,
        logit_adjustment=setup.logit_adjustment,
        label_smoothing=setup.label_smoothing or None,
        class_counts=setup.class_counts,
        options=setup.options,
        targets=setup.targets,
    )


def _class_loss(each: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    sums = y.T @ each if y.dim() == 2 else torch.bincount(y, each, minlength=len(counts))
    return sums / counts
