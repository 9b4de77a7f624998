"""Options of losses, declared once for function, module, command line and documentation."""

import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from steelyard._common.checks import check_choice, check_flag, check_integer, check_number
from steelyard.targets import TargetLike

Link = Literal["softmax", "logistic"]
Normalization = Literal["weights", "count", "none"]
NORMALIZATIONS: tuple[Normalization, ...] = ("weights", "count", "none")


@dataclass(frozen=True)
class Option:
    """One option of a loss, declared once for function, module, command line and documentation.

    Attributes:
        default: the value where none is given.
        doc: what it does, a clause for a list of arguments.
        kind: ``"number"``, ``"integer"``, ``"flag"``, ``"choice"``, ``"vector"`` (one value per class) or
            ``"other"``, which the loss checks by itself.
        low, high: limits of a number, or of a vector's values.
        choices: of a choice.
        per: ``"output"`` or ``"class"``: what a vector has one value for. They differ for one binary output, which
            has two classes.
        of: ``"module"`` or ``"function"`` where the other does not have it.
        link: the only link under which the formula has it; None for any.
    """

    default: Any
    doc: str
    kind: Literal["number", "integer", "flag", "choice", "vector", "other"] = "other"
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    per: Literal["output", "class"] = "output"
    of: Literal["both", "module", "function"] = "both"
    link: Link | None = None

    def check_link(self, name: str, value: Any, link: Link) -> None:
        """Refuse a value that the formula would not see under this link."""
        if value is not None and self.link not in (None, link):
            raise ValueError(f"{name} must be None under link={link!r}: it belongs to link={self.link!r}")

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or refuse it in one sentence; vectors are checked where their length is known."""
        if self.kind == "number":
            return check_number(name, value, low=self.low, high=self.high)
        if self.kind == "integer":
            return check_integer(name, value)
        if self.kind == "flag" and not (value is None and self.default is None):
            return check_flag(name, value)
        if self.kind == "choice":
            check_choice(name, value, self.choices)
        return value


def option(default: Any, doc: str, **more: Any) -> Any:
    """Return the declaration of an option of a loss; see :class:`Option`."""
    return Option(default, doc, **more)


POS_WEIGHT: Any = Option(
    None, "(K,) further weight of each output's positives.", kind="vector", low=0, link="logistic"
)
OUTPUT_WEIGHTS: Any = Option(
    None, "(K,) weight of each output's whole loss.", kind="vector", low=0, link="logistic"
)
WEIGHTED_MEAN: Any = Option(
    "weights",
    'what ``"mean"`` divides by: ``"weights"``, the sum of the weights of the samples, as torch does; '
    '``"count"``, the number of samples not ignored; ``"none"``, nothing.',
    kind="choice",
    choices=NORMALIZATIONS,
)


class LossFunction(Protocol):
    """A loss as a function of logits and target, with its options as keywords."""

    __name__: str
    __signature__: inspect.Signature

    def __call__(
        self, logits: Tensor, target: TargetLike, *, sample_weight: TargetLike | None = None, **options: Any
    ) -> Tensor: ...
