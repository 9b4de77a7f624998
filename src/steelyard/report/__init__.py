"""Reports: figures and one self-contained page from the results on disk; nothing is computed anew here."""

from steelyard.report.page import write_report

__all__ = ["write_report"]
