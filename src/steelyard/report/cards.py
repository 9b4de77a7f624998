"""What stands at the top of every page: one sentence, what to do, and findings as cards."""

from dataclasses import dataclass
from typing import Literal

Badge = Literal["fault", "warning", "fine", "note"]


@dataclass(frozen=True)
class Headline:
    """The answer of a page.

    Attributes:
        text: the answer in one sentence.
        todo: what to do, a sentence or an entry of a list each; may hold code between backticks.
        badge: how bad it is.
        label: what the badge says.
    """

    text: str
    todo: tuple[str, ...]
    badge: Badge
    label: str


@dataclass(frozen=True)
class Card:
    """A finding of a page.

    Attributes:
        title: what was asked.
        text: the answer.
        badge, label: how bad it is, and in a word why; no label, no badge.
        number: the number that it rests on, as it is shown; may be empty.
        interval: the interval of the number; may be empty.
        link: the id on this page of what it rests on.
        word: the id on this page where its words are explained; may be empty.
    """

    title: str
    text: str
    badge: Badge = "note"
    label: str = ""
    number: str = ""
    interval: str = ""
    link: str = ""
    word: str = ""
