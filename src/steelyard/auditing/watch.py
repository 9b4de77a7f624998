"""What an epoch's own batches say of class weights, while training runs: judgement and words."""

import math
import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from steelyard._common.text import listed
from steelyard.auditing.batch_sums import BatchSums
from steelyard.auditing.epoch import NOISE, Epoch, Fit, misfit, pooled, read_epoch
from steelyard.auditing.stated import SetupOrLoss, Stated

_SURE = 1.3  # half intervals: an alarm asks for about 99% where an interval has 95%
_POOLED = 3  # epochs that say together which classes are off
_FACTOR = 2.5  # implied over stated, from which a class is called off


class BalanceWarning(UserWarning):
    """Class weights do something else in a training than what is said of it."""


@dataclass(frozen=True)
class EpochReading:
    """What one epoch's batches say of the class weights.

    Attributes:
        epoch: from 1.
        power: to which the stated weights acted: 1 as stated, 0 not at all, 2 twice. None where nothing can be
            read: no weights, weights that are nearly equal, a loss of the whole batch.
        interval: 95%, from the scatter between batches and what epochs of small networks differ by.
        misfit: by how much pull and push differ under the stated weights, as a share of both.
        implied_weights: (K,) float64, the class weights that the batches show, with geometric mean 1 in each group
            of classes that are confused; of independent outputs the weight of each one's positives. NaN where
            unknown; None for a loss of the whole batch. With class counts they contain what the sampler did.
        drawn_power: the same power in how often the batches drew each class; None without class counts.
        off: classes whose weight is not the stated one, each with implied over stated.
        finding: ``"weights_acted"``, ``"weights_not_applied"``, ``"weights_applied_twice"``,
            ``"class_weight_off"``, or None where this epoch does not tell.
        text: all of it in words.
    """

    epoch: int
    power: float | None
    interval: tuple[float, float] | None
    misfit: float
    implied_weights: Tensor | None
    drawn_power: float | None
    off: tuple[tuple[int, float], ...]
    finding: str | None
    text: str

    def __str__(self) -> str:
        return f"epoch {self.epoch}: {self.text}"


class BalanceWatch:
    r"""Watch class weights during training: the balance law over each epoch's own batches.

    .. math:: G_{kj} = \sum_{\text{batches } b} Z_b^{-1} \sum_{i \in b: y_i = k} g_j(z_i, k), \qquad w G = 0

    over an epoch, with the logits as they were in each step and :math:`Z_b` what the loss's mean divides by. A
    sample with a soft target (mixup) counts for each of its classes by its part, as in the loss. So dropout,
    augmentation and sampler are in the numbers. The first epoch tells nothing of the loss: a model that gives all
    classes the same probability looks as if it was trained with inverse class frequencies.

    Args:
        setup: what was done in training, or its loss, as :func:`~steelyard.audit` takes it. Give the loss object
            where you can: it says how a batch is averaged. With ``class_counts`` the sampler is checked too.

    ``update(logits, target, sample_weight=None)`` adds a batch: what the loss got. It does not wait for the device
    (of a loss function the first call does). ``epoch_end()`` returns an :class:`EpochReading`; under
    ``torch.distributed`` all processes must call it, and it adds them up. A :class:`BalanceWarning` comes once for
    each finding, from the first process. LGL-INR is a loss of whole batches and has no class weights: of it only
    the misfit can be read.

    Raises:
        TypeError, ValueError: as ``audit`` does; more than 1500 classes; a ``logit_shift``, which comes later.

    Source:
        Derived for this project from the laws of Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> target = torch.arange(60) % 3
        >>> watch = BalanceWatch(torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 4.0])))
        >>> for rows in torch.arange(60).split(6):
        ...     watch.update(torch.eye(3)[target[rows]], target[rows])
        >>> reading = watch.epoch_end()
        >>> reading.epoch, abs(round(reading.power, 3)), reading.finding
        (1, 0.0, None)
    """

    def __init__(self, setup: SetupOrLoss) -> None:
        self._sums = BatchSums(setup)
        self._judge = Judge()

    def update(self, logits: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch of this epoch."""
        self._sums.add(logits, target, sample_weight)

    def epoch_end(self) -> EpochReading:
        """Return what the epoch says, warn if it says so for the first time, and begin the next.

        Raises:
            ValueError: no batch was added.
        """
        sums, stated = self._sums.take(), self._sums.stated
        assert stated is not None
        reading, warn = self._judge.read(
            read_epoch(sums, stated), misfit(sums, stated.setup.class_weights), stated
        )
        first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        if warn and first:
            warnings.warn(str(reading), BalanceWarning, stacklevel=2)
        return reading


class Judge:
    """What epochs say, one after the other."""

    def __init__(self) -> None:
        self.epochs = 0
        self._fault: str | None = None
        self._last: list[Epoch] = []

    def read(self, epoch: Epoch | None, misfit: float, stated: Stated) -> tuple[EpochReading, bool]:
        """Return the reading of the next epoch, and whether to warn."""
        self.epochs += 1
        if epoch is None:
            text = (
                f"{stated.setup.text} has no class weights to be read; pull and push differ by {misfit:.0%}"
                if stated.in_negative is not None
                else "nothing can be read: the logits of a batch were not finite"
            )
            return EpochReading(self.epochs, None, None, misfit, None, None, (), None, text), False
        if self.epochs > 1:
            self._last = [*self._last[1 - _POOLED :], epoch]
        fit = epoch.fit()
        finding, off = _finding(epoch if self.epochs == 1 else pooled(self._last), self._last)
        warn = finding not in (None, "weights_acted") and self._fault is None
        if self._fault is not None and finding != self._fault:
            finding, off = None, ()  # what else shows beside a fault is most often its shadow
        self._fault = finding if warn else self._fault
        implied = epoch.implied.exp()
        words = _words(epoch, fit, finding, off, misfit, stated)
        interval = None if fit is None else (fit.power - fit.half, fit.power + fit.half)
        reading = EpochReading(
            self.epochs,
            None if fit is None else fit.power,
            interval,
            misfit,
            implied,
            None if epoch.drawn is None else epoch.drawn.power,
            off,
            finding,
            words,
        )
        return reading, warn


def _off(whole: Epoch, last: list[Epoch]) -> tuple[tuple[int, float], ...]:
    """Return the classes that are off in each of the last epochs and in their mean, with implied over stated."""
    if len(last) < _POOLED:
        return ()
    mean, each = whole.off, torch.stack([one.off for one in last])
    apart = _apart(whole, 3) & (each * mean.sign() > mean.abs() / 3).all(0)
    return tuple((k, float(mean[k].exp())) for k in apart.nonzero()[:, 0].tolist())


def _apart(whole: Epoch, deviations: float) -> Tensor:
    """Return which classes are off by more than the factor and so many standard deviations."""
    deviation = (whole.error.square() + whole.few + NOISE**2).sqrt()
    return (whole.off.abs() > math.log(_FACTOR)) & (whole.off.abs() > deviations * deviation)


def _finding(whole: Epoch, last: list[Epoch]) -> tuple[str | None, tuple[tuple[int, float], ...]]:
    """Return what the mean of the last epochs, without the first, tells, and the classes that it is about."""
    drawn, expected = whole.drawn, whole.drawn_stated
    if drawn is not None and expected == 1 and drawn.power < 0.5 and drawn.excludes(1, 2):
        return "weights_not_applied", ()
    fit = whole.fit() if last else None
    if fit is None:
        return None, ()
    off = _off(whole, last)
    if off and len(off) <= max(1, len(whole.implied) // 4):
        rest = whole.fit(tuple(k for k, _ in off))
        toward = all((factor > 1) == bool(whole.lean[k] > whole.stated[k]) for k, factor in off)
        if (
            rest is not None
            and rest.excludes(0)
            and abs(rest.power - 1) < 0.45
            and (whole.absolute or not toward or whole.tells(1))
        ):
            return "class_weight_off", off
    others = [fit.power, *whole.fits_without_one()]
    sampled = drawn is not None and expected == 0 and drawn.power > 0.5 and drawn.excludes(0, 2)
    if fit.power < 0.5 and fit.excludes(1, _SURE) and max(others) < 0.65 and _safe(whole, -1):
        return "weights_not_applied", ()
    if (
        fit.power > (1.35 if sampled else 1.5)
        and fit.excludes(1, _SURE)
        and min(others) > 1.25
        and _safe(whole, 1)
    ):
        return "weights_applied_twice", ()
    # a power on its way from where untrained models begin may pass 1
    told = (
        len(last) == _POOLED
        and fit.excludes(0)
        and fit.excludes(2)
        and (whole.lean_power() < 0.5 or whole.tells(0))
    )
    if not fit.excludes(1) and told and not bool(_apart(whole, 2).any()):
        return "weights_acted", ()
    return None, ()


def _safe(epoch: Epoch, side: int) -> bool:
    """Return whether a power off to this side of 1 is not only where every untrained model begins."""
    return side * (epoch.lean_power() - 1) < 0.25 or epoch.tells(1)


def _words(
    epoch: Epoch,
    fit: Fit | None,
    finding: str | None,
    off: tuple[tuple[int, float], ...],
    misfit: float,
    stated: Stated,
) -> str:
    balance = f"Pull and push of the outputs differ by {misfit:.0%}."
    if fit is None and finding is None:
        equal = len(epoch.stated) == 0 or bool((epoch.stated - epoch.stated[0]).abs().max() < 0.1)
        equal = equal and not (epoch.absolute and bool(epoch.stated.abs().max() >= 0.1))
        why = (
            "there are no weights, or they are nearly equal"
            if equal
            else "the epoch has too few batches of each class"
        )
        return f"Nothing can be told of weights: {why}. {balance}"
    sampler = epoch.drawn is not None and epoch.drawn.power > 0.5
    names = stated.setup.class_names
    called = [(names[k] if names else f"class {k}", factor) for k, factor in off]
    classes = listed([f"{name} (weighs {factor:.2g} times what is stated)" for name, factor in called])
    headline = {
        "weights_acted": "The weights act as stated.",
        "weights_not_applied": "The weights do not act: check that they reach "
        + ("the sampler." if epoch.drawn_stated == 1 and not sampler else "the loss."),
        "weights_applied_twice": "The weights act twice: "
        + (
            "the batches are drawn by them, and the loss has them too."
            if sampler and not epoch.drawn_stated
            else "look for a second place that applies them, such as a sampler."
        ),
        "class_weight_off": f"The weights act, but not those of {classes}.",
        None: "This epoch does not tell whether the weights act as stated.",
    }[finding]
    if fit is None:
        return f"{headline} {balance}"
    low, high = fit.power - fit.half, fit.power + fit.half
    strength = (
        f"They act to the power {fit.power:.2f} [{low:.2f}, {high:.2f}], where 1 is as stated and 0 not at all."
    )
    return f"{headline} {strength} {balance}"
