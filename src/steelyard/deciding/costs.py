"""The decision of least expected cost."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import LARGEST, Vector, check_finite, check_number, check_vector
from steelyard.deciding.rows import Targets, read_rows

Costs = Vector | Any
"""(K, K), or (K,): tensors, arrays, or sequences."""


def decide(
    log_posterior: Tensor,
    costs: Costs | None = None,
    *,
    reject_cost: float | None = None,
    targets: Targets = "classes",
) -> Tensor:
    r"""Return the decision of least expected cost for each row.

    .. math:: d_i = \arg\min_j \sum_k q_{ik} C_{kj}

    With a `reject_cost` c a row is rejected, -1, where every decision is expected to cost more than c. With costs
    of 1 for each error that is Chow's rule: reject where :math:`\max_k q_{ik} < 1 - c`.

    It believes the probabilities, so they must be honest: take weights out of them first
    (:func:`steelyard.log_posterior`). Of two decisions that cost the same, the first class is taken.

    Args:
        log_posterior: (N, K) log-probabilities whose rows sum to 1; (N,) or (N, 1) for one output: its logit; with
            ``targets="multi-hot"`` (N, K) log-probabilities of outputs that stand for themselves.
        costs: (K, K), where ``costs[true, decided]`` is the cost of a decision (negative: a gain), or (K,), the
            cost of missing each class. K is 2 for one output, and for each output of multi-hot, which share them.
            Default: 1 for each error.
        reject_cost: of leaving a row to somebody else. Default: no row is rejected.
        targets: ``"classes"`` or ``"multi-hot"``.

    Returns:
        (N,) int64: a class, 0 or 1 for one output, -1 for a rejected row; (N, K) of 0, 1 and -1 for multi-hot.

    Raises:
        TypeError, ValueError: arguments of another type, shape or value than described; a row with NaN; costs by
            which a class costs more when it is told right than when it is told wrong, whatever is told: these look
            like gains.

    Source:
        Elkan, The foundations of cost-sensitive learning, IJCAI 2001; Chow, On optimum recognition error and
        reject tradeoff, IEEE Transactions on Information Theory 1970.

    Example:
        >>> q = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]).log()
        >>> decide(q)
        tensor([0, 0, 1])
        >>> decide(q, costs=[[0, 1], [5, 0]])             # missing class 1 costs five times as much
        tensor([0, 1, 1])
        >>> decide(q, reject_cost=0.3)
        tensor([ 0, -1,  1])
    """
    rows = read_rows(log_posterior, targets)
    table = read_costs(costs, rows.values.shape[2])
    decided = cheapest(rows.values, table)
    if reject_cost is not None:
        limit = check_number("reject_cost", reject_cost, low=-LARGEST, high=LARGEST)
        decided = torch.where((rows.values.exp() @ table).amin(2) > limit, -1, decided)
    return rows.restore(decided, log_posterior)


def expected_costs(log_posterior: Tensor, costs: Costs | None = None, *, targets: Targets = "classes") -> Tensor:
    r"""Return what each decision is expected to cost on each row, :math:`\sum_k q_{ik} C_{kj}`.

    Args:
        log_posterior, costs, targets: as :func:`decide` takes them.

    Returns:
        (N, K) float64, (N, 2) for one output, (N, K, 2) for multi-hot.

    Raises:
        TypeError, ValueError: as :func:`decide` does.

    Example:
        >>> expected_costs(torch.tensor([[0.6, 0.4]]).log(), [[0, 1], [5, 0]])
        tensor([[2.0000, 0.6000]], dtype=torch.float64)
    """
    rows = read_rows(log_posterior, targets)
    found = rows.values.exp() @ read_costs(costs, rows.values.shape[2])
    return (found.transpose(0, 1) if rows.kind == "multi-hot" else found[0]).to(log_posterior.device)


def read_costs(costs: Costs | None, size: int) -> Tensor:
    """Return the (K, K) table of costs, float64, after refusing what is none."""
    if costs is None:
        return 1 - torch.eye(size, dtype=torch.float64)
    nested = isinstance(costs, list | tuple) and any(isinstance(row, list | tuple) for row in costs)
    if nested or (isinstance(costs, Tensor | np.ndarray) and costs.ndim != 1):
        table = _matrix(costs, size)
        wrong = table.masked_fill(torch.eye(size, dtype=torch.bool), torch.inf).amin(1)
        worst = table.masked_fill(torch.eye(size, dtype=torch.bool), -torch.inf).amax(1)
        gains = table.diagonal() > worst
        if bool(gains.any()):
            k = int(gains.nonzero()[0])
            raise ValueError(
                f"costs[{k}, {k}], of class {k} told right, must not be above all costs of telling it wrong, got "
                f"{float(table[k, k]):g} against {float(wrong[k]):g} to {float(worst[k]):g}: give costs, not gains"
            )
        return table
    missed = check_vector("costs", costs, size, low=0)
    return missed[:, None] * (1 - torch.eye(size, dtype=torch.float64))


def cheapest(values: Tensor, table: Tensor) -> Tensor:
    """Return the decision of least expected cost, (T, N), for log-probabilities (T, N, K)."""
    size = len(table)
    missed = table[torch.arange(size), torch.arange(size) - 1]
    if bool((table == missed[:, None] * (1 - torch.eye(size).to(table))).all()):
        return (values + missed.log()).nan_to_num(nan=-torch.inf).argmax(2)  # which no rounding of 1 - q disturbs
    return (values.exp() @ table).argmin(2)


def _matrix(costs: Any, size: int) -> Tensor:
    rows = list(costs) if not isinstance(costs, Tensor | np.ndarray) or costs.ndim == 2 else None
    if rows is None or len(rows) != size:
        came = tuple(costs.shape) if isinstance(costs, Tensor | np.ndarray) else f"{len(costs)} rows"
        raise ValueError(f"costs must have shape ({size}, {size}) or ({size},), got {came}")
    table = torch.stack([check_vector(f"costs[{k}]", row, size) for k, row in enumerate(rows)])
    check_finite("costs", table.flatten(), low=-LARGEST, high=LARGEST)
    return table
