"""What a comparison found, for the top of its page; judged here, from the summaries over seeds alone."""

import math
from collections.abc import Sequence

from steelyard.report.cards import Badge, Card, Headline
from steelyard.report.intervals import FEWEST, surely_best
from steelyard.report.results import ComparedLoss, Comparison, Metric, Summary
from steelyard.report.style import shown

_MAIN = "balanced_accuracy"
_QUESTIONS = {
    "accuracy": "Which loss is right most often?",
    "balanced_accuracy": "Which loss serves all classes?",
    "recall_few": "Which loss finds the rarest classes?",
    "recall_medium": "Which loss finds the rarest classes?",
    "nll": "Which probabilities fit best?",
    "ece": "Which confidence is most honest?",
}


def best_of(summaries: Sequence[Summary | None], metric: Metric) -> Summary | None:
    """Return the best of several, if its interval overlaps with no other; few seeds have no intervals."""
    known = [one for one in summaries if one is not None]
    if any(one.n < FEWEST for one in known):
        return None
    place = surely_best([(one.mean, one.low, one.high) for one in known], higher=metric.better == "higher")
    return None if place is None else known[place]


def number_in(metric: Metric, value: float) -> str:
    """Return a number in a metric's unit, as pages show it."""
    return f"{100 * value:.1f}%" if metric.unit == "%" else f"{value:.3f}"


def compare_headline(results: Comparison) -> Headline:
    """Return which loss to train with, or what is needed to tell."""
    losses, metric = results.losses, next((m for m in results.metrics if m.key == _MAIN), results.metrics[0])
    ranked = _ranked(losses, metric)
    name = metric.title.lower()
    if not ranked:
        return Headline(f"No loss has a value of {name} on this test split.", (), "warning", "unclear")
    label, first = ranked[0]
    seeds = results.config["seeds"]
    said = f"{label} has {_with_interval(metric, first, seeds >= FEWEST and results.seeds_differ)}"
    if len(ranked) < 2:
        todo = "Compare it with another loss, such as `softmax:inverse`: one loss alone says nothing of others."
        return Headline(f"{said} of {name}; no other loss is here to compare.", (todo,), "note", "one loss")
    other, second = ranked[1]
    if not results.seeds_differ:
        text = (
            f"{label} has the best {name}, {number_in(metric, first.mean)}; {other} follows with "
            f"{number_in(metric, second.mean)}."
        )
        todo = "Judge it on another split too: nothing in these trainings is random, so there is no interval."
        return Headline(text, (todo,), "warning", "no interval")
    if seeds < FEWEST:
        text = (
            f"{label} has the best mean {name}, {number_in(metric, first.mean)}, before {other} with "
            f"{number_in(metric, second.mean)}, but chance may explain it."
        )
        todo = f"Train with at least {FEWEST} seeds before you choose: `--seeds {FEWEST + 1}`."
        return Headline(text, (todo,), "warning", "too few seeds")
    best = best_of([loss.summary[metric.key] for loss in losses], metric)
    if best is None:
        near = [one for one, summary in ranked[1:] if _overlap(first, summary)]
        who, why = "them with care", "some seeds have no value"
        if near:
            who = _listed([label, *near])
            why = f"its interval overlaps with {'that' if len(near) == 1 else 'those'} of {_listed(near)}"
        leads = f"{label} leads by {name}, {_with_interval(metric, first, True)}"
        text = f"Choose among {who}: {leads}, but {why}."
        todo = f"Take the simplest of them, or train with more seeds than {seeds}."
        return Headline(text, (todo,), "warning", "unclear")
    text = (
        f"{label} is best by {name}: {_with_interval(metric, first, True)}, before {other} with "
        f"{_with_interval(metric, second, True)}."
    )
    return Headline(text, (f"Train with `{label}`.", *_costs(results, label)), "fine", "best")


def compare_cards(results: Comparison) -> list[Card]:
    """Return what each metric tells, what the laws tell, and what is doubtful."""
    losses, cards = results.losses, []
    sizes = {metric.key: size for metric, size in results.groups_of()}
    rarest = next((k for k in ("recall_few", "recall_medium") if sizes.get(k)), None)
    for metric in results.metrics:
        if metric.key in _QUESTIONS and (not metric.key.startswith("recall_") or metric.key == rarest):
            cards += _card_of(results, metric)
    cards.append(_law_card(losses))
    edge = [shown(loss.label, 40) for loss in losses if at_edge(loss)]
    if edge:
        tuned = results.learner.tuned if results.learner else "learning rate"
        cards.append(
            Card(
                f"Was the {tuned} tuned far enough?",
                f"{_listed(edge)} took the least or the largest that was tried: a wider range may serve better.",
                "warning",
                "at the edge",
                f"{len(edge)} of {len(losses)}",
                link="part-rates",
            )
        )
    for label, reason in results.diverged.items():
        cards.append(Card(f"What became of {shown(label, 40)}?", f"It diverged: {reason}.", "fault", "diverged"))
    return cards


def at_edge(loss: ComparedLoss) -> bool:
    """Return whether a loss took the least or the largest of several rates that were tried."""
    tried = loss.lr_search
    return len(tried) > 1 and loss.lr in (tried[0].lr, tried[-1].lr)


def _card_of(results: Comparison, metric: Metric) -> list[Card]:
    ranked = _ranked(results.losses, metric)
    if not ranked:
        return []
    label, first = ranked[0]
    sure = results.config["seeds"] >= FEWEST and results.seeds_differ
    best = results.seeds_differ and best_of([loss.summary[metric.key] for loss in results.losses], metric)
    badge: Badge = "fine" if best else "note"
    interval = ""
    if first.low is not None and first.high is not None and results.seeds_differ:
        ends = f"{number_in(metric, first.low)} to {number_in(metric, first.high)}"
        interval = f"{'95% interval' if sure else 'seeds from'} {ends}"
    others = "; ".join(f"{one} {number_in(metric, summary.mean)}" for one, summary in ranked[1:4])
    said = " is best." if best else " leads, but chance may explain it." if len(ranked) > 1 else "."
    text = f"{metric.title}: {label}{said}"
    text += f" Then {others}." if others else ""
    told = "best" if best else "unclear" if len(ranked) > 1 else ""
    return [
        Card(
            _QUESTIONS[metric.key],
            text,
            badge,
            told,
            number_in(metric, first.mean),
            interval,
            "results",
            f"word-{metric.key.split('_')[0]}",
        )
    ]


def _law_card(losses: list[ComparedLoss]) -> Card:
    misfits = []
    for loss in losses:
        up, down = loss.runs[0].law.pull_up, loss.runs[0].law.push_down
        pairs = [(u, d) for u, d in zip(up, down, strict=True) if u is not None and d is not None]
        total = math.fsum(abs(u) + abs(d) for u, d in pairs)
        misfits.append((math.fsum(abs(u - d) for u, d in pairs) / total if total else 0.0, shown(loss.label, 40)))
    largest, label = max(misfits)
    others = "; ".join(f"{one} {value:.2f}" for value, one in sorted(misfits, reverse=True)[1:4])
    text = f"Misfit of its own law is largest for {label}." + (f" Then {others}." if others else "")
    return Card(
        "Did training come to rest?",
        f"{text} Near 0 it did; near 1 it had far to go.",
        number=f"{largest:.2f}",
        link="part-balance",
        word="word-misfit",
    )


def _costs(results: Comparison, label: str) -> list[str]:
    """Return what the best loss loses elsewhere, where the intervals tell it."""
    said = []
    for metric in results.metrics:
        if metric.key not in ("accuracy", "nll", "ece"):
            continue
        of = dict(_ranked(results.losses, metric))
        first = next(iter(of), None)
        if first is None or first == label or label not in of or _overlap(of[first], of[label]):
            continue
        said.append(
            f"It costs {metric.title if metric.unit == '' or metric.key == 'ece' else metric.title.lower()}: "
            f"{number_in(metric, of[label].mean)} against {number_in(metric, of[first].mean)} of `{first}`."
        )
    return said


def _ranked(losses: list[ComparedLoss], metric: Metric) -> list[tuple[str, Summary]]:
    sign = 1 if metric.better == "higher" else -1
    known = [(shown(loss.label, 40), s) for loss in losses if (s := loss.summary[metric.key]) is not None]
    return sorted(known, key=lambda pair: -sign * pair[1].mean)


def _overlap(one: Summary, other: Summary) -> bool:
    if None in (one.low, one.high, other.low, other.high):
        return True
    return one.low <= other.high and other.low <= one.high  # type: ignore[operator]


def _with_interval(metric: Metric, one: Summary, sure: bool) -> str:
    if not sure or one.low is None or one.high is None:
        return number_in(metric, one.mean)
    return f"{number_in(metric, one.mean)} ({number_in(metric, one.low)} to {number_in(metric, one.high)})"


def _listed(names: Sequence[str]) -> str:
    shown_names = list(names[:4]) + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return " and ".join([", ".join(shown_names[:-1]), shown_names[-1]]) if len(shown_names) > 1 else shown_names[0]
