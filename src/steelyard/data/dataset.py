"""A data set of inputs and labels; inputs are made when asked for, and what is fitted to make them is fitted on
training rows."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from steelyard._common.checks import check_choice
from steelyard.data.splits import split_validation

Inputs = Callable[[str, Tensor], Tensor]
"""The inputs (n, ...) of some rows of a split."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labels in memory, inputs on demand.

    Inputs are images (n, C, H, W), uint8, or features (n, D): float32, or uint8 levels of a built-in task.

    Attributes:
        name: as it was asked for.
        class_names: K names.
        train_target, test_target: labels from 0 to K - 1, int64.
        groups: (N,) int64 of the training rows: rows of one group stay on one side of every split. None where no
            groups are known.
        times: (N,) int64 of the training rows: in every split the rows that are set aside are later than the
            others, as test rows are later than training rows. None where rows have no order.
        reading: what was found in the data and read as what, in a line; ``""`` for a built-in task.
        digest: of the data, by which trainings on it are known; None where names alone tell.
    """

    name: str
    class_names: tuple[str, ...]
    train_target: Tensor
    test_target: Tensor
    _inputs: Inputs | None = field(repr=False)
    _fit: Callable[[Tensor], Inputs] | None = field(default=None, repr=False)
    groups: Tensor | None = field(default=None, repr=False)
    times: Tensor | None = field(default=None, repr=False)
    reading: str = ""
    digest: str | None = None

    def set_aside(self, fraction: float) -> tuple[Tensor, Tensor]:
        """Return the training rows that stay, and those that are set aside for validation, always the same.

        Args:
            fraction: share to set aside, in (0, 1); see :func:`split_validation`.

        Raises:
            ValueError: as :func:`split_validation`.
        """
        return split_validation(
            self.train_target,
            fraction,
            seed=0,
            groups=self.groups,
            times=self.times,
            class_names=self.class_names,
        )

    def prepare(self, train_indices: Tensor) -> "Dataset":
        """Return the data set whose inputs are made by what is fitted on these training rows.

        Imputation, scaling, categories and vocabularies are fitted. Images, for which nothing is fitted, return
        the data set itself.

        Args:
            train_indices: (n,) integers, the rows of the training split that are trained on.

        Raises:
            TypeError: indices that are no integers.
            IndexError: a row that the split does not have.
            ValueError: no rows.
        """
        self._check("train", train_indices)
        if self._fit is None:
            return self
        if len(train_indices) == 0:
            raise ValueError("train_indices must name at least one row, got none")
        return replace(self, _inputs=self._fit(train_indices), _fit=None)

    def inputs(self, split: Literal["train", "test"], indices: Tensor) -> Tensor:
        """Return the inputs of these rows of a split: images (n, C, H, W) or features (n, D).

        More than 4 GiB of decoded images are mapped from a temporary file (in ``TMPDIR``), not held in memory.

        Raises:
            TypeError: indices that are no integers.
            IndexError: a row that the split does not have.
            ValueError: inputs that need :meth:`prepare` first; rows that cannot be decoded (they are listed),
                mixed modes, or mixed sizes.
        """
        self._check(split, indices)
        if self._inputs is None:
            raise ValueError(
                f"inputs of dataset {self.name!r} are made by what is fitted on training rows: prepare(rows) first"
            )
        if len(indices) == 0:  # the first row tells the shape
            return self._inputs(split, torch.tensor([0]))[:0]
        return self._inputs(split, indices)

    def _check(self, split: Literal["train", "test"], indices: Tensor) -> None:
        check_choice("split", split, ("train", "test"))
        rows = len(self.train_target if split == "train" else self.test_target)
        if indices.dim() != 1 or indices.dtype not in (torch.int64, torch.int32):
            dtype = str(indices.dtype).removeprefix("torch.")
            raise TypeError(f"indices must be integers (n,), got {dtype} of shape {tuple(indices.shape)}")
        for row in (int(indices.min()), int(indices.max())) if len(indices) else ():
            if not 0 <= row < rows:
                raise IndexError(f"indices must be from 0 to {rows - 1} in split {split}, got {row}")
