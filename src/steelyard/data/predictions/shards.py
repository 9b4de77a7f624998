"""The files of a data set: one file, or those of a folder or a glob, in natural order."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from steelyard._common.files import check_inside
from steelyard.data.predictions.columns import Choice
from steelyard.data.predictions.source import Opened, list_names

TABLES = (".parquet", ".arrow", ".feather", ".ipc", ".csv", ".tsv", ".csv.gz", ".tsv.gz")


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the kind of a file, of compressed ones with what is compressed."""
    name = path.name.lower()
    return next((suffix for suffix in (".csv.gz", ".tsv.gz") if name.endswith(suffix)), path.suffix.lower())


def files_of(path: Path, kinds: Sequence[str]) -> list[Path]:
    """Return the files that a path names: itself, the tables in a folder, or what a glob matches.

    Raises:
        FileNotFoundError: a glob that matches nothing, a folder that holds no tables.
        ValueError: files of several kinds, or a link that leads out of the folder.
    """
    if path.is_dir():
        # Names with a dot or an underscore in front are what other programs keep beside their data.
        inside = [each for each in path.iterdir() if each.is_file() and each.name[0] not in "._"]
        found = [each for each in inside if suffix_of(each) in TABLES]
        check_inside(found, [path])
        if not found:
            names = sorted(each.name for each in path.iterdir())
            raise FileNotFoundError(
                f"folder {path} holds no tables of predictions ({', '.join(TABLES)}): "
                f"it has {list_names(names) or 'nothing'}"
            )
    elif glob.has_magic(os.fspath(path)) and not path.exists():
        found = [each for each in map(Path, glob.glob(os.fspath(path))) if each.is_file()]
        if not found:
            raise FileNotFoundError(f"no file matches {path}")
        other = next((each for each in found if suffix_of(each) not in kinds), None)
        if other is not None:
            raise ValueError(f"{path} must match files of a known kind ({', '.join(kinds)}), got {other}")
    else:
        return [path]
    kinds_found = sorted({suffix_of(each) for each in found})
    if len(kinds_found) > 1:
        raise ValueError(
            f"{path} must name files of one kind, got {', '.join(kinds_found)}; name those of one by a pattern, "
            f"such as '{(path if path.is_dir() else path.parent) / ('*' + kinds_found[0])}'"
        )
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return what sorts part-2 before part-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def check_alike(first: Opened, other: Opened, choice: Choice) -> None:
    """Refuse a file of a set that differs from the first in the columns that are read, or in what it says.

    Raises:
        ValueError: the sentence names the file.
    """
    names = [f.name for f in other.fields]
    missing = [name for name in (*choice.columns, *choice.labels) if name not in names]
    if missing:
        raise ValueError(
            f"{other.path} must have the {other.what}s of {first.path}, but has no {list_names(missing)}: "
            f"its {other.what}s are {list_names(names)}"
        )
    for name in (*choice.columns, *choice.labels):
        here, there = other.field(name), first.field(name)
        if _kind(here.kind) != _kind(there.kind) and other.has_rows and first.has_rows:
            raise ValueError(
                f"{other.where(name)} must be as in {first.path}, where it is {there.type}, got {here.type}"
            )
        if here.width != there.width and other.has_rows and first.has_rows:
            raise ValueError(
                f"{other.where(name)} must hold {there.width} numbers a row as in {first.path}, got {here.width}"
            )
    if other.metadata != first.metadata:
        differ = sorted(
            key for key in first.metadata | other.metadata if first.metadata.get(key) != other.metadata.get(key)
        )
        raise ValueError(
            f"{other.path} says something else than {first.path} of its {differ[0]}: "
            f"{other.metadata.get(differ[0], 'nothing')!r}, not {first.metadata.get(differ[0], 'nothing')!r}"
        )


def _kind(kind: str) -> str:
    return "number" if kind == "integer" else kind
