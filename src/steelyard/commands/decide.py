"""Decide on the rows of a file of corrected probabilities, by costs or by thresholds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from steelyard._common.checks import check_choice, check_number
from steelyard._common.files import read_json
from steelyard.data import open_predictions
from steelyard.data.predictions import CORRECTED, are_independent, check_out, corrected_columns, is_text_file
from steelyard.deciding import Thresholds, decide, expected_costs
from steelyard.deciding.cost_files import load_costs
from steelyard.deciding.rows import Kind

REJECTED = "rejected"


@dataclass(frozen=True)
class Decisions:
    """What was decided on the rows of a file.

    Attributes:
        rows: in the file.
        without: of them, those without probabilities, on which nothing is decided.
        counts: by decision, how many rows have it: by class, ``"rejected"`` too where rows may be. Of outputs that
            stand for themselves, by output, how many rows are decided to have it.
        expected_cost: mean over the rows, or None under thresholds, which know no costs.
        cost_of_likeliest: the same if the likeliest class was decided in every row.
    """

    rows: int
    without: int
    counts: Mapping[str, int]
    expected_cost: float | None
    cost_of_likeliest: float | None


def decide_file(
    path: str | PathLike[str],
    *,
    costs: str | PathLike[str] | None = None,
    reject_cost: float | None = None,
    offsets: str | PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    out: str | PathLike[str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Decisions:
    """Decide on each row of a file that ``steelyard correct`` wrote, and write the rows with their decisions.

    The new columns stand behind all others (behind the probabilities where a list of them becomes columns of CSV).
    ``decision`` is the name of a class (its number where nobody says), ``rejected``, or empty where a row has no
    probabilities; ``decision_NAME`` is 0, 1 or ``rejected`` for each of several outputs that stand for themselves.
    ``expected_cost`` is that of the decision. Rows are never all in memory.

    Args:
        path: file of corrected probabilities, or a folder or glob of such.
        costs: CSV file as :func:`steelyard.deciding.cost_files.load_costs` takes it; for outputs that stand for
            themselves of the classes 0 and 1, for all of them the same. Default: 1 for each error.
        reject_cost: of leaving a row to somebody else. Default: no row is rejected.
        offsets: JSON file of :meth:`steelyard.deciding.Thresholds.to_dict`, in place of costs.
        class_names: K. Default: what the file says.
        out: the new file. Default: none is written.
        say: told what was taken from the file.

    Returns:
        The numbers of decisions and their mean cost.

    Raises:
        FileExistsError: there is a file at `out`.
        ValueError, TypeError, FileNotFoundError: a file without corrected probabilities, or one that cannot be
            read, costs that do not fit, or costs beside thresholds.
    """
    path = Path(path)
    if out is not None:
        check_out(Path(out), path)
    if offsets is not None and (costs is not None or reject_cost is not None):
        raise ValueError("costs must not be given beside offsets, which are a rule of their own")
    if reject_cost is not None:
        check_number("reject_cost", reject_cost)
    opened = open_predictions(
        path, values="corrected probabilities", class_names=class_names, missing_values="nan", label="none"
    )
    say(opened.reading)
    independent = are_independent(opened.columns)
    outputs = opened.num_classes
    names = opened.class_names or tuple(str(k) for k in range(max(outputs, 2)))
    if (cut := next((name for name in names if name.endswith("\0")), None)) is not None:
        raise ValueError(f"{path} has a class called {cut!r}; a name that ends in a NUL cannot be written")
    if reject_cost is not None and REJECTED in names and not independent:
        raise ValueError(f"{path} has a class called {REJECTED!r}, which is what a rejected row is called")
    table = None if costs is None else load_costs(Path(costs), ("0", "1") if independent else names)
    rule = _Rule(independent, table, reject_cost, None if offsets is None else load_thresholds(Path(offsets)))
    seen = _Seen(rule, names, reject_cost is not None)
    if out is None:
        for numbers in opened.numbers():
            seen.columns(numbers)
    elif opened.as_list and is_text_file(Path(out)):  # a list becomes columns
        as_columns = partial(corrected_columns, names=names, independent=independent, as_list=False)
        opened.rewrite(Path(out), lambda p: as_columns(p.numpy()) | seen.columns(p), replace=True, metadata={})
    else:
        opened.rewrite(Path(out), seen.columns, replace=False, metadata={})
    return seen.total()


def load_thresholds(path: Path) -> Thresholds:
    """Return thresholds from the JSON file of their ``to_dict()``.

    Raises:
        ValueError: a file that holds none.
    """
    found = read_json(path)
    try:
        held = {key: found[key] for key in Thresholds.__dataclass_fields__}
        made = Thresholds(**held | {"offsets": torch.tensor(held["offsets"], dtype=torch.float64)})
        check_choice("kind", made.kind, get_args(Kind))
    except (TypeError, KeyError, ValueError, RuntimeError):
        raise ValueError(f"{path} must hold thresholds as their to_dict() gives them") from None
    if not bool(made.offsets.isfinite().all()):
        raise ValueError(f"{path} must hold finite offsets, got {made.offsets.tolist()}")
    return made


@dataclass(frozen=True)
class _Rule:
    independent: bool
    costs: Tensor | None
    reject_cost: float | None
    thresholds: Thresholds | None

    def decide(self, q: Tensor) -> Tensor:
        if self.thresholds is not None:
            return self.thresholds.decide(q)
        targets = "multi-hot" if self.independent else "classes"
        return decide(q, self.costs, reject_cost=self.reject_cost, targets=targets)  # type: ignore[arg-type]

    def expected(self, q: Tensor, decided: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the decisions are expected to cost, (n,), and what the likeliest classes would."""
        targets = "multi-hot" if self.independent else "classes"
        table = expected_costs(q, self.costs, targets=targets)  # type: ignore[arg-type]
        found = []
        for choice in (decided, decide(q, targets=targets)):  # type: ignore[arg-type]
            cost = table.gather(-1, choice.clamp(min=0)[..., None])[..., 0]
            cost = torch.where(choice < 0, float(self.reject_cost or 0), cost)
            found.append(cost.sum(1) if self.independent else cost)
        return found[0], found[1]


class _Seen:
    """Makes the columns of decisions, and counts them."""

    def __init__(self, rule: _Rule, names: Sequence[str], may_reject: bool) -> None:
        self.rule, self.names = rule, names
        self.rows = self.without = 0
        self.cost = self.likeliest = 0.0
        of_reject = {REJECTED: 0} if may_reject and not rule.independent else {}
        self.counts = dict.fromkeys(names, 0) | of_reject

    def columns(self, numbers: Tensor) -> dict[str, Any]:
        q = _logs(numbers, self.rule.independent)
        kept = ~q.isnan().any(1)
        decided = self.rule.decide(q[kept])
        self.rows, self.without = self.rows + len(q), self.without + int((~kept).sum())
        if self.rule.independent:
            texts = np.array(["0", "1", REJECTED, ""])
            codes = torch.full((len(q), q.shape[1]), 3)
            codes[kept] = torch.where(decided < 0, 2, decided)
            for name, column in zip(self.names, codes.T, strict=True):
                self.counts[name] += int((column == 1).sum())
            new = {f"decision_{name}": texts[codes[:, j].numpy()] for j, name in enumerate(self.names)}
        else:
            texts = np.array([*self.names, REJECTED, ""])
            codes = torch.full((len(q),), len(texts) - 1)
            codes[kept] = torch.where(decided < 0, len(self.names), decided)
            for k, count in enumerate(
                torch.bincount(codes[kept], minlength=len(texts))[: len(self.counts)].tolist()
            ):
                self.counts[str(texts[k])] += count
            new = {"decision": texts[codes.numpy()]}
        if self.rule.thresholds is None:
            cost, likeliest = self.rule.expected(q[kept], decided)
            self.cost, self.likeliest = self.cost + float(cost.sum()), self.likeliest + float(likeliest.sum())
            expected = torch.full((len(q),), torch.nan, dtype=torch.float64)
            expected[kept] = cost
            new["expected_cost"] = expected.numpy()
        return new

    def total(self) -> Decisions:
        decided = self.rows - self.without
        known = self.rule.thresholds is None and decided > 0
        return Decisions(
            self.rows,
            self.without,
            self.counts,
            self.cost / decided if known else None,
            self.likeliest / decided if known else None,
        )


def _logs(numbers: Tensor, independent: bool) -> Tensor:
    """Return log-probabilities as decisions take them from probabilities; NaN in rows where one is missing."""
    p = numbers.double()
    known = ~p.isnan().any(1)
    if bool(((p[known] < 0) | (p[known] > 1)).any()):
        raise ValueError(
            f"{CORRECTED} must lie in [0, 1], got {float(p[known].min()):g} to {float(p[known].max()):g}"
        )
    p = torch.where(known[:, None], p, torch.nan)
    if not independent and p.shape[1] > 1 and not bool(((p[known].sum(1) - 1).abs() < 1e-3).all()):
        raise ValueError(f"{CORRECTED} must sum to 1 in each row, got {float(p[known].sum(1).min()):g}")
    return p.log() - torch.log1p(-p) if p.shape[1] == 1 else p.log()
