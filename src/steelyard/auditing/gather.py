"""What an audit needs of the samples, gathered in a stream: memory does not grow with their number."""

from typing import Literal

import torch
from torch import Tensor

from steelyard._common.checks import check_choice, check_logits, check_target
from steelyard.balance.means import Link, MeanConfusion, logistic_statistics

FOLDS = 16
MOST_CLASSES_WITH_FOLDS = 1500  # beyond it the folds would take gigabytes, and there are no intervals
_SAMPLE_NUMBERS = 4_000_000
Values = Literal["logits", "probabilities"]


class Evidence:
    """Mean confusions under both links with folds for errors, and a random sample of rows.

    Args:
        num_classes: K, the columns that :meth:`update` is given; 1 is one binary output, gathered as the softmax
            of (0, z).
        values: what :meth:`update` is given: ``"logits"``, or the ``"probabilities"`` of ``link``.
        link: of probabilities; logits are looked at under both links.
        drop_invalid: leave rows with NaN or infinite numbers out; else :meth:`check` refuses them.
        seed: of the random sample.

    Attributes:
        metrics: a :class:`MeanConfusion` for each link; of probabilities only for their own.
        rows: how many were given.
        invalid: how many held NaN or infinite numbers.
        first_invalid: the first of them, from 0, or None.

    Raises:
        TypeError, ValueError: as the losses do.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        link: Link,
        values: Values = "logits",
        drop_invalid: bool = False,
        seed: int = 0,
    ) -> None:
        check_choice("link", link, ("softmax", "logistic"))
        check_choice("values", values, ("logits", "probabilities"))
        self.binary = num_classes == 1
        if self.binary:
            num_classes, link = 2, "softmax"
        folds = FOLDS if num_classes <= MOST_CLASSES_WITH_FOLDS else 1
        links: tuple[Link, ...] = ("softmax", "logistic") if values == "logits" else (link,)
        self.metrics = {name: MeanConfusion(num_classes, link=name, folds=folds) for name in links}
        self.num_classes, self.link, self.values, self.drop_invalid = num_classes, link, values, drop_invalid
        self.rows = self.invalid = 0
        self.first_invalid: int | None = None
        self._like_probabilities = True
        self._row_sums = torch.zeros((), dtype=torch.float64)
        self._statistics = torch.zeros(2, num_classes, num_classes, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = max(1000, min(20_000, _SAMPLE_NUMBERS // num_classes))
        self._keys = torch.empty(0, dtype=torch.float64)
        self._sample = torch.empty(0, num_classes), torch.empty(0, dtype=torch.long)

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add rows: (n, K) logits or probabilities and (n,) labels."""
        check_logits(logits)
        columns = 1 if self.binary else self.num_classes
        if logits.dim() != 2 or logits.shape[1] != columns:
            raise ValueError(f"logits must have shape (N, {columns}), got {tuple(logits.shape)}")
        if self.binary:
            other = 1 - logits if self.values == "probabilities" else torch.zeros_like(logits)
            logits = torch.cat([other, logits], 1)
        check_target(logits, target, num_labels=self.num_classes, ignore_index=-1, validate=True)
        logits, target = logits.detach().cpu(), target.detach().cpu().long()
        logits = logits if logits.dtype == torch.float64 else logits.float()
        valid = torch.isfinite(logits).all(1)
        if not bool(valid.all()):
            if self.first_invalid is None:
                self.first_invalid = self.rows + int((~valid).nonzero()[0])
            self.invalid += int((~valid).sum())
        self.rows += len(logits)
        logits, target = logits[valid & (target >= 0)], target[valid & (target >= 0)]
        if len(logits) == 0:
            return
        if self.values == "probabilities":
            logits = self._logits_of(logits)
        else:
            own = logits[:, 1:] if self.binary else logits
            unit = bool(((own >= 0) & (own <= 1)).all())
            one = self.binary or self.link == "logistic" or bool(((logits.sum(1) - 1).abs() < 1e-3).all())
            self._like_probabilities = self._like_probabilities and unit and one
        for metric in self.metrics.values():
            metric.update(logits, target)
        if "logistic" in self.metrics:
            self._row_sums += torch.sigmoid(logits.double()).sum()
            counts = torch.bincount(target, minlength=self.num_classes)[:, None]
            for total, mean in zip(self._statistics, logistic_statistics(logits, target), strict=True):
                total += torch.where(counts > 0, mean * counts, 0.0)
        keys = torch.rand(len(logits), generator=self._generator, dtype=torch.float64)
        self._keys, self._sample = self._smallest(
            torch.cat([self._keys, keys]),
            torch.cat([self._sample[0].to(logits.dtype), logits]),
            torch.cat([self._sample[1], target]),
        )

    def check(self) -> None:
        """Refuse what cannot be audited.

        Raises:
            ValueError: no rows, rows with NaN or infinite numbers, or probabilities given for logits.
        """
        if self.invalid and not self.drop_invalid:
            raise ValueError(
                f"logits must be finite, got {self.invalid} of {self.rows} rows with NaN or infinite numbers, "
                f"the first at row {self.first_invalid}; drop_invalid leaves them out"
            )
        if len(self._keys) == 0:
            raise ValueError(f"logits must have at least one row to audit, got {self.rows - self.invalid}")
        if self.values == "logits" and self._like_probabilities and len(self._keys) > 1:
            whole = self.link == "softmax" and not self.binary
            what = "lie in [0, 1]" + (" and sum to 1 in each row" if whole else "")
            raise ValueError(f'logits look like probabilities: all {what}; say values="probabilities" if they are')

    @property
    def metric(self) -> MeanConfusion:
        """The mean confusion of the audited link."""
        return self.metrics[self.link]

    @property
    def sample(self) -> tuple[Tensor, Tensor]:
        """A random sample of rows, (n, K) float64 logits and (n,) labels; all of them where they are few."""
        return self._sample[0].double(), self._sample[1]

    @property
    def mean_row_sum(self) -> float:
        """Mean over rows of the sum of sigmoids: near 1 under plain one-vs-all losses, anything under softmax."""
        return float(self._row_sums) / max(1, int(self.metric.class_counts.sum()))

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """As :func:`logistic_statistics`, of all rows."""
        counts = self.metric.class_counts[:, None]
        A, V = (self._statistics / counts).masked_fill(counts == 0, torch.nan)
        return A, V

    def _logits_of(self, probabilities: Tensor) -> Tensor:
        p = probabilities.double()
        if bool(((p < 0) | (p > 1)).any()):
            raise ValueError(f"probabilities must lie in [0, 1], got {float(p.min()):g} to {float(p.max()):g}")
        floor = torch.finfo(torch.float64).tiny
        if self.link == "logistic":
            return p.clamp(min=floor).log() - (1 - p).clamp(min=2.0**-53).log()
        sums = p.sum(1)
        if bool(((sums - 1).abs() > 1e-3).any()):
            worst = float(sums[(sums - 1).abs().argmax()])
            raise ValueError(f"probabilities must sum to 1 in each row, got {worst:g}")
        return p.clamp(min=floor).log()

    def _smallest(self, keys: Tensor, logits: Tensor, target: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Rows with the smallest keys: as the keys are random, a random sample of all rows so far."""
        if len(keys) <= self._kept:
            return keys, (logits, target)
        chosen = keys.topk(self._kept, largest=False).indices
        return keys[chosen], (logits[chosen], target[chosen])
