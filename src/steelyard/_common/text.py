"""Small pieces of text: lists, numbers, the nearest of several words, cells of tables, reasons."""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]{1,3})?", re.IGNORECASE)
"""A finite number as people write it."""


def as_texts(values: "NDArray[Any]") -> "NDArray[Any]":
    """Return values as texts in an array of objects: numpy's own arrays of texts drop a NUL at the end of one."""
    import numpy as np  # not above: the help needs none of it

    return np.array([str(value) for value in values.tolist()], dtype=object)


def nearest(word: str, choices: Sequence[str], others: Mapping[str, str] | None = None) -> str:
    """Return a hint at the choice that a word is nearest to, or "".

    `others` holds what other libraries call a choice, in small letters, without hyphens and underscores.
    """
    known = (others or {}).get(re.sub("[-_ ]", "", word.lower()))
    plain = {choice.lower().replace("_", "-"): choice for choice in choices}
    near = difflib.get_close_matches(word.lower().replace("_", "-"), plain, n=1)
    match = known if known in choices else plain[near[0]] if near else None
    return f" (did you mean {match!r}?)" if match is not None else ""


def listed(names: list[str], most: int | None = None) -> str:
    if most is not None and len(names) > most:
        return ", ".join(names[:most]) + f" and {len(names) - most} more"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""


def inert(cell: object) -> object:
    """Return a cell of a CSV file that no spreadsheet takes for a formula: a text that is one gets an apostrophe.

    A formula begins with =, +, -, @ or their full-width forms, behind spaces, control or format characters too; a
    plain number is none.
    """
    if not isinstance(cell, str) or re.fullmatch(r"[-+]?[0-9]+([.][0-9]+)?", cell):
        return cell
    seen = next((c for c in cell if not c.isspace() and unicodedata.category(c)[0] != "C"), "")
    starts = unicodedata.normalize("NFKC", seen)[:1] in ("=", "+", "-", "@", "\N{MINUS SIGN}")
    return f"'{cell}" if cell[:1] != seen or (seen and starts) else cell


_ADVICE = re.compile(
    r"weights_only|allow_pickle|trust_remote_code|safe_globals|trusted source|trust the |arbitrary code|"
    r"can still be loaded|set_int_max_str_digits",
    re.I,
)


def reason_of(error: object, most: int = 200) -> str:
    """Return why something failed as another library says it, on one line, without its advice to load unsafely."""
    line = " ".join(str(error).split())
    kept = " ".join(part for part in re.split(r"(?<=[.;:!?]) ", line) if not _ADVICE.search(part)).rstrip(" ;:")
    kept = kept or f"{type(error).__name__}: it cannot be loaded safely"
    return kept if len(kept) <= most else kept[:most] + "..."


def exact(number: float) -> str:
    """Return a number as no other number is written: short where that says it all."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


OTHER_NAMES = {
    "lr": ("learning-rates", "rate"),
    "learningrate": ("learning-rates", "rate"),
    "eta": ("learning-rates", "rate"),
    "loss": ("losses", "loss"),
    "losses": ("loss", "losses"),
    "bs": ("batch-size",),
    "data": ("dataset",),
    "model": ("backbone", "learner"),
    "network": ("backbone", "learner"),
    "nestimators": ("rounds",),
    "classweight": ("weights", "losses", "schemes"),
    "classweights": ("weights", "losses", "schemes"),
    "scaleposweight": ("pos-weights",),
    "label": ("target",),
    "labels": ("target",),
    "seed": ("seeds", "seed"),
    "output": ("out",),
    "outdir": ("out",),
    "wd": ("weight-decay",),
    "scheme": ("weights", "schemes"),
    "threshold": ("offsets",),
    "verbose": ("quiet",),
}
"""What other tools call an option or a key of a configuration, without hyphens, and ours."""


def plain_name(word: str) -> str:
    """Return the name of an option or a key in small letters, without hyphens and underscores."""
    return word.lower().replace("-", "").replace("_", "")
