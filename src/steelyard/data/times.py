"""Times of rows: which are earlier, and what cannot be ordered."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from steelyard._common.text import reason_of
from steelyard.data.predictions.delimited import is_number, is_text
from steelyard.data.predictions.source import short

_FORMS = "numbers, or dates and times such as 2026-01-31 or 2026-01-31T12:00:00, all with a zone or none"


def moments(where: str, values: Any) -> NDArray[Any]:
    """Return the times of rows as numbers, or as datetime64 in UTC.

    Args:
        where: what to call the column in an error.
        values: (N,) as pyarrow or NumPy holds them: numbers, dates, timestamps, or texts of these.

    Raises:
        ValueError: what is none of these, infinite, or texts of several kinds. Missing ones stay, as NaN or NaT.
    """
    import pyarrow as pa

    try:
        column = values if isinstance(values, pa.Array | pa.ChunkedArray) else _array(values)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"{where} must hold {_FORMS}: {reason_of(error)}") from error
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column.type):
        column = _read(where, column.cast(pa.large_string()))
    t = pa.types
    if not (is_number(column.type) or t.is_timestamp(column.type) or t.is_date(column.type)):
        raise ValueError(f"{where} must hold {_FORMS}, got {column.type}")
    found: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    if found.dtype.kind == "f" and np.isinf(found).any():
        row = int(np.isinf(found).argmax())
        raise ValueError(f"{where} must hold finite times, got {found[row]} in row {row}")
    return found


def moment_text(value: Any) -> str:
    """Return one of the values of :func:`moments` for people to read."""
    if isinstance(value, np.datetime64):
        return str(np.datetime_as_string(value, unit="auto")).replace("T", " ")
    return f"{value:.15g}"


def _array(values: Any) -> Any:
    import pyarrow as pa

    plain = np.asarray(values)
    return pa.array(plain if plain.dtype.kind in "iufM" else plain.tolist())


def _read(where: str, texts: Any) -> Any:
    """Return what texts say: all are numbers, or times of one form."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(texts)
    kinds = [pa.float64(), *(pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("us", "ns"))]
    for kind in kinds:
        try:
            return texts.cast(kind)
        except pa.ArrowInvalid:
            pass
    first = next((kind for kind in kinds if _holds(kind, texts.drop_null()[0])), None)
    row = next(i for i, text in enumerate(texts) if first is None or not _holds(first, text))
    raise ValueError(f"{where} must hold {_FORMS}, got {short(texts[row])!r} in row {row}")


def _holds(kind: Any, text: Any) -> bool:
    import pyarrow as pa

    try:
        text.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True
