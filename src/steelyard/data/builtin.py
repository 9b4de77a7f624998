"""Classification tasks of many classes that need no download: made of digits, of Python's own text, or simulated.

Classes are in an order that mixes them, so that a profile of counts over it does not make one kind of class rare.
Tasks of features, not pixels, hold them at 256 levels.
"""

import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Split = tuple[Tensor, Tensor]
"""Images (N, C, H, W) or features (N, D), uint8, and labels (N,)."""

_PER_CLASS, _TEST_PER_CLASS = 200, 30
_MODULES, _SNIPPET, _FEATURES = 150, 200, 128


def digits() -> tuple[tuple[str, ...], Split, Split]:
    """Scikit-learn's 1,797 digits, 8 x 8; a fixed stratified quarter is the test split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    target = torch.from_numpy(bunch.target).long()
    rows = np.arange(len(target))
    train, test = (
        torch.from_numpy(np.sort(part))
        for part in train_test_split(rows, test_size=0.25, stratify=bunch.target, random_state=0)
    )
    return tuple(map(str, range(10))), (images[train], target[train]), (images[test], target[test])


def digits_rotated() -> tuple[tuple[str, ...], Split, Split]:
    """40 classes: digit and quarter turns. A turned 0, 1 or 8 looks much like itself, a turned 6 like a 9."""
    _, train, test = digits()
    order = [divmod(7 * k % 40, 4) for k in range(40)]

    def turned(split: Split) -> Split:
        parts = [(split[0][split[1] == digit].rot90(turns, (2, 3)), k) for k, (digit, turns) in enumerate(order)]
        return torch.cat([part for part, _ in parts]), torch.cat(
            [torch.full((len(part),), k) for part, k in parts]
        )

    return tuple(f"{digit} turned {90 * turns}" for digit, turns in order), turned(train), turned(test)


def digit_pairs() -> tuple[tuple[str, ...], Split, Split]:
    """100 classes: two digits side by side, 8 x 16; training and test pairs are of different digits."""
    _, train, test = digits()
    order = [divmod(37 * k % 100, 10) for k in range(100)]
    generator = torch.Generator().manual_seed(0)

    def pairs(split: Split, per_class: int) -> Split:
        def some(digit: int) -> Tensor:
            rows = (split[1] == digit).nonzero()[:, 0]
            return split[0][rows[torch.randint(len(rows), (per_class,), generator=generator)]]

        images = [torch.cat([some(left), some(right)], 3) for left, right in order]
        return torch.cat(images), torch.arange(100).repeat_interleave(per_class)

    names = tuple(f"{left}{right}" for left, right in order)
    return names, pairs(train, _PER_CLASS), pairs(test, _TEST_PER_CLASS)


def stdlib_text() -> tuple[tuple[str, ...], Split, Split]:
    """150 classes: from which module of Python's standard library do 200 characters come?

    The modules are the largest of the Python that runs this, without tests: which ones, depends on its version.
    Snippets are cut at random, for training from the first three quarters of a file and for the test split from
    the rest. Features are the 128 largest singular directions of hashed character trigrams, at 8 bits.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    files = [f for f in root.rglob("*.py") if not left_out & set(f.relative_to(root).parts)]
    largest = sorted(files, key=lambda f: (-f.stat().st_size, f.as_posix()))[:_MODULES]
    rng = np.random.default_rng(0)
    rng.shuffle(largest)

    def cut(share: slice, per_class: int) -> list[str]:
        snippets = []
        for file in largest:
            text = file.read_text(encoding="utf-8", errors="ignore")
            part = text[int(len(text) * share.start) : int(len(text) * share.stop)]
            starts = rng.integers(0, max(1, len(part) - _SNIPPET), per_class)
            snippets += [part[start : start + _SNIPPET] for start in starts]
        return snippets

    hashed = HashingVectorizer(analyzer="char", ngram_range=(3, 3), n_features=2**13, alternate_sign=False)
    scaled = TfidfTransformer(sublinear_tf=True)
    train = scaled.fit_transform(hashed.transform(cut(slice(0, 0.75), _PER_CLASS)))
    test = scaled.transform(hashed.transform(cut(slice(0.75, 1), _TEST_PER_CLASS)))
    directions = TruncatedSVD(_FEATURES, random_state=0)
    features = torch.from_numpy(directions.fit_transform(train)), torch.from_numpy(directions.transform(test))
    names = tuple(file.relative_to(root).as_posix() for file in largest)
    return names, *_quantized(*features)


def gaussians() -> tuple[tuple[str, ...], Split, Split]:
    """200 classes: Gaussian clouds in 32 dimensions, in 20 groups of ten near ones; simulated, at 8 bits."""
    classes, groups, size = 200, 20, 32
    generator = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(groups, size, generator=generator).repeat(classes // groups, 1)
    centres += 0.55 * torch.randn(classes, size, generator=generator)

    def cloud(per_class: int) -> Tensor:
        noise = torch.randn(classes * per_class, size, generator=generator)
        return centres.repeat_interleave(per_class, 0) + 0.8 * noise

    names = tuple(f"cloud {k} of group {k % groups}" for k in range(classes))
    return names, *_quantized(cloud(_PER_CLASS), cloud(_TEST_PER_CLASS))


def _quantized(train: Tensor, test: Tensor) -> tuple[Split, Split]:
    """Return features as levels of uint8, from the 0.1% to the 99.9% point of each; samples lie class by
    class."""
    low, high = (torch.from_numpy(np.quantile(train.numpy(), q, axis=0)) for q in (0.001, 0.999))

    def split(features: Tensor, per_class: int) -> Split:
        levels = ((features - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
        return levels, torch.arange(len(levels) // per_class).repeat_interleave(per_class)

    return split(train, _PER_CLASS), split(test, _TEST_PER_CLASS)


TASKS: dict[str, Callable[[], tuple[tuple[str, ...], Split, Split]]] = {
    "digits": digits,
    "digits-rotated": digits_rotated,
    "digit-pairs": digit_pairs,
    "stdlib-text": stdlib_text,
    "gaussians": gaussians,
}
