"""Records of finished jobs: what came of a job, which job it was, and a checksum that shows a change."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard._common.checks import check_same
from steelyard._common.files import read_json, to_json, write_json


def write_record(file: Path, of: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Write what was found as JSON, with the settings of the job that found it."""
    content = {"of": dict(of), "found": dict(found)}
    write_json(file, content | {"sha256": _digest(content)})


def read_record(file: Path, of: Mapping[str, object]) -> dict[str, Any]:
    """Return what was found.

    Raises:
        ValueError: the file was changed since it was written, or is the record of another job; the sentence names
            the file and what to do.
    """
    try:
        record = read_json(file)
        if not isinstance(record, dict) or record.keys() != {"of", "found", "sha256"}:
            raise ValueError(f"{file} is not the record of a job")
        seal = record.pop("sha256")
        if seal != _digest(record):
            raise ValueError(f"{file} was changed since it was written")
        check_same(str(file), record["of"], json.loads(to_json(dict(of))))
    except ValueError as error:
        raise ValueError(f"{error}; remove the file to do the job again") from None
    found: dict[str, Any] = record["found"]
    return found


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(to_json(content).encode()).hexdigest()
