"""Files that are whole or not there: written aside, made durable, renamed; and folders held while they are filled.

Nothing is written through a link: what lies at a name is replaced, and a folder with links in it is not held.
"""

import csv
import hashlib
import io
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steelyard._common.text import inert

UNFINISHED = ".unfinished"
_LOCK = ".lock"


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Call `write` with a binary file beside `path`, make it durable, and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{secrets.token_hex(8)}.tmp")  # nobody else's
    try:
        with aside.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write text in UTF-8 and return the path; what UTF-8 cannot hold (bytes of a file's name) is escaped."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    return path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV; None is an empty cell, a float has all its digits, no cell is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([inert(cell) for cell in row] for row in rows)
    write_text(path, text.getvalue())


def to_json(value: object, *, indent: int | None = 1) -> str:
    """Return JSON; what UTF-8 cannot hold, such as bytes of a file's name, becomes its escape as text."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=indent, separators=separators)
    return re.sub("[\ud800-\udfff]", lambda sign: f"\\\\u{ord(sign[0]):04x}", text)


def write_json(path: Path, value: object) -> None:
    write_text(path, to_json(value))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is not JSON, is nested too deeply, or has a key twice; the sentence names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except LookupError as twice:
        raise ValueError(f"{path} must have each key once, got {twice.args[0]!r} twice") from None
    except RecursionError:
        raise ValueError(f"{path} is not JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, in which no key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise LookupError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_inside(files: Iterable[Path], folders: list[Path]) -> None:
    """Refuse files that, once links are followed, lie in none of the folders."""
    real = [folder.resolve() for folder in folders]
    for file in files:
        whole = None if "\0" in str(file) else Path(os.path.realpath(file))
        if whole is None or not any(whole.is_relative_to(folder) for folder in real):
            raise ValueError(f"file {str(file)!r} lies outside {folders[0]}, and no such file is read")


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; it is made where there is none.

    Raises:
        FileExistsError: it is a file.
        ValueError: another process holds it, or something in it is a link.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink():
                raise ValueError(f"{path} is a link, and nothing is written through links; remove it")
    from filelock import FileLock, Timeout  # here: few runs of a program need it

    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"folder {folder} is in use by another process") from None
    try:
        _remove_leftovers(folder)
        yield
    finally:
        _remove_leftovers(folder)
        lock.release()


def check_folder(folder: Path) -> None:
    """Refuse a folder that :func:`filled_folder` would refuse.

    Raises:
        FileExistsError: the folder is a file, or holds something that no unfinished writing left.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or ({p.name for p in folder.iterdir()} - {_LOCK} and not _unfinished(folder)):
        raise FileExistsError(f"{folder} holds something already; name another folder")


@contextmanager
def filled_folder(folder: Path) -> Iterator[None]:
    """Hold a folder that the block fills; a mark in it says that it is unfinished until the block has ended.

    A new or empty folder is taken; one that has the mark of an earlier call is completed.

    Raises:
        FileExistsError: as :func:`check_folder`.
        ValueError: as :func:`held_folder`.
    """
    check_folder(folder)
    with held_folder(folder):
        check_folder(folder)  # another process may have finished it meanwhile
        (folder / UNFINISHED).touch()
        yield
        (folder / _LOCK).unlink(missing_ok=True)
        (folder / UNFINISHED).unlink()


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote into a folder; for who holds it."""
    for aside in folder.rglob(".????????????????.tmp"):
        aside.unlink(missing_ok=True)


def _unfinished(folder: Path) -> bool:
    return (folder / UNFINISHED).exists()
