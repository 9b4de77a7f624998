"""Faults on purpose: a run that is killed, stopped, short of disk or damaged ends right, or says what to do.

``python -m tests.chaos`` tries them on `compare`, the grid of `reproduce`, `audit` and `forecast`, prints a table, and
exits with 1 if anything was wrong. Every command runs in a process of its own, forked from one that has imported what
it needs: from there on it is what a user runs. Kills come at random moments and at random new files.
"""

import argparse
import contextlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.forked import import_all, run
from tests.helpers import gone

LONGEST = 120.0  # seconds that any command may take
DATA = Path("data")
TRAIN = "--epochs 1 --dataset digits"
OUT = {
    "compare": ("run", "results.json"),
    "grid": ("claims/c3", "claim.json"),
    "audit": ("audited", "audit.json"),
    "forecast": ("forecast", "forecast.json"),
}
COMMANDS = {
    "compare": f"compare {TRAIN} --losses softmax,lgl-inr --seeds 2 --learning-rates 0.05 --out run --resume",
    "grid": f"reproduce c3 {TRAIN} --losses softmax,lgl-inr --seeds 2 --limit-train 200 --out claims --workers 1",
    "audit": "audit DATA/train_predictions.parquet --loss softmax --out audited",
    "forecast": "forecast DATA/train_features.parquet --weights none,inverse --out forecast",
}
TRACKER = r"^.*resource_tracker\.py:\d+: UserWarning: .*\n +warnings\.warn\(\n"
NOT_NUMBERS = {"steps", "seconds", "finished", "name", "environment", "command", "files", "version"}


class Wrong(Exception):
    """Something came out that must not."""


@dataclass
class Process:
    """A command that runs in a session of its own."""

    pid: int
    log: Path

    def wait(self):
        """Return the exit code, negative for a signal, when no process of its session is left."""
        until = time.monotonic() + LONGEST
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Wrong(f"it did not end within {LONGEST:g} s")
            time.sleep(0.005)
        if not gone(self.pid):
            os.killpg(self.pid, signal.SIGKILL)
            raise Wrong("it left processes behind")
        return os.waitstatus_to_exitcode(ended[1])

    def running(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def sentence(self):
        """Return the one sentence that it said of what was wrong."""
        # These processes end by os._exit, so what joblib would have cleaned up its tracker does, and tells.
        text = re.sub(TRACKER, "", self.log.read_text(errors="replace"), flags=re.MULTILINE)
        lines = [line for line in text.splitlines() if line.startswith("steelyard: ")]
        if "Traceback" in text or len(lines) != 1 or not text.rstrip().endswith(lines[0]):
            raise Wrong(f"no one sentence: {text[-300:]!r}")
        return lines[0].removeprefix("steelyard: ")


def start(folder, arguments, limit=None):
    """Start a command in a folder, with no file larger than `limit` bytes."""
    log = folder / f"{time.monotonic_ns()}.log"
    pid = os.fork()
    if pid:
        return Process(pid, log)
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        run(arguments)
    finally:
        os._exit(70)


@dataclass
class Chaos:
    """The trials, where they are done, and what came of them."""

    root: Path
    rng: random.Random
    until: float
    whole: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    table: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)
    number: int = 0

    @contextlib.contextmanager
    def trial(self, fault, name):
        """Give a folder of its own to what is tried, and note what came of it; none when the time is over."""
        if time.monotonic() > self.until:
            self.table[fault, name, "not tried: no time was left"] += 1
            yield None
            return
        self.number += 1
        folder = self.root / f"trial-{self.number}"
        folder.mkdir()
        try:
            yield folder
        except Wrong as error:
            self.table[fault, name, "WRONG"] += 1
            self.wrong.append(f"{fault}, {name}, trial {self.number}: {error}")
            return
        shutil.rmtree(folder)

    def came(self, fault, name, outcome):
        self.table[fault, name, outcome] += 1

    def start(self, folder, name, *more, limit=None):
        words = COMMANDS[name].replace("DATA", str(self.root / DATA)).split()
        return start(folder, [*words, *more], limit)

    def measure(self):
        """Run each command undisturbed."""
        for name, (out, _) in OUT.items():
            folder = self.root / f"whole-{name}"
            folder.mkdir()
            began = time.monotonic()
            process = self.start(folder, name)
            if process.wait() != 0:
                raise SystemExit(f"{name} fails undisturbed: {process.log.read_text()}")
            self.seconds[name] = time.monotonic() - began
            self.whole[name] = numbers(folder, name)
            self.files[name] = len(list((folder / out).rglob("*")))
            if name == "compare":
                shutil.copytree(folder / "run" / "softmax" / "seed-0", self.root / DATA)

    def complete(self, folder, name, before):
        """Run a command to its end: the numbers are those of an undisturbed run, and nothing finished was lost."""
        process = self.start(folder, name)
        code = process.wait()
        if code == 2 and "holds something already" in process.log.read_text():
            process.sentence()
            if (folder / OUT[name][0] / ".unfinished").exists():
                raise Wrong("an unfinished folder is refused")
        elif code != 0:
            raise Wrong(f"it does not go on, exit code {code}: {process.log.read_text()[-300:]!r}")
        if not same(numbers(folder, name), self.whole[name]):
            raise Wrong("the numbers are not those of an undisturbed run")
        if not (folder / OUT[name][0] / "report.html").exists():
            raise Wrong("there is no page")
        if left := [str(p) for p in (folder / OUT[name][0]).rglob("*.tmp")]:
            raise Wrong(f"half files are left: {left}")
        unchanged(folder, before)

    def at_a_moment(self, folder, name, process):
        """Wait for a random moment of a run, or for a random number of files."""
        until = time.monotonic() + self.seconds[name] * self.rng.uniform(0, 1.1)
        files = self.rng.randint(1, self.files[name]) if self.rng.random() < 0.5 else None
        out = folder / OUT[name][0]
        while process.running():
            if files is None and time.monotonic() > until:
                return
            with contextlib.suppress(FileNotFoundError):  # what is renamed while it is listed
                if files is not None and sum(1 for _ in out.rglob("*")) >= files:
                    return
            time.sleep(0.001)

    # The faults ------------------------------------------------------------------------------------------

    def kill(self, name, times):
        """Kill a run again and again, then let it end; return how many kills met it alive."""
        met = 0
        with self.trial("kill -9", name) as folder:
            if folder is None:
                return times
            before = {}
            for _ in range(times):
                process = self.start(folder, name)
                self.at_a_moment(folder, name, process)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                met += process.wait() == -signal.SIGKILL
                unchanged(folder, before)
                before = records(folder)
            self.complete(folder, name, before)
            self.table["kill -9", name, "went on to the same numbers"] += met
        return met

    def stop(self, name, number, *more):
        fault = signal.Signals(number).name
        with self.trial(fault, name) as folder:
            if folder is None:
                return
            process = self.start(folder, name, *more)
            self.at_a_moment(folder, name, process)
            os.kill(process.pid, number)
            code = process.wait()
            begun = (folder / OUT[name][0]).exists()  # before it had begun, a signal is none of its business
            if code not in (0, 128 + number) and (begun or code != -number):
                raise Wrong(f"exit code {code}: {process.log.read_text()[-300:]!r}")
            if code > 0 and not process.sentence().startswith("stopped; the same command"):
                raise Wrong(f"it said {process.sentence()!r}")
            self.complete(folder, name, records(folder))
            self.came(fault, name, "went on to the same numbers")

    def fill(self, name):
        """Let the disk fill up: a small file system where one can be mounted, else a limit to each file."""
        whole = self.root / f"whole-{name}" / OUT[name][0]
        sizes = [p.stat().st_size for p in whole.rglob("*") if p.is_file()]
        with self.trial("disk full", name) as folder, contextlib.ExitStack() as stack:
            if folder is None:
                return
            share = self.rng.uniform(0.02, 0.9)
            limit, place = None, (folder / OUT[name][0]).parent
            place = place if place != folder else folder / OUT[name][0]
            place.mkdir()
            if mounted(stack, place, int(share * sum(sizes))):
                kind = "small tmpfs"
            else:
                kind, limit = "limit of a file's size", max(1, int(share * max(sizes)))
            process = self.start(folder, name, limit=limit)
            code, before = process.wait(), records(folder)
            if code == 0:
                raise Wrong("it ended as if there were room")
            said = process.sentence()
            if code != 1 or not ("No space left" in said or "File too large" in said):
                raise Wrong(f"exit code {code}: {said!r}")
            if limit is None:
                subprocess.run(["mount", "-o", "remount,size=1g", place], check=True)
            self.complete(folder, name, before)
            self.came("disk full", name, f"one sentence, then the same numbers ({kind})")

    def read_only(self, name):
        with self.trial("read-only", name) as folder, contextlib.ExitStack() as stack:
            if folder is None:
                return
            place = folder / OUT[name][0]
            place.mkdir(parents=True)
            if mounted(stack, place, 2**30):
                subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            elif os.geteuid() == 0:
                self.came("read-only", name, "not tried: root, and nothing can be mounted")
                return
            else:
                place.chmod(0o555)
            process = self.start(folder, name)
            code, said = process.wait(), process.sentence()
            if code != 1 or not ("Read-only" in said or "Permission denied" in said):
                raise Wrong(f"exit code {code}: {said!r}")
            if os.path.ismount(place):
                subprocess.run(["mount", "-o", "remount,rw", place], check=True)
            else:
                place.chmod(0o755)
            self.complete(folder, name, {})
            self.came("read-only", name, "one sentence, then the same numbers")

    def twice(self, name):
        with self.trial("two processes", name) as folder:
            if folder is None:
                return
            pair = [self.start(folder, name) for _ in range(2)]
            codes = [process.wait() for process in pair]
            if sorted(codes) not in ([0, 0], [0, 2]):
                raise Wrong(f"exit codes {codes}")
            for process in (p for p, code in zip(pair, codes, strict=True) if code):
                said = process.sentence()
                if "in use by another process" not in said and "holds something already" not in said:
                    raise Wrong(f"it said {said!r}")
            self.complete(folder, name, records(folder))
            self.came("two processes", name, "one did it, the other said so or found it done")

    def damage(self, name):
        """Cut off, empty, change or replace a file; where a sentence says what to remove, do as it says."""
        with self.trial("damaged file", name) as folder:
            if folder is None:
                return
            out = folder / OUT[name][0]
            shutil.copytree(self.root / f"whole-{name}", folder, dirs_exist_ok=True)
            kept = (
                "report.html",
                ".lock",
                "results.csv",
                "rows.csv",
                "classes.csv",
                "forecast.csv",
            )  # are not read
            file = self.rng.choice([p for p in sorted(out.rglob("*")) if p.is_file() and p.name not in kept])
            whole = file.read_bytes()
            kind = self.rng.choice(["cut off", "empty", "a bit", "a text"])
            at = self.rng.randrange(len(whole))
            file.write_bytes({
                "cut off": whole[:at],
                "empty": b"",
                "a bit": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
                "a text": b"not what was here",
            }[kind])  # fmt: skip
            arguments = ["report", str(out)] if name in ("audit", "forecast") else COMMANDS[name].split()
            process = start(folder, arguments)
            what = f"{kind} of {file.relative_to(out)}"
            if (code := process.wait()) != 0:
                said = process.sentence()
                named = str(file.relative_to(folder)) in said or str(OUT[name][0]) in said
                if code != 2 or not named:
                    raise Wrong(f"{what}: exit code {code}: {said!r}")
                remedied(folder, out, file, whole, said)
                self.complete(folder, name, {})
                self.came("damaged file", name, "one sentence, then the same numbers")
            elif file.suffix != ".json" and not same(numbers(folder, name), self.whole[name]):
                raise Wrong(f"{what}: it was read as whole")
            else:
                self.came("damaged file", name, "harmless: read as it is, or not read")


def remedied(folder, out, file, whole, said):
    """Do as a sentence says: remove what it names, or bring back what was there."""
    if "; remove " not in said:
        file.write_bytes(whole)
        return
    for word in said.split("; remove ")[1].split():
        path = Path(folder, word)
        if word.startswith(("/", str(out.relative_to(folder)))) and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if "remove the file" in said or "remove it" in said:
        file.unlink(missing_ok=True)


def mounted(stack, place, size):
    """Mount a small file system, if that is allowed, until the stack ends."""
    options = f"size={max(4096, size)}"
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True)
    if tried.returncode == 0:
        stack.callback(subprocess.run, ["umount", "-l", place], check=False)
    return tried.returncode == 0


def numbers(folder, name):
    """Return what the results hold but times, names and machines."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items() if key not in NOT_NUMBERS}
        return [plain(v) for v in value] if isinstance(value, list) else value

    out, file = OUT[name]
    return plain(json.loads((folder / out / file).read_text()))


def same(found, whole):
    """Return whether results are the same: exactly, but for the last digits of a search such as a forecast's, which
    the place of its arrays in memory moves."""
    if isinstance(whole, dict):
        return (
            isinstance(found, dict)
            and found.keys() == whole.keys()
            and all(same(found[k], whole[k]) for k in whole)
        )
    if isinstance(whole, list):
        return isinstance(found, list) and len(found) == len(whole) and all(map(same, found, whole))
    if isinstance(whole, float) and isinstance(found, float):
        return math.isclose(found, whole, rel_tol=1e-6, abs_tol=1e-8)
    return found == whole


def records(folder):
    """Return the records of finished trainings and jobs, and of the whole."""
    files = [*folder.rglob("result.json"), *folder.rglob("jobs/*.json")]
    return {file.relative_to(folder): file.read_bytes() for file in files}


def unchanged(folder, before):
    for name, text in before.items():
        if not (folder / name).exists() or (folder / name).read_bytes() != text:
            raise Wrong(f"{name} was finished and was lost")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how many kills must meet a run alive")
    parser.add_argument(
        "--rounds", type=int, default=4, help="how often each other fault is tried on each command"
    )
    parser.add_argument("--minutes", type=float, default=15, help="after which nothing more is tried")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    began = time.monotonic()
    import_all()
    with tempfile.TemporaryDirectory() as root:
        chaos = Chaos(Path(root), random.Random(given.seed), began + 60 * given.minutes)
        chaos.measure()
        names = list(OUT)
        met = 0
        for k in range(given.rounds):
            for name in names:
                number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[(k + names.index(name)) % 3]
                together = name == "grid" or (name == "compare" and k % 2)
                chaos.stop(name, number, *(("--workers", "2") if together else ()))
                for fault in (chaos.fill, chaos.damage, chaos.damage):
                    fault(name)
                if k == 0:
                    chaos.read_only(name)
                    chaos.twice(name)
            while met < given.kills * (k + 1) / given.rounds and time.monotonic() < chaos.until:
                met += sum(chaos.kill(name, 3) for name in names)
        if time.monotonic() > chaos.until:
            chaos.wrong.append(f"the time was over after {met} of {given.kills} kills and {k + 1} rounds")
    for (fault, name, outcome), times in sorted(chaos.table.items()):
        print(f"{fault:14s} {name:9s} {times:4d}  {outcome}")
    print(f"{met} kills met a run alive; {time.monotonic() - began:.0f} s, seed {given.seed}")
    for line in chaos.wrong:
        print(f"WRONG {line}")
    sys.exit(1 if chaos.wrong else 0)


if __name__ == "__main__":
    main()
