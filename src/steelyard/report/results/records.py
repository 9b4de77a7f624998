"""Typed records that a JSON file holds: what is missing or of another type is one sentence when it is read."""

import dataclasses
import functools
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from steelyard._common.files import read_json, to_json


class Record:
    """Plain data that is checked when it is read; every subclass is a dataclass.

    A key beyond the fields is left out, so that an older version reads what a newer one wrote.
    """

    @classmethod
    def from_dict(cls, value: object, where: str = "the record") -> Self:
        """Return the record that dictionaries, lists, strings and numbers describe.

        Args:
            value: as :meth:`to_dict` returns it, or a JSON file holds it.
            where: what to call it in an error.

        Raises:
            ValueError: a key is missing, or its value is of another type or size; the sentence names both.
        """
        try:
            # JSON's own rules of types: a list may be a tuple, a text is no number
            found = _adapter(cls).validate_json(to_json(value), strict=True)  # type: ignore[arg-type]
        except ValidationError as error:
            raise ValueError(f"{where}: {_first(error)}") from None
        except RecursionError:
            raise ValueError(f"{where} is nested too deeply") from None
        except ValueError as error:  # NaN, infinity
            raise ValueError(f"{where}: {str(error)[:1].lower()}{str(error)[1:]}") from None
        assert isinstance(found, cls)
        return found

    def to_dict(self) -> dict[str, object]:
        """Return the record as dictionaries, lists, strings and numbers, for JSON."""
        found: dict[str, object] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return found


@dataclass(frozen=True, kw_only=True)
class Results(Record):
    """What one JSON file of a finished run holds.

    Attributes:
        schema: number of the file's layout; it rises where an old file would be misread.
        finished: when, as ISO 8601.
    """

    FILE: ClassVar[str]
    KIND: ClassVar[str]
    """What the file is, for an error."""
    NONE: ClassVar[str]
    """What a folder without the file lacks."""
    SCHEMA: ClassVar[int] = 1

    finished: str
    schema: int = 1

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> Self:
        """Return what this class's file in a folder holds.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is of another kind, cut off or edited; the sentence names the file and the key.
        """
        folder = Path(folder)
        file = folder / cls.FILE
        if not file.is_file():
            raise FileNotFoundError(f"{folder} holds no {cls.NONE}: there is no {cls.FILE}")
        value = read_json(file)
        if not isinstance(value, dict) or value.get("schema") != cls.SCHEMA:
            found = value.get("schema") if isinstance(value, dict) else None
            number = isinstance(found, int) and not isinstance(found, bool)
            came = f", but of schema {found}, of another version: make it with this one" if number else ""
            raise ValueError(f"{file} is not {cls.KIND} of schema {cls.SCHEMA}{came}")
        return cls.from_dict(value, str(file))


def check_sizes(size: int, parts: Mapping[str, Sized | None]) -> None:
    """Refuse the first part, where it is given, that has not so many entries: one for each class."""
    for key, part in parts.items():
        if part is not None and len(part) != size:
            raise ValueError(f"{key} must have {size} entries, one for each class, got {len(part)}")


@functools.cache
def _adapter(cls: type[Record]) -> TypeAdapter[Record]:
    return TypeAdapter(cls)


def _first(error: ValidationError) -> str:
    """Return what is wrong first, and the key that it stands under."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        came = repr(first["input"])
        message = f"{message[:1].lower()}{message[1:]}, got {came if len(came) <= 60 else came[:57] + '...'}"
    return f"{key}: {message}" if key else message
