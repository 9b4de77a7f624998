"""From findings to English; every sentence of an audit stands here, no number is made here."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from steelyard._common.text import listed
from steelyard.auditing.catalogue import Severity
from steelyard.auditing.findings import Finding, Hypothesis, Item, Measure, Numbers, finite

_NAMED = 3  # classes that a sentence names


@dataclass(frozen=True)
class Verdict:
    """One answer in words.

    Attributes:
        name, code, severity, topic: of the finding, as :data:`steelyard.auditing.catalogue.KINDS` has them.
        text: the answer, for reading.
        value: the number that it rests on, or None.
        low, high: its 95% interval, or None.
    """

    name: str
    code: str
    severity: Severity
    topic: str
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        numbers = {name: finite(getattr(self, name)) for name in ("value", "low", "high")}
        return {name: getattr(self, name) for name in ("name", "code", "severity", "topic", "text")} | numbers


def tell(finding: Finding, numbers: Numbers) -> Verdict:
    """Return what a finding says, in English."""
    measure = finding.measure
    return Verdict(
        finding.name,
        finding.code,
        finding.severity,
        finding.topic,
        _TEXTS[finding.name](finding, numbers),
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
    """Return the answer in one sentence: the first fault or warning, else what is said of the weights."""
    first = findings[0]
    if first.severity == "note":
        first = next((f for f in findings if f.topic == "weights"), first)
        if first.name == "in_balance":
            measure, rough = first.measure, first.numbers["rough"]
            if measure is not None and measure.value > rough.value:
                return f"Nothing wrong was named, but the outputs are not in balance under the {_stated(numbers)}."
            return "No fault was found."
    return sentence(_TEXTS[first.name](first, numbers))


def sentence(text: str) -> str:
    """Return the first sentence of a text."""
    found = re.match(r'(?:"[^"]*"|[^."]|\.(?! )|")*?\.(?= |$)', text, re.DOTALL)  # names stand in quotes
    return found[0] if found else text


def label(numbers: Numbers, index: int) -> str:
    """Return a class as a sentence names it: its name in quotes, or "class 3" where it has none."""
    name = numbers.names[index]
    return name if name == f"class {index}" else f'"{name}"'


_CLAUSES = {
    "no weights": "no weights had any effect",
    "twice": "the weights were applied twice",
    "in reverse": "the weights acted in reverse",
    "other order": "the same weights were given to other classes",
    "other strength": "the weights had another strength",
    "by count": "classes weighed by a power of their counts",
    "few off": "all classes but a few had these weights",
    "each its own": "each class had a weight of its own",
    "one-vs-all": "the loss was one-vs-all logistic",
    "one-vs-all, weighted": "the loss was one-vs-all logistic with these weights",
    "softmax": "the loss was softmax",
    "softmax, weighted": "the loss was softmax with these weights",
    "LGL-INR": "the loss was LGL-INR",
}
_SCALE_OF_POWER = "(1 is as stated, 0 is not at all, 2 is twice)"


def _stated(n: Numbers) -> str:
    """Return what was stated, as it stands in a sentence."""
    return n.statement.text.replace(", no weights", " without weights")


def _columns_moved(f: Finding, n: Numbers) -> str:
    size, count = len(n.names), len(f.items)
    steps = {(j - k) % size for k, j in (item.classes for item in f.items)}
    if count == size and len(steps) == 1 and size > 2:
        step = steps.pop()
        step = step - size if step > size / 2 else step
        moved = f"each class raises the column {abs(step)} {'after' if step > 0 else 'before'} its own"
    else:
        pairs = [f"samples of {label(n, k)} raise the column of {label(n, j)}" for k, j in _pairs(f)]
        moved = listed(pairs, _NAMED)
    return (
        f"The columns and the labels do not belong together: {moved}. "
        "Put the columns into the order of the labels, or number the labels as the columns are, and audit again. "
        "Until then nothing can be said of weights."
    )


def _flipped(f: Finding, n: Numbers) -> str:
    if n.statement.several:
        which = listed([label(n, item.classes[0]) for item in f.items], _NAMED)
        return (
            f"Some outputs have the wrong sign: samples without the label score higher, for {which}. "
            "Until that is mended nothing can be said of weights."
        )
    return (
        "The score has the wrong sign: samples of class 0 score higher than those of class 1. "
        "Negate the score, or swap the labels, and audit again. Until then nothing can be said of weights."
    )


def _not_training(f: Finding, n: Numbers) -> str:
    if f.items:
        k, here, there = f.items[0].classes[0], f.numbers["of_class"].value, f.numbers["training_of_class"].value
        text = (
            f"These cannot be the training rows: {label(n, k)} has {here:.0f}, and in training it had {there:.0f}."
        )
    elif f.numbers:
        here, there = f.numbers["rows"].value, f.numbers["training_rows"].value
        text = f"These are not all of the training rows: {here:.0f} came, and training had {there:.0f}."
    else:
        text = "These are not the training rows, as their file says."
    text += " Only the training rows tell what weights did in training, so nothing is said of that."
    if f.measure is not None:
        text += f" In these rows the model holds the stated weights to the power {_shown(f.measure)}."
    return text


def _in_balance(f: Finding, n: Numbers) -> str:
    misfit, stated = f.measure, _stated(n)
    assert misfit is not None
    exact, rough = f.numbers["exact"].value, f.numbers["rough"].value
    how = "are" if misfit.value <= exact else "are roughly" if misfit.value <= rough else "are not"
    text = f"The outputs {how} in balance under the {stated}. "
    text += (
        "At the end of a training what pulls each output up equals what pushes it down; here the two differ by "
    )
    text += f"{_shown(misfit, '%', '.2g', 100)} of their sum."
    named = []
    for item in f.items:
        relative = item.measures[0]
        way = "raise" if relative.value > 0 else "lower"
        named.append(f"{label(n, item.classes[0])} (training would {way} it: {_shown(relative)} of its sum)")
    return text + (f" These are most off: {listed(named)}." if named else "")


def _other_loss(f: Finding, n: Numbers) -> str:
    best = n.hypothesis(f.hypothesis or "")
    assert best is not None
    assert f.measure is not None
    text = f"The model looks as if {clause(best, n)}, not the {_stated(n)}. "
    there, here = (_number(100 * value, ".2g") for value in (f.measure.value, f.numbers["own"].value))
    text += (
        f"What pulls and what pushes its outputs differ by {there}% under that loss, by {here}% at best under the "
    )
    text += "stated one."
    if "row_sum" in f.numbers:
        sums = f.numbers["row_sum"].value
        text += f" The sigmoids of a row sum to {sums:.2f} on average; under one-vs-all losses it is near 1."
    return text + " Audit it again under that loss. Until then nothing can be said of weights."


def _acted(f: Finding, n: Numbers) -> str:
    if "ratio" in f.numbers:
        return f"The weights acted as stated. {_ratio(f, n)}"
    return f"The weights acted as stated. {_power(f)}"


def _not_applied(f: Finding, n: Numbers) -> str:
    said = _ratio(f, n) if "ratio" in f.numbers else _power(f)
    return f"The weights never acted: check that they reach the loss. {said}"


def _twice(f: Finding, n: Numbers) -> str:
    said = _ratio(f, n) if "ratio" in f.numbers else _power(f)
    return (
        f"The weights acted twice: look for them in a sampler as well as in the loss. {said} "
        "Mixed targets (mixup) look the same on samples that are not mixed; state them if there were any."
    )


def _other_strength(f: Finding, n: Numbers) -> str:
    assert f.measure is not None
    if f.hypothesis is not None:
        return f"Of what is stated, only the {f.hypothesis} acted. {_power(f)}"
    if "ratio" in f.numbers:
        return f"The weights acted at another strength than stated. {_ratio(f, n)}"
    near = {0.5: "like their square roots", 3.0: "three times"}
    like = next((how for g, how in near.items() if f.measure.low <= g <= f.measure.high), "")  # type: ignore[operator]
    return f"The weights acted at another strength than stated{', ' + like if like else ''}. {_power(f)}"


def _unstated(f: Finding, n: Numbers) -> str:
    weights = [(item.classes[0], item.measures[0].value) for item in f.items]
    if len(weights) <= 5:
        shown = " : ".join(f"{value:.3g}" for _, value in sorted(weights))
        shown += " for " + listed([label(n, k) for k, _ in sorted(weights)])
    else:
        ends = [f"{label(n, k)} {value:.2g}" for k, value in (weights[0], weights[-1])]
        shown = f"{ends[0]} to {ends[1]}"
    of_classes = n.explained is None or n.explained.of_classes
    what = "class weights" if of_classes else "weights of positives"
    text = f"The model behaves as if trained with {what} that nobody stated: {shown}."
    if of_classes and n.implied is None:
        text += " Weights of the positives of each output would explain it too."
    if "frequency" in f.numbers:
        text += f" They go like 1 / count to the power {_shown(f.numbers['frequency'])}; 1 balances the classes."
    return text + " State them if they were meant; else look for a sampler or weights that you did not know of."


def _permuted(f: Finding, n: Numbers) -> str:
    if f.hypothesis == "reversed":
        if "ratio" in f.numbers:
            return f"The weight acted on the wrong one of the two classes. {_ratio(f, n)}"
        return f"The weights acted in reverse: classes that should weigh most weigh least. {_power(f)}"
    moved = [f"{label(n, k)} has the weight of {label(n, j)}" for k, j in _pairs(f)]
    return (
        f"The weights acted on other classes than stated. For instance {listed(moved)}. "
        "Compare the order of the weights with that of the classes."
    )


def _class_off(f: Finding, n: Numbers) -> str:
    named = [
        f"{label(n, item.classes[0])} weighs {_shown(item.measures[0], style='.2g')} times what is stated"
        for item in f.items
    ]
    said = listed(named, _NAMED)
    return (
        f"The weights acted as stated, but not for {len(f.items)} of {len(n.names)} classes. "
        f"{said[:1].upper() + said[1:]}, if all others weigh as stated."
    )


def _unclear(f: Finding, n: Numbers) -> str:
    more = "More rows would tell, or the batches of a whole epoch instead of the model at its end."
    if f.hypothesis == "mixup":
        return (
            "Nothing can be told of weights, because targets were mixed in training. The laws hold for the mixed "
            "samples; these are those that they were made of."
        )
    if f.hypothesis == "in balance":
        return (
            "The outputs are in balance without weights, as far as a training comes. Yet some classes that have "
            "little part in the balance look heavier or lighter, by a factor of up to "
            f"{f.measure.value if f.measure else 1:.1f}. Either these classes had weights, or the training is not "
            "at its end for them. " + more
        )
    if f.measure is None or not n.statement.weighted or n.uniform:
        return (
            "It cannot be told whether unstated weights acted: few samples carry all that the model misplaces. "
            + more
        )
    return f"It cannot be told whether the weights acted as stated. {_power(f)} {more}"


def _tell_nothing(f: Finding, n: Numbers) -> str:
    return (
        "The stated weights differ only between classes that are never confused, or not at all: no model could "
        "show whether they acted."
    )


def _not_positive(f: Finding, n: Numbers) -> str:
    return (
        "No positive class weights put the outputs of this model in balance under this loss: nothing can be told."
    )


def _power(f: Finding) -> str:
    return f"The model behaves as if trained with them to the power {_shown(f.measure)} {_SCALE_OF_POWER}."


def _ratio(f: Finding, n: Numbers) -> str:
    found, stated = f.numbers["ratio"], f.numbers["stated_ratio"].value
    return (
        f"A sample of {label(n, 1)} weighs {_shown(found, '', '.3g')} times one of {label(n, 0)}; "
        f"{_number(stated, '.3g')} was stated."
    )


def _undertrained(f: Finding, n: Numbers) -> str:
    loss, _, _, chance = _losses(f)
    if loss > chance:
        return (
            f"The model is worse than one that knows only the class frequencies: its mean loss is {loss:.3g}, and "
            f"that of the other is {chance:.3g}. Nothing can be said of weights."
        )
    return (
        f"The model has learned little: its mean loss is {loss:.3g}, and a model that knows only the "
        f"class frequencies has {chance:.3g}. Its logits are too small. {_scaled(f)} Such a model says nothing of "
        "weights."
    )


def _wrong_scale(f: Finding, n: Numbers) -> str:
    scale = f.numbers["scale"].value
    size = "small" if scale > 1 else "large"
    causes = (
        "Few steps, strong regularisation or shrinkage may cause this"
        if scale > 1
        else "Rows that training did not have may cause this, or a training that diverged"
    )
    return f"The logits are too {size} for these rows. {_scaled(f)} {causes}. What is said of weights still holds."


def _scaled(f: Finding) -> str:
    loss, best, scale, _ = _losses(f)
    times = f"{scale:.1f}" if scale < 10 else f"{scale:.0f}" if scale < 100 else "more than 100"
    return f"Multiplied by {times} they would bring the loss from {loss:.3g} down to {best:.3g}."


def _losses(f: Finding) -> tuple[float, float, float, float]:
    loss, best, scale, chance = (
        f.numbers[name].value for name in ("shifted_loss", "best_loss", "scale", "chance")
    )
    return loss, best, scale, chance


def _pairs(f: Finding) -> list[tuple[int, int]]:
    return [(item.classes[0], item.classes[1]) for item in f.items]


def _counting(f: Finding, n: Numbers) -> str:
    text = "What is stated balances the class frequencies twice. " if f.severity == "fault" else ""
    text += f"The model behaves as if its classes weighed like 1 / count to the power {_shown(f.measure)} "
    text += "(0: frequencies are left as they are; 1: they are balanced; 2: balanced twice)."
    if f.numbers:
        terms = listed([f"the {name} {part.value:.2f}" for name, part in f.numbers.items()])
        said = sum(part.value for part in f.numbers.values())
        text += f" Stated: {terms}" + (f", {said:.2f} together." if len(f.numbers) > 1 else ".")
    return text


def _groups(f: Finding, n: Numbers) -> str:
    groups = [item.classes for item in f.items]
    several = [group for group in groups if len(group) > 1]
    text = ""
    if len(groups) == 1:
        text += "All classes are confused with one another, directly or through others: their weights compare."
    else:
        shown = listed(["{" + listed([label(n, k) for k in g], _NAMED) + "}" for g in several], _NAMED)
        alone = len(groups) - len(several)
        text += f"The classes fall into {len(groups)} groups between which weights have no effect"
        text += (f": {shown}" if several else "") + (f"; {alone} classes alone" if alone else "") + "."
    if "gap" in f.numbers:
        gap = f.numbers["gap"].value
        text += " The spectral gap of P says how firmly the rows tie the weights, from 0 (not at all) to 1: "
        text += f"{gap:.2g}."
    return text


def _trades(f: Finding, n: Numbers) -> str:
    named = []
    for item in f.items:
        giver, taker = (label(n, k) for k in item.classes)
        there, back = (_shown(measure, "%", ".2g") for measure in item.measures)
        named.append(f"{giver} gives {taker} {there} and gets {back} back")
    return f"Of all probability that is misplaced, {'; '.join(named)}."


def _hard(f: Finding, n: Numbers) -> str:
    named = [f"{label(n, k)} taken for {label(n, j)}" for k, j in (item.classes for item in f.items)]
    pairs = "1 pair hides" if len(named) == 1 else f"{len(named)} pairs hide"
    return f"{pairs} behind the average that the law of an output ties: {listed(named, _NAMED)}."


def _absent(f: Finding, n: Numbers) -> str:
    return f"Some classes have no samples here, so nothing is said of them: {_names(f.items, n)}."


def _single(f: Finding, n: Numbers) -> str:
    return f"Some classes have one sample only, so they have no interval: {_names(f.items, n)}."


def _dropped(f: Finding, n: Numbers) -> str:
    dropped, rows = f.numbers["dropped"].value, f.numbers["rows"].value
    return f"{dropped:.0f} of {rows:.0f} rows with NaN or infinite numbers were left out."


def _collected(f: Finding, n: Numbers) -> str:
    return (
        "The logits were collected in evaluation mode, without dropout and with the running statistics of batch "
        "norm. The laws hold for the logits that training saw, which are others."
    )


def _with_dropout(f: Finding, n: Numbers) -> str:
    return (
        "The logits were collected with dropout, if the model has it, as training saw them. Batch norm had its "
        "running statistics."
    )


def _names(items: tuple[Item, ...], n: Numbers) -> str:
    return listed([label(n, item.classes[0]) for item in items], _NAMED)


def _shown(measure: Measure | None, unit: str = "", style: str = ".2f", times: float = 1.0) -> str:
    """`0.94 [0.86, 1.02]`, or without an interval where there is none."""
    if measure is None:
        return "unknown"
    shown, low, high = f"{_number(times * measure.value, style)}{unit}", measure.low, measure.high
    if low is None or high is None:
        return shown
    return f"{shown} [{_number(times * low, style)}, {_number(times * high, style)}]"


def _number(value: float, style: str) -> str:
    """Return a number without an exponent; what is closer to 0 than 0.001 is said to be."""
    if not style.endswith("g"):
        return f"{value:{style}}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    if 0 < abs(value) < 1e-3:
        return "<0.001" if value > 0 else ">-0.001"
    return f"{Decimal(f'{value:{style}}'):f}"


_TEXTS: dict[str, Callable[[Finding, Numbers], str]] = {
    "wrong_class_order": _columns_moved,
    "score_flipped": _flipped,
    "not_training_rows": _not_training,
    "classes_absent": _absent,
    "classes_of_one": _single,
    "rows_dropped": _dropped,
    "collected_in_evaluation": _collected,
    "collected_with_dropout": _with_dropout,
    "weights_acted": _acted,
    "weights_not_applied": _not_applied,
    "weights_applied_twice": _twice,
    "weights_at_other_strength": _other_strength,
    "weights_unstated": _unstated,
    "weights_permuted": _permuted,
    "class_weight_off": _class_off,
    "weights_unclear": _unclear,
    "weights_tell_nothing": _tell_nothing,
    "weights_not_positive": _not_positive,
    "counted": _counting,
    "counted_twice": _counting,
    "wrong_loss": _other_loss,
    "in_balance": _in_balance,
    "undertrained": _undertrained,
    "logits_too_small": _wrong_scale,
    "logits_too_large": _wrong_scale,
    "groups": _groups,
    "trades": _trades,
    "hard_classes": _hard,
}
