"""From the numbers of a file to corrected log-probabilities, as a stream."""

import math
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from steelyard.auditing.gather import Values
from steelyard.auditing.probabilities import Probabilities, are_percents, look_like_probabilities
from steelyard.balance import TrainingSetup
from steelyard.data import Predictions
from steelyard.posterior import log_posterior

SAMPLE = 1 << 24  # numbers that a prior or a temperature is found from
_LOWEST, _HIGHEST = 0.01, 100.0
_HALVINGS = 40


class Numbers:
    """The numbers of a file as logits. What they are is told by all rows, in a pass of its own.

    Args:
        opened: the file.
        whole: probabilities sum to 1 in a row.
        values: what they are said to be.
        say: told what is seen.

    Raises:
        ValueError: nobody says what they are, and all of them look like probabilities.
    """

    def __init__(
        self, opened: Predictions, whole: bool, values: Values | None, say: Callable[[str], None]
    ) -> None:
        self.opened = opened
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
        elif values is None and _all_look_like_probabilities(opened, whole):
            raise ValueError(
                f"the numbers of {opened.path} may be probabilities, as all of them look like some: say "
                "--from probabilities or --from logits"
            )

    def logits(self, rows: Tensor) -> Tensor:
        """Return (n, K) float64 logits of rows of finite numbers."""
        z = rows.double()
        return z if self.shown is None else self.shown.logits(z / self.unit)

    def mean_confusion(self) -> Tensor:
        """Return the (K, K) mean sigmoids of the file's labelled rows.

        Raises:
            ValueError: a class without rows.
        """
        from steelyard.balance import MeanConfusion  # with torchmetrics

        found = MeanConfusion(self.opened.num_classes, link="logistic")
        for rows, labels in self.opened.batches():
            kept = torch.isfinite(rows).all(1) & (labels >= 0)
            if bool(kept.any()):
                found.update(self.logits(rows[kept]), labels[kept])
        if bool((found.class_counts == 0).any()):
            k = int((found.class_counts == 0).nonzero()[0, 0])
            raise ValueError(
                f"the training rows of {self.opened.path} must have every class, got none of class {k}"
            )
        return found.compute()


class Undone:
    """From logits to corrected log-probabilities.

    Attributes:
        setup: what is taken out.
        independent: whether outputs stand for themselves.
        mean_confusion: for LGL-INR.
        temperature: divides what is left afterwards, before the prior of use is put in.
    """

    def __init__(self, setup: TrainingSetup, independent: bool, mean_confusion: Tensor | None) -> None:
        self.setup, self.independent, self.mean_confusion = setup, independent, mean_confusion
        self.temperature = 1.0

    def log_posterior(self, numbers: Numbers, rows: Tensor, prior: Tensor | None) -> Tensor:
        """Return log-probabilities (n, K), the logit of one output; NaN in rows where there are none."""
        kept = torch.isfinite(rows).all(1)
        found = torch.full(rows.shape, torch.nan, dtype=torch.float64)
        if not bool(kept.any()):
            return found
        z = numbers.logits(rows[kept])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows without a posterior, which are counted
            if self.temperature == 1:
                found[kept] = log_posterior(z, self.setup, prior, mean_confusion=self.mean_confusion)
            else:
                q = log_posterior(z, self.setup, mean_confusion=self.mean_confusion)
                found[kept] = self._for_prior(self._divided(q), prior)
        return found

    def _divided(self, q: Tensor) -> Tensor:
        if q.shape[1] == 1:
            return q / self.temperature
        if self.independent:
            return F.logsigmoid(_logits_of(q) / self.temperature)
        return torch.log_softmax(q / self.temperature, 1)

    def _for_prior(self, q: Tensor, prior: Tensor | None) -> Tensor:
        if prior is None:
            return q
        if q.shape[1] == 1:
            bare = TrainingSetup("logistic", targets="binary", class_counts=self.setup.class_counts)
        else:
            bare = TrainingSetup("softmax", class_counts=self.setup.class_counts)
        return log_posterior(q, bare, prior)

    def fit_temperature(self, numbers: Numbers) -> tuple[float, int]:
        """Return the temperature that makes a file's labels likeliest, and how many rows it was found from.

        Raises:
            ValueError: no rows, or labels for which no temperature is best.
        """
        rows, _ = sampled(numbers, lambda part: self.log_posterior(numbers, part, None), labelled=True)
        outputs = numbers.opened.num_classes
        q, labels = rows[:, :outputs], rows[:, outputs:].long()
        if outputs == 1 or self.independent:  # each number is a choice of two
            z = (q if outputs == 1 else _logits_of(q)).reshape(-1)
            q, labels = torch.stack([torch.zeros_like(z), z], 1), labels.reshape(-1, 1)
        kept = labels[:, 0] >= 0
        try:
            return likeliest_temperature(q[kept], labels[kept, 0]), len(rows)
        except ValueError as error:
            raise ValueError(f"no temperature fits the labels of {numbers.opened.path}: {error}") from None


def likeliest_temperature(log_q: Tensor, target: Tensor) -> float:
    r"""Return the T that minimises :math:`-\sum_i \log \mathrm{softmax}(\log q_i / T)_{y_i}`.

    In 1/T it is convex: its slope is halved to zero.

    Args:
        log_q: (N, K) float64, up to a constant in each row.
        target: (N,) int64.

    Raises:
        ValueError: no rows; a row whose own class has probability 0; a T below 0.01 or above 100.
    """
    if len(target) == 0:
        raise ValueError("there is no labelled row with a posterior")
    own = log_q.gather(1, target[:, None])[:, 0]
    if not bool(own.isfinite().all()):
        raise ValueError(f"{int((~own.isfinite()).sum())} rows give their own class a probability of 0")

    def slope(scale: float) -> float:
        p = torch.softmax(scale * log_q, 1)
        return float((torch.where(p > 0, p * log_q, 0.0).sum(1) - own).sum())

    low, high = 1 / _HIGHEST, 1 / _LOWEST
    if slope(high) <= 0:
        raise ValueError(f"they are likelier the lower it is, down to {_LOWEST:g}: too few rows are wrong")
    if slope(low) >= 0:
        raise ValueError(f"they are likelier the higher it is, up to {_HIGHEST:g}: probabilities do not tell them")
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


def sampled(numbers: Numbers, change: Callable[[Tensor], Tensor], *, labelled: bool = False) -> tuple[Tensor, int]:
    """Return what is made of the file's rows, those with NaN left out, and how many there were.

    Of more rows than hold SAMPLE numbers it is a random sample.

    Args:
        numbers: of the file.
        change: from numbers (n, K) to rows (n, K).
        labelled: append labels as further columns; rows without any label are left out.
    """
    opened, generator = numbers.opened, torch.Generator().manual_seed(0)
    most = max(2, SAMPLE // opened.num_classes)
    rows, keys = [], []
    seen = held = 0
    for part, labels in opened.batches() if labelled else ((part, None) for part in opened.numbers()):
        q = change(part)
        kept = ~q.isnan().any(1)
        if labels is not None:
            columns = labels.reshape(len(labels), -1)
            kept &= (columns >= 0).any(1)
            q = torch.cat([q, columns.double()], 1)
        rows.append(q[kept])
        keys.append(torch.rand(len(rows[-1]), generator=generator, dtype=torch.float64))
        seen, held = seen + len(rows[-1]), held + len(rows[-1])
        if held > 2 * most:
            rows, keys = _smallest(rows, keys, most)
            held = most
    if not seen:
        return torch.empty(0, opened.num_classes * (2 if labelled else 1), dtype=torch.float64), 0
    if held > most:
        rows, keys = _smallest(rows, keys, most)
    return torch.cat(rows), seen


def _smallest(rows: list[Tensor], keys: list[Tensor], most: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the rows with the smallest keys, in their order."""
    key = torch.cat(keys)
    kept = key.topk(most, largest=False).indices.sort().values
    return [torch.cat(rows)[kept]], [key[kept]]


def _logits_of(log_q: Tensor) -> Tensor:
    """Return the logits of log-probabilities of outputs that stand for themselves."""
    return (log_q - (-torch.expm1(log_q)).log()).clamp(max=745)  # what logsigmoid still tells from 0


def _all_look_like_probabilities(opened: Predictions, whole: bool) -> bool:
    rows = None
    for rows in _finite(opened):
        if not look_like_probabilities(rows, whole):
            return False
    return rows is not None


def _finite(opened: Predictions) -> Iterator[Tensor]:
    """Yield the rows of finite numbers."""
    for numbers in opened.numbers():
        rows = numbers[torch.isfinite(numbers).all(1)]
        if len(rows):
            yield rows
