"""The entry point: exit codes, signals and warnings. What takes time to import is imported under its handlers."""

import functools
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

# What Python calls by another name than the command line, in sentences that reach both.
_OPTIONS = {
    'values="probabilities"': "--from probabilities",
    "values must be": "--from must be",
    "drop_invalid leaves": "--drop-invalid leaves",
}

_LONGEST = 2000  # characters of a sentence, which may quote what was given


class _Stopped(BaseException):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit codes are 0, 1 (the run failed), 2 (it was asked for wrongly), 3 (an audit found
    what --fail-on names), and 128 plus the number of the signal that stopped it (129, 130 or 143)."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    resume = " with --resume" if given[0] == "compare" else ""
    told = f"stopped; the same command{resume} goes on"
    stop = functools.partial(_stop, told)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # unless nohup asked so
        signal.signal(signal.SIGHUP, stop)
    others = sys.unraisablehook
    sys.unraisablehook = functools.partial(_stop_again, others)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign shows another
    try:
        with warnings.catch_warnings():
            _quiet()
            _run(given, resume)
            _stop_if_asked()
    except _Stopped as stopped:
        _fail(told, 128 + stopped.number)
    finally:
        sys.unraisablehook = others


def _run(given: list[str], resume: str) -> None:
    """Run a command; every error that it foresees is one sentence."""
    try:
        import click

        from steelyard.cli.commands import commands
    except ImportError as error:
        _fail(f"the command needs a package that cannot be imported ({error}): pip install 'steelyard[cli]'", 2)
    try:
        commands.main(
            args=given, prog_name="steelyard", standalone_mode=False, obj=shlex.join(["steelyard", *given])
        )
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (ValueError, TypeError, ImportError) as error:
        message = str(error)
        for argument, option in _OPTIONS.items():
            message = message.replace(argument, option)
        _fail(message, 2)
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        _fail(_told(error), 2)
    except (ArithmeticError, ConnectionError) as error:
        _fail(str(error), 1)
    except OSError as error:
        kept = "; finished results are kept" if given[0] in ("compare", "reproduce") else ""
        _fail(_told(error) + kept, 1)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "JobsFailed":
            _fail(f"{error}; the same command{resume} goes on with the rest", 1)
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        lower = "--batch-size or --image-size" if given[0] == "compare" else "what is done at a time"
        _fail(f"out of memory; lower {lower} (finished results are kept, the same command{resume} goes on)", 1)


def _quiet() -> None:
    """Show our own warnings as one line each and no others, unless Python was told otherwise (-W)."""
    warnings.filterwarnings("default", category=UserWarning, module="steelyard", append=True)
    warnings.simplefilter("ignore", append=True)
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")


def _told(error: OSError) -> str:
    """Return what a system call says, without its number; an error of ours is a sentence already."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def _stop(told: str, number: int, frame: FrameType | None) -> None:
    """Raise _Stopped, but not out of an import: libraries catch what their imports raise, and go on in halves."""
    importing = _importing(frame)
    if importing is None:
        raise _Stopped(number)
    if _module(importing).startswith("steelyard.cli"):  # which holds nothing that has to be put down
        _say(told)
        sys.stdout.flush()
        os._exit(128 + number)
    _stop_at_next_line(importing, number)


def _stop_at_next_line(frame: FrameType, number: int) -> None:
    """Raise _Stopped in a frame as soon as what it is doing, an import, has ended."""

    def stop(_: FrameType, event: str, __: Any) -> Any:
        if event != "exception":
            sys.settrace(None)
            raise _Stopped(number)
        return stop

    frame.f_trace = stop
    sys.settrace(lambda *_: None)  # frames that begin from now on are not traced


def _importer(frame: FrameType | None) -> str | None:
    """Return the name of the module whose import runs, the outermost of several; None where none does."""
    found = _importing(frame)
    return None if found is None else _module(found)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _importing(frame: FrameType | None) -> FrameType | None:
    """Return the frame that imports, the outermost of several; None where none does."""
    found, inside = None, False
    while frame is not None:
        machinery = frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        if inside and not machinery:
            found = frame
        inside, frame = machinery, frame.f_back
    return found


def _stop_again(others: Callable[[Any], object], lost: Any) -> None:
    """Send a signal once more that came while an object was being deleted, where Python drops exceptions."""
    if isinstance(lost.exc_value, _Stopped):
        _send_again(lost.exc_value.number)
    else:
        others(lost)


class _Again(threading.Thread):
    """Sends a signal to this process in a moment."""

    def __init__(self, number: int) -> None:
        super().__init__(daemon=True)
        self.number = number

    def run(self) -> None:
        time.sleep(0.05)
        os.kill(os.getpid(), self.number)


def _send_again(number: int) -> None:
    _Again(number).start()


def _stop_if_asked() -> None:
    """Raise _Stopped where a signal came during an import, and the rest was done before it was sent again."""
    for thread in threading.enumerate():
        if isinstance(thread, _Again):
            signal.signal(thread.number, signal.SIG_IGN)  # it is here already
            raise _Stopped(thread.number)


def _say(message: str) -> None:
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    print(f"steelyard: {line if len(line) <= _LONGEST else line[:_LONGEST] + '...'}", file=sys.stderr)


def _fail(message: str, code: int) -> NoReturn:
    _say(message)
    sys.exit(code)
