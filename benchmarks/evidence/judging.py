"""What an audit says of every case, as rows of a table."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evidence.cases import DRAWN, Case, cases
from evidence.data import DIGITS, OVERLAPS
from evidence.trainings import load
from steelyard._common.intervals import QUANTILE
from steelyard.auditing import AuditReport, audit
from steelyard.auditing.catalogue import KINDS

DRAWS = 10
DRAWN_FROM = ("logistic C=100", "logistic C=0.01", "XGBoost 20", "LightGBM 100", "MLP", "CNN")
FIELDS = (
    "training", "family", "model", "data", "classes", "seed", "plant", "expected", "outcome", "faults", "warnings",
    "called_applied", "power", "low", "high", "true_power", "implied_inside", "implied_of", "seconds",
)  # fmt: skip
# Where this is planted the weights cannot be read: logits, rows or loss are not what the laws are asked of.
_NOT_OF_WEIGHTS = ("wrong_class_order", "score_flipped", "not_training_rows", "wrong_loss", "undertrained")


def judge(path: Path) -> list[dict[str, object]]:
    """Return a row for each audit of a training."""
    training = load(path)
    rows = []
    for case in cases(training):
        started = time.perf_counter()
        report = run(case)
        seconds = time.perf_counter() - started
        rows.append(_row(training, case, report, true_power(training, case), true_effect(training, case), seconds))
    if (
        training["kind"] == "inverse"
        and training["model"] in DRAWN_FROM
        and training["data"] in (OVERLAPS, DIGITS)
    ):
        rows += _drawn_again(training)
    return rows


def run(case: Case) -> AuditReport:
    """Return the audit of a case, without warnings on the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return audit(case.logits, case.target, case.setup)


def outcome(expected: str, faults: Sequence[str], warned: Sequence[str]) -> str:
    """Return how what was found compares to what was planted.

    "exact": that and no other fault; "second fault": that and another; "other": another in its place; "missed":
    nothing. Where nothing was planted: "clean" or "false fault".
    """
    if not expected:
        return "false fault" if faults else "clean"
    named = expected in (faults if KINDS[expected].severity == "fault" else warned)
    others = set(faults) - {expected}
    return ("second fault" if others else "exact") if named else ("other" if others else "missed")


def true_effect(training: dict[str, Any], case: Case) -> np.ndarray | None:
    """Return the weights that acted, (K,), or None where an audit cannot read them."""
    unreadable = case.expected in _NOT_OF_WEIGHTS or training["family"] == "forest"
    if unreadable or training["loss"] == "lgl-inr" or case.plant == "adjustment unstated":
        return None
    return training["applied"]


def true_power(training: dict[str, Any], case: Case) -> float | None:
    """Return the power of the stated weights that acted, or None where these are no power of them."""
    effect, stated = true_effect(training, case), stated_effect(case)
    if effect is None or stated is None:
        return None
    x, y = (np.log(values) - np.log(values).mean() for values in (stated, effect))
    power = x @ y / (x @ x)
    return power if np.abs(y - power * x).max() < 1e-6 else None


def stated_effect(case: Case) -> np.ndarray | None:
    """Return what is stated to act, (K,), or None for nothing."""
    if case.setup.pos_weight is not None:
        return np.array([1.0, float(case.setup.pos_weight[0])])
    return None if case.setup.class_effect is None else case.setup.class_effect.numpy()


def _row(
    training: dict[str, Any],
    case: Case,
    report: AuditReport,
    power: float | None,
    effect: np.ndarray | None,
    seconds: float,
) -> dict[str, object]:
    names = [finding.name for finding in report.findings]
    warned = [finding.name for finding in report.findings if finding.severity == "warning"]
    value, low, high = power_of(report)
    inside, of = implied_inside(report, effect)
    return {
        **{name: training[name] for name in ("training", "family", "model", "data")},
        "classes": len(training["counts"]),
        "seed": training["seed"],
        "plant": case.plant,
        "expected": case.expected,
        "outcome": outcome(case.expected, report.faults, warned),
        "faults": " ".join(report.faults),
        "warnings": " ".join(warned),
        "called_applied": int("weights_acted" in names),
        **{name: _digits(x) for name, x in zip(("power", "low", "high"), (value, low, high), strict=True)},
        "true_power": _digits(power),
        "implied_inside": inside,
        "implied_of": of,
        "seconds": f"{seconds:.2f}",
    }


def power_of(report: AuditReport) -> tuple[float | None, float | None, float | None]:
    """Return the power of the stated weights that the audit found, and its interval."""
    found = report.numbers.power
    if found is None:
        return None, None, None
    half = QUANTILE * found.standard_error
    return found.power, found.power - half, found.power + half


def implied_inside(report: AuditReport, effect: np.ndarray | None) -> tuple[int, int]:
    """Return in how many intervals of implied weights the true ones lie, and of how many, in the unit of each
    group."""
    implied = report.implied_weights
    errors = report.numbers.implied_log_error
    if implied is None or effect is None or errors is None:
        return 0, 0
    inside = of = 0
    for group in (list(group) for group in implied.groups if len(group) > 1):
        counts = report.numbers.class_counts.numpy()[group]
        true = effect[group] * counts.sum() / (effect[group] * counts).sum()
        error = errors.numpy()[group]
        off = np.abs(implied.weights.log().numpy()[group] - np.log(true))
        known = np.isfinite(error) & np.isfinite(off)
        inside, of = inside + int((off <= QUANTILE * error)[known].sum()), of + int(known.sum())
    return inside, of


def _drawn_again(training: dict[str, Any]) -> list[dict[str, object]]:
    """Return audits of rows drawn with replacement within each class: how far another sample of rows would lie.

    The truth is what the audit of all rows finds.
    """
    case = cases(training)[0]
    whole = run(case)
    rng, target = np.random.default_rng(training["seed"]), case.target
    rows = []
    for _ in range(DRAWS):
        chosen = np.concatenate(
            [rng.choice(found := np.flatnonzero(target == k), len(found)) for k in range(len(training["counts"]))]
        )
        drawn = case._replace(plant=DRAWN, logits=case.logits[chosen], target=target[chosen])
        started = time.perf_counter()
        report = run(drawn)
        effect = whole.implied_weights.weights.numpy() if whole.implied_weights is not None else None
        rows.append(_row(training, drawn, report, power_of(whole)[0], effect, time.perf_counter() - started))
    return rows


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
