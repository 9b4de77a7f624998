"""Run the leaderboard's slices, and write its rows, tables and figure.

    python benchmarks/frozen_features.py uoft-cs/cifar10 --out cifar10-features.npz
    python benchmarks/leaderboard.py --cifar10 cifar10-features.npz --tables FOLDER

An unfinished slice goes on where it stopped, and a finished one is read. `--tables` names a folder with
shuttle.csv, satellite.csv and glass.csv. `--docs` writes the rows, the tables and the figure of the documentation,
in which the rows of other slices and losses stay; `--losses immax` adds a loss. All slices take about six hours on
two cores.
"""

import argparse
import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from steelyard._common.files import write_text
from steelyard.claims import read_claim_config, reproduce
from steelyard.experiments.statistics import differences, holm, mean_interval, p_value
from steelyard.report.style import STYLE

DOCS = Path(__file__).resolve().parents[1] / "docs"
REFERENCE = "softmax:tau=1"
BUILT_IN = ["digits", "digits-rotated", "digit-pairs", "stdlib-text", "gaussians"]
WITH_COSINES = BUILT_IN[:4]  # with a head of cosines too
TABLES = {"shuttle": ("Class", 256), "satellite": ("classes", 64), "glass": ("Type", 64)}  # labels, batch size
OF_COSINES = ["softmax:tau=1", "logistic:tau=1", "lgl-inr:beta=auto:tau=1", "ldam-drw:scale=1:max_margin=15"]
ONE_VS_ALL = ("logistic", "asymmetric", "lgl-inr")
METRICS = ["balanced_accuracy", "accuracy", "rare_recall", "worst_recall", "uniform_accuracy", "nll", "ece"]
METRICS += ["chosen_epoch"]
OF_JOB = ["epochs", "batch_size", "learning_rate", "weight_decay", "fewest", "most"]
COLUMNS = ["task", "network", "imbalance", "loss", "seed", *METRICS, *OF_JOB, "machine", "commit"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Slice:
    """A part of the leaderboard with one configuration.

    Attributes:
        names: of its tasks, in the tables.
        changes: of the leaderboard's own configuration.
    """

    names: list[str]
    changes: dict[str, Any]


def slices(arguments: argparse.Namespace) -> dict[str, Slice]:
    """Return the slices whose data are at hand."""
    found = {"built-in": Slice(BUILT_IN, {})}
    features = {"tasks": [str(arguments.cifar10)], "batch_size": 128}
    for ratio in (100, 10) if arguments.cifar10 is not None else ():
        for head, backbone in (("linear", "linear"), ("hidden", "mlp")):
            changes = features | {"imbalance": f"exponential:{ratio}", "backbone": backbone}
            found[f"cifar10-{ratio}-{head}"] = Slice([f"cifar10-{ratio}-{head}"], changes)
    for name, (target, size) in TABLES.items() if arguments.tables is not None else ():
        changes = {"tasks": [str(arguments.tables / f"{name}.csv")], "target": target, "batch_size": size}
        found[name] = Slice([name], changes | {"imbalance": "none"})
    images = {"tasks": [arguments.fashion], "backbone": "small-cnn", "batch_size": 128}
    images |= {"learning_rates": [0.03, 0.1, 0.3], "limit_train": 5_000}
    found["fashion-mnist"] = Slice(["fashion-mnist"], images)
    cosines = {"backbone": "mlp-cosine", "losses": OF_COSINES, "tasks": WITH_COSINES}
    found["cosines"] = Slice([f"{name}, cosines" for name in WITH_COSINES], cosines)
    return found


ALL = argparse.Namespace(cifar10="", tables=Path(), fashion="")  # any data: for the names of all tasks


def run(name: str, part: Slice, folder: Path, workers: int) -> list[Row]:
    """Return the rows of a slice, one a loss and seed, after what is left of it is done."""
    config = read_claim_config("leaderboard", **part.changes)
    result = reproduce(
        "leaderboard",
        config,
        folder / name,
        workers=workers,
        on_done=lambda job, outcome: print(f"{name}: {job} {outcome}", flush=True),
    )
    where = {"machine": result.environment.machine, "commit": result.environment.commit}
    rows = []
    for file in sorted((folder / name / "jobs").glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))["found"]
        same = {key: found[key] for key in ("imbalance", "loss", *OF_JOB)} | {"network": found["backbone"]} | where
        same["task"] = part.names[config.tasks.index(found["dataset"])]
        rows += [
            same | {"seed": seed} | {key: found[key][seed] for key in METRICS} for seed in range(config.seeds)
        ]
    return rows


class Standings:
    """What the rows of all slices say."""

    def __init__(self, rows: list[Row]) -> None:
        self.of: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            self.of.setdefault((row["task"], row["loss"]), []).append(row)
        self.tasks = [task for task in dict.fromkeys(task for task, _ in self.of) if "cosines" not in task]
        losses = [loss for loss in dict.fromkeys(loss for _, loss in self.of) if (self.tasks[0], loss) in self.of]
        # best first, those that wholly diverge on a task last
        means = {loss: self.over_tasks(loss, "balanced_accuracy") for loss in losses}
        self.losses = sorted(losses, key=lambda loss: -means[loss] if means[loss] == means[loss] else 0)

    def values(self, task: str, loss: str, metric: str) -> list[float | None]:
        return [row[metric] for row in self.of[task, loss]]

    def mean(self, task: str, loss: str, metric: str) -> float | None:
        known = [value for value in self.values(task, loss, metric) if value is not None]
        return sum(known) / len(known) if known else None

    def over_tasks(self, loss: str, metric: str) -> float:
        """Return the mean over the tasks, of NLL and ECE the median; NaN where one has none.

        Where the logits of a training ran away, its NLL alone would be the mean.
        """
        values = [self.mean(task, loss, metric) for task in self.tasks]
        if None in values:
            return float("nan")
        return (median if metric in ("nll", "ece") else fmean)(values)  # type: ignore[arg-type]

    def ahead(self, task: str, loss: str, of_cosines: bool = False) -> list[float]:
        """Return the points that a loss is ahead of the reference, which has the plain head, seed by seed."""
        ours = self.values(f"{task}, cosines" if of_cosines else task, loss, "balanced_accuracy")
        other = self.values(task, REFERENCE, "balanced_accuracy")
        return [100 * difference for difference in differences(ours, other)]

    def decided(self) -> dict[str, tuple[int, int]]:
        """Return in how many tasks each loss is surely ahead and surely behind, by Holm's method in each task."""
        found = {loss: [0, 0] for loss in self.losses}
        others = [loss for loss in self.losses if loss != REFERENCE]
        for task in self.tasks:
            apart = [self.ahead(task, loss) for loss in others]
            for loss, points, p in zip(others, apart, holm([p_value(a) for a in apart]), strict=True):
                if p is not None and p < 0.05:
                    found[loss][sum(points) < 0] += 1
        return {loss: (ahead, behind) for loss, (ahead, behind) in found.items()}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.1f}"


def overall(found: Standings) -> str:
    """Return the table of the means over all tasks."""
    decided = found.decided()
    header = ["loss", "balanced", "ahead, behind", "rare third", "worst class", "uniform", "NLL", "ECE"]
    rows = []
    for loss in found.losses:
        of = {metric: found.over_tasks(loss, metric) for metric in METRICS}
        ahead = "" if loss == REFERENCE else "{}, {}".format(*decided[loss])
        nll = "" if of["nll"] != of["nll"] else f"{of['nll']:.2f}"
        shares = [percent(of[key]) for key in ("rare_recall", "worst_recall", "uniform_accuracy")]
        rows.append([f"`{loss}`", percent(of["balanced_accuracy"]), ahead, *shares, nll, percent(of["ece"])])
    return table(header, rows)


def by_task(found: Standings, tasks: Sequence[str]) -> str:
    """Return the balanced accuracy of each loss on some tasks, the best of each task bold."""
    best = {t: max(found.losses, key=lambda loss: found.mean(t, loss, "balanced_accuracy") or 0) for t in tasks}

    def cell(task: str, loss: str) -> str:
        values = [value for value in found.values(task, loss, "balanced_accuracy") if value is not None]
        if not values:
            return "diverged"
        mean, low, _ = mean_interval(values)
        text = percent(mean) + ("" if low is None else f" ± {percent(mean - low)}")
        lost = len(found.values(task, loss, "balanced_accuracy")) - len(values)
        text += f" ({lost} diverged)" if lost else ""
        return f"**{text}**" if best[task] == loss else text

    rows = [[f"`{loss}`", *(cell(task, loss) for task in tasks)] for loss in found.losses]
    return table(["loss", *tasks], rows)


def one_vs_all(found: Standings) -> str:
    """Return the table of one-vs-all losses against the reference: its paired intervals, task by task."""
    plain = [(loss, False) for loss in found.losses if loss.startswith(ONE_VS_ALL)]
    heads = [(loss, True) for loss in OF_COSINES if (f"{BUILT_IN[0]}, cosines", loss) in found.of]
    rows = []
    for loss, of_cosines in plain + heads:
        tasks = WITH_COSINES if of_cosines else found.tasks
        points = {task: found.ahead(task, loss, of_cosines) for task in tasks}
        ends = {task: mean_interval(values) for task, values in points.items() if values}
        ahead = [task for task, (_, low, _) in ends.items() if low is not None and low > 0]
        behind = [task for task, (_, _, high) in ends.items() if high is not None and high < 0]
        mean = sum(mean for mean, _, _ in ends.values()) / len(ends)
        name = f"`{loss}`" + (", cosines" if of_cosines else "")
        rows.append([name, f"{mean:+.1f}", f"{len(ahead)} of {len(ends)}", f"{len(behind)}", ", ".join(ahead)])
    return table(["loss", "mean, points", "surely ahead", "surely behind", "ahead on"], rows)


def chosen(found: Standings) -> str:
    """Return a sentence on what choosing the epoch on the test samples would have added."""
    every = [found.mean(task, loss, "chosen_epoch") for task in found.tasks for loss in found.losses]
    gains = [gain for gain in every if gain is not None]
    return (
        f"To choose the epoch on the test samples would have added {100 * sum(gains) / len(gains):.1f} points on "
        f"average, and {100 * max(gains):.1f} at most (means over the seeds of a loss on a task).\n"
    )


def figure(found: Standings) -> str:
    """Return an SVG with the points that each loss is ahead of the reference, a dot for a task."""
    with mpl.rc_context(STYLE | {"svg.hashsalt": "leaderboard", "savefig.facecolor": "white", "font.size": 10}):
        drawing = Figure(figsize=(9.2, 0.32 * len(found.losses) + 1), layout="constrained")
        axes = drawing.subplots()
        axes.axvline(0, color="0.4", linewidth=1)
        for place, loss in enumerate(reversed(found.losses)):
            points = [sum(a) / len(a) for task in found.tasks if (a := found.ahead(task, loss))]
            axes.plot(points, [place] * len(points), "o", color="#0072b2", alpha=0.45, markersize=6, mew=0)
            axes.plot([sum(points) / len(points)], [place], "|", color="#d55e00", markersize=15, mew=2.5)
        axes.set_yticks(range(len(found.losses)), list(reversed(found.losses)))
        axes.set_xlabel(f"points of balanced accuracy ahead of {REFERENCE}; a dot is a task, a bar the mean")
        axes.grid(axis="x", alpha=0.3)
        out = io.StringIO()
        drawing.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a CSV file as :func:`write_docs` writes them."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows: list[Row] = list(csv.DictReader(lines))
    for row in rows:
        row |= {key: float(row[key]) if row[key] else None for key in METRICS}
    return rows


def write_docs(new: list[Row]) -> None:
    """Write the rows, the tables between their marks, and the figure; rows of what was not run stay."""
    file = DOCS / "results" / "leaderboard.csv"
    ran = {(row["task"], row["loss"]) for row in new}
    kept = read_rows(file) if file.exists() else []
    rows = [row for row in kept if (row["task"], row["loss"]) not in ran] + new
    order = [name for part in slices(ALL).values() for name in part.names]
    rows.sort(key=lambda row: order.index(row["task"]))
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shown = {k: f"{v:.6g}" if isinstance(v, float) and k in METRICS else v for k, v in row.items()}
        writer.writerow({k: "" if v is None else v for k, v in shown.items()})
    write_text(file, out.getvalue())
    found = Standings(read_rows(file))
    write_text(DOCS / "figures" / "leaderboard.svg", figure(found))
    page = DOCS / "leaderboard.md"
    text = page.read_text(encoding="utf-8")
    others = [task for task in found.tasks if task not in BUILT_IN]
    cifar = [task for task in others if task.startswith("cifar10")]
    tables = {
        "overall": overall(found),
        "built-in": by_task(found, BUILT_IN),
        "cifar10": by_task(found, cifar),
        "others": by_task(found, [task for task in others if task not in cifar]),
        "one-vs-all": one_vs_all(found),
        "chosen": chosen(found),
    }
    for name, new in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin not in text:
            raise ValueError(f"{page} must have the mark {begin.strip()}")
        text = re.sub(f"{begin}.*?{end}", lambda _, new=new, b=begin, e=end: b + new + e, text, flags=re.DOTALL)  # type: ignore[misc]
    write_text(page, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="features of CIFAR-10. Default: its slices are left out")
    parser.add_argument("--tables", type=Path, help="folder of the tables. Default: their slices are left out")
    parser.add_argument("--fashion", default="zalando-datasets/fashion_mnist", help="a hub name or a folder")
    parser.add_argument("--slices", help="names, with commas between. Default: all whose data are at hand")
    parser.add_argument("--losses", help="names, with commas between. Default: all of each slice")
    parser.add_argument("--out", type=Path, default=Path("runs/leaderboard"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--docs", action="store_true", help="write the documentation's rows, tables and figure")
    arguments = parser.parse_args()
    parts = slices(arguments)
    names = arguments.slices.split(",") if arguments.slices else list(parts)
    if arguments.losses:
        losses = {"losses": arguments.losses.split(",")}
        parts = {name: Slice(part.names, part.changes | losses) for name, part in parts.items()}
    rows = [row for name in names for row in run(name, parts[name], arguments.out, arguments.workers)]
    if arguments.docs:
        write_docs(rows)


if __name__ == "__main__":
    main()
