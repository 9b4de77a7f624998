"""Files of predictions: rows of numbers with their labels, from tables and NumPy arrays, read as a stream."""

import contextlib
import math
import os
import re
import reprlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

_LABEL_NAMES = ("target", "label", "labels", "y")
_CSV_BLOCK = 1 << 21  # bytes; no line may be longer, and pyarrow reads up to 32 blocks ahead
_STREAMED = {"buffer_size": 1 << 20, "pre_buffer": False}  # else a whole row group of Parquet is in memory
_SHOWN = 10

_Array = NDArray[Any]
_Chunks = Callable[[int], Iterator[tuple[_Array, _Array]]]  # at most so many rows each
_Table = tuple[Any, Any, Callable[[list[str], int], Iterator[Any]]]


@dataclass(frozen=True)
class Predictions:
    """An opened file of predictions; nothing but its schema is in memory.

    Attributes:
        path: of the file.
        class_names: as given, or from the file's metadata, or the names of its columns; None if nobody says.
        link, loss: what a Steelyard experiment wrote into the metadata.
        weight_decay: alike, of the training.
        logit_adjustment: alike: what training added to the logits of each class.
        batch_size: alike, of the training.
        num_classes: numbers in a row, which are K logits or probabilities (or any number of features).
    """

    path: Path
    class_names: tuple[str, ...] | None
    link: str | None
    loss: str | None
    weight_decay: float | None
    logit_adjustment: tuple[float, ...] | None
    batch_size: int | None
    num_classes: int
    _source: "_Source" = field(repr=False)
    _num_labels: int | None = field(repr=False)

    def batches(self, rows: int = 8192) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers (n, K), float32 or float64, and labels (n,), int64, of at most `rows` rows at a time.

        NaN and infinite numbers are passed on.

        Raises:
            TypeError: `rows` that is no int.
            ValueError: data that cannot be read, naming the row, counted from 0.
        """
        if isinstance(rows, bool) or not isinstance(rows, int):
            raise TypeError(f"rows must be an int, got {type(rows).__name__}")
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        return self._batches(rows)

    def _batches(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        first = 0
        for values, labels in self._source.read(rows):
            wide = values.dtype.kind != "f" or values.dtype.itemsize == 8
            numbers = np.array(values, dtype=np.float64 if wide else np.float32, order="C")
            codes = _codes(self._source.label, labels, self.class_names, self._num_labels, first)
            yield torch.from_numpy(numbers), torch.from_numpy(codes)
            first += len(codes)


def open_predictions(
    path: str | os.PathLike[str],
    *,
    target: str | os.PathLike[str] | None = None,
    values: str = "logits",
    class_names: Sequence[str] | None = None,
) -> Predictions:
    """Open a file of predictions: look at what it declares and, in tables, at the first rows.

    Args:
        path: ``.parquet``, ``.arrow``, ``.feather`` or ``.ipc``, ``.csv`` or ``.tsv``, ``.npz`` or ``.npy``.
        target: name of the column or array of labels, integers from 0 or class names. Default: the one of
            ``target``, ``label``, ``labels`` and ``y`` that there is. For ``.npy``, the file of labels.
        values: name of the list column, or of the array, of numbers. A table without such a column has one column
            a class: those named after `values` (``logit_cat``, ``logits.cat``) if there are any, or else all of
            numbers but the labels; a row index of pandas is left out. For ``"features"`` columns are no classes.
        class_names: K names, in the order of the numbers.

    Returns:
        The opened file; what is wrong in its other rows shows when they are read.

    Raises:
        FileNotFoundError: no such file.
        IsADirectoryError: a folder.
        ImportError: a table, and pyarrow is not installed.
        TypeError: a column or array that holds something else than numbers or labels.
        ValueError: a file of another kind, damaged, empty, or without the columns that are asked for.
    """
    path = Path(path)
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names or ()):
        raise TypeError(f"class_names must be a sequence of str, got {reprlib.repr(class_names)}")
    _check_file(path)
    if path.suffix.lower() not in _OPENERS:
        raise ValueError(f"{path} must be of a known kind ({', '.join(_OPENERS)}), got suffix {path.suffix!r}")
    source = _OPENERS[path.suffix.lower()](path, None if target is None else os.fspath(target), values)

    is_classes = values != "features"
    classes = max(source.width, 2)  # one number a row is a binary output
    from_columns = source.columns if is_classes and source.width > 1 else None
    in_file = source.metadata.get("class_names")
    names = tuple(class_names) if class_names is not None else tuple(in_file.split("\x1f")) if in_file else None
    if names is not None and is_classes and len(names) != classes:
        raise ValueError(f"{path} has {source.width} numbers a row, but there are {len(names)} class names")
    if names and from_columns and names != from_columns and set(names) == set(from_columns):
        raise ValueError(f"{path} has columns in the order {_list(from_columns)}, class names are {_list(names)}")
    names = names or from_columns
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"{path} must have class names that differ, got {_list(names)}")
    if names is None and source.label_is_text:
        raise ValueError(f"{source.label} holds text, which needs class_names to tell the order of the classes")
    num_labels = classes if is_classes else len(names) if names else None
    told = source.metadata
    decay = _numbers(told.get("weight_decay", ""))
    adjustment = _numbers(told.get("logit_adjustment", ""))
    batch_size = told.get("batch_size", "")
    return Predictions(
        path,
        names,
        told.get("link"),
        told.get("loss"),
        decay[0] if len(decay) == 1 and decay[0] >= 0 else None,
        adjustment if len(adjustment) == source.width else None,
        int(batch_size) if re.fullmatch(r"[1-9]\d{0,8}", batch_size) else None,
        source.width,
        source,
        num_labels,
    )


def _numbers(text: str) -> tuple[float, ...]:
    """Finite numbers with spaces between; none where the text is anything else."""
    parts = text.split()
    if not all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d{1,2})?", part) for part in parts):
        return ()
    return tuple(float(part) for part in parts)


@dataclass(frozen=True)
class _Source:
    """What a format gives: chunks of (numbers, labels), and what its header says about them."""

    width: int
    label: str  # file and column, for errors
    label_is_text: bool
    read: _Chunks
    columns: tuple[str, ...] | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"file of predictions {path} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"file of predictions {path} is a folder")
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"file of predictions {path} is not a regular file")


def _codes(where: str, labels: _Array, names: Sequence[str] | None, num_labels: int | None, first: int) -> _Array:
    """Labels as int64; `first` is the row of the first."""
    limit = num_labels or 1 << 53  # where floating labels stop being exact
    accepted = f"labels from 0 to {limit - 1}"
    if labels.dtype.kind in "OU":
        index = {name: k for k, name in enumerate(names or ())}
        codes = np.array([index.get(label, -1) for label in labels.tolist()], dtype=np.int64)
        bad, accepted = codes < 0, f"class names ({_list(list(index))})"
    else:
        with np.errstate(invalid="ignore"):
            bad = (labels < 0) | (labels >= limit) | (labels != np.floor(labels))
        codes = np.where(bad, 0, labels).astype(np.int64)
    if bad.any():
        row = int(bad.argmax())
        got = reprlib.repr(labels[row : row + 1].tolist()[0])
        raise ValueError(f"{where} must hold {accepted}, got {got} in row {first + row}")
    return codes


def _check_magic(path: Path, kind: str, *magics: bytes) -> bytes:
    with path.open("rb") as file:
        start = file.read(8)
    found = next((magic for magic in magics if start.startswith(magic)), None)
    if found is None:
        raise ValueError(f"{path} is not {kind}: it begins with {start!r}")
    return found


def _label_name(path: Path, kind: str, names: Sequence[str], target: str | None) -> str:
    if target is not None:
        if target not in names:
            raise ValueError(f"{path} must have the {kind} {target!r}, its {kind}s are {_list(names)}")
        return target
    found = [name for name in names if name in _LABEL_NAMES]
    if len(found) != 1:
        raise ValueError(
            f"{path} must have one {kind} of labels ({', '.join(_LABEL_NAMES)}), got {_list(found) or 'none'}; "
            f"name it as target: its {kind}s are {_list(names)}"
        )
    return found[0]


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(_short, names[:_SHOWN])) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 200 else line[:200] + "..."


# Tables: each reader gives the schema, a first batch with rows (or None), and a way to read named columns.


def _open_table(path: Path, target: str | None, values: str) -> _Source:
    suffix = path.suffix.lower()
    try:
        import pyarrow as pa
    except ImportError:
        kind = suffix.removeprefix(".")
        raise ImportError(f"reading {kind} needs pyarrow: pip install 'steelyard[train]'") from None
    try:
        if suffix in (".csv", ".tsv"):
            schema, head, batches = _csv(path, values, _LABEL_NAMES if target is None else (target,))
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
    label = _label_name(path, "column", names, target)
    columns = _value_columns(path, schema, label, values)
    if head is None:
        raise ValueError(f"{path} has no rows")
    where = f"{path}, column {label!r}"
    label_type = schema.field(label).type
    label_type = label_type.value_type if pa.types.is_dictionary(label_type) else label_type
    label_is_text = _is_text(label_type)
    if not label_is_text and not _is_number(label_type):
        raise TypeError(f"{where} must hold integers or class names, got {_short(label_type)}")
    told = {k.decode(errors="replace"): v.decode(errors="replace") for k, v in (schema.metadata or {}).items()}
    metadata = {k.removeprefix("steelyard."): v for k, v in told.items() if k.startswith("steelyard.")}
    is_list = _is_list(schema.field(columns[0]).type)
    width = _list_width(f"{path}, column {columns[0]!r}", head.column(columns[0])) if is_list else len(columns)

    def read(rows: int) -> Iterator[tuple[_Array, _Array]]:
        first = 0
        stream = batches([label, *columns], rows)
        while (batch := _next(path, stream, names)) is not None:
            for start in range(0, batch.num_rows, rows):  # a file of Arrow may be a single batch
                part = batch.slice(start, rows)
                labels = part.column(label)
                _refuse_nulls(where, labels, first)
                labels = labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
                yield _matrix(path, part, columns, width, first), labels.to_numpy(zero_copy_only=False)
                first += part.num_rows

    return _Source(width, where, label_is_text, read, None if is_list else _without_prefix(columns), metadata)


def _parquet(path: Path) -> _Table:
    import pyarrow.parquet as pq

    _check_magic(path, "a Parquet file", b"PAR1")
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

    is_file = _check_magic(path, "an Arrow file", b"ARROW1", b"\xff\xff\xff\xff") == b"ARROW1"

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
    """The type to read a column as: if it holds a single number, or is named so, it must hold numbers only."""
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
    """The sentence for what pyarrow says; its rows of CSV count the header and begin at 1."""
    text = str(error)
    if found := re.search(r"In CSV column #(\d+): Row #(\d+): .*?invalid value '(.*)'", text, re.DOTALL):
        name, row = names[int(found[1])], int(found[2]) - 2
        return ValueError(f"{path}, column {name!r} must hold numbers, got {_short(found[3])!r} in row {row}")
    if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
        return ValueError(f"{path} must have {found[2]} cells a row, got {found[3]} in row {int(found[1]) - 2}")
    if "straddling object" in text:
        return ValueError(f"{path} has a line longer than {_CSV_BLOCK} bytes")
    return ValueError(f"{path} cannot be read, it may be damaged: {_short(text)}")


def _value_columns(path: Path, schema: Any, label: str, values: str) -> list[str]:
    """The list column `values`, or else one column a class."""
    import pyarrow as pa

    if values in schema.names and not _is_number(kind := schema.field(values).type):
        if not _is_list(kind) or not _is_number(kind.value_type):
            raise TypeError(f"{path}, column {values!r} must hold lists of numbers, got {_short(kind)}")
        return [values]
    fields = [f for f in schema if f.name != label and f.name and not f.name.startswith("__index_level_")]
    named = [f for f in fields if _is_named(f.name, values)]
    t = pa.types
    others = (_is_text, t.is_dictionary, t.is_temporal, t.is_boolean, t.is_nested)  # a file name, a date
    columns = named or [f for f in fields if not any(is_other(f.type) for is_other in others)]
    for column in columns:
        if not _is_number(column.type):
            where = f"{path}, column {column.name!r}"
            raise TypeError(f"{where} must hold floating or integer numbers, got {_short(column.type)}")
    if not columns:
        raise ValueError(
            f"{path} must have a list column {values!r} or one column of numbers a class, "
            f"got columns {_list([f'{f.name} ({f.type})' for f in schema])}"
        )
    return [f.name for f in columns]


def _is_named(column: str, values: str) -> bool:
    """Whether a column is named after `values`: logit_cat, logits.cat, prob-cat."""
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


def _matrix(path: Path, batch: Any, columns: list[str], width: int, first: int) -> _Array:
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
    numbers: _Array = flat.to_numpy(zero_copy_only=False)
    return numbers.reshape(-1, width)


# Arrays


@dataclass(frozen=True)
class _Header:
    """The header of a stored array; `offset` is where its data begin."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int


def _open_npy(path: Path, target: str | None, values: str) -> _Source:
    if target is None:
        raise ValueError(f"{path} holds no labels: give target, the .npy file of them")
    paths = (path, Path(target))
    _check_file(paths[1])
    headers = []
    for each in paths:
        _check_magic(each, "an NPY file", b"\x93NUMPY")
        with each.open("rb") as file:
            headers.append(_header(str(each), file, each.stat().st_size))
    _check_arrays((str(paths[0]), str(paths[1])), headers)

    def read(rows: int) -> Iterator[tuple[_Array, _Array]]:
        numbers, labels = (
            np.memmap(each, h.dtype, "r", h.offset, h.shape, "F" if h.is_fortran else "C")
            for each, h in zip(paths, headers, strict=True)
        )
        for first in range(0, len(labels), rows):
            yield numbers[first : first + rows], labels[first : first + rows]

    return _Source(headers[0].shape[1], str(paths[1]), headers[1].dtype.kind == "U", read)


def _open_npz(path: Path, target: str | None, values: str) -> _Source:
    _check_magic(path, "an NPZ file", b"PK")
    with _unzipping(path), zipfile.ZipFile(path) as archive:
        files = archive.namelist()
        arrays = [name.removesuffix(".npy") for name in files if name.endswith(".npy")]
        if values not in arrays:
            raise ValueError(f"{path} must have an array {values!r}, its arrays are {_list(arrays) or 'none'}")
        names = (values, _label_name(path, "array", arrays, target))
        if len(set(arrays)) < len(arrays):
            raise ValueError(f"{path} must have arrays of different names, got {_list(arrays)}")
        where = (f"{path}, array {names[0]!r}", f"{path}, array {names[1]!r}")
        headers = []
        for name, each in zip(names, where, strict=True):
            with archive.open(f"{name}.npy") as member:
                headers.append(_header(each, member, archive.getinfo(f"{name}.npy").file_size))
    _check_arrays(where, headers)
    if headers[0].is_fortran and 1 not in headers[0].shape:
        raise ValueError(f"{where[0]} is stored by columns, which is no stream of rows: save np.ascontiguousarray")

    def read(rows: int) -> Iterator[tuple[_Array, _Array]]:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
            members = [stack.enter_context(archive.open(f"{name}.npy")) for name in names]
            for member, header in zip(members, headers, strict=True):
                member.read(header.offset)
            for first in range(0, headers[0].shape[0], rows):
                count = min(rows, headers[0].shape[0] - first)
                with _unzipping(path):
                    numbers, labels = (_take(m, h, count) for m, h in zip(members, headers, strict=True))
                yield numbers, labels

    return _Source(headers[0].shape[1], where[1], headers[1].dtype.kind == "U", read)


@contextlib.contextmanager
def _unzipping(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read, it may be damaged: {_short(error)}") from error


def _take(member: IO[bytes], header: _Header, rows: int) -> _Array:
    shape = (rows, *header.shape[1:])
    data = member.read(math.prod(shape) * header.dtype.itemsize)
    if len(data) < math.prod(shape) * header.dtype.itemsize:
        raise EOFError("an array ends early")
    return np.frombuffer(data, header.dtype).reshape(shape)


def _header(where: str, stream: IO[bytes], size: int) -> _Header:
    """Read a header alone, so that nothing is unpickled and no memory is taken on its word."""
    try:
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
        header = _Header(*read(stream), offset=stream.tell())
    except Exception as error:
        raise ValueError(f"{where} is not an array in NPY format 1 or 2: {_short(error)}") from error
    if header.dtype.hasobject:
        raise TypeError(f"{where} must hold numbers, got Python objects, which are never unpickled")
    expected = math.prod(header.shape) * header.dtype.itemsize
    if size - header.offset != expected:
        raise ValueError(
            f"{where} must hold {expected} bytes of data, got {size - header.offset}; is it truncated?"
        )
    return header


def _check_arrays(where: tuple[str, str], headers: Sequence[_Header]) -> None:
    for each, header, rank, kinds in zip(where, headers, (2, 1), ("iuf", "iufU"), strict=True):
        if header.dtype.kind not in kinds or (header.dtype.kind == "f" and header.dtype.itemsize > 8):
            accepted = "floating or integer numbers" if rank == 2 else "integers or class names"
            raise TypeError(f"{each} must hold {accepted}, got {header.dtype}")
        if len(header.shape) != rank:
            raise ValueError(f"{each} must have shape {'(N, K)' if rank == 2 else '(N,)'}, got {header.shape}")
        if min(header.shape) < 1:
            raise ValueError(f"{each} has no rows, its shape is {header.shape}")
    if headers[0].shape[0] != headers[1].shape[0]:
        raise ValueError(f"{where[0]} has {headers[0].shape[0]} rows, but {where[1]} has {headers[1].shape[0]}")


_OPENERS: dict[str, Callable[[Path, str | None, str], _Source]] = {
    **dict.fromkeys((".parquet", ".arrow", ".feather", ".ipc", ".csv", ".tsv"), _open_table),
    ".npz": _open_npz,
    ".npy": _open_npy,
}
