"""From findings to English; every sentence of an audit stands here, no number is made here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steelyard._common.text import listed
from steelyard.auditing.findings import Finding, Hypothesis, Item, Measure, Numbers, finite

_NAMED = 3  # classes that a sentence names

TOPICS = {
    "critical": "critical point",
    "roughly_critical": "critical point",
    "not_critical": "critical point",
    "balanced_but_far": "critical point",
    "wrong_link": "link",
    "wrong_loss": "link",
    "weights_acted": "weights",
    "weights_not_applied": "weights",
    "weights_applied_twice": "weights",
    "weights_permuted": "weights",
    "weights_unclear": "weights",
    "weights_tell_nothing": "weights",
    "weights_not_positive": "weights",
    "far_enough": "stopping",
    "stopped_early": "stopping",
    "knows_nothing": "stopping",
    "counted": "double counting",
    "counted_twice": "double counting",
    "groups": "groups",
    "trades": "trades",
    "hard_classes": "hard classes",
    "no_hard_classes": "hard classes",
    "classes_absent": "data",
    "classes_of_one": "data",
    "rows_dropped": "data",
    "collected_in_evaluation": "data",
}
"""Every code that a finding can have, with what was asked."""


@dataclass(frozen=True)
class Verdict:
    """One answer in words.

    Attributes:
        topic: what was asked: one of the values of :data:`TOPICS`.
        text: the answer, for reading.
        fault: what was found wrong, a fixed name, or None.
        value: the number that it rests on, or None.
        low, high: its 95% interval, or None.
    """

    topic: str
    text: str
    fault: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        numbers = {name: finite(getattr(self, name)) for name in ("value", "low", "high")}
        return {"topic": self.topic, "text": self.text, "fault": self.fault} | numbers


def tell(finding: Finding, numbers: Numbers) -> Verdict:
    """Return what a finding says, in English."""
    measure = finding.measure
    return Verdict(
        TOPICS[finding.code],
        _TEXTS[finding.code](finding, numbers),
        finding.code if finding.fault else None,
        *((None, None, None) if measure is None else (measure.value, measure.low, measure.high)),
    )


def clause(hypothesis: Hypothesis, numbers: Numbers) -> str:
    """Return a hypothesis as a clause: "the weights were applied twice"."""
    if hypothesis.name == "as stated":
        return numbers.statement.text
    if hypothesis.name.startswith("only the "):
        return f"of all that is stated {hypothesis.name} had an effect"
    return _CLAUSES[hypothesis.name]


def headline(findings: tuple[Finding, ...], numbers: Numbers) -> str:
    """Return the whole audit in one line."""
    faults = [finding.code.replace("_", " ") for finding in findings if finding.fault]
    said = f"Audit of a {numbers.statement.text}, {numbers.rows} samples, {len(numbers.names)} classes: "
    return said + (f"{listed(faults)}." if faults else "no fault found.")


def label(numbers: Numbers, index: int) -> str:
    """Return a class as a sentence names it: its name in quotes, or "class 3" where it has none."""
    name = numbers.names[index]
    return name if name == f"class {index}" else f'"{name}"'


_CLAUSES = {
    "no weights": "no weights had any effect",
    "twice": "the weights were applied twice",
    "other order": "the same weights were given to other classes",
    "one-vs-all": "the loss was one-vs-all logistic",
    "softmax": "the loss was softmax",
    "softmax, weighted": "the loss was softmax with these weights",
    "LGL-INR": "the loss was LGL-INR",
}


def _critical_point(f: Finding, n: Numbers) -> str:
    stated = n.statement.text
    text = {
        "balanced_but_far": (
            f"No: the outputs of the model are in balance under the {stated}, but its loss is far off"
        ),
        "critical": f"Yes: the model is at a critical point of the {stated}, as near as training comes to one",
        "roughly_critical": f"Roughly: the model is near a critical point of the {stated}",
        "not_critical": f"No: the model is not at a critical point of the {stated}",
    }[f.code]
    text += f" (misfit {_shown(f.measure)}; 0 is balance)."
    named = []
    for item in f.items:
        relative = item.measures[0]
        way = "raise" if relative.value > 0 else "lower"
        who = label(n, item.classes[0])
        named.append(f"{who} (training would still {way} it; relative residual {_shown(relative)})")
    return text + (f" Most off: {listed(named)}." if named else "")


def _link(f: Finding, n: Numbers) -> str:
    best = n.hypothesis(f.hypothesis or "")
    assert best is not None
    text = (
        f"The model looks as if {clause(best, n)}: misfit {_shown(f.measure)}, against "
        f"{f.numbers['own'].value:.2f} at best for a {n.statement.text}."
    )
    if "row_sum" in f.numbers:
        sums = f.numbers["row_sum"].value
        text += f" The sigmoids of a row sum to {sums:.2f} on average (1 under one-vs-all losses)."
    return text + " Audit it again as that; nothing about the weights can be said until then."


def _weights(f: Finding, n: Numbers) -> str:
    if f.code == "weights_tell_nothing":
        return (
            "The stated weights do not differ within any group of classes that are confused: nothing can be told."
        )
    if f.code == "weights_not_positive":
        return (
            "No positive class weights make the law of this loss hold for the model as it is: nothing can be told."
        )
    stated, none, twice = (f"{f.numbers[name].value:.2f}" for name in ("stated", "none", "twice"))
    effect = f"it behaves as if trained with the stated weights to the power {_shown(f.measure)}"
    misfits = f"misfit {stated} with them, {none} without"
    if f.code == "weights_permuted":
        text = (
            "The weights acted, but on other classes than stated: misfit "
            f"{_shown(f.numbers['order'])} in the order found, {stated} as stated, {none} without."
        )
        moved = [f"{label(n, k)} has the weight of {label(n, j)}" for k, j in (item.classes for item in f.items)]
        return text + f" For instance {listed(moved)}."
    return {
        "weights_acted": f"Yes, the weights acted as stated: {effect} (1 is as stated; {misfits}).",
        "weights_not_applied": f"No, the weights were not applied: {effect} (0 is not at all; {misfits}).",
        "weights_applied_twice": (
            f"The weights acted more than once: {effect} (1 is as stated, 2 is twice, for instance in the sampler "
            f"and in the loss; misfit {stated} as stated, {twice} twice)."
        ),
        "weights_unclear": f"It cannot be told whether the weights acted as stated: {effect} ({misfits}).",
    }[f.code]


def _stopping(f: Finding, n: Numbers) -> str:
    loss, best, scale, chance = (f.numbers[name].value for name in ("loss", "best_loss", "scale", "chance"))
    if f.code == "stopped_early" and scale < 1:
        return (
            f"The logits are too large for these samples: the loss is {loss:.3f} nats, and would be "
            f"{best:.3f} if they were {scale:.2f} times as large and shifted. Training was stopped "
            "far from an optimum, or these are not its samples."
        )
    return {
        "stopped_early": (
            f"Training was stopped too early: the loss on these samples is {loss:.3f} nats, and would be "
            f"{best:.3f} if its logits were only {scale:.1f} times as large and shifted; knowing nothing "
            f"is {chance:.3f}. More steps of the same training would do that."
        ),
        "knows_nothing": (
            f"The model tells no class from another: its loss is {loss:.3f} nats, knowing nothing is "
            f"{chance:.3f}, and the mean probabilities of the classes differ by {n.spread:.3f} at most. The "
            "laws hold for such a model, and mean nothing."
        ),
        "far_enough": (
            f"Training went far enough for the laws: rescaling and shifting the logits would lower the loss from "
            f"{loss:.3f} to {best:.3f} nats only; knowing nothing is {chance:.3f}."
        ),
    }[f.code]


def _counting(f: Finding, n: Numbers) -> str:
    text = f"The model behaves as if its classes weighed like 1 / count to the power {_shown(f.measure)}"
    text += " (0: frequencies are left as they are; 1: they are balanced; 2: balanced twice)."
    if f.numbers:
        terms = listed([f"the {name} {part.value:.2f}" for name, part in f.numbers.items()])
        said = sum(part.value for part in f.numbers.values())
        text += f" Stated: {terms}" + (f", {said:.2f} together." if len(f.numbers) > 1 else ".")
    if f.fault:
        text += " What is stated compensates the class frequencies more than once."
    return text


def _groups(f: Finding, n: Numbers) -> str:
    groups = [item.classes for item in f.items]
    several = [group for group in groups if len(group) > 1]
    text = f"{f.numbers['free'].value:.0f} of the entries of P are left free by the law. "
    if len(groups) == 1:
        text += "All classes are confused with one another, directly or through others: their weights compare."
    else:
        shown = listed(["{" + listed([label(n, k) for k in g], _NAMED) + "}" for g in several], _NAMED)
        alone = len(groups) - len(several)
        text += f"The classes fall into {len(groups)} groups between which weights have no effect"
        text += (f": {shown}" if several else "") + (f"; {alone} classes alone" if alone else "") + "."
    if "gap" in f.numbers:
        gap = f.numbers["gap"].value
        text += (
            f" Smallest spectral gap {gap:.2g}: the smaller, the less training or sampling determines the weights."
        )
    return text


def _trades(f: Finding, n: Numbers) -> str:
    named = []
    for item in f.items:
        giver, taker = (label(n, k) for k in item.classes)
        there, back = (_shown(measure, "%", ".2g") for measure in item.measures)
        named.append(f"{giver} gives {taker} {there} and gets {back} back")
    return f"Of all probability that is misplaced, {'; '.join(named)}."


def _hard(f: Finding, n: Numbers) -> str:
    if not f.items:
        return "No class hides behind the average that the law of an output ties."
    named = [f"{label(n, k)} taken for {label(n, j)}" for k, j in (item.classes for item in f.items)]
    return f"{len(named)} pairs hide behind the average that the law of an output ties: {listed(named, _NAMED)}."


def _absent(f: Finding, n: Numbers) -> str:
    return f"Not observed, so nothing is said of them: {_names(f.items, n)}."


def _single(f: Finding, n: Numbers) -> str:
    return f"One sample only, so they have no interval: {_names(f.items, n)}."


def _dropped(f: Finding, n: Numbers) -> str:
    dropped, rows = f.numbers["dropped"].value, f.numbers["rows"].value
    return f"{dropped:.0f} of {rows:.0f} rows with NaN or infinite numbers were left out."


def _collected(f: Finding, n: Numbers) -> str:
    return (
        "The logits were collected in evaluation mode, without dropout and with the running statistics of batch "
        "norm; training saw others, and the laws hold for those."
    )


def _names(items: tuple[Item, ...], n: Numbers) -> str:
    return listed([label(n, item.classes[0]) for item in items], _NAMED)


def _shown(measure: Measure | None, unit: str = "", style: str = ".2f") -> str:
    """`0.94 [0.86, 1.02]`, or without an interval where there is none."""
    if measure is None:
        return "unknown"
    shown, low, high = f"{measure.value:{style}}{unit}", measure.low, measure.high
    return shown if low is None or high is None else f"{shown} [{low:{style}}, {high:{style}}]"


_BY_TOPIC: dict[str, Callable[[Finding, Numbers], str]] = {
    "critical point": _critical_point,
    "link": _link,
    "weights": _weights,
    "stopping": _stopping,
    "double counting": _counting,
    "groups": _groups,
    "trades": _trades,
    "hard classes": _hard,
}
_OF_DATA = {
    "classes_absent": _absent,
    "classes_of_one": _single,
    "rows_dropped": _dropped,
    "collected_in_evaluation": _collected,
}
_TEXTS = {code: _OF_DATA[code] if topic == "data" else _BY_TOPIC[topic] for code, topic in TOPICS.items()}
