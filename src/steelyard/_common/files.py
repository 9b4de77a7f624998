"""Files that are whole or not there: written aside, made durable, renamed."""

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Call `write` with a binary file beside `path`, make it durable, and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")  # nobody else's
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


UNFINISHED = ".unfinished"


def check_folder(folder: Path) -> None:
    """Refuse a folder that :func:`filled_folder` would refuse.

    Raises:
        FileExistsError: the folder is a file, or holds something that no unfinished writing left.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / UNFINISHED).exists())):
        raise FileExistsError(f"{folder} holds something already; name another folder")


@contextmanager
def filled_folder(folder: Path) -> Iterator[None]:
    """Hold a folder that the block fills; a mark in it says that it is unfinished until the block has ended.

    A new or empty folder is taken; one that has the mark of an earlier call is completed.

    Raises:
        FileExistsError: as :func:`check_folder`.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / UNFINISHED
    mark.touch()
    yield
    for aside in folder.glob("*.????????????????.tmp"):  # of a process that was killed while it wrote
        aside.unlink(missing_ok=True)
    mark.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1)
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is not JSON, is nested too deeply, or has a key twice; the sentence names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{path} is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, in which no key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r} stands twice")
    return found
