"""skore: the findings of an audit as checks of a report, so that skore says whether class weights acted."""

import weakref
from typing import Any, Literal

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier
from sklearn.neural_network import MLPClassifier

try:
    from skore import Check, CheckNotApplicable
except ImportError as error:
    raise ImportError(
        f"steelyard.integrations.skore needs skore ({error}): pip install 'steelyard[skore]'"
    ) from None

from steelyard.auditing.audit import audit
from steelyard.auditing.catalogue import KINDS, Kind
from steelyard.auditing.report import AuditReport
from steelyard.balance.setup import TrainingSetup
from steelyard.integrations.sklearn.acted import Seen, masses_of
from steelyard.integrations.sklearn.leaf import Leaf

# What they minimise is the log-loss of their probabilities, with weights of rows; the others say so in `loss`.
_LOG_LOSS = (
    LogisticRegression,
    LogisticRegressionCV,
    MLPClassifier,
    HistGradientBoostingClassifier,
    GradientBoostingClassifier,
    SGDClassifier,
)
_BOOSTING = (
    "xgboost.sklearn.XGBClassifier",
    "lightgbm.sklearn.LGBMClassifier",
    "catboost.core.CatBoostClassifier",
)


def balance_checks(setup: TrainingSetup | None = None) -> list[Any]:
    """Return checks for a skore report, one for each fault and each warning that an audit can find.

    They audit the rows that the report's estimator was trained on: ``report.checks.add(balance_checks())``. Faults
    are skore's issues, warnings its tips; a check has the code of its finding (``SY011``), by which skore ignores
    it. The audit is made once for a report. A check does not apply where there is nothing to audit: no training
    rows, no ``predict_proba``, or an estimator of which it is not known what it minimises.

    Args:
        setup: what was done in training. Default: softmax of the estimator's probabilities, with what its
            parameters say of weights, for linear models, multi-layer perceptrons and boosted trees.

    Returns:
        The checks, for reports of an estimator and of a cross-validation.

    Raises:
        TypeError: a setup that is none.

    Source:
        This project's audit: :func:`steelyard.audit`.

    Example:
        >>> import skore
        >>> skore.configuration.show_progress = False
        >>> from sklearn.datasets import make_classification
        >>> from sklearn.linear_model import LogisticRegression
        >>> X, y = make_classification(2000, weights=[0.9], flip_y=0.1, random_state=0)
        >>> model = LogisticRegression(class_weight="balanced", C=100, tol=1e-8)
        >>> report = skore.evaluate(model, X, y, splitter=0.2)
        >>> report.checks.add(balance_checks())
        >>> found = report.checks.summarize().frame()
        >>> found[found.code == "SY011"].section.item()
        'passed'
    """
    if setup is not None and not isinstance(setup, TrainingSetup):
        raise TypeError(f"setup must be a TrainingSetup or None, got {type(setup).__name__}")
    audits = _Audits(setup)
    return [_Finding(name, kind, audits) for name, kind in KINDS.items() if kind.severity != "note"]


class _Audits:
    """The audits of reports, each made once."""

    def __init__(self, setup: TrainingSetup | None) -> None:
        self.setup = setup
        self._made: weakref.WeakKeyDictionary[Any, AuditReport | str] = weakref.WeakKeyDictionary()

    def of(self, report: Any) -> AuditReport:
        """Return the audit of a report, or raise skore's sign that it does not apply."""
        if report not in self._made:
            try:
                self._made[report] = _audit(report, self.setup)
            except (TypeError, ValueError) as error:
                self._made[report] = str(error)
        made = self._made[report]
        if isinstance(made, str):
            raise CheckNotApplicable(made)
        return made


class _Finding(Check):  # type: ignore[misc]
    """Whether an audit finds one thing."""

    report_types = ["estimator", "cross-validation"]  # noqa: RUF012  skore's attribute
    docs_url = None
    slow = False

    def __init__(self, name: str, kind: Kind, audits: _Audits) -> None:
        self.name, self.code = name, kind.code
        self.title = name.replace("_", " ").capitalize()
        self.severity: Literal["issue", "tip"] = "issue" if kind.severity == "fault" else "tip"
        self._audits = audits

    def check_function(self, report: Any) -> str | None:
        """Return what the audit says of it, or None where it does not find it."""
        splits = getattr(report, "reports_", [report])  # those of a cross-validation
        said = [[v.text for v in self._audits.of(one).verdicts if v.code == self.code] for one in splits]
        found = [" ".join(texts) for texts in said if texts]
        if not found:
            return None
        return found[0] if len(splits) == 1 else f"In {len(found)} of {len(splits)} splits. The first: {found[0]}"


def _audit(report: Any, setup: TrainingSetup | None) -> AuditReport:
    if report.ml_task not in ("binary-classification", "multiclass-classification"):
        raise ValueError(f"an audit needs a classifier of one label a row, got {report.ml_task}")
    X, y, estimator = report.X_train, report.y_train, report.estimator_
    if X is None or y is None:
        raise ValueError("an audit needs the rows that the estimator was trained on, and the report has none")
    if not hasattr(estimator, "predict_proba"):
        raise ValueError(f"an audit needs predict_proba, which {type(estimator).__name__} does not have")
    y = np.asarray(y).ravel()
    seen = Seen.of(X, y)
    if not np.array_equal(seen.classes, estimator.classes_):
        raise ValueError("an audit needs the rows that the estimator was trained on, and these have other classes")
    names = [str(label) for label in seen.classes]
    if setup is None:
        setup = _setup_of(estimator, seen)
    p = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    rows = p[:, 1] if setup.kind(1) == "binary" and p.shape[1] == 2 and setup.reading.link != "softmax" else p
    return audit(rows, np.searchsorted(seen.classes, y), setup, class_names=names, values="probabilities")


def _setup_of(estimator: Any, seen: Seen) -> TrainingSetup:
    """Return what an estimator's parameters say of its training."""
    leaf = Leaf.of(estimator)
    inner, loss = leaf.estimator, leaf.estimator.get_params(deep=False).get("loss", "log_loss")
    name = f"{type(inner).__module__}.{type(inner).__qualname__}"
    if not (isinstance(inner, _LOG_LOSS) or name in _BOOSTING) or loss != "log_loss":
        raise ValueError(
            f"it is not known which loss {type(inner).__name__} minimises: give balance_checks a TrainingSetup"
        )
    if leaf.resampled:
        raise ValueError("rows are drawn again before the classifier: give balance_checks a TrainingSetup")
    weights = masses_of(estimator, seen) / seen.counts
    plain = np.allclose(weights, weights[0], rtol=1e-9)
    return TrainingSetup("softmax", class_weights=None if plain else weights / weights.mean())
