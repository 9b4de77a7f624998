"""Audit a file of predictions: read it as a stream, weigh it, write what was found."""

import csv
import datetime
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steelyard
from steelyard._common.files import write_atomically, write_json
from steelyard.auditing import AuditReport, Evidence, audit_evidence
from steelyard.auditing.gather import Values
from steelyard.data import Predictions, open_predictions
from steelyard.notation import parse_loss, parse_weights
from steelyard.report import class_rows, write_audit_page
from steelyard.report.results import Audit


def audit_file(
    path: Path,
    *,
    link: str | None = None,
    weights: str | None = None,
    pos_weights: str | None = None,
    sampler: str | None = None,
    corrected: str | None = None,
    beta: float | None = None,
    detach_weights: bool = False,
    batch_size: int | None = None,
    class_counts: str | None = None,
    class_names: Sequence[str] | None = None,
    target: str | None = None,
    values: Values = "logits",
    drop_invalid: bool = False,
    tolerance: float = 1e-9,
    out: Path | None = None,
    command: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[AuditReport, dict[str, Any]]:
    """Audit the predictions of a model on its training samples; the samples are never all in memory.

    Args:
        path: file of logits (or probabilities) and labels; see :func:`steelyard.data.open_predictions`.
        link: ``"softmax"`` or ``"logistic"``. Default: what the file says.
        weights, pos_weights, sampler: weights per class as :func:`parse_weights` takes them; schemes are made from
            the class counts. Default: what the file says of its loss, else none.
        corrected: weights that were taken out of the logits after training, alike.
        beta, detach_weights, batch_size: of LGL-INR. Default: what the file says of its loss.
        class_counts: K comma-separated training counts. Default: those of the file's labels.
        class_names: K. Default: what the file says.
        target: name of the label column, or for .npy the file of labels.
        values: ``"logits"`` or ``"probabilities"``.
        drop_invalid, tolerance: as in :func:`steelyard.auditing.audit`.
        out: folder to write audit.json, classes.csv, mean_confusion.npz and report.html to; new or empty.
        command: the command line to show in the report.
        say: told what was taken from the file.

    Returns:
        The report, and what audit.json holds.

    Raises:
        FileExistsError: the folder holds something already.
        ValueError, TypeError, FileNotFoundError: a file or an argument that cannot be meant.
    """
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} holds something already; name another folder")
    opened = _open(path, target, values, class_names)
    stated = opened.link if link is None else link
    if stated is None:
        raise ValueError(f"link must be given: {path} does not say whether its logits are softmax or logistic")
    if opened.link is not None and opened.link != stated:
        say(f"{path} says that its link is {opened.link}; audited as {stated}, as asked")
    spec = None if opened.loss is None or opened.link != stated else parse_loss(opened.loss)
    if spec is not None and weights is None and spec.scheme is not None and spec.name != "lgl-inr":
        weights = spec.weights_text
        say(f"class weights {weights}, from the loss that the file names: {spec.label}")
    if spec is not None and spec.name == "lgl-inr" and beta is None:
        beta, detach_weights = spec.beta(opened.num_classes), spec.constant_weights
        batch_size = opened.batch_size if batch_size is None else batch_size
        batches = "" if batch_size is None else f" in batches of {batch_size}"
        say(f"LGL-INR of beta {beta:g}{batches}, from the loss that the file names: {spec.label}")

    adjustment = torch.zeros(opened.num_classes)
    if spec is not None and (spec.tau or spec.presence) and opened.logit_adjustment is not None:
        adjustment = torch.tensor(opened.logit_adjustment, dtype=torch.float64)
        if stated == "softmax":  # which a constant does not change; the test for another link takes it out
            adjustment -= adjustment.mean()
        say(f"logits with the adjustment that training added: {spec.label}")

    evidence = Evidence(opened.num_classes, link=stated, values=values, drop_invalid=drop_invalid)  # type: ignore[arg-type]
    for numbers, labels in opened.batches():
        evidence.update(numbers + adjustment, labels)
    evidence.check()
    names = opened.class_names
    counts = evidence.metric.class_counts.double()
    if class_counts is not None:
        given = parse_weights(class_counts, counts, names, option="counts")
        counts = counts if given is None else given
    made = {
        option: None if text is None else parse_weights(text, counts, names, option=option)
        for option, text in (
            ("weights", weights), ("pos-weights", pos_weights), ("sampler", sampler), ("corrected", corrected)
        )
    }  # fmt: skip
    removed = made["corrected"]
    report = audit_evidence(
        evidence,
        class_weights=made["weights"],
        pos_weight=made["pos-weights"],
        sampler_weights=made["sampler"],
        logit_shift=None if removed is None else -removed.log(),
        beta=beta,
        detach_weights=detach_weights,
        batch_size=batch_size,
        class_counts=None if class_counts is None else counts,
        class_names=names,
        tolerance=tolerance,
    )
    found = {
        "schema": 1,
        "name": path.name,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": steelyard.__version__,
        "command": command,
    } | report.to_dict()
    if out is not None:
        _write(out, found, report)
    return report, found


def _open(path: Path, target: str | None, values: Values, class_names: Sequence[str] | None) -> Predictions:
    """The file, whose numbers may be called logits even where they are said to be probabilities."""
    try:
        return open_predictions(path, target=target, values=values, class_names=class_names)
    except ValueError:
        if values == "logits":
            raise
        return open_predictions(path, target=target, values="logits", class_names=class_names)


def _write(out: Path, found: dict[str, Any], report: AuditReport) -> None:
    P, ledger = report.mean_confusion.numpy(), report.ledger.numpy()
    write_atomically(out / "mean_confusion.npz", lambda file: np.savez(file, mean_confusion=P, ledger=ledger))
    table = _csv(Audit.from_dict(found, "audit.json"))
    write_atomically(out / "classes.csv", lambda file: file.write(table.encode()))
    write_json(out / "audit.json", found)
    write_audit_page(out)


def _csv(found: Audit) -> str:
    text = io.StringIO()
    rows = [asdict(row) for row in sorted(class_rows(found), key=lambda row: row.index)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *list(rows[0])[1:]])
    writer.writerows([_inert(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _inert(value: object) -> object:
    """A name that a spreadsheet would take for a formula is not one."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
