"""Audits as assertions, for tests."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from steelyard._common.checks import check_choice
from steelyard.auditing.catalogue import names_of
from steelyard.auditing.model import audit_model
from steelyard.auditing.report import FAIL_ON, AuditReport, FailOn
from steelyard.auditing.stated import SetupOrLoss
from steelyard.auditing.words import sentence, tell


def assert_balanced(
    model: nn.Module,
    loader: Iterable[Any],
    setup: SetupOrLoss,
    *,
    ignore: Sequence[str] = (),
    fail_on: FailOn = "fault",
) -> AuditReport:
    """Audit a model on its training samples and return the report, or fail a test where a fault is found.

    Args:
        model, loader: as :func:`audit_model` takes them.
        setup: what was done in training: a :class:`~steelyard.TrainingSetup`, a loss object or its name.
        ignore: codes or names of findings that are known and accepted, such as ``["SY012"]``.
        fail_on: ``"fault"``, or ``"warning"`` for warnings too; ``"never"`` only returns the report.

    Returns:
        The report, without what is ignored.

    Raises:
        AssertionError: there are such findings. It has the headline, and the code and first sentence of each.
        TypeError, ValueError: as :func:`audit_model` raises, or an unknown code or severity.

    Source:
        The audit is this project's; see :func:`audit`.

    Example:
        Samples of two classes in two cells; their log counts are the logits that plain softmax training ends at.

        >>> import torch
        >>> samples = torch.tensor([[800, 40], [100, 160]])
        >>> x = torch.repeat_interleave(torch.tensor([0, 0, 1, 1]), samples.flatten())
        >>> y = torch.repeat_interleave(torch.tensor([0, 1, 0, 1]), samples.flatten())
        >>> model = torch.nn.Embedding.from_pretrained(samples.double().log())
        >>> assert_balanced(model, [(x, y)], torch.nn.CrossEntropyLoss()).faults
        ()
        >>> weighted = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 20.0]))
        >>> assert_balanced(model, [(x, y)], weighted)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        AssertionError: The weights never acted: check that they reach the loss.
    """
    names_of(ignore)
    check_choice("fail_on", fail_on, FAIL_ON)
    report = audit_model(model, loader, setup).without(*ignore)
    if failing := report.failing(fail_on):
        told = [
            f"{finding.code} {finding.name.replace('_', ' ')}: {sentence(tell(finding, report.numbers).text)}"
            for finding in failing
        ]
        raise AssertionError("\n".join([report.headline, *told]))
    return report
