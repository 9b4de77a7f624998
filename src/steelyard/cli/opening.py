"""The command that shows a page."""

import webbrowser
from pathlib import Path

import click

from steelyard.cli.layout import Command


@click.command("open", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--print", "only_print", is_flag=True, help="Print the path of the page, and open nothing.")
def open_page(run: Path, only_print: bool) -> None:
    """Show the page of a run in the browser.

    RUN is the folder of a comparison, an audit, a forecast, an advice or a claim, or a folder with an index page.
    The path of the page is printed.
    """
    from steelyard.report import page_in

    page = page_in(run).resolve()
    click.echo(str(page))
    if not only_print and not webbrowser.open(page.as_uri()):
        raise click.ClickException(f"no browser could be started; open {page} in one")
