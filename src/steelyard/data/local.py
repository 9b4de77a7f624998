"""A folder of data is read without leaving it: its README, its links and its images lead to no file outside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from steelyard._common.files import check_inside
from steelyard._common.text import listed
from steelyard.data.several import read_splits

_KINDS = ("arrow", "csv", "imagefolder", "json", "parquet", "webdataset")  # none of them executes what it reads


def open_folder(folder: Path, time: str | None = None) -> Any:
    """Return the splits of a folder in the layout of a hub snapshot, or as ``save_to_disk`` writes it.

    Its README may say where its files are, but only inside the folder. Nothing is fetched, no link is followed out
    of the folder, and a script in it is never run.

    Raises:
        ValueError: something in the folder leads out of it, or its files are of a kind that is not read.
    """
    import datasets

    folder = folder.resolve()
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return _saved(folder)
    for name in (datasets.config.REPOCARD_FILENAME, datasets.config.REPOYAML_FILENAME):
        if (folder / name).exists():
            check_inside([folder / name], roots(folder))
            for place in _places(_metadata(folder / name)):
                _check_place(name, place)
    builder = datasets.load_dataset_builder(str(folder))  # an absolute path is never taken for a name
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in _KINDS:
        raise ValueError(f"its files are of kind {kind}; data are read from {listed(list(_KINDS))}")
    check_inside(
        (Path(file) for files in (builder.config.data_files or {}).values() for file in files), roots(folder)
    )
    return read_splits(builder, time)


def _saved(folder: Path) -> Any:
    """Return the splits that ``save_to_disk`` wrote: a single data set is a split of its own."""
    import datasets

    whole = folder / "dataset_dict.json"
    check_inside([whole] if whole.exists() else [], [folder])
    names = json.loads(whole.read_text(encoding="utf-8"))["splits"] if whole.exists() else ["."]
    for name in names:
        state = folder / str(name) / "state.json"
        check_inside([state, state.with_name("dataset_info.json")], [folder])
        files = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        check_inside([state.parent / str(file["filename"]) for file in files], [folder])
    found = datasets.load_from_disk(str(folder))
    return found.with_format(None) if whole.exists() else {"train": found.with_format(None)}


def roots(folder: Path) -> list[Path]:
    """Return the folders whose files belong to a folder of data.

    They are the folder itself, for a snapshot in the cache of the hub the files of its repository that it links
    to, and the cache in which archives are unpacked.
    """
    import datasets

    blobs = [folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else []
    return [folder, *blobs, Path(datasets.config.EXTRACTED_DATASETS_PATH)]


def _metadata(file: Path) -> Any:
    """Return the metadata of a README (between its lines of ---) or a YAML file, as datasets reads it."""
    if file.suffix != ".md":
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    from huggingface_hub import DatasetCard

    return DatasetCard.load(file).data.to_dict()


def _places(value: Any, is_place: bool = False) -> Iterator[str]:
    """Yield every path that the metadata gives for files, however it is nested."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, is_place or key in ("data_files", "data_dir"))
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner, is_place)
    elif is_place and isinstance(value, str):
        yield value


def _check_place(name: str, place: str) -> None:
    parts = place.replace("\\", "/").split("/")
    if "://" in place or "::" in place:
        raise ValueError(f"its {name} names {place!r}, and nothing is fetched for a local folder")
    if parts[0] in ("", "~") or parts[0].endswith(":") or ".." in parts:
        raise ValueError(f"its {name} names {place!r}, which leads out of the folder")
