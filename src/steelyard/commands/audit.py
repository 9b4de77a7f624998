"""Audit a file of predictions: read it as a stream, weigh it, save what was found."""

import importlib.util
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from steelyard._common.files import check_folder
from steelyard.auditing import AuditReport, Evidence, audit_evidence
from steelyard.auditing.catalogue import names_of
from steelyard.auditing.gather import Values
from steelyard.auditing.probabilities import are_percents
from steelyard.commands.stated import Stated, given_counts, label_counts, told_counts
from steelyard.data import Predictions, open_predictions

_ROWS, _NUMBERS = 1 << 14, 1 << 23  # at a time, at most


def audit_file(
    path: str | PathLike[str],
    *,
    loss: str | None = None,
    weights: str | None = None,
    pos_weights: str | None = None,
    sampler: str | None = None,
    corrected: str | None = None,
    batch_size: int | None = None,
    class_counts: str | None = None,
    class_names: Sequence[str] | None = None,
    target: str | None = None,
    logits: str | None = None,
    values: Values = "logits",
    drop_invalid: bool = False,
    tolerance: float = 1e-9,
    ignore: Sequence[str] = (),
    out: str | PathLike[str] | None = None,
    command: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> AuditReport:
    """Audit the predictions of a model on its training samples; the samples are never all in memory.

    Args:
        path: file of logits (or probabilities) and labels, or a folder or glob of such; see
            :func:`steelyard.data.open_predictions`. Rows without a label, or with -100, are left out; missing
            numbers count as invalid.
        loss: as :func:`parse_loss` takes it, such as ``softmax``, ``logistic`` for one-vs-all outputs, or
            ``lgl-inr:beta=5``. Default: what the file says, else softmax, or logistic for one output, and
            `say` is told so.
        weights, pos_weights, sampler: weights per class as :func:`parse_weights` takes them; schemes are made from
            the class counts. Default: of `weights` the scheme of the loss, else none. Of one output, and of
            outputs that stand for themselves, `pos_weights` says how many times a positive of each weighs a
            negative, as :func:`parse_pos_weights` takes it.
        corrected: weights that were taken out of the logits after training, in the same form.
        batch_size: of LGL-INR. Default: what the file says of its loss.
        class_counts: K comma-separated training counts. Default: what the file says, else those of its labels.
        class_names: K. Default: what the file says.
        target: name of the label column, or for .npy the file of labels; names or patterns of several, with commas
            between, for outputs that stand for themselves.
        logits: names or patterns of the columns of logits or probabilities, with commas between. Default: by their
            names.
        values: ``"logits"`` or ``"probabilities"``.
        drop_invalid, tolerance: as in :func:`steelyard.auditing.audit`.
        ignore: codes or names of findings that are set aside; see :meth:`AuditReport.without`.
        out: folder to save the report to, with its page; see :meth:`AuditReport.save`.
        command: the command line to show in the report.
        say: told what was taken from the file.

    Returns:
        The report.

    Raises:
        FileExistsError: the folder holds something already.
        ValueError, TypeError, FileNotFoundError: a file that cannot be read, or an option that is refused.
    """
    path = Path(path)
    names_of(ignore)  # refused before anything is read
    out = None if out is None else Path(out)
    if out is not None:
        check_folder(out)
    opened = open_predictions(
        path,
        target=target,
        columns=logits,
        values=values,
        class_names=class_names,
        missing_labels="ignore",
        missing_values="nan",
    )
    _say_split(opened, say)
    say(opened.reading)
    stated = Stated(opened, loss, say)
    texts = {"weights": weights, "pos-weights": pos_weights, "sampler": sampler, "corrected": corrected}
    needed = any(texts.values()) or stated.weights is not None or stated.needs_counts
    samples = _samples(opened, class_counts, needed, stated.guessed)
    counts = samples[1] if opened.multi_hot else samples
    setup = stated.setup(samples, texts, batch_size)
    evidence = Evidence(opened.num_classes, setup, values=values, drop_invalid=drop_invalid)
    if opened.split == "test":
        evidence.notes = ("not_training_rows",)
    if evidence.gigabytes >= 1:
        classes, size = evidence.num_classes, evidence.gigabytes
        say(f"{classes} classes: sums by pairs of them take up to {size:.1f} GB of memory")
    unit = 1.0
    for numbers, labels in opened.batches(max(64, min(_ROWS, _NUMBERS // opened.num_classes))):
        if values == "probabilities" and evidence.rows == 0 and are_percents(numbers):
            unit = 100.0
            say("probabilities are percents, they are divided by 100")
        evidence.update(numbers if unit == 1 else numbers / unit, labels)
    if evidence.probabilities.told is not None and values == "probabilities":
        say(evidence.probabilities.told)
    report = audit_evidence(
        evidence,
        class_counts=None if class_counts is None and told_counts(opened) is None else counts,
        class_names=opened.class_names,
        tolerance=tolerance,
    ).without(*ignore)
    if out is not None:
        report.save(out, name=path.name, command=command, page=_page())
    return report


def _samples(opened: Predictions, given: str | None, needed: bool, guessed: bool) -> Tensor:
    """Return (K,) training samples of each class: as given, else as the file says, else of its labels, which are
    read for them where needed. Of outputs that stand for themselves (2, K): negatives and positives of each."""
    if opened.multi_hot:
        if given is not None:
            raise ValueError("counts must not be given for labels of 0 and 1 for each output, which are counted")
        return label_counts(opened, guessed)
    counts = told_counts(opened) if given is None else given_counts(opened, given)
    if counts is not None:
        return counts
    return label_counts(opened) if needed else torch.ones(max(opened.num_classes, 2), dtype=torch.float64)


def _say_split(opened: Predictions, say: Callable[[str], None]) -> None:
    """Warn of samples that the model was not trained on, of which no law need hold."""
    if opened.split != "test":
        return
    beside = opened.path.with_name(f"train_{opened.path.name}")
    better = f"audit {beside}" if beside.exists() else "audit the training samples"
    say(
        f"WARNING: {opened.path} holds held-out samples, as it says itself; the laws are about the samples of the "
        f"training: {better} to learn what the weights did"
    )


def _page() -> Callable[[Path], object] | None:
    """Return what makes the page, or None where the packages for it are not installed."""
    if importlib.util.find_spec("jinja2") is None or importlib.util.find_spec("matplotlib") is None:
        return None
    from steelyard.report import write_audit_page

    return write_audit_page
