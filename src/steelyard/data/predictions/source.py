"""What every format gives: the fields of an opened file, and a way to read some of them as a stream."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from steelyard._common.text import reason_of

_SHOWN = 10

Array = NDArray[Any]
Kind = Literal["integer", "number", "bool", "text", "list", "other"]
Chunks = Iterator[tuple[Array, Array]]


@dataclass(frozen=True)
class Field:
    """A column of a table, or an array of an archive.

    Attributes:
        name: in the file; of CSV without the spaces around it.
        kind: ``"number"`` is floating; ``"list"`` holds several numbers a row.
        type: for errors.
        width: numbers a row of a list.
    """

    name: str
    kind: Kind
    type: str
    width: int = 1


@dataclass(frozen=True)
class Opened:
    """A file whose fields are known, and nothing else.

    Attributes:
        path: of the file.
        what: a field is called, ``"column"`` or ``"array"``.
        fields: in the order of the file.
        read: given the names of the number fields, those of the labels, the most rows at a time and what is done
            with missing cells, yields (numbers, labels); labels are (n,), or (n, K) of a list or several fields.
        texts: given the name of a field of text, returns all that it holds.
        check: given the names of the number fields and of the labels, refuses what cannot be read.
        records: given the names of the number fields, the most rows at a time and what is done with missing cells,
            yields (numbers, all fields of these rows as pyarrow has them); cells of CSV are texts, as they are in
            the file. Arrays have no records, and yield None beside their numbers.
        has_rows: False for an empty table.
        metadata: that Steelyard wrote.
        notes: what the reader took into account, such as decimal commas.
        signs: of CSV, between cells and before decimals.
    """

    path: Path
    what: str
    fields: tuple[Field, ...]
    read: Callable[[Sequence[str], Sequence[str], int, "Missing"], Chunks]
    texts: Callable[[str], set[str]]
    check: Callable[[Sequence[str], Sequence[str]], None]
    records: Callable[[Sequence[str], int, "Missing"], Iterator[tuple[Array, Any]]]
    has_rows: bool = True
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    signs: tuple[str, str] = (",", ".")

    def field(self, name: str) -> Field:
        return next(f for f in self.fields if f.name == name)

    def where(self, name: str) -> str:
        return f"{self.path}, {self.what} {name!r}" if self.what else name


@dataclass(frozen=True)
class Missing:
    """What may be missing: labels (None or NaN then stand for them), numbers (NaN then)."""

    labels: bool = False
    values: bool = False


def check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"file of predictions {path} does not exist")
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"file of predictions {path} is not a regular file")


def check_magic(path: Path, kind: str, *magics: bytes) -> bytes:
    with path.open("rb") as file:
        start = file.read(8)
    found = next((magic for magic in magics if start.startswith(magic)), None)
    if found is None:
        raise ValueError(f"{path} is not {kind}: it begins with {start!r}")
    return found


_HOLDS = {
    "number": "numbers",
    "bool": "true and false",
    "text": "texts",
    "list": "lists of numbers",
    "other": "neither numbers nor text",
}


def check_kinds(kinds: Mapping[Any, Mapping[str, str]]) -> None:
    """Refuse a column that is of different kinds in two tables.

    Args:
        kinds: by what to call a table, the kinds of its columns; one that is "empty" goes with any.

    Raises:
        ValueError: the sentence names both tables and the column.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for table, columns in kinds.items():
        for name, kind in columns.items():
            if kind == "empty":
                continue
            holds = _HOLDS["number" if kind == "integer" else kind]
            first, where = seen.setdefault(name, (holds, table))
            if first != holds:
                raise ValueError(f"{table}, column {name!r} must hold {first} as in {where}, got {holds}")


def list_names(names: Sequence[str], most: int = _SHOWN) -> str:
    shown = ", ".join(short(name) or "(no name)" for name in names[:most])
    return shown + (f", ... ({len(names)} in all)" if len(names) > most else "")


def told(names: Sequence[str], most: int = 6) -> str:
    """Return names for a line: of many the first two and the last, and how many there are."""
    shown = [short(name) or "(no name)" for name in names]
    if len(shown) > most:
        return f"{shown[0]}, {shown[1]}, ..., {shown[-1]} ({len(shown)})"
    return ", ".join(shown)


def short(text: object) -> str:
    if isinstance(text, Exception):
        return reason_of(text)
    line = " ".join(str(text).split())
    return line if len(line) <= 200 else line[:200] + "..."
