"""The entry point: exit codes, and signals."""

import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from steelyard.cli.commands import commands


class _Stopped(BaseException):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit codes are 0, 1 (the run failed), 2 (it was asked for wrongly), and 128 plus
    the number of the signal that stopped it (129, 130 or 143)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign shows another
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # unless nohup asked so
        signal.signal(signal.SIGHUP, _stop)
    given = list(sys.argv[1:] if arguments is None else arguments)
    comparing = given[:1] == ["compare"]
    resume = " with --resume" if comparing else ""
    try:
        commands.main(args=given, standalone_mode=False, obj=shlex.join(["steelyard", *given]))
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (ValueError, TypeError, FileNotFoundError, FileExistsError, ImportError) as error:
        _fail(str(error), 2)
    except (ArithmeticError, ConnectionError) as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename or 'the run folder'}: {error.strerror or error}; finished results are kept", 1)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "JobsFailed":
            _fail(f"{error}; the same command{resume} goes on with the rest", 1)
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        lower = "--batch-size or --image-size" if comparing else "what is done at a time"
        _fail(f"out of memory; lower {lower} (finished results are kept, the same command{resume} goes on)", 1)
    except _Stopped as stopped:
        _fail(f"stopped; the same command{resume} goes on", 128 + stopped.number)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(number)


def _fail(message: str, code: int) -> None:
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    click.echo(f"steelyard: {line}", err=True)
    sys.exit(code)
