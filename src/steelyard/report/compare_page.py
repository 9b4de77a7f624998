"""The page of a comparison, from its run folder to one HTML file that opens anywhere."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.report.charts import curves_figure
from steelyard.report.compare_findings import at_edge, best_of, compare_cards, compare_headline
from steelyard.report.compare_rows import explorer_of_comparison
from steelyard.report.family import write_page
from steelyard.report.figures import (
    Series,
    balance_figure,
    confusion_cells,
    confusion_figure,
    drawn_in_groups,
    recall_figure,
)
from steelyard.report.html import render_template
from steelyard.report.intervals import FEWEST
from steelyard.report.results import (
    ComparedData,
    ComparedLearner,
    ComparedLoss,
    Comparison,
    Metric,
    Summary,
    read_confusions,
)
from steelyard.report.style import Array, Classes, shown
from steelyard.report.words import glossary


def write_report(folder: str | PathLike[str], *, rows: bool = True) -> Path:
    """Write `report.html` into a run folder, from the results that lie there.

    Args:
        folder: holds results.json and each run's mean_confusion.npz.
        rows: whether the page has an explorer, with test logits of the first seed, where they are in the folder.

    Returns:
        The page's path. It is one file that requests nothing; other pages of the run get a link to it.

    Raises:
        FileNotFoundError: the folder holds no finished run, or a run's mean confusions are missing.
        ValueError: results.json is not one of ours, or a file was cut off or edited; the sentence names it.
    """
    folder = Path(folder)
    results = Comparison.read(folder)
    explorer = explorer_of_comparison(folder, results) if rows else None
    return write_page(folder / "report.html", render(results, _confusions(folder, results), explorer))


def render(
    results: Comparison, confusions: list[tuple[str, Array]], explorer: dict[str, Any] | None = None
) -> str:
    """Return the page's text from the results and each loss's test mean confusion (mean over seeds)."""
    data, losses, config = results.data, results.losses, results.config
    learner = results.learner or ComparedLearner(
        f"a network, to the last of {config['epochs']} epochs", "learning rate", config["learning_rates"], []
    )
    classes = Classes(data.class_names, data.train_counts)
    columns = list(results.groups_of())
    return render_template(
        "compare.html.j2",
        explorer=explorer,
        name=shown(results.name, 80),
        config=config,
        dataset=shown(Path(config["dataset"]).name, 80),
        reading=shown(data.reading, 1000),
        environment=results.environment,
        finished=results.finished,
        seconds=f"{results.seconds:g}",
        classes=len(classes.names),
        fewest=min(data.train_counts),
        most=max(data.train_counts),
        total=sum(data.train_counts),
        tested=sum(data.test_counts),
        validated=sum(data.validation_counts),
        columns=columns,
        head=compare_headline(results),
        findings=compare_cards(results),
        labels=[shown(loss.label, 60) for loss in losses],
        by_class=_by_class(losses, data, classes),
        cells=confusion_cells(confusions, classes),
        grouped=drawn_in_groups(len(classes.names), len(losses)),
        glossary=glossary(
            "Balance", "Interval", "Law", "Mean confusion", "Misfit", "One-vs-all", "Relative residual"
        ),
        rows=_rows(losses, results.metrics, spread=results.seeds_differ),
        laws=[(shown(loss.label, 60), loss.law) for loss in losses],
        searches=[_search(loss) for loss in losses],
        diverged=results.diverged,
        intervals=config["seeds"] >= FEWEST and results.seeds_differ,
        seeds_differ=results.seeds_differ,
        learner=learner,
        searched=any(loss.lr_search for loss in losses),
        command=config.get("command"),
        settings=[
            (key, json.dumps(value, ensure_ascii=False))
            for key, value in config.items()
            if key != "command" and key not in learner.without
        ],
        figures={
            "recall": recall_figure(
                [Series(loss.label, _array([run.recall for run in loss.runs])) for loss in losses],
                classes,
                title="Recall of each class under each loss",
            ),
            "confusion": confusion_figure(confusions, classes, title="Mean confusion on the test split"),
            "curves": curves_figure(
                [
                    (
                        loss.label,
                        _array([[row.validation_balanced_accuracy for row in run.history] for run in loss.runs]),
                        _array([[row.train_loss for row in run.history] for run in loss.runs]),
                    )
                    for loss in losses
                ],
                title="Validation balanced accuracy and training loss by epoch",
            )
            if all(run.history for loss in losses for run in loss.runs)
            else None,
            "balance": balance_figure(
                [
                    (loss.label, _array(law.pull_up), _array(law.push_down))
                    for loss in losses
                    for law in [loss.runs[0].law]
                ],
                classes,
                title="Pull up and push down of each class under each loss, with the residual",
            ),
        },
    )


def _confusions(folder: Path, results: Comparison) -> list[tuple[str, Array]]:
    size, found = len(results.data.class_names), []
    for loss in results.losses:
        files = [folder / run.folder / "mean_confusion.npz" for run in loss.runs]
        parts = [read_confusions(file, size, "test")["test"] for file in files]
        found.append((loss.label, np.asarray(np.mean(parts, axis=0), dtype=np.float64)))
    return found


def _rows(losses: list[ComparedLoss], metrics: list[Metric], *, spread: bool) -> list[dict[str, object]]:
    best = {metric.key: best_of([loss.summary[metric.key] for loss in losses], metric) for metric in metrics}
    if not spread:
        best = dict.fromkeys(best)
    return [
        {
            "label": shown(loss.label, 60),
            "cells": [_cell(loss.summary[m.key], m.unit, best[m.key], spread=spread) for m in metrics],
        }
        for loss in losses
    ]


def _by_class(losses: list[ComparedLoss], data: ComparedData, classes: Classes) -> list[dict[str, object]]:
    """Return the rows of the table of classes, from frequent to rare: recall in percent, mean over seeds."""
    recall = [100 * _array([run.recall for run in loss.runs]).mean(0) for loss in losses]
    return [
        {
            "name": shown(classes.names[k], 40),
            "trained": data.train_counts[k],
            "tested": data.test_counts[k],
            "recall": ["–" if np.isnan(of[k]) else f"{of[k]:.1f}" for of in recall],
        }
        for k in classes.by_count()
    ]


def _cell(value: Summary | None, unit: str, best: Summary | None, *, spread: bool) -> dict[str, object]:
    if value is None:
        return {"mean": "–", "interval": "", "best": False, "value": None}
    scale, digits = (100, 1) if unit == "%" else (1, 3)
    low, high = value.low, value.high
    return {
        "mean": f"{scale * value.mean:.{digits}f}",
        "interval": ""
        if low is None or high is None or not spread
        else f"{scale * low:.{digits}f} to {scale * high:.{digits}f}",
        "best": value is best,
        "value": f"{scale * value.mean:.6g}",
        "low": low and f"{scale * low:.6g}",
        "high": high and f"{scale * high:.6g}",
    }


def _search(loss: ComparedLoss) -> dict[str, object]:
    tried = loss.lr_search
    scores = [
        f"{t.lr:g}: "
        + ("diverged" if t.balanced_accuracy is None else f"{100 * t.balanced_accuracy:.1f}")
        + (", but another seed diverged" if t.diverged_later else "")
        for t in tried
    ]
    return {"label": shown(loss.label, 60), "lr": loss.lr, "tried": "; ".join(scores), "at_edge": at_edge(loss)}


def _array(values: object) -> Array:
    """Return numbers, with None as NaN."""
    return np.asarray(values, dtype=np.float64)
