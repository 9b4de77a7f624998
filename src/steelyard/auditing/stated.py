"""What is said of a training, as an audit reads it: checked against the logits, one output as two classes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from steelyard.balance.means import Link
from steelyard.balance.readings import InNegative
from steelyard.balance.setup import TrainingSetup, link_of

SetupOrLoss = TrainingSetup | nn.Module | str | Callable[[Tensor, Tensor], Tensor]


def as_setup(given: SetupOrLoss) -> TrainingSetup:
    """Return the setup itself, or that of a loss with nothing around it."""
    return given if isinstance(given, TrainingSetup) else TrainingSetup(given)


@dataclass(frozen=True)
class Stated:
    """A training setup for logits of so many columns.

    Attributes:
        setup: as given.
        columns: of the logits; 1 for one binary output.

    Raises:
        ValueError: vectors of another length, a weight of zero, a loss function without a known structure.
    """

    setup: TrainingSetup
    columns: int

    def __post_init__(self) -> None:
        if self.setup.targets == "binary" and not self.binary:
            raise ValueError(f"logits must have one column for a setup of binary targets, got {self.columns}")
        if self.binary and self.setup.reading.link == "softmax" and not self.closed:
            raise ValueError(f"logits must have at least two columns for the {self.setup.text}, got 1")
        outputs = {"pos_weight", "logit_adjustment"}
        for name in ("class_weights", "sampler_weights", "logit_shift", "pos_weight", "logit_adjustment"):
            values = getattr(self.setup, name)
            if values is None:
                continue
            expected = self.columns if name in outputs or not self.binary else 2
            if len(values) != expected:
                raise ValueError(
                    f"{name} must have shape ({expected},) for logits of {self.columns} columns, "
                    f"got {tuple(values.shape)}"
                )
            if not name.startswith("logit") and bool((values == 0).any()):
                raise ValueError(
                    f"{name} must be positive to be audited, got 0 at position {int(values.argmin())}"
                )
        _ = self.link

    @property
    def binary(self) -> bool:
        """Return whether there is one output, which is audited as the softmax of (0, z)."""
        return self.columns == 1

    @property
    def several(self) -> bool:
        """Return whether a sample may belong to several classes: every output is a problem of its own."""
        return not self.binary and self.setup.targets == "multi-hot"

    @property
    def size(self) -> int:
        """Return how many classes there are."""
        return 2 if self.binary else self.columns

    @cached_property
    def link(self) -> Link:
        """Return ``"softmax"`` where the law is one of classes that share a sample's probability."""
        if self.binary:
            return "softmax"
        if self.several:
            return "logistic"
        return link_of(self.setup, self.size)

    @property
    def closed(self) -> bool:
        """Return whether the law is one of mean probabilities, for which no gradient is needed."""
        return not self.several and (self.plain or self.in_negative is not None)

    @property
    def plain(self) -> bool:
        """Return whether the loss is softmax or one-vs-all cross-entropy, without smoothing or focus."""
        reading = self.setup.reading
        return reading.plain is not None and not self.setup.label_smoothing

    @property
    def column_smoothing(self) -> float:
        """Return the label smoothing of torch's cross-entropy with weights, which weighs it by columns; 0 for
        others."""
        loss = self.setup.loss
        if not isinstance(loss, nn.CrossEntropyLoss) or loss.weight is None:
            return 0.0
        return float(loss.label_smoothing)

    def as_trained(self, rows: Tensor) -> Tensor:
        """Return (N, columns) logits as the (N, K) of a closed law: with what training added, one output as (0,
        z)."""
        adjustment = self.setup.logit_adjustment
        z = rows if adjustment is None else rows.double() + adjustment
        return torch.cat([torch.zeros_like(z), z], 1) if self.binary else z

    @cached_property
    def parts(self) -> dict[str, Tensor]:
        """Return what acts like a weight per class, by name; the positives' weight of one output is that of class
        1."""
        if self.in_negative is not None:  # class weights play no part in its law
            return {}
        parts = dict(self.setup.parts)
        u = self.setup.pos_weight
        if self.binary and u is not None:
            parts["positive weights"] = torch.cat([torch.ones_like(u), u])
        return parts

    @property
    def total(self) -> Tensor | None:
        """Return the (K,) product of the parts, or None where there are none."""
        return torch.stack(list(self.parts.values())).prod(0) if self.parts else None

    @property
    def pos_weight(self) -> Tensor | None:
        """Return the (K,) weight of each output's positives, or None."""
        return None if self.binary else self.setup.pos_weight

    @property
    def weighted(self) -> bool:
        """Return whether anything weighs classes or positives."""
        return bool(self.parts) or self.pos_weight is not None

    @property
    def in_negative(self) -> InNegative | None:
        """Return the options of an LGL-INR loss; None for every other."""
        return self.setup.in_negative

    @property
    def text(self) -> str:
        """Return a phrase for sentences."""
        return self.setup.text.replace("one-vs-all", "binary") if self.binary else self.setup.text
