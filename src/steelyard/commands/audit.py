"""Audit a file of predictions: read it as a stream, weigh it, save what was found."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from steelyard._common.files import check_folder
from steelyard.auditing import AuditReport, Evidence, audit_evidence
from steelyard.auditing.catalogue import names_of
from steelyard.auditing.gather import Values
from steelyard.auditing.probabilities import are_percents
from steelyard.balance import TrainingSetup
from steelyard.data import Predictions, open_predictions
from steelyard.losses.presets import PRESETS
from steelyard.notation import LossSpec, parse_loss, parse_pos_weights, parse_weights

_NUMBERS = 1 << 24  # at a time


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
    stated = _Stated(opened, loss, say)
    texts = {
        "weights": stated.weights if weights is None else weights,
        "pos-weights": pos_weights,
        "sampler": sampler,
        "corrected": corrected,
    }
    if weights is None and texts["weights"] is not None and stated.from_file:
        say(f"class weights {texts['weights']}, from the loss that the file names: {stated.spec.label}")
    names = opened.class_names
    samples = _samples(opened, class_counts, any(texts.values()) or stated.needs_counts, stated.guessed)
    counts = samples[1] if opened.multi_hot else samples
    made = {
        option: None if text is None else parse_weights(text, counts, names, option=option)
        for option, text in texts.items()
        if option != "pos-weights" or (text is not None and not stated.binary)
    }
    if pos_weights is not None and stated.binary:
        pairs, last = (
            (samples.T, names) if opened.multi_hot else (samples[None], None if names is None else names[1:])
        )
        made["pos-weights"] = parse_pos_weights(pos_weights, pairs, last)
    setup = stated.setup(counts, made, batch_size)
    evidence = Evidence(opened.num_classes, setup, values=values, drop_invalid=drop_invalid)
    if opened.split == "test":
        evidence.notes = ("not_training_rows",)
    if evidence.gigabytes >= 1:
        classes, size = evidence.num_classes, evidence.gigabytes
        say(f"{classes} classes: sums by pairs of them take up to {size:.1f} GB of memory")
    unit = 1.0
    for numbers, labels in opened.batches(max(64, min(8192, _NUMBERS // opened.num_classes))):
        if values == "probabilities" and evidence.rows == 0 and are_percents(numbers):
            unit = 100.0
            say("probabilities are percents, they are divided by 100")
        evidence.update(numbers if unit == 1 else numbers / unit, labels)
    if evidence.probabilities.told is not None and values == "probabilities":
        say(evidence.probabilities.told)
    report = audit_evidence(
        evidence,
        class_counts=None if class_counts is None and _told_counts(opened) is None else counts,
        class_names=names,
        tolerance=tolerance,
    ).without(*ignore)
    if out is not None:
        report.save(out, name=path.name, command=command, page=_page())
    return report


@dataclass
class _Stated:
    """What the file and the options say of the loss."""

    opened: Predictions
    loss: str | None
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        opened = self.opened
        text = opened.loss or opened.link if self.loss is None else self.loss
        if text is None:
            text = "softmax" if opened.num_classes > 1 and not opened.multi_hot else "logistic"
            self.say(f"loss: {text}, as nobody says which it was; --loss states another")
        self.spec: LossSpec = parse_loss(text)
        self.from_file = self.loss is None and opened.loss is not None
        self.guessed = self.loss is None and opened.loss is None and opened.link is None
        self.link = self.spec.link
        if opened.link is not None and opened.link != self.link:
            self.say(f"{opened.path} says that its link is {opened.link}; audited as {self.link}, as asked")
        if self.from_file and self.spec.name not in ("softmax", "logistic", "lgl-inr"):
            self.say(f"loss {self.spec.label}, as the file names it")

    @property
    def binary(self) -> bool:
        """Return whether every output is a binary problem: there is one, or each stands for itself."""
        return self.opened.num_classes == 1 or self.opened.multi_hot

    @property
    def by_batch(self) -> bool:
        """Return whether the loss balances the classes of a batch, so that class weights play no part in its
        law."""
        return self.spec.entry.separable_over == "columns"

    @property
    def weights(self) -> str | None:
        """Return the scheme of the loss's class weights."""
        return None if self.spec.scheme is None or self.by_batch else self.spec.weights_text

    @property
    def adjusted(self) -> bool:
        """Return whether training added to the logits what the notation says."""
        return bool(self.spec.tau or self.spec.presence)

    @property
    def needs_counts(self) -> bool:
        """Return whether anything of the loss is made from the counts."""
        return self.adjusted or bool(self.spec.vectors) or self.spec.name in PRESETS

    def setup(self, counts: Tensor, made: Mapping[str, Tensor | None], batch_size: int | None) -> TrainingSetup:
        """Return what was done in training, with the weights that were made for each option."""
        spec, size = self.spec, self.opened.num_classes
        if self.by_batch and batch_size is None and self.from_file:
            batch_size = self.opened.batch_size
        options = dict(spec.options)
        if made.get("pos-weights") is not None:
            if "pos_weight" not in spec.entry.options:
                raise ValueError(
                    f"pos-weights are for losses whose outputs have positives, such as logistic, got loss "
                    f"{spec.label}; its class weights are --weights"
                )
            options["pos_weight"] = made["pos-weights"]
        bare = replace(spec, options=options, scheme=None, tau=0.0, presence=0.0)
        removed = made["corrected"]
        setup = TrainingSetup(
            bare.loss(counts, batch_size or 1),
            class_weights=made["weights"],
            sampler_weights=made["sampler"],
            logit_shift=None if removed is None else -removed.log(),
            logit_adjustment=self._adjustment(counts, batch_size),
            batch_size=batch_size,
            targets="multi-hot" if self.opened.multi_hot else None,
        )
        if self.from_file and setup.in_negative is not None:
            batches = "" if batch_size is None else f" in batches of {batch_size}"
            beta = spec.beta(size)
            self.say(f"LGL-INR of beta {beta:g}{batches}, from the loss that the file names: {spec.label}")
        return setup

    def _adjustment(self, counts: Tensor, batch_size: int | None) -> Tensor | None:
        if not self.adjusted:
            return None
        told = self.opened.logit_adjustment
        if self.from_file and told is not None:
            self.say(f"logits with the adjustment that training added: {self.spec.label}")
            adjustment = torch.tensor(told, dtype=torch.float64)
        else:
            if self.spec.presence and batch_size is None:
                raise ValueError(f"batch-size must be given for the adjustment of {self.spec.label}")
            made = self.spec.adjustment(counts, batch_size or 1)
            assert made is not None
            adjustment = made.double()
        # A constant changes no softmax; without it the test for another link is fair.
        return adjustment - adjustment.mean() if self.link == "softmax" else adjustment


def _samples(opened: Predictions, given: str | None, needed: bool, guessed: bool) -> Tensor:
    """Return (K,) training samples of each class: as given, else as the file says, else of its labels, which are
    read for them where needed. Of outputs that stand for themselves (2, K): negatives and positives of each."""
    if opened.multi_hot:
        if given is not None:
            raise ValueError("counts must not be given for labels of 0 and 1 for each output, which are counted")
        pairs, single = torch.zeros(2, opened.num_classes, dtype=torch.float64), True
        for numbers, labels in opened.batches():
            kept = labels[torch.isfinite(numbers).all(1)]
            pairs += torch.stack([(kept == 0).sum(0), (kept == 1).sum(0)])
            single = single and bool(((kept == 1).sum(1) == 1).all())
        if single and guessed:
            raise ValueError(
                f"{opened.path} has one label of 1 in every row: for classes that share a probability give class "
                "labels, from 0 on, in place of these; for outputs that stand for themselves say --loss logistic"
            )
        return pairs
    size = max(opened.num_classes, 2)
    counts = torch.ones(size, dtype=torch.float64)
    if given is not None:
        parsed = parse_weights(given, counts, opened.class_names, option="counts")
        return counts if parsed is None else parsed
    if (told := _told_counts(opened)) is not None:
        return told
    if needed:
        counts = torch.zeros_like(counts)
        for numbers, labels in opened.batches():
            kept = labels[torch.isfinite(numbers).all(1) & (labels >= 0)]
            counts += torch.bincount(kept, minlength=size)
    return counts


def _told_counts(opened: Predictions) -> Tensor | None:
    """Return the (K,) training counts in the file's metadata, or None."""
    told = opened.class_counts
    if told is None or len(told) != max(opened.num_classes, 2) or sum(told) == 0:
        return None
    return torch.tensor(told, dtype=torch.float64)


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
