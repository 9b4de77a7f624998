"""Audits: what class weights did to a trained model, judged by the balance laws and told in words."""

from steelyard.auditing.audit import audit, audit_evidence
from steelyard.auditing.gather import Evidence
from steelyard.auditing.report import AuditReport, Hypothesis, Verdict

__all__ = ["AuditReport", "Evidence", "Hypothesis", "Verdict", "audit", "audit_evidence"]
