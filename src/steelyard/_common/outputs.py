"""What a model returns, in the forms that libraries have for it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """Return the logits of an output: the tensor itself, the first of a tuple, or what is called ``logits``.

    Raises:
        TypeError: there are none.
    """
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif not hasattr(output, "logits") and isinstance(output, tuple | list) and output:
        output = output[0]
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise TypeError(f"model must give logits, got {type(output).__name__}")
    return output
