"""An audit as a folder of audit.json, classes.csv and mean_confusion.npz; pages are made of them elsewhere."""

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from steelyard._common.files import filled_folder, write_atomically, write_json

_T = 2.131  # as in judge


def save_audit(
    folder: Path,
    found: Mapping[str, Any],
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
        write_atomically(folder / "classes.csv", lambda file: file.write(_csv(found).encode()))
        write_json(folder / "audit.json", found)
        if page is not None:
            page(folder)


def class_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an audit says of each class, largest residual first; None for what is not known.

    Args:
        found: of :meth:`AuditReport.to_dict`, or read from audit.json.
    """
    residual, implied = found["residual"], found["implied_weights"]
    unknown = [None] * len(found["class_names"])
    if implied is not None:
        stated, weights, errors = found["stated_weights"], implied["weights"], implied["log_error"]
        if (
            stated is not None
        ):  # implied weights have no scale of their own: in each group they take the stated one's
            ratio = found["implied_over_stated"]
            weights = [None if r is None else w * r for w, r in zip(stated, ratio, strict=True)]
    else:
        stated, weights, errors = found["stated_pos_weight"], found["implied_pos_weight"], None
    columns = zip(
        found["class_names"],
        found["samples"],
        found["class_counts"],
        stated or unknown,
        weights or unknown,
        errors or unknown,
        residual["pull_up"],
        residual["push_down"],
        residual["relative_residual"],
        strict=True,
    )
    rows = [
        {
            "class": k,
            "name": name,
            "samples": samples,
            "class_count": count,
            "stated": nominal,
            "implied": weight,
            "implied_low": _times_exp(weight, -_T, error),
            "implied_high": _times_exp(weight, _T, error),
            "pull_up": pull,
            "push_down": push,
            "relative_residual": relative,
        }
        for k, (name, samples, count, nominal, weight, error, pull, push, relative) in enumerate(columns)
    ]
    return sorted(rows, key=lambda row: -abs(row["pull_up"] - row["push_down"]))


def _times_exp(weight: float | None, times: float, error: float | None) -> float | None:
    if weight is None or error is None:
        return None
    return weight * math.exp(max(-300.0, min(300.0, times * error)))


def _csv(found: Mapping[str, Any]) -> str:
    text = io.StringIO()
    rows = sorted(class_rows(found), key=lambda row: row["class"])
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else _inert(v) for k, v in row.items()})
    return text.getvalue()


def _inert(value: object) -> object:
    """A name that a spreadsheet would take for a formula is not one."""
    if not isinstance(value, str):
        return value
    return f"'{value}" if value[:1].isspace() or value.lstrip()[:1] in ("=", "+", "-", "@") else value
