"""The classifier at the end of pipelines and searches, and how weights reach it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Leaf:
    """A classifier inside an estimator.

    Attributes:
        estimator: the classifier, the object itself: what is set on it is set inside the whole.
        argument: the name under which the whole's fit takes sample weights for it; None where it takes none.
        nested: whether it is inside something.
        resampled: whether a sampler draws rows before it.
        frozen: whether it is fitted already and stays as it is.
    """

    estimator: Any
    argument: str | None
    nested: bool
    resampled: bool
    frozen: bool

    @classmethod
    def of(cls, whole: Any) -> "Leaf":
        """Return the last classifier of pipelines, inside searches."""
        leaf, prefix, resampled, frozen = whole, "", False, False
        while True:
            if isinstance(leaf, Pipeline):
                resampled |= any(hasattr(step, "fit_resample") for _, step in leaf.steps)
                name, leaf = leaf.steps[-1]
                prefix += f"{name}__"
            elif isinstance(leaf, FrozenEstimator):
                frozen, leaf = True, leaf.estimator
            elif hasattr(leaf, "refit") and hasattr(leaf, "estimator"):  # a search
                leaf = leaf.estimator
            else:
                break
        takes = has_fit_parameter(leaf, "sample_weight") or isinstance(leaf, _TAKE_MORE)
        argument = f"{prefix}sample_weight" if takes else None
        if argument is not None and leaf is not whole and get_config()["enable_metadata_routing"]:
            argument = _requested(leaf)
        return cls(leaf, None if frozen else argument, leaf is not whole, resampled, frozen)

    def named(self, params: dict[str, Any], sample_weight: Array | None) -> dict[str, Any]:
        """Return fit parameters with the sample weights under the name that brings them to the classifier."""
        if sample_weight is None:
            return dict(params)
        if self.argument is None:
            why = "is fitted already" if self.frozen else "takes none"
            raise ValueError(f"sample_weight must be None, as {type(self.estimator).__name__} {why}")
        if self.argument in params:
            raise ValueError(f"sample_weight must be given once, got it and {self.argument}")
        return {**params, self.argument: sample_weight}

    def weigh(self, params: dict[str, Any], weights: Array, classes: Array, codes: Array) -> dict[str, Any]:
        """Return fit parameters that weigh classes; or have the classifier weigh them itself.

        Raises:
            ValueError: a classifier that weighs classes already, or that has no way to.
        """
        name, own = type(self.estimator).__name__, self.estimator.get_params(deep=False)
        if own.get("class_weight") is not None:
            raise ValueError(
                f"class_weights must be stated once, got it beside class_weight={own['class_weight']!r} of {name}"
            )
        if self.frozen:
            return params
        routed = self.nested and get_config()["enable_metadata_routing"]
        if self.argument is not None and not self.resampled and not (routed and "class_weight" in own):
            weight = weights[codes]
            given = params.get(self.argument)
            return {**params, self.argument: weight if given is None else weight * np.asarray(given)}
        if "class_weight" not in own:
            asked = "; with metadata routing it must request sample_weight" if routed else ""
            raise ValueError(f"estimator {name} takes neither class_weight nor sample_weight here{asked}")
        self.estimator.set_params(class_weight=dict(zip(classes.tolist(), weights.tolist(), strict=True)))
        return params


_TAKE_MORE = (VotingClassifier, StackingClassifier)  # their fit does not name it


def _requested(leaf: Any) -> str | None:
    """Return the name of the metadata that a classifier asks for as sample_weight."""
    routing = get_routing_for_object(leaf)
    asked = routing.fit.requests.get("sample_weight") if hasattr(routing, "fit") else True
    return "sample_weight" if asked is True else asked if isinstance(asked, str) else None
