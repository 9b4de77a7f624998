"""From the numbers of an audit to answers in words; every threshold stands here."""

import math

from steelyard._common.text import listed
from steelyard.auditing.report import Numbers, Verdict

_T = 2.131  # 97.5% point of Student's t with 15 degrees of freedom, for 16 folds
_CRITICAL = 0.1  # a misfit up to this is a critical point, as far as stochastic training reaches one
_ROUGHLY = 0.25
_BETTER = 0.5  # a hypothesis is better when its misfit is at most this part of another's
_BETTER_LOSS = 0.7  # the same for LGL-INR, whose law holds batch by batch and so only roughly for all samples
_EARLY = 0.05  # gain of refitted scale and shifts, as a part of the loss of a model that knows nothing
_ALIKE = 0.05  # rows of P that differ by less
_NAMED = 3  # classes or pairs that a sentence names


def judge(numbers: Numbers) -> tuple[Verdict, ...]:
    """The verdicts, the most important first."""
    link, stopping = _link(numbers), _stopping(numbers)
    verdicts = [_critical_point(numbers, stopping)]
    if link is None:  # under the wrong law weights cannot be judged
        verdicts += [v for v in (_weights(numbers), stopping, _counting(numbers)) if v is not None]
    else:
        verdicts.append(link)
    verdicts += [v for v in (_groups(numbers), _trades(numbers), _hard(numbers), _data(numbers)) if v is not None]
    return tuple(verdicts)


def _critical_point(n: Numbers, stopping: Verdict) -> Verdict:
    stated = n.hypotheses[0]
    misfit = _number(stated.misfit, stated.error, bounds=(0, 1))
    if stated.misfit <= _ROUGHLY and stopping.fault == "stopped_early":
        text = f"No: the outputs of the model are in balance under the {n.statement.text}, but its loss is far off"
    elif stated.misfit <= _CRITICAL:
        text = f"Yes: the model is at a critical point of the {n.statement.text}, as near as training comes to one"
    elif stated.misfit <= _ROUGHLY:
        text = f"Roughly: the model is near a critical point of the {n.statement.text}"
    else:
        text = f"No: the model is not at a critical point of the {n.statement.text}"
    text += f" (misfit {misfit}; 0 is balance)."
    off = _most_off(n)
    if stated.misfit > _CRITICAL and off:
        text += " " + off
    return Verdict("critical point", text, None, stated.misfit, *_limits(stated.misfit, stated.error, (0, 1)))


def _most_off(n: Numbers) -> str:
    """The classes whose residual is largest in mass, each with its direction."""
    residual, relative, error = n.balance.residual, n.balance.relative_residual, n.balance.residual_error
    total = n.balance.pull_up.abs() + n.balance.push_down.abs()
    named = []
    for j in residual.abs().argsort(descending=True)[:_NAMED].tolist():
        if n.samples[j] == 0 or residual[j] == 0:
            continue
        spread = None if error is None or total[j] == 0 else float(error[j] / total[j])
        way = "training would still raise it" if residual[j] > 0 else "training would still lower it"
        named.append(
            f"{n.label(j)} ({way}; relative residual {_number(float(relative[j]), spread, bounds=(-1, 1))})"
        )
    return f"Most off: {listed(named)}." if named else ""


def _link(n: Numbers) -> Verdict | None:
    """Whether another loss explains the model much better than any use of the stated one."""
    own = min(h.misfit for h in n.hypotheses if h.name in ("as stated", "no weights", "twice"))
    names = ("one-vs-all", "softmax", "softmax, weighted", "LGL-INR")
    others = [h for h in n.hypotheses if h.name in names]
    if not others:
        return None
    best = min(others, key=lambda h: h.misfit)
    same = best.link == n.statement.link
    clearly = best.misfit <= (_BETTER_LOSS if same else _BETTER) * own and own > _CRITICAL
    sums = n.mean_row_sum
    # One-vs-all sigmoids sum to 1 over the classes; those of softmax logits to anything, often half their number.
    one_vs_all_rows = sums is not None and abs(sums - 1) < 0.1 and len(n.names) > 3
    if n.statement.link == "softmax":
        clearly = clearly or (one_vs_all_rows and best.misfit < own and own > _CRITICAL)
    if not clearly:
        return None
    text = (
        f"The model looks as if {best.text}: misfit {_number(best.misfit, best.error, bounds=(0, 1))}, against "
        f"{own:.2f} at best for a {n.statement.text}."
    )
    if sums is not None:
        text += f" The sigmoids of a row sum to {sums:.2f} on average (1 under one-vs-all losses)."
    fault = "wrong_loss" if same else "wrong_link"
    text += " Audit it again as that; nothing about the weights can be said until then."
    return Verdict("link", text, fault, best.misfit, *_limits(best.misfit, best.error, (0, 1)))


def _weights(n: Numbers) -> Verdict | None:
    """Did the stated weights act?"""
    s = n.statement
    if not s.weighted or s.beta is not None:
        return None
    stated, none, twice = (n.hypothesis(name) for name in ("as stated", "no weights", "twice"))
    order = n.hypothesis("other order")
    assert stated is not None and none is not None and twice is not None  # noqa: PT018 (weighed for all weights)
    power = n.power
    if power is None:
        text = (
            "The stated weights do not differ within any group of classes that are confused: nothing can be told."
        )
        return Verdict("weights", text)
    g, error = power.power, power.standard_error
    low, high = _limits(g, error)
    effect = f"it behaves as if trained with the stated weights to the power {_number(g, error)}"
    misfits = f"misfit {stated.misfit:.2f} with them, {none.misfit:.2f} without"
    fault = None
    least = min(stated.misfit, none.misfit, twice.misfit)
    moved = order is not None and order.misfit <= _BETTER * least and stated.misfit > _CRITICAL
    if moved and order is not None and abs(g - 1) > 0.25:
        fault = "weights_permuted"
        text = (
            "The weights acted, but on other classes than stated: misfit "
            f"{_number(order.misfit, order.error, bounds=(0, 1))} in the order found, "
            f"{stated.misfit:.2f} as stated, {none.misfit:.2f} without. {_moved(n)}"
        )
    elif stated.misfit <= _ROUGHLY and stated.misfit <= least and abs(g - 1) < 0.5:
        text = f"Yes, the weights acted as stated: {effect} (1 is as stated; {misfits})."
    elif none.misfit <= _BETTER * stated.misfit and g < 0.5:
        fault = "weights_not_applied"
        text = f"No, the weights were not applied: {effect} (0 is not at all; {misfits})."
    elif g > 1.4 and (low if low is not None else g) > 1:
        fault = "weights_applied_twice"
        text = (
            f"The weights acted more than once: {effect} (1 is as stated, 2 is twice, for instance in the sampler "
            f"and in the loss; misfit {stated.misfit:.2f} as stated, {twice.misfit:.2f} twice)."
        )
    else:
        text = f"It cannot be told whether the weights acted as stated: {effect} ({misfits})."
    return Verdict("weights", text, fault, g, low, high)


def _moved(n: Numbers) -> str:
    total, order = n.statement.total, n.order
    if total is None or order is None:
        return ""
    change = (total[order] / total).log().abs()
    named = [
        f"{n.label(k)} has the weight of {n.label(int(order[k]))}"
        for k in change.argsort(descending=True)[:_NAMED].tolist()
        if change[k] > 0
    ]
    return f"For instance {listed(named)}."


def _stopping(n: Numbers) -> Verdict:
    """Whether much of the loss would go if the logits were only rescaled and shifted."""
    r = n.refit
    gain = r.loss - r.best_loss
    if gain > _EARLY * r.chance:
        text = (
            f"Training was stopped too early: the loss on these samples is {r.loss:.3f} nats, and would be "
            f"{r.best_loss:.3f} if its logits were only {r.scale:.1f} times as large and shifted; knowing nothing "
            f"is {r.chance:.3f}. More steps of the same training would do that."
        )
        if r.scale < 1:
            text = (
                f"The logits are too large for these samples: the loss is {r.loss:.3f} nats, and would be "
                f"{r.best_loss:.3f} if they were {r.scale:.2f} times as large and shifted. Training was stopped "
                "far from an optimum, or these are not its samples."
            )
        return Verdict("stopping", text, "stopped_early", gain)
    if r.loss > 0.95 * r.chance and n.spread < _ALIKE:
        text = (
            f"The model tells no class from another: its loss is {r.loss:.3f} nats, knowing nothing is "
            f"{r.chance:.3f}, and the mean probabilities of the classes differ by {n.spread:.3f} at most. The "
            "laws hold for such a model, and mean nothing."
        )
        return Verdict("stopping", text, "knows_nothing", n.spread)
    text = (
        f"Training went far enough for the laws: rescaling and shifting the logits would lower the loss from "
        f"{r.loss:.3f} to {r.best_loss:.3f} nats only; knowing nothing is {r.chance:.3f}."
    )
    return Verdict("stopping", text, None, gain)


def _counting(n: Numbers) -> Verdict | None:
    """How often the class frequencies were compensated: as stated, part by part, and as the model shows."""
    observed = n.class_counts > 0
    logs = n.class_counts[observed].log()
    x = logs - logs.mean()
    if n.statement.link == "logistic" or float(x.square().sum()) < 1e-6:
        return None
    parts = {
        name: float(-(x @ (w[observed].log() - w[observed].log().mean())) / x.square().sum())
        for name, w in n.statement.parts.items()
    }
    said = sum(parts.values())
    shown = n.frequency_power
    if shown is None or (not parts and abs(shown.power) < 0.5):
        return None
    measured = _number(shown.power, shown.standard_error)
    text = f"The model behaves as if its classes weighed like 1 / count to the power {measured}"
    text += " (0: frequencies are left as they are; 1: they are balanced; 2: balanced twice)."
    if parts:
        terms = listed([f"the {name} {value:.2f}" for name, value in parts.items()])
        text += f" Stated: {terms}" + (f", {said:.2f} together." if len(parts) > 1 else ".")
    fault = None
    if len(parts) > 1 and said > 1.25:
        fault = "counted_twice"
        text += " What is stated compensates the class frequencies more than once."
    return Verdict("double counting", text, fault, shown.power, *_limits(shown.power, shown.standard_error))


def _groups(n: Numbers) -> Verdict | None:
    """Where implied weights are not identifiable."""
    if n.implied is None or n.statement.binary:
        return None
    groups = n.implied.groups
    several = [g for g in groups if len(g) > 1]
    gap = min((gap for gap, g in zip(n.implied.gaps, groups, strict=True) if len(g) > 1), default=None)
    text = f"{n.implied.degrees_of_freedom} of the entries of P are left free by the law. "
    if len(groups) == 1:
        text += "All classes are confused with one another, directly or through others: their weights compare."
    else:
        shown = listed(["{" + listed([n.label(k) for k in g], _NAMED) + "}" for g in several], _NAMED)
        alone = len(groups) - len(several)
        text += f"The classes fall into {len(groups)} groups between which weights have no effect"
        text += (f": {shown}" if several else "") + (f"; {alone} classes alone" if alone else "") + "."
    if gap is not None:
        text += (
            f" Smallest spectral gap {gap:.2g}: the smaller, the less training or sampling determines the weights."
        )
    return Verdict("groups", text, None, float(len(groups)))


def _trades(n: Numbers) -> Verdict | None:
    """Which classes trade with which."""
    if n.statement.link == "logistic" or not n.trades:
        return None
    mass = n.class_counts * (1.0 if n.statement.total is None else n.statement.total)
    mass = mass / mass.sum()
    misplaced = float(n.balance.push_down.sum()) / 100  # a percent of all that classes give to others
    named = []
    for trade in n.trades[:_NAMED]:
        k, j = trade.classes
        errors = [float(mass[a] * n.standard_error[a, b]) / misplaced for a, b in ((k, j), (j, k))]
        there, back = (
            _number(value / misplaced, error, "%", bounds=(0, 100), style=".2g")
            for value, error in zip((trade.there, trade.back), errors, strict=True)
        )
        named.append(f"{n.label(k)} gives {n.label(j)} {there} and gets {back} back")
    text = f"Of all probability that is misplaced, {'; '.join(named)}."
    return Verdict("trades", text, None, n.trades[0].there)


def _hard(n: Numbers) -> Verdict | None:
    """Classes that hide behind an average."""
    away = [(h, k) for h in n.hard for k in h.averaged_away]
    if not n.hard or n.statement.beta is not None:
        return None
    if not away:
        return Verdict("hard classes", "No class hides behind the average that the law of an output ties.")
    named = [f"{n.label(k)} taken for {n.label(h.output)}" for h, k in away]
    text = f"{len(away)} pairs hide behind the average that the law of an output ties: {listed(named, _NAMED)}."
    return Verdict("hard classes", text, None, float(len(away)))


def _data(n: Numbers) -> Verdict | None:
    """What the samples do not show."""
    absent = [n.label(k) for k, count in enumerate(n.samples) if count == 0]
    single = [n.label(k) for k, count in enumerate(n.samples) if count == 1]
    said = []
    if absent:
        said.append(f"Not observed, so nothing is said of them: {listed(absent, _NAMED)}.")
    if single:
        said.append(f"One sample only, so they have no interval: {listed(single, _NAMED)}.")
    if n.dropped:
        said.append(f"{n.dropped} of {n.rows} rows with NaN or infinite numbers were left out.")
    return Verdict("data", " ".join(said)) if said else None


def _limits(
    value: float, error: float | None, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float | None, float | None]:
    if error is None or not math.isfinite(error):
        return None, None
    return max(bounds[0], value - _T * error), min(bounds[1], value + _T * error)


def _number(
    value: float,
    error: float | None,
    unit: str = "",
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    style: str = ".2f",
) -> str:
    """`0.94 [0.86, 1.02]`, or without an interval where there is none."""
    low, high = _limits(value, error, bounds)
    shown = f"{value:{style}}{unit}"
    return shown if low is None or high is None else f"{shown} [{low:{style}}, {high:{style}}]"
