"""A file of predictions written once more, row for row, with other columns for its numbers or behind all of them.

All else stays as it is: the other columns, their order, the cells of CSV to the letter.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from steelyard._common.files import write_atomically
from steelyard._common.text import inert
from steelyard.data.predictions.arrays import METADATA
from steelyard.data.predictions.delimited import CSV_SUFFIXES
from steelyard.data.predictions.shards import TABLES, suffix_of
from steelyard.data.predictions.source import Array, Missing, Opened, list_names, short

Change = Callable[[Any], Mapping[str, Array]]
"""From numbers (n, K) to new columns by their names: floating (n,) or (n, K), or text (n,), "" where missing."""

_OF_LOGITS = ("link", "loss", "weight_decay", "logit_adjustment", "batch_size")  # what their metadata say of them


def rewrite(
    files: Sequence[Opened],
    columns: Sequence[str],
    out: Path,
    change: Change,
    *,
    replace: bool,
    metadata: Mapping[str, str],
    rows: int,
    missing: Missing,
) -> None:
    """Write the rows of files to a new one.

    Args:
        files: tables, or one archive or array; all of them with rows.
        columns: names of the fields of numbers.
        out: the new file. Tables become a table (Parquet, Arrow or CSV, as its name says), arrays an ``.npz``.
        change: from the numbers to the new columns.
        replace: whether these stand in place of the numbers, or behind all columns.
        metadata: that Steelyard writes into the new file; CSV carries none.
        rows: most rows at a time.
        missing: what is done with numbers that are missing.

    Raises:
        FileExistsError: there is something at `out`.
        ValueError: a format that cannot hold the rows, columns of one name, or data that cannot be read.
    """
    check_out(out, files[0].path)
    if suffix_of(files[0].path) in TABLES:
        _write_table(out, _batches(files, columns, change, replace, rows, missing), metadata, files[0])
    else:
        write_atomically(
            out, lambda file: _write_archive(file, files[0], columns, change, replace, metadata, rows, missing)
        )


def check_out(out: Path, source: Path) -> None:
    """Refuse a file to write that is there already, or of a kind that rows of the source do not go into."""
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists already; name another file")
    accepted = TABLES if suffix_of(source) in TABLES or source.is_dir() else (".npz",)
    if suffix_of(out) not in accepted:
        raise ValueError(f"out must end in {', '.join(accepted)} for rows of {source}, got {out}")


def is_text_file(out: Path) -> bool:
    return suffix_of(out) in CSV_SUFFIXES


# Tables


def _batches(
    files: Sequence[Opened], columns: Sequence[str], change: Change, replace: bool, rows: int, missing: Missing
) -> Iterator[Any]:
    """Yield batches of all columns, old and new."""
    import pyarrow as pa

    schema = None
    for file in files:
        for numbers, batch in file.records(columns, rows, missing):
            new = {name: _column(values) for name, values in change(numbers).items()}
            old = dict(zip(batch.schema.names, batch.columns, strict=True))
            if replace:
                first = min(map(list(old).index, columns))
                before = {name: old.pop(name) for name in list(old)[:first]}
                old = {name: column for name, column in old.items() if name not in columns}
                twice = [name for name in new if name in before or name in old]
                parts = before | new | old
            else:
                twice = [name for name in new if name in old]
                parts = old | new
            if twice:
                raise ValueError(f"{file.path} has a column {twice[0]!r} already")
            made = pa.RecordBatch.from_pydict(parts)
            made = made.replace_schema_metadata(
                _without_columns(batch.schema.metadata, columns if replace else ())
            )
            if schema is not None and not made.schema.equals(schema):
                raise ValueError(
                    f"{file.path} must have the columns of {files[0].path}, of the same types, to be one file "
                    f"with it: {list_names(schema.names)}, got {list_names(made.schema.names)}"
                )
            schema = made.schema
            yield made


def _column(values: Array) -> Any:
    import pyarrow as pa

    if values.dtype.kind == "U":
        return pa.array([text or None for text in values.tolist()], pa.string())
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _without_columns(told: Mapping[bytes, bytes] | None, columns: Sequence[str]) -> dict[bytes, bytes]:
    """Return metadata of a table without columns that are gone, of which pandas says what they are."""
    kept = dict(told or {})
    if b"pandas" in kept:
        try:
            pandas = json.loads(kept[b"pandas"])
            pandas["columns"] = [one for one in pandas["columns"] if one["field_name"] not in columns]
            kept[b"pandas"] = json.dumps(pandas).encode()
        except (ValueError, TypeError, KeyError, RecursionError):
            del kept[b"pandas"]
    return kept


def _write_table(out: Path, batches: Iterator[Any], metadata: Mapping[str, str], source: Opened) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    first = next(batches)
    gone = [f"steelyard.{key}".encode() for key in _OF_LOGITS]
    told = {key: text for key, text in (first.schema.metadata or {}).items() if key not in gone}
    told |= {
        f"steelyard.{key}".encode(): text.encode("utf-8", "backslashreplace") for key, text in metadata.items()
    }
    schema = first.schema.with_metadata(told)
    parts = itertools.chain([first], batches)

    def write(file: IO[bytes]) -> None:
        if suffix_of(out) == ".parquet":
            with parquet.ParquetWriter(file, schema) as writer:
                for group in _gathered(parts):
                    writer.write_table(group.replace_schema_metadata(told))
        else:
            with pa.ipc.new_file(file, schema) as writer:
                for batch in parts:
                    writer.write_batch(batch.replace_schema_metadata(told))

    if is_text_file(out):
        _refuse_nested(out, schema)
        signs = source.signs if suffix_of(out)[:4] == suffix_of(source.path)[:4] else (_separator(out), ".")
        as_they_are = {f.name for f in source.fields} if is_text_file(source.path) else set()
        write_atomically(out, lambda file: _write_delimited(file, out, parts, signs, as_they_are))
        return
    try:
        write_atomically(out, write)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise ValueError(f"{out} cannot hold these rows: {short(error)}") from error


_GROUP = 1 << 22  # cells of a row group


def _gathered(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield tables of many rows, as a row group of few is read slowly."""
    import pyarrow as pa

    held: list[Any] = []
    for batch in batches:
        held.append(batch)
        if sum(one.nbytes for one in held) > 8 * _GROUP or sum(one.num_rows for one in held) >= 1 << 17:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _separator(out: Path) -> str:
    return "\t" if suffix_of(out).startswith(".tsv") else ","


def _refuse_nested(out: Path, schema: Any) -> None:
    import pyarrow as pa

    for column in schema:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise ValueError(
                f"{out} cannot hold the column {column.name!r} of {short(column.type)}: CSV has one number or "
                "text a cell; give out a name in .parquet"
            )


def _write_delimited(
    file: IO[bytes], out: Path, batches: Iterator[Any], signs: tuple[str, str], as_they_are: Set[str]
) -> None:
    """Write CSV; the columns that come from CSV stay as they are, no cell of any other is a formula."""
    with contextlib.ExitStack() as stack:
        binary: Any = file
        if out.name.lower().endswith(".gz"):
            binary = stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0))
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        stack.callback(text.detach)
        writer = csv.writer(text, delimiter=signs[0], lineterminator="\n")
        is_first = True
        for batch in batches:
            if is_first:
                writer.writerow(name if name in as_they_are else inert(name) for name in batch.schema.names)
                is_first = False
            named = zip(batch.schema.names, batch.columns, strict=True)
            writer.writerows(
                zip(*(_cells(column, signs[1], n in as_they_are) for n, column in named), strict=True)
            )
        text.flush()


def _cells(column: Any, decimal: str, as_is: bool) -> list[Any]:
    if as_is:
        return ["" if cell is None else cell for cell in column.to_pylist()]
    cells = ["" if cell is None or cell != cell else inert(cell) for cell in column.to_pylist()]
    if decimal != ".":
        return [repr(cell).replace(".", decimal) if isinstance(cell, float) else cell for cell in cells]
    return cells


# Arrays


def _write_archive(
    file: IO[bytes],
    source: Opened,
    columns: Sequence[str],
    change: Change,
    replace: bool,
    metadata: Mapping[str, str],
    rows: int,
    missing: Missing,
) -> None:
    """Write the arrays of an NPZ as they are, byte for byte, but for the numbers; an NPY has no others."""
    gone = {METADATA, *(columns if replace else ())}
    told = {key: text for key, text in source.metadata.items() if key not in _OF_LOGITS} | dict(metadata)
    with contextlib.ExitStack() as stack:
        new = _spooled(source, columns, change, rows, missing, stack)
        archive = stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED))
        if suffix_of(source.path) == ".npz":
            old = stack.enter_context(zipfile.ZipFile(source.path))
            names = [name for name in old.namelist() if name.removesuffix(".npy") not in gone]
            twice = [name for name in new if f"{name}.npy" in names]
            if twice:
                raise ValueError(f"{source.path} has an array {twice[0]!r} already")
            for name in names:
                with old.open(name) as member, archive.open(name, "w", force_zip64=True) as copy:
                    shutil.copyfileobj(member, copy)
        for name, (header, data) in new.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                data.seek(0)
                shutil.copyfileobj(data, member)
        with archive.open(f"{METADATA}.npy", "w") as member:
            npy.write_array(member, np.array(json.dumps(told)))


def _spooled(
    source: Opened,
    columns: Sequence[str],
    change: Change,
    rows: int,
    missing: Missing,
    stack: contextlib.ExitStack,
) -> dict[str, tuple[dict[str, Any], IO[bytes]]]:
    """Return the headers and data of the new arrays, the data on disk: an archive takes one array at a time."""
    shapes: dict[str, list[int]] = {}
    kinds: dict[str, Any] = {}
    data: dict[str, IO[bytes]] = {}
    for numbers, _ in source.records(columns, rows, missing):
        for name, values in change(numbers).items():
            if name not in data:
                data[name] = tempfile.TemporaryFile()  # noqa: SIM115  the stack closes it
                stack.callback(data[name].close)
                shapes[name], kinds[name] = [0, *values.shape[1:]], values.dtype
            shapes[name][0] += len(values)
            data[name].write(np.ascontiguousarray(values, dtype=kinds[name]).tobytes())
    return {
        name: (
            {"descr": npy.dtype_to_descr(kinds[name]), "fortran_order": False, "shape": tuple(shapes[name])},
            file,
        )
        for name, file in data.items()
    }
