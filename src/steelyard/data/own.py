"""A data set that a function of yours makes: ``module:function``."""

import importlib
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from steelyard._common.text import reason_of
from steelyard.data.dataset import Dataset
from steelyard.data.making import digest_of
from steelyard.data.tabular import Asked, from_tables
from steelyard.data.values import frame_table, from_values

_CODE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_code(name: str) -> bool:
    """Return whether a name is that of a function, ``module:function``, and of nothing that lies here."""
    return _CODE.fullmatch(name) is not None and not os.path.exists(name)


def load_object(what: str, name: str) -> Any:
    """Return the object ``name`` of a module, after importing the module, which may lie in the current folder.

    Args:
        what: the object is for, such as ``"dataset"``; errors name it.
        name: ``module:name``.

    Raises:
        ImportError: no such module, or one that it imports, or it has nothing of that name.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} {name!r}: module {module} cannot be imported: {reason_of(error)}") from error
    if not hasattr(found, attribute):
        raise ImportError(f"{what} {name!r}: module {module} has nothing that is called {attribute}")
    return getattr(found, attribute)


def from_function(name: str, asked: Asked) -> Dataset:
    """Return the data set that a function makes.

    It is called without arguments, in every process that trains, and must give the same each time. It returns
    ``(X, y)``, a mapping as :func:`from_values` takes it, or a pandas frame.

    Raises:
        ImportError: as :func:`load_object`.
        TypeError, ValueError: it is no function, or what it returns is no data set.
    """
    make = load_object("dataset", name)
    if not callable(make):
        raise TypeError(f"dataset {name!r} must be a function, got {type(make).__name__}")
    made = make()
    if hasattr(made, "columns"):  # a frame, whose columns are named as those of a table in a file
        table = frame_table(f"dataset {name!r}", made)
        return from_tables(name, table, None, asked, digest=digest_of({"frame": made}))
    if isinstance(made, tuple) and len(made) == 2:
        made = {"X": made[0], "y": made[1]}
    if not isinstance(made, Mapping):
        raise TypeError(
            f"dataset {name!r} must return (X, y), a mapping of X and y, or a frame, got {type(made).__name__}"
        )
    return from_values(name, made, asked, digest=digest_of(made))
