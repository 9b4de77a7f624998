"""Audits: what class weights did to a trained model, judged by the balance laws and told in words."""

from steelyard.auditing.audit import audit, audit_evidence
from steelyard.auditing.binary import Ratio
from steelyard.auditing.check import assert_balanced
from steelyard.auditing.findings import Finding, Hypothesis, Item, Measure
from steelyard.auditing.gather import Evidence
from steelyard.auditing.model import audit_model
from steelyard.auditing.report import AuditReport
from steelyard.auditing.save import ClassRow
from steelyard.auditing.watch import BalanceWarning, BalanceWatch, EpochReading
from steelyard.auditing.words import Verdict

__all__ = [
    "AuditReport",
    "BalanceWarning",
    "BalanceWatch",
    "ClassRow",
    "EpochReading",
    "Evidence",
    "Finding",
    "Hypothesis",
    "Item",
    "Measure",
    "Ratio",
    "Verdict",
    "assert_balanced",
    "audit",
    "audit_evidence",
    "audit_model",
]
