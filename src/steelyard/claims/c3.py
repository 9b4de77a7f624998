"""C3: one-vs-all logistic losses fix only an average over the other classes, and a hard class hides behind it."""

import math
import statistics
from typing import Any

import torch

from steelyard.balance import hard_classes, mean_confusion
from steelyard.experiments.metrics import recalls
from steelyard.experiments.statistics import in_words, mean_interval
from steelyard.experiments.trainings import dataset, draw, ranked_counts, settings, train
from steelyard.notation import parse_loss
from steelyard.report.results import Conclusion, Estimate, Held, Number, Points, PointsFigure

TITLE = "One-vs-all logistic: an average over the other classes"
STATEMENT = (
    "The law of a one-vs-all output fixes only the average of its false probabilities, weighted by counts. So a "
    "hard class may hide behind many easy ones (multi-modality neglect). LGL-INR weighs the other classes by how "
    "hard they are."
)


def jobs(config: Any) -> dict[str, dict[str, Any]]:
    """Return a job for every loss and seed."""
    return {
        f"{parse_loss(loss).slug}-s{seed}": settings(config)
        | {"imbalance": config.imbalance, "loss": loss, "seed": seed}
        for loss in config.losses
        for seed in range(config.seeds)
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train, and measure how far the hardest of the other classes stands out in each column."""
    data = dataset(job)
    size = len(data.class_names)
    counts = ranked_counts(data.train_target, size, job)
    chosen = draw(data.train_target, counts, seed=job["seed"])
    spec = parse_loss(job["loss"])
    loss, schedule = spec.build(torch.tensor(counts), job["batch_size"], job["epochs"])
    trained = train(data, chosen, loss, job, outputs=size, schedule=schedule)
    link = spec.link
    P, _ = mean_confusion(trained.test_logits, trained.test_target, link=link)
    train_P, seen = mean_confusion(trained.logits, trained.target, link=link)
    others = ~torch.eye(size, dtype=torch.bool)
    share = (torch.tensor(counts).double()[:, None] * others).T  # weights of the law's average, by column
    average = (share.T / share.sum(1) * P).sum(0)
    hardest = P.masked_fill(~others, 0.0).amax(0)
    columns = hard_classes(train_P, seen)
    return job | {
        "average": average.tolist(),
        "hardest": hardest.tolist(),
        "ratio": (hardest / average).median().item(),
        "averaged_away": sum(len(column.averaged_away) for column in columns),
        "balanced_accuracy": recalls(trained.test_logits, trained.test_target).nanmean().item(),
    }


def conclude(records: list[dict[str, Any]], config: Any) -> Conclusion:
    """Return the verdict with its numbers and figures."""
    of = {
        loss: [r | {"largest": statistics.median(r["hardest"])} for r in records if r["loss"] == loss]
        for loss in config.losses
    }
    numbers = []
    for loss, part in of.items():
        for key, text, high in (
            ("ratio", "hardest over average false probability, median column", math.inf),
            ("largest", "hardest false probability, median column", 1.0),
            ("averaged_away", "pairs of a column and a class that its average hides", math.inf),
            ("balanced_accuracy", "balanced accuracy", 1.0),
        ):
            found = mean_interval([r[key] for r in part], low=0, high=high)
            numbers.append(Number(f"{loss}: {text}", *found))
    held: Held = "undecided"
    words = "It cannot be judged without logistic and lgl-inr among the losses."
    if "logistic" in of and "lgl-inr" in of:
        pairs = list(zip(of["logistic"], of["lgl-inr"], strict=True))
        ratio = mean_interval([a["ratio"] - b["ratio"] for a, b in pairs])
        largest = mean_interval([a["largest"] - b["largest"] for a, b in pairs])
        if config.seeds > 1:
            sure = _surely(ratio) == _surely(largest) == 1
            held = "yes" if sure else "partly" if ratio[0] > 0 else "no"
        means = {loss: {k: statistics.fmean(r[k] for r in of[loss]) for k in ("ratio", "largest")} for loss in of}
        words = (
            f"Under LGL-INR the hardest other class stands out {_in_word(ratio, 'less', 'more')} from the "
            f"average, and its false probability is {_in_word(largest, 'lower', 'higher')}. In the median column "
            f"it is {means['logistic']['ratio']:.1f} times the average that the law fixes under logistic, and "
            f"{means['lgl-inr']['ratio']:.1f} times under LGL-INR (difference {in_words(ratio, '.1f')} over "
            f"paired seeds). The probability itself is {means['logistic']['largest']:.3f} under logistic and "
            f"{means['lgl-inr']['largest']:.3f} under LGL-INR (difference {in_words(largest, '.3f')})."
        )
    return Conclusion(
        held=held,
        verdict=words,
        numbers=numbers,
        figures=[
            PointsFigure(
                id="hardest",
                title="The hardest other class of each column against the average that the law fixes",
                x="average false probability of the column, as the law weighs it",
                y="largest mean false probability",
                log=True,
                diagonal=True,
                series=[
                    Points(
                        loss,
                        [
                            (a, h)
                            for r in records
                            if r["loss"] == loss
                            for a, h in zip(r["average"], r["hardest"], strict=True)
                            if a > 0 and h > 0
                        ],
                    )
                    for loss in config.losses
                ],
                caption="Each point is a column (the output of a class) of one training, on test samples. "
                "On the line no class hides.",
            )
        ],
    )


def _surely(difference: Estimate) -> int:
    """Return 1 for a difference that is surely above 0, -1 for one below, 0 for neither."""
    _, low, high = difference
    return int(low is not None and low > 0) - int(high is not None and high < 0)


def _in_word(difference: Estimate, above: str, below: str) -> str:
    return (f"neither surely {above} nor surely {below}", above, below)[_surely(difference)]
