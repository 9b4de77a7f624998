"""Run folders: opened once, by one process, for one configuration; every file is written aside and renamed."""

import glob
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TypeVar, cast

import torch

import steelyard
from steelyard._common.checks import check_same
from steelyard._common.files import held_folder, to_json, write_text
from steelyard.experiments.config import CompareConfig, dump_config, read_config
from steelyard.report.results import Environment
from steelyard.report.results.records import Results

Finished = TypeVar("Finished", bound=Results)


def environment(how: str, commit: str | None = None) -> Environment:
    """Return the environment of this process; `how` says in words how it used the machine."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(models, platform.processor() or platform.machine())
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    machine = ", ".join([processor, *gpus, how])
    return Environment(steelyard.__version__, torch.__version__, platform.python_version(), machine, commit)


class RunFolder:
    """A folder of results.

    Args:
        path: the folder; made when opened.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    @contextmanager
    def open(self, config: CompareConfig, *, resume: bool) -> Iterator[None]:
        """Hold the folder for this process and this configuration.

        Raises:
            FileExistsError: it holds a run already, and `resume` is False.
            ValueError: it holds a run of another configuration (the difference is named), or another process
                works in it.
        """
        with held_folder(self.path):
            self._claim(config, resume)
            yield

    def _claim(self, config: CompareConfig, resume: bool) -> None:
        file = self.path / "config.yaml"
        if not file.exists():
            check_new(self.path)
            write_text(file, dump_config(config))
            return
        if not resume:
            raise FileExistsError(f"run folder {self.path} holds a run already; resume it or name another folder")
        check_same(f"run folder {self.path}", read_config(file, to_compare=True).model_dump(), config.model_dump())

    def new(self) -> bool:
        """Return whether no run was begun here."""
        return not (self.path / "config.yaml").exists()

    def finished(self) -> bool:
        return (self.path / "results.json").exists()


def read_finished(kind: type[Finished], folder: Path, config: Mapping[str, object]) -> Finished:
    """Return the results of a finished run of a configuration.

    Raises:
        ValueError: they were cut off or edited, or are of another configuration; the sentence names the file and
            what to do.
    """
    try:
        found = kind.read(folder)
        before = cast(Mapping[str, object], found.to_dict()["config"])
        check_same(str(folder / kind.FILE), before, json.loads(to_json(dict(config))))
        return found
    except ValueError as error:
        raise ValueError(f"{error}; remove {folder / kind.FILE} to make it from what was trained") from None


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something else than a run that has just begun."""
    others = sorted(p.name for p in folder.iterdir() if p.name != ".lock" and p.suffix != ".tmp")
    if others:
        raise FileExistsError(f"run folder {folder} holds other files, such as {others[0]}; name another")


def next_folder(parent: Path, stem: str) -> Path:
    """Return `stem` in `parent`, or `stem-2`, `stem-3`, ...: what comes after those that exist."""
    number = max(numbered_folders(parent, stem), default=0) + 1
    return parent / (stem if number == 1 else f"{stem}-{number}")


def latest_folder(
    parent: Path, stem: str, config: CompareConfig, say: Callable[[str], None] = lambda text: None
) -> Path | None:
    """Return the newest folder of that stem with this configuration, or None.

    One whose configuration cannot be read is left out, and `say` is told why.
    """
    for _, path in sorted(numbered_folders(parent, stem).items(), reverse=True):
        file = path / "config.yaml"
        try:
            if file.exists() and read_config(file, to_compare=True) == config:
                return path
        except (ValueError, OSError) as error:
            say(f"{path} is left out: {error}")
    return None


def numbered_folders(parent: Path, stem: str) -> dict[int, Path]:
    """Return the folders of a stem that exist, gaps or not."""
    found = {1: parent / stem} if (parent / stem).exists() else {}
    for path in parent.glob(f"{glob.escape(stem)}-*"):
        number = path.name.removeprefix(f"{stem}-")
        if number.isdecimal():
            found[int(number)] = path
    return found
