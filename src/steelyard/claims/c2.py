"""C2: with more classes the law holds and does not decide; what weights guarantee, and what they do not."""

import statistics
from itertools import product
from typing import Any

import torch
from torch import Tensor

from steelyard.auditing import audit
from steelyard.balance import TrainingSetup, mean_confusion, softmax_law
from steelyard.experiments.statistics import in_words, mean_interval
from steelyard.experiments.trainings import dataset, draw, ranked_counts, settings, train
from steelyard.forecasting import fit_head
from steelyard.losses import SoftmaxLoss
from steelyard.report.results import Conclusion, Number, Points, PointsFigure
from steelyard.weights.class_weights import class_weights

TITLE = "Softmax with more classes: the effect of weights is indeterminate"
STATEMENT = (
    "The law of the softmax loss has one equation for each class, of which K − 1 are independent, for K (K − 1) "
    "mean probabilities. (K − 1)² degrees of freedom remain, so weights and counts fix no class's probability."
)


_EXACT = 1e-6  # relative: what a polished head may miss
_RARE = {"first": "rare classes last", "last": "rare classes first", "shuffled": "rare classes drawn"}
"""What the orders of the classes from frequent to rare mean."""


def jobs(config: Any) -> dict[str, dict[str, Any]]:
    """Return a job for every scheme of weights, order in which classes get rare, and seed."""
    return {
        f"{scheme}-{order}-s{seed}": settings(config)
        | {
            "imbalance": config.imbalance,
            "scheme": scheme,
            "order": order,
            "seed": seed,
            "factor": config.factor,
        }
        for scheme in ("none", "inverse")
        for order in ("first", "last", "shuffled")
        for seed in range(config.seeds)
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train, measure, and refit the head with each class's weight raised alone."""
    data = dataset(job)
    size = len(data.class_names)
    ranked = ranked_counts(data.train_target, size, job)
    order = _ordered(job["order"], size, job["seed"])
    counts = torch.empty(size, dtype=torch.long)
    counts[order] = torch.tensor(ranked)
    chosen = draw(data.train_target, counts.tolist(), seed=job["seed"])
    weights = class_weights(counts, job["scheme"])
    trained = train(data, chosen, SoftmaxLoss(class_weights=weights), job, outputs=size)
    P, seen = mean_confusion(trained.logits, trained.target, link="softmax")
    stated = None if job["scheme"] == "none" else weights
    report = audit(trained.logits, trained.target, TrainingSetup("softmax", class_weights=stated))
    test_P, _ = mean_confusion(trained.test_logits, trained.test_target, link="softmax")
    return job | {
        "misfit": softmax_law(P, seen, weights).misfit,
        "faults": list(report.faults),
        "own_by_rank": test_P.diagonal()[order].tolist(),
        **_search(trained.features, trained.target, weights.double(), job["factor"]),
    }


def _ordered(order: str, size: int, seed: int) -> Tensor:
    """Return the classes from frequent to rare."""
    if order == "shuffled":
        return torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return torch.arange(size) if order == "first" else torch.arange(size).flip(0)


def _search(features: Tensor, target: Tensor, weights: Tensor, factor: float) -> dict[str, Any]:
    """Raise each class's weight alone, all else in the objective the same, and see which way its numbers go."""
    size, scale = len(weights), 1e-3

    def fitted(w: Tensor, start: Any = None) -> tuple[Any, Tensor, Tensor, float]:
        # the objective is the plain sum over samples: its normalisation goes into the decay
        decay = scale * float(weights[target].sum() / w[target].sum())
        head = fit_head(features, target, class_weights=w, num_classes=size, weight_decay=decay, start=start)
        z = head.logits(features)
        losses = torch.nn.functional.cross_entropy(z, target, reduction="none")
        own = torch.bincount(target, losses, minlength=size) / torch.bincount(target, minlength=size)
        P, counts = mean_confusion(z, target, link="softmax")
        return head, P, own, softmax_law(P, counts, w).misfit

    head, P, own, misfit = fitted(weights)
    fell, rose, worst = 0, 0, -1.0
    changes = []
    for k in range(size):
        w = weights.clone()
        w[k] *= factor
        _, after, own_after, _ = fitted(w, head)
        worst = max(worst, float((own_after[k] - own[k]) / own[k].clamp(min=1e-300)))
        change = (after[k, k] - P[k, k]).item()
        fell += change < -1e-12
        others = torch.arange(size) != k
        # naively every other class loses some of its own probability
        rose += int(((after - P).diagonal()[others] > 1e-12).sum())
        changes.append(change)
    return {
        "polished_misfit": misfit,
        "own_fell": int(fell),
        "raised": size,
        "others_rose": int(rose),
        "others": size * (size - 1),
        "largest_rise_of_own_loss": worst,
        "own_change": changes,
    }


def _differences(records: list[dict[str, Any]], seeds: int) -> tuple[list[float], list[float]]:
    """Return how far the ranks' mean probabilities lie apart, seed by seed: between the assignments `first` and
    `last`, and between a seed and the next under one assignment, which is what training and sampling do alone.
    """
    of = {(r["scheme"], r["order"], r["seed"]): r["own_by_rank"] for r in records}
    schemes = sorted({r["scheme"] for r in records})

    def apart(one: tuple[str, str, int], other: tuple[str, str, int]) -> list[float]:
        return [abs(a - b) for a, b in zip(of[one], of[other], strict=True)]

    between, within = [], []
    for seed in range(seeds):
        pairs = [apart((scheme, "first", seed), (scheme, "last", seed)) for scheme in schemes]
        between.append(statistics.fmean(value for pair in pairs for value in pair))
        if seeds > 1:
            pairs = [
                apart((scheme, order, seed), (scheme, order, (seed + 1) % seeds))
                for scheme in schemes
                for order in ("first", "last")
            ]
            within.append(statistics.fmean(value for pair in pairs for value in pair))
    return between, within


def conclude(records: list[dict[str, Any]], config: Any) -> Conclusion:
    """Return the verdict with its numbers and figures."""
    size = len(records[0]["own_by_rank"])
    between, within = _differences(records, config.seeds)
    mean, noise = statistics.fmean(between), statistics.fmean(within) if within else None
    excess = mean_interval([a - b for a, b in zip(between, within, strict=True)]) if within else None
    fell, raised = sum(r["own_fell"] for r in records), sum(r["raised"] for r in records)
    rose, others = sum(r["others_rose"] for r in records), sum(r["others"] for r in records)
    worst = max(r["largest_rise_of_own_loss"] for r in records)
    polished = max(r["polished_misfit"] for r in records)
    misfit = statistics.median(r["misfit"] for r in records)
    fair = worst <= _EXACT
    lawful = polished <= _EXACT and fair
    sure = excess is not None and excess[1] is not None and excess[1] > 0
    apart = f"a class's mean probability differs by {mean:.2f} between two assignments of the counts to classes"
    if excess is not None and noise is not None:
        apart += f", and by {noise:.2f} between seeds of one assignment (less by {in_words(excess, '.2f')})"
    answer = "does not hold in every network"
    if lawful and sure:
        answer = "holds in every network, and it fixes no class's probability"
    elif lawful:
        seeds = "one seed does not" if excess is None else f"{config.seeds} seeds do not"
        answer = f"holds in every network, but {seeds} tell whether it fixes no class's probability"
    return Conclusion(
        held="no" if not lawful else "yes" if sure else "undecided" if excess is None else "partly",
        verdict=(
            f"The law {answer}. Its misfit is at most {polished:.0e} with the head polished, and {misfit:.2f} in "
            f"the median as trained. On test samples, with the same counts and weights, {apart}. One weight at a "
            f"time was multiplied by {config.factor:g}. The mean training loss of its class "
            f"{'never rose' if fair else 'rose'} (the largest change is {100 * worst:+.3g}%; theory rules out "
            f"a rise). The mean probability of its class fell in {fell} of {raised} cases, and that of another "
            f"class rose in {rose} of {others}; one would expect neither."
        ),
        numbers=[
            Number("degrees of freedom", (size - 1) ** 2),
            Number("misfit as trained, median", misfit),
            Number("largest misfit, head polished", polished),
            Number("difference of a rank's mean probability between two assignments of the counts", mean),
            Number("difference between seeds of one assignment", noise),
            Number("the first difference less the second, over seeds", *((None,) if excess is None else excess)),
            Number("weights that were raised, one at a time", raised),
            Number("of these, the mean probability of its own class fell", fell),
            Number("pairs of such a weight and another class", others),
            Number("of these, the mean probability of the other class rose", rose),
            Number("largest relative rise of a class's own mean loss", worst),
        ],
        figures=[
            PointsFigure(
                id="own",
                title="Mean probability of a class by its rank, under three assignments of the same counts",
                x="rank of the class, from frequent to rare",
                y="mean probability of the own class, test split",
                series=[
                    Points(
                        f"weights {scheme}, {rare}",
                        [
                            (k + 1 + 0.08 * i, value)
                            for r in records
                            if r["scheme"] == scheme and r["order"] == order
                            for k, value in enumerate(r["own_by_rank"])
                        ],
                    )
                    for i, (scheme, (order, rare)) in enumerate(product(("none", "inverse"), _RARE.items()))
                ],
                caption="Counts and weights are the same at each rank. Which class has them is not.",
            )
        ],
    )
