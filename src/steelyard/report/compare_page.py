"""The page of a comparison, from its run folder to one HTML file that opens anywhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.report.figures import Series, balance_figure, confusion_figure, curves_figure, recall_figure
from steelyard.report.html import render_template, save_page
from steelyard.report.style import Array, Classes, shown


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder, from the results that lie there.

    Args:
        folder: holds results.json and each run's mean_confusion.npz.

    Returns:
        The page's path. It is self-contained: no script, no request.

    Raises:
        FileNotFoundError: the folder holds no finished run, or a run's mean confusions are missing.
        ValueError: results.json is not one of ours.
    """
    results = _read(folder)
    return save_page(folder / "report.html", render(results, _confusions(folder, results)))


def render(results: dict[str, Any], confusions: list[tuple[str, Array]]) -> str:
    """The page's text from the results and each loss's test mean confusion (mean over seeds)."""
    data, losses = results["data"], results["losses"]
    classes = Classes(data["class_names"], data["train_counts"])
    counts = data["train_counts"]
    setting = dict(results["config"])
    command = setting.pop("command", None)
    columns = _columns(results)
    return render_template(
        "compare.html.j2",
        name=shown(results["name"], 80),
        config=results["config"] | {"dataset": shown(Path(results["config"]["dataset"]).name, 80)},
        environment=results["environment"],
        finished=results["finished"],
        seconds=f"{results['seconds']:g}",
        classes=len(counts),
        fewest=min(counts),
        most=max(counts),
        total=sum(counts),
        tested=sum(data["test_counts"]),
        validated=sum(data["validation_counts"]),
        columns=columns,
        rows=_rows(losses, columns),
        losses=[loss | _search(loss) for loss in losses],
        diverged=results.get("diverged", {}),
        searched=any(loss["lr_search"] for loss in losses),
        command=command,
        settings=[(key, json.dumps(value, ensure_ascii=False)) for key, value in setting.items()],
        figures={
            "recall": recall_figure(
                [Series(loss["label"], _array(run["recall"] for run in loss["runs"])) for loss in losses],
                classes,
                title="Recall of each class under each loss",
            ),
            "confusion": confusion_figure(confusions, classes, title="Mean confusion on the test split"),
            "curves": curves_figure(
                [
                    (
                        loss["label"],
                        _history(loss, "validation_balanced_accuracy"),
                        _history(loss, "train_loss"),
                    )
                    for loss in losses
                ],
                title="Validation balanced accuracy and training loss by epoch",
            ),
            "balance": balance_figure(
                [
                    (loss["label"], _array(law["pull_up"]), _array(law["push_down"]))
                    for loss in losses
                    for law in [loss["runs"][0]["law"]]
                ],
                classes,
                title="Pull up and push down of each class under each loss, with the residual",
            ),
        },
    )


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "results.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no finished run: there is no results.json")
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(results, dict) or results.get("schema") != 1:
        raise ValueError(f"{file} is not a comparison's results of schema 1")
    return results


def _confusions(folder: Path, results: dict[str, Any]) -> list[tuple[str, Array]]:
    found = []
    for loss in results["losses"]:
        files = [folder / run["folder"] / "mean_confusion.npz" for run in loss["runs"]]
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing; the run folder must be kept whole")
        parts = [np.load(file, allow_pickle=False)["test"] for file in files]
        found.append((loss["label"], np.asarray(np.mean(parts, axis=0), dtype=np.float64)))
    return found


def _columns(results: dict[str, Any]) -> list[dict[str, Any]]:
    groups = results["data"]["groups"]
    return [
        metric | {"classes": len(groups[g]) if (g := metric["key"].removeprefix("recall_")) in groups else None}
        for metric in results["metrics"]
    ]


def _rows(losses: list[dict[str, Any]], columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best = {}
    for column in columns:
        means = [s["mean"] for loss in losses if (s := loss["summary"][column["key"]]) is not None]
        if len(means) > 1:
            best[column["key"]] = max(means) if column["better"] == "higher" else min(means)
    return [
        {
            "label": shown(loss["label"], 60),
            "cells": [_cell(loss["summary"][c["key"]], c["unit"], best.get(c["key"])) for c in columns],
        }
        for loss in losses
    ]


def _cell(value: dict[str, Any] | None, unit: str, best: float | None) -> dict[str, Any]:
    if value is None:
        return {"mean": "–", "interval": "", "best": False}
    scale, digits = (100, 1) if unit == "%" else (1, 3)
    low, high = value["low"], value["high"]
    return {
        "mean": f"{scale * value['mean']:.{digits}f}",
        "interval": "" if low is None else f"{scale * low:.{digits}f} to {scale * high:.{digits}f}",
        "best": value["mean"] == best,
    }


def _search(loss: dict[str, Any]) -> dict[str, Any]:
    tried = loss["lr_search"]
    scores = [
        f"{t['lr']:g}: "
        + ("diverged" if t["balanced_accuracy"] is None else f"{100 * t['balanced_accuracy']:.1f}")
        + (", but another seed diverged" if t.get("diverged_later") else "")
        for t in tried
    ]
    at_edge = bool(tried) and loss["lr"] in (tried[0]["lr"], tried[-1]["lr"])
    return {"label": shown(loss["label"], 60), "tried": "; ".join(scores), "at_edge": at_edge}


def _history(loss: dict[str, Any], key: str) -> Array:
    return _array([row[key] for row in run["history"]] for run in loss["runs"])


def _array(values: Any) -> Array:
    """Numbers, with None as NaN."""
    return np.asarray(list(values), dtype=np.float64)
