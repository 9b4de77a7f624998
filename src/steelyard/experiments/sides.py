"""What a seed trains and is judged on, made of the rows that it draws."""

import torch
from torch import Tensor

from steelyard.data import Dataset
from steelyard.experiments.job import Splits


class Sides:
    """The validation and test rows of a data set, with inputs by what is fitted on the training rows of a seed.

    Inputs for which nothing is fitted, such as images, are the same for every seed and made once.

    Args:
        data: the data set.
        held_out: validation rows of its training split.
        judged_by: rows of its test split.
    """

    def __init__(self, data: Dataset, held_out: Tensor, judged_by: Tensor) -> None:
        self.data = data
        self.validation_target, self.test_target = data.train_target[held_out], data.test_target[judged_by]
        self._rows = held_out, judged_by
        self._made: tuple[Dataset, Tensor, Tensor] | None = None

    def splits(self, chosen: Tensor) -> Splits:
        """Return the splits of a seed that trains on these rows of the training split."""
        fitted = self.data.prepare(chosen)
        if self._made is None or self._made[0] is not fitted:
            held_out, judged_by = self._rows
            self._made = fitted, fitted.inputs("train", held_out), fitted.inputs("test", judged_by)
        labels = self.data.train_target[chosen]
        return Splits(
            (fitted.inputs("train", chosen), labels),
            (self._made[1], self.validation_target),
            (self._made[2], self.test_target),
            torch.bincount(labels, minlength=len(self.data.class_names)),
        )
