"""CSV: its delimiter, its decimal sign, the types of its columns, and the batches of some of them."""

import gzip
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.data.predictions.source import short

CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
CSV_BLOCK = 1 << 21  # bytes; no line may be longer, and pyarrow reads up to 32 blocks ahead
_COMMA = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")


@dataclass(frozen=True)
class Delimited:
    """An opened CSV; `names` has the names in the header by the names without the spaces around them.

    `texts` gives batches of all cells as they are, `signs` stand between cells and before decimals.
    """

    names: dict[str, str]
    types: dict[str, Any]
    head: Any
    batches: Callable[[Sequence[str], Sequence[str], int], Iterator[Any]]
    texts: Callable[[int], Iterator[Any]]
    notes: tuple[str, ...]
    signs: tuple[str, str]


def open_delimited(path: Path, nulls: Sequence[str] = ("",), as_text: Collection[str] = ()) -> Delimited:
    """Open a CSV; cells that hold one of `nulls` and nothing else are missing, columns of `as_text` are text."""
    import pyarrow as pa
    from pyarrow import csv

    start = _start(path)
    header, _, rest = start.replace(b"\r", b"\n").partition(b"\n")
    if len(header) == CSV_BLOCK:
        raise ValueError(f"{path} has a line longer than {CSV_BLOCK} bytes")
    if not rest.strip():
        raise ValueError(f"{path} has no rows")
    bare = re.sub(rb'"[^"]*"', b"", header)
    delimiter = max(",;\t", key=lambda d: bare.count(d.encode()))

    def opened(decimal: str, **options: Any) -> Any:
        options = {"null_values": list(nulls), "strings_can_be_null": True, "decimal_point": decimal, **options}
        return csv.open_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK),  # threads do not count rows
            parse_options=csv.ParseOptions(delimiter=delimiter),
            convert_options=csv.ConvertOptions(**options),
        )

    def first(decimal: str) -> tuple[Any, Any]:
        with opened(decimal) as reader:
            return reader.schema, next((batch for batch in reader if batch.num_rows), None)

    decimal = "."
    schema, head = first(decimal)
    if head is not None and delimiter != "," and any(_has_commas(column) for column in head.columns):
        decimal = ","
        schema, head = first(decimal)
    names: dict[str, str] = {}
    for name in schema.names:
        if name.strip() in names:
            raise ValueError(f"{path} must have columns of different names, got {name.strip()!r} twice")
        names[name.strip()] = name
    types = {name: schema.field(given).type for name, given in names.items()}
    types = {name: pa.float64() if pa.types.is_null(kind) else kind for name, kind in types.items()}
    types |= {name: pa.string() for name in as_text if name in types}

    def batches(columns: Sequence[str], labels: Sequence[str], rows: int) -> Iterator[Any]:
        kinds = {name: pa.float64() for name in columns} | {
            name: _label_type(types[name.strip()]) for name in labels
        }
        with opened(decimal, column_types=kinds, include_columns=[*labels, *columns]) as reader:
            yield from reader

    def texts(rows: int) -> Iterator[Any]:
        kinds = dict.fromkeys(names.values(), pa.string())
        with opened(decimal, column_types=kinds, strings_can_be_null=False) as reader:
            yield from reader

    notes = ("decimal commas",) if decimal == "," else ()
    return Delimited(names, types, head, batches, texts, notes, (delimiter, decimal))


def numbers_of_texts(where: str, cells: Any, decimal: str, first: int) -> Any:
    """Return the numbers that cells of text hold, null where they are empty; `first` is the row of the first.

    Raises:
        ValueError: a cell that holds no number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    bare = pc.utf8_trim_whitespace(cells)
    bare = pc.replace_substring(bare, ",", ".", max_replacements=1) if decimal == "," else bare
    bare = pc.if_else(pc.equal(bare, ""), None, bare)
    try:
        return bare.cast(pa.float64())
    except pa.ArrowInvalid:
        for row, cell in enumerate(bare):
            try:
                cell.cast(pa.float64())
            except pa.ArrowInvalid:
                raise ValueError(f"{where} must hold numbers, got {short(cell)!r} in row {first + row}") from None
        raise


def _start(path: Path) -> bytes:
    """Return the first block of a file that holds text."""
    name = path.suffix.lower()
    if name == ".gz":
        try:
            with gzip.open(path) as file:
                start = file.read(CSV_BLOCK)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be read, it may be damaged: {short(error)}") from error
    else:
        with path.open("rb") as plain:
            start = plain.read(CSV_BLOCK)
    if b"\0" in start[:4096] or start.startswith((b"PAR1", b"ARROW1", b"PK\x03\x04")):
        raise ValueError(f"{path} is not a {name} file: it does not hold text in UTF-8")
    return start


def _has_commas(column: Any) -> bool:
    """Return whether a column of text holds nothing but numbers, some with a decimal comma."""
    if not is_text(column.type):
        return False
    cells = [cell for cell in column[:1000].to_pylist() if cell is not None]
    whole = re.compile(r"\s*[-+]?\d+\s*")
    return any(map(_COMMA.fullmatch, cells)) and all(_COMMA.fullmatch(c) or whole.fullmatch(c) for c in cells)


def _label_type(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return kind
    return pa.float64() if is_number(kind) else pa.string()


def is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_text(kind: Any) -> bool:
    import pyarrow as pa

    t = pa.types
    kinds = (t.is_string, t.is_large_string, t.is_string_view, t.is_binary, t.is_large_binary, t.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)
