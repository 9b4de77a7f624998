"""Reports from results on disk."""

from steelyard.report.advise_page import write_advise_page
from steelyard.report.audit_page import write_audit_page
from steelyard.report.claim_page import write_claim_page
from steelyard.report.compare_page import write_report
from steelyard.report.explorer_page import write_explorer
from steelyard.report.family import page_in
from steelyard.report.forecast_page import write_forecast_page
from steelyard.report.index_page import write_index

__all__ = [
    "page_in",
    "write_advise_page",
    "write_audit_page",
    "write_claim_page",
    "write_explorer",
    "write_forecast_page",
    "write_index",
    "write_report",
]
