"""Every loss under the same recipe, on tasks of ten to two hundred classes, few samples in most of them."""

from typing import Any

from steelyard.experiments.standings import divergence, jobs_of, paired, shown, stand, work
from steelyard.report.results import Conclusion, Held

__all__ = ["STATEMENT", "TITLE", "conclude", "jobs", "work"]

TITLE = "Every loss under the same recipe"
STATEMENT = (
    "Beyond the paper: a one-vs-all loss, LGL-INR on logits adjusted by the log of the class frequencies, is at "
    "least as good as softmax on logits so adjusted, with few classes and with many."
)

_MARGIN = 1.0  # points that count as nothing


def jobs(config: Any) -> dict[str, dict[str, Any]]:
    """Return a job for every task and loss."""
    return jobs_of(config, {task: {"dataset": task, "imbalance": config.imbalance} for task in config.tasks})


def conclude(records: list[dict[str, Any]], config: Any) -> Conclusion:
    """Return the standings, and a verdict by how often the candidate is surely less than a margin behind."""
    held, verdict = _judge(records, config)
    return stand(records, "dataset", config, held=held, verdict=verdict)


def _judge(records: list[dict[str, Any]], config: Any) -> tuple[Held, str]:
    ours, other = config.candidate, config.reference
    if not {ours, other} <= set(config.losses):
        return "partly", f"It cannot be judged without {ours} and {other} among the losses."
    ahead = paired(records, "dataset", ours, other)
    verdict = (
        f"Balanced accuracy of {ours} less that of {other}, in points with the 95% interval over paired seeds: "
        f"{shown(ahead)}."
    )
    lost = divergence(records, "dataset")
    if config.seeds < 2:
        return "partly", verdict + " One seed has no interval: nothing is decided." + lost
    of = {(r["dataset"], r["loss"]): r["balanced_accuracy"].count(None) for r in records}
    fails = [task for task in config.tasks if of[task, ours] > of[task, other]]
    sure = sum(low is not None and low > -_MARGIN for task, (_, low, _) in ahead.items() if task not in fails)
    level = sum(mean >= 0 for task, (mean, _, _) in ahead.items() if task not in fails)
    worse = sum(high is not None and high < 0 for task, (_, _, high) in ahead.items() if task not in fails)
    worse += len(fails)
    number = len(config.tasks)
    verdict += (
        f" On average it is at least as good in {level} of {number} tasks, with 95% confidence less than a point "
        f"behind in {sure}, worse beyond chance or by more divergence in {worse}."
    )
    return ("yes" if 2 * sure > number and worse == 0 else "partly" if level else "no"), verdict + lost
