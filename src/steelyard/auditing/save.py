"""An audit as a folder of audit.json, classes.csv and mean_confusion.npz; pages are made of them elsewhere."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard._common.files import filled_folder, write_atomically, write_csv, write_json
from steelyard._common.intervals import QUANTILE
from steelyard.auditing.binary import Ratio
from steelyard.auditing.findings import Numbers, finite


@dataclass(frozen=True)
class ClassRow:
    """What an audit says of one class; None for what is not known.

    Attributes:
        index, name: of the class.
        samples: that were audited.
        class_count: training samples.
        stated, implied: weight of the class, or of the output's positives for one-vs-all losses. Implied weights
            have no scale of their own: in each group of classes they take the stated ones'. Of two classes alone
            both are how many times a sample weighs one of class 0.
        implied_low, implied_high: 95% interval.
        pull_up, push_down, relative_residual: of the law of the stated loss.
    """

    index: int
    name: str
    samples: int
    class_count: float
    stated: float | None
    implied: float | None
    implied_low: float | None
    implied_high: float | None
    pull_up: float | None
    push_down: float | None
    relative_residual: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def class_rows(n: Numbers, ratio: Ratio | None = None) -> tuple[ClassRow, ...]:
    """Return what an audit says of each class, largest residual first; of two classes the weights in units of that
    of class 0, and class 1 first."""
    unknown: list[float | None] = [None] * len(n.names)
    implied, s = n.implied, n.statement
    weights: Tensor | None
    if implied is not None:
        stated, weights, errors = s.total, implied.weights, n.implied_log_error
        if stated is not None and n.implied_over_stated is not None:
            weights = stated * n.implied_over_stated
    else:
        stated, weights, errors = s.pos_weight, n.implied_pos_weight, n.implied_pos_log_error

    def listed(values: Tensor | None) -> list[float | None]:
        return unknown if values is None else [finite(value) for value in values.tolist()]

    if ratio is not None:
        stated = None if stated is None else stated / stated[0]
        weights, errors = torch.tensor([1.0, ratio.found.value], dtype=torch.float64), None
    columns = zip(
        *map(listed, (stated, weights, errors)),
        *map(listed, (n.balance.pull_up, n.balance.push_down, n.balance.relative_residual)),
        strict=True,
    )
    rows = [
        ClassRow(
            index=k,
            name=n.names[k],
            samples=n.samples[k],
            class_count=float(n.class_counts[k]),
            stated=nominal,
            implied=weight,
            implied_low=_times_exp(weight, -QUANTILE, error),
            implied_high=_times_exp(weight, QUANTILE, error),
            pull_up=pull,
            push_down=push,
            relative_residual=relative,
        )
        for k, (nominal, weight, error, pull, push, relative) in enumerate(columns)
    ]
    if ratio is not None:
        rare = replace(rows[1], implied_low=ratio.found.low, implied_high=ratio.found.high)
        return rare, rows[0]
    if n.statement.several:  # outputs that stand for themselves are off by what part of their own sum
        return tuple(sorted(rows, key=lambda row: -abs(row.relative_residual or 0.0)))
    return tuple(sorted(rows, key=lambda row: -abs((row.pull_up or 0.0) - (row.push_down or 0.0))))


def _times_exp(weight: float | None, times: float, error: float | None) -> float | None:
    if weight is None or error is None:
        return None
    return weight * math.exp(max(-300.0, min(300.0, times * error)))


def save_audit(
    folder: Path,
    found: Mapping[str, Any],
    rows: Sequence[ClassRow],
    mean_confusion: Tensor,
    ledger: Tensor,
    page: Callable[[Path], object] | None = None,
) -> None:
    """Write an audit's files, and what `page` makes of them, into a folder that is finished only at the end."""
    P, entries = mean_confusion.numpy(), ledger.numpy()
    with filled_folder(folder):
        write_atomically(
            folder / "mean_confusion.npz", lambda file: np.savez(file, mean_confusion=P, ledger=entries)
        )
        named = [row.to_dict() for row in sorted(rows, key=lambda row: row.index)]
        write_csv(folder / "classes.csv", ["class", *list(named[0])[1:]], [list(row.values()) for row in named])
        write_json(folder / "audit.json", found)
        if page is not None:
            page(folder)
