"""What to do for an objective, tried on out-of-fold rows: weights, a shift of the logits, or thresholds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import Vector, check_choice, check_integer, check_names, check_vector
from steelyard._common.folds import stratified_folds
from steelyard._common.text import listed
from steelyard.balance.setup import TrainingSetup
from steelyard.deciding.advice import Advice, Rule, Way, decided
from steelyard.deciding.costs import Costs, read_costs
from steelyard.deciding.objectives import Objective, cost_objective, create_objective
from steelyard.deciding.paired import Paired, paired
from steelyard.deciding.rows import read_rows
from steelyard.deciding.search import confusion_of
from steelyard.deciding.thresholds import judged_offsets
from steelyard.forecasting.head import Head, checked_features, fit_head
from steelyard.posterior import log_posterior
from steelyard.weights.class_weights import Scheme, class_weights

Model = Callable[[Tensor], Tensor]
"""From inputs (n, ...) to logits (n, K)."""
Train = Callable[[Tensor, Tensor, Tensor | None], Model]
"""From inputs (n, ...), labels (n,) and class weights (K,), or None, to a model trained under softmax loss."""

_TOLERANCE = 1e-6  # of the gradient of a head
_ENOUGH = 1e-9  # that a recall may be short of its minimum, by rounding
_SAME = 1e-5  # relative, of weights that are multiples of others


def advise(
    inputs: Tensor,
    target: Tensor,
    *,
    objective: str | Objective = "balanced-accuracy",
    costs: Costs | None = None,
    schemes: Sequence[Scheme] | Mapping[str, Vector] | None = None,
    class_names: Sequence[str] | None = None,
    class_counts: Vector | None = None,
    train: Train | Literal["heads", "none"] = "heads",
    weight_decay: float = 5e-4,
    folds: int | Tensor = 5,
    groups: Tensor | None = None,
    seed: int = 0,
) -> Advice:
    r"""Return what to do for an objective: class weights, a shift of the logits, thresholds, or nothing.

    All is tried on out-of-fold rows: models are trained on the other folds, without weights and with those of each
    scheme. On the rows of the fold it takes

    - ``plain``: the most probable class without weights;
    - ``shift by S``: :math:`\arg\max_k (z_k + \log w_k)`, what weights of scheme S would do to an ideal model
      without training it; ``inverse`` is posterior over prior;
    - ``costs``: the least expected cost, for a cost;
    - ``thresholds``: offsets of the log-probabilities that were searched on the other folds;
    - ``weights S``: a model trained with weights, and its argmax; with ``+ costs`` or ``+ thresholds`` the weights
      are first taken out of its logits, as :func:`steelyard.log_posterior` does.

    A way is advised if nothing simpler is as good: going from simple to involved, it must beat the best so far by
    a gain whose interval is above 0; of equally simple ones the first within a standard error of the best stands.
    The intervals of all ways hold together, so that the search is counted.

    Args:
        inputs: (N, D) features: what the last linear layer takes, margins of trees, or what `train` takes. With
            ``train="none"`` log-posteriors (N, K) of held-out rows, as :func:`steelyard.log_posterior` gives them.
        target: (N,) labels; every class has at least two rows.
        objective: see :class:`~steelyard.deciding.Objective`.
        costs: (K, K) or (K,), as :func:`steelyard.decide` takes them; they are then the objective.
        schemes: of class weights; or a name and (K,) weights for each. Default: every scheme; those that are
            multiples of another are left out.
        class_names: K names. Default: numbers, up to the largest label.
        class_counts: (K,) training samples of each class, for ``train="none"``. Default: those of the target.
        train: how a model is made. ``"heads"``: linear heads at the optimum of the softmax loss, on the features.
            ``"none"``: not at all, the inputs are log-posteriors; weights are then not tried. Or a function of
            inputs, labels and weights that returns a function from inputs to logits of a softmax loss.
        weight_decay: of heads.
        folds: how many, over which classes are spread evenly; or (N,) the fold of each row, from 0 on, no class in
            one alone.
        groups: (N,) integers; rows of one group are drawn together for the intervals. They need `folds` of each
            row that keep groups whole, as :func:`steelyard.data.grouped_folds` gives them. Default: every row is
            one of its own.
        seed: of folds and draws.

    Returns:
        The advice.

    Raises:
        TypeError, ValueError: arguments of another type, shape or value than described; a class with fewer than
            two rows, or in one fold alone, which cannot be both learned and judged; a multi-hot target.
        ArithmeticError: a head could not be fitted.

    Source:
        Derived for this project. Posterior over prior: Menon et al., ICLR 2021.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> target = torch.repeat_interleave(torch.arange(2), torch.tensor([900, 100]))
        >>> features = torch.eye(2)[target] + torch.randn(1000, 2, generator=generator)
        >>> found = advise(features, target, objective="balanced-accuracy")
        >>> found.chosen.name
        'shift by inverse'
        >>> found.chosen.interval[0] > 0.05
        True
    """
    values, labels, size = _read(inputs, target, class_names, train)
    names = tuple(str(k) for k in range(size)) if class_names is None else check_names(class_names)
    samples = torch.bincount(labels, minlength=size)
    aim = _objective(objective, costs, names)
    _check_samples(samples, names)
    fold = _folds(folds, labels, seed, names)
    number = check_integer("folds", folds, low=2) if isinstance(folds, int) else int(fold.max()) + 1
    of_group = None if groups is None else _of_group(groups, fold, isinstance(folds, Tensor))
    if class_counts is not None and train != "none":
        raise ValueError("class_counts belong to train='none'; else they are those of the target")
    counts = samples if class_counts is None else check_vector("class_counts", class_counts, size, low=1)
    weights = _weights(schemes, counts)
    if train == "none":
        posteriors: dict[str | None, Tensor] = {None: values}
    else:
        made = train_heads(size, weight_decay=weight_decay) if isinstance(train, str) else train
        tried: dict[str | None, Tensor | None] = {None: None}
        tried.update(weights.items())
        posteriors = _out_of_fold(values, labels, fold, tried, made, size)
    trials = _trials(posteriors, weights, labels, fold, aim, seed)
    decisions = torch.stack([one.decided for one in trials])
    judged = paired(decisions, labels, fold, aim.value, size, groups=of_group, seed=seed)
    ways = _ways(trials, judged, labels, aim, size)
    chosen = _choose(ways, judged, aim.minimum[0] if aim.minimum else 0)
    other = [
        i for i, way in enumerate(ways)
        if way.allowed and (way.class_weights is None) != (ways[chosen].class_weights is None)
    ]  # fmt: skip
    rival = max(other, key=lambda i: ways[i].value) if other else None
    return Advice(
        aim,
        names,
        tuple(samples.tolist()),
        number,
        tuple(ways),
        ways[chosen],
        None if rival is None else ways[rival],
        None if rival is None else judged.gain(chosen, rival),
        _notes(samples, names, number, train == "none"),
        (posteriors[None], labels),
    )


@dataclass(frozen=True)
class _Trial:
    """A way before it is judged: how it decides, and what it decided on out-of-fold rows."""

    scheme: str | None
    class_weights: Tensor | None
    rule: Rule
    offsets: Tensor | None
    decided: Tensor
    name: str

    @property
    def simplicity(self) -> int:
        if self.class_weights is not None:
            return 4 if self.rule == "thresholds" else 3
        return {"argmax": 0, "shift": 1, "costs": 1, "thresholds": 2}[self.rule]


def _trials(
    posteriors: Mapping[str | None, Tensor],
    weights: Mapping[str, Tensor],
    target: Tensor,
    fold: Tensor,
    aim: Objective,
    seed: int,
) -> list[_Trial]:
    """Return all that is tried, from simple to involved.

    Args:
        posteriors: by scheme of training (None: no weights) the out-of-fold log-posteriors (N, K).
        weights: by scheme.
    """
    found: list[_Trial] = []
    for scheme, log_p in posteriors.items():
        w = None if scheme is None else weights[scheme]
        log_w = torch.zeros(log_p.shape[1], dtype=torch.float64) if w is None else w.log()
        undo = None if w is None else _centred(-log_w)
        name = "plain" if scheme is None else f"weights {scheme}"

        def add(rule: Rule, offsets: Tensor | None, rows: Tensor, told: str) -> None:
            found.append(_Trial(scheme, w, rule, offsets, rows, told))  # noqa: B023  called in this turn alone

        add("argmax", None, (log_p + log_w).argmax(1), name)
        if aim.costs is not None:
            add("costs", undo, decided(log_p, aim.costs), "costs" if scheme is None else f"{name} + costs")
        if scheme is None:
            for one, v in weights.items():
                add("shift", _centred(v.log()), (log_p + v.log()).argmax(1), f"shift by {one}")
        searched, rows = judged_offsets(log_p, target, fold, aim, seed)
        offsets = _centred(searched - log_w)
        add("thresholds", offsets, rows, "thresholds" if scheme is None else f"{name} + thresholds")
    return sorted(found, key=lambda one: one.simplicity)


def _ways(trials: list[_Trial], judged: Paired, target: Tensor, aim: Objective, size: int) -> list[Way]:
    found = []
    for i, one in enumerate(trials):
        confusion = confusion_of(target, one.decided, size)
        recall = confusion.diagonal() / confusion.sum(1)
        kept = aim.minimum is None or float(recall[aim.minimum[0]]) >= aim.minimum[1] - _ENOUGH
        gain, interval = judged.gain(i, 0)
        found.append(
            Way(
                one.name, one.scheme, one.class_weights, one.rule, one.offsets, float(judged.values[i]), gain,
                interval, recall, one.simplicity, kept,
            )
        )  # fmt: skip
    return found


def _choose(ways: list[Way], judged: Paired, minimum: int) -> int:
    """Return the way that nothing simpler matches: each step to a more involved one must surely gain.

    Of equally simple ways it is the first that is within one standard error of the best (Breiman's rule).
    """
    allowed = [i for i, way in enumerate(ways) if way.allowed]
    if not allowed:  # none keeps the minimum: the nearest to it
        return max(range(len(ways)), key=lambda i: float(ways[i].recall[minimum]))
    chosen: int | None = None
    for simplicity in range(5):
        here = [i for i in allowed if ways[i].simplicity == simplicity]
        if not here:
            continue
        best = max(here, key=lambda i: ways[i].value)
        best = next(i for i in here if ways[best].value - ways[i].value <= judged.error(best, i))
        if chosen is None or judged.gain(best, chosen)[1][0] > 0:
            chosen = best
    assert chosen is not None
    return chosen


def _out_of_fold(
    inputs: Tensor,
    target: Tensor,
    fold: Tensor,
    weights: Mapping[str | None, Tensor | None],
    train: Train,
    size: int,
) -> dict[str | None, Tensor]:
    """Return by scheme the log-posteriors (N, K) of rows by models that were trained on the other folds."""
    found = {scheme: torch.empty(len(target), size, dtype=torch.float64) for scheme in weights}
    for f in range(int(fold.max()) + 1):
        own = fold == f
        for scheme, w in weights.items():
            logits = train(inputs[~own], target[~own], w)(inputs[own])
            if logits.shape != (int(own.sum()), size) or not bool(torch.isfinite(logits).all()):
                raise ValueError(
                    f"train must give finite logits ({int(own.sum())}, {size}), got {tuple(logits.shape)}"
                )
            setup = TrainingSetup("softmax", class_weights=w)
            found[scheme][own] = log_posterior(logits.double(), setup)
    return found


def _centred(offsets: Tensor) -> Tensor:
    return offsets - offsets.mean()


def _read(
    inputs: Tensor, target: Tensor, class_names: Sequence[str] | None, train: Train | Literal["heads", "none"]
) -> tuple[Tensor, Tensor, int]:
    """Return inputs, labels and K."""
    if isinstance(target, Tensor) and target.dim() == 2 and target.shape[1] > 1:
        raise ValueError(
            "target must be one class a row, got a multi-hot one: ask thresholds(..., targets='multi-hot') for "
            "the thresholds of its outputs"
        )
    size = None if class_names is None else len(check_names(class_names))
    if isinstance(train, str):
        check_choice("train", train, ("heads", "none"))
    if train == "heads":
        return checked_features(inputs, target, size)
    if not isinstance(inputs, Tensor) or inputs.dim() == 0 or len(inputs) == 0:
        raise TypeError(f"inputs must be a tensor with a row at least, got {type(inputs).__name__}")
    if train == "none":
        rows = read_rows(inputs, "classes").values[0]
        width = rows.shape[1]
        if size not in (None, width):
            raise ValueError(f"class_names must be {width}, as the log-posteriors, got {size}")
        inputs, size = rows, width
    _, labels, size = checked_features(torch.zeros(len(inputs), 1), target, size)
    return inputs, labels, size


def _folds(folds: int | Tensor, labels: Tensor, seed: int, names: Sequence[str]) -> Tensor:
    """Return the fold of each row, (N,) int64."""
    if not isinstance(folds, Tensor):
        return stratified_folds(labels, min(check_integer("folds", folds, low=2), len(labels)), seed=seed)
    found = _integers("folds", folds, len(labels))
    number = int(found.max()) + 1
    if int(found.min()) < 0 or len(np.unique(found.numpy())) != number or number < 2:
        raise ValueError(
            f"folds must be numbers from 0 on, two at least and none left out, got {number - 1} at most"
        )
    alone = [
        names[k] for k in np.unique(labels.numpy()).tolist() if len(np.unique(found[labels == k].numpy())) < 2
    ]
    if alone:
        raise ValueError(
            f"folds must leave rows of each class in two at least, to learn from and to judge by, got one of "
            f"{listed(alone, 5)}"
        )
    return found


def _of_group(groups: Tensor, fold: Tensor, given: bool) -> Tensor:
    """Return the groups as numbers from 0 on."""
    inverse = np.unique(_integers("groups", groups, len(fold)).numpy(), return_inverse=True)[1]
    pairs = np.unique(np.stack([inverse, fold.numpy()]), axis=1)
    if pairs.shape[1] > int(inverse.max()) + 1:
        told = "folds tear some apart" if given else "folds are given by their number"
        raise ValueError(
            f"groups need folds that keep them whole, and {told}: give folds=steelyard.data.grouped_folds(target, "
            "groups, 5, seed=0)"
        )
    return torch.from_numpy(inverse)


def _integers(name: str, values: Tensor, rows: int) -> Tensor:
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        came = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be a tensor of integers, got {came}")
    if values.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},), one for each row, got {tuple(values.shape)}")
    return values.detach().cpu().long()


def _objective(objective: str | Objective, costs: Costs | None, names: Sequence[str]) -> Objective:
    if costs is not None:
        return cost_objective(read_costs(costs, len(names)))
    return create_objective(objective, names) if isinstance(objective, str) else objective


def _check_samples(samples: Tensor, names: Sequence[str]) -> None:
    few = [names[k] for k, n in enumerate(samples.tolist()) if n < 2]
    if few:
        raise ValueError(
            f"target must have two rows of each class at least, one to learn from and one to judge by, got fewer "
            f"of {listed(few, 5)}: drop these classes or join them with others"
        )


def _weights(schemes: Sequence[Scheme] | Mapping[str, Vector] | None, counts: Tensor) -> dict[str, Tensor]:
    """Return the weights to try by name, without those that are multiples of others or of 1."""
    if schemes is None:
        schemes = get_args(Scheme)
    if isinstance(schemes, str):
        raise TypeError(f"schemes must be a sequence of names, got the text {schemes!r}")
    size = len(counts)
    if isinstance(schemes, Mapping):
        given = {
            name: check_vector(f"schemes[{name!r}]", w, size, low=0, positive=True) for name, w in schemes.items()
        }
    else:
        given = {name: class_weights(counts, name, dtype=torch.float64) for name in schemes}
    found: dict[str, Tensor] = {}
    for name, w in given.items():
        scaled = w / w.mean()
        known = [torch.ones_like(w), *found.values()]
        if not any(bool(((scaled / other - 1).abs() <= _SAME).all()) for other in known):
            found[name] = scaled
    return found


def _notes(samples: Tensor, names: Sequence[str], folds: int, untrained: bool) -> tuple[str, ...]:
    told = []
    if untrained:
        told.append("Weights were not tried: that takes features or a learner, these are outputs of one training.")
    few = [names[k] for k, n in enumerate(samples.tolist()) if n < folds]
    if few:
        told.append(f"There are fewer rows than folds of {listed(few, 5)}.")
    return tuple(told)


def train_heads(num_classes: int, *, weight_decay: float = 5e-4) -> Train:
    """Return a training of linear heads on features; each search starts where the last one ended.

    Args:
        num_classes: K.
        weight_decay: of the head's matrix.

    Returns:
        A function as :func:`advise` takes it for `train`.
    """
    last: Head | None = None

    def train(features: Tensor, target: Tensor, weights: Tensor | None) -> Model:
        nonlocal last
        last = fit_head(
            features,
            target,
            num_classes=num_classes,
            class_weights=weights,
            weight_decay=weight_decay,
            tolerance=_TOLERANCE,
            start=last,
        )
        return last.logits

    return train
