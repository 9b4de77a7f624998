"""What the options of a command and the file itself say of a training: its loss, its weights, its class counts."""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steelyard.balance import TrainingSetup
from steelyard.balance.setup import shifts_together
from steelyard.data import Predictions
from steelyard.losses import Loss
from steelyard.losses.presets import made_of_counts
from steelyard.notation import LossSpec, is_scheme, parse_loss, parse_pos_weights, parse_weights


@dataclass
class Stated:
    """What the file and the options say of the loss; `independent` says that every output stands for itself."""

    opened: Predictions
    loss: str | None
    say: Callable[[str], None]
    independent: bool = False

    def __post_init__(self) -> None:
        opened = self.opened
        self.independent = self.independent or opened.multi_hot
        text = opened.loss or opened.link if self.loss is None else self.loss
        if text is None:
            text = "softmax" if opened.num_classes > 1 and not self.independent else "logistic"
            self.say(f"loss: {text}, as nobody says which it was; --loss states another")
        self.spec: LossSpec = parse_loss(text)
        if self.spec.running and not self.by_batch:
            raise ValueError(
                f"loss {self.spec.label} weighs by what it saw in training, which no file holds: in Python give "
                "the module that was trained"
            )
        self.from_file = self.loss is None and opened.loss is not None
        self.guessed = self.loss is None and opened.loss is None and opened.link is None
        self.link = self.spec.link
        if opened.link is not None and opened.link != self.link:
            told = opened.link if opened.link in ("softmax", "logistic") else reprlib.repr(opened.link)
            self.say(f"{opened.path} says that its link is {told}; read as {self.link}, as asked")
        if self.from_file and self.spec.name not in ("softmax", "logistic", "lgl-inr"):
            self.say(f"loss {self.spec.label}, as the file names it")

    @property
    def binary(self) -> bool:
        """Return whether every output is a binary problem: there is one, or each stands for itself."""
        return self.opened.num_classes == 1 or self.independent

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
        return self.adjusted or bool(self.spec.vectors) or made_of_counts(self.spec.name)

    def needs(self, texts: Mapping[str, str | None]) -> bool:
        """Return whether anything that is stated is made from the counts."""
        given = [*texts.values()] + ([self.weights] if texts["weights"] is None else [])
        return self.needs_counts or any(text is not None and is_scheme(text) for text in given)

    def setup(
        self,
        samples: Tensor,
        texts: Mapping[str, str | None],
        batch_size: int | None,
        class_counts: Tensor | None = None,
    ) -> TrainingSetup:
        """Return what was done in training.

        Args:
            samples: (K,) training samples of each class that schemes are made from; (2, K) negatives and positives
                of outputs that stand for themselves.
            texts: what the options ``weights``, ``pos-weights``, ``sampler`` and ``corrected`` say, by name.
            batch_size: of LGL-INR.
            class_counts: that the setup is to hold. Default: none.
        """
        opened, spec, size = self.opened, self.spec, self.opened.num_classes
        counts, names = samples[1] if self.independent else samples, opened.class_names
        texts = dict(texts)
        if texts["weights"] is None and self.weights is not None:
            texts["weights"] = self.weights
            if self.from_file:
                self.say(f"class weights {self.weights}, from the loss that the file names: {spec.label}")
        made = {
            option: None if text is None else parse_weights(text, counts, names, option=option)
            for option, text in texts.items()
            if option != "pos-weights" or (text is not None and not self.binary)
        }
        if texts["pos-weights"] is not None and self.binary:
            pairs, last = (
                (samples.T, names) if self.independent else (samples[None], None if names is None else names[1:])
            )
            made["pos-weights"] = parse_pos_weights(texts["pos-weights"], pairs, last)
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
        removed, alone = made["corrected"], size == 1 and self.link == "logistic"
        loss = bare.loss(counts, batch_size or 1)
        setup = TrainingSetup(
            loss,
            class_weights=made["weights"],
            sampler_weights=made["sampler"],
            logit_shift=None if removed is None else -removed.log(),
            logit_adjustment=self._adjustment(loss, counts, batch_size),
            batch_size=batch_size,
            targets="multi-hot" if self.independent else "binary" if alone else None,
            class_counts=class_counts,
        )
        if self.from_file and setup.in_negative is not None:
            batches = "" if batch_size is None else f" in batches of {batch_size}"
            beta = spec.beta(size)
            self.say(f"LGL-INR of beta {beta:g}{batches}, from the loss that the file names: {spec.label}")
        return setup

    def _adjustment(self, loss: Loss, counts: Tensor, batch_size: int | None) -> Tensor | None:
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
        # Where a constant changes nothing: without it the test for another link is fair.
        free = self.link == "softmax" and shifts_together(TrainingSetup(loss), len(counts))
        return adjustment - adjustment.mean() if free else adjustment


def given_counts(opened: Predictions, text: str) -> Tensor:
    """Return the (K,) training counts that an option gives: K numbers, or a JSON file."""
    ones = torch.ones(max(opened.num_classes, 2), dtype=torch.float64)
    parsed = parse_weights(text, ones, opened.class_names, option="counts")
    return ones if parsed is None else parsed


def told_counts(opened: Predictions) -> Tensor | None:
    """Return the (K,) training counts in the file's metadata, or None."""
    told = opened.class_counts
    if told is None or len(told) != max(opened.num_classes, 2) or sum(told) == 0:
        return None
    return torch.tensor(told, dtype=torch.float64)


def label_counts(opened: Predictions, guessed: bool = False) -> Tensor:
    """Return the (K,) rows of each class with finite numbers; of outputs that stand for themselves (2, K),
    negatives and positives of each. `guessed` refuses labels of 0 and 1 that have one 1 in every row."""
    if opened.multi_hot:
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
    counts = torch.zeros(size, dtype=torch.float64)
    for numbers, labels in opened.batches():
        kept = labels[torch.isfinite(numbers).all(1) & (labels >= 0)]
        counts += torch.bincount(kept, minlength=size)
    return counts
