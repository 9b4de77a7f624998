"""Two classes: one ratio of weights, and what it does to the score at which both are as likely."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from steelyard.auditing.findings import Finding, Measure, Numbers, measured

_TOLD = (
    "weights_acted", "weights_not_applied", "weights_applied_twice", "weights_at_other_strength",
    "weights_unstated", "weights_permuted", "class_weight_off",
)  # fmt: skip


@dataclass(frozen=True)
class Ratio:
    """How many times a sample of class 1 weighs one of class 0.

    Attributes:
        stated: as stated; 1 where nothing is.
        found: what the model behaves as if trained with.
        threshold: the score (logit of class 1 less that of class 0) at which both classes are as likely, or None
            where nothing is said of weights or the loss is not plain cross-entropy.
        text: of the threshold, in a sentence; empty where there is none.
    """

    stated: float
    found: Measure
    threshold: Measure | None = None
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def ratio_of(n: Numbers, findings: tuple[Finding, ...]) -> Ratio | None:
    r"""Return the ratio for two classes that share a sample's probability; None for anything else.

    Cross-entropy in which class 1 weighs r times class 0 is least where

    .. math:: z = \log r + \log \frac{p}{1 - p} - (a_1 - a_0)

    for samples of which the share p is of class 1, with logits to which training added a: at p = 1/2 the score is
    :math:`\log r - (a_1 - a_0)`.
    """
    s, e = n.statement, n.explained
    if len(n.names) != 2 or s.link != "softmax" or n.implied is None:
        return None
    log_ratio = float((n.implied.weights[1] / n.implied.weights[0]).log())
    if not math.isfinite(log_ratio):
        return None
    stated = 1.0 if s.total is None else float(s.total[1] / s.total[0])
    error = None
    if e is not None and math.isfinite(e.range[1]):
        error = e.range[1] if e.power is None else e.power.error * abs(math.log(stated))
    of_log = measured(log_ratio, error)
    low, high = (None if end is None else _exp(end) for end in (of_log.low, of_log.high))
    times = Measure(_exp(log_ratio), low, high)
    if not s.plain or not any(f.name in _TOLD for f in findings):
        return Ratio(stated, times)
    a = s.setup.logit_adjustment
    shift = 0.0 if a is None else float(a[-1] - a[0]) if len(a) == 2 else float(a[0])
    threshold = measured(log_ratio - shift, error)
    return Ratio(stated, times, threshold, _sentence(times, threshold, shift))


def _sentence(ratio: Measure, threshold: Measure, shift: float) -> str:
    z = threshold.value
    between, advice = "", "compare scores with it, not with 0"
    if threshold.low is not None and threshold.high is not None:
        between = f" [{threshold.low:.2f}, {threshold.high:.2f}]"
        advice = "0 serves as well" if threshold.low <= 0 <= threshold.high else advice
    adjusted = f" less the {shift:.2f} that training added" if shift else ""
    return (
        f"Both classes are as likely where the score is log {ratio.value:.3g}{adjusted} = {z:.2f}{between}, which "
        f"the model shows as a probability of {1 / (1 + _exp(-z)):.3g}: {advice}."
    )


def _exp(value: float) -> float:
    return math.exp(max(-700.0, min(700.0, value)))
