"""Who pays for whom: the balance laws entry by entry, before they are summed over the true classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard._common.checks import check_number
from steelyard.balance.laws import masses


@dataclass(frozen=True)
class Trade:
    """What two classes give each other, as shares of the whole weighted count.

    Attributes:
        classes: the two; the first gives at least as much as it gets.
        there: :math:`a_k P_{kj}`, what the first gives to the second.
        back: what the second gives to the first. Of two classes alone each gives as much as it gets; where
            they do not, probability circulates through others.
    """

    classes: tuple[int, int]
    there: float
    back: float


@dataclass(frozen=True)
class HardClasses:
    """The other classes behind the one average that the one-vs-all law ties.

    Attributes:
        output: the column of P.
        average: weighted mean false probability of the column over all other classes.
        hard: other classes whose mean false probability is above the average by the factor asked for, hardest
            first.
        averaged_away: those of them that make up less than an even share of the push: the law hardly feels them.
    """

    output: int
    average: float
    hard: tuple[int, ...]
    averaged_away: tuple[int, ...]


def ledger(
    mean_confusion: Tensor,
    class_counts: Tensor,
    class_weights: Tensor | None = None,
    *,
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""Return pull and push of each source class on each output: the softmax and one-vs-all laws, not yet summed.

    .. math:: G_{jj} = u_j a_j (1 - P_{jj}), \qquad G_{kj} = -a_k P_{kj} \; (k \ne j), \qquad a_k = w_k N_k

    Args:
        mean_confusion: (K, K); a row of a class without samples may be NaN.
        class_counts: (K,) :math:`N_k`.
        class_weights: (K,) :math:`w_k`. Default: all 1.
        pos_weight: (K,) :math:`u_j`. Default: all 1.

    Returns:
        (K, K) float64, over :math:`\sum a`; the sum of column j is the residual of output j.

    Raises:
        ValueError: as the laws do.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020.

    Example:
        >>> ledger(torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([100, 100]))
        tensor([[ 0.2500, -0.2500],
                [-0.1250,  0.1250]], dtype=torch.float64)
    """
    P, mass = masses(mean_confusion, class_counts, class_weights)
    entries = -mass[:, None] * P
    pull = mass * (1 - P.diagonal())
    entries.diagonal().copy_(pull if pos_weight is None else pull * pos_weight.double())
    return entries


def trades(
    mean_confusion: Tensor, class_counts: Tensor, class_weights: Tensor | None = None, *, most: int = 10
) -> tuple[Trade, ...]:
    r"""Return the pairs of classes that give each other most: :math:`a_k P_{kj} + a_j P_{jk}`, largest first.

    Args:
        mean_confusion, class_counts, class_weights: as in :func:`ledger`.
        most: how many pairs.

    Raises:
        ValueError: as the laws do.

    Source:
        Derived for this project: two classes are in detailed balance, more in global balance only.

    Example:
        >>> trades(torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([100, 100]))
        (Trade(classes=(0, 1), there=0.25, back=0.125),)
    """
    P, mass = masses(mean_confusion, class_counts, class_weights)
    given = mass[:, None] * P
    first, second = torch.triu_indices(len(P), len(P), offset=1)
    both = (given + given.T)[first, second]
    found = []
    for i in both.topk(min(most, len(both))).indices.tolist():
        k, j = int(first[i]), int(second[i])
        if given[k, j] < given[j, k]:
            k, j = j, k
        found.append(Trade((k, j), float(given[k, j]), float(given[j, k])))
    return tuple(trade for trade in found if trade.there > 0)


def hard_classes(
    mean_confusion: Tensor,
    class_counts: Tensor,
    class_weights: Tensor | None = None,
    *,
    factor: float = 2.0,
) -> tuple[HardClasses, ...]:
    r"""Return for each output the classes that it takes for its own far more often than the average in its law.

    .. math:: \bar P_j = \frac{\sum_{k \ne j} a_k P_{kj}}{\sum_{k \ne j} a_k}, \qquad
        \text{hard: } P_{kj} \ge f \bar P_j, \qquad
        \text{averaged away: hard, and } a_k P_{kj} < \frac{1}{K - 1} \sum_{l \ne j} a_l P_{lj}

    Args:
        mean_confusion, class_counts, class_weights: as in :func:`ledger`.
        factor: :math:`f`, at least 1.

    Returns:
        One for each output, in order.

    Raises:
        ValueError: as the laws do.

    Source:
        Li, Li, Pan, Zhu, AAAI 2020 (averaging effect, multi-modality neglect); the thresholds are this project's.

    Example:
        >>> P = torch.tensor([[0.9, 0.1, 0.0], [0.01, 0.9, 0.09], [0.5, 0.1, 0.4]], dtype=torch.float64)
        >>> column = hard_classes(P, torch.tensor([100, 1000, 10]))[0]
        >>> column.hard, column.averaged_away       # class 2 is half taken for class 0, and too rare to be felt
        ((2,), (2,))
        >>> round(column.average, 4)
        0.0149
    """
    factor = check_number("factor", factor, low=1)
    P, mass = masses(mean_confusion, class_counts, class_weights)
    observed = mass > 0
    result = []
    for j in range(len(P)):
        others = observed.clone()
        others[j] = False
        push = mass * P[:, j] * others
        average = push.sum() / mass[others].sum() if bool(others.any()) else push.sum()
        hard = others & (P[:, j] >= factor * average) & (P[:, j] > 0)
        away = hard & (push < push.sum() / max(1, int(others.sum())))
        order = P[:, j].argsort(descending=True).tolist()
        result.append(
            HardClasses(j, float(average), tuple(k for k in order if hard[k]), tuple(k for k in order if away[k]))
        )
    return tuple(result)
