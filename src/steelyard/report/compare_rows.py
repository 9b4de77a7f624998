"""The explorer of a comparison: test logits of the first seed of each loss."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from steelyard.data import open_predictions
from steelyard.notation import setup_from_text
from steelyard.report.explorer import Mark, Model, explorer_of, exponent_of, pack_rows, undo_of
from steelyard.report.results import ComparedLoss, Comparison

_FILE = "predictions.parquet"


def explorer_of_comparison(folder: Path, results: Comparison) -> dict[str, Any] | None:
    """Return what the explorer of a comparison's page takes; None where predictions are not in the folder,
    or logits are not finite.

    Raises:
        ValueError: a file of predictions that is damaged or does not fit the results; the sentence names it.
    """
    files = [folder / loss.runs[0].folder / _FILE for loss in results.losses]
    size = len(results.data.class_names)
    if size < 2 or not all(file.is_file() for file in files):
        return None
    models = [_model(file, loss, results) for file, loss in zip(files, results.losses, strict=True)]
    if not all(np.isfinite(model.scores).all() for model in models):
        return None
    counts = results.data.train_counts
    rows = pack_rows(models, size, train_counts=counts)
    places = [(_base(loss), exponent_of(loss.class_weights, counts)) for loss in results.losses]
    return explorer_of(
        rows, results.data.class_names, counts, _marks(results, places), bases=places, marks_are="really trained"
    )


def _model(file: Path, loss: ComparedLoss, results: Comparison) -> Model:
    opened = open_predictions(file)
    parts = list(opened.batches())
    logits, target = torch.cat([rows for rows, _ in parts]), torch.cat([labels for _, labels in parts])
    size, expected = len(results.data.class_names), sum(results.data.test_counts)
    if logits.shape != (expected, size):
        raise ValueError(f"{file} must hold logits ({expected}, {size}), got {tuple(logits.shape)}")
    batch_size = cast(dict[str, Any], results.config).get("batch_size")
    setup = setup_from_text(loss.label, torch.tensor(results.data.train_counts), batch_size=batch_size)
    return Model(loss.label, logits.numpy(), target.numpy(), undo_of(logits, setup))


def _base(loss: ComparedLoss) -> str:
    """Return the loss and its options, without class weights."""
    return f"{loss.loss} {json.dumps(loss.options, sort_keys=True, default=str)}"


def _marks(results: Comparison, places: list[tuple[str, float | None]]) -> list[Mark]:
    """Return the mean over seeds of each loss."""
    marks = []
    for loss, (base, exponent) in zip(results.losses, places, strict=True):
        balanced, accuracy = loss.summary.get("balanced_accuracy"), loss.summary.get("accuracy")
        if balanced is None:
            continue
        known = None if accuracy is None else (accuracy.mean, accuracy.low, accuracy.high)
        marks.append(Mark(loss.label, base, exponent, (balanced.mean, balanced.low, balanced.high), known))
    return marks
