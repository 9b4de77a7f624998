"""Audits of outputs that stand for themselves: with multi-hot targets each is a binary problem of its own."""

from collections.abc import Callable

import torch
from torch import Tensor

from steelyard.auditing.explanations import Explanations, explain
from steelyard.auditing.findings import Hypothesis, Numbers, Refit
from steelyard.auditing.gather import Evidence
from steelyard.auditing.judge import judge
from steelyard.auditing.refit import PerSample, one_vs_all, refit
from steelyard.auditing.report import AuditReport
from steelyard.balance.laws import Balance

_TIMES = {"as stated": 1, "no weights": 0, "twice": 2}


def audit_outputs(evidence: Evidence, class_counts: Tensor | None, names: tuple[str, ...]) -> AuditReport:
    r"""Return the report on an output-wise loss, whose law ties each output alone.

    .. math:: u_j \sum_{i: y_{ij} = 1} -g_j(z_i) = \sum_{i: y_{ij} = 0} g_j(z_i)

    so that push over pull is the implied over the stated weight of the positives.

    Raises:
        ValueError: counts of another training set, which do not say how many negatives it had.
    """
    ledger, stated = evidence.ledger, evidence.stated
    assert ledger is not None
    counts = ledger.class_counts
    if class_counts is not None and not torch.equal(class_counts, counts[1].double()):
        raise ValueError(
            "class_counts must be None for multi-hot targets or the positives of each output in target, "
            f"{counts[1].tolist()}, got {class_counts.tolist()}"
        )
    u = stated.pos_weight

    def law(power: float | Tensor) -> Callable[[Tensor, Tensor], Balance]:
        """Of the gradients and counts, were the positives' weights those that are stated to this power."""

        def of(sums: Tensor, samples: Tensor) -> Balance:
            rows = samples.sum(0).clamp(min=1)
            factor = 1.0 if u is None else u ** (power - 1)
            return Balance(-factor * sums[1] / rows, sums[0] / rows)

        return of

    def misfit(power: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda *data: torch.tensor(law(power)(*data).misfit, dtype=torch.float64)

    def weigh(name: str, power: float) -> Hypothesis:
        error = float(ledger.jackknife(misfit(power))) if ledger.folds > 1 else None
        return Hypothesis(name, "logistic", law(power)(ledger.compute(), counts).misfit, error)

    def implied(sums: Tensor, samples: Tensor) -> Tensor:
        held = law(1)(sums, samples)
        ratio = held.push_down / held.pull_up
        return (ratio if u is None else ratio * u).masked_fill((samples == 0).any(0), torch.nan)

    balance = law(1)(ledger.compute(), counts)
    if ledger.folds > 1:
        error = ledger.jackknife(lambda *data: law(1)(*data).residual)
        balance = Balance(balance.pull_up, balance.push_down, error)
    hypotheses = [weigh("as stated", 1)]
    if u is not None:
        hypotheses += [weigh("no weights", 0), weigh("twice", 2)]
    weights = implied(ledger.compute(), counts)
    replicates = of_implied = None
    if ledger.folds > 1:
        replicates = torch.stack([implied(*data).log() for data in ledger.replicates()])
        of_implied = ledger.jackknife(lambda *data: implied(*data).log())
    P = evidence.mean_confusion
    numbers = Numbers(
        statement=stated,
        names=names,
        rows=evidence.rows,
        dropped=evidence.invalid,
        samples=tuple(counts[1].tolist()),
        class_counts=counts[1].double(),
        balance=balance,
        hypotheses=tuple(hypotheses),
        implied=None,
        implied_pos_weight=weights,
        explained=explain(Explanations(weights.log(), replicates, None), u, {}, counts[1].double()),
        columns=evidence.columns.compute(),
        learned=float((P.diagonal() - evidence.mean_of_negatives).nan_to_num(0.0).mean()),
        refit=_refit(evidence, _TIMES[min(hypotheses, key=lambda h: h.misfit).name]),
        spread=float((P.diagonal() - evidence.mean_of_negatives).abs().nan_to_num(0.0).max()),
        mean_row_sum=None,
        trades=(),
        hard=(),
        standard_error=torch.full_like(P, torch.nan),
        notes=evidence.notes,
        implied_pos_log_error=of_implied,
    )
    return AuditReport(judge(numbers), numbers, P, torch.stack([-balance.push_down, balance.pull_up]))


def _refit(evidence: Evidence, power: int) -> Refit | None:
    """Return what new scale and shifts would gain, under the stated weights of positives to the power that fits
    best.

    None where every sample has an output that counts for nothing, of which the loss has no part, and where the
    weights stand in the formula of a loss of another kind.
    """
    (logits, target), stated = evidence.sample, evidence.stated
    whole = (target != evidence.ignore_index).all(1)
    u = stated.pos_weight
    loss: PerSample = stated.setup.per_sample
    if u is not None and power != 1:
        if not stated.plain:
            return None
        loss, logits = one_vs_all(u**power), stated.as_trained(logits)
    if not bool(whole.any()):
        return None
    ones = torch.ones(int(whole.sum()), dtype=torch.float64)
    return refit(logits[whole], target[whole].double(), ones, loss)
