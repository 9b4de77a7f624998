"""Tables of all losses, made from what each says of itself: for the documentation and the command line."""

import inspect
import re

from steelyard.losses.base import Loss
from steelyard.losses.presets import PRESETS
from steelyard.losses.registry import LOSSES

MEANINGS = {
    "class_weights": "the samples of a class",
    "pos_weight": "the positives of an output",
    "output_weights": "the whole loss of an output",
    "class_smoothing": "the label of a class, which it smooths",
    "margins": "the distance that a class is to win by",
    "logit_factors": "the logit of an output",
    "class_counts": "a class against another",
    "gradient_ratio": "positives against negatives of an output",
}
"""What each kind of weight weighs."""
FIRST = ("name", "link", "targets", "formula", "use")
HEADINGS = {"formula": "loss of a sample of class y", "use": "when to use it", "posterior": "probabilities"}
SECOND = ("name", "weights", "posterior", "options", "source")


def loss_rows() -> list[dict[str, str]]:
    """Return one row for each loss of the registry, then for each preset, with the keys of both tables.

    Example:
        >>> [row["name"] for row in loss_rows() if row["targets"] == "labels"]
        ['lgl-inr', 'seesaw']
    """
    rows = [_row(LOSSES[name]) for name in sorted(LOSSES)]
    for name, preset in sorted(PRESETS.items()):
        made = [f"`{key}={value}`" for key, value in preset.options.items()]
        made += [f"`{key}={value:g}`" for key, value in preset.parameters.items()]
        made += ["what its `class_counts` give"] if preset.of_counts is not None else []
        row = _row(LOSSES[preset.loss], preset.options.get("link"))
        rows.append(
            row
            | dict.fromkeys(("formula", "posterior"), f"that of `{preset.loss}`")
            | {"name": name, "options": ", ".join(made), "source": preset.source, "use": preset.use}
        )
    return rows


def loss_table() -> str:
    """Return the rows as two Markdown tables: what each loss is for, and what it takes and gives."""
    rows = loss_rows()
    return "\n\n".join(_table(rows, keys) for keys in (FIRST, SECOND))


def _table(rows: list[dict[str, str]], keys: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(HEADINGS.get(key, key) for key in keys) + " |", "|" + "---|" * len(keys)]
    for row in rows:
        cells = [f"`{row['name']}`", *(row[key] for key in keys[1:])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _row(loss: type[Loss], fixed_link: str | None = None) -> dict[str, str]:
    link = loss.options.get("link")
    links = [fixed_link] if fixed_link else [loss.link] if link is None else list(link.choices)
    targets = list(dict.fromkeys(kind for one in links for kind in loss.takes_under(one)))  # type: ignore[arg-type]
    vectors = [key for key, one in loss.options.items() if one.kind == "vector" and key != "logit_adjustment"]
    weights = [f"`{key}`" + (f": {MEANINGS[key]}" if key in MEANINGS else "") for key in sorted(vectors)]
    options = [f"`{key}={loss.options[key].default}`" for key in loss.own if loss.options[key].kind != "vector"]
    return {
        "name": loss.name,
        "link": ", ".join(links),
        "targets": ", ".join(targets),
        "formula": loss.formula_text,
        "use": loss.use_text,
        "weights": "; ".join(weights),
        "posterior": loss.posterior_text,
        "options": ", ".join(options) or "none of its own",
        "source": _source(loss),
    }


def _source(loss: type[Loss]) -> str:
    text = inspect.cleandoc(loss.__doc__ or "")
    found = re.search(r"^Source:\n((?:    .*\n?)+)", text, re.MULTILINE)
    return " ".join(found[1].split()).rstrip(".") if found else "not named"
