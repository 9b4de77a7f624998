"""What a comparison tells while it works."""

from typing import Protocol


class Progress(Protocol):
    """What a comparison tells while it works."""

    def data(self, reading: str) -> None:
        """Take note of what was found in the data and read as what."""

    def plan(self, runs: int) -> None:
        """Take note that so many trainings are known to be needed."""

    def start(self, title: str, epochs: int | None) -> None:
        """Take note that a training starts."""

    def epoch(self, row: dict[str, float]) -> None:
        """Take note that an epoch of the training ended."""

    def end(self, title: str, outcome: str) -> None:
        """Take note that the training ended, or was found finished."""


class Silent:
    """Progress for nobody."""

    def data(self, reading: str) -> None: ...
    def plan(self, runs: int) -> None: ...
    def start(self, title: str, epochs: int | None) -> None: ...
    def epoch(self, row: dict[str, float]) -> None: ...
    def end(self, title: str, outcome: str) -> None: ...
