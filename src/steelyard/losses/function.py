"""Losses as functions of logits and target, each made from the class of its loss."""

import inspect
from typing import Any

from torch import Tensor

from steelyard.losses.base import Loss
from steelyard.losses.options import LossFunction
from steelyard.targets import TargetLike


def function_of(loss: type[Loss], name: str) -> LossFunction:
    """Return the function of a loss: as its module, with every option a keyword of the call."""

    def function(
        logits: Tensor, target: TargetLike, *, sample_weight: TargetLike | None = None, **options: Any
    ) -> Tensor:
        completed = loss.complete(options, of="function")
        if sample_weight is None:
            found = loss._quickly(logits, target, completed)
            if found is not None:
                return found
        return loss.evaluate(logits, target, sample_weight, completed)

    keyword = inspect.Parameter.KEYWORD_ONLY
    taken = {key: one for key, one in loss.options.items() if one.of != "module"}
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD]
    parameters += [inspect.Parameter(key, keyword, default=one.default) for key, one in taken.items()]
    function.__name__ = function.__qualname__ = name
    function.__module__ = loss.__module__
    function.__doc__ = (
        f"Return the {loss.name} loss; :class:`{loss.__name__}` has its formula and options; weights are tensors."
    )
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    loss.function = staticmethod(function)  # type: ignore[assignment]
    return function  # type: ignore[return-value]
