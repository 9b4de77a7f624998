"""What an audit returns: findings, their words and the numbers behind them."""

import datetime
import html
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from steelyard._common.checks import check_choice
from steelyard._version import __version__
from steelyard.auditing.binary import Ratio, ratio_of
from steelyard.auditing.catalogue import SEVERITIES, names_of
from steelyard.auditing.findings import Finding, Numbers
from steelyard.auditing.save import ClassRow, class_rows, save_audit
from steelyard.auditing.words import Verdict, clause, headline, sentence, tell
from steelyard.balance.implied import ImpliedWeights
from steelyard.balance.laws import Balance

_MOST_LINES = 8
FailOn = Literal["fault", "warning", "never"]
FAIL_ON: tuple[FailOn, ...] = get_args(FailOn)


@dataclass(frozen=True)
class AuditReport:
    """What the balance laws say of one model; :func:`audit` returns it.

    Attributes:
        findings: the answers as codes and numbers, the most important first.
        numbers: all that they were judged by.
        mean_confusion: (K, K) float64; NaN rows for classes without samples.
        ledger: (K, K) pull and push by source class, under the stated weights.
        ignored: findings that :meth:`without` set aside: nothing counts them, and a line tells them.
    """

    findings: tuple[Finding, ...]
    numbers: Numbers
    mean_confusion: Tensor
    ledger: Tensor
    ignored: tuple[Finding, ...] = ()

    def without(self, *kinds: str) -> "AuditReport":
        """Return the same report with findings of some kinds set aside, as known and accepted.

        Args:
            kinds: codes or names, such as ``"SY012"`` or ``"weights_applied_twice"``.

        Raises:
            TypeError, ValueError: what is no code or name of a finding.
        """
        names = names_of(kinds)
        kept = tuple(finding for finding in self.findings if finding.name not in names)
        aside = tuple(finding for finding in self.findings if finding.name in names)
        return replace(self, findings=kept, ignored=self.ignored + aside)

    def failing(self, fail_on: FailOn = "fault") -> tuple[Finding, ...]:
        """Return the findings of this severity or worse, for which a check fails; none where it is ``"never"``.

        Raises:
            ValueError: another severity.
        """
        check_choice("fail_on", fail_on, FAIL_ON)
        if fail_on == "never":
            return ()
        severities = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
        return tuple(finding for finding in self.findings if finding.severity in severities)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Return the findings in words."""
        return tuple(tell(finding, self.numbers) for finding in self.findings)

    @property
    def faults(self) -> tuple[str, ...]:
        """Return the names of what was found wrong; empty where nothing was."""
        return tuple(finding.name for finding in self.findings if finding.severity == "fault")

    @property
    def classes(self) -> tuple[ClassRow, ...]:
        """Return what is said of each class, largest residual first."""
        return class_rows(self.numbers, self.ratio)

    @property
    def residual(self) -> Balance:
        """Return both sides of the stated loss's law, per output, and their difference with its standard error."""
        return self.numbers.balance

    @property
    def implied_weights(self) -> ImpliedWeights | None:
        """Return the class weights that a softmax model behaves as if trained with; None under ``"logistic"``."""
        return self.numbers.implied

    @property
    def implied_over_stated(self) -> Tensor | None:
        """Return the ratio of implied to stated class weights, (K,) float64, with geometric mean 1 in each group.

        It is 1 where the weights acted. For one-vs-all outputs it is the ratio of implied to stated positive
        weights, as it is; NaN for classes without samples; None for LGL-INR, whose law has no weights.
        """
        return self.numbers.implied_over_stated

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Return the classes between which weights have an effect; empty under ``"logistic"``."""
        return () if self.numbers.implied is None else self.numbers.implied.groups

    def __str__(self) -> str:
        """Return the headline, what was audited, and the first sentence of each of the main answers."""
        n = self.numbers
        what = f"Audit of the {n.statement.text}, {n.rows} samples, {len(n.names)} classes."
        told = [f"{v.code} {v.topic}: {sentence(v.text)}" for v in self.verdicts[: _MOST_LINES - 2]]
        told += [self.ignored_line] if self.ignored else []
        return "\n".join(_printable(line) for line in [self.headline, what, *told])

    @property
    def headline(self) -> str:
        """Return the answer in one sentence."""
        aside = any(finding.severity != "note" or finding.topic == "weights" for finding in self.ignored)
        if not self.findings or (aside and self.findings[0].severity == "note"):
            return f"No fault or warning is left; {self.ignored_line}."
        return headline(self.findings, self.numbers)

    @property
    def ignored_line(self) -> str:
        """Return what was set aside, as "ignored: SY012 weights applied twice"; empty where nothing was."""
        named = [f"{finding.code} {finding.name.replace('_', ' ')}" for finding in self.ignored]
        return f"ignored: {', '.join(named)}" if named else ""

    @property
    def ratio(self) -> Ratio | None:
        """Return how many times a sample of class 1 weighs one of class 0, for two classes under a softmax loss or
        one binary output; else None."""
        return ratio_of(self.numbers, self.findings + self.ignored)

    def _repr_html_(self) -> str:
        """Return the answers as a list that notebooks show: no script, no style sheet, nothing from elsewhere."""
        items = []
        for verdict in self.verdicts:
            badge = "" if verdict.severity == "note" else f"<b>{verdict.severity}</b>: "
            text = html.escape(_printable(verdict.text))
            items.append(f"<li><i>{verdict.code} {html.escape(verdict.topic)}</i>: {badge}{text}</li>")
        first, aside = (html.escape(_printable(text)) for text in (self.headline, self.ignored_line))
        aside = f"<p>{aside}</p>" if aside else ""
        return f"<div><p><b>{first}</b></p><ul>{''.join(items)}</ul>{aside}</div>"

    def save(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        command: str | None = None,
        page: Callable[[Path], object] | None = None,
    ) -> Path:
        """Write the audit into a folder and return the folder's path.

        The files are audit.json (:meth:`to_dict`), classes.csv (one line a class) and mean_confusion.npz (the mean
        confusion and the ledger). Each is written aside and renamed. A folder that was left unfinished, by a full
        disk or a killed process, is completed.

        Args:
            folder: new or empty.
            name: of what was audited, for pages. Default: the folder's name.
            command: the command line that made the audit. Default: none.
            page: called with the folder when its other files are written, such as
                ``steelyard.report.write_audit_page``; the folder is finished after it.

        Raises:
            FileExistsError: the folder holds something already.
        """
        folder = Path(folder)
        about = {
            "schema": 1,
            "name": folder.resolve().name if name is None else name,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": command,
        }
        save_audit(folder, about | self.to_dict(), self.classes, self.mean_confusion, self.ledger, page)
        return folder

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists for JSON, None for what is not known; without the K x K
        arrays."""
        n = self.numbers
        hypotheses = [h.to_dict() | {"text": clause(h, n)} for h in n.hypotheses]
        return {
            "version": __version__,
            "headline": self.headline,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "findings": [finding.to_dict() for finding in self.findings],
            "faults": list(self.faults),
            "ignored": [finding.to_dict() for finding in self.ignored],
            "ratio": None if self.ratio is None else self.ratio.to_dict(),
            "hypotheses": hypotheses,
            "classes": [row.to_dict() for row in self.classes],
        } | n.to_dict()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
