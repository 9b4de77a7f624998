"""Learners: what a comparison trains, by name, behind one interface."""

from steelyard.data.own import is_code
from steelyard.training.learners.base import Learner, Model, Setting, Task, Tuned
from steelyard.training.learners.boosting import BOOSTING, BoostingLearner
from steelyard.training.learners.linear import LinearLearner
from steelyard.training.learners.network import NetworkLearner, train_network
from steelyard.training.learners.own import OwnLearner

__all__ = [
    "NAMES",
    "Learner",
    "Model",
    "NetworkLearner",
    "Setting",
    "Task",
    "Tuned",
    "check_learner",
    "find_learner",
    "learner_settings",
    "train_network",
]

NAMES = ("network", "linear", "mlp", *BOOSTING)


def find_learner(name: str) -> Learner:
    """Return a learner by its name, ``network``, ``linear``, ``mlp``, a library of boosting, or MODULE:FUNCTION.

    A function is imported here.

    Raises:
        ValueError: an unknown name.
        ImportError: a library of boosting that is not installed, or no such function.

    Example:
        >>> find_learner("linear").tuned
        'penalty'
    """
    check_learner(name)
    if is_code(name):
        return OwnLearner(name)
    if name in BOOSTING:
        return BoostingLearner(name)
    return LinearLearner() if name == "linear" else NetworkLearner(name)


def learner_settings(name: str) -> tuple[str, ...]:
    """Return the names of the settings that a learner has; nothing is imported."""
    if name in BOOSTING:
        return BoostingLearner.settings
    if is_code(name):
        return OwnLearner.settings
    return LinearLearner.settings if name == "linear" else NetworkLearner(name).settings


def check_learner(name: str) -> str:
    """Return the name of a learner after refusing what :func:`find_learner` does not know."""
    if name not in NAMES and not is_code(name):
        raise ValueError(f"learner must be one of {', '.join(NAMES)} or MODULE:FUNCTION, got {name!r}")
    return name
