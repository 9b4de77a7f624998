"""What is said to have been done in training."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from steelyard._common.text import listed
from steelyard.balance.means import Link


@dataclass(frozen=True)
class Statement:
    """What is said to have been done in training."""

    link: Link
    class_weights: Tensor | None = None
    sampler_weights: Tensor | None = None
    logit_shift: Tensor | None = None
    pos_weight: Tensor | None = None
    beta: float | None = None
    batch_size: int | None = None
    binary: bool = False

    @cached_property
    def parts(self) -> dict[str, Tensor]:
        """What acts like a weight per class, by name; without those that are the same for all classes."""
        shift = None if self.logit_shift is None else self.logit_shift.exp()
        parts = {"class weights": self.class_weights, "sampler": self.sampler_weights, "logit shift": shift}
        return {k: v for k, v in parts.items() if v is not None and float((v / v[0] - 1).abs().max()) > 1e-9}

    @property
    def total(self) -> Tensor | None:
        """(K,) product of the parts, or None where there are none."""
        parts = list(self.parts.values())
        return torch.stack(parts).prod(0) if parts else None

    @property
    def weighted(self) -> bool:
        return bool(self.parts) or self.pos_weight is not None

    @property
    def text(self) -> str:
        loss = "softmax" if self.link == "softmax" else "one-vs-all logistic"
        if self.binary:
            loss = "binary logistic"
        if self.beta is not None:
            batches = "" if self.batch_size is None else f" in batches of {self.batch_size}"
            return f"LGL-INR loss of beta {self.beta:g}{batches}"
        used = list(self.parts) + ([] if self.pos_weight is None else ["positive weights"])
        return f"{loss} loss" + (" with " + listed(used) if used else ", no weights")
