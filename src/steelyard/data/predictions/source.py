"""What readers of files share: where labels are, how names and errors are told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from steelyard._common.text import reason_of

LABEL_NAMES = ("target", "label", "labels", "y")
_SHOWN = 10

Array = NDArray[Any]
Chunks = Callable[[int, bool], Iterator[tuple[Array, Array]]]  # at most so many rows each; may labels be missing


@dataclass(frozen=True)
class Source:
    """What a format gives: chunks of (numbers, labels), and what its header says about them."""

    width: int
    label: str  # file and column, for errors
    label_is_text: bool
    read: Chunks
    columns: tuple[str, ...] | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"file of predictions {path} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"file of predictions {path} is a folder")
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"file of predictions {path} is not a regular file")


def check_magic(path: Path, kind: str, *magics: bytes) -> bytes:
    with path.open("rb") as file:
        start = file.read(8)
    found = next((magic for magic in magics if start.startswith(magic)), None)
    if found is None:
        raise ValueError(f"{path} is not {kind}: it begins with {start!r}")
    return found


def label_name(path: Path, kind: str, names: Sequence[str], target: str | None) -> str:
    if target is not None:
        if target not in names:
            raise ValueError(f"{path} must have the {kind} {target!r}, its {kind}s are {list_names(names)}")
        return target
    found = [name for name in names if name in LABEL_NAMES]
    if len(found) != 1:
        raise ValueError(
            f"{path} must have one {kind} of labels ({', '.join(LABEL_NAMES)}), "
            f"got {list_names(found) or 'none'}; "
            f"name it as target: its {kind}s are {list_names(names)}"
        )
    return found[0]


def list_names(names: Sequence[str]) -> str:
    return ", ".join(map(short, names[:_SHOWN])) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")


def short(text: object) -> str:
    if isinstance(text, Exception):
        return reason_of(text)
    line = " ".join(str(text).split())
    return line if len(line) <= 200 else line[:200] + "..."
