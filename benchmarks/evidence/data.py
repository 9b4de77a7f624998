"""Data sets of known make, by name and seed: rows to train on and rows held out, as numpy arrays."""

import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from evidence import frozen
from steelyard.data import exponential, load_dataset, subsample

OVERLAPS, CLOUDS, SEPARABLE = "six classes", ("50 classes", "200 classes"), "separable"
DIGITS, TEXT, BINARY, FRAUD = "digits", "text", "binary 1:20", "binary 1:500"
FROZEN_IMAGES, FROZEN_SENTENCES = "frozen EfficientNet", "frozen MiniLM"


class Data(NamedTuple):
    """Features (N, D) or images (N, 1, 8, 8), dense or a sparse matrix, and labels, twice."""

    x: object
    y: np.ndarray
    held_x: object
    held_y: np.ndarray


@lru_cache(4)
def make_data(name: str, seed: int, tables: Path | None = None) -> Data:
    """Return a data set; the held-out rows are about half as many as the others."""
    rng = np.random.default_rng([seed, 1])
    if name == OVERLAPS:
        means = 2.6 * np.eye(6, 8)
        means[1] = means[0] + 1.3 * np.eye(8)[6]
        means[4] = means[3] + 1.3 * np.eye(8)[7]
        return _clouds(means, _sizes(6, 600, 20, rng), rng)
    if name == SEPARABLE:
        return _clouds(9 * np.eye(5, 8), _sizes(5, 300, 20, rng), rng)
    if name in CLOUDS:
        classes, largest = {"50 classes": (50, 250), "200 classes": (200, 100)}[name]
        means = rng.normal(size=(classes, 20)) * 1.1
        return _clouds(means, _sizes(classes, largest, 50, rng), rng)
    if name == DIGITS:
        return _digits(seed)
    if name == TEXT:
        return _text(rng)
    if name == FROZEN_IMAGES:
        digits = _digits(seed)
        scaler = StandardScaler().fit(x := frozen.image_features(digits.x))
        held = scaler.transform(frozen.image_features(digits.held_x))
        return digits._replace(x=scaler.transform(x), held_x=held)
    if name == FROZEN_SENTENCES:
        return _sentences(rng)
    if name in (BINARY, FRAUD):
        rows, share = {BINARY: (3000, 1 / 21), FRAUD: (20000, 1 / 501)}[name]
        x, y = make_classification(
            rows * 3 // 2, 20, n_informative=6, n_redundant=4, weights=[1 - share], flip_y=0, class_sep=0.8,
            random_state=seed,
        )  # fmt: skip
        return Data(x[:rows], y[:rows], x[rows:], y[rows:])
    assert tables is not None
    return _table(tables / name, rng)


def _sizes(classes: int, largest: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Return exponential class sizes in random order: classes of real data are not sorted by size."""
    sizes = np.round(largest * ratio ** (-np.arange(classes) / (classes - 1))).astype(int)
    return rng.permutation(sizes)


def _clouds(means: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> Data:
    parts = []
    for counts in (sizes, np.maximum(1, sizes // 2)):
        y = rng.permutation(np.repeat(np.arange(len(means)), counts))
        parts += [means[y] + rng.normal(size=(len(y), means.shape[1])), y]
    return Data(*parts)


def _digits(seed: int) -> Data:
    data = load_dataset("digits")
    chosen = subsample(data.train_target, exponential(20), seed=seed)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))  # not sorted by size
    held = torch.arange(len(data.test_target))
    return Data(
        data.inputs("train", chosen).numpy(),
        order[data.train_target[chosen]].numpy(),
        data.inputs("test", held).numpy(),
        order[data.test_target].numpy(),
    )


def _text(rng: np.random.Generator) -> Data:
    """Documents of 10 to 40 words, drawn from a distribution of each class over 800 words."""
    words = np.array([f"word{i}" for i in range(800)])
    common = 1 / (np.arange(800) + 5.0)
    shares = common * np.exp(0.9 * rng.normal(size=(5, 800)))
    shares /= shares.sum(1, keepdims=True)
    sizes = _sizes(5, 700, 20, rng)
    parts = []
    for counts in (sizes, sizes // 2):
        y = rng.permutation(np.repeat(np.arange(5), counts))
        parts += [[" ".join(rng.choice(words, rng.integers(10, 41), p=shares[k])) for k in y], y]
    vectors = TfidfVectorizer().fit(parts[0])
    return Data(vectors.transform(parts[0]), parts[1], vectors.transform(parts[2]), parts[3])


def _sentences(rng: np.random.Generator) -> Data:
    sizes = _sizes(frozen.TOPICS, 300, 20, rng)
    parts = []
    for counts in (sizes, sizes // 2):
        y = rng.permutation(np.repeat(np.arange(len(sizes)), counts))
        parts += [frozen.sentence_features(frozen.write_sentences(y, rng)), y]
    return Data(*parts)


def _table(path: Path, rng: np.random.Generator) -> Data:
    """Read a CSV file with a header, numbers, and the label in the last column; a third is held out."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    x = np.array([[float(cell or "nan") for cell in row[:-1]] for row in rows])
    x = np.nan_to_num((x - np.nanmean(x, 0)) / np.maximum(np.nanstd(x, 0), 1e-9))
    _, y = np.unique([row[-1] for row in rows], return_inverse=True)
    order = rng.permutation(len(y))
    held, kept = order[: len(y) // 3], order[len(y) // 3 :]
    return Data(x[kept], y[kept], x[held], y[held])
