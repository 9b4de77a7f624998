"""What Lightning does that we do not want: files that can run code, noise, chance."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from steelyard._common.text import reason_of


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On a GPU: of each operation the form that gives the same numbers every time; torch warns of one without."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class SafeCheckpointIO(TorchCheckpointIO):  # type: ignore[misc]
    """Written aside and renamed; read without executing anything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        aside = Path(path).with_suffix(".tmp")
        with aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"checkpoint {path} cannot be read ({reason_of(error)}); remove it to train again"
            ) from error


class quiet_lightning:  # noqa: N801 (a context manager, used as a function)
    """Notices about loaders, devices and processes are not for the readers of a table."""

    def __enter__(self) -> None:
        names = ("lightning.pytorch", "lightning.fabric", "torch.multiprocessing.spawn")
        self.loggers = [logging.getLogger(name) for name in names]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.filterwarnings("ignore", module="lightning|pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*(num_workers|isinstance.treespec|logging interval).*")

    def __exit__(self, *error: object) -> None:
        self.warnings.__exit__(None, None, None)
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
