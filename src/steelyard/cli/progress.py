"""How far trainings are and how long they may take, on standard error."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from steelyard.cli.options import is_quiet, tell


class Display:
    """Progress on standard error: a live bar on a terminal, a line for each finished training elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal or is_quiet(),
        )
        self.started = time.monotonic()
        self.trained = 0  # by this command: those of a run that goes on took no time
        self.runs = self.bar.add_task("trainings", total=0, left="")
        self.epochs = self.bar.add_task("", total=None, visible=False, left="")

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def data(self, reading: str) -> None:
        if reading:
            tell(reading)

    def plan(self, runs: int) -> None:
        self.bar.update(self.runs, total=(self.bar.tasks[0].total or 0) + runs)

    def start(self, title: str, epochs: int | None) -> None:
        self.bar.reset(self.epochs, description=title, total=epochs, visible=epochs is not None)

    def epoch(self, row: dict[str, float]) -> None:
        self.bar.update(self.epochs, completed=row["epoch"])

    def end(self, title: str, outcome: str) -> None:
        self.bar.advance(self.runs)
        self.trained += outcome != "was finished"
        left = self.left()
        self.bar.update(self.runs, left=left)
        self.bar.update(self.epochs, visible=False)
        if not self.console.is_terminal:
            tell(f"{title}: {outcome}" + (f"; {left}" if left else ""))

    def left(self) -> str:
        """Return how many trainings are to come, and how long they take if they are as long as those before."""
        runs = self.bar.tasks[0]
        more = int(runs.total or 0) - int(runs.completed)
        if more <= 0 or self.trained == 0:
            return ""
        seconds = (time.monotonic() - self.started) / self.trained * more
        return f"{more} to come, about {_duration(seconds)}"


def _duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
