"""Correct a file of predictions: its logits become probabilities without what training did to them."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import steelyard
from steelyard._common.checks import check_choice
from steelyard.auditing.gather import Values
from steelyard.auditing.probabilities import Probabilities, are_percents, look_like_probabilities
from steelyard.balance import TrainingSetup
from steelyard.commands.stated import Stated, given_counts, label_counts, told_counts
from steelyard.commands.tables import class_table
from steelyard.data import Predictions, open_predictions
from steelyard.data.predictions import check_out, corrected_columns, is_text_file
from steelyard.posterior import log_posterior
from steelyard.prior import PriorEstimate, estimate_prior

LABELS = "labels"
PRIORS = ("train", "uniform", "estimate")
_TARGETS = ("classes", "multi-hot")
_SAMPLE = 1 << 24  # numbers that the prior is estimated from


@dataclass(frozen=True)
class Correction:
    """What was done to a file.

    Attributes:
        rows: that were written.
        without: of them, those without a probability: numbers were missing or infinite, or no posterior exists.
        setup: what was taken out, in words.
        class_names: of the prior; numbers from 0 where nobody says.
        prior: (K,) class frequencies that the probabilities are for; None for those of training.
        estimate: of the prior, where it was estimated.
    """

    rows: int
    without: int
    setup: str
    class_names: tuple[str, ...]
    prior: Tensor | None
    estimate: PriorEstimate | None


def correct_file(
    path: str | PathLike[str],
    out: str | PathLike[str],
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
    values: Values | None = None,
    targets: str | None = None,
    prior: str = "train",
    say: Callable[[str], None] = lambda text: None,
) -> Correction:
    """Write a file's rows once more, with corrected probabilities in place of its logits.

    All other columns stay as they are, and so do the rows and their order. Rows are never all in memory. The new
    columns are called ``corrected_probability_CLASS``, or ``corrected_probabilities`` where the logits are a list
    or an array; for one output ``corrected_probability``, of class 1; for outputs that stand for themselves
    ``corrected_output_probability_NAME``. By these names, and by what the metadata say, a second correction is
    refused. A row whose numbers are missing or infinite, or whose logits no posterior has, has empty cells.

    Args:
        path, loss, weights, pos_weights, sampler, corrected, batch_size, class_names, target, logits: as for
            :func:`steelyard.commands.audit.audit_file`. Labels are not needed.
        out: the new file, of a kind that holds rows of `path`: a table for tables (``.parquet``, ``.arrow``,
            ``.csv`` and so on), ``.npz`` for arrays.
        class_counts: K comma-separated training counts, a JSON file, or ``"labels"``: the rows are those of the
            training, and their labels are counted. Default: what the file says; its labels, where it says that it
            holds the rows of the training.
        values: ``"logits"`` or ``"probabilities"``. Default: logits, unless all of them look like probabilities,
            which is refused.
        targets: ``"classes"`` where one class is right in a row, ``"multi-hot"`` for outputs that stand for
            themselves. Default: as the labels tell; classes for softmax.
        prior: ``"train"``, ``"uniform"``, ``"estimate"`` (the class frequencies under which the rows are
            likeliest, from at most 2^24 of their numbers), or a CSV file of class and share.
        say: told what was taken from the file.

    Returns:
        What was done.

    Raises:
        FileExistsError: there is a file at `out`.
        ValueError, TypeError, FileNotFoundError: a file that cannot be read, an option that is refused, weights or
            a prior that need training counts which nobody says.
    """
    out = Path(out)
    check_out(out, Path(path))
    if values is not None:
        check_choice("values", values, ("logits", "probabilities"))
    if targets is not None:
        check_choice("targets", targets, _TARGETS)
    opened = open_predictions(
        path,
        target=target,
        columns=logits,
        values=values or "logits",
        class_names=class_names,
        missing_labels="ignore",
        missing_values="nan",
        label="optional",
    )
    say(opened.reading)
    stated = Stated(opened, loss, say, targets == "multi-hot")
    independent = _independent(opened, stated, targets)
    texts = {"weights": weights, "pos-weights": pos_weights, "sampler": sampler, "corrected": corrected}
    known = opened.class_names or tuple(str(k) for k in range(max(opened.num_classes, 2)))
    table = None if prior in PRIORS else class_table(Path(prior), "share", known)
    samples = _counts(opened, independent, class_counts, stated.needs(texts), prior != "train")
    counts = None if independent else samples
    shape = (2, opened.num_classes) if independent else (max(opened.num_classes, 2),)
    setup = stated.setup(torch.ones(shape).double() if samples is None else samples, texts, batch_size, counts)
    if setup.in_negative is not None:
        raise ValueError(
            "LGL-INR cannot be undone from a file: its posterior needs the mean confusion of the training rows; "
            "see log_posterior(..., mean_confusion=...) in Python"
        )
    reader = _Reader(opened, setup, stated.link == "softmax" and opened.num_classes > 1, values, say)
    estimate, use = None, table
    if prior == "uniform":
        use = torch.full((shape[-1],), 1 / shape[-1], dtype=torch.float64)
    elif prior == "estimate":
        assert counts is not None
        estimate = _estimate(opened, reader, counts, say)
        use = estimate.prior
    names = opened.class_names
    as_list = opened.as_list and not is_text_file(out)

    def change(numbers: Tensor) -> Mapping[str, Any]:
        q = reader.probabilities(numbers, use).numpy()
        return corrected_columns(q, names, independent=independent, as_list=as_list)

    done = {
        "setup": setup.text,
        "vectors": _vectors(setup),
        "from": "probabilities" if values == "probabilities" else "logits",
        "prior": "train" if use is None else use.tolist(),
        "estimate": None if estimate is None else estimate.to_dict(),
        "file": opened.path.name,
        "version": steelyard.__version__,
    }
    metadata = {"correction": json.dumps(done)} | ({} if names is None else {"class_names": "\x1f".join(names)})
    opened.rewrite(out, change, replace=True, metadata=metadata)
    return Correction(reader.rows, reader.without, setup.text, known, use, estimate)


class _Reader:
    """From the numbers of a file to probabilities; counts the rows, and those without a probability.

    What the numbers are is told by all rows, in a pass of its own.
    """

    def __init__(
        self,
        opened: Predictions,
        setup: TrainingSetup,
        whole: bool,
        values: Values | None,
        say: Callable[[str], None],
    ) -> None:
        self.setup, self.rows, self.without = setup, 0, 0
        self.shown = Probabilities(opened.num_classes, whole) if values == "probabilities" else None
        self.unit = 1.0
        if self.shown is not None:
            for number, rows in enumerate(_finite(opened)):
                if number == 0 and are_percents(rows):
                    self.unit = 100.0
                    say("probabilities are percents, they are divided by 100")
                self.shown.see(rows.double() / self.unit)
            if self.shown.told is not None:
                say(self.shown.told)
        elif values is None and all(look_like_probabilities(rows, whole) for rows in _finite(opened)):
            raise ValueError(
                f"the numbers of {opened.path} may be probabilities, as all of them look like some: say "
                "--from probabilities or --from logits"
            )

    def log_posterior(self, numbers: Tensor, prior: Tensor | None) -> Tensor:
        """Return corrected log-probabilities (n, K), the logit of one output, NaN where there are none."""
        kept = torch.isfinite(numbers).all(1)
        z = numbers[kept].double()
        z = z if self.shown is None else self.shown.logits(z / self.unit)
        found = torch.full(numbers.shape, torch.nan, dtype=torch.float64)
        if len(z):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of rows without a posterior, which are counted
                found[kept] = log_posterior(z, self.setup, prior)
        return found

    def probabilities(self, numbers: Tensor, prior: Tensor | None) -> Tensor:
        q = self.log_posterior(numbers, prior)
        self.rows += len(q)
        self.without += int(q.isnan().any(1).sum())
        return torch.sigmoid(q) if q.shape[1] == 1 else q.exp()


def _finite(opened: Predictions) -> Iterator[Tensor]:
    """Yield the rows of finite numbers."""
    for numbers in opened.numbers():
        rows = numbers[torch.isfinite(numbers).all(1)]
        if len(rows):
            yield rows


def _independent(opened: Predictions, stated: Stated, targets: str | None) -> bool:
    """Return whether the outputs stand for themselves."""
    if opened.has_labels and targets is not None and opened.num_classes > 1:
        told = "multi-hot" if opened.multi_hot else "classes"
        if targets != told:
            raise ValueError(f"targets must be {told}, as the labels of {opened.path} are, got {targets}")
    if opened.num_classes == 1:
        return False
    if not opened.has_labels and targets is None and stated.link == "logistic":
        raise ValueError(
            f"{opened.path} has {opened.num_classes} outputs of a loss that is one-vs-all, and no labels: say "
            "--targets classes, where one class is right in a row, or --targets multi-hot"
        )
    return stated.independent


def _counts(
    opened: Predictions, independent: bool, given: str | None, for_weights: bool, for_prior: bool
) -> Tensor | None:
    """Return the training samples of each class, (K,), or (2, K) negatives and positives of independent outputs;
    None where nobody says, and nothing needs them."""
    if independent and for_prior:
        raise ValueError("prior must be train for outputs that stand for themselves, which have no common prior")
    if given == LABELS:
        if not opened.has_labels:
            raise ValueError(f"counts 'labels' need labels, and {opened.path} has none")
        if opened.split == "test":
            raise ValueError(
                f"counts must be those of the training, got 'labels' for {opened.path}, which says that it holds "
                "held-out samples"
            )
        return label_counts(opened)
    if given is not None:
        if independent:
            raise ValueError("counts of outputs that stand for themselves must be 'labels', which are counted")
        return given_counts(opened, given)
    if not independent and (told := told_counts(opened)) is not None:
        return told
    if not (for_weights or for_prior):
        return None
    if opened.split == "train" and opened.has_labels:
        return label_counts(opened)
    what = "the weights are made from" if for_weights else "a prior needs"
    raise ValueError(
        f"{what} the counts of the training, which {opened.path} does not say: give --counts, K numbers or a JSON "
        "file, or --counts labels if its rows are those of the training"
    )


def _estimate(opened: Predictions, reader: _Reader, counts: Tensor, say: Callable[[str], None]) -> PriorEstimate:
    """Return the class frequencies of the rows; of many rows a random sample tells."""
    most, generator = max(2, _SAMPLE // opened.num_classes), torch.Generator().manual_seed(0)
    rows, keys = [], []
    seen = held = 0
    for numbers in opened.numbers():
        q = reader.log_posterior(numbers, None)
        q = q[~q.isnan().any(1)]
        rows.append(q)
        keys.append(torch.rand(len(q), generator=generator, dtype=torch.float64))
        seen, held = seen + len(q), held + len(q)
        if held > 2 * most:
            rows, keys = _smallest(rows, keys, most)
            held = most
    if not seen:
        raise ValueError(f"{opened.path} has no row with finite numbers, from which a prior could be estimated")
    if held > most:
        rows, keys = _smallest(rows, keys, most)
    if seen > most:
        say(f"the prior is estimated from {most} of {seen} rows, drawn at random")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = estimate_prior(torch.cat(rows), counts)
    for doubt in found.doubts:
        say(f"WARNING: {doubt}")
    return found


def _smallest(rows: list[Tensor], keys: list[Tensor], most: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the rows with the smallest keys, in their order."""
    key = torch.cat(keys)
    kept = key.topk(most, largest=False).indices.sort().values
    return [torch.cat(rows)[kept]], [key[kept]]


def _vectors(setup: TrainingSetup) -> dict[str, Any]:
    names = ("class_weights", "pos_weight", "sampler_weights", "logit_adjustment", "logit_shift", "class_counts")
    return {name: values.tolist() for name in names if (values := getattr(setup, name)) is not None}
