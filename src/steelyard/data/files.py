"""A data set in a file: a table or arrays; a test split may lie beside it."""

from pathlib import Path
from typing import Any

from steelyard._common.files import file_digest
from steelyard.data.dataset import Dataset
from steelyard.data.predictions.arrays import load_npz
from steelyard.data.predictions.shards import TABLES, suffix_of
from steelyard.data.several import read_tables
from steelyard.data.tabular import Asked, from_tables
from steelyard.data.values import from_values

KINDS = (*TABLES, ".npz")


def from_file(path: Path, asked: Asked) -> Dataset:
    """Return the data set of a file; for ``train_NAME`` the test split is ``NAME`` beside it, if there is one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, or one that cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"dataset file {path} does not exist")
    if not path.is_file():
        raise ValueError(f"dataset file {path} is not a regular file")
    kind = suffix_of(path)
    if kind not in KINDS:
        raise ValueError(f"dataset file {path} must be of a known kind ({', '.join(KINDS)}), got {path.suffix!r}")
    if kind == ".npz":
        return from_values(str(path), load_npz(path), asked, digest=file_digest(path))
    beside = path.with_name(path.name.removeprefix("train_"))
    tables = [path, *([beside] if beside != path and beside.is_file() else [])]
    train, *test = read_tables(tables, time=asked.time)
    notes = [f"test: {each.name}" for each in tables[1:]]
    return from_tables(
        str(path),
        train,
        test[0] if test else None,
        asked,
        class_names=_class_names(train),
        notes=notes,
        digest=" ".join(map(file_digest, tables)),
    )


def _class_names(table: Any) -> list[str] | None:
    """Return the names that a Steelyard experiment wrote."""
    found = (table.schema.metadata or {}).get(b"steelyard.class_names")
    return found.decode().split("\x1f") if found else None
