"""Arrays, frames and texts that are in memory already: from a .npz file, or from a function of yours."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard._common.text import listed, reason_of
from steelyard.data.dataset import Dataset
from steelyard.data.making import Part, code_labels, make_dataset, place_labels
from steelyard.data.preparing import fit_matrix
from steelyard.data.tabular import Asked, finite, from_tables
from steelyard.data.times import moments

_INPUTS = ("x", "x_train", "data", "features", "train_images")
_LABELS = ("y", "y_train", "target", "label", "labels", "train_labels")
_TEST = ("x_test", "test_images"), ("y_test", "test_labels")
_OTHERS = ("class_names", "target_names")


def from_values(name: str, values: Mapping[str, Any], asked: Asked, *, digest: str | None = None) -> Dataset:
    """Return a data set of ``X`` and ``y`` (and ``X_test``, ``y_test``, ``groups``, ``class_names``).

    Args:
        name: as it was asked for.
        values: by name, whatever the case of its letters: inputs (N, D) of numbers, uint8 images (N, H, W),
            (N, C, H, W) or (N, H, W, C), texts (N,), or a pandas frame; labels (N,).
        asked: `features`, `target`, `group` and `time` name the inputs, the labels, the groups and the times.
        digest: of the data.

    Raises:
        ValueError: what cannot be inputs or labels.
    """
    known = {key.lower(): key for key in values}
    x = _entry(name, values, known, asked.features, _INPUTS, "inputs", "features")
    y = _entry(name, values, known, asked.target, _LABELS, "labels", "target")
    keys = {"train": (x, y)}
    test = [known[each] for either in _TEST for each in either if each in known]
    if test:
        if len(test) != 2:
            raise ValueError(f"dataset {name!r} must have inputs and labels of a test split, got {listed(test)}")
        keys["test"] = test[0], test[1]
    asked = replace(asked, group=asked.group or known.get("groups"))
    group, time = asked.group, asked.time
    for what, each in (("groups", group), ("times", time)):
        if each is not None and (each not in values or test):
            wrong = (
                f"has inputs of a test split, {test[0]}"
                if test
                else f"has no {each!r}: it has {listed(list(values))}"
            )
            raise ValueError(f"dataset {name!r} must have {what} for all its rows, but {wrong}")
    class_names = next((values[known[n]] for n in ("class_names", "target_names") if n in known), None)
    names = None if class_names is None else [str(each) for each in np.asarray(class_names).tolist()]
    groups = None if group is None else _column(f"dataset {name!r}, {group}", values[group])
    times = None if time is None else moments(f"dataset {name!r}, {time}", _plain(values[time]))
    labels = {s: _column(f"dataset {name!r}, {key}", values[key]) for s, (_, key) in keys.items()}
    for split, (key, _) in keys.items():
        lengths = {_length(f"dataset {name!r}, {key}", values[key]), len(labels[split])}
        lengths |= {len(each) for each in (groups, times) if each is not None}
        if len(lengths) > 1:
            told = listed([str(length) for length in sorted(lengths)])
            raise ValueError(
                f"dataset {name!r}, {key} must have one label (and group, and time) a row, got {told}"
            )
    used = {group, time, *(key for pair in keys.values() for key in pair)}
    more = [key for key in values if key not in used and key.lower() not in _OTHERS]
    notes = [f"left out: {listed(more, 6)}"] if more else []
    if hasattr(values[x], "columns") or _is_text(values[x]):
        tables = {
            s: frame_table(
                f"dataset {name!r}, {key}",
                values[key],
                {y: labels[s], group or time or "": groups if times is None else times},
            )
            for s, (key, _) in keys.items()
        }
        columns = Asked(y, None, group, time)
        return from_tables(
            name, tables["train"], tables.get("test"), columns, class_names=names, notes=notes, digest=digest
        )
    inputs = {s: _array(f"dataset {name!r}, {key}", values[key]) for s, (key, _) in keys.items()}
    shape = inputs["train"].shape[1:]
    if any(each.shape[1:] != shape for each in inputs.values()):
        raise ValueError(
            f"dataset {name!r} must have inputs of one shape, got {shape} and {inputs['test'].shape[1:]}"
        )
    _, class_names, classes = code_labels(f"dataset {name!r}, {y}", labels["train"], names)
    targets = {s: place_labels(f"dataset {name!r}, {keys[s][1]}", labels[s], classes) for s in keys}
    what = f"{shape[0]} features" if len(shape) == 1 else f"images of {' x '.join(map(str, shape))}"
    by = [f"groups: {group}"] if group else [f"time: {time}"] if time else []
    told = "; ".join([f"{name}: {what}: {x}", f"label: {y}", *by, *notes])
    parts = {s: Part(targets[s], _taker(inputs[s]), groups, times) for s in keys}
    fit = fit_matrix if len(shape) == 1 else None
    return make_dataset(name, class_names, parts["train"], parts.get("test"), found=told, fit=fit, digest=digest)


def frame_table(where: str, rows: Any, more: Mapping[str, NDArray[Any] | None] | None = None) -> Any:
    """Return a pandas frame, or texts, as a table of pyarrow with further columns."""
    import pyarrow as pa

    try:
        if hasattr(rows, "columns"):
            table = pa.Table.from_pandas(rows, preserve_index=False)
            table = table.rename_columns([str(each) for each in table.column_names])
        else:
            table = pa.table({"text": pa.array([str(each) for each in rows], pa.large_string())})
        for key, column in (more or {}).items():
            if column is None:
                continue
            if key in table.column_names:
                raise ValueError(
                    f"{where} must have no column {key!r} beside labels, groups or times of that name"
                )
            table = table.append_column(key, pa.array(column if column.dtype.kind == "M" else column.tolist()))
        return table.replace_schema_metadata(None)
    except (pa.ArrowException, TypeError, AttributeError) as error:
        raise ValueError(f"{where} must be texts, or a frame of numbers and texts: {reason_of(error)}") from error


def _entry(
    name: str,
    values: Mapping[str, Any],
    known: Mapping[str, str],
    asked: str | None,
    usual: tuple[str, ...],
    what: str,
    option: str,
) -> str:
    """Return the key of what is asked for, or of the only one that is called as such things are."""
    found = [known[each] for each in usual if each in known] if asked is None else [asked] * (asked in values)
    if len(found) != 1:
        looked = ", ".join(usual) if asked is None else repr(asked)
        raise ValueError(
            f"dataset {name!r} must have one entry of {what} ({looked}), got {listed(found) or 'none'}; "
            f"name it as {option}: it has {listed(list(values), 10) or 'nothing'}"
        )
    return found[0]


def _plain(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _length(where: str, values: Any) -> int:
    if not np.shape(values):
        raise ValueError(f"{where} must hold rows, got {type(values).__name__}")
    return len(values) if not hasattr(values, "toarray") else int(values.shape[0])


def _column(where: str, values: Any) -> NDArray[Any]:
    found = _plain(values)
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.ndim != 1 or found.dtype.kind not in "biufUOT":
        raise ValueError(f"{where} must be a label for each row (N,), got {found.dtype} of shape {found.shape}")
    return found


def _is_text(values: Any) -> bool:
    found = None if isinstance(values, Tensor) or hasattr(values, "toarray") else np.asarray(values)
    return found is not None and found.ndim == 1 and found.dtype.kind in "UOT"


def _array(where: str, values: Any) -> NDArray[Any]:
    """Return features (N, D), floating, or images (N, C, H, W), uint8."""
    if hasattr(values, "toarray"):
        raise ValueError(f"{where} must be an array (N, D), got a sparse matrix; .toarray() makes one of it")
    found = _plain(values)
    if found.ndim == 2 and found.dtype.kind in "biuf" and found.shape[1]:
        return finite(where, found.astype(np.float32 if found.dtype == np.float32 else np.float64))
    if found.dtype == np.uint8 and found.ndim == 3:
        return found[:, None]
    if found.dtype == np.uint8 and found.ndim == 4 and found.shape[1] in (1, 3):
        return found
    if found.dtype == np.uint8 and found.ndim == 4 and found.shape[3] in (1, 3):
        return found.transpose(0, 3, 1, 2)
    raise ValueError(
        f"{where} must be numbers (N, D), uint8 images (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 "
        f"channels, texts (N,) or a pandas frame, got {found.dtype} of shape {found.shape}"
    )


def _taker(rows: NDArray[Any]) -> Any:
    if rows.ndim == 2:
        return lambda indices: rows[indices.numpy()]
    return lambda indices: torch.from_numpy(np.ascontiguousarray(rows[indices.numpy()]))
