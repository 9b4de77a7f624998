"""The losses by name. A loss registers itself where it is defined; this file knows none."""

from steelyard._common.text import nearest
from steelyard.losses.base import Loss

LOSSES: dict[str, type[Loss]] = {}
OTHER_NAMES = {
    "crossentropy": "softmax",
    "crossentropyloss": "softmax",
    "categoricalcrossentropy": "softmax",
    "ce": "softmax",
    "nll": "softmax",
    "multisoftprob": "softmax",
    "multiclass": "softmax",
    "bce": "logistic",
    "bcewithlogits": "logistic",
    "bcewithlogitsloss": "logistic",
    "binarycrossentropy": "logistic",
    "binarylogistic": "logistic",
    "onevsall": "logistic",
    "onevsrest": "logistic",
    "ovr": "logistic",
    "sigmoid": "logistic",
    "sigmoidfocalloss": "focal",
    "inr": "lgl-inr",
    "lgl": "logistic",
    "sml": "softmax",
    "poly": "poly1",
    "polyloss": "poly1",
    "polycrossentropy": "poly1",
    "poly1crossentropyloss": "poly1",
    "labelawaresmoothing": "label-aware-smoothing",
    "mislas": "label-aware-smoothing",
    "asl": "asymmetric",
    "asymmetricloss": "asymmetric",
    "asymmetriclossoptimized": "asymmetric",
    "asymmetriclossmultilabel": "asymmetric",
    "cdtloss": "cdt",
    "classbalancedloss": "class-balanced",
    "eqlloss": "eql",
    "eqlv2loss": "eqlv2",
    "equalizationloss": "eql",
    "equalizationlossv2": "eqlv2",
    "immaxloss": "immax",
    "imbalancedmarginmaximization": "immax",
    "labeldistributionawaremargin": "ldam",
    "ldamloss": "ldam",
    "logitadjustment": "balanced-softmax",
    "seesawloss": "seesaw",
    "seql": "eql",
    "vectorscaling": "vs",
    "vsloss": "vs",
}
"""What other libraries and the paper call a loss, in small letters without hyphens, for hints."""


def register(loss: type[Loss]) -> type[Loss]:
    """Return the class after entering it under its name."""
    if loss.name in LOSSES and LOSSES[loss.name] is not loss:
        raise ValueError(f"loss {loss.name!r} is registered already, by {LOSSES[loss.name].__module__}")
    LOSSES[loss.name] = loss
    return loss


def find_loss(name: str) -> type[Loss]:
    """Return the class of a loss by its name; an underscore is as good as a hyphen.

    Raises:
        TypeError: a name that is no string.
        ValueError: an unknown name; the nearest is named.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    loss = LOSSES.get(name.replace("_", "-"))
    if loss is None:
        choices = sorted(LOSSES)
        near = nearest(name, choices, OTHER_NAMES)
        raise ValueError(f"unknown loss {name!r}{near}; choose from {', '.join(choices)}")
    return loss
