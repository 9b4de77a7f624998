"""What an audit needs of the samples, gathered in a stream: memory does not grow with their number."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import check_choice
from steelyard._common.memory import check_memory
from steelyard._common.spread import refuse_spread
from steelyard.auditing.effective import Confusion, EffectiveConfusion, SmoothedConfusion
from steelyard.auditing.probabilities import Probabilities, check_tell, look_like_probabilities
from steelyard.auditing.sanity import ColumnSums, OutputSums
from steelyard.auditing.stated import SetupOrLoss, Stated, as_setup
from steelyard.balance.means import Link
from steelyard.kernels.class_sums.dispatch import add_by_class
from steelyard.targets import check_logits, check_target

if TYPE_CHECKING:
    from steelyard.balance.confusion import MeanConfusion

FOLDS = 16
MOST_CLASSES_WITH_FOLDS = 1500  # beyond it the folds would take gigabytes, and there are no intervals
_SAMPLE_NUMBERS = 4_000_000
Values = Literal["logits", "probabilities"]
Rows = Tensor | np.ndarray[Any, np.dtype[Any]] | Sequence[Any]  # of numbers


class Evidence:
    """Mean confusions, gradients by class where the loss needs them, folds for errors, and a sample of rows.

    Args:
        num_classes: K, the columns that :meth:`update` is given; 1 is one binary output, gathered as the softmax
            of (0, z).
        setup: what is said of the training, or its loss.
        values: what :meth:`update` is given: ``"logits"``, or the ``"probabilities"`` of the loss's link.
        class_dim: dimension of the classes in what :meth:`update` is given: 1, or -1 for libraries that keep them
            last.
        drop_invalid: leave rows with NaN or infinite numbers out; else :meth:`check` refuses them.
        seed: of the random sample.

    Attributes:
        metrics: a :class:`MeanConfusion` for each link; of probabilities only for their own. Empty for multi-hot
            targets.
        rows: how many were given, without those that an ignored label leaves out.
        invalid: how many held NaN or infinite numbers.
        first_invalid: position of the first of them among all that were given, from 0, or None.
        gigabytes: of memory that the sums by pairs of classes take at most, rows aside.
        probabilities: how those that were given are rounded.
        notes: codes of what a report has to say of how the rows came about.

    Raises:
        TypeError, ValueError: as the losses do; more classes than memory has room for.
    """

    def __init__(
        self,
        num_classes: int,
        setup: SetupOrLoss = "softmax",
        *,
        values: Values = "logits",
        class_dim: int = 1,
        drop_invalid: bool = False,
        seed: int = 0,
    ) -> None:
        from steelyard.balance.confusion import MeanConfusion  # with torchmetrics, which takes a second to import
        from steelyard.balance.gradient_ledger import GradientLedger

        check_choice("values", values, ("logits", "probabilities"))
        if class_dim not in (1, -1):
            raise ValueError(f"class_dim must be 1 or -1, got {class_dim!r}")
        self.stated = stated = Stated(as_setup(setup), num_classes)
        self.class_dim, self.values, self.drop_invalid = class_dim, values, drop_invalid
        self.num_classes, self.link = stated.size, stated.link
        self.ignore_index = stated.setup.reading.ignore_index
        folds = FOLDS if self.num_classes <= MOST_CLASSES_WITH_FOLDS else 1
        links: tuple[Link, ...] = ("softmax", "logistic") if values == "logits" else (self.link,)
        links = () if stated.several else links
        self.gigabytes = check_memory("an audit", self.num_classes, self._squares(len(links), folds))
        self.metrics = {
            name: MeanConfusion(self.num_classes, link=name, folds=folds, ignore_index=self.ignore_index)
            for name in links
        }
        self.ledger = None if stated.closed else GradientLedger(stated.setup, num_classes, folds=folds)
        self.rows = self.invalid = self._seen = 0
        self.first_invalid: int | None = None
        self.notes: tuple[str, ...] = ()
        whole = self.link == "softmax" and not stated.binary
        if whole and values == "probabilities":
            check_tell(stated.setup, num_classes)
        self.probabilities = Probabilities(num_classes, whole)
        self._like_probabilities = True
        several = stated.several
        self.columns = OutputSums(num_classes) if several else ColumnSums(self.num_classes, num_classes)
        self._statistics = torch.zeros(2, self.num_classes, self.num_classes, dtype=torch.float64)
        sizes = ((num_classes, num_classes), (num_classes, num_classes), (num_classes,)) if stated.several else ()
        self._together = [torch.zeros(size, dtype=torch.float64) for size in sizes]
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = max(1000, min(20_000, _SAMPLE_NUMBERS // self.num_classes))
        self._largest = 1.0  # key that a row of the sample can have
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # keys, rows and labels

    def _squares(self, links: int, folds: int) -> int:
        """Return how many (K, K) arrays there are at a time at most, from here to the report."""
        if self.stated.several:
            return 10
        # Measured (K = 800 with folds, 2000 and 3000 without): 100, 17, 16; with a ledger 133, 19.
        of_ledger = 0 if self.stated.closed else 3 * folds
        return links * (folds + 1) + 4 * folds + of_ledger + 20

    def update(self, logits: Rows, target: Rows) -> None:
        """Add samples: (n, K) or (n, K, d1, ...) logits or probabilities, (n,) or (n, 1) of one output; labels
        (n,) or (n, d1, ...), 0 and 1 of any dtype for one output, multi-hot in the shape of the logits where the
        setup says so."""
        rows, labels = self._read(logits, target)
        counted = (labels if labels.dim() > 1 else labels[:, None]).ne(self.ignore_index).any(1)
        used = counted
        if not bool(rows.sum().isfinite()):  # else all are: one that is not leaves no finite sum
            finite = torch.isfinite(rows).all(1)
            bad = ~finite & counted
            if bool(bad.any()):
                if self.first_invalid is None:
                    self.first_invalid = self._seen + int(bad.nonzero()[0])
                self.invalid += int(bad.sum())
            used = finite & counted
        self._seen += len(rows)
        self.rows += int(counted.sum())
        if not bool(used.all()):
            rows, labels = rows[used], labels[used]
        if len(rows) == 0:
            return
        if self.values == "probabilities":
            rows = self.probabilities.logits(rows)
        elif self._like_probabilities:
            self._like_probabilities = look_like_probabilities(rows, self.probabilities.whole)
        if self.ledger is not None:
            self.ledger.update(rows, labels)
        self.columns.update(rows, labels)
        z = self.stated.as_trained(rows)
        for metric in self.metrics.values():
            metric.update(z, labels)
        if self.stated.several:
            own, kept = (labels > 0).double(), (labels != self.ignore_index).double()
            p = torch.sigmoid(z.double()) * kept
            for total, part in zip(self._together, (own.T @ p, own.T @ kept, ((1 - own) * p).sum(0)), strict=True):
                total += part
        elif "logistic" in self.metrics:
            add_by_class("softplus", z, labels, *self._statistics)
        self._keep(rows, labels)

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
        if not self._waiting:
            raise ValueError(f"logits must have at least one row to audit, got {self.rows - self.invalid}")
        if (
            self.values == "logits"
            and self._like_probabilities
            and sum(len(keys) for keys, _, _ in self._waiting) > 1
        ):
            what = "lie in [0, 1]"
            if self.probabilities.whole:
                what += " and sum to 1 in each row, or are percents that sum to 100"
            raise ValueError(f'logits look like probabilities: all {what}; say values="probabilities" if they are')

    @property
    def metric(self) -> "MeanConfusion":
        """Return the mean confusion of the audited link."""
        return self.metrics[self.link]

    def own(self, class_counts: Tensor) -> Confusion:
        """Return the confusion that the stated loss's law is about, for a training set of these counts."""
        if self.ledger is None:
            return self.metric
        if self.stated.column_smoothing and bool((class_counts > 0).all()):
            return SmoothedConfusion(self.metric, self.stated.column_smoothing, class_counts)
        return EffectiveConfusion(self.ledger, self.stated)

    @property
    def mean_confusion(self) -> Tensor:
        """Return the (K, K) mean probabilities; of multi-hot targets row k is over the samples that have label
        k."""
        if not self.stated.several:
            return self.metric.compute()
        sums, counts, _ = self._together
        return (sums / counts).masked_fill(counts == 0, torch.nan)

    @property
    def mean_of_negatives(self) -> Tensor:
        """Return the (K,) mean probability of each output over its negatives; for multi-hot targets."""
        assert self.ledger is not None
        return self._together[2] / self.ledger.class_counts[0]

    @property
    def sample(self) -> tuple[Tensor, Tensor]:
        """Return a random sample of rows, (n, K) float64 logits and (n,) labels; all of them where they are
        few."""
        assert self._waiting
        self._choose()
        ((_, rows, labels),) = self._waiting
        return rows.double(), labels

    @property
    def mean_row_sum(self) -> float:
        """Return the mean over rows of the sum of sigmoids: near 1 under plain one-vs-all losses, anything under
        softmax."""
        if "logistic" not in self.metrics:
            return 0.0
        return float(self.metrics["logistic"].fold_sums.sum()) / max(1, int(self.metric.class_counts.sum()))

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return what :func:`~steelyard.balance.logistic_statistics` returns, of all rows."""
        counts = self.metric.class_counts[:, None]
        A, V = (self._statistics / counts).masked_fill(counts == 0, torch.nan)
        return A, V

    def _read(self, logits: Rows, target: Rows) -> tuple[Tensor, Tensor]:
        """Return logits as rows, and labels (n,), or (n, K) multi-hot targets with -100 where they count for
        nothing."""
        z, y = as_tensor("logits", logits), as_tensor("target", target)
        if self.class_dim == -1 and z.dim() > 1:
            y = y.movedim(-1, 1) if self.stated.several and y.dim() == z.dim() else y
            z = z.movedim(-1, 1)
        z = z[:, None] if z.dim() == 1 else z
        check_logits(z)
        columns = self.stated.columns
        if z.shape[1] != columns:
            raise ValueError(f"logits must have {columns} columns, got {z.shape[1]}")
        rows = z.movedim(1, -1).reshape(-1, columns)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        if not self.stated.several and not self.stated.binary:
            if y.shape == z.shape:
                raise ValueError(
                    f"target must hold class labels, of shape {(len(z), *z.shape[2:])}, got {tuple(y.shape)}; "
                    'for outputs that stand for themselves state TrainingSetup(..., targets="multi-hot")'
                )
            check_target(z, y, num_labels=columns, ignore_index=self.ignore_index, validate=True)
            return rows, y.long().reshape(-1)
        if self.stated.several:
            if y.shape != z.shape:
                raise ValueError(f"target must be multi-hot, of shape {tuple(z.shape)}, got {tuple(y.shape)}")
            y = y.movedim(1, -1).reshape(-1, columns)
        elif tuple(y.shape) not in ((len(z), *z.shape[2:]), tuple(z.shape), (len(z), *z.shape[2:], 1)):
            raise ValueError(
                f"target must have shape {(len(z), *z.shape[2:])} for one output, got {tuple(y.shape)}"
            )
        else:
            y = y.reshape(-1)
        labels = y.long()
        bad = (y != labels) | ((labels != 0) & (labels != 1) & (labels != self.ignore_index))
        if bool(bad.any()):
            raise ValueError(
                f"target must hold 0, 1 or {self.ignore_index} (ignored) where outputs stand for themselves, "
                f"got {y[bad][0].item():g}"
            )
        return rows, labels

    def _keep(self, rows: Tensor, labels: Tensor) -> None:
        """Keep the rows with the smallest keys: as the keys are random, a random sample of all rows so far."""
        keys = torch.rand(len(rows), generator=self._generator, dtype=torch.float64)
        if self._largest < 1:  # few of many rows come in
            near = keys < self._largest
            keys, rows, labels = keys[near], rows[near], labels[near]
        self._waiting.append((keys, rows, labels))
        if sum(len(one) for one, _, _ in self._waiting) > 2 * self._kept:
            self._choose()

    def _choose(self) -> None:
        """Choose among the rows that wait. With every batch it would take as long as all else."""
        if len(self._waiting) < 2 and all(len(keys) <= self._kept for keys, _, _ in self._waiting):
            return
        dtype = max((rows.dtype for _, rows, _ in self._waiting), key=lambda one: one.itemsize)
        keys, rows, labels = (
            torch.cat([keys for keys, _, _ in self._waiting]),
            torch.cat([rows.to(dtype) for _, rows, _ in self._waiting]),
            torch.cat([labels for _, _, labels in self._waiting]),
        )
        if len(keys) > self._kept:
            chosen = keys.topk(self._kept, largest=False).indices
            keys, rows, labels = keys[chosen], rows[chosen], labels[chosen]
            self._largest = float(keys.max())
        self._waiting = [(keys, rows, labels)]


def as_tensor(name: str, values: Rows) -> Tensor:
    """Return the values on the CPU, without a gradient.

    Raises:
        TypeError: something else than numbers.
    """
    if isinstance(values, Tensor):
        refuse_spread(name, values)
        return values.detach().cpu()
    if isinstance(values, np.ndarray) or (isinstance(values, Sequence) and not isinstance(values, str | bytes)):
        try:
            array = np.asarray(values)
        except ValueError:
            raise ValueError(f"{name} must have rows of one length, got rows of several") from None
        if array.dtype.kind in "iu":
            return torch.tensor(array.astype(np.int64))
        if array.dtype.kind in "fb":
            return torch.tensor(array.astype(np.float64) if array.dtype.itemsize > 8 else array)
        raise TypeError(f"{name} must hold numbers, got {array.dtype}")
    raise TypeError(f"{name} must be a tensor, an array or a sequence of numbers, got {type(values).__name__}")
