"""What a comparison tells while it works."""

from typing import Protocol


class Progress(Protocol):
    """What a comparison tells while it works."""

    def plan(self, runs: int) -> None:
        """So many trainings are now known to be needed."""

    def start(self, title: str, epochs: int) -> None:
        """A training starts."""

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch of it ended."""

    def end(self, title: str, outcome: str) -> None:
        """It ended, or was found finished."""


class Silent:
    """Progress for nobody."""

    def plan(self, runs: int) -> None: ...
    def start(self, title: str, epochs: int) -> None: ...
    def epoch(self, row: dict[str, float]) -> None: ...
    def end(self, title: str, outcome: str) -> None: ...
