"""From the numbers of an audit to findings: names, numbers and intervals; every threshold stands here, no word."""

import math

from steelyard._common.intervals import QUANTILE
from steelyard.auditing.catalogue import SEVERITIES
from steelyard.auditing.explanations import Explained, Fit
from steelyard.auditing.findings import Finding, Item, Measure, Numbers, measured

_CRITICAL = 0.1  # a misfit up to this is a critical point, as far as stochastic training reaches one
_ROUGHLY = 0.25
_BETTER = 0.5  # a hypothesis is better when its misfit is at most this part of another's
_ENDED = 1e-3  # a misfit that no training has that could go on
_SHARP = 0.02  # misfit of another loss that is no chance, though the stated one fits too
_BETTER_LOSS = 0.7  # the same for LGL-INR, whose law holds batch by batch and so only roughly for all samples
_SCALE = 0.05  # gain of refitted scale and shifts, as a part of the loss of a model that knows nothing
_LITTLE, _MUCH_LEFT = 0.5, 0.15  # undertrained: such a part of that loss is left, and scale alone would gain this
_LEARNED = 0.35  # share of the probability placed, up to which a model has learned little
_SAME = 0.2  # powers that differ by less are the same for whoever trained
_REVERSED = -0.25
_TWICE = (1.5, 3.0)  # powers that are called twice
_SCATTER = 0.25  # of log implied weights about what explains them
_EXACT = 0.1  # the same, of a model that has come to rest
_RATIO = math.log(1.5)  # weights that nobody stated differ at least so much
_INTERPOLATES = 0.98  # share of the probability placed from which on few samples carry all that is misplaced
_WHOLE = 0.98  # of the training rows; so few may have been lost
_NAMED = 3  # classes or pairs of which a finding holds the numbers
_NOT_FITTED = ("as stated", "no weights", "twice", "in reverse", "other order")  # of the stated loss
_OTHER_LOSSES = ("one-vs-all", "one-vs-all, weighted", "softmax", "softmax, weighted", "LGL-INR")


def judge(numbers: Numbers) -> tuple[Finding, ...]:
    """Return the findings: faults, then warnings, then notes.

    What comes first decides what is asked next: columns that are not those of the labels, a model that has learned
    little, another loss, or rows that training did not have leave nothing to say of weights.
    """
    data = _data(numbers)
    columns = _columns(numbers)
    if columns is not None:
        return _ordered([columns, *data])
    training, loss = _training(numbers), _loss(numbers)
    undertrained = training is not None and training.name == "undertrained"
    foreign = any(finding.name == "not_training_rows" for finding in data)
    findings: list[Finding | None] = []
    if loss is not None and not undertrained:
        findings = [loss]
    elif not undertrained and not foreign:
        findings = [_weights(numbers), _counting(numbers)]
    findings += [_balance(numbers), training, _groups(numbers), _trades(numbers), _hard(numbers)]
    return _ordered([*(f for f in findings if f is not None), *data])


def _ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _columns(n: Numbers) -> Finding | None:
    """Return whether the columns are another order of the classes, or the only score has the wrong sign."""
    c = n.columns
    if c.flipped:
        return Finding("score_flipped", Measure(c.agreement), items=tuple(Item((k,)) for k in c.flipped))
    if c.moved:
        numbers = {"own": Measure(c.agreement), "best": Measure(c.best)}
        return Finding("wrong_class_order", Measure(float(len(c.moved))), numbers, tuple(map(Item, c.moved)))
    return None


def _balance(n: Numbers) -> Finding:
    """Return how well the law of the stated loss holds."""
    stated = n.hypotheses[0]
    off = _most_off(n) if stated.misfit > _CRITICAL else ()
    return Finding(
        "in_balance", _misfit(n, "as stated"), {"exact": Measure(_CRITICAL), "rough": Measure(_ROUGHLY)}, off
    )


def _most_off(n: Numbers) -> tuple[Item, ...]:
    """Return the classes whose residual is largest in mass, each with its relative residual: positive, to be
    raised."""
    residual, relative, error = n.balance.residual, n.balance.relative_residual, n.balance.residual_error
    total = n.balance.pull_up.abs() + n.balance.push_down.abs()
    named = []
    for j in residual.abs().argsort(descending=True)[:_NAMED].tolist():
        if n.samples[j] == 0 or residual[j] == 0 or (n.statement.binary and j == 0):  # its mirror
            continue
        spread = None if error is None or total[j] == 0 else float(error[j] / total[j])
        named.append(Item((j,), (measured(float(relative[j]), spread, -1, 1),)))
    return tuple(named)


def _loss(n: Numbers) -> Finding | None:
    """Return whether another loss explains the model much better than any weights of the stated one."""
    own = min(h.misfit for h in n.hypotheses if h.name in _NOT_FITTED)
    fitted = min(h.misfit for h in n.hypotheses if h.name not in _OTHER_LOSSES)
    others = [h for h in n.hypotheses if h.name in _OTHER_LOSSES]
    if not others:
        return None
    best = min(others, key=lambda h: h.misfit)
    if own <= _CRITICAL and best.misfit > min(_BETTER**2 * own, _SHARP):
        return None
    rough = best.link == n.statement.link == "logistic"
    if best.misfit > (_BETTER_LOSS if rough else _BETTER) * own:
        return None
    # Fitted weights may come near by chance, but not so much nearer than another loss whose law does not hold.
    if best.misfit > _ENDED and fitted <= _BETTER * best.misfit:
        return None
    # Where weights of a loss without a closed law go like a power, a plain loss is believed only if its law holds.
    if not n.statement.closed and best.misfit > _SHARP and _power(n.explained):
        return None
    sums = n.mean_row_sum
    # One-vs-all sigmoids sum to 1 over the classes; those of softmax logits to anything, boosted ones to nearly 1.
    unlike = sums is None or abs(sums - 1) > 0.05 or best.misfit > _CRITICAL
    known = best.misfit > _BETTER**2 * own and _explained(n.explained)
    if n.statement.link == "softmax" and best.link == "logistic" and (unlike or known):
        return None
    numbers = {"own": Measure(fitted)} | ({} if sums is None else {"row_sum": Measure(sums)})
    return Finding("wrong_loss", _misfit(n, best.name), numbers, hypothesis=best.name)


def _explained(e: Explained | None) -> bool:
    """Return whether the implied weights are the stated ones, but for a few classes or their order."""
    if e is None or e.power is None or e.classes < 4:
        return False
    return e.order is not None or bool(e.off) or (e.power.holds(1) and e.once.scatter <= _SCATTER)


def _power(e: Explained | None) -> bool:
    """Return whether implied weights are a power of the stated ones or of the class counts, as closely as can be
    told."""
    if e is None or e.classes < 4:
        return False
    fits = [fit for fit in (e.power, e.frequency) if fit is not None]
    return any(fit.scatter <= _EXACT and not fit.holds(0, 0.3) for fit in fits)


def _weights(n: Numbers) -> Finding | None:
    """Did the stated weights act, which did, and are there some that nobody stated?"""
    s, e = n.statement, n.explained
    if s.in_negative is not None:
        return None
    if e is None:
        unknown = n.implied is not None and bool(n.implied.weights[n.class_counts > 0].isnan().any())
        if unknown:
            return Finding("weights_not_positive")
        return Finding("weights_tell_nothing") if s.weighted else None
    if s.setup.mixup:
        return Finding("weights_unclear", hypothesis="mixup")
    if e.power is None:
        return Finding("weights_tell_nothing") if s.weighted and not n.uniform else _unstated(n, e)
    power = _interval(e.power)
    numbers = {"scatter": Measure(e.power.scatter)} | {
        name: Measure(hypothesis.misfit)
        for name in ("as stated", "no weights", "twice")
        if (hypothesis := n.hypothesis(name)) is not None
    }
    numbers |= _in_units(n, e.power)
    g = e.power
    acted = g.holds(1, _SAME) and not g.holds(0)
    moved = _closer(n, "other order", "few off")
    if e.off and not moved and not (acted and e.once.scatter <= _SCATTER) and _out_of_balance(n, e):
        items = tuple(Item((off.index,), (_factor(off.factor, off.log_error),)) for off in e.off)
        return Finding("class_weight_off", power, numbers, items)
    if acted and not (g.holds(2) and _closer(n, "twice", "as stated")):
        return Finding("weights_acted", power, numbers)
    nearer = _closer(n, "other order", "as stated") and n.hypotheses[0].misfit > _ROUGHLY
    if e.order is not None and ((nearer and abs(g.power - 1) > 0.25) or not g.holds(1)):
        return Finding("weights_permuted", power, numbers | {"order": _misfit(n, "other order")}, _moved(n))
    assert power.high is not None
    if power.high < _REVERSED and g.power < -_BETTER:
        return Finding("weights_permuted", power, numbers, hypothesis="reversed")
    alone = [name for name, fit in e.parts.items() if fit.scatter <= _BETTER * min(e.once.scatter, e.none.scatter)]
    if g.holds(0, _SAME) and not g.holds(1) and power.high < 0.75:
        return Finding("weights_not_applied", power, numbers)
    if power.high <= 0:
        return Finding("weights_not_applied", power, numbers)
    twice = g.holds(2) or _TWICE[0] < g.power < _TWICE[1]
    if twice and not g.holds(1) and not _closer(n, "as stated", "twice"):
        return Finding("weights_applied_twice", power, numbers)
    if not g.holds(0) and not g.holds(1):
        return Finding("weights_at_other_strength", power, numbers, hypothesis=alone[0] if alone else None)
    # The interval is wide; the laws may tell all the same.
    if g.power < _BETTER and _closer(n, "no weights", "as stated", sure=True):
        return Finding("weights_not_applied", power, numbers)
    if e.apart and n.hypotheses[0].misfit > _ROUGHLY and n.learned < _INTERPOLATES:
        items = tuple(Item((off.index,), (_factor(off.factor, off.log_error),)) for off in e.apart)
        return Finding("class_weight_off", power, numbers, items)
    return Finding("weights_unclear", power, numbers)


def _closer(n: Numbers, one: str, other: str, sure: bool = False) -> bool:
    """Return whether the law of one hypothesis holds much better than that of another, or surely does."""
    first, second = n.hypothesis(one), n.hypothesis(other)
    if first is None or second is None:
        return False
    errors = QUANTILE * math.hypot(first.error or 0.0, second.error or 0.0) if sure else 0.0
    return first.misfit <= _BETTER * second.misfit and first.misfit + errors < second.misfit


def _out_of_balance(n: Numbers, e: Explained) -> bool:
    """Return whether the law of the stated weights fails for the classes that stand apart."""
    return all(abs(float(n.balance.relative_residual[off.index])) > _ROUGHLY for off in e.off)


def _unstated(n: Numbers, e: Explained) -> Finding | None:
    """Return which weights the model behaves as if trained with, where none are stated."""
    (ratio, error), f = e.range, e.frequency
    clean = f is not None and not f.holds(0, 0.3) and f.scatter <= max(_BETTER * e.none.scatter, _SCATTER)
    sure = clean or e.at_rest
    if e.none.scatter <= _SCATTER or ratio <= (_RATIO if sure else max(_RATIO, 1.5 * QUANTILE * error)):
        return None
    if not sure and n.learned < _LEARNED:  # what a model that has learned little misplaces has no weights
        return None
    # Where the law without weights holds as far as a training reaches it, training itself may leave this much.
    held = n.hypotheses[0].misfit <= _CRITICAL
    if not clean and e.classes > 2 and (held or (n.learned > _INTERPOLATES and not sure)):
        return Finding(
            "weights_unclear", _factor(math.exp(ratio), error), hypothesis="in balance" if held else None
        )
    numbers = {} if f is None or not clean else {"frequency": _interval(f)}
    w = n.implied_shown
    items = tuple(Item((k,), (Measure(w[k]),)) for k in sorted(range(len(w)), key=lambda k: w[k]) if w[k] == w[k])
    return Finding("weights_unstated", _factor(math.exp(ratio), error), numbers, items)


def _in_units(n: Numbers, g: Fit) -> dict[str, Measure]:
    """Return for two classes how many times a sample of class 1 weighs one of class 0: as stated, as it acted."""
    total = n.statement.total
    if len(n.names) != 2 or total is None:
        return {}
    stated = float(total[1] / total[0])
    low, high = sorted(stated ** (g.power + side * QUANTILE * g.error) for side in (-1, 1))
    return {"stated_ratio": Measure(stated), "ratio": Measure(stated**g.power, low, high)}


def _interval(fit: Fit) -> Measure:
    return measured(fit.power, fit.error)


def _factor(factor: float, log_error: float) -> Measure:
    """Return a factor with the interval that its logarithm has."""
    if not math.isfinite(log_error):
        return Measure(factor)
    width = math.exp(min(50.0, QUANTILE * log_error))
    return Measure(factor, factor / width, factor * width)


def _moved(n: Numbers) -> tuple[Item, ...]:
    """Return the pairs of a class and the one whose weight it seems to have, largest change first."""
    total, order = n.statement.total, n.order
    if total is None or order is None:
        return ()
    change = (total[order] / total).log().abs()
    moved = change.argsort(descending=True)[:_NAMED].tolist()
    return tuple(Item((k, int(order[k]))) for k in moved if change[k] > 0)


def _training(n: Numbers) -> Finding | None:
    """Return by how much the logits are too small or too large, and whether the model has learned anything."""
    r = n.refit
    if r is None:
        return None
    numbers = {name: Measure(value) for name, value in vars(r).items()}
    gain = r.shifted_loss - r.best_loss
    knows_nothing = r.shifted_loss > 0.95 * r.chance and n.spread < 0.05
    worse = r.shifted_loss > 1.02 * r.chance and r.best_loss > 0.98 * r.chance
    # What is exactly in balance has come to its end: it is regularised, not undertrained.
    ended = min(h.misfit for h in n.hypotheses if h.link == n.statement.link) < _ENDED
    little = r.shifted_loss > _LITTLE * r.chance and n.learned < _LEARNED and not ended
    if knows_nothing or worse or (little and gain > _MUCH_LEFT * r.chance and r.scale > 1):
        return Finding("undertrained", Measure(gain), numbers | {"spread": Measure(n.spread)})
    if gain > _SCALE * r.chance:
        return Finding("logits_too_small" if r.scale > 1 else "logits_too_large", Measure(r.scale), numbers)
    return None


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
    found = measured(shown.power, shown.standard_error)
    none = abs(shown.power) < 0.5 or (found.low is not None and found.low <= 0 <= (found.high or 0.0))
    if not parts and none:
        return None
    twice = len(parts) > 1 and sum(parts.values()) > 1.25
    numbers = {name: Measure(value) for name, value in parts.items()}
    return Finding("counted_twice" if twice else "counted", found, numbers)


def _groups(n: Numbers) -> Finding | None:
    """Return where implied weights are not identifiable."""
    if n.implied is None or len(n.names) == 2:
        return None
    groups = n.implied.groups
    gaps = [gap for gap, g in zip(n.implied.gaps, groups, strict=True) if len(g) > 1 and math.isfinite(gap)]
    gap = min(gaps, default=None)
    numbers = {"free": Measure(n.implied.degrees_of_freedom)} | ({} if gap is None else {"gap": Measure(gap)})
    return Finding("groups", Measure(float(len(groups))), numbers, tuple(Item(g) for g in groups))


def _trades(n: Numbers) -> Finding | None:
    """Return which classes trade with which, in percent of all that classes give to others."""
    if n.statement.link == "logistic" or not n.trades:
        return None
    if any(trade.there < 0 or trade.back < 0 for trade in n.trades):  # smoothing can make push negative
        return None
    mass = n.class_counts * (1.0 if n.statement.total is None else n.statement.total)
    mass = mass / mass.sum()
    percent = float(n.balance.push_down.sum()) / 100
    items = []
    for trade in n.trades[:_NAMED]:
        k, j = trade.classes
        errors = [float(mass[a] * n.standard_error[a, b]) / percent for a, b in ((k, j), (j, k))]
        there, back = (
            measured(value / percent, error, 0, 100)
            for value, error in zip((trade.there, trade.back), errors, strict=True)
        )
        items.append(Item((k, j), (there, back)))
    return Finding("trades", Measure(n.trades[0].there), items=tuple(items))


def _hard(n: Numbers) -> Finding | None:
    """Return the pairs of a class that hides behind an average, and the output that takes it for its own."""
    if not n.hard or n.statement.in_negative is not None:
        return None
    away = tuple(Item((k, h.output)) for h in n.hard for k in h.averaged_away)
    return Finding("hard_classes", Measure(float(len(away))), items=away) if away else None


def _data(n: Numbers) -> list[Finding]:
    """What the samples do not show."""
    absent = tuple(Item((k,)) for k, count in enumerate(n.samples) if count == 0)
    single = tuple(Item((k,)) for k, count in enumerate(n.samples) if count == 1)
    found = [Finding("classes_absent", items=absent)] if absent else []
    found += [Finding("classes_of_one", items=single)] if single else []
    if n.dropped:
        found.append(Finding("rows_dropped", numbers={"dropped": Measure(n.dropped), "rows": Measure(n.rows)}))
    if n.training_counts is not None:
        counts, rows = n.training_counts, sum(n.samples) + n.dropped
        more = tuple(Item((k,)) for k, seen in enumerate(n.samples) if seen > counts[k])
        if more or rows < _WHOLE * float(counts.sum()):
            numbers = {"rows": Measure(rows), "training_rows": Measure(float(counts.sum()))}
            if more:
                k = more[0].classes[0]
                numbers |= {"of_class": Measure(n.samples[k]), "training_of_class": Measure(float(counts[k]))}
            fit = None if n.explained is None else n.explained.power
            held = None if fit is None else _interval(fit)
            found.append(Finding("not_training_rows", held, numbers, more))
    return found + [Finding(note) for note in n.notes]


def _misfit(n: Numbers, name: str) -> Measure:
    hypothesis = n.hypothesis(name)
    assert hypothesis is not None
    return measured(hypothesis.misfit, hypothesis.error, 0, 1)
