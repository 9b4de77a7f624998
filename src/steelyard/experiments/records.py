"""Records of finished jobs: the result of a job, its settings, and a checksum that reveals a later change."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard._common.checks import check_same
from steelyard._common.files import read_json, to_json, write_json


def write_record(file: Path, of: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Write the result of a job (`found`) as JSON, with the settings of the job (`of`)."""
    content = {"of": dict(of), "found": dict(found)}
    write_json(file, content | {"sha256": _digest(content)})


def read_record(file: Path, of: Mapping[str, object]) -> dict[str, Any]:
    """Return the result of the job with these settings.

    Raises:
        ValueError: the file was changed since it was written, or is the record of a job with other settings; the
            sentence names the file and says what to do.
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
