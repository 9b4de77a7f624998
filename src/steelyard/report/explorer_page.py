"""A page of an explorer alone, from logits in memory."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from steelyard._common.checks import check_names
from steelyard._common.files import write_text
from steelyard.report.explorer import Model, explorer_of, pack_rows
from steelyard.report.html import render_template
from steelyard.report.style import shown


def write_explorer(
    path: str | PathLike[str],
    logits: object,
    target: object,
    *,
    class_names: Sequence[str] | None = None,
    class_counts: Sequence[int] | None = None,
    title: str = "What if we decided otherwise?",
) -> Path:
    """Write a page on which a person tries other weights, priors, costs or thresholds, and return its path.

    Args:
        path: of the new page.
        logits: (N, K) of held-out rows, K at least 2: tensor or array. Decisions by cost are offered too, so for
            labels they must be log-probabilities but for a number in each row, as those of a softmax loss without
            class weights or of :func:`steelyard.log_posterior` are.
        target: (N,) labels, or (N, K) of 0 and 1 for outputs that stand for themselves.
        class_names: K. Default: numbers.
        class_counts: (K,) training samples. Default: those of the target.
        title: of the page.

    Raises:
        ValueError: arguments of another shape or value than described, or more classes than a page has room for.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_explorer(Path(folder) / "page.html", np.eye(3), np.arange(3)).name
        'page.html'
    """
    scores, labels = np.asarray(logits, dtype=np.float64), np.asarray(target)
    if scores.ndim != 2 or scores.shape[1] < 2 or not len(scores):
        raise ValueError(f"logits must have shape (N, K) with K at least 2, got {scores.shape}")
    size = scores.shape[1]
    if labels.shape not in ((len(scores),), scores.shape):
        raise ValueError(f"target must have shape {(len(scores),)} or {scores.shape}, got {labels.shape}")
    several = labels.ndim == 2
    most = 1 if several else size - 1
    if not np.isin(labels, np.arange(most + 1)).all():
        raise ValueError(f"target must hold whole numbers from 0 to {most}")
    whole = labels.astype(np.int64)
    names = [str(k) for k in range(size)] if class_names is None else list(check_names(class_names))
    counts = whole.sum(0) if several else np.bincount(whole, minlength=size)
    given = counts.tolist() if class_counts is None else [int(n) for n in class_counts]
    for what, part in (("class_names", names), ("class_counts", given)):
        if len(part) != size:
            raise ValueError(f"{what} must have {size} entries, one for each class, got {len(part)}")
    rows = pack_rows([Model("model", scores, whole, None if several else [0.0] * size)], size, train_counts=given)
    if rows is None:
        raise ValueError(f"logits of {size} classes are more than a page has room for")
    return write_text(
        Path(path),
        render_template("explorer_page.html.j2", title=shown(title, 80), explorer=explorer_of(rows, names, given)),
    )
