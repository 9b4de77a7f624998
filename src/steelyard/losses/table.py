"""Tables of all losses, made from what each says of itself, for the documentation and the command line."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from steelyard.losses.base import Loss
from steelyard.losses.presets import PRESETS
from steelyard.losses.registry import LOSSES

COLUMNS = (
    ("name", "link", "targets", "formula", "use"),
    ("name", "weights", "posterior", "options"),
    ("name", "source"),
)
"""What each table has of a loss."""
HEADINGS = {"formula": "loss of a sample of class y", "use": "when to use it", "posterior": "probabilities"}


def loss_rows() -> list[dict[str, str]]:
    """Return one row for each loss of the registry, then for each preset, with the keys of all tables.

    Example:
        >>> [row["name"] for row in loss_rows() if row["targets"] == "labels"]
        ['lgl-inr', 'seesaw']
    """
    rows = [_row(LOSSES[name], {}) for name in sorted(LOSSES)]
    for name, preset in sorted(PRESETS.items()):
        made = [f"`{key}={value}`" for key, value in preset.options.items()]
        made += [f"`{key}={value:g}`" for key, value in preset.parameters.items()]
        if preset.of_counts is not None:
            of_counts = preset.of_counts([2, 1], **preset.parameters)
            vectors = " and ".join(f"`{key}`" for key in of_counts if key not in preset.parameters)
            made.append(f"{vectors} from `class_counts`")
        row = _row(LOSSES[preset.loss], preset.options)
        rows.append(
            row
            | dict.fromkeys(("formula", "posterior"), f"that of `{preset.loss}`")
            | {"name": name, "options": ", ".join(made), "source": preset.source, "use": preset.use}
        )
    return rows


def loss_table() -> str:
    """Return the rows as Markdown tables: what each loss is for, what it takes and gives, and where it is from."""
    rows = loss_rows()
    return "\n\n".join(_table(rows, keys) for keys in COLUMNS)


def _table(rows: list[dict[str, str]], keys: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(HEADINGS.get(key, key) for key in keys) + " |", "|" + "---|" * len(keys)]
    for row in rows:
        cells = [f"`{row['name']}`", *(row[key] for key in keys[1:])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _row(loss: type[Loss], fixed: Mapping[str, Any]) -> dict[str, str]:
    link = loss.options.get("link")
    links = [fixed["link"]] if "link" in fixed else [loss.link] if link is None else list(link.choices)
    targets = list(dict.fromkeys(kind for one in links for kind in loss.takes_under(one)))  # type: ignore[arg-type]
    kept = {"logit_adjustment", *fixed}
    vectors = [key for key, one in loss.options.items() if one.kind == "vector" and key not in kept]
    options = [f"`{key}={loss.options[key].default}`" for key in loss.own if loss.options[key].kind != "vector"]
    return {
        "name": loss.name,
        "link": ", ".join(links),
        "targets": ", ".join(targets),
        "formula": loss.formula_text,
        "use": loss.use_text,
        "weights": ", ".join(f"`{key}`" for key in sorted(vectors)),
        "posterior": loss.posterior_text,
        "options": ", ".join(options) or "none of its own",
        "source": _source(loss),
    }


def _source(loss: type[Loss]) -> str:
    text = inspect.cleandoc(loss.__doc__ or "")
    found = re.search(r"^Source:\n((?:    .*\n?)+)", text, re.MULTILINE)
    return " ".join(found[1].split()).rstrip(".") if found else "not named"
