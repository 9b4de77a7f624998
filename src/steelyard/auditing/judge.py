"""From the numbers of an audit to findings: codes, numbers and intervals; every threshold stands here, no word."""

import math

from steelyard.auditing.findings import Finding, Item, Measure, Numbers

_T = 2.131  # 97.5% point of Student's t with 15 degrees of freedom, for 16 folds
_CRITICAL = 0.1  # a misfit up to this is a critical point, as far as stochastic training reaches one
_ROUGHLY = 0.25
_BETTER = 0.5  # a hypothesis is better when its misfit is at most this part of another's
_BETTER_LOSS = 0.7  # the same for LGL-INR, whose law holds batch by batch and so only roughly for all samples
_EARLY = 0.05  # gain of refitted scale and shifts, as a part of the loss of a model that knows nothing
_ALIKE = 0.05  # rows of P that differ by less
_NAMED = 3  # classes or pairs of which a finding holds the numbers


def judge(numbers: Numbers) -> tuple[Finding, ...]:
    """Return the findings, the most important first."""
    link, stopping = _link(numbers), _stopping(numbers)
    findings = [_critical_point(numbers, stopping)]
    if link is None:  # under the wrong law weights cannot be judged
        findings += [f for f in (_weights(numbers), stopping, _counting(numbers)) if f is not None]
    else:
        findings.append(link)
    findings += [f for f in (_groups(numbers), _trades(numbers), _hard(numbers)) if f is not None]
    return (*findings, *_data(numbers))


def _critical_point(n: Numbers, stopping: Finding | None) -> Finding:
    stated = n.hypotheses[0]
    if stated.misfit <= _ROUGHLY and stopping is not None and stopping.code == "stopped_early":
        code = "balanced_but_far"
    elif stated.misfit <= _CRITICAL:
        code = "critical"
    elif stated.misfit <= _ROUGHLY:
        code = "roughly_critical"
    else:
        code = "not_critical"
    off = _most_off(n) if stated.misfit > _CRITICAL else ()
    return Finding(code, measure=_misfit(n, "as stated"), items=off)


def _most_off(n: Numbers) -> tuple[Item, ...]:
    """Return the classes whose residual is largest in mass, each with its relative residual: positive, to be
    raised."""
    residual, relative, error = n.balance.residual, n.balance.relative_residual, n.balance.residual_error
    total = n.balance.pull_up.abs() + n.balance.push_down.abs()
    named = []
    for j in residual.abs().argsort(descending=True)[:_NAMED].tolist():
        if n.samples[j] == 0 or residual[j] == 0:
            continue
        spread = None if error is None or total[j] == 0 else float(error[j] / total[j])
        named.append(Item((j,), (_measure(float(relative[j]), spread, -1, 1),)))
    return tuple(named)


def _link(n: Numbers) -> Finding | None:
    """Return whether another loss explains the model much better than any use of the stated one."""
    own = min(h.misfit for h in n.hypotheses if h.name in ("as stated", "no weights", "twice"))
    names = ("one-vs-all", "softmax", "softmax, weighted", "LGL-INR")
    others = [h for h in n.hypotheses if h.name in names]
    if not others:
        return None
    best = min(others, key=lambda h: h.misfit)
    same = best.link == n.statement.link
    rough = same and n.statement.link == "logistic"
    clearly = best.misfit <= (_BETTER_LOSS if rough else _BETTER) * own and own > _CRITICAL
    sums = n.mean_row_sum
    # One-vs-all sigmoids sum to 1 over the classes; those of softmax logits to anything, often half their number.
    one_vs_all_rows = sums is not None and abs(sums - 1) < 0.1 and len(n.names) > 3
    if n.statement.link == "softmax" and not same:
        clearly = clearly or (one_vs_all_rows and best.misfit < own and own > _CRITICAL)
    if not clearly:
        return None
    numbers = {"own": Measure(own)} | ({} if sums is None else {"row_sum": Measure(sums)})
    code = "wrong_loss" if same else "wrong_link"
    return Finding(code, True, _misfit(n, best.name), numbers, hypothesis=best.name)


def _weights(n: Numbers) -> Finding | None:
    """Did the stated weights act?"""
    s = n.statement
    if not s.weighted or s.in_negative is not None:
        return None
    stated, none, twice = (n.hypothesis(name) for name in ("as stated", "no weights", "twice"))
    assert stated is not None and none is not None and twice is not None  # noqa: PT018 (weighed for all weights)
    order = n.hypothesis("other order")
    if n.power is None:
        known = n.implied is None or not bool(n.implied.weights[n.class_counts > 0].isnan().any())
        return Finding("weights_tell_nothing" if known else "weights_not_positive")
    power = _measure(n.power.power, n.power.standard_error)
    g, low = power.value, power.low
    numbers = {"stated": Measure(stated.misfit), "none": Measure(none.misfit), "twice": Measure(twice.misfit)}
    least = min(stated.misfit, none.misfit, twice.misfit)
    if order is not None:
        numbers["order"] = _misfit(n, "other order")
        if order.misfit <= _BETTER * least and stated.misfit > _CRITICAL and abs(g - 1) > 0.25:
            return Finding("weights_permuted", True, power, numbers, _moved(n))
    if stated.misfit <= _ROUGHLY and stated.misfit <= least and abs(g - 1) < 0.5:
        return Finding("weights_acted", False, power, numbers)
    if none.misfit <= _BETTER * stated.misfit and g < 0.5:
        return Finding("weights_not_applied", True, power, numbers)
    if g > 1.4 and (low if low is not None else g) > 1:
        return Finding("weights_applied_twice", True, power, numbers)
    return Finding("weights_unclear", False, power, numbers)


def _moved(n: Numbers) -> tuple[Item, ...]:
    """Return the pairs of a class and the one whose weight it seems to have, largest change first."""
    total, order = n.statement.total, n.order
    if total is None or order is None:
        return ()
    change = (total[order] / total).log().abs()
    moved = change.argsort(descending=True)[:_NAMED].tolist()
    return tuple(Item((k, int(order[k]))) for k in moved if change[k] > 0)


def _stopping(n: Numbers) -> Finding | None:
    """Return whether much of the loss would go if the logits were only rescaled and shifted."""
    r = n.refit
    if r is None:
        return None
    numbers = {name: Measure(value) for name, value in vars(r).items()}
    gain = r.loss - r.best_loss
    if gain > _EARLY * r.chance:
        return Finding("stopped_early", True, Measure(gain), numbers)
    if r.loss > 0.95 * r.chance and n.spread < _ALIKE:
        return Finding("knows_nothing", True, Measure(n.spread), numbers)
    return Finding("far_enough", False, Measure(gain), numbers)


def _counting(n: Numbers) -> Finding | None:
    """Return how often the class frequencies were compensated: as stated, part by part, and as the model shows."""
    observed = n.class_counts > 0
    logs = n.class_counts[observed].log()
    x = logs - logs.mean()
    if n.statement.link == "logistic" or float(x.square().sum()) < 1e-6:
        return None
    parts = {
        name: float(-(x @ (w[observed].log() - w[observed].log().mean())) / x.square().sum())
        for name, w in n.statement.parts.items()
    }
    shown = n.frequency_power
    if shown is None:
        return None
    measured = _measure(shown.power, shown.standard_error)
    none = abs(shown.power) < 0.5 or (measured.low is not None and measured.low <= 0 <= (measured.high or 0.0))
    if not parts and none:
        return None
    twice = len(parts) > 1 and sum(parts.values()) > 1.25
    numbers = {name: Measure(value) for name, value in parts.items()}
    return Finding("counted_twice" if twice else "counted", twice, measured, numbers)


def _groups(n: Numbers) -> Finding | None:
    """Return where implied weights are not identifiable."""
    if n.implied is None or n.statement.binary:
        return None
    groups = n.implied.groups
    gaps = [gap for gap, g in zip(n.implied.gaps, groups, strict=True) if len(g) > 1 and math.isfinite(gap)]
    gap = min(gaps, default=None)
    numbers = {"free": Measure(n.implied.degrees_of_freedom)} | ({} if gap is None else {"gap": Measure(gap)})
    return Finding("groups", False, Measure(float(len(groups))), numbers, tuple(Item(g) for g in groups))


def _trades(n: Numbers) -> Finding | None:
    """Return which classes trade with which, in percent of all that classes give to others."""
    if n.statement.link == "logistic" or not n.trades:
        return None
    mass = n.class_counts * (1.0 if n.statement.total is None else n.statement.total)
    mass = mass / mass.sum()
    percent = float(n.balance.push_down.sum()) / 100
    items = []
    for trade in n.trades[:_NAMED]:
        k, j = trade.classes
        errors = [float(mass[a] * n.standard_error[a, b]) / percent for a, b in ((k, j), (j, k))]
        there, back = (
            _measure(value / percent, error, 0, 100)
            for value, error in zip((trade.there, trade.back), errors, strict=True)
        )
        items.append(Item((k, j), (there, back)))
    return Finding("trades", False, Measure(n.trades[0].there), items=tuple(items))


def _hard(n: Numbers) -> Finding | None:
    """Return the pairs of a class that hides behind an average, and the output that takes it for its own."""
    if not n.hard or n.statement.in_negative is not None:
        return None
    away = tuple(Item((k, h.output)) for h in n.hard for k in h.averaged_away)
    if not away:
        return Finding("no_hard_classes")
    return Finding("hard_classes", False, Measure(float(len(away))), items=away)


def _data(n: Numbers) -> list[Finding]:
    """What the samples do not show."""
    absent = tuple(Item((k,)) for k, count in enumerate(n.samples) if count == 0)
    single = tuple(Item((k,)) for k, count in enumerate(n.samples) if count == 1)
    found = [Finding("classes_absent", items=absent)] if absent else []
    found += [Finding("classes_of_one", items=single)] if single else []
    if n.dropped:
        found.append(Finding("rows_dropped", numbers={"dropped": Measure(n.dropped), "rows": Measure(n.rows)}))
    return found + [Finding(note) for note in n.notes]


def _misfit(n: Numbers, name: str) -> Measure:
    hypothesis = n.hypothesis(name)
    assert hypothesis is not None
    return _measure(hypothesis.misfit, hypothesis.error, 0, 1)


def _measure(value: float, error: float | None, least: float = -math.inf, most: float = math.inf) -> Measure:
    """Return the value with its interval, within what it can be."""
    if error is None or not math.isfinite(error):
        return Measure(value)
    return Measure(value, max(least, value - _T * error), min(most, value + _T * error))
