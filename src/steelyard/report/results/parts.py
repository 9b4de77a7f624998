"""Parts that the results of several commands hold."""

from dataclasses import dataclass

from steelyard.report.results.records import Record

Numbers = list[float | None]
"""One number for each class, None where it is not known."""
Estimate = tuple[float, float | None, float | None]
"""A mean over seeds and what stands beside it, mostly the ends of its 95% interval; None for one seed."""


@dataclass(frozen=True)
class Environment(Record):
    """What a run's numbers and time depend on besides its configuration."""

    steelyard: str
    torch: str
    python: str
    machine: str
    commit: str | None = None


@dataclass(frozen=True)
class Sides(Record):
    """Both sides of a balance law, by output, as :class:`steelyard.balance.Balance` has them."""

    pull_up: Numbers
    push_down: Numbers
    relative_residual: Numbers
