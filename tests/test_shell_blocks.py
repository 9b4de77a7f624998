"""Every shell block of the documentation runs, when it is pasted into a fresh folder after those before it."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
BLOCK = re.compile(r"^```(sh|bash|console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Blocks that are not run, by the line that tells them from others.
NOT_RUN = {
    "pip install": "installs",
    "make demo": "installs; .ci/run runs it",
    "make bench": "measures for minutes, in a copy of the repository",
    "python benchmarks/gpu.py": "needs a GPU, in a copy of the repository",
    "steelyard reproduce all": "takes a quarter of an hour, or a GPU; tests/claims runs the claims at a small size",
    "steelyard reproduce leaderboard": "takes 40 minutes; tests/claims runs it at a small size",
}
# Pages whose Python blocks make what the shell blocks read.
WITH_PYTHON = {"docs/your-data.md"}
# Published numbers are of data that no library carries: small data of the same form take their place here.
STAND_INS = {"path/to/fashion_mnist", "path/to/mnist", "path/to/images", "shuttle.csv"}
# Trainings are short here. A command's own options come first, so these win.
SHORT = """#!/bin/sh
case "$*" in
  compare*--learner*) set -- "$@" --seeds 1 ;;
  compare*) set -- "$@" --seeds 1 --epochs 1 --learning-rates 0.1 ;;
  reproduce*exponential*) set -- "$@" --seeds 1 --epochs 1 --workers 1 ;;
  reproduce*) set -- "$@" --seeds 1 --epochs 1 --workers 1 --limit-train 200 ;;
  advise*--learner*) set -- "$@" --rounds 2 --folds 2 ;;
esac
exec {program} "$@"
"""


def blocks_of(page):
    """Return the blocks of a page in their order: what kind they are, their text, and their line."""
    text = PAGES[page].read_text(encoding="utf-8")
    return [(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in BLOCK.finditer(text)]


def reason_of(block):
    """Return why a block is not run, or None."""
    return next((reason for line, reason in NOT_RUN.items() if line in block), None)


def runs(page):
    return [block for block in blocks_of(page) if block[0] != "python" and reason_of(block[1]) is None]


def test_every_reason_has_a_block_and_blocks_are_called_sh():
    blocks = [(page, *block) for page in PAGES for block in blocks_of(page) if block[0] != "python"]
    assert [f"{page}:{line}" for page, kind, _, line in blocks if kind != "sh"] == []
    unused = [line for line in NOT_RUN if not any(line in text for _, _, text, _ in blocks)]
    assert unused == [], "no block has these lines any more"
    for page, _, text, line in blocks:
        parsed = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert parsed.returncode == 0, f"{page}:{line}: {parsed.stderr}"


@pytest.fixture(scope="module")
def program():
    with forked.program() as file:
        yield file


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)])
def test_blocks_run_in_a_fresh_folder(page, program, tmp_path, monkeypatch):
    folder, programs = tmp_path / "fresh", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    (programs / "steelyard").write_text(SHORT.format(program=shlex.quote(str(program))))
    (programs / "steelyard").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    _put_stand_ins(folder, page)
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for kind, text, line in blocks_of(page):
        if kind == "python" and page in WITH_PYTHON:
            example = doctest.DocTestParser().get_doctest(text, names, page, page, line)
            wrong = list[str]()
            doctest.DocTestRunner(verbose=False).run(example, out=wrong.append, clear_globs=False)
            assert wrong == [], "".join(wrong)
            names |= example.globs
        elif kind != "python" and reason_of(text) is None:
            done = subprocess.run(
                ["bash", "-e", "-c", text], env=environment, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, (
                f"{page}:{line} ended with {done.returncode}:\n{text}\n{done.stderr[-2000:]}"
            )


def _put_stand_ins(folder, page):
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    text = PAGES[page].read_text(encoding="utf-8")
    for name in STAND_INS:
        if name.endswith(".csv") and name in text:
            rng = np.random.default_rng(0)
            rows = [(*rng.integers(100, size=9), "1" if k % 9 else str(2 + k % 6)) for k in range(900)]
            lines = [",".join(map(str, row)) for row in [(*(f"A{j}" for j in range(1, 10)), "Class"), *rows]]
            (folder / name).write_text("\n".join(lines) + "\n")
        elif name in text:
            images, labels = load_digits(return_X_y=True)
            for k, (image, label) in enumerate(zip(images, labels, strict=True)):
                place = folder / name / ("test" if k % 5 == 0 else "train") / str(label)
                place.mkdir(parents=True, exist_ok=True)
                grey = np.uint8(image.reshape(8, 8) * 15)
                Image.fromarray(grey).resize((14, 14)).save(place / f"{k}.png")
