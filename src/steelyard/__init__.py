"""Losses for imbalanced classification and the balance laws that say what class weights did."""

from importlib import import_module
from typing import TYPE_CHECKING

from steelyard._version import __version__ as __version__

if TYPE_CHECKING:
    from steelyard._public import *  # noqa: F403  for type checkers


def __getattr__(name: str) -> object:
    """Return a public name. The first one imports torch, so that `steelyard --help` does not wait for it."""
    if not name.startswith("__") or name == "__all__":
        public = import_module("steelyard._public")
        if name == "__all__" or name in public.__all__:
            globals()[name] = getattr(public, name)
        if name in globals():  # a module too, such as steelyard.losses
            return globals()[name]
    raise AttributeError(f"module 'steelyard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("steelyard._public").__all__})
