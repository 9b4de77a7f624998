"""C4: LGL-INR improves the one-vs-all logistic loss and is competitive with softmax."""

from typing import Any

from steelyard.experiments.standings import divergence, jobs_of, paired, shown, stand, work
from steelyard.experiments.statistics import differences, holm, p_value
from steelyard.report.results import Conclusion, Held

__all__ = ["STATEMENT", "TITLE", "conclude", "jobs", "work"]

TITLE = "LGL-INR against logistic and softmax losses"
STATEMENT = (
    "LGL-INR improves the one-vs-all logistic loss and is competitive with softmax, under balanced and imbalanced "
    "training data. Its variants show which part does it: balanced classes, balanced positives and negatives, or "
    "hardness."
)
_OURS = "lgl-inr"


def jobs(config: Any) -> dict[str, dict[str, Any]]:
    """Return a job for every imbalance and loss."""
    return jobs_of(config, {imbalance: {"imbalance": imbalance} for imbalance in config.imbalances})


def conclude(records: list[dict[str, Any]], config: Any) -> Conclusion:
    """Return the standings, and a verdict by the paper's own loss, LGL-INR as it is by default."""
    held, verdict = _judge(records, config)
    return stand(records, "imbalance", config, held=held, verdict=verdict)


def _judge(records: list[dict[str, Any]], config: Any) -> tuple[Held, str]:
    others = list(dict.fromkeys(loss for loss in ("logistic", config.reference) if loss in config.losses))
    lost = divergence(records, "imbalance")
    if _OURS not in config.losses or not others:
        told = f"It cannot be judged without {_OURS}, and logistic or {config.reference}, among the losses."
        return "undecided", told + lost
    ahead = {other: paired(records, "imbalance", _OURS, other) for other in others}
    several = config.seeds > 1
    points = (
        f"Points of balanced accuracy{', with 95% intervals over paired seeds' if several else ''}: "
        + "; ".join(f"{_OURS} less {other} {shown(ahead[other])}" for other in others)
    )
    if not several:
        return "undecided", f"One seed decides nothing, because it has no interval. {points}.{lost}"
    of = {(r["imbalance"], r["loss"]): r["balanced_accuracy"] for r in records}
    tests = [(other, group, mean > 0) for other in others for group, (mean, _, _) in ahead[other].items()]
    corrected = holm([p_value(differences(of[group, _OURS], of[group, other])) for other, group, _ in tests])
    sure = [test for test, p in zip(tests, corrected, strict=True) if p is not None and p < 0.05]
    better = {other: sum(first for against, _, first in sure if against == other) for other in others}
    worse = sum(not first for _, _, first in sure)
    counted = " and ".join(f"of {other} in {count}" for other, count in better.items())
    verdict = (
        f"Of {len(tests)} comparisons by balanced accuracy, {_OURS} is surely ahead {counted}, and surely behind "
        f"in {worse} (5%, corrected for their number by Holm's method). {points}.{lost}"
    )
    judged = {"logistic", config.reference} <= better.keys()
    return ("no" if worse else "yes" if judged and better["logistic"] else "partly"), verdict
