"""Losses under the same recipe, on tasks of ten to two hundred classes, most of which have few samples."""

from typing import Any

from steelyard.experiments.standings import divergence, jobs_of, paired, shown, stand, work
from steelyard.report.results import Conclusion, Held

__all__ = ["STATEMENT", "TITLE", "conclude", "jobs", "work"]

TITLE = "Losses under the same recipe"
STATEMENT = (
    "This goes beyond the paper. If logits are adjusted by the log of the class frequencies, LGL-INR, which is a "
    "one-vs-all loss, is at least as good as softmax, with few classes and with many."
)

_MARGIN = 1.0  # points that count as nothing


def jobs(config: Any) -> dict[str, dict[str, Any]]:
    """Return a job for every task and loss; without an imbalance every class keeps all its samples."""
    of_task = {"imbalance": config.imbalance} | ({"keep_counts": True} if config.imbalance == "none" else {})
    return jobs_of(config, {task: {"dataset": task} | of_task for task in config.tasks})


def conclude(records: list[dict[str, Any]], config: Any) -> Conclusion:
    """Return the standings, and a verdict: in how many tasks the candidate is surely less than a margin behind."""
    held, verdict = _judge(records, config)
    return stand(records, "dataset", config, held=held, verdict=verdict)


def _judge(records: list[dict[str, Any]], config: Any) -> tuple[Held, str]:
    ours, other = config.candidate, config.reference
    lost = divergence(records, "dataset")
    if not {ours, other} <= set(config.losses):
        return "undecided", f"It cannot be judged without {ours} and {other} among the losses.{lost}"
    ahead = paired(records, "dataset", ours, other)
    several = config.seeds > 1
    points = (
        f"Points of balanced accuracy{', with 95% intervals over paired seeds' if several else ''}: {ours} less "
        f"{other} {shown(ahead)}."
    )
    if not several:
        return "undecided", f"One seed decides nothing, because it has no interval. {points}{lost}"
    of = {(r["dataset"], r["loss"]): r["balanced_accuracy"].count(None) for r in records}
    fails = [task for task in config.tasks if of[task, ours] > of[task, other]]
    sure = sum(low is not None and low > -_MARGIN for task, (_, low, _) in ahead.items() if task not in fails)
    level = sum(mean >= 0 for task, (mean, _, _) in ahead.items() if task not in fails)
    worse = sum(high is not None and high < 0 for task, (_, _, high) in ahead.items() if task not in fails)
    worse += len(fails)
    number = len(config.tasks)
    told = "" if sure or worse else f"{config.seeds} seeds do not tell. "
    verdict = (
        f"{told}On average {ours} is at least as good as {other} in {level} of {number} tasks. It is surely less "
        f"than a point behind in {sure}, and surely worse, or diverges more often, in {worse} (95%, by balanced "
        f"accuracy). {points}"
    )
    if worse:
        return ("partly" if level else "no"), verdict + lost
    return ("yes" if 2 * sure > number else "partly" if sure else "undecided"), verdict + lost
