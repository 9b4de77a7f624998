"""Small pieces of sentences: lists, numbers, and the nearest of several words."""

import difflib


def nearest(word: str, choices: list[str] | tuple[str, ...]) -> str:
    match = difflib.get_close_matches(word, choices, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def listed(names: list[str], most: int | None = None) -> str:
    if most is not None and len(names) > most:
        return ", ".join(names[:most]) + f" and {len(names) - most} more"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""


def exact(number: float) -> str:
    """Return a number as no other number is written: short where that says it all."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
