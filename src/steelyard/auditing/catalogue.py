"""Every kind of finding: its code, how bad it is, what was asked. `docs/findings` has a page for each code."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from steelyard._common.text import nearest

Severity = Literal["fault", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """What is the same for all findings of a name.

    Attributes:
        code: ``SY`` and three digits; never given to another name.
        severity: ``"fault"`` for what is wrong with the training or with what is said of it, ``"warning"`` for
            what to look at before anything is concluded, ``"note"`` for all else.
        topic: what was asked.
    """

    code: str
    severity: Severity
    topic: str


KINDS = {
    "wrong_class_order": Kind("SY001", "fault", "columns"),
    "score_flipped": Kind("SY002", "fault", "columns"),
    "not_training_rows": Kind("SY003", "warning", "data"),
    "classes_absent": Kind("SY004", "note", "data"),
    "classes_of_one": Kind("SY005", "note", "data"),
    "rows_dropped": Kind("SY006", "note", "data"),
    "collected_in_evaluation": Kind("SY007", "note", "data"),
    "collected_with_dropout": Kind("SY008", "note", "data"),
    "weights_acted": Kind("SY010", "note", "weights"),
    "weights_not_applied": Kind("SY011", "fault", "weights"),
    "weights_applied_twice": Kind("SY012", "fault", "weights"),
    "weights_at_other_strength": Kind("SY013", "fault", "weights"),
    "weights_unstated": Kind("SY014", "warning", "weights"),
    "weights_permuted": Kind("SY015", "fault", "weights"),
    "class_weight_off": Kind("SY016", "fault", "weights"),
    "weights_unclear": Kind("SY017", "note", "weights"),
    "weights_tell_nothing": Kind("SY018", "note", "weights"),
    "weights_not_positive": Kind("SY019", "note", "weights"),
    "counted": Kind("SY020", "note", "double counting"),
    "counted_twice": Kind("SY021", "fault", "double counting"),
    "wrong_loss": Kind("SY030", "fault", "loss"),
    "in_balance": Kind("SY031", "note", "balance"),
    "undertrained": Kind("SY040", "fault", "training"),
    "logits_too_small": Kind("SY041", "note", "training"),
    "logits_too_large": Kind("SY042", "note", "training"),
    "groups": Kind("SY050", "note", "groups"),
    "trades": Kind("SY051", "note", "trades"),
    "hard_classes": Kind("SY052", "note", "hard classes"),
}
"""The kinds of findings by name."""


def names_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the names of kinds that are given by code (``"SY012"``) or by name.

    Raises:
        TypeError: something else than text.
        ValueError: what is neither; the sentence lists what is.
    """
    by_code = {kind.code: name for name, kind in KINDS.items()}
    found = []
    for given in kinds:
        if not isinstance(given, str):
            raise TypeError(f"ignore must be codes or names of findings, got {type(given).__name__}")
        name = by_code.get(given.upper(), given)
        if name not in KINDS:
            near = nearest(given, [*KINDS, *by_code])
            accepted = ", ".join(f"{kind.code} {name}" for name, kind in KINDS.items())
            raise ValueError(f"ignore has no finding {given!r}{near}; choose from {accepted}")
        found.append(name)
    return tuple(found)
