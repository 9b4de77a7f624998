"""Damaged and hostile files: a result, or one sentence; nothing executed, fetched or read elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def _run(*arguments, code=None, timeout=300):
    command = ["-m", "tests.fuzz.run", *map(str, arguments)] if code is None else ["-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=timeout
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def _check(found, least):
    told = [f"{case}: {fault}" for case, faults in found["faults"].items() for fault in faults]
    assert not told, f"{len(told)} of {found['cases']} cases, such as {told[0]}"
    assert found["cases"] >= least


@pytest.mark.slow
def test_the_corpus_and_some_seconds_of_mutation():
    corpus = list((HERE / "corpus").iterdir())
    assert sum(file.stat().st_size for file in corpus) < 100_000
    _check(_run(20, 1, HERE / "corpus"), len(corpus))


def test_the_watch_sees_what_it_is_there_for(tmp_path):
    """Without this the other tests could pass by seeing nothing."""
    (tmp_path / "secret").write_text("x")
    code = f"""
import json, os, pickle, socket, subprocess
from tests.fuzz.run import Watch

def connect():
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))

deeds = {{
    "open": lambda: open({str(tmp_path / "secret")!r}),
    "write": lambda: open({str(tmp_path / "new")!r}, "w"),
    "exec": lambda: exec("1"),
    "eval": lambda: eval("1 + 1"),
    "pickle": lambda: pickle.loads(b"cos\\nsystem\\n."),
    "connect": connect,
    "start": lambda: subprocess.run(["true"]),
    "remove": lambda: os.remove({str(tmp_path / "nothing")!r}),
}}
watch, seen = Watch(), {{}}
os.mkdir({str(tmp_path / "case")!r})
for name, deed in deeds.items():
    with watch.over({str(tmp_path / "case")!r}):
        try:
            deed()
        except OSError:
            pass
    seen[name] = watch.seen
with watch.over({str(tmp_path / "case")!r}):
    open({str(tmp_path / "case" / "own")!r}, "w").close()
seen["own"] = watch.seen
print(json.dumps(seen))
"""
    seen = _run(code=code)
    assert seen.pop("own") == []
    assert [name for name, found in seen.items() if not found] == []
