"""Data sets in the layout of a Hugging Face hub snapshot."""

import difflib
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard._common.text import reason_of
from steelyard.data.builtin import TASKS
from steelyard.data.dataset import Dataset
from steelyard.data.images import decode_images, image_digests
from steelyard.data.local import open_folder, roots
from steelyard.data.making import Part, code_labels, digest_of, make_dataset, place_labels
from steelyard.data.several import read_splits
from steelyard.data.tabular import Asked, from_tables
from steelyard.data.times import moments

_TEST_SPLITS = ("test", "validation", "valid")
_INTEGERS = ("int", "uint")
_DECODED_TOGETHER = 1024  # encoded images that are in memory at a time


def from_hugging_face(name: str, asked: Asked, image_mode: str | None, image_size: int | None) -> Dataset:
    """Return the data set of a folder or a hub name: of images where a column holds them, else of its columns."""
    try:
        import datasets
    except ImportError:
        raise ImportError(f"dataset {name!r} needs Hugging Face datasets: pip install 'steelyard[hf]'") from None
    splits, places = _open(name, asked.time)
    train_name, test_name = _parts_of(name, list(splits))
    parts = {"train": splits[train_name]} | ({} if test_name is None else {"test": splits[test_name]})
    features = parts["train"].features
    images = [c for c, f in features.items() if isinstance(f, datasets.Image)]
    labels = _labels_of(features) if asked.target is None else [asked.target] * (asked.target in features)
    unused = [s for s in splits if s not in (train_name, test_name)]
    notes = [f"splits left out: {', '.join(unused)}"] if unused else []
    if not images:
        if image_mode is not None or image_size is not None:
            raise ValueError(f"dataset {name!r} holds no images; image_mode and image_size do not apply")
        return _of_columns(name, parts, asked, labels, notes)
    image_column = _only_column(name, "image", images, features)
    label_column = _only_column(name, "label", labels, features)
    if asked.features is not None and asked.features != image_column:
        raise ValueError(
            f"features of dataset {name!r} must be its images, {image_column!r}, got {asked.features!r}"
        )
    for what, column in (("group", asked.group), ("time", asked.time)):
        if column is not None and column not in features:
            raise ValueError(f"dataset {name!r} has no column {column!r} for {what}, only {', '.join(features)}")
    shown = {"train": train_name, "test": test_name or train_name}
    targets, names = _targets(name, parts, shown, label_column)
    counts = torch.bincount(targets["train"], minlength=len(names))
    if int((counts > 0).sum()) < 2:
        raise ValueError(
            f"dataset {name!r}, split {train_name}, column {label_column!r} must hold at least two classes"
        )
    if bool((counts == 0).any()):
        missing = names[int((counts == 0).nonzero()[0])]
        raise ValueError(
            f"dataset {name!r}, split {train_name}, column {label_column!r} has no sample of class {missing!r}"
        )
    raw = {s: part.cast_column(image_column, datasets.Image(decode=False)) for s, part in parts.items()}

    def decode(split: str, indices: Tensor) -> Tensor:
        where = f"dataset {name!r}, split {shown[split]}, column {image_column!r}"
        rows = indices.tolist()
        parts = (rows[start : start + _DECODED_TOGETHER] for start in range(0, len(rows), _DECODED_TOGETHER))
        records = (record for part in parts for record in raw[split].select(part)[image_column])
        return decode_images(where, rows, records, image_mode, image_size, places)

    values: dict[str, Any] = {"class_names": names} | {f"{s} labels": target for s, target in targets.items()}
    for s, part in raw.items():
        values[f"{s} images"] = image_digests(
            (record for table in _arrow(part, image_column) for record in table[0].to_pylist()), places
        )
    made = {
        s: Part(
            targets[s],
            functools.partial(decode, s),
            None if asked.group is None else np.array(list(part[asked.group]), dtype=object),
            None if asked.time is None else _times(name, shown[s], asked.time, part),
        )
        for s, part in parts.items()
    }
    told = [f"images: {image_column}", f"label: {label_column}"]
    told += [f"groups: {asked.group}"] if asked.group else []
    told += [f"time: {asked.time}"] if asked.time else []
    found = f"{name}: {'; '.join(told + notes)}"
    return make_dataset(name, names, made["train"], made.get("test"), found=found, digest=digest_of(values))


def _times(name: str, split: str, column: str, part: Any) -> NDArray[Any]:
    import pyarrow as pa

    cells = pa.chunked_array([table[0] for table in _arrow(part, column)])
    return moments(f"dataset {name!r}, split {split}, column {column!r}", cells)


def _arrow(part: Any, column: str) -> Iterator[Any]:
    """Return tables of some rows at a time with one column of a data set of ``datasets``."""
    yield from part.select_columns([column]).with_format("arrow").iter(_DECODED_TOGETHER)


def _targets(
    name: str, parts: dict[str, Any], shown: dict[str, str], column: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the labels of each part, and the names of the classes."""
    import datasets

    feature = parts["train"].features[column]
    if str(getattr(feature, "dtype", "")).endswith("string"):
        values = {s: np.array(list(part[column]), dtype=object) for s, part in parts.items()}
        where = {s: f"dataset {name!r}, split {shown[s]}, column {column!r}" for s in parts}
        _, names, classes = code_labels(where["train"], values["train"])
        return {s: place_labels(where[s], values[s], classes) for s in parts}, names
    if not isinstance(feature, datasets.ClassLabel) and not str(getattr(feature, "dtype", "")).startswith(
        _INTEGERS
    ):
        raise ValueError(
            f"dataset {name!r}, column {column!r} must hold classes, whole numbers or texts, got {feature}"
        )
    named = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    targets = {s: _labels(name, shown[s], column, part[column], named) for s, part in parts.items()}
    size = int(max(t.max() for t in targets.values())) + 1
    return targets, named or tuple(map(str, range(size)))


def _of_columns(name: str, parts: dict[str, Any], asked: Asked, labels: list[str], notes: list[str]) -> Dataset:
    """Return a data set of texts, numbers and categories."""
    import datasets
    import pyarrow as pa

    features = parts["train"].features
    if asked.target is None and len(labels) == 1:
        asked = replace(asked, target=labels[0])
    feature = features.get(asked.target)
    try:
        tables = {s: part.with_format("arrow")[:] for s, part in parts.items()}
        for table in tables.values():
            table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"dataset {name!r} cannot be read, it may be damaged: {reason_of(error)}") from error
    named = feature.names if isinstance(feature, datasets.ClassLabel) else None
    return from_tables(
        name,
        tables["train"].replace_schema_metadata(None),
        tables["test"].replace_schema_metadata(None) if "test" in tables else None,
        asked,
        class_names=named,
        notes=notes,
        digest=digest_of({"class_names": named} | {s: table.to_pandas() for s, table in tables.items()}),
    )


def _parts_of(name: str, splits: list[str]) -> tuple[str, str | None]:
    """Return the names of the training and the test split; a single split is the whole data set."""
    if len(splits) == 1:
        return splits[0], None
    if "train" not in splits:
        raise ValueError(f"dataset {name!r} has no train split, only {', '.join(splits)}")
    return "train", next((s for s in _TEST_SPLITS if s in splits), None)


def _labels_of(features: Any) -> list[str]:
    """Return the columns that may be the label."""
    import datasets

    labels = [c for c, f in features.items() if isinstance(f, datasets.ClassLabel)]
    if not labels:  # plain integers, where the name says what they are
        labels = [
            c for c, f in features.items() if c == "label" and str(getattr(f, "dtype", "")).startswith(_INTEGERS)
        ]
    if len(labels) > 1:  # CIFAR-100 has its classes and groups of them
        labels = [c for c in labels if c in ("label", "fine_label")] or labels
    return labels


def _open(name: str, time: str | None) -> tuple[Any, list[Path]]:
    """Return the splits of a folder or a hub name, and the folders that files of its images lie in."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        path = Path(name).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f"dataset folder {name} is in the home of a user who is not known") from None
    local = path.is_dir()
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()):
        raise FileNotFoundError(f"dataset folder {name} does not exist or is not a folder")
    if not local and "/" not in name:
        near = difflib.get_close_matches(name, list(TASKS), n=1)
        if near:
            raise ValueError(f"unknown dataset {name!r}; did you mean {near[0]!r}?")
    progress_was_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(each) for each in ("huggingface_hub", "datasets")]  # they tell of every retry;
    levels = [logger.level for logger in loggers]  # the sentence below is enough
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        if local:
            return open_folder(path, time), roots(path.resolve())
        caches = [Path(datasets.config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE)]
        return read_splits(datasets.load_dataset_builder(name), time), caches
    except Exception as error:
        reason = reason_of(error.__cause__ or error, 500)
        if local:
            raise ValueError(f"dataset folder {name} cannot be read: {reason}") from error
        raise ConnectionError(
            f"dataset {name!r} is neither built in ({', '.join(TASKS)}) nor a folder here, and the Hugging "
            f"Face hub did not give it ({reason}); name a local folder as ./folder"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not progress_was_off:
            datasets.enable_progress_bars()


def _only_column(name: str, kind: str, found: list[str], features: Any) -> str:
    if len(found) != 1:
        number = f"several {kind} columns ({', '.join(found)})" if found else f"no {kind} column"
        raise ValueError(
            f"dataset {name!r}, split train must have one {kind} column, got {number} among {', '.join(features)}"
        )
    return found[0]


def _labels(
    name: str, split: str, column: str, values: Sequence[int | None], names: Sequence[str] | None
) -> Tensor:
    labels = list(values)
    for row, value in enumerate(labels):
        if value is None or value < 0:
            raise ValueError(
                f"dataset {name!r}, split {split}, column {column!r} has no label in row {row}, got {value}"
            )
        if names is not None and value >= len(names):
            raise ValueError(
                f"dataset {name!r}, split {split}, column {column!r} has label {value} in row {row}, "
                f"but only {len(names)} class names"
            )
    if not labels:
        raise ValueError(f"dataset {name!r}, split {split} has no rows")
    return torch.tensor(labels)
