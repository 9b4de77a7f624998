"""Data by name: rows to train on, rows to find a power and a temperature on, and rows to judge on."""

import ast
import csv
import sysconfig
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold, train_test_split

from prior_calibration import rows_of, thinned
from steelyard.data import Dataset, load_dataset

NORMAL = {"normal": 4000, "normal, many rows": 40_000}
SIMULATED = ("binary", "five classes", *NORMAL)
BUILT_IN = (*SIMULATED, "hastie", "digits", "cancer", "docstrings")
FOLDS, LEAST, MOST, SIMULATED_ROWS, LARGEST = 4, 20, 4000, 4000, 800
PACKAGES = (
    "asyncio", "concurrent", "email", "http", "idlelib", "importlib", "logging", "multiprocessing", "tkinter",
    "unittest", "xml",
)  # fmt: skip


class Rows(NamedTuple):
    """Inputs and classes: rows to train on, validation rows, and test rows."""

    x: np.ndarray
    y: np.ndarray
    validation_x: np.ndarray
    validation_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Return (K,) training rows of each class."""
        return np.bincount(self.y)


class Source(NamedTuple):
    """Classes of all rows, and a function that makes inputs of rows by what it learns of the training rows."""

    y: np.ndarray
    inputs: Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_rows(name: str, seed: int, files: dict[str, str]) -> Rows:
    """Return the rows of one seed.

    Four seeds share one shuffle of data that are there, and each judges on another quarter, so that no row is
    judged twice; simulated data are drawn for every seed. A quarter of the other rows is for validation.

    Args:
        name: one of BUILT_IN, or a key of files.
        seed: which quarter to judge on, and how the others are split.
        files: paths or names of further data, as ``load_dataset`` takes them.
    """
    block, fold = divmod(seed, FOLDS)
    source = _source(name, seed if name in SIMULATED else block, files.get(name))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=block).split(source.y, source.y)
    rest, test = list(folds)[fold]
    train, validation = train_test_split(rest, test_size=0.25, stratify=source.y[rest], random_state=seed)
    parts = [(source.inputs(train, rows), source.y[rows]) for rows in (train, validation, test)]
    return Rows(*(array for part in parts for array in part))


@lru_cache(4)
def _source(name: str, seed: int, file: str | None) -> Source:
    if file is not None:
        return _loaded(file, seed)
    if name == "docstrings":
        return _plain(*docstrings())
    return _plain(*(normal(NORMAL[name], seed) if name in NORMAL else rows_of(name, seed, SIMULATED_ROWS)))


def normal(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of five normal classes of the same covariance: their posterior is a logistic regression."""
    rng = np.random.default_rng(seed)
    y = rng.choice(5, number, p=(0.55, 0.25, 0.12, 0.05, 0.03))
    return rng.normal(size=(5, 10))[y] + 1.5 * rng.normal(size=(number, 10)), y


def _plain(x: np.ndarray, y: np.ndarray) -> Source:
    return Source(y, lambda train, rows: x[rows])


def _loaded(file: str, seed: int) -> Source:
    """Return a table, its label in the last column, or images, of which later classes are made rarer."""
    table = Path(file).suffix == ".csv"
    data = load_dataset(file, target=_last_column(Path(file))) if table else load_dataset(file)
    y = data.train_target.numpy()
    counts = np.bincount(y)
    if table:
        kept = _shares(np.where(counts >= LEAST * 2, counts, 0))
    else:
        kept = np.minimum(counts, (LARGEST * 0.05 ** np.linspace(0, 1, len(counts))).astype(int))
    rows, classes = thinned(np.arange(len(y)), y, kept.tolist(), seed)
    return Source(np.unique(classes, return_inverse=True)[1], _inputs(data, rows))


def _inputs(data: Dataset, chosen: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def inputs(train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        prepared = data.prepare(torch.from_numpy(chosen[train]))
        return prepared.inputs("train", torch.from_numpy(chosen[rows])).numpy()

    return inputs


def _last_column(path: Path) -> str:
    with path.open(newline="") as file:
        return next(csv.reader(file))[-1]


def _shares(counts: np.ndarray) -> np.ndarray:
    """Return how many rows of each class make MOST in all: of rare classes all of them, of others equal shares."""
    if counts.sum() <= MOST:
        return counts
    rare = counts <= MOST // 20
    share = (MOST - counts[rare].sum()) / counts[~rare].sum()
    return np.where(rare, counts, (counts * share).astype(int))


def docstrings() -> tuple[np.ndarray, np.ndarray]:
    """Return first paragraphs of docstrings of Python's own library, and which package they come from."""
    root, texts, labels = Path(sysconfig.get_paths()["stdlib"]), [], []
    for label, package in enumerate(PACKAGES):
        found = set()
        for path in sorted((root / package).rglob("*.py")):
            if {"test", "tests", "idle_test"} & set(path.relative_to(root).parts):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                    found |= {text} if len(text) >= 30 else set()
        texts += sorted(found)
        labels += [label] * len(found)
    return np.array(texts, dtype=object), np.array(labels)
