"""Probabilities given for logits: how they are rounded, how far a row may be off, which logits they stand for."""

import torch
from torch import Tensor

from steelyard.balance.setup import TrainingSetup, shifts_together

_EXACT = 1e-3  # that sums of single precision may be off
_MOST = 0.1
_HALF = {"bfloat16": 2.0**-7, "float16": 2.0**-9}  # that sums may be off: two units of the last bit
_DECIMALS = (1, 2, 3, 4)  # with none there is nothing but 0 and 1; with more rows sum to 1 as if they were exact


def check_tell(setup: TrainingSetup, classes: int) -> None:
    """Refuse a loss over softmax that sees more of the logits than their probabilities tell."""
    if not shifts_together(setup, classes):
        raise ValueError(
            f"probabilities do not tell the logits of the {setup.text}, which changes where one number is added "
            "to all logits of a row: give the logits"
        )


class Probabilities:
    """Reads rows of probabilities, batch by batch; the finest rounding that a batch shows holds from there on.

    Args:
        classes: numbers in a row.
        whole: rows sum to 1.

    Attributes:
        decimals: that the numbers have, or None where they are not rounded to a few.
    """

    def __init__(self, classes: int, whole: bool) -> None:
        self.classes, self.whole = classes, whole
        self.decimals: int | None = 0
        self._half = [*_HALF]  # the precisions that all numbers so far have

    @property
    def tolerance(self) -> float:
        """Return how far from 1 a row may sum: half a unit of the last decimal a class, at least 0.001, at most
        0.1."""
        if self.decimals:
            return min(_MOST, max(_EXACT, self._unit_sum))
        return _HALF[self._half[0]] if self._half and self.decimals is None else _EXACT

    @property
    def _unit_sum(self) -> float:
        return 0.51 * self.classes * 10.0 ** -(self.decimals or 0)

    @property
    def told(self) -> str | None:
        """Return what the rounding means, in a line, or None where there is none."""
        if self.decimals:
            kind = f"rounded to {self.decimals} decimals"
        elif self._half and self.decimals is None:
            kind = f"of {self._half[0]}'s precision"
        else:
            return None
        sums = f", rows may sum to 1 within {self.tolerance:.2g}" if self.whole else ""
        return f"probabilities are {kind}{sums}"

    def see(self, rows: Tensor) -> None:
        """Take note of the rounding of (n, K) float64 rows."""
        self._half = [name for name in self._half if bool((rows.to(getattr(torch, name)).double() == rows).all())]
        if self.decimals is not None:
            self.decimals = next((d for d in (0, *_DECIMALS) if d >= (self.decimals or 0) and _has(rows, d)), None)

    def sums_fit(self, rows: Tensor) -> Tensor:
        """Return for each row whether it sums to 1, up to the tolerance."""
        return (rows.sum(1) - 1).abs() <= self.tolerance

    def logits(self, probabilities: Tensor) -> Tensor:
        """Return (n, K) float64 logits.

        Raises:
            ValueError: numbers outside of [0, 1], rows that do not sum to 1 where they must.
        """
        p = probabilities.double()
        if bool(((p < 0) | (p > 1)).any()):
            percent = " (percents are to be divided by 100)" if self.whole and are_percents(p) else ""
            raise ValueError(
                f"probabilities must lie in [0, 1], got {float(p.min()):g} to {float(p.max()):g}{percent}"
            )
        self.see(p)
        if self.whole and not bool((fits := self.sums_fit(p)).all()):
            worst = float(p.sum(1)[~fits][0])
            kind = f", rounded to {self.decimals} decimals" if self.decimals else ""
            raise ValueError(
                f"probabilities must sum to 1 in each row, up to {self.tolerance:.2g}{kind}, got {worst:g}"
            )
        # A rounded 0 is less than half a unit; all zeros of a row together weigh no more than one unit.
        unit = 10.0**-self.decimals / max(4, self.classes) if self.decimals else None
        floor = torch.finfo(torch.float64).tiny if unit is None else unit
        if self.whole:
            return p.clamp(min=floor).log()
        return p.clamp(min=floor).log() - (1 - p).clamp(min=2.0**-53 if unit is None else unit).log()


def look_like_probabilities(rows: Tensor, whole: bool) -> bool:
    """Return whether all rows are in [0, 1] or in percent, and sum to 1 or 100 where they are `whole`."""
    p = rows.double()
    if bool(((p < 0) | (p > 100)).any()):
        return False
    if bool((p <= 1).all()):
        return not whole or _sum_to_one(p)
    return whole and are_percents(p)


def are_percents(rows: Tensor) -> bool:
    """Return whether (n, K) rows of several numbers are in [0, 100] and sum to 100."""
    p = rows[torch.isfinite(rows).all(1)].double() / 100
    return p.shape[1] > 1 and len(p) > 0 and bool(((p >= 0) & (p <= 1)).all()) and _sum_to_one(p)


def _sum_to_one(p: Tensor) -> bool:
    shown = Probabilities(p.shape[1], True)
    shown.see(p)
    tolerance = max(shown.tolerance, shown._unit_sum if shown.decimals else 0.0)  # also too coarse to be audited
    return bool(((p.sum(1) - 1).abs() <= tolerance).all())


def _has(rows: Tensor, decimals: int) -> bool:
    """Return whether all numbers are multiples of a power of ten, as far as single precision tells."""
    scaled = rows * 10.0**decimals
    whole = scaled.round()
    return bool(((scaled - whole).abs() <= 4e-7 * whole).all())
