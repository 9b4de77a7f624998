"""Run folders: opened once, by one process, for one configuration; every file is written aside and renamed."""

import glob
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import torch
from filelock import FileLock, Timeout

import steelyard
from steelyard._common.files import write_atomically
from steelyard.experiments.config import CompareConfig, dump_config, read_config
from steelyard.report.results import Environment


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
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"run folder {self.path} is a file")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(f"run folder {self.path} is in use by another process") from None
        try:
            self._claim(config, resume)
            yield
        finally:
            lock.release()

    def _claim(self, config: CompareConfig, resume: bool) -> None:
        file = self.path / "config.yaml"
        if not file.exists():
            others = sorted(p.name for p in self.path.iterdir() if p.name != ".lock" and p.suffix != ".tmp")
            if others:
                raise FileExistsError(
                    f"run folder {self.path} holds other files, such as {others[0]}; name another"
                )
            write_atomically(file, lambda f: f.write(dump_config(config).encode()))
            return
        if not resume:
            raise FileExistsError(f"run folder {self.path} holds a run already; resume it or name another folder")
        before, now = read_config(file).model_dump(), config.model_dump()
        for key in now:
            if before[key] != now[key]:
                raise ValueError(
                    f"run folder {self.path} is of another run: {key} is {before[key]!r}, not {now[key]!r}"
                )

    def new(self) -> bool:
        """Return whether no run was begun here."""
        return not (self.path / "config.yaml").exists()

    def finished(self) -> bool:
        return (self.path / "results.json").exists()


def next_folder(parent: Path, stem: str) -> Path:
    """Return `stem` in `parent`, or `stem-2`, `stem-3`, ...: what comes after those that exist."""
    number = max(numbered_folders(parent, stem), default=0) + 1
    return parent / (stem if number == 1 else f"{stem}-{number}")


def latest_folder(parent: Path, stem: str, config: CompareConfig) -> Path | None:
    """Return the newest folder of that stem with this configuration, or None."""
    for _, path in sorted(numbered_folders(parent, stem).items(), reverse=True):
        file = path / "config.yaml"
        if file.exists() and read_config(file) == config:
            return path
    return None


def numbered_folders(parent: Path, stem: str) -> dict[int, Path]:
    """Return the folders of a stem that exist, gaps or not."""
    found = {1: parent / stem} if (parent / stem).exists() else {}
    for path in parent.glob(f"{glob.escape(stem)}-*"):
        number = path.name.removeprefix(f"{stem}-")
        if number.isdecimal():
            found[int(number)] = path
    return found
