"""What an audit returns: findings, their words and the numbers behind them."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steelyard.auditing.findings import Finding, Numbers
from steelyard.auditing.words import Verdict, clause, tell
from steelyard.balance.implied import ImpliedWeights
from steelyard.balance.laws import Balance


@dataclass(frozen=True)
class AuditReport:
    """What the balance laws say of one model; made by :func:`audit`.

    Attributes:
        findings: the answers as codes and numbers, the most important first.
        numbers: all that they were judged by.
        mean_confusion: (K, K) float64; NaN rows for classes without samples.
        ledger: (K, K) pull and push by source class, under the stated weights.
    """

    findings: tuple[Finding, ...]
    numbers: Numbers
    mean_confusion: Tensor
    ledger: Tensor

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The findings in words."""
        return tuple(tell(finding, self.numbers) for finding in self.findings)

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of what was found wrong; empty where nothing was."""
        return tuple(finding.code for finding in self.findings if finding.fault)

    @property
    def residual(self) -> Balance:
        """Both sides of the stated loss's law, per output, and their difference with its standard error."""
        return self.numbers.balance

    @property
    def implied_weights(self) -> ImpliedWeights | None:
        """The class weights that a softmax model behaves as if trained with; None under ``"logistic"``."""
        return self.numbers.implied

    @property
    def implied_over_stated(self) -> Tensor | None:
        """(K,) float64 ratio of implied to stated class weights, with geometric mean 1 in each group: 1 where they
        acted. Of one-vs-all outputs the ratio of implied to stated positive weights, as it is. NaN for classes
        without samples; None for LGL-INR, whose law has no weights."""
        return self.numbers.implied_over_stated

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Classes between which weights have an effect; empty under ``"logistic"``."""
        return () if self.numbers.implied is None else self.numbers.implied.groups

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists for JSON, None for what is not known; without the K x K arrays."""
        n = self.numbers
        hypotheses = [h.to_dict() | {"text": clause(h, n)} for h in n.hypotheses]
        return {
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "findings": [finding.to_dict() for finding in self.findings],
            "faults": list(self.faults),
            "hypotheses": hypotheses,
        } | n.to_dict()
