"""What thresholds are to make best: numbers of a confusion table."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steelyard._common.text import nearest

NAMES = ("accuracy", "balanced-accuracy", "macro-f1", "f1")
_MINIMUM = "min-recall"
_ENOUGH = 1e-9
_SHORT = -2.0  # below every value, where a recall is short of its minimum


@dataclass(frozen=True)
class Objective:
    r"""An objective: a sum over the decisions j of a number of column j of the confusion table.

    .. math:: V = \sum_j f_j(A_j, D_j), \quad A_j = \sum_k U_{kj} C_{kj}, \quad D_j = \sum_k C_{kj}

    with C[k, j] the rows of class k that were decided j, and :math:`n_k` the rows of class k:

    ==================== =============================================== ===============================
    name                 value                                           U, f
    ==================== =============================================== ===============================
    accuracy             share of rows that were told right              U = 1 on the diagonal, f = A / N
    balanced-accuracy    mean recall of the classes that have rows       f = A / n_j / K
    macro-f1             mean F1 of the classes that have rows           f = 2 A / (n_j + D_j) / K
    f1                   F1 of class 1 of two                            f = 2 A / (n_1 + D_1) of class 1
    cost                 minus the mean cost of a row                    U = costs, f = -A / N
    min-recall           precision of one class, under a minimum of its  f = A / D of the class
                         recall
    ==================== =============================================== ===============================

    Higher is better. So moving one row from a decision to another changes two columns, which makes a search exact
    and fast.

    Attributes:
        name: one of these.
        text: as it was written.
        minimum: a class and the least recall that it must have, for ``"min-recall"``.
        costs: (K, K) float64, for ``"cost"``.
    """

    name: str
    text: str
    minimum: tuple[int, float] | None = None
    costs: Tensor | None = field(default=None, compare=False)

    def value(self, confusion: Tensor) -> Tensor:
        """Return the value of tables (..., K, K) of counts, row the true class, column the decision."""
        counts = confusion.sum(-1)
        own = (confusion * self.gains(counts)).sum(-2)
        return self.columns(own, confusion.sum(-2), counts).sum(-1)

    def score(self, confusion: Tensor) -> Tensor:
        """Return what a search makes largest: the value, or how near the recall is where it is short."""
        if self.minimum is None:
            return self.value(confusion)
        k = self.minimum[0]
        return self.limited(confusion[..., k, k], confusion[..., k].sum(-1), confusion[..., k, :].sum(-1))

    def limited(self, own: Tensor, decided: Tensor, count: Tensor) -> Tensor:
        """Return the precision of the class where its recall is at least the minimum, else a lower number."""
        assert self.minimum is not None
        recall = own / count
        return torch.where(recall >= self.minimum[1] - _ENOUGH, own / decided.clamp(min=1), recall + _SHORT)

    def gains(self, counts: Tensor) -> Tensor:
        """Return U, (K, K)."""
        if self.costs is not None:
            return self.costs
        return torch.eye(counts.shape[-1], dtype=torch.float64)

    def columns(self, own: Tensor, decided: Tensor, counts: Tensor, of: Tensor | int | None = None) -> Tensor:
        """Return f of the columns `of` (default: all) for their sums A and D, and all (..., K) rows by class."""
        n = counts if of is None else counts[..., of]
        present = (counts > 0).sum(-1, keepdim=True).clamp(min=1)
        if of is not None:
            present = present[..., 0]
        which = torch.arange(counts.shape[-1]) if of is None else torch.as_tensor(of)
        if self.name == "balanced-accuracy":
            return torch.where(n > 0, own / n.clamp(min=1), 0.0) / present
        if self.name == "macro-f1":
            return torch.where(n > 0, 2 * own / (n + decided).clamp(min=1), 0.0) / present
        if self.name == "f1":
            return torch.where(which == 1, 2 * own / (n + decided).clamp(min=1), 0.0)
        if self.name == _MINIMUM:
            assert self.minimum is not None
            return torch.where(which == self.minimum[0], own / decided.clamp(min=1), 0.0)
        total = counts.sum(-1, keepdim=True) if of is None else counts.sum(-1)
        return (-own if self.name == "cost" else own) / total

    @property
    def linear(self) -> bool:
        """Return whether f is linear in A and the same for every D."""
        return self.name in ("accuracy", "balanced-accuracy", "cost")

    @property
    def limits(self) -> tuple[float, float]:
        """Return the least and the largest value that there is."""
        if self.costs is None:
            return 0.0, 1.0
        return -float(self.costs.max()), -float(self.costs.min())


def cost_objective(table: Tensor, text: str = "cost") -> Objective:
    """Return the objective of least mean cost under a (K, K) table."""
    return Objective("cost", text, costs=table)


def create_objective(text: str, class_names: Sequence[str]) -> Objective:
    """Return an objective by its text.

    Args:
        text: ``"accuracy"``, ``"balanced-accuracy"``, ``"macro-f1"``, ``"f1"`` (of class 1 of two), or
            ``"min-recall:CLASS=0.9"``: a recall of CLASS of at least 0.9 at the best precision of CLASS.
        class_names: in the order of the classes.

    Raises:
        TypeError, ValueError: another text, an unknown class, a recall outside (0, 1].

    Example:
        >>> create_objective("min-recall:fraud=0.9", ["honest", "fraud"]).minimum
        (1, 0.9)
    """
    if not isinstance(text, str):
        raise TypeError(f"objective must be a text or an Objective, got {type(text).__name__}")
    name, colon, rest = text.partition(":")
    if name == _MINIMUM and colon:
        one, equals, number = rest.rpartition("=")
        try:
            least = float(number) if equals else -1.0
        except ValueError:
            least = -1.0
        if not 0 < least <= 1:
            raise ValueError(
                f"objective min-recall must be min-recall:CLASS=RECALL with 0 < RECALL <= 1, got {text!r}"
            )
        names = list(class_names)
        if one not in names:
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ValueError(
                f"objective {text!r} names an unknown class {one!r}{nearest(one, names)}; there are {shown}"
            )
        return Objective(_MINIMUM, text, (names.index(one), least))
    if text not in NAMES:
        known = (*NAMES, "cost:FILE.csv", "min-recall:CLASS=0.9")
        raise ValueError(f"unknown objective {text!r}{nearest(text, known)}; choose from {', '.join(known)}")
    if text == "f1" and len(class_names) != 2:
        raise ValueError(f"objective 'f1' is for two classes, got {len(class_names)}: macro-f1 is for more")
    return Objective(text, text)
