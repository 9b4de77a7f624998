"""Tables on disk: rows of numbers as parquet, and CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from steelyard._common.files import write_atomically
from steelyard._common.text import inert


def write_rows(file: Path, column: str, rows: Tensor, target: Tensor, metadata: Mapping[str, str]) -> None:
    """Write rows of numbers (N, D) and their labels (N,) as parquet, with what was trained in the metadata."""
    columns = {
        "target": pa.array(target.numpy()),
        column: pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1).numpy()), rows.shape[1]),
    }
    table = pa.table(columns).replace_schema_metadata(dict(metadata))
    write_atomically(file, lambda out: pq.write_table(table, out))


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV; None is an empty cell, a float has all its digits, no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([inert(cell) for cell in row] for row in rows)
    write_atomically(file, lambda out: out.write(text.getvalue().encode()))
