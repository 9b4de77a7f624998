"""Tables of rows of numbers on disk, as parquet."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from steelyard._common.files import write_atomically


def write_rows(file: Path, column: str, rows: Tensor, target: Tensor, metadata: Mapping[str, str]) -> None:
    """Write rows of numbers (N, D) and their labels (N,) as parquet, with what was trained in the metadata."""
    columns = {
        "target": pa.array(target.numpy()),
        column: pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1).numpy()), rows.shape[1]),
    }
    encoded = {key: text.encode("utf-8", "backslashreplace") for key, text in metadata.items()}
    table = pa.table(columns).replace_schema_metadata(encoded)
    write_atomically(file, lambda out: pq.write_table(table, out))
