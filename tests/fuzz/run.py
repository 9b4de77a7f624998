"""Run commands on damaged files for some seconds under an audit hook, and print what is against the rules.

A command may succeed, or end with one sentence and exit code 1 or 2. It may not unpickle, evaluate, connect, start
a process, or open a file outside the folder of its case and the installation. Run with: SECONDS SEED [CORPUS].
"""

import contextlib
import faulthandler
import io
import json
import os
import random
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import steelyard
from steelyard.cli import main
from tests.fuzz.cases import Case, damaged, save, text_cases, whole_cases

LONGEST = 30  # seconds of processor time of a case: a busy machine is no fault of a file
ADVICE = ("weights_only", "allow_pickle", "trust_remote_code", "values=")
FORBIDDEN = (
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.Request",
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "ctypes.dlopen",
    "webbrowser.open",
)
WRITING = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "shutil.rmtree",
    "os.truncate",
)
OURS = tuple(
    str(Path(p).resolve())
    for p in (
        sys.prefix,
        sys.base_prefix,
        *sysconfig.get_paths().values(),
        Path(steelyard.__file__).parent,
        "/proc",
        "/sys",
        os.devnull,
    )
)


class Watch:
    """What an audit hook saw of a case; it cannot be taken out again, so it is switched on and off."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    @contextlib.contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        self.folder, self.seen = folder, []
        try:
            yield
        finally:
            self.folder = None

    def hook(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments!r}"[:300])
        elif event == "exec" and not str(getattr(arguments[0], "co_filename", "")).startswith(OURS):
            self.seen.append(f"exec {arguments[0]!r}"[:300])
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            writes = isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            inside = path.startswith(str(self.folder))
            if not inside and (writes or not path.startswith(OURS)):
                self.seen.append(f"open {path!r} {arguments[1]!r}"[:300])
        elif event in WRITING:
            for path in arguments:
                if isinstance(path, str | bytes | os.PathLike) and not os.path.realpath(
                    os.fsdecode(path)
                ).startswith(str(self.folder)):
                    self.seen.append(f"{event} {path!r}"[:300])


class TooLong(BaseException):
    """A case took longer than it may."""


def _too_long(number, frame):
    raise TooLong


def run(case: Case, parent: Path, watch: Watch | None) -> list[str]:
    """Return what is wrong with how a case ended; the first ones, which import what is needed late, are not watched."""
    folder = parent / "case"
    folder.mkdir()
    arguments = save(case, folder)
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    signal.setitimer(signal.ITIMER_PROF, LONGEST if watch else 4 * LONGEST)  # the first ones import
    here = os.getcwd()
    os.chdir(folder)
    wrong = []
    try:
        watched = contextlib.nullcontext() if watch is None else watch.over(folder.resolve())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), watched:
            main(arguments)
    except SystemExit as stopped:
        code = stopped.code or 0
    except TooLong:
        wrong.append(f"it took longer than {LONGEST} seconds")
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        wrong.append(f"{type(error).__name__}: {str(error)[:200]}{where}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.chdir(here)
        wrong += _left(case, folder, code == 0 and not wrong)
        shutil.rmtree(folder)
    told = err.getvalue()
    if watch is None and "--out" in case.arguments and code != 0:
        wrong.append(f"a whole case failed: {told[:300]!r}")
    if code not in (0, 1, 2):
        wrong.append(f"exit code {code!r}")
    faults = [line for line in told.splitlines() if line.startswith("steelyard: ") and "warning: " not in line]
    if code in (1, 2) and (len(faults) != 1 or not told.endswith(faults[0] + "\n")):
        wrong.append(f"no single sentence: {told[:300]!r}")
    if "Traceback" in told or any(word in told for word in ADVICE):
        wrong.append(f"a traceback or advice: {told[:300]!r}")
    if len(told) > 3000:
        wrong.append(f"{len(told)} characters of errors: {told[:200]!r}")
    return wrong if watch is None else wrong + watch.seen


def _left(case: Case, folder: Path, succeeded: bool) -> list[str]:
    """Return what is wrong with the files that a command with an --out left: the output, or nothing."""
    out = [part for before, part in zip(case.arguments, case.arguments[1:], strict=False) if before == "--out"]
    out += [part.partition("=")[2] for part in case.arguments if part.startswith("--out=")]
    if not out:
        return []
    expected = {out[0].removeprefix("{}/")} if succeeded else set()
    found = {file.name for file in folder.iterdir()} - set(case.files)
    return [] if found == expected else [f"left are {sorted(found)} in place of {sorted(expected)}"]


def fuzz(seconds: float, seed: int, corpus: list[Path]) -> dict:
    """Return the number of cases that ran, and the faults by what they say."""
    rng = random.Random(seed)
    whole = whole_cases()
    names = sorted(whole)
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name).resolve()
        os.environ["TMPDIR"] = tempfile.tempdir = str(parent / "case")
        watch = Watch()
        signal.signal(signal.SIGPROF, _too_long)
        faults = {f"whole {key}": wrong for key, case in whole.items() if (wrong := run(case, parent, None))}
        count, end = 0, time.monotonic() + seconds
        kept = iter([one for file in corpus for one in stored(file, whole)])
        while (known := next(kept, None)) is not None or time.monotonic() < end:
            if known is not None:
                key, case = known
            else:
                key = f"seed {seed} case {count}"
                case = text_cases(rng) if rng.random() < 0.25 else damaged(whole[rng.choice(names)], rng)
            if (last := os.environ.get("FUZZ_LAST")) is not None:  # what a crash leaves behind
                keep(case, Path(last))
            if wrong := run(case, parent, watch):
                faults[key] = wrong
                if (where := os.environ.get("FUZZ_KEEP")) is not None:
                    keep(case, Path(where) / f"{len(faults):04d}")
            count += 1
    return {"cases": count, "faults": faults}


def keep(case: Case, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save(case, folder)
    (folder / "arguments.json").write_text(json.dumps(case.arguments))


def stored(file: Path, whole: dict[str, Case]) -> list[tuple[str, Case]]:
    """Return the cases of a file of the corpus, by name: NAME~WHAT is the first file of every whole case that is
    called WHAT, or COMMAND WHAT, damaged; a text is a loss."""
    if file.suffix == ".txt":
        loss = f"--loss={file.read_text(encoding='utf-8')}"
        files = whole["wide.csv"].files
        commands = (("audit", "{}/x.csv", loss), ("correct", "{}/x.csv", loss, "--out={}/out.csv"))
        return [(f"{command[0]} {file.name}", Case(command, files)) for command in commands]
    what, found = file.name.partition("~")[2], []
    for key, case in whole.items():
        if key in (what, f"correct {what}", f"decide {what}"):
            name, *others = case.files
            files = {name: file.read_bytes()} | {other: case.files[other] for other in others}
            found.append((f"{key} {file.name}", Case(case.arguments, files)))
    return found


if __name__ == "__main__":
    import torch  # not above: the watch itself needs none of it

    faulthandler.enable()
    torch.set_num_threads(1)
    seconds, seed, *folders = sys.argv[1:]
    corpus = sorted(file for folder in folders for file in Path(folder).iterdir())
    json.dump(fuzz(float(seconds), int(seed), corpus), sys.stdout, indent=1)
