"""How far trainings are, on standard error."""

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """Progress on standard error: a live bar on a terminal, a line for each finished training elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.runs = self.bar.add_task("trainings", total=0)
        self.epochs = self.bar.add_task("", total=None, visible=False)

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def data(self, reading: str) -> None:
        if reading:
            click.echo(reading, err=True)

    def plan(self, runs: int) -> None:
        self.bar.update(self.runs, total=(self.bar.tasks[0].total or 0) + runs)

    def start(self, title: str, epochs: int | None) -> None:
        self.bar.reset(self.epochs, description=title, total=epochs, visible=epochs is not None)

    def epoch(self, row: dict[str, float]) -> None:
        self.bar.update(self.epochs, completed=row["epoch"])

    def end(self, title: str, outcome: str) -> None:
        self.bar.advance(self.runs)
        self.bar.update(self.epochs, visible=False)
        if not self.console.is_terminal:
            click.echo(f"{title}: {outcome}", err=True)
