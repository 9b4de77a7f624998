"""Data sets in the layout of a Hugging Face hub snapshot."""

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steelyard._common.text import reason_of
from steelyard.data.builtin import TASKS
from steelyard.data.dataset import Dataset
from steelyard.data.images import decode_images
from steelyard.data.local import open_folder, roots

_TEST_SPLITS = ("test", "validation", "valid")
_INTEGERS = ("int", "uint")
_DECODED_TOGETHER = 1024  # encoded images that are in memory at a time


def from_hugging_face(name: str, image_mode: str | None, image_size: int | None) -> Dataset:
    try:
        import datasets
    except ImportError:
        raise ImportError(f"dataset {name!r} needs Hugging Face datasets: pip install 'steelyard[hf]'") from None
    splits, places = _open(name)
    if "train" not in splits:
        raise ValueError(f"dataset {name!r} has no train split, only {', '.join(splits)}")
    test_name = next((s for s in _TEST_SPLITS if s in splits), None)
    if test_name is None:
        raise ValueError(
            f"dataset {name!r} has no test split (one of {', '.join(_TEST_SPLITS)}), only {', '.join(splits)}"
        )
    features = splits["train"].features
    image_column = _only_column(
        name, "image", [c for c, f in features.items() if isinstance(f, datasets.Image)], features
    )
    labels = [c for c, f in features.items() if isinstance(f, datasets.ClassLabel)]
    if not labels:  # plain integers, where the name says what they are
        labels = [
            c for c, f in features.items() if c == "label" and str(getattr(f, "dtype", "")).startswith(_INTEGERS)
        ]
    if len(labels) > 1:  # CIFAR-100 has its classes and groups of them
        labels = [c for c in labels if c in ("label", "fine_label")] or labels
    label_column = _only_column(name, "label", labels, features)

    parts = {"train": splits["train"], "test": splits[test_name]}
    feature = features[label_column]
    named = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    targets = {
        split: _labels(name, split_name, label_column, parts[split][label_column], named)
        for split, split_name in (("train", "train"), ("test", test_name))
    }
    size = int(max(t.max() for t in targets.values())) + 1
    names = named or tuple(map(str, range(size)))
    counts = torch.bincount(targets["train"], minlength=len(names))
    if int((counts > 0).sum()) < 2:
        raise ValueError(f"dataset {name!r}, split train, column {label_column!r} must hold at least two classes")
    if bool((counts == 0).any()):
        missing = names[int((counts == 0).nonzero()[0])]
        raise ValueError(
            f"dataset {name!r}, split train, column {label_column!r} has no sample of class {missing!r}"
        )
    raw = {s: part.cast_column(image_column, datasets.Image(decode=False)) for s, part in parts.items()}

    def decode(split: str, indices: Tensor) -> Tensor:
        where = f"dataset {name!r}, split {split if split == 'train' else test_name}, column {image_column!r}"
        rows = indices.tolist()
        parts = (rows[start : start + _DECODED_TOGETHER] for start in range(0, len(rows), _DECODED_TOGETHER))
        records = (record for part in parts for record in raw[split].select(part)[image_column])
        return decode_images(where, rows, records, image_mode, image_size, places)

    return Dataset(name, names, targets["train"], targets["test"], decode)


def _open(name: str) -> tuple[Any, list[Path]]:
    """Return the splits of a folder or a hub name, and the folders that files of its images lie in."""
    import datasets

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
            return open_folder(path), roots(path.resolve())
        return datasets.load_dataset(name), [datasets.config.HF_DATASETS_CACHE, Path(datasets.config.HF_HUB_CACHE)]
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
