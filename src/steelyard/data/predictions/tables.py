"""Tables of predictions by pyarrow: what their columns are, and rows as a stream. The formats are beside."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data.predictions import delimited
from steelyard.data.predictions.delimited import (
    CSV_SUFFIXES,
    Delimited,
    is_number,
    is_text,
    numbers_of_texts,
    open_delimited,
)
from steelyard.data.predictions.source import Array, Chunks, Field, Missing, Opened, check_magic, short

_STREAMED = {"buffer_size": 1 << 20, "pre_buffer": False}  # else a whole row group of Parquet is in memory


@dataclass(frozen=True)
class _Format:
    """What a format gives: the schema, a first batch with rows (or None), and a way to read some columns.

    `names` has the names in the file, by the names that are shown, where they differ.
    """

    schema: Any
    head: Any
    batches: Callable[[Sequence[str], Sequence[str], int], Iterator[Any]]  # of numbers, of labels, rows
    whole: Callable[[int], Iterator[Any]]  # of all columns, of CSV as texts
    names: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    signs: tuple[str, str] = (",", ".")


def open_table(path: Path, target: str | None) -> Opened:
    """Open a table of predictions."""
    found = _format(path)
    told = {
        k.decode(errors="replace"): v.decode(errors="replace") for k, v in (found.schema.metadata or {}).items()
    }
    metadata = {k.removeprefix("steelyard."): v for k, v in told.items() if k.startswith("steelyard.")}
    return _opened(path, found, metadata)


def kinds_of(path: Path, nulls: Sequence[str]) -> dict[str, str]:
    """Return what each column of a table holds: a kind of `Field`, or "empty" if its first rows have nothing."""
    found = _format(path, nulls)
    return _kinds(found.schema, found.head)


def kinds_in(table: Any) -> dict[str, str]:
    """Return what each column of a table in memory holds, as for a file."""
    return _kinds(table.schema, table if table.num_rows else None)


def _kinds(schema: Any, head: Any) -> dict[str, str]:
    import pyarrow as pa

    if head is None:
        return dict.fromkeys(schema.names, "empty")
    kinds = [_field(column, None, lambda name: iter(())).kind for column in schema]
    empty = [pa.types.is_null(column.type) for column in head.columns]
    return {name: "empty" if e else k for name, k, e in zip(schema.names, kinds, empty, strict=True)}


def read_table(path: Path, nulls: Sequence[str], texts: Collection[str] = (), *, kept: str | None = None) -> Any:
    """Return a whole table as pyarrow holds it; of CSV numbers are float64, and texts have no spaces around them.

    Columns that are neither numbers, booleans, texts nor lists of numbers are null, except `kept`. `nulls` are the
    cells of CSV that count as missing; its columns of `texts` are text, whatever they look like.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = _format(path, nulls, texts)
    fields = {column.name: _field(column, None, lambda name: iter(())).kind for column in found.schema}
    numbers = [name for name, kind in fields.items() if kind in ("integer", "number", "list")]
    others = [
        name for name, kind in fields.items() if kind in ("bool", "text") or (name == kept and kind == "other")
    ]
    own = {found.names.get(name, name): name for name in fields}
    batches = found.batches(
        [found.names.get(n, n) for n in numbers], [found.names.get(n, n) for n in others], 65536
    )
    parts = []
    while (batch := _next(path, batches, list(own))) is not None:
        parts.append(batch)
    if not any(part.num_rows for part in parts):
        raise ValueError(f"{path} has no rows")
    whole = pa.Table.from_batches(parts)
    whole = whole.rename_columns([own[name] for name in whole.column_names])

    def column(name: str) -> Any:
        if name not in whole.column_names:
            return pa.nulls(whole.num_rows)
        cells = whole.column(name)
        cells = cells.cast(cells.type.value_type) if pa.types.is_dictionary(cells.type) else cells
        return pc.utf8_trim_whitespace(cells) if found.names and is_text(cells.type) else cells

    return pa.table({name: column(name) for name in fields}, metadata=found.schema.metadata)


def describe_table(name: str, table: Any) -> Opened:
    """Return what the columns of a table in memory are, as for a file that is called so."""

    def batches(columns: Sequence[str], labels: Sequence[str], rows: int) -> Iterator[Any]:
        yield from table.select([*labels, *columns]).to_batches(rows)

    head = next((batch for batch in table.to_batches(1) if batch.num_rows), None)
    return _opened(Path(name), _Format(table.schema, head, batches, table.to_batches), {})


def list_column(where: str, table: Any, name: str, width: int) -> Array:
    """Return the lists of numbers of a table in memory as (n, width), with NaN for those that are missing."""
    return _rows_of_list(where, table.column(name).combine_chunks(), width, 0, True)


def _format(path: Path, nulls: Sequence[str] = ("",), texts: Collection[str] = ()) -> _Format:
    try:
        import pyarrow as pa
    except ImportError:
        kind = path.suffix.lower().removeprefix(".")
        raise ImportError(f"reading {kind} needs pyarrow: pip install 'steelyard[train]'") from None
    try:
        if path.name.lower().endswith(CSV_SUFFIXES):
            found = _csv(open_delimited(path, nulls, texts))
        else:
            found = _parquet(path) if path.suffix.lower() == ".parquet" else _ipc(path)
        if found.head is not None:
            found.head.validate(full=True)  # offsets as stored may point outside the file
        names = found.schema.names
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise _table_error(path, error) from error
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{path} must have columns of different names, got {twice!r} twice")
    return found


def _opened(path: Path, found: _Format, metadata: dict[str, str]) -> Opened:
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = found.schema
    in_file = [found.names.get(name, name) for name in schema.names]
    is_delimited = bool(found.names)

    def stream(columns: Sequence[str], labels: Sequence[str], rows: int) -> Iterator[Any]:
        batches = found.batches(
            [found.names.get(name, name) for name in columns],
            [found.names.get(name, name) for name in labels],
            rows,
        )
        while (batch := _next(path, batches, in_file)) is not None:
            yield batch

    def labels_of(batch: Any, label: str) -> Any:
        labels = batch.column(found.names.get(label, label))
        labels = labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
        # In CSV the spaces around a cell are no part of it.
        return pc.utf8_trim_whitespace(labels) if is_delimited and is_text(labels.type) else labels

    def read(columns: Sequence[str], labels: Sequence[str], rows: int, missing: Missing) -> Chunks:
        first = 0
        fields = [opened.field(name) for name in labels]
        is_wide = len(labels) > 1 or fields[0].kind == "list"
        own = [found.names.get(name, name) for name in columns]
        width = opened.field(columns[0]).width if columns else 0
        for batch in stream(columns, labels, rows):
            for start in range(0, batch.num_rows, rows):  # a file of Arrow may be a single batch
                part = batch.slice(start, rows)
                targets = [labels_of(part, name) for name in labels]
                where = [opened.where(name) for name in columns]
                given = [part.column(name) for name in own]
                numbers = _matrix(where, given, width, first, missing.values) if own else np.empty((len(part), 0))
                of_labels = [opened.where(name) for name in labels]
                if is_wide:
                    yield numbers, _matrix(of_labels, targets, fields[0].width, first, missing.labels)
                else:
                    if not missing.labels:
                        _refuse_nulls(of_labels[0], targets[0], first)
                    yield numbers, targets[0].to_numpy(zero_copy_only=False)
                first += part.num_rows

    def records(columns: Sequence[str], rows: int, missing: Missing) -> Iterator[tuple[Array, Any]]:
        width, first = opened.field(columns[0]).width, 0
        where = [opened.where(name) for name in columns]
        stream = found.whole(rows)
        while (batch := _next(path, stream, in_file)) is not None:
            for start in range(0, batch.num_rows, rows):
                part = batch.slice(start, rows).rename_columns(schema.names)
                part = part.replace_schema_metadata(schema.metadata)
                given = [part.column(name) for name in columns]
                if is_delimited:
                    given = [
                        numbers_of_texts(name, cells, found.signs[1], first)
                        for name, cells in zip(where, given, strict=True)
                    ]
                yield _matrix(where, given, width, first, missing.values), part
                first += part.num_rows

    def texts(name: str) -> set[str]:
        found_texts: set[str] = set()
        for batch in stream([], [name], 65536):
            found_texts.update(text for text in pc.unique(labels_of(batch, name)).to_pylist() if text is not None)
        return found_texts

    def check(columns: Sequence[str], labels: Sequence[str]) -> None:
        for name in columns:
            kind = schema.field(name).type
            if _is_list(kind):
                if not is_number(kind.value_type):
                    raise TypeError(f"{opened.where(name)} must hold numbers, or lists of them, got {short(kind)}")
                if opened.has_rows and opened.field(name).width == 0:
                    raise ValueError(
                        f"{opened.where(name)} must hold at least one number a row, got none in row 0"
                    )
            elif not is_number(kind) and not is_delimited:
                raise TypeError(f"{opened.where(name)} must hold numbers, or lists of them, got {short(kind)}")
        accepted = "integers or class names" if len(labels) == 1 else "0 and 1 for each row"
        kinds = ("integer", "number", "bool", *(("text", "list") if len(labels) == 1 else ()))
        for label in labels:
            if opened.field(label).kind not in kinds or (
                opened.field(label).kind == "list" and opened.field(label).width < 2
            ):
                raise TypeError(
                    f"{opened.where(label)} must hold {accepted}, got {short(schema.field(label).type)}"
                )

    def cells(name: str) -> Iterator[Any]:
        return (batch.column(0) for batch in stream([name], [], 8192))

    heads = [None] * len(schema) if found.head is None else found.head.columns
    fields = tuple(_field(column, head, cells) for column, head in zip(schema, heads, strict=True))
    has_rows = found.head is not None
    opened = Opened(
        path, "column", fields, read, texts, check, records, has_rows, metadata, found.notes, found.signs
    )
    return opened


def _field(column: Any, cells: Any, more: Callable[[str], Iterator[Any]]) -> Field:
    import pyarrow as pa

    t = pa.types
    kind = column.type.value_type if t.is_dictionary(column.type) else column.type
    told = str(column.type)
    if t.is_integer(kind):
        return Field(column.name, "integer", told)
    if is_number(kind):
        return Field(column.name, "number", told)
    if t.is_boolean(kind):
        return Field(column.name, "bool", told)
    if is_text(kind):
        return Field(column.name, "text", told)
    if _is_list(kind) and is_number(kind.value_type):
        return Field(column.name, "list", told, 0 if cells is None else _width(cells, more(column.name)))
    return Field(column.name, "other", told)


def _width(cells: Any, more: Iterator[Any]) -> int:
    """Return how many numbers the first row of a list has that is not null; 0 where all are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_fixed_size_list(cells.type):
        return int(cells.type.list_size)
    for lists in itertools.chain([cells], more):
        if lists.null_count < len(lists):
            return int(pc.list_value_length(lists.drop_null()[:1])[0].as_py())
    return 0


def _csv(found: Delimited) -> _Format:
    import pyarrow as pa

    schema = pa.schema([(name, found.types[name]) for name in found.names])
    return _Format(schema, found.head, found.batches, found.texts, found.names, found.notes, found.signs)


def _parquet(path: Path) -> _Format:
    import pyarrow.parquet as pq

    check_magic(path, "a Parquet file", b"PAR1")
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        if file.read() != b"PAR1" or file.tell() < 12:
            raise ValueError(f"{path} is a truncated Parquet file: its end is missing")

    def batches(columns: Sequence[str], labels: Sequence[str], rows: int) -> Iterator[Any]:
        with (
            path.open("rb") as opened,
            pq.ParquetFile(opened, **_STREAMED) as file,
        ):  # a path might be taken for a URI
            yield from file.iter_batches(rows, columns=[*labels, *columns], use_threads=False)

    def whole(rows: int) -> Iterator[Any]:
        with path.open("rb") as opened, pq.ParquetFile(opened, **_STREAMED) as file:
            yield from file.iter_batches(rows, use_threads=False)

    with path.open("rb") as opened, pq.ParquetFile(opened, **_STREAMED) as file:
        schema = file.schema_arrow
    return _Format(schema, next(batches(schema.names, [], 1), None), batches, whole)


def _ipc(path: Path) -> _Format:
    import pyarrow as pa

    is_file = check_magic(path, "an Arrow file", b"ARROW1", b"\xff\xff\xff\xff") == b"ARROW1"

    def opened() -> Iterator[Any]:
        with pa.memory_map(str(path)) as source:
            if is_file:
                reader = pa.ipc.open_file(source)
                yield reader.schema
                yield from map(reader.get_batch, range(reader.num_record_batches))
            else:
                reader = pa.ipc.open_stream(source)
                yield reader.schema
                yield from reader

    def batches(columns: Sequence[str], labels: Sequence[str], rows: int) -> Iterator[Any]:
        for batch in whole(rows):
            yield batch.select([*labels, *columns])

    def whole(rows: int) -> Iterator[Any]:
        stream = opened()
        next(stream)
        yield from stream

    stream = opened()
    schema = next(stream)
    return _Format(schema, next((batch for batch in stream if batch.num_rows), None), batches, whole)


def _next(path: Path, stream: Iterator[Any], names: Sequence[str]) -> Any:
    import pyarrow as pa

    try:
        batch = next(stream, None)
        if batch is not None:
            batch.validate(full=True)
        return batch
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise _table_error(path, error, names) from error


def _table_error(path: Path, error: Exception, names: Sequence[str] = ()) -> ValueError:
    """Return the sentence for what pyarrow says; its rows of CSV count the header and begin at 1."""
    text = str(error)
    if found := re.search(r"In CSV column #(\d+): Row #(\d+): .*?invalid value '(.*)'", text, re.DOTALL):
        name, row = names[int(found[1])].strip(), int(found[2]) - 2
        return ValueError(f"{path}, column {name!r} must hold numbers, got {short(found[3])!r} in row {row}")
    if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
        return ValueError(f"{path} must have {found[2]} cells a row, got {found[3]} in row {int(found[1]) - 2}")
    if "straddling object" in text:
        return ValueError(f"{path} has a line longer than {delimited.CSV_BLOCK} bytes")
    return ValueError(f"{path} cannot be read, it may be damaged: {short(text)}")


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _refuse_nulls(where: str, column: Any, first: int, width: int = 1) -> None:
    if column.null_count:
        position = int(column.is_null().to_numpy(zero_copy_only=False).argmax())
        raise ValueError(f"{where} must have a value in every row, got null in row {first + position // width}")


def _matrix(where: list[str], columns: list[Any], width: int, first: int, missing: bool) -> Array:
    """Return rows of numbers; missing ones are NaN where they are allowed."""
    if not missing:
        for name, column in zip(where, columns, strict=True):
            _refuse_nulls(name, column, first)
    if not _is_list(columns[0].type):
        return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1)
    return _rows_of_list(where[0], columns[0], width, first, missing)


def _rows_of_list(where: str, column: Any, width: int, first: int, missing: bool) -> Array:
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).fill_null(width).to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        row = int((lengths != width).argmax())
        raise ValueError(
            f"{where} must hold {width} numbers in every row, got {lengths[row]} in row {first + row}"
        )
    flat = column.flatten()  # without the rows that are null
    if not missing:
        _refuse_nulls(where, flat, first, width)
    numbers: Array = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    if not column.null_count:
        return numbers
    filled = np.full((len(column), width), np.nan, numbers.dtype if numbers.dtype.kind == "f" else np.float64)
    filled[column.is_valid().to_numpy(zero_copy_only=False)] = numbers
    return filled
