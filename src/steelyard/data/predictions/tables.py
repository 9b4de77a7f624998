"""Tables of predictions: parquet, Arrow and CSV."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.data.predictions.source import (
    LABEL_NAMES,
    Array,
    Source,
    check_magic,
    label_name,
    list_names,
    short,
)

_CSV_BLOCK = 1 << 21  # bytes; no line may be longer, and pyarrow reads up to 32 blocks ahead
_STREAMED = {"buffer_size": 1 << 20, "pre_buffer": False}  # else a whole row group of Parquet is in memory
_Table = tuple[Any, Any, Callable[[list[str], int], Iterator[Any]]]


# Tables: each reader gives the schema, a first batch with rows (or None), and a way to read named columns.


def open_table(path: Path, target: str | None, values: str) -> Source:
    suffix = path.suffix.lower()
    try:
        import pyarrow as pa
    except ImportError:
        kind = suffix.removeprefix(".")
        raise ImportError(f"reading {kind} needs pyarrow: pip install 'steelyard[train]'") from None
    try:
        if suffix in (".csv", ".tsv"):
            schema, head, batches = _csv(path, values, LABEL_NAMES if target is None else (target,))
        else:
            schema, head, batches = _parquet(path) if suffix == ".parquet" else _ipc(path)
        if head is not None:
            head.validate(full=True)  # offsets as stored may point outside the file
        names = schema.names
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise _table_error(path, error) from error
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{path} must have columns of different names, got {twice!r} twice")
    label = label_name(path, "column", names, target)
    columns = _value_columns(path, schema, label, values)
    if head is None:
        raise ValueError(f"{path} has no rows")
    where = f"{path}, column {label!r}"
    label_type = schema.field(label).type
    label_type = label_type.value_type if pa.types.is_dictionary(label_type) else label_type
    label_is_text = _is_text(label_type)
    if not label_is_text and not _is_number(label_type):
        raise TypeError(f"{where} must hold integers or class names, got {short(label_type)}")
    told = {k.decode(errors="replace"): v.decode(errors="replace") for k, v in (schema.metadata or {}).items()}
    metadata = {k.removeprefix("steelyard."): v for k, v in told.items() if k.startswith("steelyard.")}
    is_list = _is_list(schema.field(columns[0]).type)
    width = _list_width(f"{path}, column {columns[0]!r}", head.column(columns[0])) if is_list else len(columns)

    def read(rows: int, missing: bool) -> Iterator[tuple[Array, Array]]:
        first = 0
        stream = batches([label, *columns], rows)
        while (batch := _next(path, stream, names)) is not None:
            for start in range(0, batch.num_rows, rows):  # a file of Arrow may be a single batch
                part = batch.slice(start, rows)
                labels = part.column(label)
                if not missing:
                    _refuse_nulls(where, labels, first)
                labels = labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
                yield _matrix(path, part, columns, width, first), labels.to_numpy(zero_copy_only=False)
                first += part.num_rows

    return Source(width, where, label_is_text, read, None if is_list else _without_prefix(columns), metadata)


def _parquet(path: Path) -> _Table:
    import pyarrow.parquet as pq

    check_magic(path, "a Parquet file", b"PAR1")
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        if file.read() != b"PAR1" or file.tell() < 12:
            raise ValueError(f"{path} is a truncated Parquet file: its end is missing")

    def batches(columns: list[str] | None, rows: int) -> Iterator[Any]:
        with pq.ParquetFile(path, **_STREAMED) as file:
            yield from file.iter_batches(rows, columns=columns, use_threads=False)

    with pq.ParquetFile(path, **_STREAMED) as file:
        schema = file.schema_arrow
    return schema, next(batches(None, 1), None), batches


def _ipc(path: Path) -> _Table:
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

    def batches(columns: list[str], rows: int) -> Iterator[Any]:
        stream = opened()
        next(stream)
        for batch in stream:
            yield batch.select(columns)

    stream = opened()
    schema = next(stream)
    return schema, next((batch for batch in stream if batch.num_rows), None), batches


def _csv(path: Path, values: str, labels: Sequence[str]) -> _Table:
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as file:
        start = file.read(_CSV_BLOCK)
    if b"\0" in start[:4096] or start.startswith((b"PAR1", b"ARROW1", b"PK\x03\x04")):
        raise ValueError(f"{path} is not a {path.suffix.lower()} file: it does not hold text in UTF-8")
    header, _, rest = start.replace(b"\r", b"\n").partition(b"\n")
    if len(header) == _CSV_BLOCK:
        raise ValueError(f"{path} has a line longer than {_CSV_BLOCK} bytes")
    if not rest.strip():
        raise ValueError(f"{path} has no rows")
    bare = re.sub(rb'"[^"]*"', b"", header)
    delimiter = max(",;\t", key=lambda d: bare.count(d.encode()))

    def opened(**options: Any) -> Any:
        return csv.open_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),  # threads do not count rows
            parse_options=csv.ParseOptions(delimiter=delimiter),
            convert_options=csv.ConvertOptions(null_values=[""], strings_can_be_null=True, **options),
        )

    with opened() as reader:
        head = next((batch for batch in reader if batch.num_rows), None)
        inferred = reader.schema
    if head is None:
        return inferred, None, lambda columns, rows: iter(())
    types = {f.name: _csv_type(f, head.column(i), values, labels) for i, f in enumerate(inferred)}

    def batches(columns: list[str], rows: int) -> Iterator[Any]:
        with opened(column_types=types, include_columns=columns) as reader:
            yield from reader

    return pa.schema([(name, types[name]) for name in inferred.names]), head, batches


def _csv_type(column: Any, cells: Any, values: str, labels: Sequence[str]) -> Any:
    """Return the type to read a column as: if it holds a single number, or is named so, it must hold numbers
    only."""
    import pyarrow as pa

    if _is_number(column.type) or pa.types.is_null(column.type):
        return pa.float64()
    if column.name in labels or not _is_text(column.type):
        return pa.string()
    is_number = _is_named(column.name, values) or any(map(_is_float, cells.to_pylist()))
    return pa.float64() if is_number else pa.string()


def _is_float(cell: str | None) -> bool:
    try:
        return cell is not None and math.isfinite(float(cell))
    except ValueError:
        return False


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
        name, row = names[int(found[1])], int(found[2]) - 2
        return ValueError(f"{path}, column {name!r} must hold numbers, got {short(found[3])!r} in row {row}")
    if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
        return ValueError(f"{path} must have {found[2]} cells a row, got {found[3]} in row {int(found[1]) - 2}")
    if "straddling object" in text:
        return ValueError(f"{path} has a line longer than {_CSV_BLOCK} bytes")
    return ValueError(f"{path} cannot be read, it may be damaged: {short(text)}")


def _value_columns(path: Path, schema: Any, label: str, values: str) -> list[str]:
    """Return the list column `values`, or else one column a class."""
    import pyarrow as pa

    if values in schema.names and not _is_number(kind := schema.field(values).type):
        if not _is_list(kind) or not _is_number(kind.value_type):
            raise TypeError(f"{path}, column {values!r} must hold lists of numbers, got {short(kind)}")
        return [values]
    fields = [f for f in schema if f.name != label and f.name and not f.name.startswith("__index_level_")]
    named = [f for f in fields if _is_named(f.name, values)]
    t = pa.types
    others = (_is_text, t.is_dictionary, t.is_temporal, t.is_boolean, t.is_nested)  # a file name, a date
    columns = named or [f for f in fields if not any(is_other(f.type) for is_other in others)]
    for column in columns:
        if not _is_number(column.type):
            where = f"{path}, column {column.name!r}"
            raise TypeError(f"{where} must hold floating or integer numbers, got {short(column.type)}")
    if not columns:
        raise ValueError(
            f"{path} must have a list column {values!r} or one column of numbers a class, "
            f"got columns {list_names([f'{f.name} ({f.type})' for f in schema])}"
        )
    return [f.name for f in columns]


def _is_named(column: str, values: str) -> bool:
    """Return whether a column is named after `values`: logit_cat, logits.cat, prob-cat."""
    stem = re.split(r"[_.-]", column, maxsplit=1)[0]
    return stem != column and len(stem) >= 4 and values.startswith(stem)


def _without_prefix(columns: Sequence[str]) -> tuple[str, ...]:
    common = os.path.commonprefix(columns)  # noqa: RUF071  characters are meant
    length = max(common.rfind(separator) for separator in "_.-") + 1
    names = tuple(column[length:] for column in columns)
    return names if all(names) else tuple(columns)


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    t = pa.types
    kinds = (t.is_string, t.is_large_string, t.is_string_view, t.is_binary, t.is_large_binary, t.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _list_width(where: str, column: Any) -> int:
    import pyarrow.compute as pc

    _refuse_nulls(where, column, 0)
    width = int(pc.list_value_length(column[:1])[0].as_py())
    if width == 0:
        raise ValueError(f"{where} must hold at least one number a row, got none in row 0")
    return width


def _refuse_nulls(where: str, column: Any, first: int, width: int = 1) -> None:
    if column.null_count:
        position = int(column.is_null().to_numpy(zero_copy_only=False).argmax())
        raise ValueError(f"{where} must have a value in every row, got null in row {first + position // width}")


def _matrix(path: Path, batch: Any, columns: list[str], width: int, first: int) -> Array:
    import pyarrow.compute as pc

    for name in columns:
        _refuse_nulls(f"{path}, column {name!r}", batch.column(name), first)
    column = batch.column(columns[0])
    if not _is_list(column.type):
        return np.stack([batch.column(name).to_numpy(zero_copy_only=False) for name in columns], axis=1)
    where = f"{path}, column {columns[0]!r}"
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        row = int((lengths != width).argmax())
        raise ValueError(
            f"{where} must hold {width} numbers in every row, got {lengths[row]} in row {first + row}"
        )
    flat = column.flatten()
    _refuse_nulls(where, flat, first, width)
    numbers: Array = flat.to_numpy(zero_copy_only=False)
    return numbers.reshape(-1, width)
