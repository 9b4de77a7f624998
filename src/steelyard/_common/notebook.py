"""What notebooks show of a result: a sentence and a table, with no script and nothing from elsewhere."""

from collections.abc import Sequence
from html import escape


def table_html(sentence: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a sentence and a table as HTML; every text is escaped, signs that cannot be printed are replaced.

    Args:
        sentence: what stands above the table.
        columns: names of the columns.
        rows: an entry for each column; the first names the row.
    """
    head = "".join(f"<th>{_safe(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{_safe(first)}</th>" + "".join(f"<td>{_safe(value)}</td>" for value in rest) + "</tr>"
        for first, *rest in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div><p><b>{_safe(sentence)}</b></p>{table}</div>"


def _safe(value: object) -> str:
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value)))
